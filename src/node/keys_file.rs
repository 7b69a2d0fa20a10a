//! Private keys in files: the software custody, for development and where policy allows it.
//!
//! A key file is an unencrypted SM2 PKCS#8 PEM that only its owner may read. It is created
//! exclusively and never overwritten: a vote key that is gone cannot be made again. Buffers that
//! held a key are zeroised. Production keys live on cards.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hufu_crypto::{PublicKey, Signer as _, SoftwareSigner};
use zeroize::Zeroizing;

use crate::card_key::{self, CardKey};
use crate::kernels;

/// Bytes of a key file at most; the encoding of an SM2 key takes about 300.
const KEY_FILE_SIZE_MAX: u64 = 16 * 1_024;

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

/// Puts other content in the place of a file that has no secret, durably and whole: it is as before
/// or as after, whenever the power goes.
///
/// # Errors
/// If it cannot be made durable; the file is then as it was.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), KeyFileError> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    // One that was begun and never finished is in nobody's use.
    drop(std::fs::remove_file(&fresh));
    write_new(&fresh, content)?;
    let renamed = std::fs::rename(&fresh, path).and_then(|()| sync_folder_of(path));
    renamed.map_err(|cause| KeyFileError::Write { path: path.to_owned(), cause })
}

/// A key by its file: in software, or in a card.
pub enum NodeKey {
    /// The key itself.
    Software(SoftwareSigner),
    /// Where it is.
    Card(CardKey),
}

impl NodeKey {
    /// The public key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        match self {
            Self::Software(signer) => signer.public_key(),
            Self::Card(key) => &key.public,
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
    if card_key::is_card_key(text) {
        return card_key::parse(text, path).map(NodeKey::Card);
    }
    Ok(NodeKey::Software(SoftwareSigner::from_pkcs8_pem(text)?.on(kernels::backend())))
}

/// Reads a key from a file that only its owner may use.
///
/// # Errors
/// If the file is not safe to use or holds no key.
pub fn load(path: &Path) -> Result<SoftwareSigner, KeyFileError> {
    match open(path)? {
        NodeKey::Software(signer) => Ok(signer),
        NodeKey::Card(_) => Err(KeyFileError::InCard),
    }
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
fn sync_folder_of(path: &Path) -> io::Result<()> {
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
