//! The keys that everything on the disk is encrypted with, as `node` hands them over.
//!
//! ```text
//! data key 32 bytes --HKDF-SM3--> id      what headers name it by, and no secret
//!                             |-> logs ---expand(place, random 128 bits)--> one key for a group
//!                             |-> state --expand(random 256 bits)---------> one key for an open
//!                             '-> names --SM3 with the key in front-------> keys of the state
//! ```
//!
//! Nothing here knows where a data key comes from: a file, or one that a card opened. A [`Keyring`]
//! holds the one that new data is encrypted with and those that older data may still need. Why no
//! nonce can come twice is argued in `decisions/0010-encryption-at-rest.md`.

use std::sync::Arc;

use hufu_crypto::{Aead, Cipher, Digest, Hasher, Hmac, Provider, Sm4Key, hkdf};
use zeroize::Zeroizing;

/// Length of a data key, in bytes.
pub const DATA_KEY_BYTES: usize = 32;

/// Bytes of what a key of the state is stored as.
const NAME_BYTES: usize = 20;

/// Salt of the first derivation: separates these keys from all others in the world.
const DOMAIN: &[u8] = b"hufu data key, format 1";

type Secret = Zeroizing<[u8; 32]>;

/// A data key and what follows from it. Zeroised when dropped.
pub struct DataKey {
    id: u64,
    logs: Hmac,
    state: Hmac,
    names: Secret,
}

impl DataKey {
    /// Derives everything from the secret, which must be random.
    #[must_use]
    pub fn new(secret: &[u8; DATA_KEY_BYTES]) -> Self {
        let derive = |use_of_it: &[u8]| {
            let mut key = Zeroizing::new([0; 32]);
            hkdf(DOMAIN, secret, use_of_it, &mut *key);
            key
        };
        Self {
            id: Self::id_of(secret),
            logs: Hmac::new(&*derive(b"logs")),
            state: Hmac::new(&*derive(b"values of the state")),
            names: derive(b"keys of the state"),
        }
    }

    /// What headers name this key by; never 0. It follows from the secret and tells nothing of it,
    /// so a damaged key file and another key are both known for what they are.
    #[must_use]
    pub fn id_of(secret: &[u8; DATA_KEY_BYTES]) -> u64 {
        let mut id = [0; 8];
        hkdf(DOMAIN, secret, b"id", &mut id);
        u64::from_le_bytes(id).max(1)
    }

    /// What headers name this key by.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }
}

/// The data keys of a node and the cipher they are used with. Cheap to clone; shows no secret.
#[derive(Clone)]
pub struct Keyring(Arc<Keys>);

struct Keys {
    current: DataKey,
    older: Vec<DataKey>,
    cipher: Arc<dyn Cipher>,
    hasher: Arc<dyn Hasher>,
}

impl Keyring {
    /// `current` encrypts what is new; each of the keys reads what names it.
    #[must_use]
    pub fn new(current: DataKey, older: Vec<DataKey>, provider: &Provider) -> Self {
        let (cipher, hasher) = (Arc::clone(&provider.cipher), Arc::clone(&provider.hasher));
        Self(Arc::new(Keys { current, older, cipher, hasher }))
    }

    /// The key that encrypts what is new.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.0.current.id
    }

    /// Whether what is encrypted with this key can be read.
    #[must_use]
    pub fn has(&self, id: u64) -> bool {
        self.key(id).is_some()
    }

    /// The ids of all keys as messages show them.
    #[must_use]
    pub fn ids(&self) -> String {
        let ids: Vec<String> = self.keys().map(|key| show_id(key.id)).collect();
        ids.join(", ")
    }

    fn keys(&self) -> impl Iterator<Item = &DataKey> {
        std::iter::once(&self.0.current).chain(&self.0.older)
    }

    fn key(&self, id: u64) -> Option<&DataKey> {
        self.keys().find(|key| key.id == id)
    }

    /// The second half of HKDF (RFC 5869 2.3): the subkey is as good as random already, so the
    /// first is not needed (3.3), and it can be set up beforehand.
    fn expand(&self, subkey: &Hmac, place: &[u8], salt: &[u8]) -> Arc<dyn Aead> {
        let mut mac = subkey.clone();
        mac.update(place);
        mac.update(salt);
        mac.update(&[1]);
        let halves: Zeroizing<[[u8; 16]; 2]> = Zeroizing::new(zerocopy::transmute!(mac.finish().0));
        self.0.cipher.sm4_gcm(&Sm4Key::from_bytes(&halves[0]))
    }

    /// The cipher of a group to be written.
    pub(crate) fn new_group(&self, salt: &[u8; 16], place: &[u8]) -> Arc<dyn Aead> {
        self.expand(&self.0.current.logs, place, salt)
    }

    /// The cipher of a stored group; `None` where its key is not there.
    pub(crate) fn group(&self, id: u64, salt: &[u8; 16], place: &[u8]) -> Option<Arc<dyn Aead>> {
        self.key(id).map(|key| self.expand(&key.logs, place, salt))
    }

    /// The cipher of the values that one open of the state store wrote; `None` where its key is not
    /// there.
    pub(crate) fn epoch(&self, id: u64, salt: &[u8; 32]) -> Option<Arc<dyn Aead>> {
        self.key(id).map(|key| self.expand(&key.state, &[], salt))
    }

    /// What keys of the state are stored as: for each of `parts`, told apart by `tag`, 20 bytes
    /// that only the holder of the data key can compute. `None` where the key is not there.
    ///
    /// SM3 with the key in front is a pseudorandom function where no input is the beginning of
    /// another, which the length sees to; cut to 160 bits, nobody goes on from a result.
    pub(crate) fn names(
        &self,
        id: u64,
        tag: u8,
        parts: &[impl AsRef<[u8]>],
    ) -> Option<Vec<[u8; NAME_BYTES]>> {
        let secret = &self.key(id)?.names;
        let bytes: usize = parts.iter().map(|part| secret.len() + 3 + part.as_ref().len()).sum();
        let mut joined = Zeroizing::new(Vec::with_capacity(bytes));
        let mut ends = Vec::with_capacity(parts.len());
        for part in parts {
            let part = part.as_ref();
            joined.extend_from_slice(&**secret);
            joined.push(tag);
            joined.extend_from_slice(&crate::widths::length(part.len()).to_le_bytes()[..2]);
            joined.extend_from_slice(part);
            ends.push(joined.len());
        }
        assert!(joined.len() == bytes, "a buffer that grew would leave the key behind");
        let mut messages = Vec::with_capacity(parts.len());
        let mut rest = joined.as_slice();
        let mut start = 0;
        for end in ends {
            let (message, behind) = rest.split_at_checked(end - start).unwrap_or_default();
            messages.push(message);
            (rest, start) = (behind, end);
        }
        let mut digests = vec![Digest::ZERO; messages.len()];
        self.0.hasher.digest_many(&messages, &mut digests);
        let cut = |digest: &Digest| digest.0.first_chunk().copied().unwrap_or([0; NAME_BYTES]);
        Some(digests.iter().map(cut).collect())
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Keyring").field("ids", &self.ids()).finish_non_exhaustive()
    }
}

/// The id of a data key as messages show it.
#[must_use]
pub fn show_id(id: u64) -> String {
    format!("{id:016x}")
}

/// A ring of keys that follow from small numbers, the first the current one.
#[cfg(test)]
pub(crate) fn ring(numbers: &[u8]) -> Keyring {
    let mut keys = numbers.iter().map(|number| DataKey::new(&[*number; DATA_KEY_BYTES]));
    let current = keys.next().unwrap();
    Keyring::new(current, keys.collect(), &hufu_crypto::software_provider())
}

#[cfg(test)]
mod tests {
    use hufu_crypto::Sm3;

    use super::*;

    #[test]
    fn keys_follow_from_the_secret_alone_and_differ_by_use() {
        let (one, same, other) =
            (DataKey::new(&[1; 32]), DataKey::new(&[1; 32]), DataKey::new(&[2; 32]));
        assert_eq!((one.id(), *one.names), (same.id(), *same.names));
        assert_eq!(one.id(), DataKey::id_of(&[1; 32]));
        assert_ne!(one.id(), other.id());
        let mac = |key: &Hmac| key.clone().finish();
        let all = [mac(&one.logs), mac(&one.state), mac(&other.logs), mac(&other.state)];
        for (place, mac) in all.iter().enumerate() {
            assert!(!all[..place].contains(mac), "each use and each key has its own");
        }
        assert!(*one.names != *other.names && mac(&one.logs) == mac(&same.logs));
        let keys = ring(&[1, 2]);
        assert!(keys.has(one.id()) && keys.has(other.id()) && !keys.has(0));
        assert_eq!(keys.current(), one.id());
        let shown = format!("{keys:?}");
        assert!(shown.contains(&show_id(other.id())) && shown.len() < 80, "{shown}");
    }

    #[test]
    fn a_cipher_is_bound_to_key_salt_and_place() {
        let keys = ring(&[1, 2]);
        let (id, other) = (keys.current(), DataKey::id_of(&[2; 32]));
        let mut sealed = *b"a record";
        let tag = keys.new_group(&[3; 16], b"here").seal(&[0; 12], &[], &mut sealed);
        let opens = |id, salt: [u8; 16], place: &[u8]| {
            let mut bytes = sealed;
            let aead = keys.group(id, &salt, place).unwrap();
            aead.open(&[0; 12], &[], &mut bytes, &tag).is_ok() && bytes == *b"a record"
        };
        assert!(opens(id, [3; 16], b"here"));
        assert!(!opens(other, [3; 16], b"here"));
        assert!(!opens(id, [4; 16], b"here"));
        assert!(!opens(id, [3; 16], b"there"));
        assert!(keys.group(7, &[3; 16], b"here").is_none());
    }

    /// What is on the disks of today is read with exactly these keys; another program computed them
    /// from OpenSSL's SM3 and SM4.
    #[test]
    fn derived_keys_are_those_of_the_format() {
        let keys = ring(&[1]);
        let id = keys.current();
        let epoch = |nonce: &[u8; 12]| {
            let mut value = *b"a value of the state";
            let aead = keys.epoch(id, &[7; 32]).unwrap();
            let tag = aead.seal(nonce, b"accounts", &mut value);
            Sm3::of(&[&value, &tag.0]).to_string()
        };
        assert_eq!(show_id(id), "4dfa7391375b9ebd");
        let expected = "8115522c92859645e2b15b51e2a96ea6897caccaa80ed49325e7741befd04765";
        assert_eq!(epoch(&[3; 12]), expected);
        let names = keys.names(id, 1, &[b"a key of the state"]).unwrap();
        let expected = "010205296fa753cf96f61ae834d230f583d7403b67de59a3c58bb420b3893e92";
        assert_eq!(Sm3::of(&[&names[0]]).to_string(), expected);
    }

    #[test]
    fn names_differ_by_key_tag_and_text() {
        let keys = ring(&[1, 2]);
        let (id, other) = (keys.current(), DataKey::id_of(&[2; 32]));
        let texts: [&[u8]; 3] = [b"", b"a", b"a\0"];
        let mut all = Vec::new();
        for (id, tag) in [(id, 1), (id, 2), (other, 1)] {
            all.extend(keys.names(id, tag, &texts).unwrap());
            assert_eq!(keys.names(id, tag, &texts[1..2]).unwrap()[0], all[all.len() - 2]);
        }
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), 9);
        assert!(keys.names(7, 1, &texts).is_none());
    }
}
