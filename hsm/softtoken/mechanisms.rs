//! What the mechanisms compute, whatever codes a vendor gives them.
//!
//! ```text
//! Session --Call, Prepared key--> Hasher | Signing | Ciphering --bytes--> Session
//! ```
//!
//! Everything here is arithmetic on values: no lock, no handle, no file.

pub(crate) mod blocks;
pub(crate) mod ciphering;
pub(crate) mod generate;
pub(crate) mod hashing;
pub(crate) mod signing;
pub(crate) mod wrap;

use cryptoki_sys::*;

use crate::answer::ulong;
use crate::imitations::{Algorithm, Block, Mode, Secret};
use crate::keys::SECRET_BYTES_MAX;

/// Bytes that an operation keeps until it is finished: of those that cannot compute as they go.
pub(crate) const KEPT_BYTES_MAX: usize = 16 << 20;

/// A mechanism as a client asks for it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) code: CK_MECHANISM_TYPE,
    pub(crate) algorithm: Algorithm,
    pub(crate) parameter: Parameter,
}

/// Its parameter, copied out of the client's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parameter {
    None,
    /// Vectors, identities, counters.
    Bytes(Vec<u8>),
    /// `CK_GCM_PARAMS`.
    Gcm {
        nonce: Vec<u8>,
        associated: Vec<u8>,
        tag_bits: CK_ULONG,
    },
}

/// Which flags, and sizes of keys from and to, `C_GetMechanismInfo` tells.
pub(crate) fn info(algorithm: Algorithm) -> CK_MECHANISM_INFO {
    let secret_max = ulong(SECRET_BYTES_MAX);
    let curve = CKF_EC_F_P | CKF_EC_NAMEDCURVE | CKF_EC_UNCOMPRESS;
    let (from, to, flags) = match algorithm {
        Algorithm::Sm2Pair | Algorithm::EcPair => (256, 256, CKF_GENERATE_KEY_PAIR | curve),
        Algorithm::Key(Secret::Aes) => (16, 32, CKF_GENERATE),
        Algorithm::Key(Secret::Sm4) => (16, 16, CKF_GENERATE),
        // In bits, where all others of secret keys are in bytes (PKCS#11 2.40 mechanisms 2.9.3).
        Algorithm::Key(Secret::Generic) => (8, 8 * secret_max, CKF_GENERATE),
        Algorithm::Sm2Sign(..) | Algorithm::Ecdsa(_) => (256, 256, CKF_SIGN | CKF_VERIFY | curve),
        Algorithm::Sm2Encrypt(_) => (256, 256, CKF_ENCRYPT | CKF_DECRYPT | curve),
        Algorithm::Hash(_) => (0, 0, CKF_DIGEST),
        Algorithm::HmacSm3 => (1, secret_max, CKF_SIGN | CKF_VERIFY),
        Algorithm::Sm4Mac => (16, 16, CKF_SIGN | CKF_VERIFY),
        Algorithm::Block(block, mode) => {
            let wraps = if mode == Mode::Ctr { 0 } else { CKF_WRAP | CKF_UNWRAP };
            let to = if block == Block::Aes { 32 } else { 16 };
            (16, to, CKF_ENCRYPT | CKF_DECRYPT | wraps)
        }
        Algorithm::AesKeyWrap { .. } => (16, 32, CKF_WRAP | CKF_UNWRAP),
    };
    CK_MECHANISM_INFO { ulMinKeySize: from, ulMaxKeySize: to, flags: flags | CKF_HW }
}
