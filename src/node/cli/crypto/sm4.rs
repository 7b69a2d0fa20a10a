//! `hufu crypto sm4`: one message with SM4, whole in memory, so that nothing of a message that is
//! not genuine is ever written.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use hufu_crypto::cipher::{self, BLOCK_SIZE};
use hufu_crypto::{Backend, Error, Sm4Key};
use zeroize::Zeroizing;

use super::super::CliError;
use super::files;
use super::keys::report;
use crate::output::Output;
use crate::{kernels, keys_file};

/// Bytes of a message at most, for it lies in memory.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;

/// Bytes of a file with digits or associated data at most.
const SMALL_BYTES_MAX: u64 = 1 << 20;

/// Bytes of a key file on standard input at most.
const KEY_TEXT_BYTES_MAX: u64 = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Ecb,
    Cbc,
    Ctr,
    Gcm,
    Ccm,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Ecb => "ecb",
            Self::Cbc => "cbc",
            Self::Ctr => "ctr",
            Self::Gcm => "gcm",
            Self::Ccm => "ccm",
        }
    }

    /// Whether a tag proves that the message is genuine.
    const fn is_sealed(self) -> bool {
        matches!(self, Self::Gcm | Self::Ccm)
    }

    const fn is_padded(self) -> bool {
        matches!(self, Self::Ecb | Self::Cbc)
    }

    /// Bytes of nonces the mode takes, least and most, and as words.
    const fn nonce_sizes(self) -> (usize, usize, &'static str) {
        match self {
            Self::Ecb => (0, 0, "none"),
            Self::Cbc | Self::Ctr => (BLOCK_SIZE, BLOCK_SIZE, "16 bytes"),
            Self::Gcm => (1, 1 << 16, "12 bytes, or any other number from 1 to 65536"),
            Self::Ccm => (7, 13, "7 to 13 bytes"),
        }
    }

    /// Whether the mode has tags of this many bytes.
    const fn takes_tag(self, size: usize) -> bool {
        match self {
            Self::Gcm => size >= 12 && size <= 16,
            Self::Ccm => size >= 4 && size <= 16 && size.is_multiple_of(2),
            Self::Ecb | Self::Cbc | Self::Ctr => false,
        }
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "gcm and ccm put the tag behind the ciphertext and refuse to decrypt what was \
    changed; ecb, cbc and ctr do not notice. A nonce must never be used twice with one key: in ctr, gcm and \
    ccm that gives away both messages. ecb and cbc pad to whole blocks (PKCS#7) unless --no-padding is \
    given. Messages have 1 GiB at most."
)]
pub(in crate::cli) struct Cipher {
    /// How blocks are joined.
    #[arg(long, value_enum)]
    mode: Mode,
    /// Encrypt FILE.
    #[arg(long, required_unless_present = "decrypt", conflicts_with = "decrypt")]
    encrypt: bool,
    /// Decrypt FILE.
    #[arg(long)]
    decrypt: bool,
    /// The key: a file with 32 hexadecimal digits that only its owner may read; `-` reads
    /// standard input.
    #[arg(long, value_name = "FILE", required_unless_present = "key")]
    key_file: Option<PathBuf>,
    /// Refused: a key is never given here.
    #[arg(long, hide = true, value_name = "HEX")]
    key: Option<String>,
    /// Nonce, initial vector (cbc) or first counter (ctr), in hexadecimal digits.
    #[arg(long, alias = "iv", value_name = "HEX", conflicts_with = "nonce_file")]
    nonce: Option<String>,
    /// The same from a file with hexadecimal digits.
    #[arg(long, value_name = "FILE")]
    nonce_file: Option<PathBuf>,
    /// Associated data (gcm, ccm) in hexadecimal digits.
    #[arg(long, value_name = "HEX", conflicts_with = "aad_file")]
    aad: Option<String>,
    /// Associated data (gcm, ccm): the bytes of a file.
    #[arg(long, value_name = "FILE")]
    aad_file: Option<PathBuf>,
    /// Bytes of the tag: 12 to 16 (gcm), 4, 6 and so on to 16 (ccm) [default: 16].
    #[arg(long, value_name = "BYTES")]
    tag_size: Option<usize>,
    /// The message is whole blocks already (ecb, cbc).
    #[arg(long)]
    no_padding: bool,
    /// The new file for the result; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
    /// The message; `-` reads standard input.
    file: PathBuf,
}

/// Everything that is public about one use of the key.
struct Setting {
    mode: Mode,
    nonce: Zeroizing<Vec<u8>>,
    associated: Zeroizing<Vec<u8>>,
    tag_size: usize,
    is_padded: bool,
}

pub(super) fn run(cipher: &Cipher, output: Output) -> Result<(), CliError> {
    if cipher.key.is_some() {
        let what = "--key: every user of this machine can read command lines";
        return Err(CliError::usage(what, "put the key into a file of mode 0600: --key-file"));
    }
    let setting = setting(cipher)?;
    let inputs = [&cipher.key_file, &cipher.nonce_file, &cipher.aad_file];
    let standard = inputs.into_iter().flatten().chain([&cipher.file]);
    if standard.filter(|path| files::is_standard(path)).count() > 1 {
        return Err(CliError::usage("two inputs are standard input", "name a file for one"));
    }
    files::check_new(&cipher.out, cipher.force)?;
    let key = load_key(cipher.key_file.as_deref().unwrap_or(Path::new("-")))?;
    let mut data = files::read_all(&cipher.file, MESSAGE_BYTES_MAX)?;
    let backend = kernels::backend();
    let done = if cipher.encrypt {
        encrypt(backend, &key, &setting, &mut data)
    } else {
        decrypt(backend, &key, &setting, &mut data)
    };
    done.map_err(|error| {
        let remedy = match error {
            Error::CiphertextRejected => "check key, nonce, associated data and tag size",
            Error::CipherBlocks { .. } if cipher.encrypt => "leave --no-padding out",
            _ => "check the message and its mode",
        };
        CliError::failed(error, files::name(&cipher.file), remedy)
    })?;
    files::write_new(&cipher.out, &data, cipher.force)?;
    report(&cipher.out, data.len(), output);
    Ok(())
}

fn encrypt(
    backend: Backend,
    key: &Sm4Key,
    setting: &Setting,
    data: &mut Vec<u8>,
) -> Result<(), Error> {
    let Setting { nonce, associated, tag_size, .. } = setting;
    if setting.is_padded {
        cipher::pad(data);
    }
    match setting.mode {
        Mode::Ecb => cipher::ecb_encrypt(backend, key, data),
        Mode::Cbc => cipher::cbc_encrypt(backend, key, &setting.block(), data),
        Mode::Ctr => {
            cipher::ctr(backend, key, &setting.block(), data);
            Ok(())
        }
        Mode::Gcm => {
            let tag = cipher::gcm_seal(backend, key, nonce, associated, data)?;
            data.extend_from_slice(&tag[..*tag_size]);
            Ok(())
        }
        Mode::Ccm => {
            let tag = cipher::ccm_seal(backend, key, nonce, associated, data, *tag_size)?;
            data.extend_from_slice(&tag[..*tag_size]);
            Ok(())
        }
    }
}

fn decrypt(
    backend: Backend,
    key: &Sm4Key,
    setting: &Setting,
    data: &mut Vec<u8>,
) -> Result<(), Error> {
    let Setting { nonce, associated, tag_size, .. } = setting;
    let size = data.len();
    match setting.mode {
        Mode::Ecb => cipher::ecb_decrypt(backend, key, data)?,
        Mode::Cbc => cipher::cbc_decrypt(backend, key, &setting.block(), data)?,
        Mode::Ctr => cipher::ctr(backend, key, &setting.block(), data),
        Mode::Gcm | Mode::Ccm => {
            let at = size.checked_sub(*tag_size).ok_or(Error::CiphertextRejected)?;
            let tag = data.split_off(at);
            let open = if setting.mode == Mode::Gcm { cipher::gcm_open } else { cipher::ccm_open };
            open(backend, key, nonce, associated, data, &tag)?;
        }
    }
    if setting.is_padded { cipher::unpad(data) } else { Ok(()) }
}

impl Setting {
    /// The nonce of a mode whose nonces are a block, which [`setting`] has checked.
    fn block(&self) -> [u8; BLOCK_SIZE] {
        assert!(self.nonce.len() == BLOCK_SIZE, "the mode takes nonces of a block");
        let mut block = [0; BLOCK_SIZE];
        block.copy_from_slice(&self.nonce);
        block
    }
}

/// Checks what the mode takes before any file is made.
fn setting(cipher: &Cipher) -> Result<Setting, CliError> {
    let mode = cipher.mode;
    let name = mode.name();
    if cipher.no_padding && !mode.is_padded() {
        return Err(CliError::usage(format!("--no-padding: {name} never pads"), "leave it out"));
    }
    let has_associated = cipher.aad.is_some() || cipher.aad_file.is_some();
    if (has_associated || cipher.tag_size.is_some()) && !mode.is_sealed() {
        let what = format!("--aad, --tag-size: {name} proves nothing");
        return Err(CliError::usage(what, "take gcm or ccm, or leave them out"));
    }
    let tag_size = cipher.tag_size.unwrap_or(16);
    if mode.is_sealed() && !mode.takes_tag(tag_size) {
        let what = format!("--tag-size {tag_size}: {name} has no such tags");
        return Err(CliError::usage(what, "gcm: 12 to 16 bytes; ccm: an even number from 4 to 16"));
    }
    let associated = match (&cipher.aad, &cipher.aad_file) {
        (Some(digits), _) => from_digits("--aad", digits)?,
        (None, Some(path)) => files::read_all(path, SMALL_BYTES_MAX)?,
        (None, None) => Zeroizing::default(),
    };
    let is_padded = mode.is_padded() && !cipher.no_padding;
    Ok(Setting { mode, nonce: nonce(cipher)?, associated, tag_size, is_padded })
}

fn nonce(cipher: &Cipher) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let (least, most, words) = cipher.mode.nonce_sizes();
    let name = cipher.mode.name();
    let nonce = match (&cipher.nonce, &cipher.nonce_file) {
        (Some(digits), _) => from_digits("--nonce", digits)?,
        (None, Some(path)) => {
            let text = files::read_all(path, SMALL_BYTES_MAX)?;
            digits_of(&text, "nonce").map_err(|fault| {
                CliError::failed(fault, files::name(path), "write hexadecimal digits")
            })?
        }
        (None, None) if most > 0 => {
            let what = format!("--nonce: {name} needs one");
            return Err(CliError::usage(what, format!("give {words}, never the same twice")));
        }
        (None, None) => Zeroizing::default(),
    };
    if nonce.len() < least || nonce.len() > most {
        let what = format!("nonce: {} bytes, {name} takes {words}", nonce.len());
        return Err(CliError::usage(what, "write two hexadecimal digits a byte"));
    }
    Ok(nonce)
}

fn from_digits(option: &str, digits: &str) -> Result<Zeroizing<Vec<u8>>, CliError> {
    files::unhex(option, digits)
        .map_err(|fault| CliError::usage(fault, "write two hexadecimal digits a byte"))
}

/// The bytes of a text of hexadecimal digits that may end with a line break.
fn digits_of(text: &[u8], field: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let text = std::str::from_utf8(text).map_err(|_| format!("{field}: not hexadecimal digits"))?;
    files::unhex(field, text.trim())
}

fn load_key(path: &Path) -> Result<Sm4Key, CliError> {
    let text = if files::is_standard(path) {
        files::read_all(path, KEY_TEXT_BYTES_MAX)?
    } else {
        keys_file::read_private(path).map_err(|error| CliError::key(&error, path))?
    };
    let bytes = digits_of(&text, "key").and_then(|bytes| {
        let size = bytes.len();
        let exact: Result<Zeroizing<[u8; 16]>, _> = bytes.as_slice().try_into().map(Zeroizing::new);
        exact.map_err(|_| format!("key: {size} bytes, expected 16 (32 hexadecimal digits)"))
    });
    let bytes = bytes.map_err(|fault| {
        CliError::failed(fault, files::name(path), "name a file with 32 hexadecimal digits")
    })?;
    Ok(Sm4Key::from_bytes(&bytes))
}
