//! Every message: one encoding, read strictly, never a panic.

use hufu_crypto::Sm3;
use hufu_types::{Address, ChainId, Digest, RefusalCode, Strength, TxId};
use proptest::prelude::*;

use super::event::{Credit, Cursor, Filter, Subscribe, SubscribeStart, Unsubscribe};
use super::request::{Hello, MAGIC, QueryAccount, QueryBlock, QueryTransaction, Wait};
use super::submit::StatusEntry;
use super::{ClientMessage, ServerMessage, WaitFor};
use crate::frame::{Direction, Frame, FrameKind, split};
use crate::samples;

/// Decodes a whole frame and encodes it again; `None` if it is refused or not complete.
fn recode(bytes: &[u8], direction: Direction) -> Option<Vec<u8>> {
    let frame = split(bytes, direction).ok()??;
    assert_eq!(frame.size(), bytes.len(), "the frame is the whole input");
    let mut out = Vec::new();
    match direction {
        Direction::FromClient => {
            ClientMessage::decode(&frame).ok()?.encode(frame.request, &mut out);
        }
        Direction::FromServer => {
            ServerMessage::decode(&frame).ok()?.encode(frame.request, &mut out);
        }
    }
    Some(out)
}

fn all_frames() -> Vec<(Direction, Vec<u8>)> {
    let client = samples::client_frames().into_iter().map(|bytes| (Direction::FromClient, bytes));
    let server = samples::server_frames().into_iter().map(|bytes| (Direction::FromServer, bytes));
    client.chain(server).collect()
}

#[test]
fn every_sample_reads_back() {
    for (direction, bytes) in all_frames() {
        assert_eq!(recode(&bytes, direction).as_ref(), Some(&bytes));
    }
    let of = |direction: Direction| {
        let frames = all_frames().into_iter().filter(move |(other, _)| *other == direction);
        frames.map(move |(_, bytes)| split(&bytes, direction).unwrap().unwrap().kind)
    };
    let seen: Vec<FrameKind> = of(Direction::FromClient).chain(of(Direction::FromServer)).collect();
    for kind in FrameKind::ALL {
        assert!(seen.contains(kind), "{kind:?} has a sample");
    }
}

#[test]
fn every_truncation_waits() {
    for (direction, bytes) in all_frames() {
        for end in 0..bytes.len() {
            assert_eq!(split(&bytes[..end], direction), Ok(None));
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_or_is_another_message() {
    for (direction, bytes) in all_frames() {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let is_shorter =
                matches!(split(&flipped, direction), Ok(Some(frame)) if frame.size() < bytes.len());
            if is_shorter {
                continue;
            }
            if let Some(again) = recode(&flipped, direction) {
                assert_eq!(again, flipped, "bit {bit}: what is accepted has one encoding");
            }
        }
    }
}

#[test]
fn every_shorter_or_longer_body_is_refused() {
    for (direction, bytes) in all_frames() {
        let frame = split(&bytes, direction).unwrap().unwrap();
        // A list of entries is still one when whole entries are cut off or a proof grows with its
        // size.
        let is_list =
            matches!(frame.kind, FrameKind::Statuses | FrameKind::Receipts | FrameKind::Events);
        for end in (0..frame.body.len()).filter(|_| !is_list) {
            let body = &frame.body[..end];
            assert!(!decodes(&Frame { body, ..frame }), "{:?} cut to {end} bytes", frame.kind);
        }
        let mut longer = frame.body.to_vec();
        longer.push(0);
        assert!(!decodes(&Frame { body: &longer, ..frame }), "{:?} with a byte more", frame.kind);
    }
}

fn decodes(frame: &Frame<'_>) -> bool {
    if frame.kind.is_of_client() {
        ClientMessage::decode(frame).is_ok()
    } else {
        ServerMessage::decode(frame).is_ok()
    }
}

/// The bytes on the wire, by hash. A change here is a change of the protocol and needs a new
/// version.
#[test]
fn golden_bytes() {
    let golden = include_str!("golden.txt");
    let mut found = String::new();
    for (direction, bytes) in all_frames() {
        let kind = split(&bytes, direction).unwrap().unwrap().kind;
        found.push_str(&format!("{kind:?} {} {}\n", bytes.len(), Sm3::of(&[&bytes])));
    }
    assert!(
        found == golden,
        "the wire has changed; if that is meant, golden.txt becomes:\n{found}"
    );
    let mut hello = Vec::new();
    let message = Hello { magic: MAGIC, version_min: 1, version_max: 2, chain_id: None };
    ClientMessage::Hello(message).encode(0, &mut hello);
    let mut expected = vec![48, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    expected.extend_from_slice(b"HUFU/CLI\x01\x00\x02\x00\x00\x00\x00\x00");
    expected.extend_from_slice(&[0; 32]);
    assert_eq!(hello, expected);
}

fn digests() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn cursors() -> impl Strategy<Value = Cursor> {
    any::<(u64, u32)>().prop_map(|(height, index)| Cursor { height, index })
}

fn strengths() -> impl Strategy<Value = Strength> {
    any::<bool>().prop_map(|more| if more { Strength::Certified } else { Strength::Committed })
}

fn requests() -> impl Strategy<Value = ClientMessage<'static>> {
    let hello = (any::<[u8; 8]>(), any::<(u16, u16)>(), digests()).prop_map(
        |(magic, (one, other), chain)| {
            ClientMessage::Hello(Hello {
                magic,
                version_min: one.min(other),
                version_max: one.max(other),
                chain_id: (chain != Digest::ZERO).then_some(ChainId(chain)),
            })
        },
    );
    let wait = (digests(), any::<u64>(), strengths(), any::<bool>()).prop_map(
        |(id, until_height, strength, with_proof)| {
            ClientMessage::Wait(Wait { id: TxId(id), until_height, strength, with_proof })
        },
    );
    let account = any::<([u8; 20], bool)>().prop_map(|(address, with_proof)| {
        ClientMessage::QueryAccount(QueryAccount { address: Address(address), with_proof })
    });
    let block = any::<(u64, u32)>().prop_map(|(height, ids_from)| {
        let height = (height != 0).then_some(height);
        ClientMessage::QueryBlock(QueryBlock { height, ids_from })
    });
    let transaction = (digests(), any::<bool>()).prop_map(|(id, with_proof)| {
        ClientMessage::QueryTransaction(QueryTransaction { id: TxId(id), with_proof })
    });
    let subscribe = (proptest::option::of(cursors()), any::<Option<[u8; 20]>>(), 0..=65_536_u32)
        .prop_map(|(cursor, account, credits)| {
            let start = cursor.map_or(SubscribeStart::Now, SubscribeStart::At);
            let filter = account.map_or(Filter::All, |account| Filter::Account(Address(account)));
            ClientMessage::Subscribe(Subscribe { start, filter, credits })
        });
    let credit = (any::<u64>(), 1..=65_536_u32)
        .prop_map(|(subscription, events)| ClientMessage::Credit(Credit { subscription, events }));
    let end = any::<u64>()
        .prop_map(|subscription| ClientMessage::Unsubscribe(Unsubscribe { subscription }));
    prop_oneof![hello, wait, account, block, transaction, subscribe, credit, end]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn requests_read_back(message in requests(), request in any::<u64>()) {
        let mut bytes = Vec::new();
        message.encode(request, &mut bytes);
        let frame = split(&bytes, Direction::FromClient).unwrap().unwrap();
        prop_assert_eq!(frame.request, request);
        prop_assert_eq!(ClientMessage::decode(&frame), Ok(message));
    }

    #[test]
    fn submits_read_back(
        transactions in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..200),
            1..40,
        ),
        wait in 0..3_u8,
        with_proof in any::<bool>(),
    ) {
        let wait = WaitFor::from_number(wait).unwrap();
        let with_proof = with_proof && wait != WaitFor::Nothing;
        let bodies: Vec<&[u8]> = transactions.iter().map(Vec::as_slice).collect();
        let bytes = samples::raw_submit_frame(3, &bodies, wait, with_proof);
        let frame = split(&bytes, Direction::FromClient).unwrap().unwrap();
        let ClientMessage::Submit(view) = ClientMessage::decode(&frame).unwrap() else {
            panic!("a submit frame")
        };
        prop_assert_eq!((view.wait(), view.with_proof()), (wait, with_proof));
        prop_assert_eq!(view.transactions().collect::<Vec<_>>(), bodies);
    }

    #[test]
    fn statuses_read_back(
        entries in proptest::collection::vec((any::<u64>(), any::<u32>(), 0..12_u16), 1..100),
    ) {
        let entries: Vec<StatusEntry> = entries
            .into_iter()
            .map(|(request, position, code)| {
                StatusEntry::new(request, position, RefusalCode::from_number(code))
            })
            .collect();
        let mut bytes = Vec::new();
        ServerMessage::Statuses(&entries).encode(0, &mut bytes);
        let frame = split(&bytes, Direction::FromServer).unwrap().unwrap();
        prop_assert_eq!(ServerMessage::decode(&frame), Ok(ServerMessage::Statuses(&entries)));
    }

    #[test]
    fn random_bodies_never_panic(
        place in 0..FrameKind::ALL.len(),
        body in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let frame = Frame { kind: FrameKind::ALL[place], request: 1, body: &body };
        decodes(&frame);
    }

    #[test]
    fn random_streams_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        for direction in [Direction::FromClient, Direction::FromServer] {
            let whole = split(&bytes, direction).ok().flatten();
            let size = whole.map_or(0, |frame| frame.size());
            prop_assert!(size <= bytes.len());
        }
    }
}
