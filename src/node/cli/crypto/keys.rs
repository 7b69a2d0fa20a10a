//! `hufu crypto sm2-keygen|sm2-sign|sm2-encrypt|sm2-decrypt`: one SM2 key and one file.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use hufu_crypto::encryption::{self, Ciphertext, PLAINTEXT_SIZE_MAX};
use hufu_crypto::{
    Digest, Drbg, Error, IDENTITY_DEFAULT, PublicKey, Signer, Sm3, SoftwareSigner, der,
    identity_digest,
};
use serde_json::json;
use zeroize::Zeroizing;

use super::super::CliError;
use super::super::custodian::Key;
use super::super::passphrase::PassphraseArguments;
use super::files;
use crate::output::Output;
use crate::{kernels, keys_file};

/// Bytes of an identity at most: ENTL counts its bits in sixteen bits (GB/T 32918.2-2016 5.5).
pub(super) const IDENTITY_BYTES_MAX: usize = 8_191;

/// Bytes of a public key file at most; the encoding of one takes about 180.
const PUBLIC_KEY_BYTES_MAX: u64 = 16 * 1_024;

/// Bytes of a file read at once.
const READ_BYTES: usize = 1 << 20;

/// Bytes around the plaintext in any form of a ciphertext, at most.
const CIPHERTEXT_EXTRA_BYTES: usize = 256;

#[derive(Debug, Args)]
pub(super) struct IdentityArguments {
    /// The signer's identity as text [default: 1234567812345678].
    #[arg(long, value_name = "TEXT", conflicts_with = "id_hex")]
    id: Option<String>,
    /// The signer's identity as hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    id_hex: Option<String>,
}

impl IdentityArguments {
    /// Whether any is there.
    pub(super) const fn are_given(&self) -> bool {
        self.id.is_some() || self.id_hex.is_some()
    }

    /// The identity, by default that of GM/T 0009-2012 10.
    pub(super) fn bytes(&self) -> Result<Vec<u8>, CliError> {
        let bytes = match (&self.id, &self.id_hex) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(digits)) => files::unhex("--id-hex", digits)
                .map(|bytes| bytes.to_vec())
                .map_err(|fault| CliError::usage(fault, "write two digits a byte"))?,
            (None, None) => IDENTITY_DEFAULT.to_vec(),
        };
        if bytes.len() > IDENTITY_BYTES_MAX {
            let what = format!("identity of {} bytes", bytes.len());
            return Err(CliError::usage(what, format!("at most {IDENTITY_BYTES_MAX} bytes")));
        }
        Ok(bytes)
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Keygen {
    /// The file to make for the private key (PKCS#8 PEM, mode 0600, not encrypted).
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The file to make for the public key (PEM).
    #[arg(long, value_name = "FILE")]
    public_out: Option<PathBuf>,
    /// Replace existing files. A key that is replaced is gone.
    #[arg(long)]
    force: bool,
}

pub(super) fn keygen(keygen: &Keygen, output: Output) -> Result<(), CliError> {
    for path in std::iter::once(&keygen.out).chain(&keygen.public_out) {
        if files::is_standard(path) {
            return Err(CliError::usage("a key is not written to standard output", "name a file"));
        }
        files::check_new(path, keygen.force)?;
    }
    let broken = |cause| CliError::failed(cause, "this machine", "see `hufu crypto selftest`");
    let signer = SoftwareSigner::generate_from(kernels::provider().entropy).map_err(broken)?;
    let private = signer.to_pkcs8_pem().map_err(broken)?;
    files::write_new(&keygen.out, private.as_bytes(), keygen.force)?;
    let key = signer.public_key();
    let public = key.to_pem().map_err(broken)?;
    if let Some(path) = &keygen.public_out {
        files::write_new(path, public.as_bytes(), keygen.force)?;
    }
    let value = json!({
        "file": keygen.out.display().to_string(),
        "public_key": key.to_string(),
        "public_key_pem": public,
        "address": key.address().to_string(),
    });
    output.result(&value, format!("public_key = \"{key}\"\n{}", public.trim_end()));
    Ok(())
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Sign {
    /// The private key's file, or one of `hufu hsm keygen` that says which key of a card it is.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArguments,
    #[command(flatten)]
    identity: IdentityArguments,
    /// Write the DER of the signature to this new file; `-` is standard output. Else its
    /// hexadecimal digits are printed.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
    /// The file to sign; `-` reads standard input.
    file: PathBuf,
}

pub(super) fn sign(sign: &Sign, output: Output) -> Result<(), CliError> {
    if let Some(out) = &sign.out {
        files::check_new(out, sign.force)?;
    }
    let identity = sign.identity.bytes()?;
    let key = Key::open(&sign.key, &sign.passphrase)?;
    // The file is read once, for every key that may sign it: e covers the key.
    let keys = key.keys();
    let starts: Vec<Digest> = keys.iter().map(|key| identity_digest(&identity, key)).collect();
    let digests = digests_of_file(&starts, &sign.file)?;
    let of = |wanted: &PublicKey| {
        let pair = keys.iter().zip(&digests).find(|(key, _)| *key == wanted);
        pair.map_or(Digest::ZERO, |(_, digest)| *digest)
    };
    let signed = key.sign(&of)?;
    let der = der::write_signature(&signed.signature);
    if let Some(out) = &sign.out {
        files::write_new(out, &der, sign.force)?;
        if files::is_standard(out) {
            return Ok(());
        }
    }
    let (r, s) = signed.signature.0.split_at(32);
    let value = json!({
        "file": files::name(&sign.file),
        "public_key": signed.key.to_string(),
        "e": of(&signed.key).to_string(),
        "r": files::hex(r),
        "s": files::hex(s),
        "sig": files::hex(&der),
    });
    output.result(&value, files::hex(&der));
    Ok(())
}

#[derive(Debug, Args)]
#[command(
    after_help = "For keys and short texts, 16 MiB at most. It hides and does not sign: anybody can \
    encrypt to a public key."
)]
pub(in crate::cli) struct Encrypt {
    /// The recipient's public key (PEM).
    #[arg(long, value_name = "PEM")]
    public_key: PathBuf,
    /// Write 04 || C1 || C3 || C2 instead of the DER form of GM/T 0009.
    #[arg(long)]
    raw: bool,
    /// The new file for the ciphertext; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
    /// The file to encrypt; `-` reads standard input.
    file: PathBuf,
}

pub(super) fn encrypt(encrypt: &Encrypt, output: Output) -> Result<(), CliError> {
    files::check_new(&encrypt.out, encrypt.force)?;
    let key = load_public_key(&encrypt.public_key)?;
    let plaintext = files::read_all(&encrypt.file, bytes_max(PLAINTEXT_SIZE_MAX))?;
    let ciphertext = Drbg::new(kernels::provider().entropy, "hufu crypto sm2-encrypt")
        .and_then(|mut drbg| encryption::encrypt(kernels::backend(), &mut drbg, &key, &plaintext));
    let ciphertext = ciphertext.map_err(|error| {
        CliError::failed(error, files::name(&encrypt.file), "name a file with 1 byte to 16 MiB")
    })?;
    let bytes = if encrypt.raw { ciphertext.to_bytes() } else { ciphertext.to_der() };
    files::write_new(&encrypt.out, &bytes, encrypt.force)?;
    report(&encrypt.out, bytes.len(), output);
    Ok(())
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Decrypt {
    /// The private key's file.
    #[arg(long, value_name = "PEM")]
    key: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArguments,
    /// Read 04 || C1 || C3 || C2 instead of the DER form of GM/T 0009.
    #[arg(long)]
    raw: bool,
    /// The new file for the plaintext; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
    /// The file to decrypt; `-` reads standard input.
    file: PathBuf,
}

pub(super) fn decrypt(decrypt: &Decrypt, output: Output) -> Result<(), CliError> {
    files::check_new(&decrypt.out, decrypt.force)?;
    let signer = load_private_key(&decrypt.key, &decrypt.passphrase)?;
    let limit = bytes_max(PLAINTEXT_SIZE_MAX + CIPHERTEXT_EXTRA_BYTES);
    let bytes = files::read_all(&decrypt.file, limit)?;
    let read = if decrypt.raw { Ciphertext::from_bytes } else { Ciphertext::from_der };
    let plaintext = read(&bytes).and_then(|text| signer.decrypt(kernels::backend(), &text));
    let plaintext = plaintext.map_err(|error| {
        let remedy = match error {
            Error::CiphertextEncoding(_) if decrypt.raw => "leave --raw out if it is DER",
            Error::CiphertextEncoding(_) => "add --raw if it is C1 || C3 || C2",
            _ => "name the key it was encrypted to, or ask for it again",
        };
        CliError::failed(error, files::name(&decrypt.file), remedy)
    })?;
    files::write_new(&decrypt.out, &plaintext, decrypt.force)?;
    report(&decrypt.out, plaintext.len(), output);
    Ok(())
}

/// Says what was written, unless that was standard output.
pub(super) fn report(path: &Path, bytes: usize, output: Output) {
    if !files::is_standard(path) {
        let file = path.display().to_string();
        output.result(&json!({ "file": file, "bytes": bytes }), format!("{file}: {bytes} bytes"));
    }
}

/// A size in memory as a limit for a file.
fn bytes_max(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

fn load_private_key(
    path: &Path,
    passphrase: &PassphraseArguments,
) -> Result<SoftwareSigner, CliError> {
    let key = keys_file::open(path).and_then(|key| key.unlock(passphrase.source().as_ref()));
    key.map_err(|error| CliError::key(&error, path))
}

/// The key of a public key file.
pub(in crate::cli) fn load_public_key(path: &Path) -> Result<PublicKey, CliError> {
    let bytes = files::read_all(path, PUBLIC_KEY_BYTES_MAX)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::PublicKeyEncoding);
    text.and_then(PublicKey::from_pem).map_err(|error| {
        let remedy = "name a public key as `hufu crypto sm2-keygen --public-out` makes it";
        CliError::failed(error, files::name(path), remedy)
    })
}

/// e = SM3(ZA || file), read in pieces.
pub(super) fn digest_of_file(identity: &Digest, path: &Path) -> Result<Digest, CliError> {
    let digests = digests_of_file(core::slice::from_ref(identity), path)?;
    Ok(digests.first().copied().unwrap_or(Digest::ZERO))
}

/// The same for several identities, the file read once.
fn digests_of_file(identities: &[Digest], path: &Path) -> Result<Vec<Digest>, CliError> {
    let begun = |identity: &Digest| {
        let mut hasher = Sm3::new();
        hasher.update(&identity.0);
        hasher
    };
    let hashers = identities.iter().map(begun).collect();
    let read = hash_stream_by(&mut *files::open(path)?, hashers);
    read.map_err(|cause| files::unreadable(&cause, path))
}

/// The digest of what the hasher has seen and all that comes.
pub(super) fn hash_stream(input: &mut dyn Read, hasher: Sm3) -> std::io::Result<Digest> {
    let digests = hash_stream_by(input, vec![hasher])?;
    Ok(digests.first().copied().unwrap_or(Digest::ZERO))
}

fn hash_stream_by(input: &mut dyn Read, mut hashers: Vec<Sm3>) -> std::io::Result<Vec<Digest>> {
    let mut buffer = Zeroizing::new(vec![0; READ_BYTES]);
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(hashers.into_iter().map(Sm3::finish).collect()),
            Ok(size) => hashers.iter_mut().for_each(|hasher| hasher.update(&buffer[..size])),
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
}
