//! Our own codes, in the vendor range, at an offset that no vendor is known to use.

use cryptoki_sys::{CK_KEY_TYPE, CK_MECHANISM_TYPE, CKR_HOST_MEMORY};

use super::{
    Algorithm, Block, CipherForm, Code, Dialect, Hash, Mode, PointForm, Secret, SignInput,
    SignOutput,
};

/// `CKA_KEY_TYPE` of SM2 pairs.
pub const KEY_SM2: CK_KEY_TYPE = BASE + 0x01;
/// `CKA_KEY_TYPE` of SM4 keys.
pub const KEY_SM4: CK_KEY_TYPE = BASE + 0x02;

/// Makes an SM2 pair.
pub const SM2_KEY_PAIR_GEN: CK_MECHANISM_TYPE = BASE + 0x11;
/// Signs e, gives r || s.
pub const SM2: CK_MECHANISM_TYPE = BASE + 0x12;
/// Signs a message with Z of the identity in the parameter or the default one, gives r || s.
pub const SM2_SM3: CK_MECHANISM_TYPE = BASE + 0x13;
/// Signs e, gives DER.
pub const SM2_DER: CK_MECHANISM_TYPE = BASE + 0x14;
/// As [`SM2_SM3`], gives DER.
pub const SM2_SM3_DER: CK_MECHANISM_TYPE = BASE + 0x15;
/// SM2 encryption, 04 || C1 || C3 || C2.
pub const SM2_ENCRYPT: CK_MECHANISM_TYPE = BASE + 0x18;
/// SM2 encryption, DER.
pub const SM2_ENCRYPT_DER: CK_MECHANISM_TYPE = BASE + 0x19;
/// SM3.
pub const SM3: CK_MECHANISM_TYPE = BASE + 0x21;
/// HMAC with SM3.
pub const SM3_HMAC: CK_MECHANISM_TYPE = BASE + 0x22;
/// Makes an SM4 key.
pub const SM4_KEY_GEN: CK_MECHANISM_TYPE = BASE + 0x31;
/// SM4-ECB.
pub const SM4_ECB: CK_MECHANISM_TYPE = BASE + 0x32;
/// SM4-CBC.
pub const SM4_CBC: CK_MECHANISM_TYPE = BASE + 0x33;
/// SM4-CBC with PKCS#7 padding.
pub const SM4_CBC_PAD: CK_MECHANISM_TYPE = BASE + 0x34;
/// SM4-CTR; the parameter is `CK_AES_CTR_PARAMS`.
pub const SM4_CTR: CK_MECHANISM_TYPE = BASE + 0x35;
/// SM4-GCM; the parameter is `CK_GCM_PARAMS`.
pub const SM4_GCM: CK_MECHANISM_TYPE = BASE + 0x36;
/// SM4 CBC-MAC.
pub const SM4_MAC: CK_MECHANISM_TYPE = BASE + 0x37;

/// `CKM_VENDOR_DEFINED` and "HF".
const BASE: u64 = 0x8000_0000 + 0x4846_0000;

const CODES: &[Code] = &[
    (SM2_KEY_PAIR_GEN, Algorithm::Sm2Pair),
    (SM2, Algorithm::Sm2Sign(SignInput::Digest, SignOutput::Raw)),
    (SM2_SM3, Algorithm::Sm2Sign(SignInput::Message, SignOutput::Raw)),
    (SM2_DER, Algorithm::Sm2Sign(SignInput::Digest, SignOutput::Der)),
    (SM2_SM3_DER, Algorithm::Sm2Sign(SignInput::Message, SignOutput::Der)),
    (SM2_ENCRYPT, Algorithm::Sm2Encrypt(CipherForm::Raw)),
    (SM2_ENCRYPT_DER, Algorithm::Sm2Encrypt(CipherForm::Der)),
    (SM3, Algorithm::Hash(Hash::Sm3)),
    (SM3_HMAC, Algorithm::HmacSm3),
    (SM4_KEY_GEN, Algorithm::Key(Secret::Sm4)),
    (SM4_ECB, Algorithm::Block(Block::Sm4, Mode::Ecb)),
    (SM4_CBC, Algorithm::Block(Block::Sm4, Mode::Cbc)),
    (SM4_CBC_PAD, Algorithm::Block(Block::Sm4, Mode::CbcPad)),
    (SM4_CTR, Algorithm::Block(Block::Sm4, Mode::Ctr)),
    (SM4_GCM, Algorithm::Block(Block::Sm4, Mode::Gcm)),
    (SM4_MAC, Algorithm::Sm4Mac),
];

pub(crate) const DIALECT: Dialect = Dialect {
    name: "native",
    manufacturer: "hufu",
    library: "hufu soft token",
    library_version: (0, 1),
    model: "softtoken",
    firmware_version: (0, 1),
    serial_start: "HF",
    sm2_key_type: KEY_SM2,
    sm4_key_type: KEY_SM4,
    codes: CODES,
    point_form: PointForm::Octet,
    private_has_point: false,
    keys_by_index: false,
    tells_length: true,
    throttled: CKR_HOST_MEMORY,
};
