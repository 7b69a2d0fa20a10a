//! In the manner of WoSign: codes outside the vendor range, and no question for the length. What
//! 7 and 8 do is chosen.

use cryptoki_sys::CKR_HOST_MEMORY;

use super::{
    Algorithm, Block, Code, Dialect, Hash, Mode, PointForm, Secret, SignInput, SignOutput,
};

const CODES: &[Code] = &[
    (0x0001_0002, Algorithm::Sm2Sign(SignInput::Digest, SignOutput::Raw)),
    (0x0001_0004, Algorithm::Sm2Sign(SignInput::Message, SignOutput::Raw)),
    (0x0001_0005, Algorithm::Hash(Hash::Sm3)),
    (0x0001_0007, Algorithm::Key(Secret::Sm4)),
    (0x0001_0008, Algorithm::Block(Block::Sm4, Mode::Cbc)),
    (0x0001_0009, Algorithm::Sm2Pair),
];

pub(super) const DIALECT: Dialect = Dialect {
    name: "wosign",
    manufacturer: "WoSign",
    library: "WoSign PKCS#11 (imitation)",
    library_version: (1, 0),
    model: "WoSign HSM",
    firmware_version: (1, 0),
    serial_start: "SIMWO",
    sm2_key_type: 0x0001_0001,
    sm4_key_type: 0x0001_0002,
    codes: CODES,
    point_form: PointForm::Octet,
    private_has_point: false,
    keys_by_index: false,
    tells_length: false,
    throttled: CKR_HOST_MEMORY,
};
