use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn file_with(folder: &tempfile::TempDir, content: &[u8], mode: u32) -> PathBuf {
    let path = folder.path().join("pin");
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn reason(source: &PinSource) -> String {
    match source.read() {
        Err(Error::PinUnreadable { source_name, reason }) => {
            assert_eq!(source_name, source.to_string());
            reason
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the PIN was read from {source}"),
    }
}

#[test]
fn a_pin_is_read_without_the_newline_after_it() {
    let folder = tempfile::tempdir().unwrap();
    for (content, pin) in [
        (&b"12345678"[..], &b"12345678"[..]),
        (b"12345678\n", b"12345678"),
        (b"12345678\r\n", b"12345678"),
        (b" 1234 5678 \n", b" 1234 5678 "),
        (b"1\n\n", b"1\n"),
    ] {
        let path = file_with(&folder, content, 0o600);
        assert_eq!(PinSource::File(path).read().unwrap().bytes(), pin);
    }
    let longest = [b'7'; PIN_BYTES_MAX];
    assert_eq!(Pin::from_reader(&longest[..], "test").unwrap().bytes(), longest);
}

#[test]
fn what_is_no_pin_is_refused() {
    for (content, wanted) in [
        (&b""[..], "empty"),
        (b"\n", "empty"),
        (&[b'7'; PIN_BYTES_MAX + 1], "longer"),
        (&[b'7'; 5_000], "longer"),
        (b"12\x0034", "zero byte"),
    ] {
        let error = Pin::from_reader(content, "test").err().unwrap().to_string();
        assert!(error.contains(wanted), "{error}");
        assert!(!error.contains("77"), "{error}");
    }
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for mode in [0o640, 0o604, 0o666, 0o610] {
        let path = file_with(&folder, b"12345678", mode);
        assert!(reason(&PinSource::File(path)).contains(&format!("{mode:o}")));
    }
    let path = file_with(&folder, b"12345678", 0o400);
    assert!(PinSource::File(path.clone()).read().is_ok());
    let link = folder.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(reason(&PinSource::File(link)).contains("symbolic link"));
    assert!(reason(&PinSource::File(folder.path().to_owned())).contains("no regular file"));
    assert!(reason(&PinSource::File(folder.path().join("none"))).contains("No such file"));
}

#[test]
fn a_pin_comes_through_a_pipe() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"24681357\n").unwrap();
    drop(writer);
    let source = PinSource::Descriptor(reader.as_raw_fd());
    assert_eq!(source.read().unwrap().bytes(), b"24681357");
    assert!(reason(&source).contains("empty"), "a pipe is read once");
    assert!(reason(&PinSource::Descriptor(-1)).contains("Bad file descriptor"));
}

#[test]
fn names_that_leave_the_folder_of_credentials_are_refused() {
    for name in ["", "../pin", "a/b", ".", "..", ".hidden"] {
        let reason = reason(&PinSource::Credential(name.to_owned()));
        assert!(reason.contains("one file name"), "{name:?}: {reason}");
    }
}

/// Flags of the mapping that holds `address` (`VmFlags` of `/proc/self/smaps`).
fn mapping_flags(address: usize) -> String {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut is_inside = false;
    for line in maps.lines() {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let bound = |text| usize::from_str_radix(text, 16).ok();
        if let Some((Some(from), Some(to))) = range.map(|(from, to)| (bound(from), bound(to))) {
            is_inside = (from..to).contains(&address);
        }
        if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| is_inside) {
            return flags.to_owned();
        }
    }
    panic!("nothing is mapped at {address:#x}");
}

#[test]
fn a_pin_lives_where_no_dump_and_no_child_reaches() {
    let pin = Pin::from_reader(&b"12345678"[..], "test").unwrap();
    let flags = mapping_flags(pin.bytes().as_ptr().addr());
    // `dd`: not dumped; `wf`: wiped in a child. `lo`, locked, depends on the limits of the host.
    for flag in ["dd", "wf"] {
        assert!(flags.split(' ').any(|one| one == flag), "{flags}");
    }
}

#[test]
fn a_second_pin_does_not_share_the_page_of_the_first() {
    let [one, other] =
        [b"11111111", b"22222222"].map(|pin| Pin::from_reader(&pin[..], "").unwrap());
    assert_eq!((one.bytes(), other.bytes()), (&b"11111111"[..], &b"22222222"[..]));
    assert!(one.bytes().as_ptr().addr().abs_diff(other.bytes().as_ptr().addr()) >= 4_096);
}
