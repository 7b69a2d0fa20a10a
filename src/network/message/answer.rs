//! Bodies of the welcome, of answers to queries and of errors. Every answer carries the height it
//! was given at.

use hufu_types::codec::{DecodeError, Reader, check_range, check_reserved, index, length_u32, put};
use hufu_types::{
    Address, AssetCode, Block, BlockDigest, ChainId, CommitCertificate, Digest, Hasher, Receipt,
    Strength, TxId,
};
use zerocopy::little_endian::{U16, U32, U64, U128};

use super::{layout, range, read_flag, read_strength};
use crate::codes::ErrorCode;
use crate::limits::{
    ACCOUNT_HOLDINGS_COUNT_MAX, ACCOUNT_MANDATES_COUNT_MAX, ACCOUNT_PROOF_SIZE_MAX,
    BLOCK_IDS_COUNT_MAX, ERROR_TEXT_SIZE_MAX, FRAME_BODY_SIZE_MAX, RECEIPT_PROOF_SIZE_MAX,
    SUBMIT_TRANSACTIONS_COUNT_MAX, VERSION_TEXT_SIZE_MAX,
};
use hufu_types::limits::TX_SIZE_MAX;

layout!(
    struct WelcomeBody {
        version: U16,
        reserved: [u8; 2],
        frame_body_size_max: U32,
        submit_transactions_max: U32,
        transactions_in_flight_max: U32,
        requests_in_flight_max: U32,
        subscriptions_max: U32,
        chain_id: ChainId,
        node: Address,
        reserved_node: [u8; 4],
        height: U64,
    }
);

/// What a server answers to a hello: who it is, and what a client may ask of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Version of the protocol both sides speak from here on.
    pub version: u16,
    /// Largest body of a frame, in bytes.
    pub frame_body_size_max: u32,
    /// Most transactions in one submit frame.
    pub submit_transactions_max: u32,
    /// Most transactions without their last word; beyond it the server stops reading.
    pub transactions_in_flight_max: u32,
    /// Most waits and, apart from them, most queries without answer; one more is refused.
    pub requests_in_flight_max: u32,
    /// Most subscriptions.
    pub subscriptions_max: u32,
    /// The chain.
    pub chain_id: ChainId,
    /// The node's address as a validator.
    pub node: Address,
    /// Height executed when the hello was answered.
    pub height: u64,
}

impl Welcome {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let body: &WelcomeBody = reader.fixed()?;
        check_reserved("welcome", &body.reserved)?;
        check_reserved("welcome node", &body.reserved_node)?;
        let submit = body.submit_transactions_max.get();
        check_range("submit limit", submit.into(), 1, SUBMIT_TRANSACTIONS_COUNT_MAX.into())?;
        let in_flight = body.transactions_in_flight_max.get();
        check_range("in-flight limit", in_flight.into(), submit.into(), u32::MAX.into())?;
        Ok(Self {
            version: body.version.get(),
            frame_body_size_max: body.frame_body_size_max.get(),
            submit_transactions_max: submit,
            transactions_in_flight_max: in_flight,
            requests_in_flight_max: body.requests_in_flight_max.get(),
            subscriptions_max: body.subscriptions_max.get(),
            chain_id: body.chain_id,
            node: body.node,
            height: body.height.get(),
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let body = WelcomeBody {
            version: U16::new(self.version),
            reserved: [0; 2],
            frame_body_size_max: U32::new(self.frame_body_size_max),
            submit_transactions_max: U32::new(self.submit_transactions_max),
            transactions_in_flight_max: U32::new(self.transactions_in_flight_max),
            requests_in_flight_max: U32::new(self.requests_in_flight_max),
            subscriptions_max: U32::new(self.subscriptions_max),
            chain_id: self.chain_id,
            node: self.node,
            reserved_node: [0; 4],
            height: U64::new(self.height),
        };
        put(out, &body);
    }
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NodeState {
    /// Replaying its log; queries are answered at the height reached.
    Recovering = 1,
    /// Taking part.
    Running = 2,
    /// Finishing what it has taken; takes no more.
    Stopping = 3,
}

impl NodeState {
    /// The state's name in JSON and messages.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Recovering => "recovering",
            Self::Running => "running",
            Self::Stopping => "stopping",
        }
    }
}

layout!(
    struct StatusBody {
        height: U64,
        certified_height: U64,
        oldest_height: U64,
        time_millis: U64,
        uptime_seconds: U64,
        pending_bytes: U64,
        pending_transactions: U32,
        peers_count: U32,
        state: u8,
        reserved: [u8; 5],
        version_size: U16,
        block: BlockDigest,
        state_root: Digest,
    }
);

/// State of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusInfo {
    /// Height executed and durable; the one this answer was given at.
    pub height: u64,
    /// Height whose results a header certifies.
    pub certified_height: u64,
    /// Oldest height whose events and blocks the node still holds.
    pub oldest_height: u64,
    /// Time of the block at `height`, Unix milliseconds; 0 before the first.
    pub time_millis: u64,
    /// Seconds since the node started.
    pub uptime_seconds: u64,
    /// Bytes of transactions taken and not yet included.
    pub pending_bytes: u64,
    /// Transactions taken and not yet included.
    pub pending_transactions: u32,
    /// Peers connected.
    pub peers_count: u32,
    /// What the node is doing.
    pub state: NodeState,
    /// Digest of the block at `height`.
    pub block: BlockDigest,
    /// State root after `height`.
    pub state_root: Digest,
    /// Software version; cut to 64 bytes on the wire.
    pub version: String,
}

impl StatusInfo {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let body: &StatusBody = reader.fixed()?;
        check_reserved("status", &body.reserved)?;
        let state = match body.state {
            1 => NodeState::Recovering,
            2 => NodeState::Running,
            3 => NodeState::Stopping,
            other => return Err(range("node state", other, 1, 3)),
        };
        let version = read_text(reader, body.version_size.get(), VERSION_TEXT_SIZE_MAX)?;
        Ok(Self {
            height: body.height.get(),
            certified_height: body.certified_height.get(),
            oldest_height: body.oldest_height.get(),
            time_millis: body.time_millis.get(),
            uptime_seconds: body.uptime_seconds.get(),
            pending_bytes: body.pending_bytes.get(),
            pending_transactions: body.pending_transactions.get(),
            peers_count: body.peers_count.get(),
            state,
            block: body.block,
            state_root: body.state_root,
            version,
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let version = cut(&self.version, VERSION_TEXT_SIZE_MAX);
        let body = StatusBody {
            height: U64::new(self.height),
            certified_height: U64::new(self.certified_height),
            oldest_height: U64::new(self.oldest_height),
            time_millis: U64::new(self.time_millis),
            uptime_seconds: U64::new(self.uptime_seconds),
            pending_bytes: U64::new(self.pending_bytes),
            pending_transactions: U32::new(self.pending_transactions),
            peers_count: U32::new(self.peers_count),
            state: self.state as u8,
            reserved: [0; 5],
            version_size: text_size(version),
            block: self.block,
            state_root: self.state_root,
        };
        put(out, &body);
        put(out, version.as_bytes());
    }
}

/// Whether an account is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AccountState {
    /// It was never opened.
    Unknown = 0,
    /// It is open.
    Open = 1,
    /// It was closed and is not opened again.
    Closed = 2,
}

layout!(
    struct AccountHeader {
        height: U64,
        address: Address,
        state: u8,
        reserved: [u8; 3],
        holdings_count: U32,
        mandates_count: U32,
        proof_size: U32,
    }
);

layout!(
    /// What an account holds of one asset.
    pub struct Holding {
        /// The asset.
        pub asset: AssetCode,
        /// How much, in the smallest part of the asset.
        pub balance: U128,
        frozen: u8,
        reserved: [u8; 7],
    }
);

impl Holding {
    /// A holding.
    #[must_use]
    pub fn new(asset: AssetCode, balance: u128, is_frozen: bool) -> Self {
        Self { asset, balance: U128::new(balance), frozen: is_frozen.into(), reserved: [0; 7] }
    }

    /// Whether the asset's authority has frozen it.
    #[must_use]
    pub const fn is_frozen(&self) -> bool {
        self.frozen == 1
    }
}

layout!(
    /// A mandate that the account has granted.
    pub struct Mandate {
        /// Who may debit.
        pub agent: Address,
        /// Which asset.
        pub asset: AssetCode,
        /// How much is left of it, in the smallest part of the asset.
        pub remaining: U128,
        /// Last height at which it may be used.
        pub expires_at: U64,
        reserved: [u8; 4],
    }
);

impl Mandate {
    /// A mandate.
    #[must_use]
    pub const fn new(agent: Address, asset: AssetCode, remaining: u128, expires_at: u64) -> Self {
        let (remaining, expires_at) = (U128::new(remaining), U64::new(expires_at));
        Self { agent, asset, remaining, expires_at, reserved: [0; 4] }
    }
}

/// An account at one height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountInfo {
    /// Height the answer was given at.
    pub height: u64,
    /// The account.
    pub address: Address,
    /// Whether it is there.
    pub state: AccountState,
    /// Holdings by ascending asset; at most [`ACCOUNT_HOLDINGS_COUNT_MAX`].
    pub holdings: Vec<Holding>,
    /// Mandates granted, by ascending agent and asset; at most [`ACCOUNT_MANDATES_COUNT_MAX`].
    pub mandates: Vec<Mandate>,
    /// The account with its proof as the ledger encodes it, verifiable from the genesis alone;
    /// empty when none was asked for. With a proof, `height` is the height it is proven at.
    pub proof: Vec<u8>,
}

impl AccountInfo {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let header: &AccountHeader = reader.fixed()?;
        check_reserved("account", &header.reserved)?;
        let state = match header.state {
            0 => AccountState::Unknown,
            1 => AccountState::Open,
            2 => AccountState::Closed,
            other => return Err(range("account state", other, 0, 2)),
        };
        let count = header.holdings_count.get();
        check_range("holdings count", count.into(), 0, ACCOUNT_HOLDINGS_COUNT_MAX.into())?;
        let holdings = reader.slice::<Holding>(index(count))?.to_vec();
        let count = header.mandates_count.get();
        check_range("mandates count", count.into(), 0, ACCOUNT_MANDATES_COUNT_MAX.into())?;
        let mandates = reader.slice::<Mandate>(index(count))?.to_vec();
        let size = header.proof_size.get();
        check_range("account proof size", size.into(), 0, ACCOUNT_PROOF_SIZE_MAX.into())?;
        let proof = reader.bytes(index(size))?.to_vec();
        let (height, address) = (header.height.get(), header.address);
        let info = Self { height, address, state, holdings, mandates, proof };
        info.check()?;
        Ok(info)
    }

    fn check(&self) -> Result<(), DecodeError> {
        for holding in &self.holdings {
            check_asset(&holding.asset)?;
            check_reserved("holding", &holding.reserved)?;
            read_flag("holding frozen", holding.frozen)?;
        }
        for mandate in &self.mandates {
            check_asset(&mandate.asset)?;
            check_reserved("mandate", &mandate.reserved)?;
        }
        if !self.holdings.is_sorted_by(|first, second| first.asset < second.asset) {
            return Err(DecodeError::NotCanonical { field: "order of holdings" });
        }
        let key = |mandate: &Mandate| (mandate.agent, mandate.asset);
        if !self.mandates.is_sorted_by(|first, second| key(first) < key(second)) {
            return Err(DecodeError::NotCanonical { field: "order of mandates" });
        }
        Ok(())
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let header = AccountHeader {
            height: U64::new(self.height),
            address: self.address,
            state: self.state as u8,
            reserved: [0; 3],
            holdings_count: U32::new(length_u32(&self.holdings)),
            mandates_count: U32::new(length_u32(&self.mandates)),
            proof_size: U32::new(length_u32(&self.proof)),
        };
        put(out, &header);
        put(out, self.holdings.as_slice());
        put(out, self.mandates.as_slice());
        put(out, self.proof.as_slice());
    }
}

fn check_asset(asset: &AssetCode) -> Result<(), DecodeError> {
    if asset.is_canonical() {
        Ok(())
    } else {
        Err(DecodeError::NotCanonical { field: "asset code" })
    }
}

layout!(
    struct BlockInfoHeader {
        height: U64,
        ids_total: U32,
        ids_from: U32,
        ids_count: U32,
        block_size: U32,
        certificate_size: U32,
        reserved: [u8; 4],
    }
);

/// A block with its certificate and a page of its transaction ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Height the answer was given at, at least that of the block.
    pub height: u64,
    /// Canonical bytes of the [`Block`].
    pub block: Vec<u8>,
    /// Canonical bytes of its [`CommitCertificate`].
    pub certificate: Vec<u8>,
    /// Transactions in the block.
    pub ids_total: u32,
    /// Place of the first id of this page.
    pub ids_from: u32,
    /// Ids of the transactions from there on, at most [`BLOCK_IDS_COUNT_MAX`].
    pub ids: Vec<TxId>,
}

impl BlockInfo {
    /// The block itself.
    ///
    /// # Errors
    /// What is not canonical.
    pub fn parse_block(&self, hasher: &dyn Hasher) -> Result<Block, DecodeError> {
        Block::parse(&self.block, hasher)
    }

    /// The certificate itself; whether it proves anything is for [`CommitCertificate::verify`].
    ///
    /// # Errors
    /// What is not canonical.
    pub fn parse_certificate(&self) -> Result<CommitCertificate, DecodeError> {
        let mut reader = Reader::new(&self.certificate);
        let certificate = CommitCertificate::read(&mut reader)?;
        reader.finish()?;
        Ok(certificate)
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let header: &BlockInfoHeader = reader.fixed()?;
        check_reserved("block answer", &header.reserved)?;
        let count = header.ids_count.get();
        check_range("block ids count", count.into(), 0, BLOCK_IDS_COUNT_MAX.into())?;
        let (total, from) = (header.ids_total.get(), header.ids_from.get());
        check_range("block ids from", from.into(), 0, total.into())?;
        check_range("block ids page", count.into(), 0, (total - from).into())?;
        Ok(Self {
            height: header.height.get(),
            block: reader.bytes(index(header.block_size.get()))?.to_vec(),
            certificate: reader.bytes(index(header.certificate_size.get()))?.to_vec(),
            ids_total: total,
            ids_from: from,
            ids: reader.slice::<TxId>(index(count))?.to_vec(),
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let header = BlockInfoHeader {
            height: U64::new(self.height),
            ids_total: U32::new(self.ids_total),
            ids_from: U32::new(self.ids_from),
            ids_count: U32::new(length_u32(&self.ids)),
            block_size: U32::new(length_u32(&self.block)),
            certificate_size: U32::new(length_u32(&self.certificate)),
            reserved: [0; 4],
        };
        put(out, &header);
        put(out, self.block.as_slice());
        put(out, self.certificate.as_slice());
        put(out, self.ids.as_slice());
    }
}

layout!(
    struct TransactionInfoHeader {
        height: U64,
        strength: u8,
        reserved: [u8; 3],
        transaction_size: U32,
        proof_size: U32,
    }
);

/// An included transaction with its receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionInfo {
    /// Height the answer was given at.
    pub height: u64,
    /// How strong the receipt is at that height.
    pub strength: Strength,
    /// The receipt.
    pub receipt: Receipt,
    /// Canonical bytes of the transaction.
    pub transaction: Vec<u8>,
    /// Canonical bytes of a [`hufu_types::ReceiptProof`]; empty when none was asked for.
    pub proof: Vec<u8>,
}

impl TransactionInfo {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let header: &TransactionInfoHeader = reader.fixed()?;
        check_reserved("transaction answer", &header.reserved)?;
        let (size, proof_size) = (header.transaction_size.get(), header.proof_size.get());
        check_range("transaction size", size.into(), 0, TX_SIZE_MAX.into())?;
        check_range("receipt proof size", proof_size.into(), 0, RECEIPT_PROOF_SIZE_MAX.into())?;
        let receipt: Receipt = *reader.fixed()?;
        receipt.check()?;
        Ok(Self {
            height: header.height.get(),
            strength: read_strength(header.strength)?,
            receipt,
            transaction: reader.bytes(index(size))?.to_vec(),
            proof: reader.bytes(index(proof_size))?.to_vec(),
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let header = TransactionInfoHeader {
            height: U64::new(self.height),
            strength: self.strength as u8,
            reserved: [0; 3],
            transaction_size: U32::new(length_u32(&self.transaction)),
            proof_size: U32::new(length_u32(&self.proof)),
        };
        put(out, &header);
        put(out, &self.receipt);
        put(out, self.transaction.as_slice());
        put(out, self.proof.as_slice());
    }
}

/// What was wrong, in a form that a person can read too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorInfo {
    /// What was wrong.
    pub code: ErrorCode,
    /// Details; cut to 256 bytes on the wire.
    pub text: String,
}

layout!(
    struct ErrorHeader {
        code: U16,
        text_size: U16,
    }
);

impl ErrorInfo {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let header: &ErrorHeader = reader.fixed()?;
        let code = read_code(header.code.get())?;
        Ok(Self { code, text: read_text(reader, header.text_size.get(), ERROR_TEXT_SIZE_MAX)? })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let text = cut(&self.text, ERROR_TEXT_SIZE_MAX);
        put(out, &ErrorHeader { code: U16::new(self.code.number()), text_size: text_size(text) });
        put(out, text.as_bytes());
    }
}

pub(super) fn read_code(number: u16) -> Result<ErrorCode, DecodeError> {
    let max = ErrorCode::ALL.last().map_or(0, |code| code.number());
    let (found, max) = (number.into(), max.into());
    let unknown = DecodeError::Range { field: "error code", found, min: 1, max };
    ErrorCode::from_number(number).ok_or(unknown)
}

fn read_text(reader: &mut Reader<'_>, size: u16, max: u16) -> Result<String, DecodeError> {
    check_range("text size", size.into(), 0, max.into())?;
    let bytes = reader.bytes(usize::from(size))?;
    let text = core::str::from_utf8(bytes);
    text.map(str::to_owned).map_err(|_| DecodeError::NotCanonical { field: "text" })
}

/// The longest beginning of `text` that fits `max` bytes and ends between characters.
fn cut(text: &str, max: u16) -> &str {
    let mut end = text.len().min(usize::from(max));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.split_at(end).0
}

fn text_size(text: &str) -> U16 {
    U16::new(u16::try_from(text.len()).unwrap_or(u16::MAX))
}

const _: () = assert!(
    FRAME_BODY_SIZE_MAX > TX_SIZE_MAX + RECEIPT_PROOF_SIZE_MAX + 256,
    "the largest transaction with its proof must fit an answer"
);
