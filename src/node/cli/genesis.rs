//! `hufu genesis new|show`.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hufu_runtime::clock;
use hufu_types::codec::DecodeError;
use hufu_types::genesis::{Genesis, Parameters, Validator, ValidatorSet};
use hufu_types::{Address, PublicKey};
use serde_json::{Value, json};

use super::CliError;
use crate::genesis_file;
use crate::host_check::ahead_of_clock;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Write a new genesis file; prints the chain id.
    New(New),
    /// Check a genesis file and show it with its chain id.
    Show {
        /// The genesis file.
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct New {
    /// The file to make.
    #[arg(long)]
    out: PathBuf,
    /// Name of the chain, for people; part of the chain id.
    #[arg(long)]
    chain_name: String,
    /// A validator as NAME:VOTE_KEY:LINK_KEY:POWER, the keys as `hufu keys show` prints them; once
    /// for each.
    #[arg(long = "validator", required = true, value_parser = parse_validator)]
    validators: Vec<Validator>,
    /// An address that may open accounts; once for each.
    #[arg(long = "opener", required = true, value_parser = parse_address)]
    openers: Vec<Address>,
    /// An address that may create assets; once for each.
    #[arg(long = "issuer", required = true, value_parser = parse_address)]
    issuers: Vec<Address>,
    /// Time of the genesis in Unix milliseconds, not in the future; the first block's is greater.
    /// Now, if left out.
    #[arg(long)]
    time_millis: Option<u64>,
    /// Heights between a block and the header that certifies its results.
    #[arg(long, default_value_t = 1)]
    certified_lag_heights: u32,
    /// Least milliseconds between the times of two blocks.
    #[arg(long, default_value_t = 50)]
    block_interval_millis: u32,
    /// Logarithm of the number of buckets of the state root.
    #[arg(long, default_value_t = 16)]
    state_buckets_log2: u8,
}

pub(super) fn run(verb: Verb, output: Output) -> Result<(), CliError> {
    match verb {
        Verb::New(new) => {
            let file = new.out.clone();
            let genesis = new.build().map_err(|error| {
                CliError::usage(error, "see `hufu genesis new --help` for what is allowed")
            })?;
            if let Some(seconds) = ahead_of_clock(genesis.time_millis) {
                let what = format!("the time is {seconds} s ahead of this host's clock");
                let remedy = "leave --time-millis out, or give a time that is past: no node could \
                              start on this genesis before";
                return Err(CliError::usage(what, remedy));
            }
            write_new(&file, &genesis_file::write(&genesis))?;
            // What was written must be what was meant: it is the identity of a chain.
            let read = genesis_file::load(&file)?;
            print(&read, &file, output);
            Ok(())
        }
        Verb::Show { file } => {
            print(&genesis_file::load(&file)?, &file, output);
            Ok(())
        }
    }
}

impl New {
    fn build(self) -> Result<Genesis, DecodeError> {
        let parameters = Parameters {
            certified_lag_heights: self.certified_lag_heights,
            block_interval_millis: self.block_interval_millis,
            state_buckets_log2: self.state_buckets_log2,
        };
        let time_millis = self.time_millis.unwrap_or_else(|| clock::wall().as_millis());
        let validators = ValidatorSet::new(self.validators)?;
        let (openers, issuers) = (self.openers, self.issuers);
        Genesis::new(self.chain_name, time_millis, parameters, validators, openers, issuers)
    }
}

fn write_new(file: &Path, text: &str) -> Result<(), CliError> {
    let made = std::fs::File::create_new(file)
        .and_then(|mut made| made.write_all(text.as_bytes()).and_then(|()| made.sync_all()));
    let remedy = "choose a name that is not taken, in a folder this user may write";
    made.map_err(|cause| CliError::file(cause, file, remedy))
}

fn print(genesis: &Genesis, file: &Path, output: Output) {
    let validators = genesis.validators.iter().map(|(address, validator)| {
        json!({
            "name": validator.name,
            "address": address.to_string(),
            "vote_key": validator.key.to_string(),
            "link_key": validator.link_key.to_string(),
            "power": validator.power,
        })
    });
    let texts = |addresses: &[Address]| -> Value {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().into()
    };
    let value = json!({
        "file": file.display().to_string(),
        "chain_id": genesis.chain_id().to_string(),
        "chain_name": genesis.chain_name,
        "time_millis": genesis.time_millis,
        "parameters": {
            "certified_lag_heights": genesis.parameters.certified_lag_heights,
            "block_interval_millis": genesis.parameters.block_interval_millis,
            "state_buckets_log2": genesis.parameters.state_buckets_log2,
        },
        "validators": validators.collect::<Vec<Value>>(),
        "account_openers": texts(&genesis.account_openers),
        "asset_issuers": texts(&genesis.asset_issuers),
    });
    let text = genesis_file::write(genesis);
    output.result(&value, format!("chain_id = \"{}\"\n{}", genesis.chain_id(), text.trim_end()));
}

fn parse_validator(text: &str) -> Result<Validator, String> {
    let mut parts = text.split(':');
    let (Some(name), Some(vote), Some(link), Some(power), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("a validator is NAME:VOTE_KEY:LINK_KEY:POWER".to_owned());
    };
    let key = |text| PublicKey::from_hex(text).ok_or("a public key is 128 hexadecimal digits");
    let (key, link_key) = (key(vote)?, key(link)?);
    let power = power.parse().map_err(|_| "power is a whole number")?;
    Ok(Validator { name: name.to_owned(), key, link_key, power })
}

pub(super) fn parse_address(text: &str) -> Result<Address, String> {
    Address::from_hex(text).ok_or_else(|| "an address is 0x and 40 hexadecimal digits".to_owned())
}
