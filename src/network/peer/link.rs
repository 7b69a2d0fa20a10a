//! One end of a link, without its socket.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hufu_crypto::{Verdict, Verifier, VerifyItem};
use hufu_types::codec::{DecodeError, Reader, check_range, check_reserved, index, put};
use hufu_types::{Address, BatchDigest, BlockDigest, ChainId, Digest, PublicKey, Signature};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::codes::{BulkKind, FAREWELL_HEADER_SIZE, PeerCode, PeerKind};
use super::hello::{NONCE_SIZE, PEER_MAGIC, PEER_VERSIONS, PeerHello, Side, proof_digest};
use super::outbox::Outbox;
use super::parts::Receiving;
use crate::channel::Channel;
use crate::frame::{self, Frame};
use crate::limits::{
    ERROR_TEXT_SIZE_MAX, FRAME_HEADER_SIZE, PEER_CONSENSUS_SIZE_MAX, PEER_DIGESTS_COUNT_MAX,
    PEER_HEIGHTS_COUNT_MAX, PEER_PART_SIZE_MAX,
};

/// Most plain bytes held undecoded: one whole frame of any kind and as much again.
const PLAIN_BYTES_MAX: usize = 2 * (FRAME_HEADER_SIZE + PEER_PART_SIZE_MAX as usize + 64);

const _: () = assert!(
    PEER_CONSENSUS_SIZE_MAX <= PEER_PART_SIZE_MAX,
    "no control frame is larger than a part, so a whole frame always fits the buffer"
);

/// What a node allows one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Bytes of control frames that may wait; a peer that lets them pile up is given up.
    pub control_bytes_max: usize,
    /// Bytes of bulk messages that may wait; one more may stand on top.
    pub bulk_bytes_max: usize,
    /// From the first byte to the open link.
    pub handshake_nanos: u64,
    /// Between two pings.
    pub ping_nanos: u64,
    /// Without any byte heard.
    pub idle_nanos: u64,
}

impl Default for LinkConfig {
    /// 4 MiB of control, 64 MiB of bulk, 5 s to open, a ping a second, 5 s of silence.
    fn default() -> Self {
        Self {
            control_bytes_max: 4 << 20,
            bulk_bytes_max: 64 << 20,
            handshake_nanos: 5_000_000_000,
            ping_nanos: 1_000_000_000,
            idle_nanos: 5_000_000_000,
        }
    }
}

/// Who this end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkIdentity {
    /// The chain.
    pub chain_id: ChainId,
    /// This validator.
    pub address: Address,
    /// Its link key, which is not its vote key.
    pub key: PublicKey,
}

/// The link keys of all validators.
pub type PeerKeys = BTreeMap<Address, PublicKey>;

/// What all links of a node have in common.
#[derive(Clone)]
pub struct LinkSetup {
    /// Bounds and times.
    pub config: LinkConfig,
    /// Who this end is.
    pub identity: LinkIdentity,
    /// Who the other end may be.
    pub peers: Arc<PeerKeys>,
    /// Judges proofs.
    pub verifier: Arc<dyn Verifier>,
}

/// What a link tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// Sign this with the link key and answer with [`PeerLink::prove`].
    Sign(Digest),
    /// Both ends are who they say; messages pass from here on.
    Opened(Address),
    /// A consensus message, not looked into.
    Consensus(Box<[u8]>),
    /// A proposed block, not looked into.
    Block(Box<[u8]>),
    /// The last height that is decided and durable there.
    Tip {
        /// The height.
        height: u64,
        /// Its block.
        block: BlockDigest,
    },
    /// The peer wants these batches.
    BatchesWanted(Vec<BatchDigest>),
    /// The peer does not have these batches, which were wanted.
    BatchesAbsent(Vec<BatchDigest>),
    /// The peer has verified these batches and has them on disk.
    BatchesHeld(Vec<BatchDigest>),
    /// The peer wants decided heights.
    HeightsWanted {
        /// The first.
        from: u64,
        /// How many, 1..=64.
        count: u32,
    },
    /// The peer wants all batches of this decided height.
    BodiesWanted(u64),
    /// The peer does not have this height, whose batches were wanted.
    BodiesAbsent(u64),
    /// A whole bulk message, not looked into.
    Bulk(BulkKind, Arc<[u8]>),
    /// The link has ended; what can still be sent is its farewell. Comes once, as the last event.
    Closed(PeerCode, String),
}

/// Counts since the link was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Bytes taken in.
    pub bytes_received: u64,
    /// Bytes handed to the socket.
    pub bytes_sent: u64,
    /// Whole frames taken in.
    pub frames_received: u64,
    /// Bulk messages refused because too much waited.
    pub bulk_refused: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The other end's hello is awaited.
    Greeting,
    /// Proofs are made and judged.
    Proving,
    /// Messages pass.
    Open,
    /// The farewell leaves.
    Closing,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct TipBody {
    height: U64,
    block: BlockDigest,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RangeBody {
    from: U64,
    count: U32,
    reserved: [u8; 4],
}

/// One end of a link between two validators.
pub struct PeerLink {
    setup: LinkSetup,
    channel: Box<dyn Channel>,
    side: Side,
    phase: Phase,
    own: PeerHello,
    /// Whom the dialler means to reach; for the acceptor whoever said hello.
    peer: Option<Address>,
    /// The other end's hello.
    other: Option<PeerHello>,
    /// The other end's proof was good.
    is_proven: bool,
    has_sent_proof: bool,
    plain: Vec<u8>,
    start: usize,
    receiving: Receiving,
    out: Outbox,
    events: VecDeque<LinkEvent>,
    opens_until: u64,
    heard_at: u64,
    pinged_at: u64,
    round_trip_nanos: Option<u64>,
    counters: LinkCounters,
}

impl PeerLink {
    /// The end that dialled `peer`; `nonce` is fresh entropy, `now` monotonic nanoseconds.
    ///
    /// # Panics
    /// Unless this validator's address is the smaller one: only that one dials.
    #[must_use]
    pub fn dial(
        setup: &LinkSetup,
        peer: Address,
        nonce: [u8; NONCE_SIZE],
        channel: Box<dyn Channel>,
        now: u64,
    ) -> Self {
        assert!(setup.identity.address < peer, "the smaller address dials");
        let mut link = Self::new(setup, Side::Dialler, nonce, channel, now);
        link.peer = Some(peer);
        link.say_hello();
        link
    }

    /// The end that was dialled.
    #[must_use]
    pub fn accept(
        setup: &LinkSetup,
        nonce: [u8; NONCE_SIZE],
        channel: Box<dyn Channel>,
        now: u64,
    ) -> Self {
        Self::new(setup, Side::Acceptor, nonce, channel, now)
    }

    fn new(
        setup: &LinkSetup,
        side: Side,
        nonce: [u8; NONCE_SIZE],
        channel: Box<dyn Channel>,
        now: u64,
    ) -> Self {
        let LinkSetup { config, identity, .. } = *setup;
        Self {
            setup: setup.clone(),
            own: PeerHello::new(identity.chain_id, identity.address, nonce),
            out: Outbox::new(config.control_bytes_max, config.bulk_bytes_max),
            opens_until: now.saturating_add(config.handshake_nanos),
            channel,
            side,
            phase: Phase::Greeting,
            peer: None,
            other: None,
            is_proven: false,
            has_sent_proof: false,
            plain: Vec::new(),
            start: 0,
            receiving: Receiving::default(),
            events: VecDeque::new(),
            heard_at: now,
            pinged_at: now,
            round_trip_nanos: None,
            counters: LinkCounters::default(),
        }
    }

    /// Takes bytes from the socket; returns how many. Fewer than given means: take events out
    /// first.
    pub fn receive(&mut self, wire: &[u8], now: u64) -> usize {
        if self.phase == Phase::Closing {
            return wire.len();
        }
        if self.start > 0 {
            self.plain.drain(..self.start);
            self.start = 0;
        }
        let room = PLAIN_BYTES_MAX.saturating_sub(self.plain.len()).min(wire.len());
        let (offered, _) = wire.split_at(room);
        match self.channel.receive(offered, &mut self.plain) {
            Ok(taken) => {
                // Whoever looks for bytes and finds none has heard nothing.
                if taken > 0 {
                    self.heard_at = now;
                }
                self.counters.bytes_received += taken as u64;
                taken
            }
            Err(fault) => {
                self.close(PeerCode::ChannelFailed, &fault.to_string());
                wire.len()
            }
        }
    }

    /// The next event, or `None` until more bytes are there.
    pub fn next_event(&mut self, now: u64) -> Option<LinkEvent> {
        while self.events.is_empty() && self.phase != Phase::Closing {
            let plain = core::mem::take(&mut self.plain);
            let found = frame::split_where(plain.get(self.start..).unwrap_or_default(), |_| true);
            match found {
                Ok(None) => {
                    self.plain = plain;
                    return None;
                }
                Ok(Some(frame)) => {
                    self.start += frame.size();
                    self.counters.frames_received += 1;
                    if let Err((code, text)) = self.handle(&frame, now) {
                        self.close(code, &text);
                    }
                }
                Err(fault) => self.close(PeerCode::from(&fault), &fault.to_string()),
            }
            self.plain = plain;
        }
        self.events.pop_front()
    }

    fn handle(&mut self, frame: &Frame<'_, PeerKind>, now: u64) -> Result<(), (PeerCode, String)> {
        if frame.request != 0 {
            return Err((PeerCode::Malformed, "a frame between peers has request id 0".to_owned()));
        }
        let phase = self.phase;
        let out_of_turn =
            || (PeerCode::Malformed, format!("a {} frame while {phase:?}", frame.kind));
        let malformed = |fault: DecodeError| (PeerCode::Malformed, fault.to_string());
        match (phase, frame.kind) {
            (_, PeerKind::Farewell) => {
                let (code, text) = read_farewell(frame.body).map_err(malformed)?;
                let text = format!("the peer ends the link: {code}: {text}");
                self.end(PeerCode::Farewell, text);
                Ok(())
            }
            (Phase::Greeting, PeerKind::Hello) => {
                let hello = PeerHello::read(frame.body).map_err(malformed)?;
                self.greet(hello)
            }
            (Phase::Proving, PeerKind::Proof) => {
                let signature = read_one::<Signature>(frame.body).map_err(malformed)?;
                self.judge_proof(signature, now)
            }
            (Phase::Open, _) => self.take(frame, now).map_err(malformed)?.ok_or_else(out_of_turn),
            _ => Err(out_of_turn()),
        }
    }

    fn greet(&mut self, hello: PeerHello) -> Result<(), (PeerCode, String)> {
        if hello.magic != PEER_MAGIC {
            return Err((PeerCode::BadMagic, "this is a peer port of a hufu node".to_owned()));
        }
        if hello.common_version().is_none() {
            let (min, max) = PEER_VERSIONS;
            return Err((PeerCode::VersionUnsupported, format!("this node speaks {min}..={max}")));
        }
        if hello.chain_id != self.setup.identity.chain_id {
            let text = format!("this is chain {}", self.setup.identity.chain_id);
            return Err((PeerCode::WrongChain, text));
        }
        let (address, own) = (hello.address, self.setup.identity.address);
        if !self.setup.peers.contains_key(&address) || self.peer.is_some_and(|peer| peer != address)
        {
            return Err((PeerCode::UnknownPeer, format!("{address} is not expected here")));
        }
        if self.side == Side::Acceptor && address >= own {
            return Err((PeerCode::WrongDirection, "the smaller address dials".to_owned()));
        }
        self.peer = Some(address);
        self.other = Some(hello);
        self.phase = Phase::Proving;
        match self.side {
            Side::Acceptor => self.say_hello(),
            // Whoever dials proves himself first, so that a stranger cannot make a card sign.
            Side::Dialler => self.ask_to_sign(),
        }
        Ok(())
    }

    /// The two hellos, the dialler's first.
    fn hellos(&self) -> Option<(&PeerHello, &PeerHello)> {
        let other = self.other.as_ref()?;
        Some(match self.side {
            Side::Dialler => (&self.own, other),
            Side::Acceptor => (other, &self.own),
        })
    }

    fn ask_to_sign(&mut self) {
        let Some((dialler, acceptor)) = self.hellos() else { return };
        let digest = proof_digest(self.side, &self.setup.identity.key, dialler, acceptor);
        self.events.push_back(LinkEvent::Sign(digest));
    }

    fn judge_proof(&mut self, signature: &Signature, now: u64) -> Result<(), (PeerCode, String)> {
        let invalid = |text: &str| Err((PeerCode::ProofInvalid, text.to_owned()));
        if self.is_proven || (self.side == Side::Dialler && !self.has_sent_proof) {
            return invalid("a proof out of turn");
        }
        let key = self.peer.and_then(|peer| self.setup.peers.get(&peer).copied());
        let (Some(key), Some((dialler, acceptor))) = (key, self.hellos()) else {
            return invalid("nobody said hello");
        };
        let digest = proof_digest(self.side.other(), &key, dialler, acceptor);
        let item = VerifyItem { key: &key, digest, signature };
        if self.setup.verifier.verify(item) != Verdict::Valid {
            return invalid("the proof is not signed with the link key of that validator");
        }
        self.is_proven = true;
        match self.side {
            Side::Dialler => self.open(now),
            Side::Acceptor => self.ask_to_sign(),
        }
        Ok(())
    }

    /// The answer to [`LinkEvent::Sign`].
    pub fn prove(&mut self, signature: &Signature, now: u64) {
        if self.phase != Phase::Proving || self.has_sent_proof {
            return;
        }
        self.has_sent_proof = true;
        let _first: bool = self.out.control(PeerKind::Proof, |out| put(out, signature));
        if self.side == Side::Acceptor {
            self.open(now);
        }
    }

    fn open(&mut self, now: u64) {
        let Some(peer) = self.peer else { return };
        self.phase = Phase::Open;
        self.pinged_at = now;
        self.events.push_back(LinkEvent::Opened(peer));
    }

    /// Takes a message of an open link; `None` for a kind that has no place in it.
    fn take(&mut self, frame: &Frame<'_, PeerKind>, now: u64) -> Result<Option<()>, DecodeError> {
        let event = match frame.kind {
            PeerKind::Consensus => LinkEvent::Consensus(frame.body.into()),
            PeerKind::Block => LinkEvent::Block(frame.body.into()),
            PeerKind::Tip => {
                let body = read_one::<TipBody>(frame.body)?;
                LinkEvent::Tip { height: body.height.get(), block: body.block }
            }
            PeerKind::BatchesWanted => LinkEvent::BatchesWanted(read_digests(frame.body)?),
            PeerKind::BatchesAbsent => LinkEvent::BatchesAbsent(read_digests(frame.body)?),
            PeerKind::BatchesHeld => LinkEvent::BatchesHeld(read_digests(frame.body)?),
            PeerKind::HeightsWanted => {
                let body = read_one::<RangeBody>(frame.body)?;
                check_reserved("heights wanted", &body.reserved)?;
                let (from, count) = (body.from.get(), body.count.get());
                check_range("heights wanted", count.into(), 1, PEER_HEIGHTS_COUNT_MAX.into())?;
                check_range("first height wanted", from, 1, u64::MAX - u64::from(count))?;
                LinkEvent::HeightsWanted { from, count }
            }
            PeerKind::BodiesWanted => LinkEvent::BodiesWanted(read_height(frame.body)?),
            PeerKind::BodiesAbsent => LinkEvent::BodiesAbsent(read_height(frame.body)?),
            PeerKind::Part => match self.receiving.part(frame.body)? {
                Some((kind, bytes)) => LinkEvent::Bulk(kind, bytes),
                None => return Ok(Some(())),
            },
            PeerKind::Ping => {
                let clock = *read_one::<U64>(frame.body)?;
                self.say(PeerKind::Pong, |out| put(out, &clock));
                return Ok(Some(()));
            }
            PeerKind::Pong => {
                let sent = read_one::<U64>(frame.body)?.get();
                // A clock this end never sent says nothing about the way.
                self.round_trip_nanos = now.checked_sub(sent).or(self.round_trip_nanos);
                return Ok(Some(()));
            }
            PeerKind::Hello | PeerKind::Proof | PeerKind::Farewell => return Ok(None),
        };
        self.events.push_back(event);
        Ok(Some(()))
    }

    fn say_hello(&mut self) {
        let own = self.own;
        self.say(PeerKind::Hello, |out| put(out, &own));
    }

    /// Adds a control frame; a peer that lets too many wait is given up.
    fn say(&mut self, kind: PeerKind, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.out.control(kind, write) {
            self.close(PeerCode::SlowPeer, "control messages pile up");
        }
    }

    fn say_open(&mut self, kind: PeerKind, write: impl FnOnce(&mut Vec<u8>)) {
        if self.phase == Phase::Open {
            self.say(kind, write);
        }
    }

    /// Sends a consensus message. On a link that is not open nothing is sent; what a peer missed it
    /// is told when it opens.
    ///
    /// # Panics
    /// If it is larger than [`PEER_CONSENSUS_SIZE_MAX`]: consensus keeps its own limits.
    pub fn send_consensus(&mut self, message: &[u8]) {
        self.say_open(PeerKind::Consensus, |out| out.extend_from_slice(message));
    }

    /// Sends a proposed block, canonical bytes.
    ///
    /// # Panics
    /// If it is larger than a block can be.
    pub fn send_block(&mut self, block: &[u8]) {
        self.say_open(PeerKind::Block, |out| out.extend_from_slice(block));
    }

    /// Tells the last height that is decided and durable here.
    pub fn send_tip(&mut self, height: u64, block: BlockDigest) {
        self.say_open(PeerKind::Tip, |out| put(out, &TipBody { height: U64::new(height), block }));
    }

    /// Asks for batches, any number.
    pub fn want_batches(&mut self, digests: &[BatchDigest]) {
        self.send_digests(PeerKind::BatchesWanted, digests);
    }

    /// Answers that batches which were wanted are not here.
    pub fn lack_batches(&mut self, digests: &[BatchDigest]) {
        self.send_digests(PeerKind::BatchesAbsent, digests);
    }

    /// Tells that batches are verified and durable here.
    pub fn hold_batches(&mut self, digests: &[BatchDigest]) {
        self.send_digests(PeerKind::BatchesHeld, digests);
    }

    fn send_digests(&mut self, kind: PeerKind, digests: &[BatchDigest]) {
        for some in digests.chunks(index(PEER_DIGESTS_COUNT_MAX)) {
            self.say_open(kind, |out| put(out, some));
        }
    }

    /// Asks for `count` decided heights from `from` on.
    ///
    /// # Panics
    /// Unless `count` is 1..=64.
    pub fn want_heights(&mut self, from: u64, count: u32) {
        assert!((1..=PEER_HEIGHTS_COUNT_MAX).contains(&count), "a request keeps its limit");
        let body = RangeBody { from: U64::new(from), count: U32::new(count), reserved: [0; 4] };
        self.say_open(PeerKind::HeightsWanted, |out| put(out, &body));
    }

    /// Asks for all batches of a decided height; they come one by one, or
    /// [`LinkEvent::BodiesAbsent`] does.
    ///
    /// # Panics
    /// If `height` is 0, which has no block.
    pub fn want_bodies(&mut self, height: u64) {
        assert!(height > 0, "the genesis has no batches");
        self.say_open(PeerKind::BodiesWanted, |out| put(out, &U64::new(height)));
    }

    /// Answers that a height whose batches were wanted is not here.
    pub fn lack_bodies(&mut self, height: u64) {
        self.say_open(PeerKind::BodiesAbsent, |out| put(out, &U64::new(height)));
    }

    /// Sends a bulk message behind those that wait; `false` if too much waits or the link is not
    /// open, and then the peer will ask for it.
    ///
    /// # Panics
    /// If it is empty or larger than its kind allows.
    #[must_use]
    pub fn send_bulk(&mut self, kind: BulkKind, bytes: Arc<[u8]>) -> bool {
        let is_taken = self.phase == Phase::Open && self.out.bulk(kind, bytes);
        self.counters.bulk_refused += u64::from(!is_taken);
        is_taken
    }

    /// Bytes for the socket: control first, then at most one part of bulk.
    pub fn transmit(&mut self) -> &[u8] {
        if self.phase != Phase::Closing {
            self.out.fill(&mut *self.channel);
        }
        self.out.unsent()
    }

    /// The socket has taken this many of them.
    pub fn sent(&mut self, count: usize) {
        self.out.sent(count);
        self.counters.bytes_sent += count as u64;
    }

    /// This end does not read at the moment, so that silence says nothing about the other one.
    pub const fn is_not_listening(&mut self, now: u64) {
        self.heard_at = now;
    }

    /// Ends a link that took too long to open or has been silent too long, and keeps an open one
    /// alive.
    pub fn tick(&mut self, now: u64) {
        match self.phase {
            Phase::Greeting | Phase::Proving if now >= self.opens_until => {
                self.close(PeerCode::HandshakeTimeout, "the link did not open in time");
            }
            Phase::Open if now >= self.heard_at.saturating_add(self.setup.config.idle_nanos) => {
                self.close(PeerCode::IdleTimeout, "nothing was heard");
            }
            Phase::Open if now >= self.pinged_at.saturating_add(self.setup.config.ping_nanos) => {
                self.pinged_at = now;
                self.say(PeerKind::Ping, |out| put(out, &U64::new(now)));
            }
            _ => {}
        }
    }

    /// When [`PeerLink::tick`] has something to do; `None` once the link has ended.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        match self.phase {
            Phase::Greeting | Phase::Proving => Some(self.opens_until),
            Phase::Open => {
                let ping = self.pinged_at.saturating_add(self.setup.config.ping_nanos);
                Some(ping.min(self.heard_at.saturating_add(self.setup.config.idle_nanos)))
            }
            Phase::Closing => None,
        }
    }

    /// Ends the link with a farewell.
    pub fn close(&mut self, code: PeerCode, text: &str) {
        if self.phase == Phase::Closing {
            return;
        }
        let cut = text.floor_char_boundary(usize::from(ERROR_TEXT_SIZE_MAX));
        let words = text.get(..cut).unwrap_or_default();
        let _last: bool = self.out.control(PeerKind::Farewell, |out| {
            put(out, &[U16::new(code.number()), U16::ZERO]);
            out.extend_from_slice(words.as_bytes());
        });
        self.end(code, text.to_owned());
    }

    fn end(&mut self, code: PeerCode, text: String) {
        self.phase = Phase::Closing;
        self.out.farewell(&mut *self.channel);
        self.events.push_back(LinkEvent::Closed(code, text));
    }

    /// Who is at the other end; proven once the link is open.
    #[must_use]
    pub const fn peer(&self) -> Option<Address> {
        self.peer
    }

    /// Whether messages pass.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether the link has ended and only its farewell still leaves.
    #[must_use]
    pub fn has_closed(&self) -> bool {
        self.phase == Phase::Closing
    }

    /// Time of the last ping there and back.
    #[must_use]
    pub const fn round_trip_nanos(&self) -> Option<u64> {
        self.round_trip_nanos
    }

    /// Bytes of bulk that wait.
    #[must_use]
    pub const fn bulk_bytes(&self) -> usize {
        self.out.bulk_bytes()
    }

    /// Counts since the link was made.
    #[must_use]
    pub const fn counters(&self) -> LinkCounters {
        self.counters
    }
}

fn read_one<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    body: &[u8],
) -> Result<&T, DecodeError> {
    let mut reader = Reader::new(body);
    let value = reader.fixed()?;
    reader.finish().map(|()| value)
}

fn read_height(body: &[u8]) -> Result<u64, DecodeError> {
    let height = read_one::<U64>(body)?.get();
    check_range("height of bodies", height, 1, u64::MAX - 1).map(|()| height)
}

fn read_digests(body: &[u8]) -> Result<Vec<BatchDigest>, DecodeError> {
    let mut reader = Reader::new(body);
    let digests: &[BatchDigest] = reader.slice(body.len() / size_of::<BatchDigest>())?;
    reader.finish()?;
    Ok(digests.to_vec())
}

fn read_farewell(body: &[u8]) -> Result<(String, String), DecodeError> {
    let mut reader = Reader::new(body);
    let [number, reserved]: [U16; 2] = *reader.fixed()?;
    check_reserved("farewell", reserved.as_bytes())?;
    let text = body.get(index(FAREWELL_HEADER_SIZE)..).unwrap_or_default();
    // A code of a later build is still worth reading.
    let code = PeerCode::from_number(number.get());
    let code = code.map_or_else(|| format!("code {}", number.get()), |code| code.to_string());
    Ok((code, String::from_utf8_lossy(text).into_owned()))
}
