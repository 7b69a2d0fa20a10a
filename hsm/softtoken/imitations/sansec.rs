//! In the manner of Sansec's cards: four ways to sign, of which one is not SM2 and one is not DER.

use cryptoki_sys::CKR_DEVICE_MEMORY;

use super::{
    Algorithm, Block, CipherForm, Code, Dialect, Hash, Mode, PointForm, Secret, SignInput,
    SignOutput,
};

const CODES: &[Code] = &[
    (0x8000_8001, Algorithm::Sm2Pair),
    // Real signatures of this mechanism verify for e = SM3(M) only.
    (0x8000_8100, Algorithm::Sm2Sign(SignInput::MessageWithoutZ, SignOutput::Raw)),
    (0x8000_8102, Algorithm::Sm2Sign(SignInput::Message, SignOutput::Raw)),
    // About one in 256 of its real signatures is no DER.
    (0x8000_8103, Algorithm::Sm2Sign(SignInput::Message, SignOutput::DerWrong)),
    (0x8000_8104, Algorithm::Sm2Sign(SignInput::Digest, SignOutput::Der)),
    (0x8000_8105, Algorithm::Sm2Sign(SignInput::Digest, SignOutput::Raw)),
    (0x8000_8200, Algorithm::Sm2Encrypt(CipherForm::Raw)),
    (0x8000_9001, Algorithm::Hash(Hash::Sm3)),
    (0x8000_0107, Algorithm::Key(Secret::Sm4)),
    (0x8000_0108, Algorithm::Block(Block::Sm4, Mode::Ecb)),
    (0x8000_0109, Algorithm::Block(Block::Sm4, Mode::Cbc)),
];

pub(super) const DIALECT: Dialect = Dialect {
    name: "sansec",
    manufacturer: "Sansec Technology Co., Ltd.",
    library: "Sansec PKCS#11 (imitation)",
    library_version: (3, 1),
    model: "SecCard",
    firmware_version: (2, 7),
    serial_start: "SIMSC",
    sm2_key_type: 0x8000_0004,
    sm4_key_type: 0x8000_0106,
    codes: CODES,
    point_form: PointForm::Octet,
    private_has_point: false,
    keys_by_index: false,
    tells_length: true,
    throttled: CKR_DEVICE_MEMORY,
};
