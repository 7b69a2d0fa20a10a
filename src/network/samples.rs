//! One value of every message, for the tests of this crate.

use hufu_types::receipt::Failure;
use hufu_types::{
    Address, AssetCode, BlockDigest, BlockHeader, ChainId, Digest, DomainPrefix, FailureCode, Kind,
    Leg, Operation, PublicKey, Receipt, RefusalCode, Signature, Strength, Transaction,
    TransactionBuilder, TxDigest, TxId,
};
use zerocopy::little_endian::{U32, U64, U128};

use crate::codes::ErrorCode;
use crate::message::WaitFor;
use crate::message::answer::{
    AccountInfo, AccountState, BlockInfo, ErrorInfo, Holding, Mandate, NodeState, StatusInfo,
    TransactionInfo, Welcome,
};
use crate::message::event::{
    Credit, Cursor, Event, EventContent, Filter, Subscribe, SubscribeStart, SubscriptionEnd,
    Unsubscribe,
};
use crate::message::request::{Hello, QueryAccount, QueryBlock, QueryTransaction, Wait};
use crate::message::submit::StatusEntry;
use crate::message::{ClientMessage, ServerMessage};

pub(crate) const CHAIN: ChainId = ChainId(Digest([7; 32]));

/// A canonical transaction; its signature is not a real one.
pub(crate) fn transaction(nonce: u64, valid_until: u64) -> Transaction {
    let builder = TransactionBuilder::new(CHAIN, PublicKey([3; 64]), nonce, valid_until);
    let operation = Operation::Notarise { digest: &Digest([5; 32]), memo: b"a memo" };
    let unsigned = builder.operation(operation).unsigned();
    TransactionBuilder::join(unsigned, &Signature([9; 64])).unwrap()
}

/// A transaction in the right form that names more state keys than one may.
pub(crate) fn greedy_transaction() -> Vec<u8> {
    let (asset, amount) = (AssetCode::new("USD").unwrap(), U128::new(1));
    let legs = [Leg { asset, from: Address([1; 20]), to: Address([2; 20]), amount }; 256];
    let builder = TransactionBuilder::new(CHAIN, PublicKey([3; 64]), 1, 20);
    let settle = |builder: TransactionBuilder, _| builder.operation(Operation::Settle(&legs));
    let unsigned = (0..6).fold(builder, settle).unsigned();
    [unsigned.as_slice(), &[9; Signature::SIZE]].concat()
}

pub(crate) fn id_of(transaction: &Transaction) -> TxId {
    hufu_types::TransactionView::parse(transaction.bytes()).unwrap().id()
}

pub(crate) fn receipt(height: u64, index: u32, id: TxId) -> Receipt {
    Receipt::new(CHAIN, height, index, id, TxDigest(Digest([6; 32])), Ok(()))
}

pub(crate) fn block_header(height: u64) -> BlockHeader {
    BlockHeader {
        prefix: DomainPrefix::new(Kind::BlockHeader, CHAIN),
        height: U64::new(height),
        time_millis: U64::new(1_700_000_000_000),
        parent: BlockDigest(Digest([1; 32])),
        proposer: Address([2; 20]),
        batches_count: U32::new(1),
        transactions_count: U32::new(2),
        transactions_root: Digest([3; 32]),
        executed_height: U64::new(height - 1),
        state_root: Digest([4; 32]),
        receipts_root: Digest([5; 32]),
        receipts_count: U32::new(2),
        validators: Digest([6; 32]),
        present: U128::new(3),
    }
}

pub(crate) fn transaction_event(height: u64, index: u32) -> Event {
    let receipt = receipt(height, index, TxId(Digest([8; 32])));
    let content = EventContent::Transaction { sender: Address([4; 20]), receipt };
    Event { cursor: Cursor { height, index }, content }
}

pub(crate) fn block_event(height: u64, index: u32) -> Event {
    let content = EventContent::Block(block_header(height));
    Event { cursor: Cursor { height, index }, content }
}

pub(crate) fn status_info() -> StatusInfo {
    StatusInfo {
        height: 9,
        certified_height: 8,
        oldest_height: 1,
        time_millis: 1_700_000_000_000,
        uptime_seconds: 60,
        pending_bytes: 1_000,
        pending_transactions: 4,
        peers_count: 3,
        state: NodeState::Running,
        block: BlockDigest(Digest([1; 32])),
        state_root: Digest([2; 32]),
        version: "0.1.0".to_owned(),
    }
}

fn account_info() -> AccountInfo {
    let (usd, eur) = (AssetCode::new("USD").unwrap(), AssetCode::new("EUR").unwrap());
    AccountInfo {
        height: 9,
        address: Address([1; 20]),
        state: AccountState::Open,
        holdings: vec![Holding::new(eur, 5, true), Holding::new(usd, u128::MAX, false)],
        mandates: vec![Mandate::new(Address([2; 20]), usd, 7, 100)],
        proof: vec![1, 2, 3],
    }
}

pub(crate) fn block_info(ids: Vec<TxId>) -> BlockInfo {
    let block = vec![1; 300];
    BlockInfo { height: 9, block, certificate: vec![2; 132], ids_total: 7, ids_from: 2, ids }
}

fn transaction_info() -> TransactionInfo {
    let transaction = transaction(1, 10);
    let id = id_of(&transaction);
    let failure = Failure { code: FailureCode::BalanceInsufficient, operation: Some(3) };
    let digest = TxDigest(Digest([6; 32]));
    TransactionInfo {
        height: 9,
        strength: Strength::Certified,
        receipt: Receipt::new(CHAIN, 8, 0, id, digest, Err(failure)),
        transaction: transaction.bytes().to_vec(),
        proof: vec![4; 40],
    }
}

/// Whole frames of every kind a client sends.
pub(crate) fn client_frames() -> Vec<Vec<u8>> {
    let cursor = Cursor { height: 4, index: 2 };
    let account = Address([1; 20]);
    let start = SubscribeStart::At(cursor);
    let id = TxId(Digest([8; 32]));
    let messages = [
        ClientMessage::Hello(Hello::new(Some(CHAIN))),
        ClientMessage::Wait(Wait {
            id,
            until_height: 600,
            strength: Strength::Certified,
            with_proof: true,
        }),
        ClientMessage::QueryStatus,
        ClientMessage::QueryAccount(QueryAccount { address: account, with_proof: true }),
        ClientMessage::QueryBlock(QueryBlock { height: Some(3), ids_from: 16 }),
        ClientMessage::QueryTransaction(QueryTransaction { id, with_proof: false }),
        ClientMessage::Subscribe(Subscribe {
            start: SubscribeStart::Now,
            filter: Filter::All,
            credits: 0,
        }),
        ClientMessage::Subscribe(Subscribe { start, filter: Filter::Account(account), credits: 9 }),
        ClientMessage::Credit(Credit { subscription: 8, events: 100 }),
        ClientMessage::Unsubscribe(Unsubscribe { subscription: 8 }),
        ClientMessage::Ping,
    ];
    let mut frames: Vec<Vec<u8>> = messages.iter().map(encode_client).collect();
    let transactions = [transaction(1, 10), transaction(2, 10)];
    frames.push(submit_frame(2, &transactions, WaitFor::Committed, true));
    frames
}

fn encode_client(message: &ClientMessage<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(5, &mut out);
    out
}

/// A submit frame as the client library writes it.
pub(crate) fn submit_frame(
    request: u64,
    transactions: &[Transaction],
    wait: WaitFor,
    with_proof: bool,
) -> Vec<u8> {
    let bodies: Vec<&[u8]> = transactions.iter().map(Transaction::bytes).collect();
    raw_submit_frame(request, &bodies, wait, with_proof)
}

/// A submit frame of any bytes.
pub(crate) fn raw_submit_frame(
    request: u64,
    transactions: &[&[u8]],
    wait: WaitFor,
    with_proof: bool,
) -> Vec<u8> {
    use crate::message::submit::SubmitHeader;
    let mut out = Vec::new();
    crate::frame::write(&mut out, crate::frame::FrameKind::Submit, request, |out| {
        let count = u32::try_from(transactions.len()).unwrap();
        hufu_types::codec::put(out, &SubmitHeader::new(wait, with_proof, count));
        for bytes in transactions {
            hufu_types::codec::put(out, &U32::new(u32::try_from(bytes.len()).unwrap()));
            out.extend_from_slice(bytes);
        }
    });
    out
}

/// Whole frames of every kind a server sends.
pub(crate) fn server_frames() -> Vec<Vec<u8>> {
    let welcome = Welcome {
        version: 1,
        frame_body_size_max: 1 << 20,
        submit_transactions_max: 4_096,
        transactions_in_flight_max: 16_384,
        requests_in_flight_max: 64,
        subscriptions_max: 4,
        chain_id: CHAIN,
        node: Address([1; 20]),
        height: 9,
    };
    let statuses =
        [StatusEntry::new(3, 0, None), StatusEntry::new(3, 1, Some(RefusalCode::SignatureInvalid))];
    let next = Cursor { height: 9, index: 1 };
    let reason = Some(ErrorCode::CursorGone);
    let text = "no such block".to_owned();
    let messages = [
        ServerMessage::Welcome(welcome),
        ServerMessage::Statuses(&statuses),
        ServerMessage::Status(status_info()),
        ServerMessage::Account(account_info()),
        ServerMessage::Block(block_info(vec![TxId(Digest([1; 32])); 2])),
        ServerMessage::Transaction(transaction_info()),
        ServerMessage::Subscribed(next),
        ServerMessage::SubscriptionEnded(SubscriptionEnd { reason: None, next }),
        ServerMessage::SubscriptionEnded(SubscriptionEnd { reason, next }),
        ServerMessage::Pong,
        ServerMessage::Error(ErrorInfo { code: ErrorCode::NotFound, text }),
    ];
    let encode = |message: &ServerMessage<'_>| {
        let mut out = Vec::new();
        message.encode(5, &mut out);
        out
    };
    let mut frames: Vec<Vec<u8>> = messages.iter().map(encode).collect();
    frames.push(receipts_frame());
    frames.push(events_frame());
    frames
}

fn receipts_frame() -> Vec<u8> {
    use crate::message::submit::ReceiptEntry;
    let receipt = receipt(8, 1, TxId(Digest([8; 32])));
    let mut out = Vec::new();
    crate::frame::write(&mut out, crate::frame::FrameKind::Receipts, 0, |out| {
        for (position, proof) in [(0, &[][..]), (1, &[1, 2, 3][..])] {
            let strength = Strength::Committed;
            ReceiptEntry { request: 3, position, strength, receipt: &receipt, proof }.write(out);
        }
    });
    out
}

fn events_frame() -> Vec<u8> {
    use crate::message::event::EventsHeader;
    let mut out = Vec::new();
    crate::frame::write(&mut out, crate::frame::FrameKind::Events, 8, |out| {
        hufu_types::codec::put(out, &EventsHeader::new(Cursor::start_of(9), 14));
        transaction_event(8, 0).write(out);
        block_event(8, 1).write(out);
    });
    out
}
