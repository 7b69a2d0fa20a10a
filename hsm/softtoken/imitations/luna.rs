//! In the manner of Thales Luna. No encryption with SM2; the order within B10 to B13 is chosen.

use super::{
    Algorithm, Block, Code, Dialect, Hash, Mode, PointForm, Secret, SignInput, SignOutput,
};

const CODES: &[Code] = &[
    (0x8000_0b01, Algorithm::Hash(Hash::Sm3)),
    (0x8000_0b10, Algorithm::Key(Secret::Sm4)),
    (0x8000_0b11, Algorithm::Block(Block::Sm4, Mode::Ecb)),
    (0x8000_0b12, Algorithm::Block(Block::Sm4, Mode::Cbc)),
    (0x8000_0b13, Algorithm::Block(Block::Sm4, Mode::CbcPad)),
    (0x8000_0b20, Algorithm::Sm2Pair),
    (0x8000_0b21, Algorithm::Sm2Sign(SignInput::Digest, SignOutput::Raw)),
    (0x8000_0b22, Algorithm::Sm2Sign(SignInput::Message, SignOutput::Raw)),
];

/// A return value of the vendor's own range, which no client knows without being told.
const BUSY: u64 = 0x8000_0021;

pub(super) const DIALECT: Dialect = Dialect {
    name: "luna",
    manufacturer: "SafeNet",
    library: "Chrystoki (imitation)",
    library_version: (10, 7),
    model: "LunaSA 7.7",
    firmware_version: (7, 7),
    serial_start: "SIMLU",
    sm2_key_type: 0x8000_0016,
    sm4_key_type: 0x8000_0015,
    codes: CODES,
    point_form: PointForm::Octet,
    private_has_point: false,
    keys_by_index: false,
    tells_length: true,
    throttled: BUSY,
};
