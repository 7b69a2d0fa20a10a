//! In the manner of Koal: codes much like Sansec's with other meanings, GCM, points without DER.
//! Of 8100, 8101 and 6 the codes are known and not what they do: the meanings here are chosen.

use cryptoki_sys::CKR_FUNCTION_FAILED;

use super::{
    Algorithm, Block, CipherForm, Code, Dialect, Hash, Mode, PointForm, Secret, SignInput,
    SignOutput,
};

const CODES: &[Code] = &[
    (0x8000_8001, Algorithm::Sm2Pair),
    (0x8000_8100, Algorithm::Sm2Sign(SignInput::Message, SignOutput::Raw)),
    (0x8000_8101, Algorithm::Sm2Sign(SignInput::Digest, SignOutput::Raw)),
    (0x8000_8104, Algorithm::Sm2Sign(SignInput::Digest, SignOutput::Der)),
    (0x8000_8200, Algorithm::Sm2Encrypt(CipherForm::Raw)),
    (0x8000_0005, Algorithm::Hash(Hash::Sm3)),
    (0x8000_0006, Algorithm::HmacSm3),
    (0x8000_0107, Algorithm::Key(Secret::Sm4)),
    (0x8000_0108, Algorithm::Block(Block::Sm4, Mode::Ecb)),
    (0x8000_0109, Algorithm::Block(Block::Sm4, Mode::Cbc)),
    (0x8000_010c, Algorithm::Block(Block::Sm4, Mode::CbcPad)),
    (0x8000_010f, Algorithm::Block(Block::Sm4, Mode::Gcm)),
];

pub(super) const DIALECT: Dialect = Dialect {
    name: "koal",
    manufacturer: "Koal Software Co., Ltd.",
    library: "Koal PKCS#11 (imitation)",
    library_version: (5, 2),
    model: "KOAL-HSM",
    firmware_version: (5, 0),
    serial_start: "SIMKO",
    sm2_key_type: 0x8000_0004,
    sm4_key_type: 0x8000_0002,
    codes: CODES,
    point_form: PointForm::Raw04,
    private_has_point: false,
    keys_by_index: false,
    tells_length: true,
    throttled: CKR_FUNCTION_FAILED,
};
