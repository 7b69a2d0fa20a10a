//! `hufu crypto ...`: the kernels at the command line.
//!
//! ```text
//! files, standard input --> sm2-* | sm3 | sm4 --> files of mode 0600, standard output
//! selftest, bench: every back end of this CPU, or the one HUFU_KERNELS names
//! ```
//!
//! Keys come from files that only their owner may read, never from the command line, which every
//! user of the machine can see. Nothing is overwritten without `--force`.

mod bench;
mod files;
mod keys;

pub(super) use keys::load_public_key;
mod selftest;
mod sm3;
mod sm4;
mod verify;

use clap::Subcommand;

use super::CliError;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Verify SM2 signatures: many from JSON lines, or one of a file.
    Sm2Verify(verify::Verify),
    /// Make an SM2 key in a new file of mode 0600 (PKCS#8 PEM), and its public key in another.
    Sm2Keygen(keys::Keygen),
    /// Sign a file with SM2; the signature is DER (GM/T 0009).
    Sm2Sign(keys::Sign),
    /// Encrypt a key or a short text to an SM2 public key (C1 || C3 || C2).
    Sm2Encrypt(keys::Encrypt),
    /// Decrypt what was encrypted to an SM2 key.
    Sm2Decrypt(keys::Decrypt),
    /// Print or check SM3 digests, as sha256sum does.
    Sm3(sm3::Sums),
    /// Encrypt or decrypt with SM4.
    Sm4(sm4::Cipher),
    /// Test every algorithm against known answers, on every back end this CPU has.
    #[command(
        after_help = "HUFU_KERNELS names the only back end to test. A node runs the same test \
        before it is ready and does not start when it fails. Exit code 1 on a wrong answer."
    )]
    Selftest,
    /// Measure this machine: SM2, SM3 and SM4 on every back end this CPU has, one core.
    Bench(bench::Bench),
}

pub(super) fn run(verb: Verb, output: Output) -> Result<(), CliError> {
    match verb {
        Verb::Sm2Verify(verify) => verify::run(&verify, output),
        Verb::Sm2Keygen(keygen) => keys::keygen(&keygen, output),
        Verb::Sm2Sign(sign) => keys::sign(&sign, output),
        Verb::Sm2Encrypt(encrypt) => keys::encrypt(&encrypt, output),
        Verb::Sm2Decrypt(decrypt) => keys::decrypt(&decrypt, output),
        Verb::Sm3(sums) => sm3::run(&sums, output),
        Verb::Sm4(cipher) => sm4::run(&cipher, output),
        Verb::Selftest => selftest::run(output),
        Verb::Bench(bench) => bench::run(&bench, output),
    }
}
