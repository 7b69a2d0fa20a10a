use std::collections::BTreeMap;
use std::sync::Arc;

use hufu_crypto::{Signer as _, SoftwareSigner, software_provider};
use hufu_types::{Address, BatchDigest, BlockDigest, ChainId, Digest, Signature};

use super::*;
use crate::channel::PlainChannel;
use crate::frame;
use crate::limits::{FRAME_HEADER_SIZE, PEER_DIGESTS_COUNT_MAX, PEER_PART_SIZE_MAX};

const CHAIN: ChainId = ChainId(Digest([7; 32]));

fn key(number: u8) -> SoftwareSigner {
    SoftwareSigner::from_bytes(&[number; 32]).unwrap()
}

fn address(number: u8) -> Address {
    Address([number; 20])
}

/// Validators 1 and 2 of a chain; each one's link key is `key` of its number.
fn setup(number: u8) -> LinkSetup {
    let keys = (1..=3).map(|number| (address(number), *key(number).public_key()));
    LinkSetup {
        config: LinkConfig::default(),
        identity: LinkIdentity {
            chain_id: CHAIN,
            address: address(number),
            key: *key(number).public_key(),
        },
        peers: Arc::new(keys.collect::<BTreeMap<_, _>>()),
        verifier: software_provider().verifier,
    }
}

type Writer<'a> = &'a dyn Fn(&mut Vec<u8>);

fn channel() -> Box<PlainChannel> {
    Box::new(PlainChannel::new())
}

/// Two ends and the bytes between them.
struct Pair {
    ends: [PeerLink; 2],
    keys: [SoftwareSigner; 2],
    events: [Vec<LinkEvent>; 2],
    now: u64,
    /// Bytes handed over at a time.
    piece: usize,
}

impl Pair {
    fn new(dialler: &LinkSetup, acceptor: &LinkSetup) -> Self {
        let peer = address(2);
        Self {
            ends: [
                PeerLink::dial(dialler, peer, [1; 32], channel(), 0),
                PeerLink::accept(acceptor, [2; 32], channel(), 0),
            ],
            keys: [key(1), key(2)],
            events: [Vec::new(), Vec::new()],
            now: 0,
            piece: usize::MAX,
        }
    }

    fn open() -> Self {
        let mut pair = Self::new(&setup(1), &setup(2));
        pair.run();
        assert!(pair.ends.iter().all(PeerLink::is_open));
        pair.events = [Vec::new(), Vec::new()];
        pair
    }

    /// Passes bytes until neither end has any.
    fn run(&mut self) {
        while self.pass(0) | self.pass(1) {}
    }

    /// Passes one piece from an end to the other; `false` if there was none.
    fn pass(&mut self, from: usize) -> bool {
        let piece = self.ends[from].transmit();
        let mut piece = piece[..piece.len().min(self.piece)].to_vec();
        let count = piece.len();
        self.ends[from].sent(count);
        self.hand_over(1 - from, &mut piece);
        count > 0
    }

    fn hand_over(&mut self, to: usize, bytes: &mut Vec<u8>) {
        loop {
            let taken = self.ends[to].receive(bytes, self.now);
            bytes.drain(..taken);
            while let Some(event) = self.ends[to].next_event(self.now) {
                if let LinkEvent::Sign(digest) = event {
                    let signature = self.keys[to].sign(&digest).unwrap();
                    self.ends[to].prove(&signature, self.now);
                } else {
                    self.events[to].push(event);
                }
            }
            if bytes.is_empty() {
                return;
            }
            assert!(taken > 0, "a link that was emptied takes more");
        }
    }

    fn codes(&self) -> [Option<PeerCode>; 2] {
        self.events.each_ref().map(|events| match events.last() {
            Some(LinkEvent::Closed(code, _)) => Some(*code),
            _ => None,
        })
    }
}

#[test]
fn two_validators_open_a_link_whatever_the_pieces() {
    for piece in [1, 3, 17, 64, usize::MAX] {
        let mut pair = Pair::new(&setup(1), &setup(2));
        pair.piece = piece;
        pair.run();
        assert_eq!(pair.events[0], [LinkEvent::Opened(address(2))]);
        assert_eq!(pair.events[1], [LinkEvent::Opened(address(1))]);
    }
}

#[test]
fn messages_arrive_as_they_were_sent() {
    let mut pair = Pair::open();
    pair.piece = 1_000;
    let most = usize::try_from(PEER_DIGESTS_COUNT_MAX).unwrap();
    let digests: Vec<BatchDigest> =
        (0..=255).cycle().map(|byte| BatchDigest(Digest([byte; 32]))).take(most + 9).collect();
    assert!(digests.len() > most, "more than one request");
    let batch: Arc<[u8]> = (0..200_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let [sender, _] = &mut pair.ends;
    sender.send_consensus(b"vote");
    sender.send_block(b"block");
    sender.send_tip(9, BlockDigest(Digest([9; 32])));
    sender.want_batches(&digests);
    sender.lack_batches(&digests[..1]);
    sender.want_heights(5, 64);
    sender.want_bodies(7);
    sender.lack_bodies(8);
    assert!(sender.send_bulk(BulkKind::Batch, Arc::clone(&batch)));
    assert!(sender.send_bulk(BulkKind::Height, Arc::from(*b"height")));
    pair.run();
    let expected = [
        LinkEvent::Consensus((*b"vote").into()),
        LinkEvent::Block((*b"block").into()),
        LinkEvent::Tip { height: 9, block: BlockDigest(Digest([9; 32])) },
        LinkEvent::BatchesWanted(digests[..most].to_vec()),
        LinkEvent::BatchesWanted(digests[most..].to_vec()),
        LinkEvent::BatchesAbsent(digests[..1].to_vec()),
        LinkEvent::HeightsWanted { from: 5, count: 64 },
        LinkEvent::BodiesWanted(7),
        LinkEvent::BodiesAbsent(8),
        LinkEvent::Bulk(BulkKind::Batch, batch),
        LinkEvent::Bulk(BulkKind::Height, Arc::from(*b"height")),
    ];
    assert_eq!(pair.events[1], expected);
    assert_eq!(pair.ends[0].bulk_bytes(), 0);
}

/// The reason for parts: a vote that comes while a megabyte leaves waits for one part at most.
#[test]
fn a_vote_overtakes_a_batch() {
    let mut pair = Pair::open();
    let batch: Arc<[u8]> = vec![5; 1 << 20].into();
    assert!(pair.ends[0].send_bulk(BulkKind::Batch, Arc::clone(&batch)));
    let before = pair.ends[0].transmit().len();
    assert!(before <= FRAME_HEADER_SIZE + 16 + usize::try_from(PEER_PART_SIZE_MAX).unwrap());
    pair.ends[0].send_consensus(b"vote");
    let mut seen = 0;
    while !pair.events[1].iter().any(|event| matches!(event, LinkEvent::Consensus(_))) {
        seen += pair.ends[0].transmit().len();
        assert!(pair.pass(0), "the vote is under way");
    }
    assert!(seen < 2 * before, "{seen} bytes before the vote was there");
    pair.run();
    assert_eq!(pair.events[1].last(), Some(&LinkEvent::Bulk(BulkKind::Batch, batch)));
}

#[test]
fn strangers_are_refused_and_told_why() {
    let other_chain = |mut setup: LinkSetup| {
        setup.identity.chain_id = ChainId(Digest([8; 32]));
        setup
    };
    let unknown = |mut setup: LinkSetup| {
        setup.identity.address = address(0);
        setup
    };
    let refused = [
        (other_chain(setup(1)), setup(2), PeerCode::WrongChain),
        (unknown(setup(1)), setup(2), PeerCode::UnknownPeer),
        // The acceptor is another validator than the one that was dialled.
        (setup(1), setup(3), PeerCode::UnknownPeer),
    ];
    for (dialler, acceptor, code) in refused {
        let mut pair = Pair::new(&dialler, &acceptor);
        pair.run();
        let codes = pair.codes();
        assert!(codes.contains(&Some(code)), "{codes:?}");
        assert!(codes.contains(&Some(PeerCode::Farewell)), "the other end is told: {codes:?}");
        assert!(pair.events.iter().flatten().all(|event| !matches!(event, LinkEvent::Opened(_))));
    }
}

#[test]
fn a_proof_by_another_key_opens_nothing() {
    for side in 0..2 {
        let mut pair = Pair::new(&setup(1), &setup(2));
        pair.keys[side] = key(9);
        pair.run();
        assert_eq!(pair.codes()[1 - side], Some(PeerCode::ProofInvalid), "side {side}");
        assert!(!pair.events[1 - side].contains(&LinkEvent::Opened(address(1))));
        assert!(!pair.events[1 - side].contains(&LinkEvent::Opened(address(2))));
    }
}

/// A proof is bound to its link: taken from one link it does not open another.
#[test]
fn a_recorded_proof_opens_nothing() {
    let mut first = Pair::new(&setup(1), &setup(2));
    let mut recorded = Vec::new();
    while first.ends[1].peer().is_none() || !first.ends[1].is_open() {
        let piece = first.ends[0].transmit().to_vec();
        recorded.extend_from_slice(&piece);
        let _passed = first.pass(0) | first.pass(1);
    }
    let mut second = PeerLink::accept(&setup(2), [3; 32], channel(), 0);
    let mut rest = recorded.as_slice();
    let mut events = Vec::new();
    while !rest.is_empty() {
        let taken = second.receive(rest, 0);
        rest = &rest[taken..];
        while let Some(event) = second.next_event(0) {
            events.push(event);
        }
    }
    assert!(matches!(events.last(), Some(LinkEvent::Closed(PeerCode::ProofInvalid, _))));
}

#[test]
fn the_larger_address_does_not_dial() {
    let hello = PeerHello::new(CHAIN, address(3), [0; 32]);
    let mut link = PeerLink::accept(&setup(2), [2; 32], channel(), 0);
    let mut bytes = Vec::new();
    frame::write(&mut bytes, PeerKind::Hello, 0, |out| hufu_types::codec::put(out, &hello));
    assert_eq!(link.receive(&bytes, 0), bytes.len());
    let event = link.next_event(0);
    assert!(matches!(event, Some(LinkEvent::Closed(PeerCode::WrongDirection, _))), "{event:?}");
}

/// What comes before the link is open, or twice, or in no order, ends it.
#[test]
fn frames_out_of_turn_end_the_link() {
    let vote = |out: &mut Vec<u8>| frame::write(out, PeerKind::Consensus, 0, |out| out.push(1));
    let proof = |out: &mut Vec<u8>| {
        frame::write(out, PeerKind::Proof, 0, |out| {
            hufu_types::codec::put(out, &Signature([1; 64]));
        });
    };
    let part = |kind: u16, total: u32, offset: u32, size: usize| {
        move |out: &mut Vec<u8>| {
            frame::write(out, PeerKind::Part, 0, |out| {
                out.extend_from_slice(&kind.to_le_bytes());
                out.extend_from_slice(&[0; 2]);
                out.extend_from_slice(&total.to_le_bytes());
                out.extend_from_slice(&offset.to_le_bytes());
                out.extend_from_slice(&[0; 4]);
                out.extend_from_slice(&vec![1; size]);
            });
        }
    };
    for write in [&vote as Writer<'_>, &proof] {
        let mut link = PeerLink::accept(&setup(2), [2; 32], channel(), 0);
        let mut bytes = Vec::new();
        write(&mut bytes);
        assert_eq!(link.receive(&bytes, 0), bytes.len());
        assert!(matches!(link.next_event(0), Some(LinkEvent::Closed(PeerCode::Malformed, _))));
        assert!(!link.transmit().is_empty(), "the farewell");
        assert_eq!(link.next_event(0), None);
    }
    let bodies = |out: &mut Vec<u8>| {
        frame::write(out, PeerKind::BodiesWanted, 0, |out| out.extend_from_slice(&[0; 8]));
    };
    let bad: [Writer<'_>; 7] = [
        &proof,
        &bodies,
        &part(1, 100, 1, 10),
        &part(9, 100, 0, 10),
        &part(1, u32::MAX, 0, 10),
        &part(1, 5, 0, 10),
        &part(1, 0, 0, 10),
    ];
    for write in bad {
        let mut pair = Pair::open();
        let mut bytes = Vec::new();
        write(&mut bytes);
        pair.hand_over(1, &mut bytes);
        assert_eq!(pair.codes()[1], Some(PeerCode::Malformed));
    }
}

#[test]
fn silence_ends_a_link_and_pings_keep_it() {
    let mut link = PeerLink::accept(&setup(2), [2; 32], channel(), 0);
    assert_eq!(link.deadline(), Some(LinkConfig::default().handshake_nanos));
    link.tick(LinkConfig::default().handshake_nanos);
    let closed = link.next_event(0);
    assert!(matches!(closed, Some(LinkEvent::Closed(PeerCode::HandshakeTimeout, _))));

    let mut pair = Pair::open();
    for _ in 0..100 {
        pair.now = pair.ends[0].deadline().unwrap().max(pair.ends[1].deadline().unwrap());
        let now = pair.now;
        pair.ends.iter_mut().for_each(|end| end.tick(now));
        pair.run();
    }
    assert_eq!(pair.codes(), [None, None], "both still speak after {} s", pair.now / 1_000_000_000);
    assert_eq!(pair.ends[0].round_trip_nanos(), Some(0));
    let silent = pair.now + LinkConfig::default().idle_nanos;
    // To look for bytes where there are none is not to hear.
    assert_eq!(pair.ends[0].receive(&[], silent - 1), 0);
    pair.ends[0].tick(silent);
    let closed = pair.ends[0].next_event(silent);
    assert!(matches!(closed, Some(LinkEvent::Closed(PeerCode::IdleTimeout, _))));
}

#[test]
fn what_waits_is_bounded() {
    let mut small = setup(1);
    small.config.bulk_bytes_max = 1_000;
    small.config.control_bytes_max = 4_000;
    let mut pair = Pair::new(&small, &setup(2));
    pair.run();
    let bulk: Arc<[u8]> = vec![1; 1_000].into();
    assert!(pair.ends[0].send_bulk(BulkKind::Batch, Arc::clone(&bulk)));
    assert!(!pair.ends[0].send_bulk(BulkKind::Batch, bulk));
    assert_eq!(pair.ends[0].counters().bulk_refused, 1);
    for _ in 0..100 {
        pair.ends[0].send_consensus(&[1; 100]);
    }
    let closed = std::iter::from_fn(|| pair.ends[0].next_event(0)).last();
    assert!(matches!(closed, Some(LinkEvent::Closed(PeerCode::SlowPeer, _))), "{closed:?}");
}

/// A socket that takes nothing does not make room for more by being offered what waits.
#[test]
fn what_waits_is_bounded_however_often_it_is_offered() {
    let mut small = setup(1);
    small.config.control_bytes_max = 4_000;
    let mut pair = Pair::new(&small, &setup(2));
    pair.run();
    let mut offered_max = 0;
    for _ in 0..1_000 {
        pair.ends[0].send_consensus(&[1; 100]);
        offered_max = offered_max.max(pair.ends[0].transmit().len());
    }
    let closed = std::iter::from_fn(|| pair.ends[0].next_event(0)).last();
    assert!(matches!(closed, Some(LinkEvent::Closed(PeerCode::SlowPeer, _))), "{closed:?}");
    assert!(offered_max < 2 * 4_000 + 1_000, "{offered_max} bytes waited");
}

/// Who does not read cannot say that the other end is silent, and still tells it that he is there.
#[test]
fn an_end_that_does_not_listen_keeps_its_link() {
    let mut pair = Pair::open();
    for _ in 0..20 {
        pair.now += LinkConfig::default().idle_nanos - 1;
        let now = pair.now;
        pair.ends[0].is_not_listening(now);
        pair.ends[0].tick(now);
        assert!(!pair.ends[0].transmit().is_empty(), "a ping leaves");
        pair.pass(0);
        pair.ends[1].tick(now);
        assert_eq!(pair.codes(), [None, None]);
    }
}

/// Any bytes at any time: an error at most, and memory only for what came.
#[test]
fn garbage_ends_a_link_and_nothing_else() {
    let mut seed = 1_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33).to_le_bytes()[0]
    };
    for round in 0..300 {
        let mut pair = if round % 2 == 0 { Pair::open() } else { Pair::new(&setup(1), &setup(2)) };
        let mut bytes: Vec<u8> = (0..60).map(|_| random()).collect();
        if round % 3 == 0 {
            // A header that is nearly right gets further.
            bytes[..4].copy_from_slice(&u32::from(random() % 120).to_le_bytes());
            bytes[4..8].copy_from_slice(&[random() % 40, 0, 1, 0]);
            bytes[8..16].fill(0);
        }
        pair.hand_over(1, &mut bytes);
        assert!(pair.events[1].len() <= 8);
    }
}
