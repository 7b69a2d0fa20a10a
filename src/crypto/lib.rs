#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

pub mod cipher;
pub mod digest;
pub mod drbg;
pub mod entropy;
pub mod hkdf;
pub mod hmac;
pub mod keys;
pub mod provider;
pub mod signer;
pub mod software;
#[cfg(test)]
mod tests;

pub use cipher::{Aead, Cipher, Sm4Key, Tag};
pub use digest::{Digest, Sm3};
pub use drbg::Drbg;
pub use entropy::Entropy;
pub use hkdf::hkdf;
pub use hmac::{Hmac, hmac};
pub use hufu_kernels::Backend;
pub use keys::{Address, IDENTITY_DEFAULT, PublicKey, Signature, identity_digest, message_digest};
pub use provider::{Hasher, Provider, Signer, Verdict, Verifier, VerifyItem};
pub use signer::SoftwareSigner;
pub use software::{is_curve_point, software_provider, software_provider_on};

/// What can go wrong with keys and signatures made or read by this host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are not a private key of SM2: zero, too large, or not 32 bytes.
    #[error("private key is not in the range 1..=n-2 (GB/T 32918.1-2016 6.1)")]
    PrivateKeyRange,
    /// The text is not a PKCS#8 private key for SM2.
    #[error("private key file is not an unencrypted SM2 PKCS#8 PEM")]
    PrivateKeyEncoding,
    /// The signer gave a signature that its own public key does not accept.
    #[error("signature just made does not verify with its own public key")]
    SignatureRejected,
    /// The operating system's random source failed.
    #[error("operating system gave no entropy: {cause}")]
    Entropy {
        /// What the operating system said.
        cause: String,
    },
    /// What a source of entropy gives is not random.
    #[error("the source of entropy failed its health test ({test}): its numbers are not used")]
    EntropyUnhealthy {
        /// Which test of SP 800-90B 4.4.
        test: &'static str,
    },
    /// The signer could not sign.
    #[error("signing failed in the provider")]
    Signing,
    /// The ciphertext, its tag or its padding is not what was made with this key.
    #[error("ciphertext rejected: changed, cut short, or not made with this key and nonce")]
    CiphertextRejected,
    /// A nonce, a tag or the data has a length that the mode does not take.
    #[error("cipher: {cause}")]
    CipherInput {
        /// Which of them.
        cause: hufu_kernels::sm4::Error,
    },
    /// The mode works on whole blocks only.
    #[error("cipher: {size} bytes are not whole blocks of 16")]
    CipherBlocks {
        /// Bytes given.
        size: usize,
    },
}
