mod fixture;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use hufu_consensus::Message;
use hufu_consensus::message::{BundleKind, VoteBundle};
use hufu_crypto::SoftwareSigner;
use hufu_network::channel::PlainChannel;
use hufu_network::peer::{BulkKind, LinkEvent, PeerCode, PeerLink};
use hufu_runtime::clock::monotonic;
use hufu_runtime::net::Backend;
use hufu_types::{BatchDigest, Digest};

use super::*;
use crate::messages::{AnswerBody, Query};
use crate::metrics::PeerDrop;
use fixture::*;

#[test]
fn votes_and_blocks_pass_on_both_back_ends() {
    for backend in [Backend::Epoll, Backend::Auto] {
        let (mut one, mut two) = (Plan::new(1), Plan::new(2));
        (one.backend, two.backend) = (backend, backend);
        let mut two = two.start();
        // Told before anybody is there, it is told to whoever comes.
        let tip = BlockDigest(Digest([8; 32]));
        two.say(ToPeer::Tip { height: 6, block: tip });
        two.turn(monotonic());
        let one = one.dialling(2, two.socket).start();
        let mut net = Net::new(vec![one, two]);
        net.until_up();
        let Message::Vote(signed) = vote(7, 1) else { unreachable!() };
        let votes = VoteBundle::new(BundleKind::SkipRound, vec![signed]).unwrap();
        let block = executed(7, vec![batch_of(1, 1)]).block.clone();
        let from = address(1);
        let node = &mut net.nodes[0];
        node.say(ToPeer::Publish(vote(7, 1)));
        node.say(ToPeer::Send { to: address(2), message: Message::Votes(votes.clone()) });
        node.say(ToPeer::Block { to: None, round: 3, block: block.clone() });
        node.say(ToPeer::Block { to: Some(address(2)), round: 4, block: block.clone() });
        node.say(ToPeer::Tip { height: 7, block: tip });
        net.until("the last message", |net| {
            net.nodes[1].has_seen(&FromPeer::Tip { from, height: 7, block: tip })
        });
        let expected = [
            FromPeer::Up(from),
            FromPeer::Message { from, message: vote(7, 1) },
            FromPeer::Message { from, message: Message::Votes(votes) },
            FromPeer::Block { from, round: 3, block: block.clone() },
            FromPeer::Block { from, round: 4, block },
            FromPeer::Tip { from, height: 7, block: tip },
        ];
        assert_eq!(net.nodes[1].seen, expected);
        let from = address(2);
        let first = [FromPeer::Up(from), FromPeer::Tip { from, height: 6, block: tip }];
        net.until("the remembered tip", |net| net.nodes[0].seen.len() >= 2);
        assert_eq!(net.nodes[0].seen, first);
        assert_eq!(net.nodes[0].asked, [PeerBatches::Up(from)]);
        assert_eq!(net.nodes[1].metrics.peer_links.get(), 1);
    }
}

#[test]
fn batches_and_requests_for_them_pass() {
    let mut net = Net::pair();
    let batch = batch_of(3, 2);
    let digests: Vec<BatchDigest> = (1..4).map(|byte| BatchDigest(Digest([byte; 32]))).collect();
    let (to, from) = (address(2), address(1));
    let node = &mut net.nodes[0];
    node.send(SendBatches::Batch { to, batch: batch.clone() });
    node.send(SendBatches::Ask { to, digests: digests.clone() });
    node.send(SendBatches::Lack { to, digests: digests.clone() });
    let received = net.until_some("the batch", |net| net.nodes[1].batch());
    assert_eq!(received, PeerBatch { from, bytes: Arc::clone(batch.bytes()) });
    let expected = [
        PeerBatches::Up(from),
        PeerBatches::Wanted { from, digests: digests.clone() },
        PeerBatches::Absent { from, digests },
    ];
    net.until("the requests", |net| net.nodes[1].asked.len() >= 3);
    assert_eq!(net.nodes[1].asked, expected);
    assert_eq!(net.nodes[1].metrics.peer_batches.get(), 1);
    // To somebody who is not there nothing is sent, and that is counted.
    net.nodes[0].send(SendBatches::Batch { to: address(3), batch });
    net.until("the drop", |net| net.nodes[0].metrics.peer_dropped(PeerDrop::NoLink) == 1);
}

#[test]
fn batches_go_to_the_verify_tiles_in_turn() {
    let mut net = Net::pair();
    let batch = batch_of(1, 1);
    for _ in 0..10 {
        net.nodes[0].send(SendBatches::Batch { to: address(2), batch: batch.clone() });
    }
    net.until("all batches", |net| net.nodes[1].batches.iter().all(|link| link.len() == 5));
}

#[test]
fn decided_heights_and_their_bodies_are_served() {
    let mut net = Net::pair();
    let (to, from) = (address(2), address(2));
    let batches = vec![batch_of(1, 1), batch_of(2, 1)];
    let blocks: Vec<_> = (5..7).map(|height| executed(height, batches.clone())).collect();
    net.nodes[0].say(ToPeer::AskHeights { to, from: 5, count: 64 });
    for block in &blocks {
        let question = net.until_some("a question", |net| net.nodes[1].questions.pop());
        assert!(net.nodes[1].questions.is_empty(), "one height after the other");
        let Query::Decided { height } = question.query else { panic!("{:?}", question.query) };
        assert_eq!(height, block.block.height());
        let decided = (block.block.clone(), block.certificate.clone());
        net.nodes[1].answer(question, AnswerBody::Decided(Box::new(decided)));
    }
    let question = net.until_some("a question", |net| net.nodes[1].questions.pop());
    net.nodes[1].answer(question, AnswerBody::NoHistory(7));
    for executed in &blocks {
        let (block, certificate) = (executed.block.clone(), executed.certificate.clone());
        let height = FromPeer::Height { from, block, certificate };
        net.until("a height", |net| net.nodes[0].has_seen(&height));
    }
    // Nobody asks for more after the last one there is; the next request is asked about at once.
    net.nodes[0].send(SendBatches::AskBodies { to, height: 5 });
    net.nodes[0].send(SendBatches::AskBodies { to, height: 9 });
    for (height, body) in [
        (5, AnswerBody::Bodies { height: 5, batches: batches.clone() }),
        (9, AnswerBody::NoHistory(9)),
    ] {
        let question = net.until_some("a question", |net| net.nodes[1].questions.pop());
        let Query::Bodies { height: asked } = question.query else { panic!("{question:?}") };
        assert_eq!(asked, height);
        net.nodes[1].answer(question, body);
    }
    for batch in &batches {
        let received = net.until_some("a body", |net| net.nodes[0].batch());
        assert_eq!((received.from, &received.bytes), (from, batch.bytes()));
    }
    let absent = PeerBatches::NoBodies { from, height: 9 };
    net.until("the answer", |net| net.nodes[0].asked.contains(&absent));
    assert_eq!(net.nodes[1].metrics.peer_heights_served.get(), 3);
}

#[test]
fn a_restarted_validator_is_there_again() {
    let mut net = Net::pair();
    // The one that accepts: it is dialled until it is there again.
    let socket = net.nodes[1].socket;
    drop(net.nodes.pop());
    net.until("the end", |net| net.nodes[0].has_seen(&FromPeer::Down(address(2))));
    net.until("a try in vain", |net| net.nodes[0].metrics.peer_dials_failed.get() > 0);
    let mut plan = Plan::new(2);
    plan.listen = socket;
    net.nodes.push(plan.start());
    net.nodes[0].seen.clear();
    net.until_up();
    // The one that dials: the other hears of its end and of its coming.
    drop(net.nodes.remove(0));
    net.until("the end", |net| net.nodes[0].has_seen(&FromPeer::Down(address(1))));
    net.nodes[0].seen.clear();
    net.nodes.insert(0, Plan::new(1).dialling(2, socket).start());
    net.until_up();
    net.nodes[0].say(ToPeer::Publish(vote(7, 1)));
    net.until("a vote", |net| net.nodes[1].votes() == 1);
    let up_and_down = [PeerBatches::Up(address(1)), PeerBatches::Down(address(1))];
    assert_eq!(net.nodes[1].asked[..2], up_and_down);
}

type Change<'a> = &'a dyn Fn(&mut Plan);
type Send = Box<dyn Fn(&mut PeerLink)>;

/// A stranger on a plain socket.
struct Stranger(TcpStream);

impl Stranger {
    fn new(node: &Node) -> Self {
        let stream = TcpStream::connect(node.socket).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self(stream)
    }

    fn is_over(&mut self) -> bool {
        let mut buffer = [0; 4_096];
        match self.0.read(&mut buffer) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn whoever_is_no_validator_of_this_chain_is_refused_and_counted() {
    let two = Plan::new(2).start();
    let socket = two.socket;
    let mut net = Net::new(vec![two]);
    // Bytes that mean nothing.
    let mut stranger = Stranger::new(&net.nodes[0]);
    stranger.0.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    net.until("the end of a stranger", |_| stranger.is_over());
    let ended = |net: &Net, code| net.nodes[0].metrics.links_ended(code);
    net.until("its count", |net| ended(net, PeerCode::UnknownKind) == 1);
    // A peer of another chain, one with a wrong key, and one that is no validator.
    let other_chain = |plan: &mut Plan| plan.config.chain_id = ChainId(Digest([9; 32]));
    let other_key = |plan: &mut Plan| {
        plan.signer = key(8);
        let mut keys = PeerKeys::clone(&plan.config.keys);
        keys.insert(address(1), *key(8).public_key());
        plan.config.keys = Arc::new(keys);
    };
    let nobody = |plan: &mut Plan| {
        plan.config.address = address(0);
        let mut keys = PeerKeys::clone(&plan.config.keys);
        keys.insert(address(0), *key(1).public_key());
        plan.config.keys = Arc::new(keys);
    };
    let cases: [(Change<'_>, PeerCode); 3] = [
        (&other_chain, PeerCode::WrongChain),
        (&other_key, PeerCode::ProofInvalid),
        (&nobody, PeerCode::UnknownPeer),
    ];
    for (change, code) in cases {
        let mut plan = Plan::new(1).dialling(2, socket);
        change(&mut plan);
        net.nodes.push(plan.start());
        net.until("the refusal", |net| ended(net, code) > 0);
        net.until("the farewell", |net| net.nodes[1].metrics.links_ended(PeerCode::Farewell) > 0);
        assert_eq!(net.nodes[1].seen, []);
        net.nodes.pop();
    }
    assert_eq!(net.nodes[0].seen, [], "none of it had any effect");
    assert_eq!(net.nodes[0].asked, []);
    let text = net.nodes[0].metrics.render();
    assert!(text.contains("hufu_peer_links_ended_total{code=\"unknown_kind\"} 1\n"));
}

/// A validator driven by hand, which may send what a tile never does.
struct ByHand {
    link: PeerLink,
    stream: TcpStream,
    key: SoftwareSigner,
    pending: Vec<u8>,
}

impl ByHand {
    /// Validator 1 with an open link to the node.
    fn open(net: &mut Net) -> Self {
        let mut hand = Self::dial(net, 1);
        net.until("the open link", |_| {
            hand.step();
            hand.link.is_open()
        });
        hand
    }

    /// Validator 1, or who says so with the key of another.
    fn dial(net: &Net, key_number: u8) -> Self {
        let stream = TcpStream::connect(net.nodes[0].socket).unwrap();
        stream.set_nonblocking(true).unwrap();
        let setup = LinkSetup {
            config: LinkConfig::default(),
            identity: LinkIdentity {
                chain_id: CHAIN,
                address: address(1),
                key: *key(key_number).public_key(),
            },
            peers: keys(),
            verifier: hufu_crypto::software_provider().verifier,
        };
        let channel = Box::new(PlainChannel::new());
        let link = PeerLink::dial(&setup, address(2), [1; 32], channel, 0);
        Self { link, stream, key: key(key_number), pending: Vec::new() }
    }

    /// Moves bytes both ways; the last event.
    fn step(&mut self) -> Option<LinkEvent> {
        let mut last = None;
        loop {
            let out = self.link.transmit();
            match self.stream.write(out) {
                Ok(0) | Err(_) => break,
                Ok(count) => self.link.sent(count),
            }
        }
        let mut buffer = [0; 65_536];
        if let Ok(count) = self.stream.read(&mut buffer) {
            self.pending.extend_from_slice(&buffer[..count]);
        }
        let taken = self.link.receive(&self.pending, 0);
        self.pending.drain(..taken);
        while let Some(event) = self.link.next_event(0) {
            if let LinkEvent::Sign(digest) = event {
                self.link.prove(&self.key.sign(&digest).unwrap(), 0);
            } else {
                last = Some(event);
            }
        }
        last
    }
}

#[test]
fn what_does_not_parse_ends_the_link() {
    let block = executed(7, Vec::new());
    let mut encoded = 0_u32.to_le_bytes().to_vec();
    block.block.write(&mut encoded);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = encoded.clone();
        change(&mut bytes);
        bytes
    };
    let blocks = [
        with(&|bytes| bytes.push(0)),
        with(&|bytes| bytes.truncate(100)),
        with(&|bytes| bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes())),
        b"block".to_vec(),
    ];
    let mut sends: Vec<Send> = vec![Box::new(|link| link.send_consensus(b"no vote"))];
    for bytes in blocks {
        sends.push(Box::new(move |link| link.send_block(&bytes)));
    }
    for cut in [0, 10, encoded.len() - 4] {
        let height: Arc<[u8]> = encoded[4..encoded.len() - cut].into();
        sends.push(Box::new(move |link| {
            assert!(link.send_bulk(BulkKind::Height, Arc::clone(&height)));
        }));
    }
    sends.pop();
    let count = u64::try_from(sends.len()).unwrap();
    let mut net = Net::new(vec![Plan::new(2).start()]);
    for (place, send) in (1..).zip(&sends) {
        let mut hand = ByHand::open(&mut net);
        send(&mut hand.link);
        let end = net.until_some("the farewell", |_| hand.step());
        assert!(matches!(end, LinkEvent::Closed(PeerCode::Farewell, _)), "{place}: {end:?}");
    }
    assert_eq!(net.nodes[0].metrics.links_ended(PeerCode::Malformed), count);
    let of_links = [FromPeer::Up(address(1)), FromPeer::Down(address(1))];
    net.until("the last end", |net| net.nodes[0].seen.len() == 2 * sends.len());
    assert!(net.nodes[0].seen.chunks(2).all(|pair| pair == of_links));
}

/// The promise of "votes before bulk": what a vote waits behind is small whatever else is sent.
#[test]
fn a_vote_overtakes_megabytes() {
    const BATCHES: usize = 40;
    let mut net = Net::pair();
    let batch = large_batch();
    assert!(batch.bytes().len() > 900_000);
    for _ in 0..BATCHES {
        net.nodes[0].send(SendBatches::Batch { to: address(2), batch: batch.clone() });
    }
    // Everything on the way fills up while the other side takes nothing.
    for _ in 0..100 {
        let now = net.now();
        net.nodes[0].turn(now);
    }
    net.nodes[0].say(ToPeer::Publish(vote(7, 1)));
    net.until("the vote", |net| net.nodes[1].votes() == 1);
    let before = net.nodes[1].metrics.peer_batches.get();
    assert!(before <= 8, "{before} of {BATCHES} batches came before the vote");
    let mut count = 0;
    net.until("all batches", |net| {
        count += std::iter::from_fn(|| net.nodes[1].batch()).count();
        count == BATCHES
    });
}

#[test]
fn a_slow_verify_side_costs_batches_and_no_vote() {
    const COUNT: usize = 24;
    let mut two = Plan::new(2);
    two.depths.verify = 1;
    two.config.held_bytes_max = 3 << 20;
    let mut net = Net::pair_of(Plan::new(1), two);
    let batch = large_batch();
    for height in 1..=COUNT {
        net.nodes[0].send(SendBatches::Batch { to: address(2), batch: batch.clone() });
        net.nodes[0].say(ToPeer::Publish(vote(u64::try_from(height).unwrap(), 1)));
    }
    net.until("all votes and batches", |net| {
        net.nodes[1].votes() == COUNT
            && net.nodes[1].metrics.peer_batches.get() == u64::try_from(COUNT).unwrap()
    });
    let mut taken = 0;
    net.until("the batches that were kept", |net| {
        taken += std::iter::from_fn(|| net.nodes[1].batch()).count();
        let dropped = net.nodes[1].metrics.peer_dropped(PeerDrop::VerifyFull);
        usize::try_from(dropped).unwrap() + taken == COUNT
    });
    assert_eq!(taken, 5, "two in the links of the verify tiles and three that waited");
    assert_eq!(net.nodes[1].seen.len(), 1 + COUNT, "the link stayed open");
}

/// A peer that takes nothing costs this node bulk, and the peer itself nothing that matters.
#[test]
fn a_slow_peer_costs_batches_and_no_vote() {
    const COUNT: usize = 40;
    let mut one = Plan::new(1);
    one.config.link.bulk_bytes_max = 4 << 20;
    let mut net = Net::pair_of(one, Plan::new(2));
    let batch = large_batch();
    for _ in 0..COUNT {
        net.nodes[0].send(SendBatches::Batch { to: address(2), batch: batch.clone() });
    }
    for _ in 0..100 {
        let now = net.now();
        net.nodes[0].turn(now);
    }
    let dropped = net.nodes[0].metrics.peer_dropped(PeerDrop::OutboxFull);
    let dropped = usize::try_from(dropped).unwrap();
    assert!((COUNT / 2..COUNT).contains(&dropped), "{dropped} were dropped");
    net.nodes[0].say(ToPeer::Publish(vote(7, 1)));
    let mut taken = 0;
    net.until("the vote and the batches", |net| {
        taken += std::iter::from_fn(|| net.nodes[1].batch()).count();
        net.nodes[1].votes() == 1 && taken == COUNT - dropped
    });
}

/// Consensus that is busy makes its peers wait, loses no vote and no link.
#[test]
fn what_consensus_has_no_room_for_waits() {
    const VOTES: u64 = 20_000;
    let (mut one, mut two) = (Plan::new(1), Plan::new(2));
    two.depths.consensus = 4;
    one.config.link.idle_nanos = LinkConfig::default().idle_nanos;
    two.config.link.idle_nanos = LinkConfig::default().idle_nanos;
    let mut net = Net::pair_of(one, two);
    let mut height = 0;
    // The sender's bound on control messages is not reached: what has left is on the way.
    while height < VOTES {
        while height < VOTES && net.nodes[0].consensus.as_mut().unwrap().free() > 0 {
            height += 1;
            net.nodes[0].say(ToPeer::Publish(vote(height, 1)));
        }
        for place in [0, 1] {
            let now = net.now();
            net.nodes[place].turn(now);
        }
    }
    // Longer than either side would wait for a silent peer.
    for _ in 0..12 {
        net.ahead += Duration::from_secs(2);
        for _ in 0..4 {
            for place in [0, 1] {
                let now = net.now();
                net.nodes[place].turn(now);
            }
        }
    }
    let node = &mut net.nodes[1];
    assert_eq!((node.votes(), node.messages.len()), (0, 4), "the link to consensus is full");
    let now = net.now();
    assert_eq!(net.nodes[1].tile.poll(now).unwrap(), Progress::PushedBack);
    net.until("all votes", |net| net.nodes[1].votes() == usize::try_from(VOTES).unwrap());
    let heights: Vec<u64> = net.nodes[1].seen[1..]
        .iter()
        .map(|seen| match seen {
            FromPeer::Message { message, .. } => message.height(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(heights.iter().copied().eq(1..=VOTES));
}

#[test]
fn what_the_mempool_has_no_room_for_holds_up_no_vote() {
    const REQUESTS: usize = 200;
    let mut two = Plan::new(2);
    two.depths.mempool = 2;
    let mut net = Net::pair_of(Plan::new(1), two);
    for byte in 0..REQUESTS {
        let digests = vec![BatchDigest(Digest([u8::try_from(byte).unwrap(); 32]))];
        net.nodes[0].send(SendBatches::Ask { to: address(2), digests });
    }
    // In the order of a turn requests leave before this vote.
    let now = net.now();
    net.nodes[0].turn(now);
    net.nodes[0].say(ToPeer::Publish(vote(7, 1)));
    let give_up = monotonic().after(Duration::from_secs(60));
    while net.nodes[1].votes() == 0 {
        assert!(monotonic() < give_up, "the vote waits for the mempool");
        let now = net.now();
        net.nodes.iter_mut().for_each(|node| node.turn(now));
        let node = &mut net.nodes[1];
        node.seen.extend(std::iter::from_fn(|| node.messages.pop()));
    }
    let dropped = net.nodes[1].metrics.peer_dropped(PeerDrop::MempoolFull);
    let dropped = usize::try_from(dropped).unwrap();
    assert!(dropped > 0);
    net.until("the requests that waited", |net| net.nodes[1].asked.len() == 1 + REQUESTS - dropped);
}

#[test]
fn a_newer_link_takes_the_place_of_the_older() {
    let mut net = Net::pair();
    // The older process of validator 1 hangs; another one dials.
    let older = net.nodes.remove(0);
    net.nodes.insert(0, Plan::new(1).dialling(2, net.nodes[0].socket).start());
    let from = address(1);
    let expected = [FromPeer::Up(from), FromPeer::Down(from), FromPeer::Up(from)];
    net.until("the newer link", |net| net.nodes[1].seen == expected);
    net.until("the end of the older", |net| {
        net.nodes[1].metrics.links_ended(PeerCode::Replaced) == 1
    });
    net.until_up();
    net.nodes[0].say(ToPeer::Publish(vote(7, 1)));
    net.until("a vote on the newer", |net| net.nodes[1].votes() == 1);
    assert_eq!(net.nodes[1].metrics.peer_links.get(), 1);
    // The older one is told, and is down for itself alone.
    net.nodes.push(older);
    net.until("the farewell", |net| net.nodes[2].has_seen(&FromPeer::Down(address(2))));
    assert_eq!(net.nodes[2].metrics.links_ended(PeerCode::Farewell), 1);
}

#[test]
fn strangers_find_few_places() {
    let mut plan = Plan::new(2);
    plan.config.unproven_per_source_max = 3;
    let mut net = Net::new(vec![plan.start()]);
    let mut strangers: Vec<Stranger> = (0..3).map(|_| Stranger::new(&net.nodes[0])).collect();
    net.until("all", |net| net.nodes[0].metrics.peer_connections_accepted.get() == 3);
    let mut surplus = Stranger::new(&net.nodes[0]);
    net.until("the end of the fourth", |_| surplus.is_over());
    assert_eq!(net.nodes[0].metrics.peer_connections_refused.get(), 1);
    assert!(strangers.iter_mut().all(|one| !one.is_over()));
    // They have the time of a handshake.
    net.ahead += Duration::from_secs(61);
    net.until("the end of the silent", |_| strangers.iter_mut().all(Stranger::is_over));
    assert_eq!(net.nodes[0].metrics.links_ended(PeerCode::HandshakeTimeout), 3);

    let mut plan = Plan::new(2);
    plan.config.unproven_max = 2;
    let mut net = Net::new(vec![plan.start()]);
    let mut strangers = Vec::new();
    for count in 1..=3 {
        strangers.push(Stranger::new(&net.nodes[0]));
        net.until("it", |net| net.nodes[0].metrics.peer_connections_accepted.get() == count);
    }
    net.until("the end of the oldest", |_| strangers[0].is_over());
    assert!(!strangers[1].is_over() && !strangers[2].is_over());
    // A validator still finds in.
    let socket = net.nodes[0].socket;
    net.nodes.insert(0, Plan::new(1).dialling(2, socket).start());
    net.until_up();
}

/// To judge a proof costs a signature check, which anybody could ask for.
#[test]
fn bad_proofs_are_judged_at_a_bounded_rate() {
    let mut plan = Plan::new(2);
    plan.config.unproven_per_source_max = 2;
    let mut net = Net::new(vec![plan.start()]);
    for count in 1..=2 {
        let mut hand = ByHand::dial(&net, 9);
        let end = net.until_some("the refusal", |_| hand.step());
        assert!(matches!(end, LinkEvent::Closed(PeerCode::Farewell, _)), "{end:?}");
        assert_eq!(net.nodes[0].metrics.links_ended(PeerCode::ProofInvalid), count);
    }
    let mut third = Stranger::new(&net.nodes[0]);
    net.until("its end", |_| third.is_over());
    assert_eq!(net.nodes[0].metrics.peer_connections_refused.get(), 1);
    net.ahead += Duration::from_secs(61);
    let _validator = ByHand::open(&mut net);
    assert_eq!(net.nodes[0].metrics.peer_connections_refused.get(), 1);
}

#[test]
fn pauses_between_tries_grow_and_are_spread() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let mut plan = Plan::new(1).dialling(2, nobody);
    plan.config.backoff_min = Duration::from_secs(1);
    plan.config.backoff_max = Duration::from_secs(20);
    let mut net = Net::new(vec![plan.start()]);
    let mut pauses = Vec::new();
    for tries in 1..=8 {
        net.until("a try", |net| net.nodes[0].metrics.peer_dials_failed.get() == tries);
        let at = net.nodes[0].tile.dials[0].deadline().unwrap();
        let pause = at.duration_since(net.turned_at);
        let longest = Duration::from_secs(20.min(1 << (tries - 1)));
        assert!((longest / 2..=longest).contains(&pause), "{pause:?} after {tries} tries");
        assert!(net.nodes[0].tile.deadline().unwrap() <= at, "the thread wakes for it");
        pauses.push(pause);
        net.ahead += pause;
    }
    assert_eq!(net.nodes[0].metrics.peer_dials.get(), 8);
    assert!(pauses[5..].iter().any(|pause| *pause != pauses[5]), "chance has a part");
}

#[test]
fn a_validator_that_stops_says_so_after_its_last_words() {
    let mut net = Net::pair();
    net.nodes[0].say(ToPeer::Publish(vote(7, 1)));
    let node = &mut net.nodes[0];
    (node.consensus, node.mempool) = (None, None);
    node.tile.stop();
    net.until("the end", |net| {
        net.nodes[0].is_done && net.nodes[1].has_seen(&FromPeer::Down(address(1)))
    });
    assert_eq!(net.nodes[1].votes(), 1);
    assert_eq!(net.nodes[0].metrics.links_ended(PeerCode::Stopping), 1);
    assert_eq!(net.nodes[1].metrics.links_ended(PeerCode::Farewell), 1);
    // Nobody is dialled or let in any more.
    assert!(TcpStream::connect(net.nodes[0].socket).is_err());
}

#[test]
fn bytes_and_round_trips_are_published() {
    let mut net = Net::pair();
    net.ahead += Duration::from_secs(2);
    net.until("a round trip", |net| {
        let now = net.now();
        net.nodes[0].tile.housekeeping(now);
        net.nodes[0].metrics.peer_round_trip_nanos.get() > 0
    });
    net.nodes[1].tile.housekeeping(Nanos::ZERO);
    let (one, two) = (&net.nodes[0].metrics, &net.nodes[1].metrics);
    for metrics in [one, two] {
        assert!(metrics.peer_frames.get() >= 2);
        // Two hellos and two proofs, each with its header.
        assert!(metrics.peer_bytes_in.get() >= 116 + 80);
        assert!(metrics.peer_bytes_out.get() >= 116 + 80);
    }
}
