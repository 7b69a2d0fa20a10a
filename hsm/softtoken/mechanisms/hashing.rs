//! Digests as they go.

use hufu_crypto::Sm3;
use sha2::Digest as _;

use crate::imitations::Hash;

/// A digest that is being made.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sm3(Sm3),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// Of no bytes.
    pub(crate) fn new(hash: Hash) -> Self {
        match hash {
            Hash::Sm3 => Self::Sm3(Sm3::new()),
            Hash::Sha1 => Self::Sha1(sha1::Sha1::new()),
            Hash::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Hash::Sha384 => Self::Sha384(sha2::Sha384::new()),
            Hash::Sha512 => Self::Sha512(sha2::Sha512::new()),
        }
    }

    /// Adds bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sm3(hasher) => hasher.update(bytes),
            Self::Sha1(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha384(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of the bytes so far.
    pub(crate) fn digest(&self) -> Vec<u8> {
        match self.clone() {
            Self::Sm3(hasher) => hasher.finish().0.to_vec(),
            Self::Sha1(hasher) => hasher.finalize().to_vec(),
            Self::Sha256(hasher) => hasher.finalize().to_vec(),
            Self::Sha384(hasher) => hasher.finalize().to_vec(),
            Self::Sha512(hasher) => hasher.finalize().to_vec(),
        }
    }

    /// How many bytes it has.
    pub(crate) const fn size(&self) -> usize {
        match self {
            Self::Sha1(_) => 20,
            Self::Sm3(_) | Self::Sha256(_) => 32,
            Self::Sha384(_) => 48,
            Self::Sha512(_) => 64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_abc() {
        let wanted = [
            (Hash::Sm3, "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"),
            (Hash::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (Hash::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (Hash::Sha384, "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded163"),
            (Hash::Sha512, "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea2"),
        ];
        for (hash, wanted) in wanted {
            let mut hasher = Hasher::new(hash);
            hasher.update(b"a");
            hasher.update(b"bc");
            let digest = hasher.digest();
            assert_eq!(digest.len(), hasher.size());
            let text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(text.starts_with(wanted), "{hash:?}: {text}");
        }
    }
}
