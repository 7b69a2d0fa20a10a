//! Decoders of `crypto` that take bytes from outside, on good inputs with edits: none panics, and
//! what is taken has one encoding, or for texts one meaning.

use hufu_crypto::encryption::Ciphertext;
use hufu_crypto::{PublicKey, Signer as _, SoftwareSigner, der};

use crate::Numbers;

/// Reads the bytes as one kind of thing: nothing if refused, else whether what was understood
/// stands for these bytes.
type Check = fn(&[u8]) -> Option<bool>;

/// Every decoder, and the files of the corpus it begins with.
pub const DECODERS: &[(&str, Check)] = &[
    ("der_signature.hex", |bytes| {
        let signature = der::read_signature(bytes).ok()?;
        Some(der::write_signature(&signature) == bytes)
    }),
    ("der_ciphertext.hex", |bytes| Some(Ciphertext::from_der(bytes).ok()?.to_der() == bytes)),
    ("raw_ciphertext.hex", |bytes| Some(Ciphertext::from_bytes(bytes).ok()?.to_bytes() == bytes)),
    ("public_key.pem", |bytes| {
        let key = PublicKey::from_pem(core::str::from_utf8(bytes).ok()?).ok()?;
        Some(PublicKey::from_pem(&key.to_pem().ok()?).is_ok_and(|again| again == key))
    }),
    ("private_key.pem", private_key),
    ("private_key_alone.pem", private_key),
];

fn private_key(bytes: &[u8]) -> Option<bool> {
    let signer = SoftwareSigner::from_pkcs8_pem(core::str::from_utf8(bytes).ok()?).ok()?;
    let again = SoftwareSigner::from_pkcs8_pem(&signer.to_pkcs8_pem().ok()?).ok()?;
    Some(again.public_key() == signer.public_key())
}

/// The inputs of a file of the corpus: a line each in hexadecimal digits, or all of it.
#[must_use]
pub fn inputs(file: &str, text: &str) -> Vec<Vec<u8>> {
    if !file.ends_with(".hex") {
        return vec![text.as_bytes().to_vec()];
    }
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let bytes = |line: &str| {
        let digits = line.as_bytes().chunks(2).map(|pair| core::str::from_utf8(pair).unwrap());
        digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    };
    lines.map(bytes).collect()
}

/// Changes the bytes a little: cuts, copies, pieces of others, numbers at their ends.
pub fn edit(numbers: &mut Numbers, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    let at = numbers.below(bytes.len() + 1);
    let end = at + numbers.below((bytes.len() - at).min(40) + 1);
    match numbers.below(7) {
        0 => drop(bytes.drain(at..end)),
        1 => bytes.insert(at, numbers.next() as u8),
        2 => {
            let copied = bytes[at..end].to_vec();
            bytes.splice(at..at, copied);
        }
        3 => {
            let other = numbers.one_of(others);
            let from = numbers.below(other.len().max(1)).min(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        4 => {
            let value = *numbers.one_of(&[0, 1, 2, 4, 0x20, 0x21, 0x30, 0x7f, 0x80, 0x81, 0xff]);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        5 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = byte.wrapping_add(numbers.one_of(&[1, 0xff]).to_owned());
            }
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << numbers.below(8);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::numbers::cases;

    fn corpus() -> Vec<(Check, Vec<Vec<u8>>)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
        let read = |(file, check): &(&str, Check)| {
            (*check, inputs(file, &std::fs::read_to_string(folder.join(file)).unwrap()))
        };
        DECODERS.iter().map(read).collect()
    }

    #[test]
    fn the_corpus_is_read_and_refused_as_it_says() {
        let taken = corpus().into_iter().map(|(check, inputs)| {
            let found = inputs.iter().filter_map(|input| check(input));
            (found.map(|is_right| assert!(is_right)).count(), inputs.len())
        });
        let taken: Vec<(usize, usize)> = taken.collect();
        assert_eq!(taken, [(5, 13), (4, 6), (1, 2), (1, 1), (1, 1), (1, 1)]);
    }

    #[test]
    fn fuzz_decoders_of_keys_signatures_and_ciphertexts() {
        let corpus = corpus();
        let mut taken = 0;
        for case in cases(20_000) {
            let mut numbers = Numbers::of_round(case);
            let (check, inputs) = numbers.one_of(&corpus);
            let mut bytes = numbers.one_of(inputs).clone();
            for _ in 0..numbers.below(4) {
                edit(&mut numbers, &mut bytes, inputs);
            }
            if let Some(is_right) = check(&bytes) {
                assert!(is_right, "case {case}: {bytes:02x?} are understood as other bytes");
                taken += 1;
            }
        }
        assert!(taken > 1_000, "{taken} were taken");
    }
}
