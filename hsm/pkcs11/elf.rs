//! Whether a file is a library for this machine, and all of it. The dynamic linker calls one for
//! another machine "no such file", which sends operators looking for a file that is there; it waits
//! for ever on a pipe, and one that was cut short, by a copy that was broken off, ends the process
//! with a bus error.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Entries of a table of segments that are looked at, count; libraries have a dozen.
const SEGMENTS_MAX: u16 = 256;

/// What of the file the dynamic linker must not even be shown.
pub(super) fn unloadable(path: &Path) -> Option<String> {
    let size = match path.metadata() {
        Ok(about) if about.is_file() => about.len(),
        Ok(_) => return Some("it is no regular file".to_owned()),
        // The linker says what is wrong.
        Err(_) => return None,
    };
    let needed = segments_end(&File::open(path).ok()?)?;
    (needed > size).then(|| format!("it is cut short: {size} bytes of {needed} or more"))
}

/// Where the last segment ends that is loaded (System V ABI, ELF-64: `e_phoff`, `e_phnum`,
/// `PT_LOAD`), for libraries of our own class and order; the end of the table at least.
fn segments_end(file: &File) -> Option<u64> {
    const ENTRY_BYTES: u64 = 56;
    const PT_LOAD: u32 = 1;
    let mut head = [0; 64];
    file.read_exact_at(&mut head, 0).ok()?;
    if !head.starts_with(&[0x7f, b'E', b'L', b'F', 2, 1]) {
        return None;
    }
    let (_, rest) = head.split_at_checked(32)?;
    let table = u64::from_le_bytes(*rest.first_chunk()?);
    let count = u16::from_le_bytes(*rest.get(24..)?.first_chunk()?).min(SEGMENTS_MAX);
    let mut end = table.checked_add(u64::from(count) * ENTRY_BYTES)?;
    for index in 0..u64::from(count) {
        let mut entry = [0; 56];
        if file.read_exact_at(&mut entry, table.checked_add(index * ENTRY_BYTES)?).is_err() {
            break;
        }
        let number = |at: usize| entry.get(at..).and_then(<[u8]>::first_chunk);
        let kind = entry.first_chunk().map(|kind| u32::from_le_bytes(*kind));
        if kind == Some(PT_LOAD) {
            let (start, size) = (number(8)?, number(32)?);
            end = end.max(u64::from_le_bytes(*start).saturating_add(u64::from_le_bytes(*size)));
        }
    }
    Some(end)
}

/// What is wrong with the file as a library for this process, if its first bytes tell.
pub(super) fn mismatch(path: &Path) -> Option<String> {
    let ours = header(Path::new("/proc/self/exe"))?;
    match header(path) {
        Some(theirs) if theirs == ours => None,
        Some(theirs) => {
            Some(format!("it is made for {}, this process is {}", name(theirs), name(ours)))
        }
        None => Some("it is no ELF file: not a shared library of this system".to_owned()),
    }
}

/// Class and machine (System V ABI, ELF header: `e_ident[EI_CLASS]`, `e_machine`).
fn header(path: &Path) -> Option<(u8, u16)> {
    let mut bytes = [0; 20];
    File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).ok()?;
    let [0x7f, b'E', b'L', b'F', class, data, rest @ ..] = bytes else { return None };
    let machine = [rest[12], rest[13]];
    let machine = if data == 2 { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
    Some((class, machine))
}

fn name((class, machine): (u8, u16)) -> String {
    let bits = if class == 1 { "32 bits" } else { "64 bits" };
    let machine = match machine {
        3 => "x86".to_owned(),
        40 => "ARM".to_owned(),
        62 => "x86-64".to_owned(),
        183 => "AArch64".to_owned(),
        243 => "RISC-V".to_owned(),
        258 => "LoongArch".to_owned(),
        other => format!("machine {other}"),
    };
    format!("{machine} ({bits})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_was_cut_short_is_never_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let path = folder.path().join("cut.so");
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(unloadable(&path), None);
        let end = segments_end(&File::open(&path).unwrap()).unwrap();
        for size in [64, 100, 5_000, end - 1] {
            File::options().write(true).open(&path).unwrap().set_len(size).unwrap();
            let told = unloadable(&path).unwrap();
            assert!(told.contains(&format!("cut short: {size} bytes of")), "{told}");
            std::fs::write(&path, &whole).unwrap();
        }
        // Too short to be told from a text: the linker says so by itself.
        std::fs::write(&path, &whole[..63]).unwrap();
        assert_eq!(unloadable(&path), None);
        assert!(unloadable(folder.path()).unwrap().contains("no regular file"));
        assert_eq!(unloadable(&folder.path().join("nowhere")), None);
    }

    #[test]
    fn a_library_for_another_machine_is_told_from_one_that_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let ours = std::env::current_exe().unwrap();
        assert_eq!(mismatch(&ours), None);
        let mut bytes = std::fs::read(&ours).unwrap();
        bytes.truncate(4_096);
        bytes[18] = 243;
        let other = folder.path().join("other.so");
        std::fs::write(&other, &bytes).unwrap();
        assert!(mismatch(&other).unwrap().contains("RISC-V (64 bits)"));
        bytes[4] = 1;
        std::fs::write(&other, &bytes).unwrap();
        assert!(mismatch(&other).unwrap().contains("32 bits"));
        std::fs::write(&other, "text").unwrap();
        assert!(mismatch(&other).unwrap().contains("no ELF"));
    }
}
