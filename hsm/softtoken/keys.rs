//! Keys ready to compute with, and their outside forms: points, curve names, PKCS#8.

use cryptoki_sys::*;
use hufu_crypto::{PublicKey, Signer as _, SoftwareSigner, is_curve_point};
use p256::ecdsa::{SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use crate::answer::Answer;
use crate::imitations::native::{KEY_SM2, KEY_SM4};
use crate::object::Object;

/// OBJECT IDENTIFIER 1.2.156.10197.1.301, the SM2 curve.
pub(crate) const SM2_CURVE: &[u8] = &[0x06, 0x08, 0x2a, 0x81, 0x1c, 0xcf, 0x55, 0x01, 0x82, 0x2d];
/// OBJECT IDENTIFIER 1.2.840.10045.3.1.7, P-256.
pub(crate) const P256_CURVE: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// OBJECT IDENTIFIER 1.2.840.10045.2.1, a key of an elliptic curve.
const EC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// Longest generic secret, bytes.
pub(crate) const SECRET_BYTES_MAX: usize = 512;

/// A key to compute with. Each overwrites its secret when dropped.
pub(crate) enum Prepared {
    Sm2(Box<SoftwareSigner>),
    Sm2Public(PublicKey),
    Ec(Box<SigningKey>),
    EcPublic(Box<VerifyingKey>),
    Secret(Zeroizing<Vec<u8>>),
}

/// The key of an object.
///
/// # Errors
/// `CKR_KEY_TYPE_INCONSISTENT` if it is none; `CKR_ATTRIBUTE_VALUE_INVALID` if its value is not one
/// of its type.
pub(crate) fn prepare(object: &Object) -> Answer<Prepared> {
    const BAD: CK_RV = CKR_ATTRIBUTE_VALUE_INVALID;
    let value = object.get(CKA_VALUE);
    let scalar =
        || Zeroizing::new(<[u8; 32]>::try_from(value.unwrap_or_default()).unwrap_or([0; 32]));
    let point = || object.get(CKA_EC_POINT).and_then(point_in).ok_or(BAD);
    match (object.class(), object.key_type()) {
        (CKO_PRIVATE_KEY, KEY_SM2) => {
            let signer = SoftwareSigner::from_bytes(&scalar()).map_err(|_| BAD)?;
            Ok(Prepared::Sm2(Box::new(signer)))
        }
        (CKO_PUBLIC_KEY, KEY_SM2) => {
            let key = PublicKey(point()?);
            if is_curve_point(&key) { Ok(Prepared::Sm2Public(key)) } else { Err(BAD) }
        }
        (CKO_PRIVATE_KEY, CKK_EC) => {
            let key = SigningKey::from_slice(&*scalar()).map_err(|_| BAD)?;
            Ok(Prepared::Ec(Box::new(key)))
        }
        (CKO_PUBLIC_KEY, CKK_EC) => {
            let key = VerifyingKey::from_sec1_bytes(&sec1(&point()?)).map_err(|_| BAD)?;
            Ok(Prepared::EcPublic(Box::new(key)))
        }
        (CKO_SECRET_KEY, _) => Ok(Prepared::Secret(Zeroizing::new(value.ok_or(BAD)?.to_vec()))),
        _ => Err(CKR_KEY_TYPE_INCONSISTENT),
    }
}

impl Prepared {
    /// x || y of the public key; `None` for symmetric keys.
    pub(crate) fn point(&self) -> Option<[u8; 64]> {
        let of = |key: &VerifyingKey| {
            let point = key.to_sec1_point(false);
            point.as_bytes().get(1..)?.try_into().ok()
        };
        match self {
            Self::Sm2(signer) => Some(signer.public_key().0),
            Self::Sm2Public(key) => Some(key.0),
            Self::Ec(key) => of(key.verifying_key()),
            Self::EcPublic(key) => of(key),
            Self::Secret(_) => None,
        }
    }
}

/// 04 || x || y.
fn sec1(point: &[u8; 64]) -> [u8; 65] {
    let mut bytes = [4; 65];
    bytes[1..].copy_from_slice(point);
    bytes
}

/// A point as it is stored: DER OCTET STRING of 04 || x || y.
pub(crate) fn point_stored(point: &[u8; 64]) -> Vec<u8> {
    [&[0x04, 65, 0x04][..], point].concat()
}

/// x || y of a point in any of the forms that are in use.
pub(crate) fn point_in(bytes: &[u8]) -> Option<[u8; 64]> {
    let point = match bytes {
        [0x04, 65, 0x04, point @ ..] if point.len() == 64 => point,
        [0x04, point @ ..] if point.len() == 64 => point,
        point => point,
    };
    point.try_into().ok()
}

/// Completes and checks a key whose attributes come from a client: curve, point, lengths.
///
/// # Errors
/// What is missing or wrong.
pub(crate) fn complete(object: &mut Object) -> Answer<()> {
    match (object.class(), object.key_type()) {
        (CKO_PRIVATE_KEY | CKO_PUBLIC_KEY, KEY_SM2) => complete_pair(object, SM2_CURVE, false),
        (CKO_PRIVATE_KEY | CKO_PUBLIC_KEY, CKK_EC) => complete_pair(object, P256_CURVE, true),
        (CKO_SECRET_KEY, key_type) => {
            let value = object.get(CKA_VALUE).ok_or(CKR_TEMPLATE_INCOMPLETE)?;
            let size = crate::answer::ulong(value.len());
            if !secret_size_is_right(key_type, value.len()) {
                return Err(CKR_ATTRIBUTE_VALUE_INVALID);
            }
            object.set(CKA_VALUE_LEN, &size.to_ne_bytes());
            Ok(())
        }
        (_, CK_KEY_TYPE::MAX) => Err(CKR_TEMPLATE_INCOMPLETE),
        _ => Err(CKR_TEMPLATE_INCONSISTENT),
    }
}

fn complete_pair(object: &mut Object, curve: &[u8], named: bool) -> Answer<()> {
    match object.get(CKA_EC_PARAMS) {
        Some(given) if given == curve => {}
        Some(_) => return Err(CKR_CURVE_NOT_SUPPORTED),
        // Of an SM2 key there is one curve only.
        None if !named => object.set(CKA_EC_PARAMS, curve),
        None => return Err(CKR_TEMPLATE_INCOMPLETE),
    }
    let needed = if object.class() == CKO_PRIVATE_KEY { CKA_VALUE } else { CKA_EC_POINT };
    if object.get(needed).is_none() {
        return Err(CKR_TEMPLATE_INCOMPLETE);
    }
    if needed == CKA_VALUE && object.get(CKA_VALUE).map(<[u8]>::len) != Some(32) {
        return Err(CKR_ATTRIBUTE_VALUE_INVALID);
    }
    // Not by way of `Object::prepared`: the object is still changed below.
    let point = prepare(object)?.point().ok_or(CKR_ATTRIBUTE_VALUE_INVALID)?;
    let given = object.get(CKA_EC_POINT).map(point_in);
    if given.is_some_and(|given| given != Some(point)) {
        return Err(CKR_ATTRIBUTE_VALUE_INVALID);
    }
    object.set(CKA_EC_POINT, &point_stored(&point));
    Ok(())
}

/// Whether a symmetric key of this type may have so many bytes.
pub(crate) fn secret_size_is_right(key_type: CK_KEY_TYPE, size: usize) -> bool {
    match key_type {
        CKK_AES => matches!(size, 16 | 24 | 32),
        KEY_SM4 => size == 16,
        CKK_GENERIC_SECRET => (1..=SECRET_BYTES_MAX).contains(&size),
        _ => false,
    }
}

/// The curve of a private key, and its PKCS#8 form (RFC 5208 with RFC 5915): what is wrapped.
pub(crate) fn pkcs8(object: &Object) -> Answer<Zeroizing<Vec<u8>>> {
    const BAD: CK_RV = CKR_KEY_NOT_WRAPPABLE;
    let curve = object.get(CKA_EC_PARAMS).ok_or(BAD)?;
    let scalar = object.get(CKA_VALUE).ok_or(BAD)?;
    let key = concat(&[&[0x02, 1, 1, 0x04, 32], scalar]);
    let key = element(0x30, &key);
    let algorithm = element(0x30, &[EC_KEY, curve].concat());
    let key = element(0x04, &key);
    let whole = concat(&[&[0x02, 1, 0], &algorithm, &key]);
    Ok(element(0x30, &whole))
}

fn concat(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(parts.concat())
}

/// Tag, length and content; all that is written here is shorter than 128 bytes.
fn element(tag: u8, content: &[u8]) -> Zeroizing<Vec<u8>> {
    let length = u8::try_from(content.len()).unwrap_or(u8::MAX);
    debug_assert!(length < 0x80, "a short length");
    concat(&[&[tag, length], content])
}

/// Curve and scalar of a PKCS#8 text; what may follow the scalar in RFC 5915 is passed over.
pub(crate) fn from_pkcs8(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut whole, rest) = taken(text, 0x30)?;
    if !rest.is_empty() {
        return None;
    }
    let (version, after) = taken(whole, 0x02)?;
    whole = after;
    let (algorithm, after) = taken(whole, 0x30)?;
    let (key, _attributes) = taken(after, 0x04)?;
    let curve = algorithm.strip_prefix(EC_KEY)?;
    let (key, _) = taken(key, 0x30)?;
    let (key_version, key) = taken(key, 0x02)?;
    let (scalar, _) = taken(key, 0x04)?;
    (version == [0] && key_version == [1] && scalar.len() == 32).then_some((curve, scalar))
}

/// The content of an element with this tag, and what follows it.
fn taken(text: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = text.split_first_chunk()?;
    let (length, rest) = match length {
        0x81 => rest.split_first().map(|(length, rest)| (*length, rest))?,
        short if short < 0x80 => (short, rest),
        _ => return None,
    };
    (found == tag).then_some(())?;
    rest.split_at_checked(usize::from(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{Occasion, Template};

    fn private(key_type: CK_KEY_TYPE, curve: &[u8]) -> Object {
        let template = Template::default()
            .number(CKA_KEY_TYPE, key_type)
            .bytes(CKA_EC_PARAMS, curve)
            .bytes(CKA_VALUE, &[7; 32]);
        Object::born(&template, CKO_PRIVATE_KEY, Occasion::Create).unwrap()
    }

    #[test]
    fn pkcs8_and_back() {
        for (key_type, curve) in [(KEY_SM2, SM2_CURVE), (CKK_EC, P256_CURVE)] {
            let text = pkcs8(&private(key_type, curve)).unwrap();
            assert_eq!(from_pkcs8(&text), Some((curve, &[7; 32][..])));
            for cut in 0..text.len() {
                assert_eq!(from_pkcs8(&text[..cut]), None, "{cut}");
            }
        }
        // RustCrypto's reader takes what is written here, and its text is read here.
        let signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
        let pem = signer.to_pkcs8_pem().unwrap();
        assert!(pem.contains("PRIVATE KEY"));
    }

    #[test]
    fn points_are_checked() {
        let mut object = private(KEY_SM2, SM2_CURVE);
        complete(&mut object).unwrap();
        let point = object.get(CKA_EC_POINT).unwrap().to_vec();
        assert_eq!(point_in(&point), point_in(&point[2..]));
        assert_eq!(point_in(&point), point_in(&point[3..]));
        assert_eq!(point_in(&point[4..]), None);
        let mut wrong = private(KEY_SM2, P256_CURVE);
        assert_eq!(complete(&mut wrong), Err(CKR_CURVE_NOT_SUPPORTED));
        let mut other = private(KEY_SM2, SM2_CURVE);
        other.set(CKA_EC_POINT, &point_stored(&[9; 64]));
        assert_eq!(complete(&mut other), Err(CKR_ATTRIBUTE_VALUE_INVALID));
        let mut zero = private(KEY_SM2, SM2_CURVE);
        zero.set(CKA_VALUE, &[0; 32]);
        assert_eq!(complete(&mut zero), Err(CKR_ATTRIBUTE_VALUE_INVALID));
    }

    #[test]
    fn sizes_of_secrets() {
        for (key_type, good, bad) in
            [(CKK_AES, 24, 20), (KEY_SM4, 16, 32), (CKK_GENERIC_SECRET, 512, 513), (CKK_DES, 8, 8)]
        {
            assert_eq!(secret_size_is_right(key_type, good), key_type != CKK_DES);
            assert!(!secret_size_is_right(key_type, bad));
        }
    }
}
