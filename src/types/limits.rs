//! Protocol limits: the same on all nodes of all chains, each with its unit and its reason.
//!
//! What an operator may choose for one chain is in the genesis ([`crate::genesis::Parameters`]),
//! what he may choose for one node is in that node's configuration; both stay inside the limits of
//! this file.

/// Operations in one transaction, count. Enough for a netting cycle; bounds the work a single
/// signature can ask for.
pub const TX_OPERATIONS_COUNT_MAX: u16 = 1_024;

/// Bytes of one whole transaction, signature included. Holds 1,024 transfers of 80 bytes with room
/// to spare.
pub const TX_SIZE_MAX: u32 = 128 * 1_024;

/// State keys that one transaction may name, count: its nonce and what each operation may touch, as
/// [`crate::Operation::keys_count`] counts them. Bytes do not bound this work: a leg of 72 bytes
/// names six keys.
pub const TX_KEYS_COUNT_MAX: u32 = 8_192;

/// Heights that a transaction's last valid height may lie ahead of the chain's. Bounds the nonces
/// the state must remember.
pub const TX_VALIDITY_HEIGHTS_MAX: u64 = 600;

/// Legs of one settlement, count.
pub const SETTLEMENT_LEGS_COUNT_MAX: u16 = 256;

/// Bytes of the memo of a notarisation.
pub const NOTARISATION_MEMO_SIZE_MAX: u16 = 256;

/// Decimal places an asset may have: 10^28 whole units still fit an amount of 128 bits.
pub const ASSET_DECIMALS_MAX: u8 = 18;

/// Transactions in one batch, count.
pub const BATCH_TRANSACTIONS_COUNT_MAX: u32 = 8_192;

/// Bytes of one batch: one block-log group at its usual size, one frame between peers.
pub const BATCH_SIZE_MAX: u32 = 1_024 * 1_024;

/// State keys that the transactions of one batch may name together, count. Reading a batch counts
/// them, so none with more is stored, proposed or voted for.
pub const BATCH_KEYS_COUNT_MAX: u32 = 8_192;

/// Batches that one block may order, count: 160 ms of batches that eight validators seal every 5 ms
/// each.
pub const BLOCK_BATCHES_COUNT_MAX: u32 = 256;

/// State keys that the batches of one block may name together, count. About 1 us and 300 bytes each
/// while the block is planned and executed on one core, so that the worst block takes 0.3 s and
/// 80 MB.
pub const BLOCK_KEYS_COUNT_MAX: u32 = 1 << 18;

/// Transactions that the batches of one block may hold together, count: 100,000 a second in blocks
/// of half a second; bounds its receipts and what execution does between two heights.
pub const BLOCK_TRANSACTIONS_COUNT_MAX: u32 = 65_536;

/// Bytes of all batches of one block: what a validator that has none of them must fetch and write
/// before it may precommit.
pub const BLOCK_SIZE_MAX: u32 = 32 * 1_024 * 1_024;

/// Mandates that one account may have granted and neither taken back nor used up, count. Enough for
/// one agent in every security of an exchange; bounds what an account keeps in the state for ever.
pub const ACCOUNT_MANDATES_COUNT_MAX: u16 = 4_096;

/// Validators of a chain, count. Certificates carry one signature for each.
pub const VALIDATORS_COUNT_MAX: u32 = 128;

/// Voting power of all validators together; far from overflow when thresholds multiply it by three.
pub const VOTING_POWER_TOTAL_MAX: u64 = 1 << 48;

/// Bytes of a validator's or a chain's name.
pub const NAME_SIZE_MAX: usize = 32;

/// Unix time of a genesis, milliseconds: the end of the year 9999. Blocks have room behind it.
pub const GENESIS_TIME_MILLIS_MAX: u64 = 253_402_300_799_999;

/// Addresses that the genesis may name for one right, count.
pub const GENESIS_GRANTEES_COUNT_MAX: u32 = 1_024;

/// Heights between a block and the header that carries its roots ("d"), largest choice.
pub const CERTIFIED_LAG_HEIGHTS_MAX: u32 = 8;

/// Rounds of one height the engine will go through before it counts as a fault, count.
pub const ROUNDS_COUNT_MAX: u32 = 1 << 20;

/// Logarithm of the number of state buckets: smallest and largest choice of a genesis.
pub const STATE_BUCKETS_LOG2_MIN: u8 = 4;
/// See [`STATE_BUCKETS_LOG2_MIN`]; 2^24 buckets keep 1 GiB of inner nodes.
pub const STATE_BUCKETS_LOG2_MAX: u8 = 24;

/// Entries in one row of a state bucket, count. What one change of the state rewrites and rehashes
/// is one row and the forks above it, however many keys somebody grinds into one bucket: 4 KiB is
/// what a database reads at once. Larger rows cost every change more, smaller ones fork where
/// chance alone fills a bucket.
pub const ROW_ENTRIES_COUNT_MAX: u32 = 64;

/// Children of one fork of a state bucket, count: a fork takes 4 bits of the key hash.
pub const FORK_CHILDREN_COUNT: u32 = 16;

/// Forks from a bucket's top down to a row, count: as often as the key hash has 4 bits left behind
/// those that name the bucket.
pub const STATE_FORKS_COUNT_MAX: u32 = (256 - STATE_BUCKETS_LOG2_MIN as u32) / 4;

/// Bytes of one state proof: header, forks, row, siblings. The same for whoever makes, sends or
/// reads one, so that none that is made is ever refused.
pub const STATE_PROOF_SIZE_MAX: u32 = 12
    + STATE_FORKS_COUNT_MAX * FORK_CHILDREN_COUNT * 36
    + ROW_ENTRIES_COUNT_MAX * 64
    + STATE_BUCKETS_LOG2_MAX as u32 * 32;

/// Bytes of an account with its proof: the account, its holdings and its mandates, each with a
/// state proof. About 450 of them in a state whose keys nobody has ground; an account with more is
/// not proven as a whole.
pub const ACCOUNT_PROOF_SIZE_MAX: u32 = 512 * 1_024;

/// Milliseconds that a header's time may run ahead of a validator's own clock.
pub const HEADER_TIME_AHEAD_MILLIS_MAX: u64 = 2_000;

/// Siblings in one Merkle path, count: trees of up to 2^32 leaves.
pub const MERKLE_PATH_COUNT_MAX: usize = 32;

const _: () = assert!(
    BATCH_SIZE_MAX >= TX_SIZE_MAX + 4_096,
    "the largest transaction must fit a batch with its header"
);
const _: () = assert!(
    TX_OPERATIONS_COUNT_MAX as u32 * 80 + 192 <= TX_SIZE_MAX,
    "a transaction with the most operations must fit when they are transfers"
);
const _: () = assert!(
    ROW_ENTRIES_COUNT_MAX >= 8 && FORK_CHILDREN_COUNT == 1 << 4,
    "where fewer than 4 bits of the key hash are left, all keys there are must fit a row"
);
const _: () = assert!(
    ROW_ENTRIES_COUNT_MAX * 64 <= 8 * 1_024 && STATE_PROOF_SIZE_MAX <= 64 * 1_024,
    "a change rewrites little and a proof is short, also in a bucket that somebody ground full"
);
const _: () = assert!(
    ACCOUNT_PROOF_SIZE_MAX >= 16 * 1_024 + 8 * (STATE_PROOF_SIZE_MAX + 128),
    "an account with a few holdings is proven also where its buckets were ground full"
);
const _: () = assert!(
    SETTLEMENT_LEGS_COUNT_MAX as u32 * 72 + 256 <= TX_SIZE_MAX,
    "the largest settlement must fit a transaction"
);
const _: () = assert!(
    BATCH_KEYS_COUNT_MAX >= TX_KEYS_COUNT_MAX,
    "the transaction with the most keys must fit a batch"
);
const _: () = assert!(
    BATCH_KEYS_COUNT_MAX >= BATCH_TRANSACTIONS_COUNT_MAX,
    "a batch of the most transactions must be possible when they name only their nonces"
);
const _: () = assert!(
    BLOCK_KEYS_COUNT_MAX <= 1 << 18,
    "the worst block must be planned and executed well inside a second and 1 GiB of memory"
);
const _: () = assert!(
    BLOCK_KEYS_COUNT_MAX >= BATCH_KEYS_COUNT_MAX
        && BLOCK_TRANSACTIONS_COUNT_MAX >= BATCH_TRANSACTIONS_COUNT_MAX
        && BLOCK_SIZE_MAX >= BATCH_SIZE_MAX,
    "a block must be able to order any batch alone, or one would stand in the way of all behind it"
);
const _: () = assert!(
    BLOCK_BATCHES_COUNT_MAX >= VALIDATORS_COUNT_MAX,
    "a block must be able to order a batch of every validator"
);
