//! The probe: what a profile says is tried on the card, and checked in software.
//!
//! ```text
//! profile + session + key --> a signature of every mechanism that takes e --verified?--> Proven
//! unknown card            --> every code it lists, in every form -----------------------> a draft
//! ```
//!
//! A code that two vendors use for different things, a message hashed once too often, a number cut
//! short: all of it shows when what came back is verified with the public key, so nothing here
//! believes a card. A profile that fails is not used ([`crate::Error::ProbeFailed`]).

mod draft;

pub use draft::{Draft, draft};

use cryptoki_sys as ck;
use hufu_crypto::{
    Digest, IDENTITY_DEFAULT, PublicKey, Signature, Sm3, Verdict, Verifier, VerifyItem,
    identity_digest, message_digest,
};

use crate::card::FoundKey;
use crate::card::operations;
use crate::forms::{Oddity, SignInput, SignatureForm};
use crate::pin::Pin;
use crate::pkcs11::Session;
use crate::profile::{Decrypt, Profile, Sign};
use crate::{Error, ErrorClass};

/// Signatures that a mechanism must make in a row before it is used, count: enough to meet a
/// mistake of one in 256 now and then; certification counts thousands.
const PROOFS_COUNT: usize = 8;

/// What the signatures of a mechanism turned out to be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// What it does with its input.
    pub input: SignInput,
    /// How its answer is to be read.
    pub output: SignatureForm,
    /// The first oddity that was met.
    pub oddity: Option<Oddity>,
}

/// The mechanism of a profile that signs e on this card, proven by signatures that verify.
///
/// # Errors
/// [`Error::ProbeFailed`] with what was tried and what came of it, if none does; an error that says
/// nothing about the profile (a lost session, a busy card) as it is.
pub fn prove(
    session: &Session,
    profile: &Profile,
    key: &FoundKey,
    pin: Option<&Pin>,
    verifier: &dyn Verifier,
) -> Result<Sign, Error> {
    let mut tried = Vec::new();
    let candidates = profile.sm2.sign.iter().filter(|sign| sign.input == SignInput::PrehashedE);
    for sign in candidates {
        match prove_one(session, sign, key, pin, verifier)? {
            Ok(()) => return Ok(*sign),
            Err(reason) => tried.push(format!("{:#x}: {reason}", sign.mechanism)),
        }
    }
    let reason =
        if tried.is_empty() { "no mechanism takes e".to_owned() } else { tried.join("; ") };
    let step = "signing e".to_owned();
    Err(Error::ProbeFailed { profile: profile.name.clone(), step, reason })
}

/// The mechanism of a profile that decrypts on this card what software encrypted.
///
/// # Errors
/// As [`prove`].
pub fn prove_decrypt(
    session: &Session,
    profile: &Profile,
    key: &FoundKey,
    pin: Option<&Pin>,
) -> Result<Decrypt, Error> {
    let plaintext = challenge(session, &public_of(key)?, 0).0;
    let sealed = draft::encrypted(&public_of(key)?, &plaintext)?;
    let mut tried = Vec::new();
    for decrypt in &profile.sm2.decrypt {
        let mut answer = [0; 256];
        let reason = match operations::decrypt(session, decrypt, key, pin, &sealed, &mut answer) {
            Ok(size) if answer.get(..size) == Some(&plaintext) => return Ok(*decrypt),
            Ok(_) => "another plaintext came out".to_owned(),
            Err(error) => reason_or_error(error)?,
        };
        tried.push(format!("{:#x} with {:?}: {reason}", decrypt.mechanism, decrypt.input));
    }
    let reason =
        if tried.is_empty() { "no mechanism decrypts".to_owned() } else { tried.join("; ") };
    let step = "decrypting".to_owned();
    Err(Error::ProbeFailed { profile: profile.name.clone(), step, reason })
}

/// The inner error says why this mechanism is not what the profile says.
fn prove_one(
    session: &Session,
    sign: &Sign,
    key: &FoundKey,
    pin: Option<&Pin>,
    verifier: &dyn Verifier,
) -> Result<Result<(), String>, Error> {
    let public = public_of(key)?;
    for number in 0..PROOFS_COUNT {
        let digest = challenge(session, &public, number);
        let signature = match operations::sign(session, sign, key, pin, &digest) {
            Ok((signature, _)) => signature,
            Err(error) => return reason_or_error(error).map(Err),
        };
        if !verifies(verifier, &public, digest, &signature) {
            let meant = meaning_of(verifier, &public, &digest.0, &signature);
            return Ok(Err(match meant {
                Some(input) => format!("it does not sign e: it takes {}", name(input)),
                None => "the signature verifies in no way".to_owned(),
            }));
        }
    }
    Ok(Ok(()))
}

/// What a mechanism does with 32 bytes, and how its answer reads; `None` if no reading verifies.
///
/// # Errors
/// Those that say nothing about the mechanism.
pub(crate) fn meaning(
    session: &Session,
    mechanism: u64,
    key: &FoundKey,
    pin: Option<&Pin>,
    verifier: &dyn Verifier,
) -> Result<Option<Meaning>, Error> {
    let public = public_of(key)?;
    for output in [SignatureForm::Raw, SignatureForm::DerLenient] {
        let (mut input, mut oddity, mut count) = (None, None, 0);
        while count < PROOFS_COUNT {
            let message = challenge(session, &public, count);
            let sign = Sign { mechanism, input: SignInput::PrehashedE, output };
            let read = match operations::sign_bytes(session, &sign, key, pin, &message.0) {
                Ok(read) => read,
                Err(error) => {
                    reason_or_error(error)?;
                    break;
                }
            };
            let meant = meaning_of(verifier, &public, &message.0, &read.0);
            if meant.is_none() || (count > 0 && meant != input) {
                break;
            }
            (input, oddity, count) = (meant, oddity.or(read.1), count + 1);
        }
        if let Some(input) = input.filter(|_| count == PROOFS_COUNT) {
            return Ok(Some(Meaning { input, output, oddity }));
        }
    }
    Ok(None)
}

/// What a signature is of, if 32 bytes were handed in.
fn meaning_of(
    verifier: &dyn Verifier,
    public: &PublicKey,
    input: &[u8; 32],
    signature: &Signature,
) -> Option<SignInput> {
    let with_z = message_digest(&identity_digest(IDENTITY_DEFAULT, public), input);
    let candidates = [
        (SignInput::PrehashedE, Digest(*input)),
        (SignInput::MessageWithDefaultZ, with_z),
        (SignInput::MessageWithoutZ, Sm3::of(&[input])),
    ];
    let fits = |digest: Digest| verifies(verifier, public, digest, signature);
    candidates.into_iter().find(|(_, digest)| fits(*digest)).map(|(input, _)| input)
}

fn verifies(
    verifier: &dyn Verifier,
    public: &PublicKey,
    digest: Digest,
    signature: &Signature,
) -> bool {
    verifier.verify(VerifyItem { key: public, digest, signature }) == Verdict::Valid
}

fn public_of(key: &FoundKey) -> Result<PublicKey, Error> {
    let reason = "it has none".to_owned();
    key.public.ok_or(Error::AnswerMalformed { what: "public key", reason })
}

/// A digest that no replayed answer fits: of the card's own randomness where it gives some, and
/// of a number.
fn challenge(session: &Session, public: &PublicKey, number: usize) -> Digest {
    let mut drawn = [0; 32];
    // Without a generator the number alone tells challenges apart.
    session.random(&mut drawn).ok();
    Sm3::of(&[b"hufu probe", &public.0, &drawn, &number.to_le_bytes()])
}

/// A failure that the mechanism itself is the reason of, as text; any other is no finding. Some
/// libraries have no better word than "failed" for what they do not know.
fn reason_or_error(error: Error) -> Result<String, Error> {
    let vague = [ck::CKR_FUNCTION_FAILED, ck::CKR_GENERAL_ERROR];
    let is_vague = matches!(&error, Error::Call { rv, .. } if vague.contains(&rv.0));
    if is_vague || error.class() == ErrorClass::Permanent {
        return Ok(error.to_string());
    }
    Err(error)
}

const fn name(input: SignInput) -> &'static str {
    match input {
        SignInput::PrehashedE => "e",
        SignInput::MessageWithDefaultZ => "a message and puts Z in front",
        SignInput::MessageWithParameterZ => "a message and Z as a parameter",
        SignInput::MessageWithoutZ => "a message and hashes it without Z, which is not SM2",
    }
}
