//! `hufu receipt verify`: proves receipts from the genesis alone, without any node.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use clap::{Args, Subcommand, ValueEnum};
use hufu_crypto::{Provider, Sm3};
use hufu_load::ReceiptReader;
use hufu_load::receipts::ReceiptFileError;
use hufu_types::certificate::{CertificateError, CommitCertificate};
use hufu_types::proof::{ProofError, ReceiptProof};
use hufu_types::{Digest, Genesis, Strength, TxId};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::CliError;
use crate::genesis_file;
use crate::kernels;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Verify receipts with their proofs, offline: certificates, paths, and that all belongs
    /// together.
    #[command(after_help = "A RECEIPT file holds one receipt with proof, or any number of them, \
        each behind its length as four little-endian bytes. Exit code 1 if any does not verify.")]
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The chain's genesis: the only thing that is trusted.
    #[arg(long)]
    genesis: PathBuf,
    /// The least that every receipt must prove.
    #[arg(long, value_enum, default_value = "committed")]
    strength: StrengthArgument,
    /// Fail unless the receipts are of exactly this many different transactions.
    #[arg(long)]
    distinct: Option<u64>,
    /// Print a verdict for each receipt, also for those of files with many.
    #[arg(long)]
    all: bool,
    /// Files of receipts.
    #[arg(required = true)]
    receipts: Vec<PathBuf>,
}

/// How much a receipt must prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum StrengthArgument {
    /// The transaction is in the block.
    Committed,
    /// Its result is proven too.
    Certified,
}

impl From<StrengthArgument> for Strength {
    fn from(argument: StrengthArgument) -> Self {
        match argument {
            StrengthArgument::Committed => Self::Committed,
            StrengthArgument::Certified => Self::Certified,
        }
    }
}

/// Receipts read before they are verified together.
const CHUNK_COUNT: usize = 4_096;
/// Certificates remembered as good at most; forgetting them costs time only.
const CERTIFICATES_COUNT_MAX: usize = 1 << 20;
/// Failures that are listed in JSON; all are counted.
const FAILURES_LISTED_MAX: usize = 100;

pub(super) fn run(verb: &Verb, output: Output) -> Result<(), CliError> {
    let Verb::Verify(verify) = verb;
    let genesis = genesis_file::load(&verify.genesis)?;
    let judge = Judge {
        genesis: &genesis,
        provider: kernels::provider(),
        least: verify.strength.into(),
        certificates: Mutex::new(HashSet::new()),
    };
    let mut tally = Tally::default();
    let spinner = output.spinner("verifying receipts");
    for path in &verify.receipts {
        let each = verify.all && !output.is_json();
        verify_file(path, &judge, &mut tally, &mut |line| {
            if each || tally_worthy(&line) {
                output.note(&line.text);
            }
        })?;
    }
    spinner.finish_and_clear();
    tally.report(verify.distinct, output)
}

/// Whether a verdict is printed although not all were asked for.
const fn tally_worthy(line: &Line) -> bool {
    line.is_failure || line.is_single
}

/// A verdict as it is printed.
struct Line {
    text: String,
    is_failure: bool,
    is_single: bool,
}

/// Verifies receipts and remembers which certificates are good.
struct Judge<'a> {
    genesis: &'a Genesis,
    provider: Provider,
    least: Strength,
    certificates: Mutex<HashSet<Digest>>,
}

impl Judge<'_> {
    fn verify(&self, bytes: &[u8]) -> Result<(ReceiptProof, Strength), String> {
        let proof = ReceiptProof::parse(bytes).map_err(|error| error.to_string())?;
        let strength = self.prove(&proof).map_err(|error| error.to_string())?;
        if strength < self.least {
            return Err("proves only that the transaction was committed".to_owned());
        }
        Ok((proof, strength))
    }

    fn prove(&self, proof: &ReceiptProof) -> Result<Strength, ProofError> {
        proof.verify_with(self.genesis, &mut |certificate| self.check(certificate))
    }

    fn check(&self, certificate: &CommitCertificate) -> Result<(), CertificateError> {
        let mut bytes = Vec::with_capacity(256);
        certificate.write(&mut bytes);
        let digest = Sm3::of(&[&bytes]);
        let lock = || self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        if lock().contains(&digest) {
            return Ok(());
        }
        let verifier = &*self.provider.verifier;
        certificate.verify(self.genesis.chain_id(), &self.genesis.validators, verifier)?;
        let mut good = lock();
        if good.len() >= CERTIFICATES_COUNT_MAX {
            good.clear();
        }
        good.insert(digest);
        Ok(())
    }
}

#[derive(Default)]
struct Tally {
    committed: u64,
    certified: u64,
    failed: u64,
    distinct: HashSet<TxId>,
    failures: Vec<Value>,
}

impl Tally {
    fn report(self, wanted: Option<u64>, output: Output) -> Result<(), CliError> {
        let distinct = u64::try_from(self.distinct.len()).unwrap_or(u64::MAX);
        let miscounted = wanted.is_some_and(|wanted| wanted != distinct);
        let value = json!({
            "verified": self.committed + self.certified,
            "committed": self.committed,
            "certified": self.certified,
            "failed": self.failed,
            "distinct_transactions": distinct,
            "distinct_wanted": wanted,
            "failures": self.failures,
        });
        let text = format!(
            "{} receipts verified ({} committed, {} certified) of {distinct} transactions, {} failed",
            self.committed + self.certified,
            self.committed,
            self.certified,
            self.failed,
        );
        output.result(&value, text);
        if let Some(wanted) = wanted.filter(|_| miscounted) {
            output.note(format!("receipts of {wanted} different transactions were wanted"));
        }
        if self.failed > 0 || miscounted { Err(CliError::Reported) } else { Ok(()) }
    }

    fn add(
        &mut self,
        place: &str,
        is_single: bool,
        verdict: Result<(ReceiptProof, Strength), String>,
    ) -> Line {
        match verdict {
            Ok((proof, strength)) => {
                let word = match strength {
                    Strength::Committed => {
                        self.committed += 1;
                        "committed"
                    }
                    Strength::Certified => {
                        self.certified += 1;
                        "certified"
                    }
                };
                let (id, height) = (proof.receipt.id, proof.receipt.height.get());
                self.distinct.insert(id);
                let text = format!("{place}: {word}, transaction {id} at height {height}");
                Line { text, is_failure: false, is_single }
            }
            Err(reason) => {
                self.failed += 1;
                if self.failures.len() < FAILURES_LISTED_MAX {
                    self.failures.push(json!({ "receipt": place, "reason": reason }));
                }
                let text = format!("{place}: NOT PROVEN: {reason}");
                Line { text, is_failure: true, is_single }
            }
        }
    }
}

fn verify_file(
    path: &Path,
    judge: &Judge<'_>,
    tally: &mut Tally,
    show: &mut dyn FnMut(Line),
) -> Result<(), CliError> {
    let remedy = "name a file of receipts with proof";
    let unreadable = |error: ReceiptFileError| CliError::file(error, path, remedy);
    let mut reader = ReceiptReader::open(path).map_err(unreadable)?;
    let is_single = reader.is_single();
    let mut count: u64 = 0;
    loop {
        let chunk = reader.by_ref().take(CHUNK_COUNT).collect::<Result<Vec<_>, _>>();
        let chunk = chunk.map_err(unreadable)?;
        if chunk.is_empty() {
            break;
        }
        let verdicts: Vec<_> = chunk.par_iter().map(|bytes| judge.verify(bytes)).collect();
        for verdict in verdicts {
            count += 1;
            let whole = path.display();
            let place = if is_single { whole.to_string() } else { format!("{whole}#{count}") };
            show(tally.add(&place, is_single, verdict));
        }
    }
    if count == 0 { Err(CliError::file("there is no receipt in it", path, remedy)) } else { Ok(()) }
}
