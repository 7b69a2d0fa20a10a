//! What cards call a signature, a public key or a ciphertext, turned into ours and back.
//!
//! Cards of one standard differ in how they write its values, and some write them wrong: an
//! INTEGER without its leading zero, which makes it negative, or with one too many. Here, at the
//! edge, they are read leniently where the profile says so; inside there is one fixed form each:
//! `r || s`, `x || y`, `C1 || C3 || C2`, all big-endian and of full length. A reading never makes
//! another value of what stands there; a signature that was read leniently is verified like any
//! other, and that it was odd is told, so that certification can count it.

use hufu_crypto::encryption::Ciphertext;
use hufu_crypto::{PublicKey, Signature, is_curve_point};
use serde::{Deserialize, Serialize};

use crate::Error;

/// What a signing mechanism takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignInput {
    /// e itself, 32 bytes. The only form that hufu signs with.
    PrehashedE,
    /// The message; the card puts Z of the default identity in front.
    MessageWithDefaultZ,
    /// The message; the identity is handed in as the parameter.
    MessageWithParameterZ,
    /// The message, hashed without Z: no standard SM2 signature comes out.
    MessageWithoutZ,
}

/// How a signature comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignatureForm {
    /// r || s, 64 bytes.
    Raw,
    /// SEQUENCE of two INTEGER, and nothing else than DER (GM/T 0009-2012 7.3).
    DerStrict,
    /// The same, with the mistakes that cards make.
    DerLenient,
}

/// How `CKA_EC_POINT` or its like holds a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointForm {
    /// DER OCTET STRING of 04 || x || y, as PKCS#11 says.
    Octet,
    /// 04 || x || y.
    Raw04,
    /// x || y.
    Raw64,
    /// x and y, each in an attribute of its own, which the profile names.
    Xy,
    /// One of the first three, which differ in length: for cards whose papers do not say which.
    ByLength,
}

/// How a ciphertext of SM2 is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CiphertextForm {
    /// 04 || C1 || C3 || C2 (GB/T 32918.4-2016).
    C1c3c2,
    /// The same without the 04.
    C1c3c2Bare,
    /// 04 || C1 || C2 || C3, of drafts before the standard.
    C1c2c3,
    /// The same without the 04.
    C1c2c3Bare,
    /// SEQUENCE (GM/T 0009-2012 7.2).
    Der,
}

/// A signature, and whether its encoding was not what it should have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadSignature {
    /// r || s.
    pub signature: Signature,
    /// What was odd about the encoding, if anything.
    pub oddity: Option<Oddity>,
}

/// Mistakes in the encoding of a signature that cards are known to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Oddity {
    /// The highest bit is set and no zero stands in front: as DER, a negative number.
    Negative,
    /// A zero in front that does not belong there.
    NotMinimal,
    /// A length of the long form where the short would do.
    LongLength,
    /// Zeros behind the end.
    Padded,
}

/// Most bytes of a signature in any form; what is longer is none.
pub const SIGNATURE_BYTES_MAX: usize = 96;

/// Bytes of x, of y, of r, of s and of C3.
const WIDTH: usize = 32;

const TAG_INTEGER: u8 = 0x02;
const TAG_OCTETS: u8 = 0x04;
const TAG_SEQUENCE: u8 = 0x30;
const UNCOMPRESSED: u8 = 0x04;

fn malformed(what: &'static str, reason: impl Into<String>) -> Error {
    Error::AnswerMalformed { what, reason: reason.into() }
}

impl SignatureForm {
    /// All forms.
    pub const ALL: [Self; 3] = [Self::Raw, Self::DerStrict, Self::DerLenient];

    /// Reads what a card gave.
    ///
    /// # Errors
    /// [`Error::AnswerMalformed`] if the bytes have not this form.
    pub fn read(self, bytes: &[u8]) -> Result<ReadSignature, Error> {
        match self {
            Self::Raw => {
                let raw: &[u8; 64] = bytes.try_into().map_err(|_| {
                    malformed("signature", format!("{} bytes, r || s has 64", bytes.len()))
                })?;
                Ok(ReadSignature { signature: Signature(*raw), oddity: None })
            }
            Self::DerStrict => {
                let read = read_der(bytes)?;
                match read.oddity {
                    None => Ok(read),
                    Some(oddity) => Err(malformed("signature", oddity.meaning())),
                }
            }
            Self::DerLenient => read_der(bytes),
        }
    }
}

impl Oddity {
    /// For reports.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Negative => "an INTEGER lacks its leading zero and is negative",
            Self::NotMinimal => "an INTEGER has a leading zero too many",
            Self::LongLength => "a length has the long form without need",
            Self::Padded => "zeros follow the signature",
        }
    }
}

/// What is left to read, and the first oddity met.
struct Reader<'a> {
    rest: &'a [u8],
    oddity: Option<Oddity>,
}

impl<'a> Reader<'a> {
    /// The content under `tag`.
    fn take(&mut self, tag: u8) -> Result<&'a [u8], Error> {
        let wrong = |reason: String| malformed("signature", reason);
        let (&[found, first], rest) =
            self.rest.split_first_chunk().ok_or_else(|| wrong("it is cut short".to_owned()))?;
        if found != tag {
            return Err(wrong(format!("tag {found:#04x} where {tag:#04x} belongs")));
        }
        let (length, rest) = match (first, rest) {
            (0..=0x7f, rest) => (usize::from(first), rest),
            (0x81, [length, rest @ ..]) => {
                self.odd(*length < 0x80, Oddity::LongLength);
                (usize::from(*length), rest)
            }
            _ => return Err(wrong(format!("length byte {first:#04x}"))),
        };
        let (content, rest) =
            rest.split_at_checked(length).ok_or_else(|| wrong("it is cut short".to_owned()))?;
        self.rest = rest;
        Ok(content)
    }

    /// An unsigned number of 256 bits at most.
    fn number(&mut self) -> Result<[u8; WIDTH], Error> {
        let content = self.take(TAG_INTEGER)?;
        let Some(&highest) = content.first() else {
            return Err(malformed("signature", "an INTEGER is empty"));
        };
        self.odd(highest & 0x80 != 0, Oddity::Negative);
        let is_padded = matches!(content, [0, next, ..] if next & 0x80 == 0);
        self.odd(is_padded, Oddity::NotMinimal);
        let digits = content.iter().position(|byte| *byte != 0).unwrap_or(content.len());
        let digits = content.get(digits..).unwrap_or_default();
        let mut number = [0; WIDTH];
        let start = WIDTH
            .checked_sub(digits.len())
            .ok_or_else(|| malformed("signature", "an INTEGER has more than 256 bits"))?;
        number[start..].copy_from_slice(digits);
        Ok(number)
    }

    const fn odd(&mut self, is_odd: bool, oddity: Oddity) {
        if is_odd && self.oddity.is_none() {
            self.oddity = Some(oddity);
        }
    }
}

fn read_der(bytes: &[u8]) -> Result<ReadSignature, Error> {
    if bytes.len() > SIGNATURE_BYTES_MAX {
        return Err(malformed("signature", format!("{} bytes", bytes.len())));
    }
    let mut outer = Reader { rest: bytes, oddity: None };
    let mut inner = Reader { rest: outer.take(TAG_SEQUENCE)?, oddity: None };
    let (r, s) = (inner.number()?, inner.number()?);
    if !inner.rest.is_empty() {
        return Err(malformed("signature", "more than two numbers"));
    }
    if outer.rest.iter().any(|byte| *byte != 0) {
        return Err(malformed("signature", "bytes follow it"));
    }
    outer.odd(!outer.rest.is_empty(), Oddity::Padded);
    let mut signature = [0; 64];
    signature[..WIDTH].copy_from_slice(&r);
    signature[WIDTH..].copy_from_slice(&s);
    Ok(ReadSignature { signature: Signature(signature), oddity: outer.oddity.or(inner.oddity) })
}

impl PointForm {
    /// Reads one attribute; for [`PointForm::Xy`], x followed by y. The point is on the curve.
    ///
    /// # Errors
    /// [`Error::AnswerMalformed`] if the bytes have not this form or are no point.
    pub fn read(self, bytes: &[u8]) -> Result<PublicKey, Error> {
        let wrong =
            |reason: &str| malformed("public key", format!("{} bytes, {reason}", bytes.len()));
        let form = match (self, bytes.len()) {
            (Self::ByLength, 67) => Self::Octet,
            (Self::ByLength, 65) => Self::Raw04,
            (form, _) => form,
        };
        let both = match (form, bytes) {
            (Self::Octet, [TAG_OCTETS, 65, UNCOMPRESSED, both @ ..]) => both,
            (Self::Octet, _) => return Err(wrong("no OCTET STRING of an uncompressed point")),
            (Self::Raw04, [UNCOMPRESSED, both @ ..]) => both,
            (Self::Raw04, _) => return Err(wrong("it does not begin with 04")),
            (Self::Raw64 | Self::Xy | Self::ByLength, both) => both,
        };
        let both = both.try_into().map_err(|_| wrong("x || y has 64"))?;
        let key = PublicKey(both);
        if !is_curve_point(&key) {
            return Err(malformed("public key", "it is no point of the SM2 curve"));
        }
        Ok(key)
    }

    /// What an attribute of this form holds for the key; for [`PointForm::Xy`], x then y; for
    /// [`PointForm::ByLength`], what PKCS#11 says.
    #[must_use]
    pub fn write(self, key: &PublicKey) -> Vec<u8> {
        let mut bytes: Vec<u8> = match self {
            Self::Octet | Self::ByLength => vec![TAG_OCTETS, 65, UNCOMPRESSED],
            Self::Raw04 => vec![UNCOMPRESSED],
            Self::Raw64 | Self::Xy => Vec::new(),
        };
        bytes.extend_from_slice(&key.0);
        bytes
    }
}

impl CiphertextForm {
    /// All forms.
    pub const ALL: [Self; 5] =
        [Self::C1c3c2, Self::C1c3c2Bare, Self::C1c2c3, Self::C1c2c3Bare, Self::Der];

    /// A ciphertext in the order of the standard, 04 || C1 || C3 || C2, as this card wants it.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is none.
    pub fn write(self, standard: &[u8]) -> Result<Vec<u8>, Error> {
        let read = Ciphertext::from_bytes(standard)
            .map_err(|cause| Error::Refused { what: "ciphertext", reason: cause.to_string() })?;
        let standard = read.to_bytes();
        let (point, rest) = standard.split_at(1 + 2 * WIDTH);
        let (hash, text) = rest.split_at(WIDTH);
        let bare = point.get(1..).unwrap_or_default();
        Ok(match self {
            Self::C1c3c2 => standard,
            Self::C1c3c2Bare => [bare, hash, text].concat(),
            Self::C1c2c3 => [point, text, hash].concat(),
            Self::C1c2c3Bare => [bare, text, hash].concat(),
            Self::Der => read.to_der(),
        })
    }
}

#[cfg(test)]
mod tests {
    use hufu_crypto::{Signer, SoftwareSigner};

    use super::*;

    /// SEQUENCE of the two contents, each under INTEGER as it stands.
    fn der(r: &[u8], s: &[u8]) -> Vec<u8> {
        let mut inner = vec![TAG_INTEGER, u8::try_from(r.len()).unwrap()];
        inner.extend_from_slice(r);
        inner.extend_from_slice(&[TAG_INTEGER, u8::try_from(s.len()).unwrap()]);
        inner.extend_from_slice(s);
        let mut outer = vec![TAG_SEQUENCE, u8::try_from(inner.len()).unwrap()];
        outer.extend_from_slice(&inner);
        outer
    }

    fn halves(read: &ReadSignature) -> ([u8; 32], [u8; 32]) {
        let (r, s) = read.signature.0.split_at(32);
        (r.try_into().unwrap(), s.try_into().unwrap())
    }

    #[test]
    fn every_mistake_that_cards_make_is_read_told_and_refused_by_the_strict_form() {
        let low = [0x11; 32];
        // What Sansec's 8103 gives about once in 256: r has 31 bytes and no zero in front.
        let negative = der(&[0x91; 31], &low);
        let padded = {
            let mut padded = der(&low, &low);
            padded.extend_from_slice(&[0, 0]);
            padded
        };
        let long = {
            let mut long = der(&low, &low);
            long.insert(1, 0x81);
            long
        };
        let minimal: Vec<u8> = [&[0][..], &[0x11; 32]].concat();
        let cases = [
            (negative, Oddity::Negative),
            (der(&minimal, &low), Oddity::NotMinimal),
            (long, Oddity::LongLength),
            (padded, Oddity::Padded),
        ];
        for (bytes, oddity) in cases {
            let read = SignatureForm::DerLenient.read(&bytes).unwrap();
            assert_eq!(read.oddity, Some(oddity));
            assert_eq!(halves(&read).1, low);
            let refused = SignatureForm::DerStrict.read(&bytes).unwrap_err();
            assert!(refused.to_string().contains(oddity.meaning()), "{refused}");
        }
        let read = SignatureForm::DerLenient.read(&der(&[0x91; 31], &low)).unwrap();
        let mut r = [0x91; 32];
        r[0] = 0;
        assert_eq!(halves(&read).0, r, "the number that was meant, 31 bytes long");
    }

    #[test]
    fn der_that_is_right_is_read_the_same_by_both_forms_at_every_length() {
        for length in 1..=32 {
            let mut digits = vec![0x7f; length];
            let bytes = der(&digits, &[1]);
            let strict = SignatureForm::DerStrict.read(&bytes).unwrap();
            assert_eq!(strict, SignatureForm::DerLenient.read(&bytes).unwrap());
            digits.splice(0..0, vec![0; 32 - length]);
            assert_eq!(halves(&strict).0.as_slice(), digits);
        }
        let high: Vec<u8> = [&[0][..], &[0xff; 32]].concat();
        let read = SignatureForm::DerStrict.read(&der(&high, &high)).unwrap();
        assert_eq!((read.signature.0, read.oddity), ([0xff; 64], None));
    }

    #[test]
    fn what_is_no_signature_is_refused_whatever_the_form() {
        let good = der(&[1; 32], &[2; 32]);
        for length in 0..good.len() {
            for form in SignatureForm::ALL {
                assert!(form.read(&good[..length]).is_err() || length == 64, "{form:?} {length}");
            }
        }
        let three: Vec<u8> = {
            let mut inner = good[2..].to_vec();
            inner.extend_from_slice(&[TAG_INTEGER, 1, 1]);
            [&[TAG_SEQUENCE, u8::try_from(inner.len()).unwrap()][..], &inner].concat()
        };
        let behind: Vec<u8> = [&good[..], &[1]].concat();
        let wide: Vec<u8> = [&[1][..], &[0; 32]].concat();
        for bytes in [three, behind, der(&wide, &[1]), der(&[], &[1]), vec![0; 97], vec![0x30; 70]]
        {
            for form in [SignatureForm::DerStrict, SignatureForm::DerLenient] {
                assert!(form.read(&bytes).is_err(), "{form:?} {bytes:02x?}");
            }
        }
        // Any flip is refused or is another signature: nothing is mended into what was meant.
        let meant = SignatureForm::DerLenient.read(&good).unwrap().signature;
        for bit in 0..good.len() * 8 {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = SignatureForm::DerLenient.read(&flipped) {
                assert_ne!(read.signature, meant, "bit {bit}");
            }
        }
    }

    #[test]
    fn points_come_back_from_every_form_and_only_points_of_the_curve_do() {
        let key = *SoftwareSigner::generate().unwrap().public_key();
        for form in [PointForm::Octet, PointForm::Raw04, PointForm::Raw64, PointForm::Xy] {
            let bytes = form.write(&key);
            assert_eq!(form.read(&bytes).unwrap(), key, "{form:?}");
            for length in 0..bytes.len() {
                assert!(form.read(&bytes[..length]).is_err(), "{form:?} cut at {length}");
            }
            let mut off = bytes.clone();
            *off.last_mut().unwrap() ^= 1;
            let refused = form.read(&off).unwrap_err();
            assert!(refused.to_string().contains("curve"), "{refused}");
        }
        assert!(PointForm::Octet.read(&PointForm::Raw04.write(&key)).is_err());
        for form in [PointForm::Octet, PointForm::Raw04, PointForm::Raw64] {
            assert_eq!(PointForm::ByLength.read(&form.write(&key)).unwrap(), key);
        }
    }

    #[test]
    fn a_ciphertext_is_put_into_every_order() {
        let (point, hash, text) = ([1u8; 64], [2u8; 32], [3u8; 5]);
        let standard = [&[4][..], &point, &hash, &text].concat();
        let write = |form: CiphertextForm| form.write(&standard).unwrap();
        assert_eq!(write(CiphertextForm::C1c3c2), standard);
        assert_eq!(write(CiphertextForm::C1c3c2Bare), standard[1..]);
        assert_eq!(write(CiphertextForm::C1c2c3), [&[4][..], &point, &text, &hash].concat());
        assert_eq!(write(CiphertextForm::C1c2c3Bare), [&point[..], &text, &hash].concat());
        let der = Ciphertext::from_der(&write(CiphertextForm::Der)).unwrap();
        assert_eq!(der.to_bytes(), standard);
        for form in [CiphertextForm::C1c3c2, CiphertextForm::Der] {
            assert!(matches!(form.write(&standard[..97]), Err(Error::Refused { .. })));
        }
    }
}
