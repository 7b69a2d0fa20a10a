//! Puts a new key file in the place of an old one, so that no crash leaves a node without its key.
//!
//! ```text
//! FILE.new: written, durable -> read back, proven -> FILE.new becomes FILE, durable -> old erased
//! ```
//!
//! The old file is what it was until the new one has proven itself. Secrets that lay in clear are
//! overwritten in the old file's place, which a file system that copies on write does not promise
//! to reach.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use crate::keys_file::{KeyFileError, sync_folder_of, write_new};

/// Whether the old content held a secret in clear that the new one does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Old {
    /// It is overwritten once nothing names it any more.
    Erased,
    /// It is left to the file system.
    Dropped,
}

/// Writes `content` in the place of the file at `path`, once `prove` has found it good under its
/// first name.
///
/// # Errors
/// What failed; the old file is then in its place.
pub(crate) fn replace<E: From<KeyFileError>>(
    path: &Path,
    content: &[u8],
    old: Old,
    prove: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let new = beside(path);
    // That the name is taken keeps out whoever does the same at the same time.
    write_new(&new, content)?;
    let failed = |cause| KeyFileError::Write { path: path.to_owned(), cause };
    let replaced = prove(&new).and_then(|()| Ok(put(&new, path, old).map_err(failed)?));
    replaced.inspect_err(|_| {
        // The error that is reported is the first one.
        drop(fs::remove_file(&new));
    })
}

/// The name under which the new file is made.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

/// Puts the new file in the place of the old one, for the same owner.
fn put(new: &Path, path: &Path, old: Old) -> io::Result<()> {
    let (owner, made) = (fs::metadata(path)?, fs::metadata(new)?);
    if (owner.uid(), owner.gid()) != (made.uid(), made.gid()) {
        let file = File::open(new)?;
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        file.sync_all()?;
    }
    let open = || fs::OpenOptions::new().write(true).open(path);
    let erased = (old == Old::Erased).then(open).transpose()?;
    fs::rename(new, path)?;
    sync_folder_of(path)?;
    if let Some(mut erased) = erased {
        let facts = erased.metadata()?;
        // Under another name it is somebody's copy, and theirs to destroy.
        if facts.nlink() == 0 {
            let bytes = usize::try_from(facts.len()).unwrap_or_default();
            erased.write_all(&vec![0; bytes])?;
            erased.sync_all()?;
        }
    }
    Ok(())
}
