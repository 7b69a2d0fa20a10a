use super::*;
use crate::numbers::Numbers;

/// Every back end that this CPU has; says which it lacks.
fn backends() -> Vec<Backend> {
    let all = [
        ("portable", Some(Backend::PORTABLE)),
        ("avx2", Backend::avx2()),
        ("avx512", Backend::avx512()),
    ];
    let mut found = Vec::new();
    for (name, backend) in all {
        match backend {
            Some(backend) => found.push(backend),
            None => eprintln!("skipped: this CPU has no {name}"),
        }
    }
    found
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn streamed(message: &[u8]) -> [u8; 32] {
    let mut hasher = Sm3::new();
    hasher.update(message);
    hasher.finish()
}

fn many(backend: Backend, messages: &[Vec<u8>]) -> Vec<[u8; 32]> {
    let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let mut digests = vec![[0; 32]; messages.len()];
    digest_many(backend, &messages, &mut digests);
    digests
}

/// GB/T 32905-2016 annex A.1 and A.2, one message and many of them.
#[test]
fn the_examples_of_the_standard() {
    let examples: [(&[u8], &str); 2] = [
        (b"abc", "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"),
        (
            b"abcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcd",
            "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732",
        ),
    ];
    for (message, wanted) in examples {
        assert_eq!(hex(&streamed(message)), wanted);
        for backend in backends() {
            for count in [1, 2, 8, 16, 17] {
                for digest in many(backend, &vec![message.to_vec(); count]) {
                    assert_eq!(hex(&digest), wanted, "{} of {count}", backend.name());
                }
            }
        }
    }
}

/// A million times "a" (a value that OpenSSL, GmSSL and RustCrypto agree on).
#[test]
fn a_long_message_in_pieces_of_every_size() {
    let message = vec![b'a'; 1_000_000];
    let wanted = "c8aaf89429554029e231941a2acc0ad61ff2a5acd8fadd25847a3a732b3b02c3";
    let mut numbers = Numbers(1);
    let mut hasher = Sm3::new();
    let mut rest = message.as_slice();
    while !rest.is_empty() {
        let (piece, others) = rest.split_at(numbers.below(300).min(rest.len()));
        hasher.update(piece);
        rest = others;
    }
    assert_eq!(hex(&hasher.finish()), wanted);
    for backend in backends() {
        let both = many(backend, &[message.clone(), message[1..].to_vec()]);
        assert_eq!(hex(&both[0]), wanted, "{}", backend.name());
        assert_eq!(both[1], streamed(&message[1..]), "{}", backend.name());
    }
}

/// Padding changes its shape at 55, 56 and 64 bytes of a block.
#[test]
fn every_short_length_in_every_lane() {
    let mut numbers = Numbers(2);
    let messages: Vec<Vec<u8>> = (0..260).map(|length| numbers.bytes(length)).collect();
    let wanted: Vec<[u8; 32]> = messages.iter().map(|message| streamed(message)).collect();
    for backend in backends() {
        for shift in 0..17 {
            assert_eq!(many(backend, &messages[shift..]), wanted[shift..], "{}", backend.name());
        }
    }
}

#[test]
fn lists_of_every_count_with_unequal_lengths() {
    let mut numbers = Numbers(3);
    for round in 0..400 {
        let count = numbers.below(40);
        let longest = [70, 200, 5_000][round % 3];
        let lengths: Vec<usize> = (0..count).map(|_| numbers.below(longest)).collect();
        let messages: Vec<Vec<u8>> = lengths.iter().map(|&length| numbers.bytes(length)).collect();
        let wanted: Vec<[u8; 32]> = messages.iter().map(|message| streamed(message)).collect();
        for backend in backends() {
            assert_eq!(many(backend, &messages), wanted, "{} {lengths:?}", backend.name());
        }
    }
}

#[test]
fn pairs_are_messages_of_one_block() {
    let mut numbers = Numbers(4);
    for count in 0..70 {
        let pairs: Vec<[u8; 64]> =
            (0..count).map(|_| numbers.bytes(64).try_into().unwrap()).collect();
        let wanted: Vec<[u8; 32]> = pairs.iter().map(|pair| streamed(pair)).collect();
        for backend in backends() {
            let mut parents = vec![[0; 32]; count];
            digest_pairs(backend, &pairs, &mut parents);
            assert_eq!(parents, wanted, "{} of {count}", backend.name());
            // As messages they take the same way, unless another one has another length.
            let mut messages: Vec<&[u8]> = pairs.iter().map(<[u8; 64]>::as_slice).collect();
            let mut digests = vec![[0; 32]; count];
            digest_many(backend, &messages, &mut digests);
            assert_eq!(digests, wanted, "{} of {count}", backend.name());
            messages.push(b"shorter");
            let mut digests = vec![[0; 32]; count + 1];
            digest_many(backend, &messages, &mut digests);
            assert_eq!(digests[..count], wanted, "{} of {count}", backend.name());
            assert_eq!(digests[count], streamed(b"shorter"));
        }
    }
}

#[test]
#[should_panic(expected = "one digest for each message")]
fn slices_of_unequal_length_are_our_own_mistake() {
    digest_many(Backend::PORTABLE, &[b"a"], &mut []);
}
