//! What is done with a key in one session, by the card's profile: e in, `r || s` out.

use hufu_crypto::{
    Digest, Hmac, IDENTITY_DEFAULT, Signature, hkdf, identity_digest, message_digest,
};
use zeroize::Zeroizing;

use super::keys::FoundKey;
use crate::forms::{Oddity, SIGNATURE_BYTES_MAX, SignInput};
use crate::keystore::WRAPPED_BYTES_MAX;
use crate::pin::Pin;
use crate::pkcs11::{Mechanism, Session};
use crate::profile::{Decrypt, Profile, Sign, Sm4};
use crate::{Error, ErrorClass, KeyReference};

/// Bytes of a ciphertext in front of C2: 04, C1 and C3.
const CIPHERTEXT_HEAD_BYTES: usize = 1 + 64 + 32;

/// A signature of e as the card gives it, and what was odd about its encoding. **Not verified.**
///
/// # Errors
/// The library's, or [`Error::AnswerMalformed`].
///
/// # Panics
/// If `sign` does not take e, which only our own mistake can bring about.
pub fn sign(
    session: &Session,
    sign: &Sign,
    key: &FoundKey,
    pin: Option<&Pin>,
    digest: &Digest,
) -> Result<(Signature, Option<Oddity>), Error> {
    assert!(sign.input == SignInput::PrehashedE, "a mechanism that signs e");
    sign_bytes(session, sign, key, pin, &digest.0)
}

/// A signature of a message by the signer's identity, through a mechanism of any input: for cards
/// that do not take e, and for those who certify the others. **Not verified.**
///
/// # Errors
/// As [`sign`]; [`Error::Refused`] where the mechanism signs for another identity, or without one.
pub fn sign_message(
    session: &Session,
    sign: &Sign,
    key: &FoundKey,
    pin: Option<&Pin>,
    identity: &[u8],
    message: &[u8],
) -> Result<(Signature, Option<Oddity>), Error> {
    let refused =
        |reason: &str| Err(Error::Refused { what: "a message to sign", reason: reason.to_owned() });
    match sign.input {
        SignInput::PrehashedE => {
            let reason = "it has none".to_owned();
            let public = key.public.ok_or(Error::AnswerMalformed { what: "public key", reason })?;
            let e = message_digest(&identity_digest(identity, &public), message);
            sign_bytes(session, sign, key, pin, &e.0)
        }
        SignInput::MessageWithParameterZ => {
            let mechanism = Mechanism::with(sign.mechanism, identity);
            sign_by(session, sign, &mechanism, key, pin, message)
        }
        SignInput::MessageWithDefaultZ if identity == IDENTITY_DEFAULT => {
            sign_bytes(session, sign, key, pin, message)
        }
        SignInput::MessageWithDefaultZ => refused("the mechanism knows the default identity only"),
        SignInput::MessageWithoutZ => refused("the mechanism leaves Z out: that is not SM2"),
    }
}

/// As [`sign`], for a mechanism of any input, which is handed over as it is.
///
/// # Errors
/// As [`sign`].
pub fn sign_bytes(
    session: &Session,
    sign: &Sign,
    key: &FoundKey,
    pin: Option<&Pin>,
    input: &[u8],
) -> Result<(Signature, Option<Oddity>), Error> {
    sign_by(session, sign, &Mechanism::bare(sign.mechanism), key, pin, input)
}

fn sign_by(
    session: &Session,
    sign: &Sign,
    mechanism: &Mechanism<'_>,
    key: &FoundKey,
    pin: Option<&Pin>,
    input: &[u8],
) -> Result<(Signature, Option<Oddity>), Error> {
    let mut answer = [0; 2 * SIGNATURE_BYTES_MAX];
    let size = match pin.filter(|_| key.wants_pin) {
        Some(pin) => session.sign_with_pin(mechanism, key.object, pin, input, &mut answer)?,
        None => session.sign(mechanism, key.object, input, &mut answer)?,
    };
    let read = sign.output.read(answer.get(..size).unwrap_or_default())?;
    Ok((read.signature, read.oddity))
}

/// Decrypts `04 || C1 || C3 || C2` in the card; the length written.
///
/// # Errors
/// [`Error::Refused`] if it is no ciphertext or too long for `plaintext`, or the library's.
pub fn decrypt(
    session: &Session,
    decrypt: &Decrypt,
    key: &FoundKey,
    pin: Option<&Pin>,
    ciphertext: &[u8],
    plaintext: &mut [u8],
) -> Result<usize, Error> {
    let input = decrypt.input.write(ciphertext)?;
    let room = plaintext.len();
    if ciphertext.len() > CIPHERTEXT_HEAD_BYTES + room {
        let reason = format!("{} bytes, with room for a plaintext of {room}", ciphertext.len());
        return Err(Error::Refused { what: "ciphertext", reason });
    }
    let mechanism = Mechanism::bare(decrypt.mechanism);
    match pin.filter(|_| key.wants_pin) {
        Some(pin) => session.decrypt_with_pin(&mechanism, key.object, pin, &input, plaintext),
        None => session.decrypt(&mechanism, key.object, &input, plaintext),
    }
}

/// What a wrapped secret begins with: its form, which says how the card is asked to unwrap it.
const FORM_CBC: [u8; 4] = *b"HWC1";
const FORM_ECB: [u8; 4] = *b"HWE1";

/// Bytes of a secret, of the first value of CBC and of the check.
const SECRET_BYTES: usize = 32;
const START_BYTES: usize = 16;
const CHECK_BYTES: usize = 32;

/// Bytes of a wrapped secret: form, first value, ciphertext, check.
pub const WRAPPED_BYTES: usize = 4 + START_BYTES + SECRET_BYTES + CHECK_BYTES;

const _: () = assert!(WRAPPED_BYTES <= WRAPPED_BYTES_MAX, "a wrapped secret fits its place");

/// Wraps a random secret under the card's SM4 key, into `wrapped`; the length written.
///
/// ```text
/// form 4 | first value 16 | SM4-CBC or -ECB of the secret, in the card 32 | check 32
/// check = HMAC-SM3(HKDF-SM3(secret), all before)
/// ```
/// Few cards have GCM, and all have CBC or ECB, which protect no integrity. The check does: its key
/// follows from the secret, so whoever changes the ciphertext changes the secret that comes out
/// of it to one he does not know, and cannot make its check. Because the secret is random, neither
/// two equal blocks nor the check tell anything of it.
///
/// # Errors
/// The library's, or [`Error::KeyUnsuitable`] if the profile has neither mode.
pub fn wrap(
    session: &Session,
    profile: &Profile,
    reference: &KeyReference,
    key: &FoundKey,
    secret: &[u8; SECRET_BYTES],
    wrapped: &mut [u8; WRAPPED_BYTES_MAX],
) -> Result<usize, Error> {
    let mut last = None;
    for (form, code) in modes(&sm4(profile, reference)?) {
        match wrap_in(session, (form, code), key, secret) {
            Ok(bytes) => {
                // A card that wraps and cannot unwrap would show it when the data is needed.
                let mut again = Zeroizing::new([0; SECRET_BYTES]);
                unwrap(session, profile, reference, key, &bytes, &mut again)?;
                wrapped[..WRAPPED_BYTES].copy_from_slice(&bytes);
                return Ok(WRAPPED_BYTES);
            }
            // The card does not have this mode after all.
            Err(error) if error.class() == ErrorClass::Permanent => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::KeyUnsuitable {
        key: reference.clone(),
        reason: format!("profile {} has neither SM4-CBC nor SM4-ECB", profile.name),
    }))
}

fn wrap_in(
    session: &Session,
    (form, code): ([u8; 4], u64),
    key: &FoundKey,
    secret: &[u8; SECRET_BYTES],
) -> Result<Vec<u8>, Error> {
    let mut start = [0; START_BYTES];
    if form == FORM_CBC {
        session.random(&mut start)?;
    }
    let mut sealed = [0; 2 * SECRET_BYTES];
    let size = session.encrypt(&mechanism(form, code, &start), key.object, secret, &mut sealed)?;
    if size != SECRET_BYTES {
        let reason = format!("{size} bytes of ciphertext for {SECRET_BYTES}");
        return Err(Error::AnswerMalformed { what: "wrapped secret", reason });
    }
    let mut bytes = Vec::with_capacity(WRAPPED_BYTES);
    bytes.extend_from_slice(&form);
    bytes.extend_from_slice(&start);
    bytes.extend_from_slice(&sealed[..SECRET_BYTES]);
    let check = check(secret, &bytes).finish();
    bytes.extend_from_slice(&check.0);
    Ok(bytes)
}

/// Unwraps what [`wrap`] made.
///
/// # Errors
/// [`Error::Refused`] if it was wrapped by another key, or changed; `secret` is then zero.
pub fn unwrap(
    session: &Session,
    profile: &Profile,
    reference: &KeyReference,
    key: &FoundKey,
    wrapped: &[u8],
    secret: &mut [u8; SECRET_BYTES],
) -> Result<(), Error> {
    *secret = [0; SECRET_BYTES];
    let refused =
        |reason: &str| Error::Refused { what: "wrapped secret", reason: reason.to_owned() };
    let whole: &[u8; WRAPPED_BYTES] =
        wrapped.try_into().map_err(|_| refused("it has another length"))?;
    let (body, checked) =
        whole.split_last_chunk::<CHECK_BYTES>().ok_or_else(|| refused("it is cut short"))?;
    let (form, rest) = body.split_first_chunk::<4>().ok_or_else(|| refused("it is cut short"))?;
    let (start, sealed) =
        rest.split_first_chunk::<START_BYTES>().ok_or_else(|| refused("it is cut short"))?;
    let sm4 = sm4(profile, reference)?;
    let code = match *form {
        FORM_CBC => sm4.cbc,
        FORM_ECB => sm4.ecb,
        _ => return Err(refused("it has a form that this build does not know")),
    };
    let code =
        code.ok_or_else(|| refused("this card's profile has not the mode it was made in"))?;
    let mut opened = Zeroizing::new([0; 2 * SECRET_BYTES]);
    let mechanism = mechanism(*form, code, start);
    let size = session.decrypt(&mechanism, key.object, sealed, opened.as_mut_slice())?;
    let opened: &[u8; SECRET_BYTES] = opened
        .get(..size)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| refused("the card made another length of it"))?;
    let checked = Digest(*checked);
    if !check(opened, body).verify(&checked) {
        return Err(refused("another key wrapped it, or it was changed"));
    }
    *secret = *opened;
    Ok(())
}

fn sm4(profile: &Profile, reference: &KeyReference) -> Result<Sm4, Error> {
    profile.sm4.ok_or_else(|| Error::KeyUnsuitable {
        key: reference.clone(),
        reason: format!("profile {} has no SM4", profile.name),
    })
}

/// CBC where the card has it, then ECB.
fn modes(sm4: &Sm4) -> impl Iterator<Item = ([u8; 4], u64)> {
    let modes = [(FORM_CBC, sm4.cbc), (FORM_ECB, sm4.ecb)];
    modes.into_iter().filter_map(|(form, code)| Some((form, code?)))
}

fn mechanism(form: [u8; 4], code: u64, start: &[u8; START_BYTES]) -> Mechanism<'_> {
    let parameter: &[u8] = if form == FORM_CBC { start } else { &[] };
    Mechanism::with(code, parameter)
}

/// The check of a wrapped secret over all that stands before it.
fn check(secret: &[u8; SECRET_BYTES], body: &[u8]) -> Hmac {
    let mut key = Zeroizing::new([0; 32]);
    hkdf(b"hufu wrapped secret, format 1", secret, b"check", &mut *key);
    let mut hmac = Hmac::new(&*key);
    hmac.update(body);
    hmac
}
