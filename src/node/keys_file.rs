//! Private keys in files: the software custody, for development and where policy allows it.
//!
//! A key file is an SM2 PKCS#8 PEM that only its owner may read: under a passphrase
//! ([`crate::encrypted_key`]), or in clear. It is created exclusively and never overwritten by
//! another key: a vote key that is gone cannot be made again. Buffers that held a key are zeroised.
//! Production keys live on cards.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hufu_crypto::{PublicKey, Signer as _, SoftwareSigner};
use hufu_hsm::pin::{Pin, PinSource};
use zeroize::Zeroizing;

use crate::card_key::{self, CardKey};
use crate::encrypted_key::{self, EncryptedKey};
use crate::kernels;
use crate::replace_file::{self, Old};

/// Bytes of a key file at most; the encoding of an SM2 key takes about 300.
pub(crate) const KEY_FILE_SIZE_MAX: u64 = 16 * 1_024;

/// Only its owner may read and write a key file.
const KEY_FILE_MODE: u32 = 0o600;

/// Why a key file is not used or not made. No variant carries any of its content.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be opened or read.
    #[error("key file cannot be read: {0}")]
    Read(#[source] io::Error),
    /// The path's last part is a symbolic link, or not a regular file at all.
    #[error("key file is a symbolic link or not a regular file")]
    NotRegular,
    /// Others may read or change it.
    #[error("key file has mode {mode:04o}, others than its owner may use it")]
    Exposed {
        /// Permission bits.
        mode: u32,
    },
    /// It belongs to another user, who could replace it.
    #[error("key file belongs to user {owner}, this process runs as user {user}")]
    Foreign {
        /// Owner of the file.
        owner: u32,
        /// User of this process.
        user: u32,
    },
    /// Too large to be a key.
    #[error("key file has {bytes} bytes, a key has fewer than {KEY_FILE_SIZE_MAX}")]
    Oversized {
        /// Size of the file.
        bytes: u64,
    },
    /// Its content is no key.
    #[error("key file holds no key: {0}")]
    Content(#[from] hufu_crypto::Error),
    /// It is not a file of data keys that this build reads.
    #[error("data key file is not usable: {reason}")]
    DataKey {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It is neither a key nor a description of one in a card.
    #[error("key file holds no key and describes none in a card: {reason}")]
    CardKey {
        /// What is wrong with it.
        reason: String,
    },
    /// It is under a passphrase, and none is given.
    #[error("key file is encrypted, and no passphrase is given")]
    Encrypted,
    /// The passphrase cannot be had from where it is said to be.
    #[error("passphrase cannot be read from {source_name}: {reason}")]
    PassphraseUnreadable {
        /// File, descriptor or credential, by its name; never its content.
        source_name: String,
        /// Missing, empty, too long, or others may read it.
        reason: String,
    },
    /// It is not the passphrase of this file, or the file was changed.
    #[error("the passphrase does not open the key file, or the file was changed")]
    Passphrase,
    /// It is under a passphrase and does not say whose it is.
    #[error("key file is encrypted and has no public key beside the private one")]
    PublicMissing,
    /// The public key in the file is not that of the private one.
    #[error("the passphrase opens another key than the one whose public key is in the file")]
    OtherKey,
    /// It describes a key in a card, where only a key in a file can be used.
    #[error("key file describes a key in a card, and here the key itself is needed")]
    InCard,
    /// A vote key that another key would stand in for.
    #[error("nothing stands in for a vote key: a validator has one, in its card or not at all")]
    StandIn,
    /// Something has this name already.
    #[error("{} exists already, a key file is never overwritten", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// The new file cannot be made durable.
    #[error("key file {} cannot be written: {cause}", path.display())]
    Write {
        /// The path.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

impl KeyFileError {
    /// What an operator does about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Read(_) => "check the path and the permissions of the file and its folders",
            Self::NotRegular => "name the key file itself",
            Self::Exposed { .. } => "run chmod 600 on it, and replace the key if others had access",
            Self::Foreign { .. } => "run the node as the owner of its key",
            Self::Oversized { .. } | Self::Content(_) => "name a file made by `hufu keys new`",
            Self::DataKey { .. } => {
                "put a copy of it back; a new one is made by `hufu keys new-data`"
            }
            Self::CardKey { .. } => "name a file made by `hufu keys new` or `hufu hsm keygen`",
            Self::InCard => "name a file made by `hufu keys new`",
            Self::Encrypted => {
                "say where the passphrase is: --passphrase-file of a command, \
                 node.passphrase_file of a configuration"
            }
            Self::PassphraseUnreadable { .. } => {
                "give the passphrase in a file of mode 0600 that belongs to this user"
            }
            Self::Passphrase => "give the passphrase of this very file, or put a copy of it back",
            Self::PublicMissing => "run `hufu keys encrypt` on it, which adds the public key",
            Self::OtherKey => "put a copy of the file back, and find out who changed it",
            Self::StandIn => {
                "take custody = \"hsm-preferred\" and its stand-in out of the key file"
            }
            Self::Exists { .. } => "choose another name, or move the old key away",
            Self::Write { .. } => "check the folder, its permissions and the free space",
        }
    }
}

/// Makes a fresh key in a new file of mode 0600, durable when this returns.
///
/// # Errors
/// If the file exists or cannot be made durable; a file that was begun is removed.
pub fn create(path: &Path) -> Result<SoftwareSigner, KeyFileError> {
    let signer = SoftwareSigner::generate_from(kernels::provider().entropy)?.on(kernels::backend());
    store(path, &signer)?;
    Ok(signer)
}

/// Writes a key to a new file of mode 0600, durable when this returns.
///
/// # Errors
/// If the file exists or cannot be made durable; a file that was begun is removed.
pub fn store(path: &Path, signer: &SoftwareSigner) -> Result<(), KeyFileError> {
    write_new(path, signer.to_pkcs8_pem()?.as_bytes())
}

/// Makes a fresh key under a passphrase in a new file of mode 0600, durable when this returns.
///
/// # Errors
/// If the file exists or cannot be made durable; a file that was begun is removed.
pub fn create_encrypted(path: &Path, passphrase: &Pin) -> Result<SoftwareSigner, KeyFileError> {
    let signer = SoftwareSigner::generate_from(kernels::provider().entropy)?.on(kernels::backend());
    write_new(path, encrypted_key::text(&signer, passphrase)?.as_bytes())?;
    Ok(signer)
}

/// Puts the key of the file at `path` under the passphrase `to`, or in clear. `from` opens the key
/// if it is under a passphrase now.
///
/// # Errors
/// What keeps the key from being opened or the new file from being made; the file is then as it
/// was.
pub fn reencrypt(
    path: &Path,
    from: Option<&PinSource>,
    to: Option<&Pin>,
) -> Result<PublicKey, KeyFileError> {
    let key = open(path)?;
    let old = if matches!(key, NodeKey::Software(_)) { Old::Erased } else { Old::Dropped };
    let signer = key.unlock(from)?;
    let public = *signer.public_key();
    let content = match to {
        Some(passphrase) => Zeroizing::new(encrypted_key::text(&signer, passphrase)?),
        None => signer.to_pkcs8_pem()?,
    };
    let old = if to.is_some() { old } else { Old::Dropped };
    replace_file::replace(path, content.as_bytes(), old, |new| {
        let opened = match (open(new)?, to) {
            (NodeKey::Encrypted(key), Some(passphrase)) => key.open(passphrase)?,
            (key, _) => key.unlock(None)?,
        };
        let is_same = *opened.public_key() == public;
        if is_same { Ok(()) } else { Err(KeyFileError::OtherKey) }
    })?;
    Ok(public)
}

/// Writes a secret to a new file of mode 0600, durable when this returns.
///
/// # Errors
/// If the file exists or cannot be made durable; a file that was begun is removed.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<(), KeyFileError> {
    let failed = |cause: io::Error| match cause.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists { path: path.to_owned() },
        _ => KeyFileError::Write { path: path.to_owned(), cause },
    };
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(KEY_FILE_MODE).open(path).map_err(failed)?;
    let written =
        file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| sync_folder_of(path));
    written.map_err(|cause| {
        // Half a key is no key; the error that is reported is the first one.
        drop(std::fs::remove_file(path));
        failed(cause)
    })
}

/// A key by its file: in software, in clear or under a passphrase, or in a card.
pub enum NodeKey {
    /// The key itself.
    Software(SoftwareSigner),
    /// The key under a passphrase.
    Encrypted(EncryptedKey),
    /// Where it is.
    Card(CardKey),
}

impl NodeKey {
    /// The public key, for which neither passphrase nor card is needed.
    ///
    /// # Errors
    /// [`KeyFileError::PublicMissing`] if another program encrypted the key.
    pub fn public_key(&self) -> Result<&PublicKey, KeyFileError> {
        match self {
            Self::Software(signer) => Ok(signer.public_key()),
            Self::Encrypted(key) => key.public_key(),
            Self::Card(key) => Ok(&key.public),
        }
    }

    /// The key itself; the passphrase is read only if it is needed.
    ///
    /// # Errors
    /// [`KeyFileError::InCard`], [`KeyFileError::Encrypted`], or why the passphrase does not open
    /// it.
    pub fn unlock(self, passphrase: Option<&PinSource>) -> Result<SoftwareSigner, KeyFileError> {
        match self {
            Self::Software(signer) => Ok(signer),
            Self::Encrypted(key) => {
                let source = passphrase.ok_or(KeyFileError::Encrypted)?;
                key.open(&encrypted_key::passphrase(source)?)
            }
            Self::Card(_) => Err(KeyFileError::InCard),
        }
    }
}

/// Reads a file that only its owner may use: a key, or where in a card it is.
///
/// # Errors
/// If the file is not safe to use or holds neither.
pub fn open(path: &Path) -> Result<NodeKey, KeyFileError> {
    let content = read_private(path)?;
    let text = std::str::from_utf8(&content).map_err(|_| hufu_crypto::Error::PrivateKeyEncoding)?;
    if encrypted_key::is_encrypted(text) {
        return EncryptedKey::parse(text).map(NodeKey::Encrypted);
    }
    if card_key::is_card_key(text) {
        return card_key::parse(text, path).map(NodeKey::Card);
    }
    Ok(NodeKey::Software(SoftwareSigner::from_pkcs8_pem(text)?.on(kernels::backend())))
}

/// Reads a key in clear from a file that only its owner may use.
///
/// # Errors
/// If the file is not safe to use or holds no such key.
pub fn load(path: &Path) -> Result<SoftwareSigner, KeyFileError> {
    open(path)?.unlock(None)
}

/// Reads a file with a secret that only its owner may use; overwritten when dropped.
///
/// # Errors
/// If the file is not safe to use or cannot be read.
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let (file, bytes) = open_checked(path)?;
    // The buffer has its full size at once: a buffer that grew would leave copies behind.
    let mut content = Zeroizing::new(vec![0; bytes]);
    (&file).read_exact(&mut content).map_err(KeyFileError::Read)?;
    Ok(content)
}

/// Opens a key file and checks the file that was opened, so that no swap can come in between.
fn open_checked(path: &Path) -> Result<(File, usize), KeyFileError> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|cause| match cause.raw_os_error() {
        Some(libc::ELOOP) => KeyFileError::NotRegular,
        _ => KeyFileError::Read(cause),
    })?;
    let facts = file.metadata().map_err(KeyFileError::Read)?;
    if !facts.is_file() {
        return Err(KeyFileError::NotRegular);
    }
    let mode = facts.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed { mode });
    }
    let user = std::fs::metadata("/proc/self").map_err(KeyFileError::Read)?.uid();
    if facts.uid() != user && facts.uid() != 0 {
        return Err(KeyFileError::Foreign { owner: facts.uid(), user });
    }
    let bytes = facts.len();
    match usize::try_from(bytes) {
        Ok(size) if bytes < KEY_FILE_SIZE_MAX => Ok((file, size)),
        _ => Err(KeyFileError::Oversized { bytes }),
    }
}

/// Makes the name of a new file durable.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_key_is_private_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vote.pem");
        let made = create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(load(&path).unwrap().public_key(), made.public_key());
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vote.pem");
        let first = create(&path).unwrap();
        assert!(matches!(create(&path), Err(KeyFileError::Exists { .. })));
        assert_eq!(load(&path).unwrap().public_key(), first.public_key());
        let link = folder.path().join("link.pem");
        std::os::unix::fs::symlink(folder.path().join("nothing"), &link).unwrap();
        assert!(matches!(create(&link), Err(KeyFileError::Exists { .. })));
    }

    #[test]
    fn exposed_linked_and_odd_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vote.pem");
        create(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(matches!(load(&path), Err(KeyFileError::Exposed { .. })), "{mode:o}");
        }
        for mode in [0o600, 0o400] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(load(&path).is_ok(), "{mode:o}");
        }
        let link = folder.path().join("link.pem");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(load(&link), Err(KeyFileError::NotRegular)));
        assert!(matches!(load(folder.path()), Err(KeyFileError::NotRegular)));
        assert!(matches!(load(&folder.path().join("gone")), Err(KeyFileError::Read(_))));
    }

    #[test]
    fn content_that_is_no_key_is_refused_without_being_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vote.pem");
        std::fs::write(&path, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let error = load(&path).err().unwrap();
        assert!(matches!(error, KeyFileError::Content(_)));
        assert!(!format!("{error} {error:?}").contains("c2VjcmV0"));
        std::fs::write(&path, vec![b'x'; 20_000]).unwrap();
        assert!(matches!(load(&path), Err(KeyFileError::Oversized { bytes: 20_000 })));
    }
}
