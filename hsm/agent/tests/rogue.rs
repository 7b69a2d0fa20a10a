//! An agent that lies: every field it can write is wrong once. The node must answer with a typed
//! error, end it, and never do anything else.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use hufu_crypto::{Digest, PublicKey, Signature, Signer, SoftwareSigner, entropy};

use super::*;
use crate::agent::protocol::{self, AnswerHeader, BODY_BYTES_MAX, Message, Op};
use crate::agent::ring::{Body, Job};
use crate::agent::{errors, os};

/// What goes wrong with the answer to a signature, and a word of the error it must give.
const ANSWERS: &[(&str, &str)] = &[
    ("request", "request of an answer"),
    ("op", "operation of an answer"),
    ("status", "status of an answer"),
    ("size", "size of an answer"),
    ("size-max", "size of an answer"),
    ("reserved", "reserved part"),
    ("state", "state of a slot"),
    ("state-failed", "state of a slot"),
    ("everything", ""),
    ("short", "an answer of 63 bytes"),
    ("long", "an answer of 128 bytes"),
    ("error-empty", "an error that is"),
    ("error-unknown", "an error that is"),
    ("error-longer", "an error that is"),
    ("zeroes", "does not verify"),
    ("other-key", "does not verify"),
    ("other-digest", "does not verify"),
];

/// What goes wrong with the answer to the opening of a key.
const KEYS: &[(&str, &str)] = &[
    ("key-off-curve", "not on the curve"),
    ("key-none", "another kind"),
    ("key-kind", "neither a public key nor none"),
    ("key-short", "too short"),
    ("key-long", "behind the end"),
];

/// What goes wrong before the agent is in service.
const HELLOS: &[(&str, &str)] = &[
    ("hello-magic", "no message of an agent"),
    ("hello-version", "another version"),
    ("hello-kind", "unknown kind"),
    ("hello-cut", "too short"),
    ("hello-longer", "behind the end"),
    ("hello-too-long", "too long"),
    ("hello-nodes-own", "out of turn"),
    ("hello-garbage-refusal", "unknown error"),
    ("hello-closed", "closed its connection"),
];

/// The agent's process.
pub(super) fn run(endpoint: &Endpoint, how: &str) -> Result<(), Error> {
    let identity = SoftCard::new("").identity(Nanos::MAX)?;
    let hello = Message::Hello { workers_count: 1, identity, notes: Vec::new() };
    let mut bytes = hello.to_bytes();
    match how {
        "hello-magic" => bytes[0] ^= 1,
        "hello-version" => bytes[4] ^= 1,
        "hello-kind" => bytes[6] = 77,
        "hello-cut" => bytes.truncate(bytes.len() - 1),
        "hello-longer" => bytes.push(0),
        "hello-too-long" => bytes.resize(20_000, 0),
        "hello-nodes-own" => bytes = Message::Stop.to_bytes(),
        "hello-garbage-refusal" => bytes = Message::Refusal(vec![99; 500]).to_bytes(),
        "hello-closed" => {
            os::shut(endpoint.socket.as_fd());
            loop {
                Parker::new().unwrap().wait_until(None, || false).unwrap();
            }
        }
        _ => {}
    }
    os::send(endpoint.socket.as_fd(), &bytes, &[]).unwrap();
    let mut body: Body = [0; BODY_BYTES_MAX];
    loop {
        endpoint.line.beat();
        if how == "shuts-waker" {
            os::shut(endpoint.waker.as_fd());
        }
        if how == "wakes-flagged" {
            endpoint.line.signal();
        }
        if how.starts_with("wakes") {
            // The other end may be full; it is to be flooded.
            drop(os::send_byte(endpoint.waker.as_fd()));
        }
        let job = endpoint.line.next(Duration::from_millis(100), &mut body).unwrap();
        if let Some(job) = job {
            lie(endpoint, how, &job, &body);
        }
    }
}

fn lie(endpoint: &Endpoint, how: &str, job: &Job, body: &Body) {
    let line = &endpoint.line;
    let pair = SoftwareSigner::from_bytes(&[1; 32]).unwrap();
    if job.header.op.get() == Op::OpenKey.number() {
        let mut public = *pair.public_key();
        public.0[63] ^= u8::from(how == "key-off-curve");
        let mut opened = protocol::opened(0, (how != "key-none").then_some(&public));
        match how {
            "key-kind" => opened[4] = 2,
            "key-short" => opened.truncate(68),
            "key-long" => opened.push(0),
            _ => {}
        }
        return line.answer(job, AnswerHeader::DONE, &opened);
    }
    let mut digest = Digest::ZERO;
    digest.0.copy_from_slice(&body[..32]);
    let other = SoftwareSigner::from_bytes(&[2; 32]).unwrap();
    let right = pair.sign(&digest).unwrap();
    let (status, answer) = match how {
        "short" => (AnswerHeader::DONE, right.0[..63].to_vec()),
        "long" => (AnswerHeader::DONE, [right.0, right.0].concat()),
        "error-empty" => (AnswerHeader::FAILED, Vec::new()),
        "error-unknown" => (AnswerHeader::FAILED, vec![0xff; 64]),
        "error-longer" => {
            (AnswerHeader::FAILED, [errors::to_bytes(&Error::SignatureWrong), vec![0]].concat())
        }
        "zeroes" => (AnswerHeader::DONE, vec![0; 64]),
        "other-key" => (AnswerHeader::DONE, other.sign(&digest).unwrap().0.to_vec()),
        "other-digest" => (AnswerHeader::DONE, pair.sign(&Digest([3; 32])).unwrap().0.to_vec()),
        _ => (AnswerHeader::DONE, right.0.to_vec()),
    };
    let (words, state) = line.exposed(job);
    if how == "everything" {
        let mut noise = [0; 4];
        for word in words {
            entropy::fill(&mut noise).unwrap();
            word.store(u32::from_le_bytes(noise), Ordering::Release);
        }
        os::futex_wake(&words[state], i32::MAX);
        // Its own end of the ring is of no use to it any more.
        Parker::new().unwrap().wait_until(None, || false).unwrap();
    }
    let garbled = match how {
        "state" => Some((state, 99)),
        "state-failed" => Some((state, 3)),
        _ => None,
    };
    if let Some((place, value)) = garbled {
        words[place].store(value, Ordering::Release);
        os::futex_wake(&words[place], i32::MAX);
        return;
    }
    // The answer is published only after its field was garbled: lie with the body's own header.
    line.answer_as(job, status, &answer, |header| match how {
        "request" => header.request.set(header.request.get() + 1),
        "op" => header.op.set(1),
        "status" => header.status.set(2),
        "size" => header.body_size.set(5_000),
        "size-max" => header.body_size.set(u32::MAX),
        "reserved" => header.reserved[15] = 1,
        _ => {}
    });
}

fn rogue(how: &str) -> AgentConfig {
    config(&format!("rogue:{how}"))
}

#[test]
fn answers_that_lie_end_the_agent() {
    for (how, words) in ANSWERS {
        let (agent, mut submitter) = start_with(rogue(how));
        let client = agent.client();
        let key = open(client);
        let error = sign(client, key, &digest("lie", 1)).unwrap_err();
        expect(how, words, &error);
        until(how, || client.status().kills_count >= 1);
        let told = client.status().last_failure.unwrap();
        assert!(told.contains(words), "{how}: {told}");
        // The same towards the tile, in the agent that comes next.
        client.wait_ready(patience()).unwrap();
        submitter.submit(1, key, &digest("lie", 2), patience()).unwrap();
        let mut outcome = None;
        until(how, || {
            submitter.poll(|_, found| outcome = Some(found));
            outcome.is_some()
        });
        expect(how, words, &outcome.unwrap().unwrap_err());
        until(how, || client.status().kills_count >= 2);
        agent.stop().unwrap();
    }
}

fn expect(how: &str, words: &str, error: &Error) {
    let is_right = matches!(error, Error::AgentProtocol { reason } if reason.contains(words));
    // The node goes on: the next agent may be a better one.
    assert_eq!(error.class(), ErrorClass::TokenLost, "{how}");
    assert!(is_right, "{how}: {error}");
}

#[test]
fn keys_that_lie_end_the_agent() {
    for (how, words) in KEYS {
        let (agent, _submitter) = start_with(rogue(how));
        let client = agent.client();
        let error = client.open_key(&label("sign-1"), Usage::Sign, patience()).unwrap_err();
        expect(how, words, &error);
        until(how, || client.status().kills_count >= 1);
        agent.stop().unwrap();
    }
}

#[test]
fn hellos_that_lie_never_come_into_service() {
    for (how, words) in HELLOS {
        let (agent, _submitter) = Agent::start(rogue(how)).unwrap();
        let client = agent.client();
        until(how, || client.status().kills_count >= 2);
        let status = client.status();
        assert!(status.identity.is_none(), "{how}");
        let told = status.last_failure.unwrap();
        assert!(told.contains(words), "{how}: {told}");
        agent.stop().unwrap();
    }
}

#[test]
fn an_agent_that_keeps_the_tile_awake_is_ended() {
    for how in ["wakes-silent", "wakes-flagged"] {
        let (agent, mut submitter) = start_with(rogue(how));
        let client = agent.client();
        let mut parker = Parker::new().unwrap();
        let end = patience();
        while client.status().kills_count == 0 {
            assert_eq!(submitter.poll(|_, _| ()), 0);
            assert!(clock::monotonic() < end, "{how} is not noticed");
            let soon = Some(clock::monotonic().after(Duration::from_millis(1)));
            parker.park(soon, |fds| submitter.poll_fds(fds)).unwrap();
        }
        let told = client.status().last_failure.unwrap();
        assert!(told.contains("without a reason"), "{how}: {told}");
        agent.stop().unwrap();
    }
}

#[test]
fn a_waker_that_is_shut_does_not_keep_the_tile_awake() {
    let (agent, mut submitter) = start_with(rogue("shuts-waker"));
    let key = open(agent.client());
    let mut parker = Parker::new().unwrap();
    let end = patience();
    let second = Duration::from_secs(1);
    loop {
        submitter.submit(1, key, &digest("x", 1), clock::monotonic().after(second)).unwrap();
        let mut looks_count = 1;
        while submitter.poll(|_, _| ()) == 0 {
            looks_count += 1;
            assert!(clock::monotonic() < end, "{looks_count} looks");
            parker.park(submitter.deadline(), |fds| submitter.poll_fds(fds)).unwrap();
        }
        // Found out, it is looked at no more than when the call is sent and at its deadline.
        if looks_count <= 3 {
            break;
        }
    }
    agent.stop().unwrap();
}

/// What a node that lies meets is tested in `ring`; here, that its messages are read as strictly.
#[test]
fn messages_are_read_strictly() {
    let identity = SoftCard::new("").identity(Nanos::MAX).unwrap();
    let messages = [
        Message::Welcome { slots_count: 64, spin_nanos: u64::MAX },
        Message::Stop,
        Message::Hello { workers_count: 3, identity, notes: vec!["a".to_owned(), String::new()] },
        Message::Refusal(vec![1; 4_000]),
        Message::LogsIn,
    ];
    for message in messages {
        let mut bytes = message.to_bytes();
        assert_eq!(Message::from_bytes(&bytes), Ok(message));
        for end in 0..bytes.len() {
            assert!(Message::from_bytes(&bytes[..end]).is_err());
        }
        bytes.push(0);
        assert!(Message::from_bytes(&bytes).is_err());
    }
    let key = PublicKey([7; 64]);
    assert_eq!(protocol::read_opened(&protocol::opened(5, Some(&key))), Ok((5, Some(key))));
    for reference in [label("验"), KeyReference::Id(vec![]), KeyReference::Index(u32::MAX)] {
        for usage in [Usage::Sign, Usage::Decrypt, Usage::Wrap] {
            let mut bytes = protocol::open_request(&reference, usage);
            assert_eq!(protocol::read_open_request(&bytes), Ok((reference.clone(), usage)));
            bytes[0] = 4;
            assert!(protocol::read_open_request(&bytes).is_err());
        }
    }
    assert!(protocol::read_digests(&[0; 65 * 32]).is_err() && protocol::read_digests(&[]).is_err());
    assert!(protocol::read_digests(&[0; 33]).is_err());
    assert!(protocol::read_count(&4_097_u32.to_le_bytes()).is_err());
    assert!(protocol::read_decrypt_request(&4_097_u32.to_le_bytes()).is_err());
    assert!(protocol::read_wrapped(&[0; 257]).is_err());
    assert_eq!(Signature::SIZE, 64);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2_000))]

    /// Whatever bytes come, each reader gives an error or what its writer would write as the same
    /// bytes: there is no second encoding.
    #[test]
    fn any_bytes_are_refused_or_mean_one_thing(
        tag in 0_u8..26,
        noise in proptest::collection::vec(0_u8..8, 0..80),
        cut in 0_usize..80,
    ) {
        let error = [vec![tag], noise.clone()].concat();
        if let Ok(found) = errors::from_bytes(&error) {
            assert_eq!(errors::to_bytes(&found), error);
        }
        let mut message = Message::Stop.to_bytes();
        message[6] = tag % 7;
        message.extend(&noise);
        if let Ok(found) = Message::from_bytes(&message) {
            assert_eq!(found.to_bytes(), message);
        }
        message.truncate(cut);
        assert!(message.len() >= 8 || Message::from_bytes(&message).is_err());
        if let Ok((key, usage)) = protocol::read_open_request(&noise) {
            assert_eq!(protocol::open_request(&key, usage), noise);
        }
        if let Ok((handle, public)) = protocol::read_opened(&noise) {
            assert_eq!(protocol::opened(handle, public.as_ref()), noise);
        }
        if let Ok((room, ciphertext)) = protocol::read_decrypt_request(&noise) {
            assert_eq!(protocol::decrypt_request(room, ciphertext), noise);
        }
    }
}
