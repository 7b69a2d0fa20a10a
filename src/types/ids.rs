//! Identifiers: digests that name one kind of thing, kept apart by type so that none passes for
//! another.

use core::fmt;

use hufu_crypto::Digest;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, FromBytes, IntoBytes,
            KnownLayout, Immutable, Unaligned,
        )]
        #[repr(transparent)]
        pub struct $name(pub Digest);

        impl $name {
            /// Thirty-two zero bytes: names nothing.
            pub const ZERO: Self = Self(Digest::ZERO);

            /// The identifier as bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                self.0.as_bytes()
            }

            /// Reads 64 hexadecimal digits, with or without `0x`.
            #[must_use]
            pub fn from_hex(text: &str) -> Option<Self> {
                Digest::from_hex(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, formatter)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, formatter)
            }
        }
    };
}

digest_id!(
    /// A chain: SM3 of its canonical genesis, so that no two chains that differ share an id.
    ChainId
);
digest_id!(
    /// A transaction: SM3 of its unsigned bytes.
    TxId
);
digest_id!(
    /// All bytes of a transaction, signature included; leaf of the transactions root and what
    /// duplicates are known by.
    TxDigest
);
digest_id!(
    /// A batch of transactions by its content.
    BatchDigest
);
digest_id!(
    /// A block: SM3 of its header; the value validators agree on.
    BlockDigest
);
