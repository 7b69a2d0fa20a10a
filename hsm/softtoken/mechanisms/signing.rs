//! Signatures and MACs, made and verified, in one part or in many.

use std::sync::{Arc, OnceLock};

use cryptoki_sys::*;
use hufu_crypto::{
    Digest, Hmac, IDENTITY_DEFAULT, PublicKey, Signature, Signer as _, Sm3, Verdict, Verifier,
    VerifyItem, der, identity_digest, software_provider,
};
use p256::ecdsa::signature::hazmat::{PrehashSigner as _, PrehashVerifier as _};

use super::blocks::BlockKey;
use super::hashing::Hasher;
use super::{Call, KEPT_BYTES_MAX, Parameter};
use crate::answer::Answer;
use crate::imitations::{Algorithm, Block, SignInput, SignOutput};
use crate::keys::Prepared;

/// Longest identity: its bits are counted in 16.
const IDENTITY_BYTES_MAX: usize = 8_191;
/// Longest input of ECDSA without a digest: that of SHA-512, of which the left half counts.
const ECDSA_BYTES_MAX: usize = 64;

/// A signature that is being made or verified.
pub(crate) struct Signing {
    algorithm: Algorithm,
    key: Arc<Prepared>,
    input: Input,
}

/// What was handed in so far.
enum Input {
    /// Taken as it is.
    Plain(Vec<u8>),
    Hashed(Hasher),
    Mac(Hmac),
}

impl Signing {
    /// Begins with a key that [`crate::keys::prepare`] made.
    ///
    /// # Errors
    /// If the mechanism does not sign, its parameter is none of its kind, or the key is another's.
    pub(crate) fn start(call: &Call, key: Arc<Prepared>) -> Answer<Self> {
        let plain = || Input::Plain(Vec::new());
        let input = match (call.algorithm, &*key) {
            (Algorithm::Sm2Sign(input, _), Prepared::Sm2(_) | Prepared::Sm2Public(_)) => {
                sm2_input(input, &call.parameter, &key)?
            }
            (Algorithm::Ecdsa(hash), Prepared::Ec(_) | Prepared::EcPublic(_)) => {
                no_parameter(call)?;
                hash.map_or_else(plain, |hash| Input::Hashed(Hasher::new(hash)))
            }
            (Algorithm::HmacSm3, Prepared::Secret(secret)) => {
                no_parameter(call)?;
                Input::Mac(Hmac::new(secret))
            }
            (Algorithm::Sm4Mac, Prepared::Secret(_)) => {
                if !matches!(&call.parameter, Parameter::None)
                    && !matches!(&call.parameter, Parameter::Bytes(bytes) if bytes.len() == 16)
                {
                    return Err(CKR_MECHANISM_PARAM_INVALID);
                }
                let vector = match &call.parameter {
                    Parameter::Bytes(vector) => vector.clone(),
                    _ => vec![0; 16],
                };
                Input::Plain(vector)
            }
            (
                Algorithm::Sm2Sign(..)
                | Algorithm::Ecdsa(_)
                | Algorithm::HmacSm3
                | Algorithm::Sm4Mac,
                _,
            ) => return Err(CKR_KEY_TYPE_INCONSISTENT),
            _ => return Err(CKR_MECHANISM_INVALID),
        };
        Ok(Self { algorithm: call.algorithm, key, input })
    }

    /// Whether the input comes in one part only.
    pub(crate) const fn is_single_part(&self) -> bool {
        matches!(self.algorithm, Algorithm::Sm2Sign(SignInput::Digest, _) | Algorithm::Ecdsa(None))
    }

    /// Adds a part.
    ///
    /// # Errors
    /// `CKR_DATA_LEN_RANGE` where more is kept than there is room for.
    pub(crate) fn update(&mut self, bytes: &[u8]) -> Answer<()> {
        match &mut self.input {
            Input::Plain(kept) => {
                if kept.len() + bytes.len() > KEPT_BYTES_MAX {
                    return Err(CKR_DATA_LEN_RANGE);
                }
                kept.extend_from_slice(bytes);
            }
            Input::Hashed(hasher) => hasher.update(bytes),
            Input::Mac(mac) => mac.update(bytes),
        }
        Ok(())
    }

    /// Bytes of the longest signature.
    pub(crate) const fn size_max(&self) -> usize {
        match self.algorithm {
            Algorithm::Sm2Sign(_, SignOutput::Raw) | Algorithm::Ecdsa(_) => 64,
            Algorithm::Sm2Sign(..) => der::SIGNATURE_SIZE_MAX,
            Algorithm::Sm4Mac => 16,
            _ => 32,
        }
    }

    /// The signature of what was handed in.
    ///
    /// # Errors
    /// If it has a length the mechanism does not take, or the key is none to sign with.
    pub(crate) fn sign(self) -> Answer<Vec<u8>> {
        match (self.algorithm, &*self.key, self.input) {
            (Algorithm::Sm2Sign(_, output), Prepared::Sm2(signer), input) => {
                let signature =
                    signer.sign(&sm2_digest(&input)?).map_err(|_| CKR_FUNCTION_FAILED)?;
                Ok(written(output, &signature))
            }
            (Algorithm::Ecdsa(_), Prepared::Ec(key), input) => {
                let signature: p256::ecdsa::Signature =
                    key.sign_prehash(&prehash(&input)?).map_err(|_| CKR_FUNCTION_FAILED)?;
                Ok(signature.to_bytes().to_vec())
            }
            (Algorithm::HmacSm3, _, Input::Mac(mac)) => Ok(mac.finish().0.to_vec()),
            (Algorithm::Sm4Mac, Prepared::Secret(key), Input::Plain(bytes)) => {
                cbc_mac(key, &bytes).map(|mac| mac.to_vec())
            }
            _ => Err(CKR_KEY_TYPE_INCONSISTENT),
        }
    }

    /// Whether `signature` is one of what was handed in.
    ///
    /// # Errors
    /// `CKR_SIGNATURE_INVALID`, `CKR_SIGNATURE_LEN_RANGE`, and as [`Signing::sign`].
    pub(crate) fn verify(self, signature: &[u8]) -> Answer<()> {
        let raw = |size: usize| {
            if signature.len() == size { Ok(()) } else { Err(CKR_SIGNATURE_LEN_RANGE) }
        };
        let is_good = match (self.algorithm, &*self.key, self.input) {
            (Algorithm::Sm2Sign(_, output), key, input) => {
                let key = PublicKey(key.point().ok_or(CKR_KEY_TYPE_INCONSISTENT)?);
                let signature = read(output, signature)?;
                let item =
                    VerifyItem { key: &key, digest: sm2_digest(&input)?, signature: &signature };
                verifier().verify(item) == Verdict::Valid
            }
            (Algorithm::Ecdsa(_), Prepared::EcPublic(key), input) => {
                raw(64)?;
                let signature = p256::ecdsa::Signature::from_slice(signature)
                    .map_err(|_| CKR_SIGNATURE_INVALID)?;
                key.verify_prehash(&prehash(&input)?, &signature).is_ok()
            }
            (Algorithm::HmacSm3, _, Input::Mac(mac)) => {
                raw(32)?;
                mac.verify(&Digest(signature.try_into().map_err(|_| CKR_SIGNATURE_LEN_RANGE)?))
            }
            (Algorithm::Sm4Mac, Prepared::Secret(key), Input::Plain(bytes)) => {
                raw(16)?;
                let mac = cbc_mac(key, &bytes)?;
                let differing = mac.iter().zip(signature).fold(0, |all, (a, b)| all | (a ^ b));
                core::hint::black_box(differing) == 0
            }
            _ => return Err(CKR_KEY_TYPE_INCONSISTENT),
        };
        if is_good { Ok(()) } else { Err(CKR_SIGNATURE_INVALID) }
    }
}

fn no_parameter(call: &Call) -> Answer<()> {
    if call.parameter == Parameter::None { Ok(()) } else { Err(CKR_MECHANISM_PARAM_INVALID) }
}

/// What an SM2 signature begins to hash.
fn sm2_input(input: SignInput, parameter: &Parameter, key: &Prepared) -> Answer<Input> {
    let identity = match parameter {
        Parameter::None => None,
        Parameter::Bytes(bytes) if bytes.len() <= IDENTITY_BYTES_MAX => Some(bytes.as_slice()),
        _ => return Err(CKR_MECHANISM_PARAM_INVALID),
    };
    let mut hasher = Sm3::new();
    match input {
        SignInput::Message => {
            let key = PublicKey(key.point().ok_or(CKR_KEY_TYPE_INCONSISTENT)?);
            hasher.update(&identity_digest(identity.unwrap_or(IDENTITY_DEFAULT), &key).0);
        }
        _ if identity.is_some() => return Err(CKR_MECHANISM_PARAM_INVALID),
        SignInput::MessageWithoutZ => {}
        SignInput::Digest => return Ok(Input::Plain(Vec::new())),
    }
    Ok(Input::Hashed(Hasher::Sm3(hasher)))
}

fn sm2_digest(input: &Input) -> Answer<Digest> {
    let bytes = match input {
        Input::Plain(bytes) => bytes.clone(),
        Input::Hashed(hasher) => hasher.digest(),
        Input::Mac(_) => return Err(CKR_GENERAL_ERROR),
    };
    bytes.try_into().map(Digest).map_err(|_| CKR_DATA_LEN_RANGE)
}

/// What ECDSA signs: at least as many bytes as the order has, zeros in front.
fn prehash(input: &Input) -> Answer<Vec<u8>> {
    let bytes = match input {
        Input::Plain(bytes) if bytes.is_empty() || bytes.len() > ECDSA_BYTES_MAX => {
            return Err(CKR_DATA_LEN_RANGE);
        }
        Input::Plain(bytes) => bytes.clone(),
        Input::Hashed(hasher) => hasher.digest(),
        Input::Mac(_) => return Err(CKR_GENERAL_ERROR),
    };
    let mut padded = vec![0; 32_usize.saturating_sub(bytes.len())];
    padded.extend_from_slice(&bytes);
    Ok(padded)
}

/// The last block of CBC over whole blocks; the vector stands before them.
fn cbc_mac(key: &[u8], bytes: &[u8]) -> Answer<[u8; 16]> {
    let (vector, data) = bytes.split_first_chunk::<16>().ok_or(CKR_GENERAL_ERROR)?;
    if data.is_empty() || !data.len().is_multiple_of(16) {
        return Err(CKR_DATA_LEN_RANGE);
    }
    let mut data = data.to_vec();
    BlockKey::new(Block::Sm4, key)?.cbc_encrypt(&mut { *vector }, &mut data)?;
    data.last_chunk().copied().ok_or(CKR_GENERAL_ERROR)
}

fn verifier() -> &'static dyn Verifier {
    static VERIFIER: OnceLock<Arc<dyn Verifier>> = OnceLock::new();
    &**VERIFIER.get_or_init(|| software_provider().verifier)
}

/// r || s as the vendor writes it.
fn written(output: SignOutput, signature: &Signature) -> Vec<u8> {
    match output {
        SignOutput::Raw => signature.0.to_vec(),
        SignOutput::Der => der::write_signature(signature),
        SignOutput::DerWrong => write_wrongly(signature),
    }
}

/// DER by someone who takes a leading zero of r for padding: he cuts it off where the sign bit
/// needs it, and leaves it where nothing does. One signature in 256 has one.
fn write_wrongly(signature: &Signature) -> Vec<u8> {
    let right = der::write_signature(signature);
    let (r, _) = signature.0.split_at(32);
    let [0, next, ..] = *r else { return right };
    let new = if next >= 0x80 { &r[1..] } else { r };
    // 30, length, 02, length of r, r, and then s as it is.
    let rest = &right[4 + usize::from(right[3])..];
    let content = [&[0x02, u8::try_from(new.len()).unwrap_or(0)], new, rest].concat();
    [&[0x30, u8::try_from(content.len()).unwrap_or(0)], content.as_slice()].concat()
}

/// r || s of what the vendor writes.
fn read(output: SignOutput, bytes: &[u8]) -> Answer<Signature> {
    match output {
        SignOutput::Raw => Ok(Signature(bytes.try_into().map_err(|_| CKR_SIGNATURE_LEN_RANGE)?)),
        SignOutput::Der => der::read_signature(bytes).map_err(|_| CKR_SIGNATURE_INVALID),
        SignOutput::DerWrong => read_leniently(bytes).ok_or(CKR_SIGNATURE_INVALID),
    }
}

/// Two integers in a sequence, without regard to signs and zeros.
fn read_leniently(bytes: &[u8]) -> Option<Signature> {
    let mut rest = bytes.strip_prefix(&[0x30])?.get(1..)?;
    let mut signature = Signature([0; 64]);
    for half in signature.0.chunks_mut(32) {
        let (&[0x02, length], after) = rest.split_first_chunk()? else { return None };
        let (number, after) = after.split_at_checked(usize::from(length))?;
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let number = &number[zeros..];
        let start = half.len().checked_sub(number.len())?;
        half[start..].copy_from_slice(number);
        rest = after;
    }
    rest.is_empty().then_some(signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(start: [u8; 2]) -> Signature {
        let mut bytes = [0x11; 64];
        bytes[..2].copy_from_slice(&start);
        Signature(bytes)
    }

    #[test]
    fn wrong_der_is_wrong_in_the_two_known_ways() {
        // The leading zero is cut off, and the integer is negative.
        let negative = write_wrongly(&signature([0, 0x91]));
        assert_eq!(&negative[..5], &[0x30, 2 + 31 + 2 + 32, 0x02, 31, 0x91]);
        // The leading zero stays where none is needed.
        let long = write_wrongly(&signature([0, 0x11]));
        assert_eq!(&long[..6], &[0x30, 2 + 32 + 2 + 32, 0x02, 32, 0, 0x11]);
        for start in [[0, 0x91], [0, 0x11], [0, 0]] {
            let wrong = write_wrongly(&signature(start));
            assert!(der::read_signature(&wrong).is_err(), "{start:?}");
            assert_eq!(read_leniently(&wrong).unwrap().0, signature(start).0);
        }
        for start in [[1, 0], [0x80, 0], [0xff, 0]] {
            let right = write_wrongly(&signature(start));
            assert_eq!(right, der::write_signature(&signature(start)));
            assert_eq!(read_leniently(&right).unwrap().0, signature(start).0);
        }
        assert!(read_leniently(&[0x30, 0]).is_none());
    }

    #[test]
    fn short_inputs_of_ecdsa_are_padded_and_long_ones_refused() {
        assert_eq!(prehash(&Input::Plain(vec![1; 20])).unwrap().len(), 32);
        assert_eq!(prehash(&Input::Plain(vec![1; 64])).unwrap().len(), 64);
        assert_eq!(prehash(&Input::Plain(vec![1; 65])), Err(CKR_DATA_LEN_RANGE));
        assert_eq!(prehash(&Input::Plain(vec![])), Err(CKR_DATA_LEN_RANGE));
    }
}
