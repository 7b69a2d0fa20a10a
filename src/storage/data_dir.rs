//! The data folder of a node: who it belongs to, and where each thing lies in it.
//!
//! ```text
//! identity    magic, format version, chain, node address, checksum; written once
//! probation   since when the folder is there, until the node may vote; see [`DataDir::probation`]
//! lock        held by the process that has the folder open
//! log/        block log         votes/   vote log         state/   state store
//! audit/      audit log, unless the configuration names another place
//! ```
//!
//! `node` opens it before anything else. It never changes an identity, and refuses a folder of
//! another chain, node or format instead of guessing.

use std::path::{Path, PathBuf};

use hufu_crypto::{Address, Digest};
use hufu_runtime::clock;
use hufu_runtime::file::{FileError, FileSystem};
use hufu_runtime::process::{FileLock, LockError, lock_existing, lock_file};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::Error;

/// Version of the folder's layout and of everything in it.
///
/// The one version of everything that storage writes: both logs and the state store carry it too.
pub const DATA_FORMAT_VERSION: u32 = 4;

const MAGIC: [u8; 8] = *b"HUFUDATA";
const IDENTITY: &str = "identity";
const LOCK: &str = "lock";
const PROBATION: &str = "probation";
/// Folder of the block log.
pub const BLOCKS: &str = "log";
/// Folder of the vote log.
pub const VOTES: &str = "votes";
/// Folder of the state store.
pub const STATE: &str = "state";

/// Folder of the audit log.
pub const AUDIT: &str = "audit";

/// Whose data a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The chain: SM3 of the genesis.
    pub chain: Digest,
    /// The node's address.
    pub node: Address,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct StoredIdentity {
    magic: [u8; 8],
    version: U32,
    chain: Digest,
    node: [u8; 20],
    checksum: U32,
}

const CHECKED_BYTES: usize = size_of::<StoredIdentity>() - size_of::<U32>();

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct StoredProbation {
    since_millis: U64,
    checksum: U32,
}

/// An open data folder. Dropping it lets go of the lock.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    _lock: FileLock,
}

impl DataDir {
    /// Opens the folder, making it for `identity` if it is empty or not there.
    pub fn open(path: &Path, identity: &Identity) -> Result<Self, Error> {
        let system = FileSystem::default();
        system.make_folder(path)?;
        let lock = lock_file(&path.join(LOCK)).map_err(not_locked)?;
        match read_identity(path)? {
            Some(found) => {
                check_identity(path, &found, identity)?;
                if !has_votes(path)? && !system.exists(&path.join(PROBATION))? {
                    // Somebody emptied the folder but for this file: as much is forgotten as with
                    // a new disk.
                    begin_probation(path, clock::wall().as_millis())?;
                }
                // A process that was killed may have left the name in memory alone.
                system.sync_dir(path)?;
            }
            None if has_data(path) => {
                return Err(Error::IdentityMissing { path: path.to_path_buf() });
            }
            // Each whole or not there at all; with an identity the folder is no longer new.
            None => {
                begin_probation(path, clock::wall().as_millis())?;
                system.replace(&path.join(IDENTITY), &encode(identity))?;
            }
        }
        let written = read_identity(path)?;
        assert!(written.as_ref() == Some(identity), "what was written is what is read");
        Ok(Self { path: path.to_path_buf(), identity: *identity, _lock: lock })
    }

    /// Reads whose data a folder holds, without locking it: for tools that only look.
    pub fn identity_of(path: &Path) -> Result<Identity, Error> {
        read_identity(path)?.ok_or_else(|| Error::IdentityMissing { path: path.to_path_buf() })
    }

    /// Keeps nodes out of a folder while a tool reads it, and changes nothing in it. `None` where
    /// no node ever ran, so that there is no lock to hold.
    ///
    /// Dropping it lets go of the lock.
    pub fn hold(path: &Path) -> Result<Option<FileLock>, Error> {
        lock_existing(&path.join(LOCK)).map_err(not_locked)
    }

    /// Since when the folder is there, Unix milliseconds, while the node is on probation.
    ///
    /// A node that begins with an empty folder cannot know what its key has signed before: the disk
    /// may be a new one for an old validator. It only follows the chain until nothing it signs can
    /// contradict what it signed then; [`DataDir::end_probation_in`] says that it is so far.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged.
    pub fn probation(&self) -> Result<Option<u64>, Error> {
        let path = self.path.join(PROBATION);
        let found = FileSystem::default().read_small(&path, size_of::<StoredProbation>())?;
        let Some(bytes) = found else { return Ok(None) };
        let damaged = |reason| Error::IdentityDamaged { path: path.clone(), reason };
        let Ok(stored) = StoredProbation::read_from_bytes(&bytes) else {
            return Err(damaged("wrong length"));
        };
        if crc32c::crc32c(stored.since_millis.as_bytes()) != stored.checksum.get() {
            return Err(damaged("checksum differs"));
        }
        Ok(Some(stored.since_millis.get()))
    }

    /// Ends the probation of the node whose data folder this is, for good. Durable on return.
    ///
    /// # Errors
    /// What the host refuses.
    pub fn end_probation_in(path: &Path) -> Result<(), Error> {
        let (system, file) = (FileSystem::default(), path.join(PROBATION));
        if system.exists(&file)? {
            system.remove(&file)?;
        }
        system.sync_dir(path)?;
        Ok(())
    }

    /// Whose data this is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Folder of the block log.
    #[must_use]
    pub fn block_log(&self) -> PathBuf {
        Self::block_log_in(&self.path)
    }

    /// Folder of the vote log.
    #[must_use]
    pub fn vote_log(&self) -> PathBuf {
        Self::vote_log_in(&self.path)
    }

    /// Folder of the state store.
    #[must_use]
    pub fn state_store(&self) -> PathBuf {
        Self::state_store_in(&self.path)
    }

    /// Folder of the block log in a data folder that is not opened.
    #[must_use]
    pub fn block_log_in(path: &Path) -> PathBuf {
        path.join(BLOCKS)
    }

    /// Folder of the vote log in a data folder that is not opened.
    #[must_use]
    pub fn vote_log_in(path: &Path) -> PathBuf {
        path.join(VOTES)
    }

    /// Folder of the audit log in a data folder that is not opened.
    #[must_use]
    pub fn audit_in(path: &Path) -> PathBuf {
        path.join(AUDIT)
    }

    /// Folder of the state store in a data folder that is not opened.
    #[must_use]
    pub fn state_store_in(path: &Path) -> PathBuf {
        path.join(STATE)
    }
}

fn not_locked(error: LockError) -> Error {
    match error {
        LockError::Held { path } => Error::Locked { path },
        LockError::Host { path, error: source } => {
            Error::File(FileError::Io { operation: "lock", path, source })
        }
    }
}

fn has_data(path: &Path) -> bool {
    [BLOCKS, VOTES, STATE].iter().any(|name| path.join(name).exists())
}

/// Whether there is anything of a vote log. The first file of one is made before anything is
/// signed.
fn has_votes(path: &Path) -> Result<bool, Error> {
    let (system, folder) = (FileSystem::default(), path.join(VOTES));
    Ok(system.exists(&folder)? && !system.names(&folder)?.is_empty())
}

fn read_identity(folder: &Path) -> Result<Option<Identity>, Error> {
    let path = folder.join(IDENTITY);
    let found = FileSystem::default().read_small(&path, size_of::<StoredIdentity>())?;
    let Some(bytes) = found else { return Ok(None) };
    let damaged = |reason| Error::IdentityDamaged { path: path.clone(), reason };
    let Ok(stored) = StoredIdentity::read_from_bytes(&bytes) else {
        return Err(damaged("wrong length"));
    };
    if stored.magic != MAGIC {
        return Err(damaged("wrong magic"));
    }
    if checksum(&bytes) != stored.checksum.get() {
        return Err(damaged("checksum differs"));
    }
    let (found, expected) = (stored.version.get(), DATA_FORMAT_VERSION);
    if found != expected {
        return Err(Error::OtherVersion { path, found, expected });
    }
    Ok(Some(Identity { chain: stored.chain, node: Address(stored.node) }))
}

fn check_identity(folder: &Path, found: &Identity, expected: &Identity) -> Result<(), Error> {
    let path = folder.join(IDENTITY);
    if found.chain != expected.chain {
        let (found, expected) = (found.chain.to_string(), expected.chain.to_string());
        return Err(Error::OtherChain { path, found, expected });
    }
    if found.node != expected.node {
        let (found, expected) = (found.node.to_string(), expected.node.to_string());
        return Err(Error::OtherNode { path, found, expected });
    }
    assert!(found == expected);
    Ok(())
}

fn begin_probation(folder: &Path, since_millis: u64) -> Result<(), Error> {
    let since_millis = U64::new(since_millis);
    let checksum = U32::new(crc32c::crc32c(since_millis.as_bytes()));
    let stored = StoredProbation { since_millis, checksum };
    FileSystem::default().replace(&folder.join(PROBATION), stored.as_bytes())?;
    Ok(())
}

fn encode(identity: &Identity) -> Vec<u8> {
    let mut stored = StoredIdentity {
        magic: MAGIC,
        version: U32::new(DATA_FORMAT_VERSION),
        chain: identity.chain,
        node: identity.node.0,
        checksum: U32::ZERO,
    };
    stored.checksum = U32::new(checksum(stored.as_bytes()));
    stored.as_bytes().to_vec()
}

fn checksum(bytes: &[u8]) -> u32 {
    assert!(bytes.len() == size_of::<StoredIdentity>());
    crc32c::crc32c(bytes.get(..CHECKED_BYTES).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY_HERE: Identity = Identity { chain: Digest([1; 32]), node: Address([2; 20]) };

    #[test]
    fn a_folder_is_made_once_and_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep").join("data");
        let data = DataDir::open(&path, &IDENTITY_HERE).unwrap();
        assert_eq!(data.block_log(), path.join("log"));
        let second = DataDir::open(&path, &IDENTITY_HERE);
        assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
        drop(data);
        let data = DataDir::open(&path, &IDENTITY_HERE).unwrap();
        assert_eq!(data.identity(), &IDENTITY_HERE);
        assert_eq!(DataDir::identity_of(&path).unwrap(), IDENTITY_HERE);
    }

    #[test]
    fn a_new_folder_is_on_probation_until_that_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let before = clock::wall().as_millis();
        let data = DataDir::open(folder.path(), &IDENTITY_HERE).unwrap();
        let since = data.probation().unwrap().unwrap();
        assert!(since >= before);
        drop(data);
        let data = DataDir::open(folder.path(), &IDENTITY_HERE).unwrap();
        assert_eq!(data.probation().unwrap(), Some(since), "a restart does not end it");
        DataDir::end_probation_in(folder.path()).unwrap();
        assert_eq!(data.probation().unwrap(), None);
        DataDir::end_probation_in(folder.path()).unwrap();
        std::fs::write(folder.path().join(PROBATION), [1; 12]).unwrap();
        assert!(matches!(data.probation(), Err(Error::IdentityDamaged { .. })));
        std::fs::write(folder.path().join(PROBATION), [1; 3]).unwrap();
        assert!(matches!(data.probation(), Err(Error::IdentityDamaged { .. })));
    }

    /// An operator who wants a node to fetch everything anew removes the logs and leaves the rest.
    #[test]
    fn a_folder_without_votes_is_on_probation_again() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataDir::open(folder.path(), &IDENTITY_HERE).unwrap());
        DataDir::end_probation_in(folder.path()).unwrap();
        let votes = folder.path().join(VOTES);
        std::fs::create_dir(&votes).unwrap();
        std::fs::write(votes.join("some"), [1]).unwrap();
        let data = DataDir::open(folder.path(), &IDENTITY_HERE).unwrap();
        assert_eq!(data.probation().unwrap(), None, "its votes are there");
        drop(data);
        std::fs::remove_file(votes.join("some")).unwrap();
        let data = DataDir::open(folder.path(), &IDENTITY_HERE).unwrap();
        assert!(data.probation().unwrap().is_some(), "what its key signed is unknown");
    }

    #[test]
    fn folders_of_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataDir::open(folder.path(), &IDENTITY_HERE).unwrap());
        let other_chain = Identity { chain: Digest([9; 32]), ..IDENTITY_HERE };
        let refused = DataDir::open(folder.path(), &other_chain).unwrap_err();
        assert!(matches!(refused, Error::OtherChain { .. }), "{refused}");
        let other_node = Identity { node: Address([9; 20]), ..IDENTITY_HERE };
        let refused = DataDir::open(folder.path(), &other_node).unwrap_err();
        assert!(matches!(refused, Error::OtherNode { .. }), "{refused}");
        let path = folder.path().join(IDENTITY);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8] = 7;
        let checksum = checksum(&bytes);
        bytes[CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let refused = DataDir::open(folder.path(), &IDENTITY_HERE).unwrap_err();
        assert!(matches!(refused, Error::OtherVersion { found: 7, .. }), "{refused}");
    }

    #[test]
    fn every_flipped_byte_of_the_identity_is_found() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataDir::open(folder.path(), &IDENTITY_HERE).unwrap());
        let path = folder.path().join(IDENTITY);
        let whole = std::fs::read(&path).unwrap();
        for index in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[index] ^= 1 << (index % 8);
            std::fs::write(&path, &flipped).unwrap();
            let refused = DataDir::open(folder.path(), &IDENTITY_HERE);
            assert!(matches!(refused, Err(Error::IdentityDamaged { .. })), "byte {index}");
        }
        for bytes in [&whole[..10], &[whole.as_slice(), &[0]].concat(), &[]] {
            std::fs::write(&path, bytes).unwrap();
            let refused = DataDir::open(folder.path(), &IDENTITY_HERE);
            assert!(matches!(refused, Err(Error::IdentityDamaged { .. })));
        }
    }

    #[test]
    fn data_without_an_identity_is_not_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(STATE)).unwrap();
        let refused = DataDir::open(folder.path(), &IDENTITY_HERE);
        assert!(matches!(refused, Err(Error::IdentityMissing { .. })));
    }
}
