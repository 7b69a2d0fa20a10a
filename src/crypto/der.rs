//! DER of signatures and ciphertexts (GM/T 0009-2012 7.2 and 7.3), read strictly.
//!
//! ```text
//! SM2Signature ::= SEQUENCE { r INTEGER, s INTEGER }
//! SM2Cipher    ::= SEQUENCE { x INTEGER, y INTEGER, hash OCTET STRING (32), text OCTET STRING }
//! ```
//!
//! A value has one encoding: lengths in their shortest form, integers minimal and positive, nothing
//! behind the end. What a range check would refuse anyway (zero, n and above) is left to it.

use crate::keys::Signature;

/// What is wrong with bytes that should be DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{part}: {fault}")]
pub struct DerError {
    /// Which part of the structure.
    pub part: &'static str,
    /// What is wrong with it.
    pub fault: DerFault,
}

/// The ways in which DER is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DerFault {
    /// The bytes end before the part does.
    #[error("cut short")]
    CutShort,
    /// Something else stands here.
    #[error("tag {found:#04x}, expected {expected:#04x}")]
    Tag {
        /// The tag that is there.
        found: u8,
        /// The tag that should be there.
        expected: u8,
    },
    /// The length has a shorter form, or is without an end (BER).
    #[error("length is not in its shortest form")]
    Length,
    /// More bytes than anything of this kind has.
    #[error("length needs more than four bytes")]
    Oversized,
    /// Bytes follow that belong to nothing.
    #[error("{count} bytes behind the end")]
    Trailing {
        /// How many.
        count: usize,
    },
    /// An integer without a byte.
    #[error("integer is empty")]
    Empty,
    /// An integer below zero.
    #[error("integer is negative")]
    Negative,
    /// An integer with a leading zero byte it does not need.
    #[error("integer is not minimal")]
    NotMinimal,
    /// An integer of more than 256 bits.
    #[error("integer has more than 256 bits")]
    TooLarge,
    /// An octet string of another size than it must have.
    #[error("{found} bytes, expected {expected}")]
    Size {
        /// Bytes there are.
        found: usize,
        /// Bytes there should be.
        expected: usize,
    },
}

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTET_STRING: u8 = 0x04;

/// Bytes of the longest signature: two integers of 33 bytes.
pub const SIGNATURE_SIZE_MAX: usize = 2 + 2 * (2 + 33);

/// The signature of a DER text, read strictly.
///
/// # Errors
/// What is wrong, and with which part; the range of r and s is the verifier's to judge.
pub fn read_signature(der: &[u8]) -> Result<Signature, DerError> {
    let mut content = only(der, SEQUENCE, "signature")?;
    let mut signature = [0; Signature::SIZE];
    let (r, s) = signature.split_at_mut(32);
    r.copy_from_slice(&integer(&mut content, "r")?);
    s.copy_from_slice(&integer(&mut content, "s")?);
    ended(content, "signature")?;
    Ok(Signature(signature))
}

/// The DER text of a signature.
#[must_use]
pub fn write_signature(signature: &Signature) -> Vec<u8> {
    let (r, s) = signature.0.split_at(32);
    let mut content = Vec::with_capacity(SIGNATURE_SIZE_MAX);
    write_integer(&mut content, r);
    write_integer(&mut content, s);
    let mut der = Vec::with_capacity(SIGNATURE_SIZE_MAX);
    write_element(&mut der, SEQUENCE, &content);
    der
}

/// The parts of an SM2 ciphertext: C1 as x || y, C3, C2.
pub(crate) struct CipherParts<'a> {
    pub(crate) point: [u8; 64],
    pub(crate) hash: [u8; 32],
    pub(crate) text: &'a [u8],
}

/// The parts of a DER ciphertext, read strictly.
pub(crate) fn read_cipher(der: &[u8]) -> Result<CipherParts<'_>, DerError> {
    let mut content = only(der, SEQUENCE, "ciphertext")?;
    let mut point = [0; 64];
    let (x, y) = point.split_at_mut(32);
    x.copy_from_slice(&integer(&mut content, "x")?);
    y.copy_from_slice(&integer(&mut content, "y")?);
    let hash = element(&mut content, OCTET_STRING, "hash")?;
    let size = DerFault::Size { found: hash.len(), expected: 32 };
    let hash = hash.try_into().map_err(|_| DerError { part: "hash", fault: size })?;
    let text = element(&mut content, OCTET_STRING, "text")?;
    ended(content, "ciphertext")?;
    Ok(CipherParts { point, hash, text })
}

/// The DER text of a ciphertext.
pub(crate) fn write_cipher(parts: &CipherParts<'_>) -> Vec<u8> {
    let (x, y) = parts.point.split_at(32);
    let mut content = Vec::with_capacity(parts.text.len() + 128);
    write_integer(&mut content, x);
    write_integer(&mut content, y);
    write_element(&mut content, OCTET_STRING, &parts.hash);
    write_element(&mut content, OCTET_STRING, parts.text);
    let mut der = Vec::with_capacity(content.len() + 8);
    write_element(&mut der, SEQUENCE, &content);
    der
}

/// The content of the one element that `der` is.
pub(crate) fn only<'a>(
    mut der: &'a [u8],
    tag: u8,
    part: &'static str,
) -> Result<&'a [u8], DerError> {
    let content = element(&mut der, tag, part)?;
    ended(der, part)?;
    Ok(content)
}

pub(crate) fn ended(rest: &[u8], part: &'static str) -> Result<(), DerError> {
    if rest.is_empty() {
        return Ok(());
    }
    Err(DerError { part, fault: DerFault::Trailing { count: rest.len() } })
}

/// Takes one element off the front of `rest` and gives its content.
pub(crate) fn element<'a>(
    rest: &mut &'a [u8],
    tag: u8,
    part: &'static str,
) -> Result<&'a [u8], DerError> {
    let failed = |fault| DerError { part, fault };
    let (&found, behind) = rest.split_first().ok_or(failed(DerFault::CutShort))?;
    if found != tag {
        return Err(failed(DerFault::Tag { found, expected: tag }));
    }
    let (size, behind) = length(behind).map_err(failed)?;
    let (content, behind) = behind.split_at_checked(size).ok_or(failed(DerFault::CutShort))?;
    *rest = behind;
    Ok(content)
}

/// A length in its shortest form (X.690 10.1), and what follows it.
fn length(bytes: &[u8]) -> Result<(usize, &[u8]), DerFault> {
    let (&first, behind) = bytes.split_first().ok_or(DerFault::CutShort)?;
    if first < 0x80 {
        return Ok((usize::from(first), behind));
    }
    let count = usize::from(first & 0x7f);
    if count == 0 {
        return Err(DerFault::Length);
    }
    if count > 4 {
        return Err(DerFault::Oversized);
    }
    let (digits, behind) = behind.split_at_checked(count).ok_or(DerFault::CutShort)?;
    let size = digits.iter().fold(0, |size: usize, digit| size << 8 | usize::from(*digit));
    if size < 0x80 || digits.first() == Some(&0) {
        return Err(DerFault::Length);
    }
    Ok((size, behind))
}

/// A positive integer of at most 256 bits in its one encoding (X.690 8.3.2).
pub(crate) fn integer(rest: &mut &[u8], part: &'static str) -> Result<[u8; 32], DerError> {
    let content = element(rest, INTEGER, part)?;
    let failed = |fault| Err(DerError { part, fault });
    let digits = match content {
        [] => return failed(DerFault::Empty),
        [0x80..=0xff, ..] => return failed(DerFault::Negative),
        [0, 0..=0x7f, ..] => return failed(DerFault::NotMinimal),
        [0, digits @ ..] | digits => digits,
    };
    let mut number = [0; 32];
    let Some(start) = number.len().checked_sub(digits.len()) else {
        return failed(DerFault::TooLarge);
    };
    number[start..].copy_from_slice(digits);
    Ok(number)
}

pub(crate) fn write_integer(out: &mut Vec<u8>, number: &[u8]) {
    let zeros = number.iter().take_while(|digit| **digit == 0).count();
    let digits = &number[zeros..];
    // A leading zero keeps the number positive, and is zero itself.
    let mut content = Vec::with_capacity(digits.len() + 1);
    if digits.first().is_none_or(|digit| *digit >= 0x80) {
        content.push(0);
    }
    content.extend_from_slice(digits);
    write_element(out, INTEGER, &content);
}

pub(crate) fn write_element(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let size = content.len().to_be_bytes();
    let digits = &size[size.iter().take_while(|digit| **digit == 0).count()..];
    match digits {
        [] => out.push(0),
        [short @ 0..=0x7f] => out.push(*short),
        digits => {
            // A slice's length has at most eight digits.
            out.push(0x80 | u8::try_from(digits.len()).unwrap_or(0x7f));
            out.extend_from_slice(digits);
        }
    }
    out.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signature(r: &[u8], s: &[u8]) -> Signature {
        let mut bytes = [0; 64];
        bytes[32 - r.len()..32].copy_from_slice(r);
        bytes[64 - s.len()..].copy_from_slice(s);
        Signature(bytes)
    }

    fn fault(der: &[u8]) -> (&'static str, DerFault) {
        let error = read_signature(der).unwrap_err();
        assert!(error.to_string().contains(error.part), "{error}");
        (error.part, error.fault)
    }

    #[test]
    fn signatures_are_written_as_the_norm_says() {
        assert_eq!(write_signature(&signature(&[1], &[2])), [0x30, 6, 2, 1, 1, 2, 1, 2]);
        assert_eq!(write_signature(&signature(&[0], &[0x7f])), [0x30, 6, 2, 1, 0, 2, 1, 0x7f]);
        assert_eq!(
            write_signature(&signature(&[0x80], &[1, 0])),
            [0x30, 8, 2, 2, 0, 0x80, 2, 2, 1, 0]
        );
        let longest = write_signature(&Signature([0xff; 64]));
        assert_eq!(longest.len(), SIGNATURE_SIZE_MAX);
        assert_eq!(longest[..5], [0x30, 70, 2, 33, 0]);
        assert_eq!(read_signature(&longest), Ok(Signature([0xff; 64])));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = |size: usize, first: u8| {
            let mut number = vec![0x11; size];
            number[0] = first;
            [&[2, u8::try_from(size).unwrap()], number.as_slice()].concat()
        };
        let both = |r: &[u8], s: &[u8]| {
            let size = u8::try_from(r.len() + s.len()).unwrap();
            [&[0x30, size], r, s].concat()
        };
        let tag = |found, expected| DerFault::Tag { found, expected };
        let cases: [(Vec<u8>, &str, DerFault); 19] = [
            (vec![], "signature", DerFault::CutShort),
            (vec![0x30], "signature", DerFault::CutShort),
            (vec![0x31, 0], "signature", tag(0x31, 0x30)),
            (vec![0x30, 0x80, 2, 1, 1, 2, 1, 2, 0, 0], "signature", DerFault::Length),
            (vec![0x30, 0x81, 6, 2, 1, 1, 2, 1, 2], "signature", DerFault::Length),
            (vec![0x30, 0x82, 0, 6, 2, 1, 1, 2, 1, 2], "signature", DerFault::Length),
            (vec![0x30, 0x82, 0, 0x80, 2, 1, 1, 2, 1, 2], "signature", DerFault::Length),
            (vec![0x30, 0x85, 0, 0, 0, 0, 6, 2, 1, 1, 2, 1, 2], "signature", DerFault::Oversized),
            (vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 2], "signature", DerFault::CutShort),
            (vec![0x30, 6, 2, 1, 1, 2, 1, 2, 0], "signature", DerFault::Trailing { count: 1 }),
            (vec![0x30, 7, 2, 1, 1, 2, 1, 2, 0], "signature", DerFault::Trailing { count: 1 }),
            (vec![0x30, 3, 2, 1, 1], "s", DerFault::CutShort),
            (both(&[2, 0], &[2, 1, 2]), "r", DerFault::Empty),
            (both(&[2, 1, 0x80], &[2, 1, 2]), "r", DerFault::Negative),
            (both(&[2, 1, 1], &[2, 2, 0xff, 0xff]), "s", DerFault::Negative),
            (both(&[2, 2, 0, 1], &[2, 1, 2]), "r", DerFault::NotMinimal),
            (both(&[2, 2, 0, 0], &[2, 1, 2]), "r", DerFault::NotMinimal),
            (both(&long(33, 1), &[2, 1, 2]), "r", DerFault::TooLarge),
            (both(&[2, 1, 1], &[4, 1, 2]), "s", tag(4, 2)),
        ];
        for (der, part, expected) in cases {
            assert_eq!(fault(&der), (part, expected), "{der:02x?}");
        }
        assert!(read_signature(&both(&long(32, 0x11), &long(32, 0x7f))).is_ok());
    }

    #[test]
    fn ciphertexts_have_a_hash_of_32_bytes() {
        let parts = CipherParts { point: [5; 64], hash: [6; 32], text: &[7; 300] };
        let der = write_cipher(&parts);
        assert_eq!(der[..4], [0x30, 0x82, 1, 0x96]);
        let read = read_cipher(&der).unwrap();
        assert_eq!((read.point, read.hash, read.text), ([5; 64], [6; 32], &[7; 300][..]));
        for size in 0..der.len() {
            assert!(read_cipher(&der[..size]).is_err(), "{size} bytes");
        }
        let mut longer = Vec::new();
        write_element(&mut longer, SEQUENCE, &[&der[4..], &[5, 0]].concat());
        let refused = read_cipher(&longer).err();
        let fault = DerFault::Trailing { count: 2 };
        assert_eq!(refused, Some(DerError { part: "ciphertext", fault }), "nothing rides along");
        let mut short = der[4..72].to_vec();
        short.extend([4, 31]);
        short.extend([6; 31]);
        short.extend([4, 1, 7]);
        let mut whole = Vec::new();
        write_element(&mut whole, SEQUENCE, &short);
        let size = DerFault::Size { found: 31, expected: 32 };
        let refused = read_cipher(&whole).err();
        assert_eq!(refused, Some(DerError { part: "hash", fault: size }));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 300,
            failure_persistence: None,
            rng_seed: proptest::test_runner::RngSeed::Fixed(9),
            ..ProptestConfig::default()
        })]

        #[test]
        fn signatures_go_round(
            r in prop::collection::vec(any::<u8>(), 0..=32),
            s in prop::collection::vec(any::<u8>(), 0..=32),
        ) {
            let made = signature(&r, &s);
            prop_assert_eq!(read_signature(&write_signature(&made)), Ok(made));
        }

        /// Whatever is read was the one encoding of what was read.
        #[test]
        fn no_signature_has_two_encodings(
            r in prop::collection::vec(any::<u8>(), 0..=33),
            place in any::<prop::sample::Index>(),
            byte: u8,
        ) {
            let mut der = write_signature(&signature(&r[..r.len().min(32)], &[9; 32]));
            let place = place.index(der.len());
            der[place] = byte;
            if let Ok(read) = read_signature(&der) {
                prop_assert_eq!(write_signature(&read), der);
            }
        }

        #[test]
        fn ciphertexts_go_round(
            point in prop::collection::vec(any::<u8>(), 64),
            text in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let point: [u8; 64] = point.try_into().unwrap();
            let der = write_cipher(&CipherParts { point, hash: [3; 32], text: &text });
            let read = read_cipher(&der).unwrap();
            prop_assert_eq!(read.point, point);
            prop_assert_eq!(read.text, text.as_slice());
            prop_assert_eq!(write_cipher(&read), der);
        }
    }
}
