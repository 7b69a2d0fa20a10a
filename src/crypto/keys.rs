//! SM2 public values: public key, signature, address, and the two digests of GB/T 32918.2-2016.
//!
//! All of them are fixed arrays that can lie inside any encoded message. Nothing here says that a
//! key is on the curve or a signature is good: that is the verdict of a [`crate::Verifier`], and of
//! [`crate::is_curve_point`] for a key alone.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::digest::{Digest, Sm3, decode_hex, write_hex};
use crate::provider::Hasher;

/// The default distinguishing identifier of a signer (GM/T 0009-2012 10).
pub const IDENTITY_DEFAULT: &[u8] = b"1234567812345678";

/// Curve coefficients and base point a || b || xG || yG (GB/T 32918.5-2017 A.2), in the order ZA
/// hashes them.
const CURVE_BYTES: [u8; 128] = *b"\
\xff\xff\xff\xfe\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xfc\
\x28\xe9\xfa\x9e\x9d\x9f\x5e\x34\x4d\x5a\x9e\x4b\xcf\x65\x09\xa7\xf3\x97\x89\xf5\x15\xab\x8f\x92\xdd\xbc\xbd\x41\x4d\x94\x0e\x93\
\x32\xc4\xae\x2c\x1f\x19\x81\x19\x5f\x99\x04\x46\x6a\x39\xc9\x94\x8f\xe3\x0b\xbf\xf2\x66\x0b\xe1\x71\x5a\x45\x89\x33\x4c\x74\xc7\
\xbc\x37\x36\xa2\xf4\xf6\x77\x9c\x59\xbd\xce\xe3\x6b\x69\x21\x53\xd0\xa9\x87\x7c\xc6\x2a\x47\x40\x02\xdf\x32\xe5\x21\x39\xf0\xa0";

macro_rules! fixed_bytes {
    ($(#[$doc:meta])* $name:ident, $size:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, KnownLayout,
            Immutable, Unaligned,
        )]
        #[repr(transparent)]
        pub struct $name(pub [u8; $size]);

        impl $name {
            /// Size in bytes.
            pub const SIZE: usize = $size;

            /// The value as bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $size] {
                &self.0
            }

            /// Reads exactly twice as many hexadecimal digits, with or without `0x`.
            #[must_use]
            pub fn from_hex(text: &str) -> Option<Self> {
                let mut bytes = [0; $size];
                decode_hex(text, &mut bytes)?;
                Some(Self(bytes))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(formatter, &self.0)
            }
        }
    };
}

fixed_bytes!(
    /// An SM2 public key: the affine coordinates x || y, big-endian (GB/T 32918.1-2016 4.2.8,
    /// without the PC byte).
    PublicKey, 64
);
fixed_bytes!(
    /// An SM2 signature: r || s, 32 bytes each, big-endian (GB/T 32918.2-2016 6.1).
    Signature, 64
);
fixed_bytes!(
    /// The last 20 bytes of SM3(x || y) of a public key, as FISCO BCOS derives it in its SM mode
    /// (design.md 6).
    Address, 20
);

impl fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(formatter, &self.0)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(formatter, &self.0)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("0x")?;
        write_hex(formatter, &self.0)
    }
}

impl Address {
    /// Twenty zero bytes: no key hashes to it as far as anyone knows; stands for "nobody".
    pub const ZERO: Self = Self([0; 20]);

    /// The address of the key whose SM3 is `digest`, for those who hash many keys at once.
    #[must_use]
    pub fn from_key_digest(digest: &Digest) -> Self {
        let mut address = [0; Self::SIZE];
        address.copy_from_slice(&digest.0[digest.0.len() - Self::SIZE..]);
        Self(address)
    }
}

impl PublicKey {
    /// The address of this key.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::from_key_digest(&Sm3::of(&[&self.0]))
    }
}

/// ZA = SM3(ENTL || ID || a || b || xG || yG || xA || yA) (GB/T 32918.2-2016 5.5).
///
/// # Panics
/// If `identity` is 8,192 bytes or longer: ENTL counts its bits in 16 bits, and identities are
/// chosen by us.
#[must_use]
pub fn identity_digest(identity: &[u8], key: &PublicKey) -> Digest {
    Sm3::of(&[&entl(identity), identity, &CURVE_BYTES, &key.0])
}

/// ZA of many keys, side by side; `digests[i]` belongs to `keys[i]`.
///
/// # Panics
/// If the two slices differ in length, or as [`identity_digest`].
pub fn identity_digests(
    hasher: &dyn Hasher,
    identity: &[u8],
    keys: &[&PublicKey],
    digests: &mut [Digest],
) {
    let messages: Vec<Vec<u8>> = keys
        .iter()
        .map(|key| [&entl(identity)[..], identity, &CURVE_BYTES, &key.0].concat())
        .collect();
    let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    hasher.digest_many(&messages, digests);
}

/// ENTL: the bits of the identity, count, big-endian.
fn entl(identity: &[u8]) -> [u8; 2] {
    let bits = identity.len().saturating_mul(8);
    assert!(bits <= usize::from(u16::MAX), "identity does not fit ENTL");
    let [.., high, low] = bits.to_be_bytes();
    [high, low]
}

/// e = SM3(ZA || M), the digest an SM2 signature is made over (GB/T 32918.2-2016 6.1 steps A1, A2).
#[must_use]
pub fn message_digest(identity_digest: &Digest, message: &[u8]) -> Digest {
    Sm3::of(&[&identity_digest.0, message])
}
