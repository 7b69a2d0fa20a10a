//! What the commands read and write: whole files within a limit, streams, and new files of mode
//! 0600. The path `-` is standard input or output.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::super::CliError;

/// Whatever is made may be a secret.
const FILE_MODE: u32 = 0o600;

/// Whether the path means standard input or output.
pub(super) fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// The path for people.
pub(super) fn name(path: &Path) -> String {
    if is_standard(path) { "standard input".to_owned() } else { path.display().to_string() }
}

/// Opens a file or standard input.
pub(super) fn open(path: &Path) -> Result<Box<dyn Read>, CliError> {
    if is_standard(path) {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(path).map_err(|cause| unreadable(&cause, path))?;
    Ok(Box::new(file))
}

/// A file that cannot be read.
pub(super) fn unreadable(cause: &io::Error, path: &Path) -> CliError {
    CliError::failed(cause, name(path), "check the path and its permissions")
}

/// All bytes of a file or of standard input, at most `bytes_max`; overwritten when dropped, but for
/// what growing left behind while reading a stream of unknown length.
pub(super) fn read_all(path: &Path, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let mut bytes = Zeroizing::new(Vec::new());
    let limited = open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes);
    limited.map_err(|cause| unreadable(&cause, path))?;
    if u64::try_from(bytes.len()).is_ok_and(|size| size > bytes_max) {
        let what = format!("more than {bytes_max} bytes");
        return Err(CliError::failed(
            what,
            name(path),
            "split it, or use a tool made for such sizes",
        ));
    }
    Ok(bytes)
}

/// Writes a new file of mode 0600, durable when this returns, or to standard output. With `force`
/// an existing regular file is replaced in one step.
pub(super) fn write_new(path: &Path, bytes: &[u8], force: bool) -> Result<(), CliError> {
    if is_standard(path) {
        return write_standard(bytes);
    }
    let written = if force { replace(path, bytes) } else { create(path, path, bytes) };
    written.map_err(|cause| match cause.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => CliError::file(cause, path, "check the folder, its permissions and the free space"),
    })
}

/// Refuses early what [`write_new`] would refuse after the work.
pub(super) fn check_new(path: &Path, force: bool) -> Result<(), CliError> {
    if !force && !is_standard(path) && path.symlink_metadata().is_ok() {
        return Err(exists(path));
    }
    Ok(())
}

fn exists(path: &Path) -> CliError {
    CliError::file("exists already", path, "choose another name, or --force to replace the file")
}

/// Writes `bytes` to standard output as they are; a reader that is gone wants no more.
fn write_standard(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::failed(cause, "standard output", "check where it leads"))
        }
        _ => Ok(()),
    }
}

/// Makes `path` with the bytes; what was begun is removed on failure. `place` names it in errors.
fn create(path: &Path, place: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(FILE_MODE).open(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let written = written.and_then(|()| sync_folder_of(place));
    if written.is_err() {
        // The error that is reported is the first one.
        drop(std::fs::remove_file(path));
    }
    written
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match path.symlink_metadata() {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return create(path, path, bytes),
        Err(cause) => return Err(cause),
        // A rename over a device or a link would take its place.
        Ok(facts) if !facts.is_file() => {
            return Err(io::Error::other("not a regular file: it is not replaced"));
        }
        Ok(_) => {}
    }
    let beside = beside(path);
    create(&beside, path, bytes)?;
    let renamed = std::fs::rename(&beside, path).and_then(|()| sync_folder_of(path));
    if renamed.is_err() {
        drop(std::fs::remove_file(&beside));
    }
    renamed
}

/// A name in the same folder that nobody else takes.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    path.with_file_name(name)
}

/// Makes the name of a new file durable.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// The bytes of hexadecimal digits; the error says which field and what is wrong with it.
pub(super) fn unhex(field: &str, text: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if let Some(place) = digits.bytes().position(|digit| !digit.is_ascii_hexdigit()) {
        return Err(format!("{field}: character {} is no hexadecimal digit", place + 1));
    }
    if digits.len() % 2 == 1 {
        return Err(format!("{field}: {} hexadecimal digits, an odd number", digits.len()));
    }
    let mut bytes = Zeroizing::new(vec![0; digits.len() / 2]);
    hufu_crypto::digest::decode_hex(digits, &mut bytes)
        .ok_or_else(|| format!("{field}: not hexadecimal"))?;
    Ok(bytes)
}

/// Exactly `SIZE` bytes of hexadecimal digits.
pub(super) fn unhex_exactly<const SIZE: usize>(
    field: &str,
    text: &str,
) -> Result<[u8; SIZE], String> {
    let bytes = unhex(field, text)?;
    bytes.as_slice().try_into().map_err(|_| {
        let found = bytes.len();
        format!("{field}: {found} bytes, expected {SIZE} ({} hexadecimal digits)", 2 * SIZE)
    })
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_file_is_private_and_replaced_only_by_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made");
        write_new(&path, b"first", false).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert!(write_new(&path, b"second", false).is_err());
        assert!(check_new(&path, false).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        check_new(&path, true).unwrap();
        write_new(&path, b"second", true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for odd in [folder.path(), &link] {
            assert!(write_new(odd, b"third", true).is_err(), "{}", odd.display());
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
    }

    #[test]
    fn too_much_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        std::fs::write(&path, [7; 11]).unwrap();
        assert_eq!(read_all(&path, 11).unwrap().len(), 11);
        assert!(read_all(&path, 10).is_err());
    }

    #[test]
    fn faults_of_digits_are_named() {
        assert_eq!(*unhex("r", "0x0aFF").unwrap(), [10, 255]);
        let faults = [
            ("abc", "r: 3 hexadecimal digits, an odd number"),
            ("0g", "r: character 2 is no hexadecimal digit"),
            ("é0", "r: character 1 is no hexadecimal digit"),
            ("aabbcc", "r: 3 bytes, expected 2 (4 hexadecimal digits)"),
            ("", "r: 0 bytes, expected 2 (4 hexadecimal digits)"),
        ];
        for (text, fault) in faults {
            assert_eq!(unhex_exactly::<2>("r", text), Err(fault.to_owned()));
        }
        assert_eq!(hex(&[0, 0xa5]), "00a5");
    }
}
