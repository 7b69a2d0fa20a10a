//! Mechanisms and attributes: what is handed to a library, and what comes back.

use core::marker::PhantomData;

use cryptoki_sys as ck;
use zeroize::Zeroizing;

use super::functions::length;

/// Most bytes of one attribute's value that are taken from a library.
pub const ATTRIBUTE_BYTES_MAX: usize = 64 * 1_024;

/// A mechanism with its parameter (`CK_MECHANISM`). Codes outside PKCS#11's list are passed as they
/// are: every vendor has some.
#[derive(Clone, Copy, Debug)]
pub struct Mechanism<'a> {
    /// `CKM_...`, or a vendor's.
    pub code: u64,
    /// What goes with it.
    pub parameter: Parameter<'a>,
}

/// The parameter of a mechanism.
#[derive(Clone, Copy, Debug)]
pub enum Parameter<'a> {
    /// Bytes without pointers in them; NULL where there are none.
    Bytes(&'a [u8]),
    /// `CK_GCM_PARAMS`.
    Gcm(GcmParameter<'a>),
}

/// `CK_GCM_PARAMS` over what its maker borrowed. The nonce is borrowed for writing: there are cards
/// that draw one of their own and write it there.
#[derive(Clone, Copy, Debug)]
pub struct GcmParameter<'a> {
    raw: ck::CK_GCM_PARAMS,
    borrowed: PhantomData<&'a mut [u8]>,
}

impl<'a> GcmParameter<'a> {
    /// Of a nonce, what is authenticated beside the data, and the bytes of the tag.
    #[must_use]
    pub fn new(nonce: &'a mut [u8], associated: &'a [u8], tag_bytes: usize) -> Self {
        let nonce_size = length(nonce.len());
        let none = std::ptr::null_mut();
        let raw = ck::CK_GCM_PARAMS {
            pIv: nonce.as_mut_ptr(),
            ulIvLen: nonce_size,
            ulIvBits: nonce_size.saturating_mul(8),
            pAAD: if associated.is_empty() { none } else { associated.as_ptr().cast_mut() },
            ulAADLen: length(associated.len()),
            ulTagBits: length(tag_bytes).saturating_mul(8),
        };
        Self { raw, borrowed: PhantomData }
    }
}

impl<'a> Mechanism<'a> {
    /// A mechanism without a parameter.
    #[must_use]
    pub const fn bare(code: u64) -> Self {
        Self::with(code, &[])
    }

    /// A mechanism with bytes as its parameter.
    #[must_use]
    pub const fn with(code: u64, parameter: &'a [u8]) -> Self {
        Self { code, parameter: Parameter::Bytes(parameter) }
    }

    /// A mechanism of GCM.
    #[must_use]
    pub const fn gcm(code: u64, parameter: GcmParameter<'a>) -> Self {
        Self { code, parameter: Parameter::Gcm(parameter) }
    }

    /// For one call, while `self` is borrowed: the parameter may be in it.
    pub(super) fn raw(&self) -> ck::CK_MECHANISM {
        let (parameter, size): (*const core::ffi::c_void, usize) = match &self.parameter {
            Parameter::Bytes([]) => (std::ptr::null(), 0),
            Parameter::Bytes(bytes) => (bytes.as_ptr().cast(), bytes.len()),
            Parameter::Gcm(gcm) => {
                (std::ptr::from_ref(&gcm.raw).cast(), size_of::<ck::CK_GCM_PARAMS>())
            }
        };
        ck::CK_MECHANISM {
            mechanism: self.code,
            pParameter: parameter.cast_mut(),
            ulParameterLen: length(size),
        }
    }
}

/// An attribute of a template. It may hold a secret, so it has no `Debug` and is overwritten.
pub struct Attribute {
    /// `CKA_...`, or a vendor's.
    pub kind: u64,
    value: Held,
}

/// Numbers are kept as numbers, since a library reads them as such and may want them aligned.
enum Held {
    Bool(ck::CK_BBOOL),
    Number(ck::CK_ULONG),
    Bytes(Zeroizing<Vec<u8>>),
}

impl Attribute {
    /// A `CK_BBOOL`.
    #[must_use]
    pub fn bool(kind: u64, value: bool) -> Self {
        Self { kind, value: Held::Bool(u8::from(value)) }
    }

    /// A `CK_ULONG`: a class, a key type, a length.
    #[must_use]
    pub const fn number(kind: u64, value: u64) -> Self {
        Self { kind, value: Held::Number(value) }
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(kind: u64, value: &[u8]) -> Self {
        Self { kind, value: Held::Bytes(Zeroizing::new(value.to_vec())) }
    }

    /// Text without padding.
    #[must_use]
    pub fn text(kind: u64, value: &str) -> Self {
        Self::bytes(kind, value.as_bytes())
    }

    /// For one call, while `self` is borrowed.
    fn raw(&self) -> ck::CK_ATTRIBUTE {
        let (value, size) = match &self.value {
            Held::Bool(value) => (std::ptr::from_ref(value).cast(), size_of::<ck::CK_BBOOL>()),
            Held::Number(value) => (std::ptr::from_ref(value).cast(), size_of::<ck::CK_ULONG>()),
            Held::Bytes(value) => (value.as_ptr().cast(), value.len()),
        };
        let value: *const core::ffi::c_void = value;
        ck::CK_ATTRIBUTE { type_: self.kind, pValue: value.cast_mut(), ulValueLen: length(size) }
    }
}

/// For one call, while `template` is borrowed.
pub(super) fn raw(template: &[Attribute]) -> Vec<ck::CK_ATTRIBUTE> {
    template.iter().map(Attribute::raw).collect()
}

/// What an object tells of one attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeValue {
    /// Its value.
    Value(Vec<u8>),
    /// It has one and does not tell it (`CKR_ATTRIBUTE_SENSITIVE`).
    Sensitive,
    /// The object has no such attribute, or the token does not know it.
    Unknown,
}

impl AttributeValue {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Value(bytes) => Some(bytes),
            Self::Sensitive | Self::Unknown => None,
        }
    }

    /// As a `CK_BBOOL`: one byte, 0 or 1.
    #[must_use]
    pub fn bool(&self) -> Option<bool> {
        match self.bytes() {
            Some([0]) => Some(false),
            Some([1]) => Some(true),
            _ => None,
        }
    }

    /// As a `CK_ULONG`.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        self.bytes()?.try_into().ok().map(ck::CK_ULONG::from_ne_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_the_sizes_of_the_standard() {
        let template = [
            Attribute::bool(ck::CKA_TOKEN, true),
            Attribute::number(ck::CKA_CLASS, ck::CKO_PRIVATE_KEY),
            Attribute::bytes(ck::CKA_ID, &[]),
            Attribute::text(ck::CKA_LABEL, "vote"),
        ];
        let raw = raw(&template);
        let sizes: Vec<_> = raw.iter().map(|one| (one.type_, one.ulValueLen)).collect();
        let number = length(size_of::<ck::CK_ULONG>());
        assert_eq!(
            sizes,
            [(ck::CKA_TOKEN, 1), (ck::CKA_CLASS, number), (ck::CKA_ID, 0), (ck::CKA_LABEL, 4)]
        );
        assert!(raw[1].pValue.cast::<ck::CK_ULONG>().is_aligned());
    }

    #[test]
    fn parameters_have_the_sizes_and_places_of_the_standard() {
        let bare = Mechanism::bare(7).raw();
        assert!(bare.pParameter.is_null() && bare.ulParameterLen == 0);
        let bytes = [9; 16];
        let flat = Mechanism::with(7, &bytes).raw();
        assert_eq!(flat.pParameter.cast_const(), bytes.as_ptr().cast());
        assert_eq!(flat.ulParameterLen, 16);
        let (mut nonce, associated) = ([1; 12], [2; 5]);
        let place = nonce.as_ptr();
        let gcm = GcmParameter::new(&mut nonce, &associated, 16);
        assert_eq!(gcm.raw.pIv.cast_const(), place);
        assert_eq!((gcm.raw.ulIvLen, gcm.raw.ulIvBits), (12, 96));
        assert_eq!(gcm.raw.pAAD.cast_const(), associated.as_ptr());
        assert_eq!((gcm.raw.ulAADLen, gcm.raw.ulTagBits), (5, 128));
        let gcm = Mechanism::gcm(7, gcm);
        let raw = gcm.raw();
        assert_eq!(raw.ulParameterLen, length(size_of::<ck::CK_GCM_PARAMS>()));
        assert!(raw.pParameter.cast::<ck::CK_GCM_PARAMS>().is_aligned());
    }

    #[test]
    fn values_are_read_strictly() {
        let value = |bytes: &[u8]| AttributeValue::Value(bytes.to_vec());
        assert_eq!((value(&[1]).bool(), value(&[0]).bool()), (Some(true), Some(false)));
        assert_eq!(
            (value(&[2]).bool(), value(&[]).bool(), value(&[1, 0]).bool()),
            (None, None, None)
        );
        assert_eq!(value(&7_u64.to_ne_bytes()).number(), Some(7));
        assert_eq!((value(&[7]).number(), AttributeValue::Sensitive.number()), (None, None));
    }
}
