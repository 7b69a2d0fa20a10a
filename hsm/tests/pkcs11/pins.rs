//! PINs from every source they may come from, tried on a token.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use hufu_hsm::Error;
use hufu_hsm::pin::PinSource;
use hufu_hsm::pkcs11::{Library, User};

use crate::token::{USER_PIN, initialise, with_softhsm};

fn write(path: &Path, mode: u32) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path).unwrap();
    file.write_all(USER_PIN).unwrap();
    file.write_all(b"\n").unwrap();
}

#[test]
fn a_pin_from_a_file_a_descriptor_and_a_credential_opens_the_token() {
    let test = "pins::a_pin_from_a_file_a_descriptor_and_a_credential_opens_the_token";
    with_softhsm(test, |path| {
        // Set by whoever starts the process, as systemd does.
        let folder = std::env::var("CREDENTIALS_DIRECTORY").unwrap();
        let credential = Path::new(&folder).join("hsm-pin");
        write(&credential, 0o440);
        let file = Path::new(&folder).join("file");
        write(&file, 0o600);
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(USER_PIN).unwrap();
        drop(writer);
        let library = Library::load(path).unwrap();
        let slot = initialise(&library);
        for source in [
            PinSource::File(file),
            PinSource::Descriptor(reader.as_raw_fd()),
            PinSource::Credential("hsm-pin".to_owned()),
        ] {
            let session = library.open_session(slot, false).unwrap();
            session.login(User::User, &source.read().unwrap()).unwrap();
            session.logout().unwrap();
        }
        let open_to_all = Path::new(&folder).join("open");
        write(&open_to_all, 0o444);
        let error = PinSource::Credential("open".to_owned()).read().err().unwrap();
        assert!(matches!(error, Error::PinUnreadable { .. }), "{error}");
        assert!(!error.to_string().contains("1234"), "{error}");
    });
}
