//! A key file under a passphrase: an encrypted PKCS#8 PEM, and the public key in clear behind it.
//!
//! ```text
//! -----BEGIN ENCRYPTED PRIVATE KEY-----   PBES2: PBKDF2 with HMAC-SM3, SM4-CBC
//! -----BEGIN PUBLIC KEY-----              whose it is, for those without the passphrase
//! ```
//!
//! The public key lets a configuration be checked, and a node say who it is, without the
//! passphrase; what the passphrase opens must have this very public key. Other programs read the
//! first block and leave the second alone. Passphrases come from where PINs come from, and live as
//! they do.

use hufu_crypto::{Drbg, PublicKey, Signer as _, SoftwareSigner, encrypted_key};
use hufu_hsm::pin::{Pin, PinSource};

use crate::kernels;
use crate::keys_file::KeyFileError;

const PUBLIC_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";

/// A private key that a passphrase opens.
pub struct EncryptedKey {
    pem: String,
    public: Option<PublicKey>,
}

/// Whether the text of a key file is one of this kind.
pub(crate) fn is_encrypted(text: &str) -> bool {
    encrypted_key::is_encrypted_pem(text)
}

impl EncryptedKey {
    /// Reads the text of a key file. It may come from another program and have no public key.
    ///
    /// # Errors
    /// If the public key is none; the private key is looked at when it is opened.
    pub(crate) fn parse(text: &str) -> Result<Self, KeyFileError> {
        let (pem, public) = match text.find(PUBLIC_BEGIN) {
            Some(place) => text.split_at(place),
            None => (text, ""),
        };
        let public = Some(public).filter(|public| !public.is_empty());
        let public = public.map(PublicKey::from_pem).transpose()?;
        Ok(Self { pem: pem.trim().to_owned() + "\n", public })
    }

    /// Whose key it is.
    ///
    /// # Errors
    /// [`KeyFileError::PublicMissing`] if the file does not say it.
    pub fn public_key(&self) -> Result<&PublicKey, KeyFileError> {
        self.public.as_ref().ok_or(KeyFileError::PublicMissing)
    }

    /// The private key.
    ///
    /// # Errors
    /// [`KeyFileError::Passphrase`] if the passphrase does not open it, [`KeyFileError::OtherKey`]
    /// if the key is not the one that the file names.
    pub fn open(&self, passphrase: &Pin) -> Result<SoftwareSigner, KeyFileError> {
        let opened = SoftwareSigner::from_encrypted_pem(&self.pem, passphrase.bytes());
        let signer = opened.map_err(|error| match error {
            hufu_crypto::Error::Passphrase => KeyFileError::Passphrase,
            error => KeyFileError::Content(error),
        })?;
        if self.public.is_some_and(|stated| stated != *signer.public_key()) {
            return Err(KeyFileError::OtherKey);
        }
        Ok(signer.on(kernels::backend()))
    }
}

/// The text of a key file that this passphrase opens.
///
/// # Errors
/// If there is no randomness.
pub(crate) fn text(signer: &SoftwareSigner, passphrase: &Pin) -> Result<String, KeyFileError> {
    let mut random = Drbg::new(kernels::provider().entropy, "hufu encrypted key")?;
    let iterations = encrypted_key::ITERATIONS;
    let private = signer.to_encrypted_pem(passphrase.bytes(), iterations, &mut random)?;
    Ok(private + &signer.public_key().to_pem()?)
}

/// Reads a passphrase.
///
/// # Errors
/// [`KeyFileError::PassphraseUnreadable`] with the name of the source and what is wrong with it.
pub(crate) fn passphrase(source: &PinSource) -> Result<Pin, KeyFileError> {
    source.read().map_err(|error| match error {
        hufu_hsm::Error::PinUnreadable { source_name, reason } => {
            KeyFileError::PassphraseUnreadable { source_name, reason }
        }
        // A source gives no other error.
        error => KeyFileError::PassphraseUnreadable {
            source_name: source.to_string(),
            reason: error.to_string(),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::keys_file::{self, NodeKey};

    fn pin(text: &str) -> Pin {
        Pin::from_reader(text.as_bytes(), "test").unwrap()
    }

    #[test]
    fn a_key_says_whose_it_is_and_opens_by_its_passphrase() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vote.pem");
        let made = *keys_file::create_encrypted(&path, &pin("one")).unwrap().public_key();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let NodeKey::Encrypted(key) = keys_file::open(&path).unwrap() else { panic!("in clear") };
        assert_eq!(*key.public_key().unwrap(), made);
        assert_eq!(*key.open(&pin("one")).unwrap().public_key(), made);
        let refused = key.open(&pin("two")).err();
        assert!(matches!(refused, Some(KeyFileError::Passphrase)), "{refused:?}");
        assert!(matches!(keys_file::load(&path), Err(KeyFileError::Encrypted)));

        // Whose key it is cannot be changed from outside.
        let text = fs::read_to_string(&path).unwrap();
        let place = text.find(PUBLIC_BEGIN).unwrap();
        let other = *SoftwareSigner::from_bytes(&[7; 32]).unwrap().public_key();
        fs::write(&path, text[..place].to_owned() + &other.to_pem().unwrap()).unwrap();
        let NodeKey::Encrypted(key) = keys_file::open(&path).unwrap() else { panic!("in clear") };
        assert!(matches!(key.open(&pin("one")), Err(KeyFileError::OtherKey)));
        fs::write(&path, &text[..place]).unwrap();
        let key = keys_file::open(&path).unwrap();
        assert!(matches!(key.public_key(), Err(KeyFileError::PublicMissing)));
        fs::write(&path, text[..place].to_owned() + PUBLIC_BEGIN).unwrap();
        assert!(keys_file::open(&path).is_err());
    }

    #[test]
    fn a_key_goes_under_a_passphrase_under_another_and_out_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vote.pem");
        let public = *keys_file::create(&path).unwrap().public_key();
        let source = |name: &str| {
            let file = folder.path().join(name);
            fs::write(&file, name).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            PinSource::File(file)
        };
        let (one, two) = (source("one"), source("two"));
        let clear = fs::File::open(&path).unwrap();
        let change = |from, to: Option<&Pin>| keys_file::reencrypt(&path, from, to);
        assert_eq!(change(None, Some(&pin("one"))).unwrap(), public);
        let left = std::io::read_to_string(clear).unwrap();
        assert!(left.bytes().all(|byte| byte == 0), "the key in clear is overwritten");
        let refused = change(None, Some(&pin("two"))).unwrap_err();
        assert!(matches!(refused, KeyFileError::Encrypted), "{refused}");
        let before = fs::read(&path).unwrap();
        let refused = change(Some(&two), None).unwrap_err();
        assert!(matches!(refused, KeyFileError::Passphrase), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(change(Some(&one), Some(&pin("two"))).unwrap(), public);
        assert_eq!(change(Some(&two), None).unwrap(), public);
        assert_eq!(*keys_file::load(&path).unwrap().public_key(), public);

        let missing = PinSource::File(folder.path().join("none"));
        let refused = passphrase(&missing).err().unwrap();
        assert!(
            refused.to_string().starts_with("passphrase cannot be read from file"),
            "{refused}"
        );
    }
}
