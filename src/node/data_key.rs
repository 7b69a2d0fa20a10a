//! The data key file: what everything in the data folder is encrypted with.
//!
//! ```text
//! "HUFUDKEY"  version u32  count u32                       little-endian
//! key         id u64  wrapping u32  zero u32  wrapped by 32  material 64     count times
//! check       SM3 of all the above
//! ```
//!
//! The first key encrypts what is new, the others read what is older. Wrapping 0 is a key in clear:
//! 32 bytes of material, then zeroes; `wrapped by` is zero. Other wrappings are for keys that a
//! card keeps and are refused by this build. The id follows from the key, so a damaged file never
//! passes for another key. The file is made once, exclusively, with mode 0600, and read under the
//! rules of [`crate::keys_file`]. Without it the data folder is of no use to anybody: keep a copy
//! of it, apart from copies of the folder.

use std::path::Path;

use hufu_crypto::{Drbg, Provider, Sm3};
use hufu_storage::keyring::{DATA_KEY_BYTES, DataKey, Keyring};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::{Zeroize, Zeroizing};

use crate::kernels;
use crate::keys_file::{KeyFileError, read_private, write_new};

/// Name of the file where the configuration names no other.
pub const DATA_KEY_FILE: &str = "data.key";

/// Keys of one file at most: one rotation a year for the life of a machine.
const KEYS_COUNT_MAX: u32 = 32;

const MAGIC: [u8; 8] = *b"HUFUDKEY";
const VERSION: u32 = 1;
const WRAPPING_NONE: u32 = 0;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct StoredHeader {
    magic: [u8; 8],
    version: U32,
    keys_count: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct StoredKey {
    id: U64,
    wrapping: U32,
    reserved: U32,
    wrapped_by: [u8; 32],
    material: [u8; DATA_KEY_BYTES],
    material_reserved: [u8; 32],
}

impl Drop for StoredKey {
    fn drop(&mut self) {
        self.material.zeroize();
    }
}

/// Bytes of the check at the end.
const CHECK_BYTES: usize = 32;

/// Makes a fresh data key in a new file of mode 0600, durable when this returns; gives its id.
///
/// # Errors
/// If the file exists or cannot be made durable; a file that was begun is removed.
pub fn create(path: &Path) -> Result<u64, KeyFileError> {
    let mut secret = Zeroizing::new([0; DATA_KEY_BYTES]);
    Drbg::new(kernels::provider().entropy, "hufu data key")?.fill(&mut *secret)?;
    write_new(path, &encode(&[&secret]))?;
    Ok(DataKey::id_of(&secret))
}

fn encode(secrets: &[&[u8; DATA_KEY_BYTES]]) -> Zeroizing<Vec<u8>> {
    let header = StoredHeader {
        magic: MAGIC,
        version: U32::new(VERSION),
        keys_count: U32::new(u32::try_from(secrets.len()).unwrap_or(u32::MAX)),
    };
    let bytes = size_of::<StoredHeader>() + secrets.len() * size_of::<StoredKey>() + CHECK_BYTES;
    // The buffer has its full size at once: a buffer that grew would leave copies behind.
    let mut file = Zeroizing::new(Vec::with_capacity(bytes));
    file.extend_from_slice(header.as_bytes());
    for secret in secrets {
        let key = StoredKey {
            id: U64::new(DataKey::id_of(secret)),
            wrapping: U32::new(WRAPPING_NONE),
            reserved: U32::ZERO,
            wrapped_by: [0; 32],
            material: **secret,
            material_reserved: [0; 32],
        };
        file.extend_from_slice(key.as_bytes());
    }
    let check = Sm3::of(&[&file]);
    file.extend_from_slice(&check.0);
    assert!(file.len() == bytes, "the buffer did not grow");
    file
}

/// Reads the data keys from a file that only its owner may use.
///
/// # Errors
/// If the file is not safe to use or holds no keys of this build.
pub fn load(path: &Path, provider: &Provider) -> Result<Keyring, KeyFileError> {
    let content = read_private(path)?;
    decode(&content, provider).map_err(|reason| KeyFileError::DataKey { reason })
}

fn decode(content: &[u8], provider: &Provider) -> Result<Keyring, &'static str> {
    let (header, rest) =
        StoredHeader::ref_from_prefix(content).map_err(|_| "it is none, or cut off")?;
    if header.magic != MAGIC {
        return Err("it is none");
    }
    if header.version.get() != VERSION {
        return Err("it has a format version that this build does not read");
    }
    let (keys, check) = rest.split_last_chunk::<CHECK_BYTES>().ok_or("it is cut off")?;
    let checked = content.len() - CHECK_BYTES;
    if content.get(..checked).is_none_or(|checked| Sm3::of(&[checked]).0 != *check) {
        return Err("its check differs: it is damaged");
    }
    let count = header.keys_count.get();
    let keys = <[StoredKey]>::ref_from_bytes(keys).map_err(|_| "it is damaged")?;
    if !(1..=KEYS_COUNT_MAX).contains(&count) || usize::try_from(count) != Ok(keys.len()) {
        return Err("its count of keys is wrong");
    }
    let mut ring = Vec::with_capacity(keys.len());
    for key in keys {
        if key.wrapping.get() != WRAPPING_NONE {
            return Err("its key is wrapped, and this build unwraps none");
        }
        let is_canonical = key.reserved.get() == 0
            && key.wrapped_by == [0; 32]
            && key.material_reserved == [0; 32]
            && key.id.get() == DataKey::id_of(&key.material)
            && ring.iter().all(|before: &DataKey| before.id() != key.id.get());
        if !is_canonical {
            return Err("its fields contradict each other");
        }
        ring.push(DataKey::new(&key.material));
    }
    let older = ring.split_off(1);
    let current = ring.pop().ok_or("it has no key")?;
    Ok(Keyring::new(current, older, provider))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use hufu_crypto::software_provider;

    use super::*;

    #[test]
    fn a_new_data_key_is_private_reads_back_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("data.key"), folder.path().join("other.key"));
        let id = create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(load(&path, &software_provider()).unwrap().current(), id);
        assert!(matches!(create(&path), Err(KeyFileError::Exists { .. })));
        assert_eq!(load(&path, &software_provider()).unwrap().current(), id);
        assert_ne!(create(&other).unwrap(), id);
        for mode in [0o640, 0o604, 0o644] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let refused = load(&path, &software_provider()).unwrap_err();
            assert!(matches!(refused, KeyFileError::Exposed { .. }), "{refused}");
        }
        let missing = load(&folder.path().join("gone"), &software_provider()).unwrap_err();
        assert!(matches!(missing, KeyFileError::Read(_)), "{missing}");
    }

    #[test]
    fn a_file_may_hold_older_keys_behind_the_current_one() {
        let file = encode(&[&[1; 32], &[2; 32]]);
        let ring = decode(&file, &software_provider()).unwrap();
        assert_eq!(ring.current(), DataKey::id_of(&[1; 32]));
        assert!(ring.has(DataKey::id_of(&[2; 32])));
        assert!(decode(&encode(&[&[1; 32], &[1; 32]]), &software_provider()).is_err());
        assert!(decode(&encode(&[]), &software_provider()).is_err());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused_and_nothing_is_shown() {
        let good = encode(&[&[0x5a; 32]]);
        for bit in 0..good.len() * 8 {
            let mut flipped = good.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, &software_provider()).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(decode(&good[..length], &software_provider()).is_err(), "cut at {length}");
        }
        // A check that fits does not make a file of another meaning.
        for (place, value) in [(8, 2), (12, 0), (12, 2), (24, 1), (28, 1), (33, 1), (100, 1)] {
            let mut changed = good[..good.len() - CHECK_BYTES].to_vec();
            changed[place] = value;
            let check = Sm3::of(&[&changed]);
            changed.extend_from_slice(&check.0);
            let reason = decode(&changed, &software_provider()).unwrap_err();
            assert!(!reason.contains("check"), "byte {place}: {reason}");
        }
        let shown = format!("{:?}", decode(&good, &software_provider()).unwrap());
        assert!(!shown.contains("5a5a"), "{shown}");
    }
}
