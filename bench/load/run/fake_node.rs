//! A node for tests: speaks the protocol, keeps balances in a map, and misbehaves on request.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hufu_network::frame::{self, Direction, FrameKind};
use hufu_network::message::answer::{
    AccountInfo, AccountState, Holding, NodeState, StatusInfo, Welcome,
};
use hufu_network::message::submit::{StatusEntry, SubmitView};
use hufu_network::{ClientMessage, ServerMessage};
use hufu_runtime::clock::{Nanos, monotonic};
use hufu_types::{
    Address, AssetCode, BlockDigest, ChainId, Digest, Operation, Receipt, RefusalCode,
    TransactionView, TxDigest, TxId,
};
use zerocopy::IntoBytes;

/// How the node misbehaves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// Every so many submit frames, everything of the frame is committed and the connection dropped
    /// without a word.
    pub(super) drop_every: Option<u64>,
    /// Every so many transactions one is refused as overloaded.
    pub(super) overload_every: Option<u64>,
    /// So many load transactions are refused as expired at first.
    pub(super) expired_first: u64,
    /// Submissions are taken and never answered.
    pub(super) is_silent: bool,
    /// Every so many transactions one has its receipt twice.
    pub(super) repeat_every: Option<u64>,
    /// With this load transaction the node stops answering anybody for so long, once.
    pub(super) stall: Option<(u64, Duration)>,
    /// The height grows by one with every so many milliseconds, and what is not valid any more is
    /// refused.
    pub(super) height_millis: Option<u64>,
}

#[derive(Default)]
struct Ledger {
    receipts: HashMap<TxId, Receipt>,
    balances: BTreeMap<(Address, AssetCode), u128>,
}

struct Shared {
    faults: Faults,
    ledger: Mutex<Ledger>,
    frames: AtomicU64,
    transactions: AtomicU64,
    expired: AtomicU64,
    loaded: AtomicU64,
    started: Nanos,
    stop: AtomicBool,
}

impl Shared {
    fn height(&self) -> u64 {
        let grown = self
            .faults
            .height_millis
            .map_or(0, |millis| monotonic().since(self.started) / 1_000_000 / millis);
        7 + grown
    }

    /// Called with the ledger locked, so that nobody is answered meanwhile.
    fn stall(&self) {
        let number = self.loaded.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some((_, span)) = self.faults.stall.filter(|(at, _)| *at == number) {
            let end = monotonic().after(span);
            while monotonic() < end {
                std::thread::park_timeout(end.duration_since(monotonic()));
            }
        }
    }
}

pub(super) struct FakeNode {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl FakeNode {
    pub(super) fn start(faults: Faults) -> Self {
        Self::listen(Arc::new(Shared {
            faults,
            ledger: Mutex::default(),
            frames: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            expired: AtomicU64::new(faults.expired_first),
            loaded: AtomicU64::new(0),
            started: monotonic(),
            stop: AtomicBool::new(false),
        }))
    }

    /// Another node of the same chain, which agrees with this one at once.
    pub(super) fn beside(&self) -> Self {
        Self::listen(Arc::clone(&self.shared))
    }

    fn listen(shared: Arc<Shared>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::clone(&shared);
        let accept = move || {
            let mut sessions = Vec::new();
            for stream in listener.incoming() {
                if inner.stop.load(Ordering::SeqCst) {
                    break;
                }
                let (stream, inner) = (stream.unwrap(), Arc::clone(&inner));
                let session = std::thread::Builder::new().spawn(move || serve(stream, &inner));
                sessions.push(session.unwrap());
            }
            for session in sessions {
                session.join().unwrap();
            }
        };
        let thread = Some(std::thread::Builder::new().spawn(accept).unwrap());
        Self { address, shared, thread }
    }

    /// Transactions committed.
    pub(super) fn committed(&self) -> usize {
        self.shared.ledger.lock().unwrap().receipts.len()
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) {
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let (mut input, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
    while !shared.stop.load(Ordering::SeqCst) {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(size) => input.extend_from_slice(&chunk[..size]),
            Err(error) if is_pause(&error) => continue,
            Err(_) => return,
        }
        let (mut out, mut used, mut is_dropped) = (Vec::new(), 0, false);
        while let Some(frame) = frame::split(&input[used..], Direction::FromClient).unwrap() {
            let message = ClientMessage::decode(&frame).unwrap();
            is_dropped |= !answer(&message, frame.request, shared, &mut out);
            used += frame.size();
        }
        input.drain(..used);
        if is_dropped || stream.write_all(&out).is_err() {
            return;
        }
    }
}

fn is_pause(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

/// False when the connection is to be dropped.
fn answer(message: &ClientMessage<'_>, request: u64, shared: &Shared, out: &mut Vec<u8>) -> bool {
    match message {
        ClientMessage::Hello(_) => ServerMessage::Welcome(welcome(shared)).encode(request, out),
        ClientMessage::QueryStatus => ServerMessage::Status(status(shared)).encode(request, out),
        ClientMessage::QueryAccount(query) => {
            let account = account(query.address, shared);
            ServerMessage::Account(account).encode(request, out);
        }
        ClientMessage::Wait(wait) => match shared.ledger.lock().unwrap().receipts.get(&wait.id) {
            Some(receipt) => put_receipt(request, 0, receipt, out),
            None => put_status(request, 0, Some(RefusalCode::Expired), out),
        },
        ClientMessage::Submit(view) => return submit(view, request, shared, out),
        other => panic!("{other:?} is not asked by the generator"),
    }
    true
}

fn submit(view: &SubmitView<'_>, request: u64, shared: &Shared, out: &mut Vec<u8>) -> bool {
    if shared.faults.is_silent {
        return true;
    }
    let mut ledger = shared.ledger.lock().unwrap();
    for (position, bytes) in (0_u32..).zip(view.transactions()) {
        let transaction = TransactionView::parse(bytes).unwrap();
        let id = transaction.id();
        let number = shared.transactions.fetch_add(1, Ordering::SeqCst) + 1;
        let is_load = transaction.header().nonce.get() < 1 << 63;
        if is_load {
            shared.stall();
        }
        let refusal = if ledger.receipts.contains_key(&id) {
            Some(RefusalCode::Duplicate)
        } else if hits(shared.faults.overload_every, number) {
            Some(RefusalCode::Overloaded)
        } else if transaction.header().valid_until.get() < shared.height()
            || is_load && take_one(&shared.expired)
        {
            Some(RefusalCode::Expired)
        } else {
            None
        };
        put_status(request, position, refusal, out);
        if refusal.is_none() {
            let height = shared.height();
            let receipt = Receipt::new(ChainId::ZERO, height, 0, id, TxDigest::ZERO, Ok(()));
            ledger.receipts.insert(id, receipt);
            ledger.apply(&transaction);
            put_receipt(request, position, &receipt, out);
            if hits(shared.faults.repeat_every, number) {
                put_receipt(request, position, &receipt, out);
            }
        }
    }
    let frames = shared.frames.fetch_add(1, Ordering::SeqCst) + 1;
    !hits(shared.faults.drop_every, frames)
}

fn hits(every: Option<u64>, number: u64) -> bool {
    every.is_some_and(|every| number.is_multiple_of(every))
}

fn take_one(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Ledger {
    fn apply(&mut self, transaction: &TransactionView<'_>) {
        for operation in transaction.operations() {
            match operation {
                Operation::IssueAsset(body) => {
                    let key = (body.account, body.asset);
                    *self.balances.entry(key).or_default() += body.amount.get();
                }
                Operation::Settle(legs) => {
                    for leg in legs {
                        let from = self.balances.get_mut(&(leg.from, leg.asset)).unwrap();
                        *from = from.checked_sub(leg.amount.get()).expect("issued enough");
                        let to = self.balances.entry((leg.to, leg.asset)).or_default();
                        *to += leg.amount.get();
                    }
                }
                _ => {}
            }
        }
    }
}

fn put_status(request: u64, position: u32, refusal: Option<RefusalCode>, out: &mut Vec<u8>) {
    let entry = StatusEntry::new(request, position, refusal);
    ServerMessage::Statuses(&[entry]).encode(0, out);
}

fn put_receipt(request: u64, position: u32, receipt: &Receipt, out: &mut Vec<u8>) {
    frame::write(out, FrameKind::Receipts, 0, |out| {
        out.extend_from_slice(&request.to_le_bytes());
        out.extend_from_slice(&position.to_le_bytes());
        out.extend_from_slice(&[1, 0, 0, 0]);
        out.extend_from_slice(&0_u32.to_le_bytes());
        out.extend_from_slice(receipt.as_bytes());
    });
}

fn welcome(shared: &Shared) -> Welcome {
    Welcome {
        version: 1,
        frame_body_size_max: 1 << 20,
        submit_transactions_max: 4_096,
        transactions_in_flight_max: 8_192,
        requests_in_flight_max: 16,
        subscriptions_max: 1,
        chain_id: ChainId::ZERO,
        node: Address::ZERO,
        height: shared.height(),
    }
}

fn status(shared: &Shared) -> StatusInfo {
    StatusInfo {
        height: shared.height(),
        certified_height: 6,
        oldest_height: 1,
        time_millis: 1,
        uptime_seconds: 1,
        pending_bytes: 0,
        pending_transactions: 0,
        peers_count: 0,
        state: NodeState::Running,
        block: BlockDigest::ZERO,
        state_root: Digest::ZERO,
        version: "test".to_owned(),
    }
}

fn account(address: Address, shared: &Shared) -> AccountInfo {
    let ledger = shared.ledger.lock().unwrap();
    let held = ledger.balances.iter().filter(|((owner, _), _)| *owner == address);
    AccountInfo {
        height: 7,
        address,
        state: AccountState::Open,
        holdings: held.map(|((_, asset), held)| Holding::new(*asset, *held, false)).collect(),
        mandates: Vec::new(),
        proof: Vec::new(),
    }
}
