//! In the manner of IBM's Enterprise PKCS#11.

use cryptoki_sys::CKR_HOST_MEMORY;

use super::{
    Algorithm, Block, CipherForm, Code, Dialect, Hash, Mode, PointForm, Secret, SignInput,
    SignOutput,
};

const CODES: &[Code] = &[
    (0x8005_0001, Algorithm::Key(Secret::Sm4)),
    (0x8005_0002, Algorithm::Block(Block::Sm4, Mode::Cbc)),
    (0x8005_0003, Algorithm::Block(Block::Sm4, Mode::CbcPad)),
    (0x8005_0004, Algorithm::Block(Block::Sm4, Mode::Ecb)),
    (0x8005_000a, Algorithm::Sm2Pair),
    (0x8005_000b, Algorithm::Sm2Sign(SignInput::Digest, SignOutput::Raw)),
    (0x8005_000c, Algorithm::Sm2Sign(SignInput::Message, SignOutput::Raw)),
    (0x8005_000d, Algorithm::Sm2Encrypt(CipherForm::Raw)),
    (0x8005_000e, Algorithm::Hash(Hash::Sm3)),
];

pub(super) const DIALECT: Dialect = Dialect {
    name: "ep11",
    manufacturer: "IBM",
    library: "EP11 (imitation)",
    library_version: (4, 2),
    model: "EP11",
    firmware_version: (7, 5),
    serial_start: "SIMEP",
    sm2_key_type: 0x8005_0002,
    sm4_key_type: 0x8005_0001,
    codes: CODES,
    point_form: PointForm::Octet,
    private_has_point: false,
    keys_by_index: false,
    tells_length: true,
    throttled: CKR_HOST_MEMORY,
};
