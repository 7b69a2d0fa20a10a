//! The system's OpenSSL (libcrypto 3), through the few functions that are needed here.
//!
//! Every object is owned by a type that frees it; what the library refuses is `None`. All lengths
//! handed over are those of the slices.

use std::ffi::{c_char, c_int, c_long, c_uchar, c_uint, c_void};
use std::ptr::{null, null_mut};

/// The object identifier number of the curve SM2 in OpenSSL.
const NID_SM2: c_int = 1172;

/// An uncompressed point begins with it, as a point conversion form and as a byte.
const UNCOMPRESSED: c_int = 4;

#[link(name = "crypto")]
unsafe extern "C" {
    fn OpenSSL_version(kind: c_int) -> *const c_char;
    fn d2i_PUBKEY(out: *mut *mut c_void, input: *mut *const c_uchar, size: c_long) -> *mut c_void;
    fn d2i_AutoPrivateKey(
        out: *mut *mut c_void,
        input: *mut *const c_uchar,
        size: c_long,
    ) -> *mut c_void;
    fn EVP_PKEY_free(key: *mut c_void);
    fn EVP_PKEY_CTX_new(key: *mut c_void, engine: *mut c_void) -> *mut c_void;
    fn EVP_PKEY_CTX_free(context: *mut c_void);
    fn EVP_PKEY_verify_init(context: *mut c_void) -> c_int;
    fn EVP_PKEY_verify(
        context: *mut c_void,
        signature: *const c_uchar,
        signature_size: usize,
        digest: *const c_uchar,
        digest_size: usize,
    ) -> c_int;
    fn EVP_PKEY_sign_init(context: *mut c_void) -> c_int;
    fn EVP_PKEY_sign(
        context: *mut c_void,
        signature: *mut c_uchar,
        signature_size: *mut usize,
        digest: *const c_uchar,
        digest_size: usize,
    ) -> c_int;
    fn EC_GROUP_new_by_curve_name(name: c_int) -> *mut c_void;
    fn EC_GROUP_free(group: *mut c_void);
    fn EC_POINT_new(group: *const c_void) -> *mut c_void;
    fn EC_POINT_free(point: *mut c_void);
    fn EC_POINT_oct2point(
        group: *const c_void,
        point: *mut c_void,
        input: *const c_uchar,
        size: usize,
        context: *mut c_void,
    ) -> c_int;
    fn EC_POINT_point2oct(
        group: *const c_void,
        point: *const c_void,
        form: c_int,
        out: *mut c_uchar,
        size: usize,
        context: *mut c_void,
    ) -> usize;
    fn EC_POINT_mul(
        group: *const c_void,
        out: *mut c_void,
        of_base: *const c_void,
        point: *const c_void,
        of_point: *const c_void,
        context: *mut c_void,
    ) -> c_int;
    fn BN_bin2bn(input: *const c_uchar, size: c_int, out: *mut c_void) -> *mut c_void;
    fn BN_clear_free(number: *mut c_void);
    fn BN_CTX_new() -> *mut c_void;
    fn BN_CTX_free(context: *mut c_void);
    fn EVP_sm3() -> *const c_void;
    fn EVP_Digest(
        input: *const c_void,
        size: usize,
        out: *mut c_uchar,
        out_size: *mut c_uint,
        kind: *const c_void,
        engine: *mut c_void,
    ) -> c_int;
    fn EVP_sm4_ecb() -> *const c_void;
    fn EVP_sm4_cbc() -> *const c_void;
    fn EVP_sm4_ctr() -> *const c_void;
    fn EVP_CIPHER_CTX_new() -> *mut c_void;
    fn EVP_CIPHER_CTX_free(context: *mut c_void);
    fn EVP_CIPHER_CTX_set_padding(context: *mut c_void, is_padded: c_int) -> c_int;
    fn EVP_CipherInit_ex(
        context: *mut c_void,
        kind: *const c_void,
        engine: *mut c_void,
        key: *const c_uchar,
        vector: *const c_uchar,
        encrypts: c_int,
    ) -> c_int;
    fn EVP_CipherUpdate(
        context: *mut c_void,
        out: *mut c_uchar,
        out_size: *mut c_int,
        input: *const c_uchar,
        size: c_int,
    ) -> c_int;
}

/// What the library calls itself.
pub fn version() -> String {
    // SAFETY: the library gives a constant text that ends with a zero.
    let text = unsafe { std::ffi::CStr::from_ptr(OpenSSL_version(0)) };
    text.to_string_lossy().into_owned()
}

/// An object of the library with the function that frees it.
struct Owned(*mut c_void, unsafe extern "C" fn(*mut c_void));

impl Owned {
    fn new(made: *mut c_void, free: unsafe extern "C" fn(*mut c_void)) -> Option<Self> {
        (!made.is_null()).then_some(Self(made, free))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the object was made by the library and is freed once, by its own function.
        unsafe { (self.1)(self.0) }
    }
}

/// SubjectPublicKeyInfo up to the point, and PKCS #8 around a scalar: fixed texts for this curve.
const PUBLIC_HEAD: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\
    \x81\x1c\xcf\x55\x01\x82\x2d\x03\x42\x00\x04";
const PRIVATE_HEAD: &[u8] = b"\x30\x41\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\
    \x06\x08\x2a\x81\x1c\xcf\x55\x01\x82\x2d\x04\x27\x30\x25\x02\x01\x01\x04\x20";

/// A public or private key of SM2 and what is needed to use it.
pub struct Key {
    context: Owned,
    _key: Owned,
}

impl Key {
    /// A public key x || y that verifies; `None` if it is no point of the curve.
    pub fn public(key: &[u8; 64]) -> Option<Self> {
        let der = [PUBLIC_HEAD, key].concat();
        let mut place = der.as_ptr();
        // SAFETY: `place` and the size describe `der`; the library keeps no pointer to it.
        let key = unsafe { d2i_PUBKEY(null_mut(), &mut place, der.len() as c_long) };
        // SAFETY: the context is of a key that lives beside it.
        Self::with(key, |context| unsafe { EVP_PKEY_verify_init(context) })
    }

    /// A private key d that signs.
    pub fn private(d: &[u8; 32]) -> Option<Self> {
        let der = [PRIVATE_HEAD, d].concat();
        let mut place = der.as_ptr();
        // SAFETY: as above.
        let key = unsafe { d2i_AutoPrivateKey(null_mut(), &mut place, der.len() as c_long) };
        // SAFETY: as above.
        Self::with(key, |context| unsafe { EVP_PKEY_sign_init(context) })
    }

    fn with(key: *mut c_void, begin: impl Fn(*mut c_void) -> c_int) -> Option<Self> {
        let key = Owned::new(key, EVP_PKEY_free)?;
        // SAFETY: the key is one, and lives as long as the context.
        let context = unsafe { EVP_PKEY_CTX_new(key.0, null_mut()) };
        let context = Owned::new(context, EVP_PKEY_CTX_free)?;
        (begin(context.0) == 1).then_some(Self { context, _key: key })
    }

    /// Whether the DER signature over this digest e is valid.
    pub fn verify(&self, digest: &[u8; 32], der: &[u8]) -> bool {
        // SAFETY: the sizes are those of the slices.
        let found = unsafe {
            EVP_PKEY_verify(self.context.0, der.as_ptr(), der.len(), digest.as_ptr(), digest.len())
        };
        found == 1
    }

    /// A DER signature over the digest e.
    pub fn sign(&self, digest: &[u8; 32]) -> Option<Vec<u8>> {
        let mut der = vec![0; 128];
        let mut size = der.len();
        // SAFETY: `size` says how much there is room for, and is set to what was written.
        let made = unsafe {
            let out = der.as_mut_ptr();
            EVP_PKEY_sign(self.context.0, out, &mut size, digest.as_ptr(), digest.len())
        };
        der.truncate(size);
        (made == 1).then_some(der)
    }
}

/// Multiples of points.
pub struct Curve {
    group: Owned,
    numbers: Owned,
}

impl Curve {
    /// The curve of SM2.
    pub fn new() -> Option<Self> {
        // SAFETY: the number names a curve of the library.
        let group = unsafe { EC_GROUP_new_by_curve_name(NID_SM2) };
        let group = Owned::new(group, EC_GROUP_free)?;
        // SAFETY: takes nothing.
        let numbers = unsafe { BN_CTX_new() };
        Some(Self { group, numbers: Owned::new(numbers, BN_CTX_free)? })
    }

    /// [scalar]P; `None` if P is no point, or the multiple is at infinity.
    pub fn multiply(&self, scalar: &[u8; 32], point: &[u8; 64]) -> Option<[u8; 64]> {
        let (group, numbers) = (self.group.0, self.numbers.0);
        // SAFETY: the group is one.
        let place = Owned::new(unsafe { EC_POINT_new(group) }, EC_POINT_free)?;
        let mut sec1 = [UNCOMPRESSED as u8; 65];
        sec1[1..].copy_from_slice(point);
        // SAFETY: the point is of this group, the size that of the bytes.
        let read =
            unsafe { EC_POINT_oct2point(group, place.0, sec1.as_ptr(), sec1.len(), numbers) };
        if read != 1 {
            return None;
        }
        // SAFETY: the size is that of the bytes.
        let number = unsafe { BN_bin2bn(scalar.as_ptr(), 32, null_mut()) };
        let number = Owned::new(number, BN_clear_free)?;
        // SAFETY: all objects live, and the point may be read and written by one call.
        let done = unsafe { EC_POINT_mul(group, place.0, null(), place.0, number.0, numbers) };
        // SAFETY: the size is that of the bytes.
        let size = unsafe {
            EC_POINT_point2oct(group, place.0, UNCOMPRESSED, sec1.as_mut_ptr(), 65, numbers)
        };
        (done == 1 && size == 65).then(|| sec1[1..].try_into().unwrap_or([0; 64]))
    }
}

/// The SM3 digest of a message.
pub fn sm3(message: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    // SAFETY: SM3 writes 32 bytes; the size is that of the message.
    let done = unsafe {
        let out = digest.as_mut_ptr();
        EVP_Digest(message.as_ptr().cast(), message.len(), out, null_mut(), EVP_sm3(), null_mut())
    };
    assert!(done == 1, "OpenSSL hashes");
    digest
}

/// Modes of SM4 that OpenSSL 3.0 has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each block for itself.
    Ecb,
    /// Chained blocks.
    Cbc,
    /// Counters.
    Ctr,
}

/// A key of SM4 in one mode and direction.
pub struct Sm4(Owned, [u8; 16]);

impl Sm4 {
    /// Expands the key.
    pub fn new(mode: Mode, key: &[u8; 16], vector: &[u8; 16], encrypts: bool) -> Self {
        // SAFETY: takes nothing; the kinds are constants of the library.
        let (context, kind) = unsafe {
            let kind = match mode {
                Mode::Ecb => EVP_sm4_ecb(),
                Mode::Cbc => EVP_sm4_cbc(),
                Mode::Ctr => EVP_sm4_ctr(),
            };
            (EVP_CIPHER_CTX_new(), kind)
        };
        let Some(context) = Owned::new(context, EVP_CIPHER_CTX_free) else {
            panic!("OpenSSL has no memory")
        };
        // SAFETY: key and vector have the 16 bytes that the kind reads.
        let done = unsafe {
            let (key, vector) = (key.as_ptr(), vector.as_ptr());
            EVP_CipherInit_ex(context.0, kind, null_mut(), key, vector, c_int::from(encrypts))
                & EVP_CIPHER_CTX_set_padding(context.0, 0)
        };
        assert!(done == 1, "OpenSSL has SM4");
        Self(context, *vector)
    }

    /// Works on `data` in place, beginning with the vector again.
    pub fn run(&mut self, data: &mut [u8]) {
        let mut size = 0;
        let bytes = data.as_mut_ptr();
        // SAFETY: the data is as long as is said, and the same place is read and written, which
        // the library allows. No key and kind means those there are; -1 keeps the direction.
        let done = unsafe {
            EVP_CipherInit_ex(self.0.0, null(), null_mut(), null(), self.1.as_ptr(), -1)
                & EVP_CipherUpdate(self.0.0, bytes, &mut size, bytes, data.len() as c_int)
        };
        assert!(done == 1 && size as usize == data.len(), "OpenSSL encrypts");
    }
}
