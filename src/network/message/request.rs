//! Bodies of the hello, of waits and of queries.

use hufu_types::codec::{DecodeError, Reader, check_range, check_reserved, put};
use hufu_types::{Address, ChainId, Strength, TxId};
use zerocopy::little_endian::{U16, U32, U64};

use super::{layout, read_flag, read_strength};

/// First bytes of every hello, so that a stray client of another protocol is told apart.
pub const MAGIC: [u8; 8] = *b"HUFU/CLI";

/// Smallest and largest version of the protocol that this build speaks.
pub const PROTOCOL_VERSIONS: (u16, u16) = (1, 1);

layout!(
    struct HelloBody {
        magic: [u8; 8],
        version_min: U16,
        version_max: U16,
        reserved: [u8; 4],
        chain_id: ChainId,
    }
);

/// What a client says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// First eight bytes; [`MAGIC`] unless the client speaks something else, which the session
    /// answers.
    pub magic: [u8; 8],
    /// Smallest version the client speaks.
    pub version_min: u16,
    /// Largest version the client speaks.
    pub version_max: u16,
    /// The chain it expects; `None` takes any.
    pub chain_id: Option<ChainId>,
}

impl Hello {
    /// The hello of this build.
    #[must_use]
    pub const fn new(chain_id: Option<ChainId>) -> Self {
        let (version_min, version_max) = PROTOCOL_VERSIONS;
        Self { magic: MAGIC, version_min, version_max, chain_id }
    }

    /// The largest version common to both sides.
    #[must_use]
    pub fn common_version(&self) -> Option<u16> {
        let (min, max) = PROTOCOL_VERSIONS;
        let common = self.version_max.min(max);
        (common >= self.version_min.max(min)).then_some(common)
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let body: &HelloBody = reader.fixed()?;
        check_reserved("hello", &body.reserved)?;
        let (version_min, version_max) = (body.version_min.get(), body.version_max.get());
        check_range("hello versions", version_max.into(), version_min.into(), u16::MAX.into())?;
        let chain_id = (body.chain_id != ChainId::ZERO).then_some(body.chain_id);
        Ok(Self { magic: body.magic, version_min, version_max, chain_id })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let body = HelloBody {
            magic: self.magic,
            version_min: U16::new(self.version_min),
            version_max: U16::new(self.version_max),
            reserved: [0; 4],
            chain_id: self.chain_id.unwrap_or_default(),
        };
        put(out, &body);
    }
}

layout!(
    struct WaitBody {
        id: TxId,
        until_height: U64,
        strength: u8,
        with_proof: u8,
        reserved: [u8; 6],
    }
);

/// Waits for the receipt of a transaction, whoever handed it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The transaction.
    pub id: TxId,
    /// The wait ends with the refusal "expired" once this height is executed without it; the
    /// transaction's own last valid height is the natural choice.
    pub until_height: u64,
    /// How strong the receipt must be.
    pub strength: Strength,
    /// Whether the receipt comes with its proof.
    pub with_proof: bool,
}

impl Wait {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let body: &WaitBody = reader.fixed()?;
        check_reserved("wait", &body.reserved)?;
        Ok(Self {
            id: body.id,
            until_height: body.until_height.get(),
            strength: read_strength(body.strength)?,
            with_proof: read_flag("wait with proof", body.with_proof)?,
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let body = WaitBody {
            id: self.id,
            until_height: U64::new(self.until_height),
            strength: self.strength as u8,
            with_proof: self.with_proof.into(),
            reserved: [0; 6],
        };
        put(out, &body);
    }
}

layout!(
    struct QueryAccountBody {
        address: Address,
        with_proof: u8,
        reserved: [u8; 3],
    }
);

/// Asks for an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryAccount {
    /// The account.
    pub address: Address,
    /// Whether the answer comes with a proof against a state root.
    pub with_proof: bool,
}

impl QueryAccount {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let body: &QueryAccountBody = reader.fixed()?;
        check_reserved("account query", &body.reserved)?;
        let with_proof = read_flag("account query with proof", body.with_proof)?;
        Ok(Self { address: body.address, with_proof })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let with_proof = self.with_proof.into();
        put(out, &QueryAccountBody { address: self.address, with_proof, reserved: [0; 3] });
    }
}

layout!(
    struct QueryBlockBody {
        height: U64,
        ids_from: U32,
        reserved: [u8; 4],
    }
);

/// Asks for a block, its certificate and a page of its transaction ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryBlock {
    /// Its height; `None` is the latest (0 on the wire: the genesis is no block).
    pub height: Option<u64>,
    /// Place of the first transaction id wanted.
    pub ids_from: u32,
}

impl QueryBlock {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let body: &QueryBlockBody = reader.fixed()?;
        check_reserved("block query", &body.reserved)?;
        let height = body.height.get();
        Ok(Self { height: (height != 0).then_some(height), ids_from: body.ids_from.get() })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let body = QueryBlockBody {
            height: U64::new(self.height.unwrap_or(0)),
            ids_from: U32::new(self.ids_from),
            reserved: [0; 4],
        };
        put(out, &body);
    }
}

layout!(
    struct QueryTransactionBody {
        id: TxId,
        with_proof: u8,
        reserved: [u8; 7],
    }
);

/// Asks for an included transaction and its receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryTransaction {
    /// The transaction.
    pub id: TxId,
    /// Whether the answer comes with the receipt's proof.
    pub with_proof: bool,
}

impl QueryTransaction {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let body: &QueryTransactionBody = reader.fixed()?;
        check_reserved("transaction query", &body.reserved)?;
        let with_proof = read_flag("transaction query with proof", body.with_proof)?;
        Ok(Self { id: body.id, with_proof })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let with_proof = self.with_proof.into();
        put(out, &QueryTransactionBody { id: self.id, with_proof, reserved: [0; 7] });
    }
}
