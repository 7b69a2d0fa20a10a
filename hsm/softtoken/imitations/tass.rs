//! In the manner of TASS: everything signed comes as DER, and the private key carries the point.

use cryptoki_sys::CKR_HOST_MEMORY;

use super::{
    Algorithm, Block, CipherForm, Code, Dialect, Hash, Mode, PointForm, Secret, SignInput,
    SignOutput,
};

const CODES: &[Code] = &[
    (0x8000_8001, Algorithm::Sm2Pair),
    (0x8000_8000, Algorithm::Sm2Sign(SignInput::Digest, SignOutput::Der)),
    (0x8000_8100, Algorithm::Sm2Sign(SignInput::Message, SignOutput::Der)),
    (0x8000_8200, Algorithm::Sm2Encrypt(CipherForm::Der)),
    (0x8000_0005, Algorithm::Hash(Hash::Sm3)),
    (0x8000_0107, Algorithm::Key(Secret::Sm4)),
    (0x8000_0108, Algorithm::Block(Block::Sm4, Mode::Ecb)),
    (0x8000_0109, Algorithm::Block(Block::Sm4, Mode::Cbc)),
    (0x8000_010a, Algorithm::Sm4Mac),
    (0x8000_010c, Algorithm::Block(Block::Sm4, Mode::CbcPad)),
];

pub(super) const DIALECT: Dialect = Dialect {
    name: "tass",
    manufacturer: "Beijing JN TASS Technology",
    library: "TASS PKCS#11 (imitation)",
    library_version: (1, 8),
    model: "SJJ1310",
    firmware_version: (1, 4),
    serial_start: "SIMTA",
    sm2_key_type: 0x8000_0004,
    sm4_key_type: 0x8000_0002,
    codes: CODES,
    point_form: PointForm::Octet,
    private_has_point: true,
    keys_by_index: false,
    tells_length: true,
    throttled: CKR_HOST_MEMORY,
};
