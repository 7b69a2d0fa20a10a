//! The mechanisms that PKCS#11 names, which every imitation has: generic clients live on them.

use cryptoki_sys::{
    CKM_AES_CBC, CKM_AES_CBC_PAD, CKM_AES_CTR, CKM_AES_ECB, CKM_AES_GCM, CKM_AES_KEY_GEN,
    CKM_AES_KEY_WRAP, CKM_AES_KEY_WRAP_KWP, CKM_EC_KEY_PAIR_GEN, CKM_ECDSA, CKM_ECDSA_SHA1,
    CKM_ECDSA_SHA256, CKM_ECDSA_SHA384, CKM_ECDSA_SHA512, CKM_GENERIC_SECRET_KEY_GEN, CKM_SHA_1,
    CKM_SHA256, CKM_SHA384, CKM_SHA512,
};

use super::{Algorithm, Block, Code, Hash, Mode, Secret};

pub(super) const CODES: &[Code] = &[
    (CKM_EC_KEY_PAIR_GEN, Algorithm::EcPair),
    (CKM_ECDSA, Algorithm::Ecdsa(None)),
    (CKM_ECDSA_SHA1, Algorithm::Ecdsa(Some(Hash::Sha1))),
    (CKM_ECDSA_SHA256, Algorithm::Ecdsa(Some(Hash::Sha256))),
    (CKM_ECDSA_SHA384, Algorithm::Ecdsa(Some(Hash::Sha384))),
    (CKM_ECDSA_SHA512, Algorithm::Ecdsa(Some(Hash::Sha512))),
    (CKM_SHA_1, Algorithm::Hash(Hash::Sha1)),
    (CKM_SHA256, Algorithm::Hash(Hash::Sha256)),
    (CKM_SHA384, Algorithm::Hash(Hash::Sha384)),
    (CKM_SHA512, Algorithm::Hash(Hash::Sha512)),
    (CKM_GENERIC_SECRET_KEY_GEN, Algorithm::Key(Secret::Generic)),
    (CKM_AES_KEY_GEN, Algorithm::Key(Secret::Aes)),
    (CKM_AES_ECB, Algorithm::Block(Block::Aes, Mode::Ecb)),
    (CKM_AES_CBC, Algorithm::Block(Block::Aes, Mode::Cbc)),
    (CKM_AES_CBC_PAD, Algorithm::Block(Block::Aes, Mode::CbcPad)),
    (CKM_AES_CTR, Algorithm::Block(Block::Aes, Mode::Ctr)),
    (CKM_AES_GCM, Algorithm::Block(Block::Aes, Mode::Gcm)),
    (CKM_AES_KEY_WRAP, Algorithm::AesKeyWrap { padded: false }),
    (CKM_AES_KEY_WRAP_KWP, Algorithm::AesKeyWrap { padded: true }),
];
