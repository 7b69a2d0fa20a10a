//! The first words of a link, and the bytes that both ends sign to prove them.

use hufu_crypto::keys::{IDENTITY_DEFAULT, identity_digest, message_digest};
use hufu_types::codec::{DecodeError, Reader, check_range, check_reserved, put};
use hufu_types::domain::{DomainPrefix, Kind};
use hufu_types::{Address, ChainId, Digest, PublicKey, Signature};
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of every link.
pub const PEER_MAGIC: [u8; 8] = *b"HUFU/PEE";

/// Smallest and largest version of the peer protocol that this build speaks.
pub const PEER_VERSIONS: (u16, u16) = (1, 1);

/// Bytes of a nonce: no two links of a pair ever share both.
pub(super) const NONCE_SIZE: usize = 32;

pub(super) const HELLO_SIZE: u32 = 100;
pub(super) const PROOF_SIZE: u32 = 64;

const _: () = assert!(size_of::<PeerHello>() == HELLO_SIZE as usize, "frames bound the body");
const _: () = assert!(size_of::<Signature>() == PROOF_SIZE as usize, "frames bound the body");

/// What each end says first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct PeerHello {
    pub(super) magic: [u8; 8],
    version_min: U16,
    version_max: U16,
    reserved: [u8; 4],
    /// Digest of the genesis.
    pub chain_id: ChainId,
    /// Who speaks.
    pub address: Address,
    nonce: [u8; NONCE_SIZE],
}

impl PeerHello {
    /// The hello of this build; `nonce` is fresh entropy.
    #[must_use]
    pub const fn new(chain_id: ChainId, address: Address, nonce: [u8; NONCE_SIZE]) -> Self {
        let (min, max) = PEER_VERSIONS;
        Self {
            magic: PEER_MAGIC,
            version_min: U16::new(min),
            version_max: U16::new(max),
            reserved: [0; 4],
            chain_id,
            address,
            nonce,
        }
    }

    /// The largest version common to both ends.
    #[must_use]
    pub fn common_version(&self) -> Option<u16> {
        let (min, max) = PEER_VERSIONS;
        let common = self.version_max.get().min(max);
        (common >= self.version_min.get().max(min)).then_some(common)
    }

    pub(super) fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let hello: Self = *reader.fixed()?;
        reader.finish()?;
        check_reserved("peer hello", &hello.reserved)?;
        let (min, max) = (hello.version_min.get(), hello.version_max.get());
        check_range("peer hello versions", max.into(), min.into(), u16::MAX.into())?;
        Ok(hello)
    }
}

/// Which end signs: the two ends never sign the same bytes, so a proof cannot be thrown back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dialler = 1,
    Acceptor = 2,
}

impl Side {
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Dialler => Self::Acceptor,
            Self::Acceptor => Self::Dialler,
        }
    }
}

/// The digest e that `side` signs with its link key `key`: domain, side, and both hellos whole, so
/// that neither chain, versions, addresses nor nonces can be changed on the way.
pub(super) fn proof_digest(
    side: Side,
    key: &PublicKey,
    dialler: &PeerHello,
    acceptor: &PeerHello,
) -> Digest {
    let mut message = Vec::with_capacity(256);
    put(&mut message, &DomainPrefix::new(Kind::PeerProof, acceptor.chain_id));
    message.push(side as u8);
    put(&mut message, dialler);
    put(&mut message, acceptor);
    message_digest(&identity_digest(IDENTITY_DEFAULT, key), &message)
}
