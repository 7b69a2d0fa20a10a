//! The tokens on disk: one folder each.
//!
//! ```text
//! slot-00/token      label, serial number, PINs (as wrapped keys), counters of wrong PINs
//! slot-00/objects/   one file an object, sealed with SM4-GCM under the token's key
//! slot-00/together   names of objects that are being written together; there for that time only
//! slot-00/lock       held while something is changed, between processes
//! slot-00/control    a page of memory that processes share: generation of the content, faults
//! ```
//!
//! A file is written whole beside its name, synced, and renamed; then its folder is synced. So each
//! is there as it was before or as it is after, whenever the power goes. A token that begins anew
//! says so in its file first, and whoever reads that takes the old objects away. A cut or changed
//! file is found by its checksum or tag, named, and nothing is read from it. Links are not
//! followed, and a folder that others may write to is refused.
//!
//! The token's key is wrapped by a key derived from each PIN (PBKDF2-HMAC-SM3). It seals what is
//! closed: private objects, and everything that holds a secret, whatever its `CKA_PRIVATE` says.
//! Other objects are sealed with a key that lies beside them: that finds accidents, not forgery,
//! because PKCS#11 lets anyone read and write them.

pub(crate) mod header;
mod pin;
#[cfg(test)]
pub(crate) mod power;

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use hufu_crypto::{Backend, Sm4Key, cipher, entropy};
use zeroize::Zeroizing;

use crate::object::Object;
use header::Header;
#[cfg(test)]
use power::step;

const TOKEN: &str = "token";
const OBJECTS: &str = "objects";
const LOCK: &str = "lock";
/// Names of objects that are being written and belong together.
const TOGETHER: &str = "together";
/// The shared page.
pub(crate) const CONTROL: &str = "control";

const NONCE_SIZE: usize = 12;
const TAG_SIZE: usize = 16;
/// Largest file that is read: an object with every attribute at its limit is smaller.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What is wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system did not do it.
    #[error("{}: {doing}: {cause}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// A file is cut short, changed, or another's.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No randomness.
    #[error("no randomness: {0}")]
    Crypto(#[from] hufu_crypto::Error),
}

/// The number that an object has on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StoreId(u64);

/// The key of a token's closed objects; overwritten when dropped.
#[derive(Clone)]
pub(crate) struct TokenKey(Zeroizing<[u8; 16]>);

/// The folder of one token.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    folder: PathBuf,
}

/// Held while the folder is read or changed; other processes wait.
pub(crate) struct StoreLock {
    file: File,
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        // Not left to the end of the file: a child that was forked meanwhile has it open too, and
        // would hold the lock for as long as it lives. If this fails, closing is what is left.
        drop(self.file.unlock());
    }
}

#[cfg(test)]
impl StoreLock {
    /// What a forked child has of it.
    pub(crate) fn duplicate(&self) -> File {
        self.file.try_clone().unwrap()
    }
}

fn io_error<'a>(path: &'a Path, doing: &'static str) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |cause| StoreError::Io { path: path.to_owned(), doing, cause }
}

impl TokenKey {
    fn new() -> Result<Self, StoreError> {
        let mut key = Zeroizing::new([0; 16]);
        entropy::fill(&mut *key)?;
        Ok(Self(key))
    }

    /// As SM4 wants it.
    fn sm4(&self) -> Sm4Key {
        Sm4Key::from_bytes(&self.0)
    }
}

impl Store {
    /// The folder of a slot, made if it is missing, with a token that is not initialised.
    pub(crate) fn open(root: &Path, slot: u32, serial_start: &str) -> Result<Self, StoreError> {
        let folder = root.join(format!("slot-{slot:02}"));
        let objects = folder.join(OBJECTS);
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&objects).map_err(io_error(&objects, "cannot make the folder"))?;
        check_folder(&folder)?;
        check_folder(&objects)?;
        let store = Self { folder };
        let _lock = store.lock()?;
        store.sweep()?;
        let token = store.folder.join(TOKEN);
        match std::fs::symlink_metadata(&token) {
            // Where there are objects a token was: it is missed when it is read.
            Err(error) if error.kind() == io::ErrorKind::NotFound && store.list()?.is_empty() => {
                store.write_header(&Header::blank(serial_start)?)?;
            }
            _ => {}
        }
        Ok(store)
    }

    /// The folder itself.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits until no other process reads or changes the folder.
    pub(crate) fn lock(&self) -> Result<StoreLock, StoreError> {
        let path = self.folder.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(io_error(&path, "cannot open"))?;
        file.lock().map_err(io_error(&path, "cannot lock"))?;
        Ok(StoreLock { file })
    }

    /// Label, PINs and counters.
    pub(crate) fn read_header(&self) -> Result<Header, StoreError> {
        let path = self.folder.join(TOKEN);
        let bytes = read_file(&path)?;
        Header::from_bytes(&bytes).map_err(|reason| StoreError::Damaged { path, reason })
    }

    /// As [`Store::read_header`], with what a new life of the token left undone now done. The store
    /// is locked.
    pub(crate) fn settled_header(&self) -> Result<Header, StoreError> {
        let header = self.read_header()?;
        self.undo_together()?;
        if header.is_settled() { Ok(header) } else { self.settle(header) }
    }

    /// Begins a new life: there is no moment in which the old one has lost some of its objects.
    pub(crate) fn begin_life(&self, header: Header) -> Result<Header, StoreError> {
        debug_assert!(!header.is_settled(), "the objects of the old life are there");
        self.write_header(&header)?;
        self.settle(header)
    }

    /// Says which objects are to be written together: until [`Store::end_together`] none of them
    /// is there for whoever reads the store after this process has ended.
    pub(crate) fn begin_together(&self, objects: &[(StoreId, bool)]) -> Result<(), StoreError> {
        let names = objects.iter().map(|(id, is_closed)| object_name(*id, *is_closed) + "\n");
        write_file(&self.folder, TOGETHER, names.collect::<String>().as_bytes())
    }

    /// All of them are written.
    pub(crate) fn end_together(&self) -> Result<(), StoreError> {
        let path = self.folder.join(TOGETHER);
        step()
            .and_then(|()| std::fs::remove_file(&path))
            .map_err(io_error(&path, "cannot remove"))?;
        sync_folder(&self.folder)
    }

    /// Removes what of them was written by a process that did not come to the end.
    fn undo_together(&self) -> Result<(), StoreError> {
        let path = self.folder.join(TOGETHER);
        if std::fs::symlink_metadata(&path).is_err() {
            return Ok(());
        }
        let names = read_file(&path)?;
        let there = self.list()?;
        let listed = names.split(|byte| *byte == b'\n');
        for name in listed.filter_map(|name| std::str::from_utf8(name).ok()) {
            if let Some((id, is_closed)) = parse_name(name).filter(|it| there.contains(it)) {
                self.remove_object(id, is_closed)?;
            }
        }
        self.end_together()
    }

    fn settle(&self, header: Header) -> Result<Header, StoreError> {
        for (id, is_closed) in self.list()? {
            self.remove_object(id, is_closed)?;
        }
        let settled = header.settled();
        self.write_header(&settled)?;
        Ok(settled)
    }

    /// Writes label, PINs and counters, durably.
    pub(crate) fn write_header(&self, header: &Header) -> Result<(), StoreError> {
        write_file(&self.folder, TOKEN, &header.to_bytes())
    }

    fn object_path(&self, id: StoreId, is_closed: bool) -> PathBuf {
        self.folder.join(OBJECTS).join(object_name(id, is_closed))
    }

    /// Writes an object, durably: a new one, or in place of what it was.
    pub(crate) fn write_object(
        &self,
        header: &Header,
        key: &TokenKey,
        id: StoreId,
        object: &Object,
    ) -> Result<(), StoreError> {
        self.write_as(header, key, id, object, object.is_closed())
    }

    /// As [`Store::write_object`], under a name of this kind.
    pub(crate) fn write_as(
        &self,
        header: &Header,
        key: &TokenKey,
        id: StoreId,
        object: &Object,
        is_closed: bool,
    ) -> Result<(), StoreError> {
        let mut nonce = [0; NONCE_SIZE];
        entropy::fill(&mut nonce)?;
        // Encrypted in place: the clear bytes are overwritten by it.
        let mut data = object.to_bytes();
        let bound = associated(header, id, is_closed);
        let tag = cipher::gcm_seal(Backend::best(), &key.sm4(), &nonce, &bound, &mut data)?;
        let bytes = [&nonce[..], &tag, &data].concat();
        write_file(&self.folder.join(OBJECTS), &object_name(id, is_closed), &bytes)
    }

    /// Takes an object off the disk, durably.
    pub(crate) fn remove_object(&self, id: StoreId, is_closed: bool) -> Result<(), StoreError> {
        let path = self.object_path(id, is_closed);
        step()
            .and_then(|()| std::fs::remove_file(&path))
            .map_err(io_error(&path, "cannot remove"))?;
        sync_folder(&self.folder.join(OBJECTS))
    }

    /// Reads one object.
    pub(crate) fn read_object(
        &self,
        header: &Header,
        key: &TokenKey,
        id: StoreId,
        is_closed: bool,
    ) -> Result<Object, StoreError> {
        let path = self.object_path(id, is_closed);
        let bytes = read_file(&path)?;
        let damaged = |reason| StoreError::Damaged { path: path.clone(), reason };
        let cut = || damaged("the object is cut short");
        let (nonce, rest) = bytes.split_first_chunk::<NONCE_SIZE>().ok_or_else(cut)?;
        let (tag, data) = rest.split_first_chunk::<TAG_SIZE>().ok_or_else(cut)?;
        let mut data = Zeroizing::new(data.to_vec());
        let bound = associated(header, id, is_closed);
        cipher::gcm_open(Backend::best(), &key.sm4(), nonce, &bound, &mut data, tag)
            .map_err(|_| damaged("the object was changed, or is another token's"))?;
        let object = Object::from_bytes(&data)
            .ok_or_else(|| damaged("the object is not one of this version"))?;
        // Whoever can write here can seal a file that is open: no secret comes out of one.
        if object.is_closed() == is_closed {
            Ok(object)
        } else {
            Err(damaged("the object is not of the kind that its name says"))
        }
    }

    /// The objects there are: their numbers, and whether they are closed.
    pub(crate) fn list(&self) -> Result<Vec<(StoreId, bool)>, StoreError> {
        let folder = self.folder.join(OBJECTS);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(io_error(&folder, "cannot list"))? {
            let entry = entry.map_err(io_error(&folder, "cannot list"))?;
            let name = entry.file_name();
            // What a power cut left behind half written has another ending.
            found.extend(name.to_str().and_then(parse_name));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Removes what a process left half written when it was killed; nobody else writes now.
    fn sweep(&self) -> Result<(), StoreError> {
        let folder = self.folder.join(OBJECTS);
        for entry in std::fs::read_dir(&folder).map_err(io_error(&folder, "cannot list"))? {
            let path = entry.map_err(io_error(&folder, "cannot list"))?.path();
            if path.extension().is_some_and(|ending| ending == BESIDE) {
                std::fs::remove_file(&path).map_err(io_error(&path, "cannot remove"))?;
            }
        }
        Ok(())
    }
}

impl StoreId {
    /// A number that no object has.
    pub(crate) fn new() -> Result<Self, StoreError> {
        let mut bytes = [0; 8];
        entropy::fill(&mut bytes)?;
        Ok(Self(u64::from_le_bytes(bytes)))
    }

    /// For `CKA_UNIQUE_ID`.
    pub(crate) fn text(self) -> String {
        format!("{:016x}", self.0)
    }
}

/// The ending of a file that is being written.
const BESIDE: &str = "new";

const ENDINGS: [(&str, bool); 2] = [(".closed", true), (".open", false)];

fn object_name(id: StoreId, is_closed: bool) -> String {
    let ending = if is_closed { ENDINGS[0].0 } else { ENDINGS[1].0 };
    format!("{:016x}{ending}", id.0)
}

fn parse_name(name: &str) -> Option<(StoreId, bool)> {
    let (number, is_closed) = ENDINGS
        .iter()
        .find_map(|(ending, is_closed)| Some((name.strip_suffix(ending)?, *is_closed)))?;
    let id = u64::from_str_radix(number, 16).ok().filter(|_| number.len() == 16)?;
    Some((StoreId(id), is_closed))
}

/// What a sealed object is bound to: this life of this token, its number, its kind.
fn associated(header: &Header, id: StoreId, is_closed: bool) -> [u8; 25] {
    let mut bytes = [0; 25];
    bytes[..16].copy_from_slice(header.life());
    bytes[16..24].copy_from_slice(&id.0.to_le_bytes());
    bytes[24] = u8::from(is_closed);
    bytes
}

/// Whether nobody but its owner writes to the folder, and it is no link to another.
fn check_folder(folder: &Path) -> Result<(), StoreError> {
    let found = std::fs::symlink_metadata(folder).map_err(io_error(folder, "cannot look at"))?;
    let reason = match () {
        () if !found.is_dir() => "this is no folder",
        () if found.mode() & 0o022 != 0 => "others than the owner may write to this folder",
        () => return Ok(()),
    };
    Err(StoreError::Damaged { path: folder.to_owned(), reason })
}

fn read_file(path: &Path) -> Result<Vec<u8>, StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(io_error(path, "cannot open"))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(io_error(path, "cannot read"))?;
    Ok(bytes)
}

fn write_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let path = folder.join(name);
    let beside = folder.join(format!("{name}.{BESIDE}"));
    let renamed = write_whole(&beside, bytes).and_then(|()| {
        step()
            .and_then(|()| std::fs::rename(&beside, &path))
            .map_err(io_error(&path, "cannot rename to"))
    });
    if let Err(error) = renamed {
        // On a full disk it would be one more in the way. The first error is the one that counts.
        drop(step().and_then(|()| std::fs::remove_file(&beside)));
        return Err(error);
    }
    sync_folder(folder)
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = step()
        .and_then(|()| {
            OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)
        })
        .map_err(io_error(path, "cannot make"))?;
    step().and_then(|()| file.write_all(bytes)).map_err(io_error(path, "cannot write"))?;
    step().and_then(|()| file.sync_all()).map_err(io_error(path, "cannot sync"))
}

fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    step().and_then(|()| File::open(folder)?.sync_all()).map_err(io_error(folder, "cannot sync"))
}

/// One step of a change. In tests the power can go before any of them.
#[cfg(not(test))]
#[allow(clippy::unnecessary_wraps, reason = "in tests it fails")]
const fn step() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests;
