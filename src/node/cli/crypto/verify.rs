//! `hufu crypto sm2-verify`: many signatures from JSON lines, or one over a file.
//!
//! ```text
//! line --parse--> key, e, signature | what is wrong with it
//!     --batches, on all cores--> verdicts --in order--> {"line":n,"valid":...,"error":...}
//! ```
//!
//! A line that is faulty gets its error and spoils nothing else. Memory is bounded whatever is
//! streamed: a batch, a line of [`LINE_BYTES_MAX`], and tables of keys that come again and again.
//! An answer never waits for lines that have not come: the batch ends where the input pauses.

mod line;

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use hufu_crypto::{
    Digest, Provider, PublicKey, Signature, Verdict, VerifyItem, der, identity_digest,
};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::json;

use self::line::{Entry, parse};
use super::super::CliError;
use super::files;
use super::keys::{IdentityArguments, digest_of_file, load_public_key};
use crate::kernels;
use crate::output::Output;

/// Bytes of a line at most: a message of eight mebibytes.
const LINE_BYTES_MAX: usize = (16 << 20) + 1_024;

/// Bytes read from the input at once.
const READ_BYTES: usize = 1 << 20;

/// Bytes of answers written at once, whole lines all of them. So many go into a pipe together or
/// not at all (`PIPE_BUF`), so that whoever stops this process, with Ctrl-C or for good, leaves no
/// part of a line behind.
const WRITE_BYTES: usize = 4_096;

/// Lines verified together at most.
const BATCH_COUNT: usize = 4_096;

/// Keys whose tables are kept, count: about 30 MB, taken when a second batch comes.
const KNOWN_KEYS_MAX: u32 = 1_024;

/// Rounds of tables made between two batches at most, so that they never take longer than what they
/// save.
const TABLE_ROUNDS_MAX: usize = 16;

/// Signatures one core takes at a time.
const PART_COUNT: usize = 256;

/// Bytes of a signature file at most.
const SIGNATURE_BYTES_MAX: u64 = 1_024;

#[derive(Debug, Args)]
#[command(
    after_help = "A line is {\"px\",\"py\",\"e\",\"r\",\"s\"}, each 32 bytes in hexadecimal digits, or \
    {\"px\",\"py\",\"id\",\"msg\",\"r\",\"s\"} with the message itself and the signer's identity (default \
    1234567812345678, here in hexadecimal digits too); \"sig\" with the DER form of GM/T 0009 stands for \
    \"r\" and \"s\". The answers are JSON lines in the same order: {\"line\":n,\"valid\":true|false,\
    \"error\":...}, where \"error\" says what keeps a line from being judged. Exit code 1 if any line is \
    invalid or faulty."
)]
pub(in crate::cli) struct Verify {
    /// JSON lines with signatures; `-` reads standard input.
    #[arg(long, value_name = "FILE", required_unless_present = "public_key")]
    jsonl: Option<PathBuf>,
    /// The signer's public key (PEM), to verify one signature over FILE.
    #[arg(long, value_name = "PEM", conflicts_with = "jsonl", requires_all = ["signature", "file"])]
    public_key: Option<PathBuf>,
    /// The signature: a file with its DER form, as `sm2-sign --out` makes it.
    #[arg(long, value_name = "FILE", requires = "public_key")]
    signature: Option<PathBuf>,
    #[command(flatten)]
    identity: IdentityArguments,
    /// The file that was signed; `-` reads standard input.
    #[arg(requires = "public_key")]
    file: Option<PathBuf>,
}

pub(super) fn run(verify: &Verify, output: Output) -> Result<(), CliError> {
    if let Some(path) = &verify.jsonl {
        if verify.identity.are_given() {
            let remedy = "give each line its \"id\", in hexadecimal digits";
            return Err(CliError::usage("--jsonl has an identity in every line", remedy));
        }
        return verify_lines(path, output);
    }
    let (Some(key), Some(signature), Some(file)) =
        (&verify.public_key, &verify.signature, &verify.file)
    else {
        return Err(CliError::usage("nothing to verify", "name --jsonl, or --public-key"));
    };
    verify_file(key, signature, &verify.identity, file, output)
}

fn verify_file(
    key: &Path,
    signature: &Path,
    identity: &IdentityArguments,
    file: &Path,
    output: Output,
) -> Result<(), CliError> {
    let key = load_public_key(key)?;
    let bytes = files::read_all(signature, SIGNATURE_BYTES_MAX)?;
    let signature = der::read_signature(&bytes).map_err(|fault| {
        let what = format!("not a signature: {fault}");
        CliError::file(what, signature, "name a file that `hufu crypto sm2-sign --out` made")
    })?;
    let digest = digest_of_file(&identity_digest(&identity.bytes()?, &key), file)?;
    let item = VerifyItem { key: &key, digest, signature: &signature };
    let is_valid = kernels::provider().verifier.verify(item) == Verdict::Valid;
    let value = json!({ "file": files::name(file), "e": digest.to_string(), "valid": is_valid });
    output.result(&value, if is_valid { "valid" } else { "NOT VALID" });
    if is_valid { Ok(()) } else { Err(CliError::Reported) }
}

fn verify_lines(path: &Path, output: Output) -> Result<(), CliError> {
    let input = BufReader::with_capacity(READ_BYTES, files::open(path)?);
    let mut lines = Lines { input, line: Vec::new() };
    let entries = Vec::with_capacity(BATCH_COUNT);
    let mut batch = Batch { provider: kernels::provider(), entries, judged: 0 };
    // Standard output alone would write line by line.
    let out = BufWriter::with_capacity(WRITE_BYTES, io::stdout().lock());
    let mut answers = Answers { out: Some(out), line: Vec::new(), tally: Tally::default() };
    let failed =
        |cause: io::Error| CliError::failed(cause, "standard output", "check where it leads");
    loop {
        let read = lines.next().map_err(|cause| files::unreadable(&cause, path))?;
        let is_last = matches!(read, Step::End);
        match read {
            Step::End => {}
            Step::Line => batch.entries.push(parse(&lines.line)),
            Step::TooLong => {
                batch.entries.push(Err(format!("line has more than {LINE_BYTES_MAX} bytes")));
            }
        }
        if is_last || batch.entries.len() == BATCH_COUNT || !lines.has_whole_line() {
            batch.judge(&mut answers).map_err(failed)?;
        }
        if is_last {
            return answers.tally.report(output);
        }
    }
}

/// What came off the input.
enum Step {
    Line,
    TooLong,
    End,
}

/// Lines of bounded length.
struct Lines<R> {
    input: BufReader<R>,
    line: Vec<u8>,
}

impl<R: Read> Lines<R> {
    /// Reads the next line to `self.line`, without its end; the rest of one that is too long is
    /// passed over.
    fn next(&mut self) -> io::Result<Step> {
        self.line.clear();
        let mut is_too_long = false;
        let mut is_empty = true;
        loop {
            let bytes = self.input.fill_buf()?;
            if bytes.is_empty() {
                break;
            }
            is_empty = false;
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let part = &bytes[..end.unwrap_or(bytes.len())];
            is_too_long |= self.line.len() + part.len() > LINE_BYTES_MAX;
            if !is_too_long {
                self.line.extend_from_slice(part);
            }
            let taken = part.len() + usize::from(end.is_some());
            self.input.consume(taken);
            if end.is_some() {
                break;
            }
        }
        Ok(match (is_empty, is_too_long) {
            (true, _) => Step::End,
            (false, true) => Step::TooLong,
            (false, false) => Step::Line,
        })
    }

    /// Whether another line is there without waiting for the input.
    fn has_whole_line(&self) -> bool {
        self.input.buffer().contains(&b'\n')
    }
}

/// Lines waiting for their verdicts.
struct Batch {
    provider: Provider,
    entries: Vec<Entry>,
    /// Batches before this one.
    judged: u64,
}

/// What is verified of a line.
pub(super) struct Signed {
    key: PublicKey,
    digest: Digest,
    signature: Signature,
}

impl Batch {
    /// Verifies all that can be, in parts on all cores, and answers every line in order.
    fn judge(&mut self, answers: &mut Answers<impl Write>) -> io::Result<()> {
        let good = self.entries.iter().filter_map(|entry| entry.as_ref().ok());
        let items: Vec<VerifyItem<'_>> = good
            .map(|Signed { key, digest, signature }| VerifyItem { key, digest: *digest, signature })
            .collect();
        let mut verdicts = vec![Verdict::SignatureInvalid; items.len()];
        if self.judged == 1 {
            self.provider = kernels::provider_knowing(KNOWN_KEYS_MAX);
        }
        let parts = items.par_chunks(PART_COUNT).zip(verdicts.par_chunks_mut(PART_COUNT));
        parts.for_each(|(items, verdicts)| self.provider.verifier.verify_many(items, verdicts));
        let good = items.iter().zip(&verdicts).filter(|(_, verdict)| **verdict == Verdict::Valid);
        self.provider.known_keys.meet(good.map(|(item, _)| item.key));
        let mut verdicts = verdicts.into_iter();
        for entry in &self.entries {
            match entry {
                Err(fault) => answers.give(false, Some(fault))?,
                Ok(_) => match verdicts.next().unwrap_or(Verdict::SignatureInvalid) {
                    Verdict::Valid => answers.give(true, None)?,
                    Verdict::SignatureInvalid => answers.give(false, None)?,
                    Verdict::KeyInvalid => {
                        answers.give(false, Some("px, py: not a point of the curve"))?;
                    }
                },
            }
        }
        self.entries.clear();
        self.judged += 1;
        answers.flush()?;
        for _ in 0..TABLE_ROUNDS_MAX {
            if self.provider.known_keys.make(&*self.provider.hasher) == 0 {
                break;
            }
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    line: u64,
    valid: bool,
    error: Option<&'a str>,
}

/// Answers on their way out, counted.
struct Answers<W> {
    /// `None` when nobody reads any more: the exit code is still earned.
    out: Option<W>,
    /// The answer on its way, whole: a part of it must not be all that a buffer has room for.
    line: Vec<u8>,
    tally: Tally,
}

impl<W: Write> Answers<W> {
    fn give(&mut self, valid: bool, error: Option<&str>) -> io::Result<()> {
        self.tally.lines += 1;
        match (valid, error) {
            (true, _) => self.tally.valid += 1,
            (false, None) => self.tally.invalid += 1,
            (false, Some(_)) => self.tally.faulty += 1,
        }
        self.line.clear();
        serde_json::to_writer(&mut self.line, &Answer { line: self.tally.lines, valid, error })?;
        self.line.push(b'\n');
        self.write(W::write_all)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write(|out, _| out.flush())
    }

    fn write(&mut self, write: impl FnOnce(&mut W, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let Some(out) = &mut self.out else { return Ok(()) };
        match write(out, &self.line) {
            Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => {
                self.out = None;
                Ok(())
            }
            written => written,
        }
    }
}

#[derive(Default)]
struct Tally {
    lines: u64,
    valid: u64,
    invalid: u64,
    faulty: u64,
}

impl Tally {
    fn report(&self, output: Output) -> Result<(), CliError> {
        let Self { lines, valid, invalid, faulty } = self;
        output.note(format!("{lines} lines: {valid} valid, {invalid} invalid, {faulty} faulty"));
        if valid == lines { Ok(()) } else { Err(CliError::Reported) }
    }
}
