//! A profile for a card that none is known for, drafted from what the card does.
//!
//! Codes that PKCS#11 does not know are tried with the flags that the library lists for them: those
//! that make pairs make one, for the session only; those that sign sign with it, and what came out
//! is verified; those that decrypt decrypt what software encrypted; the rest are told apart by what
//! they do to blocks. What nothing could be learnt of is named and left out.

use cryptoki_sys as ck;
use hufu_crypto::{Backend, Drbg, PublicKey, Sm3, Verifier, encryption, entropy};

use super::{meaning, public_of, reason_or_error};
use crate::card::{FoundKey, KeyClass, KeyName, keys, operations};
use crate::forms::{CiphertextForm, PointForm, SignInput};
use crate::keystore::CardIdentity;
use crate::pin::Pin;
use crate::pkcs11::{Attribute, AttributeValue, Library, Mechanism, Session};
use crate::profile::{
    Curve, Decrypt, KeyNaming, Match, Profile, Quirks, ReturnValues, Sign, Sm2, Sm3 as Sm3Codes,
    Sm4,
};
use crate::{Error, Usage};

/// From here on, PKCS#11 gives no codes: vendors' own, inside their range and below it.
const UNASSIGNED_FROM: u64 = 0x5000;

/// Codes of one card that are tried at most, count.
const CODES_MAX: usize = 256;

/// Objects of one class that are looked at, count.
const OBJECTS_MAX: usize = 64;

/// Key types that are tried where no known profile's fits: the vendor's range from its start on.
const VENDOR_KEY_TYPES: core::ops::RangeInclusive<u64> =
    ck::CKK_VENDOR_DEFINED..=ck::CKK_VENDOR_DEFINED + 0x20;

/// What the pairs that are made for trying are called; they go with the session.
const TRIAL: KeyName<'static> = KeyName { label: "hufu probe", id: b"hufu probe", is_kept: false };

/// A drafted profile, and what was seen on the way.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The profile; it holds only what was proven on the card.
    pub profile: Profile,
    /// One line each: codes that nothing could be learnt of, oddities, what is missing.
    pub remarks: Vec<String>,
}

/// A code that the library lists and PKCS#11 does not know.
struct Code {
    code: u64,
    flags: u64,
}

/// What a draft is made with.
struct Bench<'a> {
    session: &'a Session,
    pin: Option<&'a Pin>,
    verifier: &'a dyn Verifier,
    codes: Vec<Code>,
    /// Key types of the known profiles, and then all others.
    key_types: Vec<u64>,
    remarks: Vec<String>,
}

/// Drafts a profile for the token of `session`, in which somebody is logged in and may write.
/// `known` are profiles whose key types are tried first.
///
/// # Errors
/// [`Error::ProbeFailed`] if the card makes no SM2 pair or signs no e in any way that was tried;
/// the library's errors that say nothing about a code.
pub fn draft(
    library: &Library,
    session: &Session,
    pin: Option<&Pin>,
    identity: &CardIdentity,
    known: &[Profile],
    verifier: &dyn Verifier,
) -> Result<Draft, Error> {
    let codes = vendor_codes(library, session.slot())?;
    let of_codes = codes.iter().flat_map(|code| {
        let first = code.code & !0xff;
        first..=first + 0x20
    });
    let mut key_types: Vec<u64> = known
        .iter()
        .flat_map(|profile| [Some(profile.sm2.key_type), profile.sm4.map(|sm4| sm4.key_type)])
        .flatten()
        .chain(types_on_token(session)?)
        .chain(VENDOR_KEY_TYPES)
        .chain(of_codes)
        .collect();
    let mut seen = Vec::new();
    key_types.retain(|kind| {
        !seen.contains(kind) && {
            seen.push(*kind);
            true
        }
    });
    let mut bench = Bench { session, pin, verifier, codes, key_types, remarks: Vec::new() };
    let (mut profile, key) = bench.pairs(identity)?;
    profile.sm2.sign = bench.signers(&key)?;
    if profile.sign_prehashed().is_none() {
        return Err(failed("signing e", "no code signs e in any form that was tried"));
    }
    profile.sm2.decrypt = bench.decrypters(&profile)?;
    profile.sm3 = bench.digest()?.map(|digest| Sm3Codes { digest });
    profile.sm4 = bench.blocks(&profile)?;
    if profile.sm4.is_none() {
        bench.remarks.push("no SM4 was found: this card wraps no data key".to_owned());
    }
    Ok(Draft { profile, remarks: bench.remarks })
}

/// Types of the keys that are on the token, which PKCS#11 does not know.
fn types_on_token(session: &Session) -> Result<Vec<u64>, Error> {
    let mut types = Vec::new();
    for class in [ck::CKO_PRIVATE_KEY, ck::CKO_SECRET_KEY] {
        for object in session.find(&[Attribute::number(ck::CKA_CLASS, class)], OBJECTS_MAX)? {
            let values = session.attributes(object, &[ck::CKA_KEY_TYPE])?;
            types.extend(values.first().and_then(AttributeValue::number));
        }
    }
    types.retain(|kind| *kind >= UNASSIGNED_FROM);
    Ok(types)
}

fn failed(step: &str, reason: &str) -> Error {
    Error::ProbeFailed {
        profile: "draft".to_owned(),
        step: step.to_owned(),
        reason: reason.to_owned(),
    }
}

fn vendor_codes(library: &Library, slot: u64) -> Result<Vec<Code>, Error> {
    let mut codes = Vec::new();
    for code in library.mechanisms(slot)? {
        if code >= UNASSIGNED_FROM && codes.len() < CODES_MAX {
            let flags = library.mechanism_info(slot, code)?.flags;
            codes.push(Code { code, flags });
        }
    }
    Ok(codes)
}

/// Name and conditions from what library and token say of themselves.
fn blank(identity: &CardIdentity) -> Profile {
    let letters = identity.library_manufacturer.to_lowercase();
    let letters: String = letters
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .collect();
    let exactly = |text: &str| if text.is_empty() { Vec::new() } else { vec![text.to_owned()] };
    Profile {
        name: format!("draft-{}", letters.trim_matches('-')).trim_end_matches('-').to_owned(),
        title: format!("{} {}", identity.token_manufacturer, identity.token_model)
            .trim()
            .to_owned(),
        source: "drafted by `hufu hsm probe` from what the card does".to_owned(),
        tested_on_hardware: false,
        matches: Match {
            library_manufacturer: exactly(&identity.library_manufacturer),
            token_manufacturer: exactly(&identity.token_manufacturer),
            token_model: exactly(&identity.token_model),
            ..Match::default()
        },
        sm2: Sm2 {
            key_type: 0,
            curve: Curve::Oid,
            point_form: PointForm::Octet,
            point_attribute: None,
            point_y_attribute: None,
            private_key_has_point: false,
            generate: Vec::new(),
            sign: Vec::new(),
            decrypt: Vec::new(),
        },
        sm4: None,
        sm3: None,
        key_wrap: Vec::new(),
        quirks: Quirks::default(),
        return_values: ReturnValues::default(),
    }
}

impl Bench<'_> {
    fn codes(&self, flag: u64) -> Vec<u64> {
        self.codes.iter().filter(|code| code.flags & flag != 0).map(|code| code.code).collect()
    }

    /// A key pair of the card's own making, and how its public key is told.
    fn pairs(&mut self, identity: &CardIdentity) -> Result<(Profile, FoundKey), Error> {
        let mut profile = blank(identity);
        let generators = self.codes(ck::CKF_GENERATE_KEY_PAIR);
        let key = self.first_pair(&mut profile, &generators)?.ok_or_else(|| {
            failed("making a pair", "no code makes an SM2 pair with any key type that was tried")
        })?;
        profile.quirks.key_naming = self.naming(key.object)?;
        for code in generators {
            let mut trial = profile.clone();
            let is_new = !profile.sm2.generate.contains(&code);
            if is_new && self.pair(&mut trial, code, Usage::Sign)?.is_some() {
                profile.sm2.generate.push(code);
            }
        }
        Ok((profile, key))
    }

    /// Whether the card kept the name that the trial key was given, or gave it a number. Numbers
    /// are small, so that the end at which the zeros stand tells their order.
    fn naming(&self, object: u64) -> Result<KeyNaming, Error> {
        let values = self.session.attributes(object, &[ck::CKA_LABEL, ck::CKA_ID])?;
        let bytes = |place: usize| values.get(place).and_then(AttributeValue::bytes);
        let label = bytes(0).unwrap_or_default();
        let number = bytes(1).and_then(|id| <[u8; 4]>::try_from(id).ok());
        Ok(match number {
            _ if label == TRIAL.label.as_bytes() => KeyNaming::Attributes,
            Some([first, _, _, 0]) if first != 0 => KeyNaming::IndexLittleEndian,
            Some([0, _, _, last]) if last != 0 => KeyNaming::IndexBigEndian,
            _ if !label.is_empty() && label.iter().all(u8::is_ascii_digit) => KeyNaming::IndexText,
            _ => KeyNaming::Attributes,
        })
    }

    /// The first that any code makes with any key type.
    fn first_pair(
        &self,
        profile: &mut Profile,
        generators: &[u64],
    ) -> Result<Option<FoundKey>, Error> {
        for code in generators {
            for key_type in &self.key_types {
                for curve in [Curve::Oid, Curve::Absent] {
                    (profile.sm2.key_type, profile.sm2.curve) = (*key_type, curve);
                    if let Some(key) = self.pair(profile, *code, Usage::Sign)? {
                        profile.sm2.generate.push(*code);
                        return Ok(Some(key));
                    }
                }
            }
        }
        Ok(None)
    }

    /// A pair that this code makes; in which form the card tells its public key goes into the
    /// profile.
    fn pair(
        &self,
        profile: &mut Profile,
        code: u64,
        usage: Usage,
    ) -> Result<Option<FoundKey>, Error> {
        let forms = [PointForm::Octet, PointForm::Raw04, PointForm::Raw64];
        for (has_point, form) in
            [false, true].into_iter().flat_map(|has| forms.map(|form| (has, form)))
        {
            (profile.sm2.private_key_has_point, profile.sm2.point_form) = (has_point, form);
            let class = KeyClass::SingleCard;
            match keys::generate_pair(self.session, profile, code, &TRIAL, usage, class) {
                Ok(key) => return Ok(Some(key)),
                Err(Error::AnswerMalformed { .. }) => {}
                Err(error) => {
                    reason_or_error(error)?;
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    fn signers(&mut self, key: &FoundKey) -> Result<Vec<Sign>, Error> {
        let mut signers = Vec::new();
        for code in self.codes(ck::CKF_SIGN) {
            match meaning(self.session, code, key, self.pin, self.verifier)? {
                Some(meant) => {
                    if let Some(oddity) = meant.oddity {
                        self.remarks.push(format!("{code:#x}: {}", oddity.meaning()));
                    }
                    let (input, output) = (meant.input, meant.output);
                    signers.push(Sign { mechanism: code, input, output });
                }
                None => self.remarks.push(format!("{code:#x} signs, and not SM2 as it was tried")),
            }
        }
        // What takes e goes first, and raw before DER: there is less to get wrong.
        signers.sort_by_key(|sign| {
            (sign.input != SignInput::PrehashedE, sign.output != crate::forms::SignatureForm::Raw)
        });
        Ok(signers)
    }

    /// Codes that decrypt what software encrypted to a key of the card.
    fn decrypters(&mut self, profile: &Profile) -> Result<Vec<Decrypt>, Error> {
        let Some(generator) = profile.sm2.generate.first() else { return Ok(Vec::new()) };
        let mut trial = profile.clone();
        let Some(key) = self.pair(&mut trial, *generator, Usage::Decrypt)? else {
            self.remarks.push("no pair for decryption could be made".to_owned());
            return Ok(Vec::new());
        };
        let plaintext = b"hufu probe: thirty-two bytes....";
        let standard = encrypted(&public_of(&key)?, plaintext)?;
        let mut found = Vec::new();
        for code in self.codes(ck::CKF_DECRYPT) {
            for input in CiphertextForm::ALL {
                let decrypt = Decrypt { mechanism: code, input };
                let mut answer = [0; 256];
                let (session, pin) = (self.session, self.pin);
                match operations::decrypt(session, &decrypt, &key, pin, &standard, &mut answer) {
                    Ok(size) if answer.get(..size) == Some(plaintext) => found.push(decrypt),
                    Ok(_) => {}
                    Err(error) => {
                        reason_or_error(error)?;
                    }
                }
            }
        }
        Ok(found)
    }

    /// The code of SM3, by the example of GM/T 0004-2012 A.1.
    fn digest(&self) -> Result<Option<u64>, Error> {
        for code in self.codes(ck::CKF_DIGEST) {
            let mut answer = [0; 64];
            match self.session.digest(&Mechanism::bare(code), b"abc", &mut answer) {
                Ok(32) if answer.get(..32) == Some(&Sm3::of(&[b"abc"]).0) => return Ok(Some(code)),
                Ok(_) => {}
                Err(error) => {
                    reason_or_error(error)?;
                }
            }
        }
        Ok(None)
    }

    /// SM4: a key, and the codes that encrypt blocks with it, told apart by what they do to equal
    /// ones.
    fn blocks(&self, profile: &Profile) -> Result<Option<Sm4>, Error> {
        for generate in self.codes(ck::CKF_GENERATE) {
            for key_type in self.key_types.clone() {
                for with_length in [false, true] {
                    let blank = Sm4 {
                        key_type,
                        generate,
                        ecb: None,
                        cbc: None,
                        gcm: None,
                        generate_with_length: with_length,
                    };
                    let trial = Profile { sm4: Some(blank), ..profile.clone() };
                    let class = KeyClass::SingleCard;
                    let made = keys::generate_wrapping_key(self.session, &trial, &TRIAL, class);
                    let key = match made {
                        Ok(key) => key,
                        Err(error) => {
                            reason_or_error(error)?;
                            continue;
                        }
                    };
                    let (ecb, cbc) = self.modes(&key)?;
                    if ecb.is_some() || cbc.is_some() {
                        return Ok(Some(Sm4 { ecb, cbc, ..blank }));
                    }
                }
            }
        }
        Ok(None)
    }

    fn modes(&self, key: &FoundKey) -> Result<(Option<u64>, Option<u64>), Error> {
        let (mut ecb, mut cbc) = (None, None);
        for code in self.codes(ck::CKF_ENCRYPT) {
            if ecb.is_none() && self.is_ecb(code, key)? {
                ecb = Some(code);
            } else if cbc.is_none() && self.is_cbc(code, key)? {
                cbc = Some(code);
            }
        }
        Ok((ecb, cbc))
    }

    /// Two equal blocks become two equal blocks, and come back.
    fn is_ecb(&self, code: u64, key: &FoundKey) -> Result<bool, Error> {
        let Some(sealed) = self.two_blocks(&Mechanism::bare(code), key, &[0x5a; 32])? else {
            return Ok(false);
        };
        Ok(sealed[..16] == sealed[16..] && self.opens(&Mechanism::bare(code), key, &sealed)?)
    }

    /// Two equal blocks become different ones; what is added to the first value and taken off the
    /// first block makes no difference; and they come back.
    fn is_cbc(&self, code: u64, key: &FoundKey) -> Result<bool, Error> {
        let mechanism = Mechanism::with(code, &[0; 16]);
        let Some(sealed) = self.two_blocks(&mechanism, key, &[0x5a; 32])? else {
            return Ok(false);
        };
        let other = Mechanism::with(code, &[0x5a; 16]);
        let mut blocks = [0x5a; 32];
        blocks[..16].fill(0);
        let again = self.two_blocks(&other, key, &blocks)?;
        let is_chained = sealed[..16] != sealed[16..] && again == Some(sealed);
        Ok(is_chained && self.opens(&mechanism, key, &sealed)?)
    }

    fn two_blocks(
        &self,
        mechanism: &Mechanism<'_>,
        key: &FoundKey,
        blocks: &[u8; 32],
    ) -> Result<Option<[u8; 32]>, Error> {
        let mut answer = [0; 64];
        match self.session.encrypt(mechanism, key.object, blocks, &mut answer) {
            Ok(32) => Ok(answer.first_chunk().copied()),
            Ok(_) => Ok(None),
            Err(error) => reason_or_error(error).map(|_| None),
        }
    }

    fn opens(
        &self,
        mechanism: &Mechanism<'_>,
        key: &FoundKey,
        sealed: &[u8; 32],
    ) -> Result<bool, Error> {
        let mut answer = [0; 64];
        match self.session.decrypt(mechanism, key.object, sealed, &mut answer) {
            Ok(size) => Ok(answer.get(..size) == Some(&[0x5a; 32])),
            Err(error) => reason_or_error(error).map(|_| false),
        }
    }
}

/// Encrypts in software what the card is to decrypt.
pub(super) fn encrypted(key: &PublicKey, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
    let broken = |cause: hufu_crypto::Error| failed("encrypting in software", &cause.to_string());
    let mut generator = Drbg::new(entropy::system(), "hufu probe").map_err(broken)?;
    let sealed = encryption::encrypt(Backend::best(), &mut generator, key, plaintext);
    Ok(sealed.map_err(broken)?.to_bytes())
}
