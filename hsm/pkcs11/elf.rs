//! For which machine a library was made. The dynamic linker calls one for another machine "no such
//! file", which sends operators looking for a file that is there.

use std::fs::File;
use std::io::Read;
use std::path::Path;

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
