//! In the manner of Westone: small codes of which two do the same, keys with numbers instead of
//! labels, points as x and y alone. The order within 40 to 46 is chosen.

use cryptoki_sys::CKR_DEVICE_MEMORY;

use super::{
    Algorithm, Block, Code, Dialect, Hash, Mode, PointForm, Secret, SignInput, SignOutput,
};

const CODES: &[Code] = &[
    (0x8000_0001, Algorithm::Sm2Pair),
    (0x8000_0002, Algorithm::Sm2Sign(SignInput::Digest, SignOutput::Raw)),
    (0x8000_0003, Algorithm::Sm2Pair),
    (0x8000_0004, Algorithm::Sm2Sign(SignInput::Message, SignOutput::Raw)),
    (0x8000_0031, Algorithm::Hash(Hash::Sm3)),
    (0x8000_0040, Algorithm::Key(Secret::Sm4)),
    (0x8000_0041, Algorithm::Block(Block::Sm4, Mode::Ecb)),
    (0x8000_0042, Algorithm::Block(Block::Sm4, Mode::Cbc)),
    (0x8000_0043, Algorithm::Block(Block::Sm4, Mode::CbcPad)),
    (0x8000_0044, Algorithm::Block(Block::Sm4, Mode::Ctr)),
    (0x8000_0045, Algorithm::Block(Block::Sm4, Mode::Gcm)),
    (0x8000_0046, Algorithm::Sm4Mac),
];

pub(super) const DIALECT: Dialect = Dialect {
    name: "westone",
    manufacturer: "Westone Information Industry",
    library: "Westone PKCS#11 (imitation)",
    library_version: (2, 0),
    model: "WST-PCIE",
    firmware_version: (1, 1),
    serial_start: "SIMWE",
    sm2_key_type: 0x8000_0001,
    sm4_key_type: 0x8000_0005,
    codes: CODES,
    point_form: PointForm::Raw64,
    private_has_point: false,
    keys_by_index: true,
    tells_length: true,
    throttled: CKR_DEVICE_MEMORY,
};
