//! What differs between vendors, as data: codes of key types and mechanisms, forms of points and
//! signatures, names, quirks. One file an imitation; `native` is our own set of codes.
//!
//! ```text
//! client --code--> Dialect --Algorithm--> mechanisms/      one implementation behind all codes
//! ```
//!
//! Nothing here is shared with `hsm/`: who imitates a vendor must not copy from the profile that
//! is tested against the imitation.

pub mod native;

mod ep11;
mod koal;
mod luna;
mod sansec;
mod standard;
mod tass;
mod westone;
mod wosign;

use cryptoki_sys::{CK_KEY_TYPE, CK_MECHANISM_TYPE, CK_RV};

/// What a mechanism does, whatever its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// Makes an SM2 pair.
    Sm2Pair,
    /// Makes a P-256 pair.
    EcPair,
    /// Makes a symmetric key.
    Key(Secret),
    /// SM2 signature.
    Sm2Sign(SignInput, SignOutput),
    /// SM2 encryption.
    Sm2Encrypt(CipherForm),
    /// A digest.
    Hash(Hash),
    /// HMAC with SM3.
    HmacSm3,
    /// CBC-MAC of SM4 over whole blocks.
    Sm4Mac,
    /// A block cipher in a mode.
    Block(Block, Mode),
    /// ECDSA over P-256: over what is handed in, or over its digest.
    Ecdsa(Option<Hash>),
    /// AES key wrap, RFC 3394, or RFC 5649 with padding.
    AesKeyWrap {
        /// RFC 5649.
        padded: bool,
    },
}

/// Kinds of symmetric keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secret {
    Aes,
    Sm4,
    Generic,
}

/// What an SM2 signature is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignInput {
    /// e itself, 32 bytes.
    Digest,
    /// A message; e = SM3(Z || M), the identity from the parameter or the default one.
    Message,
    /// A message; e = SM3(M). Not what GB/T 32918.2 says, and what some cards do.
    MessageWithoutZ,
}

/// How an SM2 signature is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignOutput {
    /// r || s.
    Raw,
    /// GM/T 0009.
    Der,
    /// DER by hand: a leading zero is cut off with the sign bit's zero, or one too many is left.
    DerWrong,
}

/// How an SM2 ciphertext is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CipherForm {
    /// 04 || C1 || C3 || C2.
    Raw,
    /// GM/T 0009.
    Der,
}

/// Digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sm3,
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

/// Block ciphers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    Aes,
    Sm4,
}

/// Modes of block ciphers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Ecb,
    Cbc,
    CbcPad,
    Ctr,
    Gcm,
}

/// How `CKA_EC_POINT` of an SM2 key is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PointForm {
    /// DER OCTET STRING of 04 || x || y, as PKCS#11 has it.
    Octet,
    /// 04 || x || y.
    Raw04,
    /// x || y.
    Raw64,
}

/// A code and what it means.
pub(crate) type Code = (CK_MECHANISM_TYPE, Algorithm);

/// One vendor's manner.
#[derive(Debug)]
pub(crate) struct Dialect {
    /// As the configuration names it.
    pub(crate) name: &'static str,
    /// `manufacturerID` of library, slot and token.
    pub(crate) manufacturer: &'static str,
    /// `libraryDescription`.
    pub(crate) library: &'static str,
    /// `libraryVersion`.
    pub(crate) library_version: (u8, u8),
    /// `model` of the token.
    pub(crate) model: &'static str,
    /// `firmwareVersion` of the token.
    pub(crate) firmware_version: (u8, u8),
    /// First characters of the serial number: `SIM` in every imitation, so that nobody takes it for
    /// a card.
    pub(crate) serial_start: &'static str,
    /// `CKA_KEY_TYPE` of SM2.
    pub(crate) sm2_key_type: CK_KEY_TYPE,
    /// `CKA_KEY_TYPE` of SM4.
    pub(crate) sm4_key_type: CK_KEY_TYPE,
    /// Its own mechanisms.
    pub(crate) codes: &'static [Code],
    /// How points are written.
    pub(crate) point_form: PointForm,
    /// Whether the private key shows `CKA_EC_POINT` too.
    pub(crate) private_has_point: bool,
    /// Whether keys have numbers instead of labels: `CKA_LABEL` is dropped and `CKA_ID` is the
    /// number, four bytes, little-endian.
    pub(crate) keys_by_index: bool,
    /// Whether a NULL buffer asks for the length; where not, it is an error.
    pub(crate) tells_length: bool,
    /// What a card that is asked too much answers.
    pub(crate) throttled: CK_RV,
}

const ALL: &[&Dialect] = &[
    &native::DIALECT,
    &sansec::DIALECT,
    &tass::DIALECT,
    &koal::DIALECT,
    &westone::DIALECT,
    &ep11::DIALECT,
    &luna::DIALECT,
    &wosign::DIALECT,
];

/// The manner with this name.
pub(crate) fn by_name(name: &str) -> Option<&'static Dialect> {
    ALL.iter().find(|dialect| dialect.name == name).copied()
}

/// All names, `native` first.
#[must_use]
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|dialect| dialect.name).collect()
}

impl Dialect {
    /// What a code means here.
    pub(crate) fn algorithm(&self, code: CK_MECHANISM_TYPE) -> Option<Algorithm> {
        self.all_codes().find(|(known, _)| *known == code).map(|(_, algorithm)| *algorithm)
    }

    /// Its own codes, then those of PKCS#11.
    pub(crate) fn all_codes(&self) -> impl Iterator<Item = &'static Code> {
        self.codes.iter().chain(standard::CODES)
    }

    /// A key type as it is stored, from what the client calls it.
    pub(crate) fn key_type_in(&self, theirs: CK_KEY_TYPE) -> CK_KEY_TYPE {
        match theirs {
            theirs if theirs == self.sm2_key_type => native::KEY_SM2,
            theirs if theirs == self.sm4_key_type => native::KEY_SM4,
            // Our own code is a stranger's to another vendor's library.
            native::KEY_SM2 | native::KEY_SM4 => CK_KEY_TYPE::MAX,
            other => other,
        }
    }

    /// What the client calls a key type.
    pub(crate) const fn key_type_out(&self, ours: CK_KEY_TYPE) -> CK_KEY_TYPE {
        match ours {
            native::KEY_SM2 => self.sm2_key_type,
            native::KEY_SM4 => self.sm4_key_type,
            other => other,
        }
    }

    /// A stored point, DER OCTET STRING of 65 bytes, as this vendor shows it.
    pub(crate) fn point_out<'a>(&self, ours: &'a [u8]) -> &'a [u8] {
        let cut = match self.point_form {
            PointForm::Octet => 0,
            PointForm::Raw04 => 2,
            PointForm::Raw64 => 3,
        };
        ours.get(cut..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_dialect_is_sound() {
        let mut names = BTreeSet::new();
        for dialect in ALL {
            assert!(names.insert(dialect.name), "{} twice", dialect.name);
            let codes: Vec<_> = dialect.all_codes().map(|(code, _)| *code).collect();
            let unique: BTreeSet<_> = codes.iter().collect();
            assert_eq!(codes.len(), unique.len(), "{}: a code twice", dialect.name);
            assert!(dialect.manufacturer.len() <= 32 && dialect.library.len() <= 32);
            assert!(dialect.model.len() <= 16 && dialect.serial_start.len() <= 8);
            let has = |wanted: Algorithm| dialect.all_codes().any(|(_, found)| *found == wanted);
            assert!(has(Algorithm::Sm2Pair), "{}", dialect.name);
            assert!(has(Algorithm::Hash(Hash::Sm3)), "{}", dialect.name);
            assert!(has(Algorithm::Key(Secret::Sm4)), "{}", dialect.name);
            let imitation = dialect.name != "native";
            assert_eq!(imitation, dialect.serial_start.starts_with("SIM"), "{}", dialect.name);
        }
    }

    #[test]
    fn key_types_go_through_and_back() {
        for dialect in ALL {
            for ours in [native::KEY_SM2, native::KEY_SM4, cryptoki_sys::CKK_AES] {
                assert_eq!(dialect.key_type_in(dialect.key_type_out(ours)), ours);
            }
        }
        let sansec = by_name("sansec").unwrap();
        assert_eq!(sansec.key_type_out(native::KEY_SM2), 0x8000_0004);
        assert_ne!(sansec.key_type_in(native::KEY_SM2), native::KEY_SM2);
    }
}
