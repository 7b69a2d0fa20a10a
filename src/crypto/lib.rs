#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

pub mod cipher;
pub mod der;
pub mod digest;
pub mod drbg;
pub mod encrypted_key;
pub mod encryption;
pub mod entropy;
pub mod exchange;
pub mod hkdf;
pub mod hmac;
mod kdf;
pub mod keys;
pub mod known_keys;
pub mod own_key;
mod pbkdf2;
mod pem;
pub mod provider;
pub mod selftest;
pub mod shamir;
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
pub use known_keys::{KnownKeys, KnownKeysCounts};
pub use own_key::OwnKey;
pub use pbkdf2::pbkdf2;
pub use provider::{Hasher, Provider, Signer, Verdict, Verifier, VerifyItem};
pub use selftest::selftest;
pub use signer::SoftwareSigner;
pub use software::{
    is_curve_point, software_provider, software_provider_on, software_provider_with,
};

/// What can go wrong with keys and signatures made or read by this host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are not a private key of SM2: zero, too large, or not 32 bytes.
    #[error("private key is not in the range 1..=n-2 (GB/T 32918.1-2016 6.1)")]
    PrivateKeyRange,
    /// The text is not a PKCS#8 private key for SM2.
    #[error("private key file is not an unencrypted SM2 PKCS#8 PEM")]
    PrivateKeyEncoding,
    /// A key under a passphrase that is not written as one.
    #[error("encrypted private key is not written as one: {0}")]
    EncryptedKey(#[source] der::DerError),
    /// A key under a passphrase by other algorithms.
    #[error(
        "encrypted private key: {part} is none that is read here: PBES2 with PBKDF2, HMAC-SM3 and \
         SM4-CBC"
    )]
    EncryptedKeyAlgorithm {
        /// Which of them is another, or of another size.
        part: &'static str,
    },
    /// A key under a passphrase that takes too few or too many iterations.
    #[error(
        "encrypted private key wants {found} iterations, there must be {min} to {max}",
        min = encrypted_key::ITERATIONS_MIN, max = encrypted_key::ITERATIONS_MAX
    )]
    EncryptedKeyIterations {
        /// How many.
        found: u32,
    },
    /// What a passphrase makes of an encrypted key is none.
    #[error("the passphrase does not open the private key, or the key was changed")]
    Passphrase,
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
    /// The key is not on the curve.
    #[error("public key is no point of the SM2 curve")]
    PublicKeyInvalid,
    /// The text is not an SM2 public key.
    #[error("public key file is not an SM2 public key in PEM (SubjectPublicKeyInfo)")]
    PublicKeyEncoding,
    /// A ciphertext that is not written as one.
    #[error("ciphertext is not one: {0}")]
    CiphertextEncoding(#[source] der::DerError),
    /// Nothing to encrypt, or too much.
    #[error("{bytes} bytes to encrypt, there must be 1 to {max}", max = encryption::PLAINTEXT_SIZE_MAX)]
    PlaintextSize {
        /// How many.
        bytes: usize,
    },
    /// An agreed key of no size, or too large.
    #[error("agreed key of {bytes} bytes, there must be 1 to {max}", max = exchange::AGREED_KEY_SIZE_MAX)]
    AgreedKeySize {
        /// How many.
        bytes: usize,
    },
    /// The other side of a key exchange has another key, or is someone else.
    #[error("key exchange is refused: the other side does not hold the same key")]
    ExchangeRefused,
    /// Many draws of a random scalar and none that can be used.
    #[error("the random bit generator gives no usable scalar: it is broken")]
    NoScalar,
    /// An algorithm gave a wrong answer to a known question: nothing may be computed with it.
    #[error("self-test of {algorithm} failed: {fault}")]
    SelfTest {
        /// Which algorithm.
        algorithm: &'static str,
        /// What was wrong.
        fault: &'static str,
    },
    /// The signer could not sign.
    #[error("signing failed in the provider")]
    Signing,
    /// The ciphertext, its tag or its padding is not what was made with this key.
    #[error("ciphertext rejected: changed, cut short, or made with another key or nonce")]
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
