//! The genesis as people write it: `genesis.toml` to [`Genesis`] and back.
//!
//! Nothing in it has a default, because every value is part of the chain id: what two operators
//! leave out they could mean differently. The order of validators and addresses does not matter.

use std::fmt::Write as _;
use std::path::Path;

use hufu_crypto::{Address, PublicKey, is_curve_point};
use hufu_types::genesis::{Genesis, Parameters, Validator, ValidatorSet};
use hufu_types::limits::{
    CERTIFIED_LAG_HEIGHTS_MAX, GENESIS_GRANTEES_COUNT_MAX, GENESIS_TIME_MILLIS_MAX, NAME_SIZE_MAX,
    STATE_BUCKETS_LOG2_MAX, STATE_BUCKETS_LOG2_MIN, VALIDATORS_COUNT_MAX, VOTING_POWER_TOTAL_MAX,
};
use toml::de::DeValue;

use crate::config::{Document, Fault, Faults, Table, as_unsigned, nearest, show};

const ROOT_KEYS: &[&str] =
    &["chain_name", "time_millis", "account_openers", "asset_issuers", "parameters", "validators"];
const PARAMETER_KEYS: &[&str] =
    &["certified_lag_heights", "block_interval_millis", "state_buckets_log2"];
const VALIDATOR_KEYS: &[&str] = &["name", "vote_key", "link_key", "power"];

/// Bytes of a genesis file at most: 128 validators and twice 1,024 addresses with room to spare.
const GENESIS_FILE_SIZE_MAX: u64 = 1_024 * 1_024;

/// Reads a genesis file.
///
/// # Errors
/// Every fault of the file.
pub fn load(path: &Path) -> Result<Genesis, Faults> {
    let unreadable = |cause| Faults::unreadable(path, &cause);
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > GENESIS_FILE_SIZE_MAX {
        let rule = format!("file has {size} bytes, a genesis at most {GENESIS_FILE_SIZE_MAX}");
        let fault = Fault::new("", "", &rule, "name a file made by `hufu genesis new`");
        return Faults::or(path, vec![fault], ()).and_then(|()| parse("", path));
    }
    parse(&std::fs::read_to_string(path).map_err(unreadable)?, path)
}

/// Reads the text of a genesis file; `path` is for messages.
///
/// # Errors
/// Every fault of the text.
pub fn parse(text: &str, path: &Path) -> Result<Genesis, Faults> {
    let (document, faults) = Document::parse(text);
    let syntax_is_good = faults.is_empty();
    let mut walker = Walker { document: &document, faults, syntax_is_good };
    let genesis = walker.genesis();
    let faults = walker.faults;
    match genesis {
        Some(genesis) if faults.is_empty() => Ok(genesis),
        _ if faults.is_empty() => {
            let remedy = "write it as `hufu genesis new` does";
            let fault = Fault::new("", "", "file is no genesis", remedy);
            Err(Faults { file: path.to_owned(), faults: vec![fault] })
        }
        _ => Faults::or(path, faults, ()).and_then(|()| parse("", path)),
    }
}

/// A genesis as a file that reads back to the same one.
#[must_use]
pub fn write(genesis: &Genesis) -> String {
    let mut text = String::new();
    let written = write_to(&mut text, genesis);
    debug_assert!(written.is_ok(), "writing to a string does not fail");
    text
}

fn write_to(text: &mut String, genesis: &Genesis) -> std::fmt::Result {
    writeln!(text, "# Genesis of chain {}", genesis.chain_id())?;
    writeln!(text, "chain_name = \"{}\"", genesis.chain_name)?;
    writeln!(text, "time_millis = {}", genesis.time_millis)?;
    write_addresses(text, "account_openers", &genesis.account_openers)?;
    write_addresses(text, "asset_issuers", &genesis.asset_issuers)?;
    writeln!(text, "\n[parameters]")?;
    let parameters = &genesis.parameters;
    writeln!(text, "certified_lag_heights = {}", parameters.certified_lag_heights)?;
    writeln!(text, "block_interval_millis = {}", parameters.block_interval_millis)?;
    writeln!(text, "state_buckets_log2 = {}", parameters.state_buckets_log2)?;
    for (_, validator) in genesis.validators.iter() {
        writeln!(text, "\n[[validators]]")?;
        writeln!(text, "name = \"{}\"", validator.name)?;
        writeln!(text, "vote_key = \"{}\"", validator.key)?;
        writeln!(text, "link_key = \"{}\"", validator.link_key)?;
        writeln!(text, "power = {}", validator.power)?;
    }
    Ok(())
}

fn write_addresses(text: &mut String, key: &str, addresses: &[Address]) -> std::fmt::Result {
    writeln!(text, "{key} = [")?;
    for address in addresses {
        writeln!(text, "  \"{address}\",")?;
    }
    writeln!(text, "]")
}

/// Walks the document and gathers faults; every method yields `None` after a fault.
struct Walker<'d, 'a> {
    document: &'d Document<'a>,
    faults: Vec<Fault>,
    syntax_is_good: bool,
}

impl<'a> Walker<'_, 'a> {
    fn genesis(&mut self) -> Option<Genesis> {
        let document = self.document;
        let root = document.root();
        self.refuse_unknown(root, "", ROOT_KEYS);
        let chain_name = self.name(root, "", "chain_name");
        let time_millis = self.integer(root, "", "time_millis", 1, GENESIS_TIME_MILLIS_MAX);
        let openers = self.addresses(root, "account_openers");
        let issuers = self.addresses(root, "asset_issuers");
        let parameters = self.parameters(root);
        let validators = self.validators(root);
        let genesis =
            Genesis::new(chain_name?, time_millis?, parameters?, validators?, openers?, issuers?);
        match genesis {
            Ok(genesis) => Some(genesis),
            Err(error) => {
                self.fault("", "", &error.to_string(), "mend the value", None);
                None
            }
        }
    }

    fn parameters(&mut self, root: &Table<'a>) -> Option<Parameters> {
        let entry = self.entry(root, "", "parameters")?;
        let (value, line) = entry;
        let Some(table) = value.as_table() else {
            let remedy = "write `[parameters]` on a line of its own";
            self.fault("parameters", &show(value), "must be a section", remedy, Some(line));
            return None;
        };
        let path = "parameters.";
        self.refuse_unknown(table, path, PARAMETER_KEYS);
        let lag_max = CERTIFIED_LAG_HEIGHTS_MAX.into();
        let lag = self.integer(table, path, "certified_lag_heights", 1, lag_max);
        let interval = self.integer(table, path, "block_interval_millis", 1, 60_000);
        let (min, max) = (STATE_BUCKETS_LOG2_MIN.into(), STATE_BUCKETS_LOG2_MAX.into());
        let buckets = self.integer(table, path, "state_buckets_log2", min, max);
        Some(Parameters {
            certified_lag_heights: u32::try_from(lag?).ok()?,
            block_interval_millis: u32::try_from(interval?).ok()?,
            state_buckets_log2: u8::try_from(buckets?).ok()?,
        })
    }

    fn validators(&mut self, root: &Table<'a>) -> Option<ValidatorSet> {
        let document = self.document;
        let (value, line) = self.entry(root, "", "validators")?;
        let rule = format!("must be 1 to {VALIDATORS_COUNT_MAX} tables [[validators]]");
        let remedy = "write `[[validators]]` above each validator";
        let Some(elements) = document.elements(value) else {
            self.fault("validators", &show(value), &rule, remedy, Some(line));
            return None;
        };
        let elements: Vec<_> = elements.collect();
        let mut validators = Vec::new();
        for (index, element) in elements.iter().enumerate() {
            let path = format!("validators[{index}]");
            match element.value.as_table() {
                Some(table) => validators.push(self.validator(table, &path)),
                None => {
                    self.fault(&path, &show(element.value), &rule, remedy, Some(element.line));
                }
            }
        }
        let validators: Vec<Validator> = validators.into_iter().collect::<Option<_>>()?;
        match ValidatorSet::new(validators) {
            Ok(set) => Some(set),
            Err(error) => {
                let remedy = "name each validator once, 1 to 128 of them, with two keys of its own each and power \
                              that adds up";
                self.fault("validators", "", &error.to_string(), remedy, Some(line));
                None
            }
        }
    }

    fn validator(&mut self, table: &Table<'a>, path: &str) -> Option<Validator> {
        let path = format!("{path}.");
        self.refuse_unknown(table, &path, VALIDATOR_KEYS);
        let name = self.name(table, &path, "name");
        let key = self.public_key(table, &path, "vote_key");
        let link_key = self.public_key(table, &path, "link_key");
        let power = self.integer(table, &path, "power", 1, VOTING_POWER_TOTAL_MAX);
        Some(Validator { name: name?, key: key?, link_key: link_key?, power: power? })
    }

    fn public_key(&mut self, table: &Table<'a>, path: &str, name: &str) -> Option<PublicKey> {
        let (value, line) = self.entry(table, path, name)?;
        let key = value.as_str().and_then(PublicKey::from_hex).filter(is_curve_point);
        if key.is_none() {
            let rule = "must be the 128 hexadecimal digits x || y of a point of the SM2 curve";
            let remedy = "copy what `hufu keys show` prints";
            self.fault(&format!("{path}{name}"), &show(value), rule, remedy, Some(line));
        }
        key
    }

    fn addresses(&mut self, table: &Table<'a>, key: &str) -> Option<Vec<Address>> {
        let document = self.document;
        let (value, line) = self.entry(table, "", key)?;
        let count_max = usize::try_from(GENESIS_GRANTEES_COUNT_MAX).unwrap_or(usize::MAX);
        let elements: Vec<_> = document.elements(value).into_iter().flatten().collect();
        if !(1..=count_max).contains(&elements.len()) {
            let rule = format!("must be an array of 1 to {count_max} addresses");
            self.fault(key, &show(value), &rule, "name at least one address", Some(line));
            return None;
        }
        let mut addresses: Vec<Address> = Vec::with_capacity(elements.len());
        let mut good = true;
        for element in elements {
            let address = element.value.as_str().and_then(Address::from_hex);
            let rule = match address {
                None => "must be 0x and 40 hexadecimal digits",
                Some(address) if addresses.contains(&address) => "is named twice",
                Some(address) => {
                    addresses.push(address);
                    continue;
                }
            };
            good = false;
            let remedy = "copy addresses from `hufu keys show`, each once";
            self.fault(key, &show(element.value), rule, remedy, Some(element.line));
        }
        good.then_some(addresses)
    }

    fn name(&mut self, table: &Table<'a>, path: &str, key: &str) -> Option<String> {
        let (value, line) = self.entry(table, path, key)?;
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let good =
            |name: &&str| (1..=NAME_SIZE_MAX).contains(&name.len()) && name.bytes().all(allowed);
        let name = value.as_str().filter(good);
        if name.is_none() {
            let rule = "must be 1 to 32 characters of a-z, 0-9 and \"-\"";
            self.fault(&format!("{path}{key}"), &show(value), rule, "choose another", Some(line));
        }
        name.map(str::to_owned)
    }

    fn integer(
        &mut self,
        table: &Table<'a>,
        path: &str,
        key: &str,
        min: u64,
        max: u64,
    ) -> Option<u64> {
        let (value, line) = self.entry(table, path, key)?;
        let number = as_unsigned(value)
            .and_then(|number| u64::try_from(number).ok())
            .filter(|number| (min..=max).contains(number));
        if number.is_none() {
            let rule = format!("must be an integer of {min}..={max}");
            let remedy = "choose a value in the range";
            self.fault(&format!("{path}{key}"), &show(value), &rule, remedy, Some(line));
        }
        number
    }

    /// The value of a key that must be there, and its line.
    fn entry<'t>(
        &mut self,
        table: &'t Table<'a>,
        path: &str,
        key: &str,
    ) -> Option<(&'t DeValue<'a>, usize)> {
        let entry = self.document.entry(table, key);
        // Behind a syntax error the key may well be there; its absence proves nothing.
        if entry.is_none() && self.syntax_is_good {
            let rule = "is missing; a genesis has no defaults";
            self.fault(&format!("{path}{key}"), "", rule, &format!("add `{key}`"), None);
        }
        entry.map(|entry| (entry.value, entry.line))
    }

    fn refuse_unknown(&mut self, table: &Table<'a>, path: &str, known: &[&str]) {
        let document = self.document;
        for (key, line) in document.keys(table).filter(|(key, _)| !known.contains(key)) {
            let remedy = match nearest(key, known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("keys here are: {}", known.join(", ")),
            };
            self.fault(&format!("{path}{key}"), "", "is no key", &remedy, Some(line));
        }
    }

    fn fault(&mut self, key: &str, value: &str, rule: &str, remedy: &str, line: Option<usize>) {
        self.faults.push(Fault::new(key, value, rule, remedy).at(line));
    }
}

/// The text of a genesis that has no fault, for tests of what reads one.
#[cfg(test)]
pub(crate) fn example() -> String {
    write(&tests::example())
}

#[cfg(test)]
mod tests {
    use hufu_crypto::{Signer, SoftwareSigner};

    use super::*;

    fn key(seed: u8) -> PublicKey {
        *SoftwareSigner::from_bytes(&[seed; 32]).unwrap().public_key()
    }

    pub(super) fn example() -> Genesis {
        let validator = |seed, power| {
            let name = format!("node-{seed}");
            Validator { name, key: key(seed), link_key: key(seed + 100), power }
        };
        let validators = ValidatorSet::new(vec![validator(1, 1), validator(2, 5)]).unwrap();
        let parameters = Parameters {
            certified_lag_heights: 2,
            block_interval_millis: 50,
            state_buckets_log2: 12,
        };
        let openers = vec![key(3).address(), key(4).address()];
        let issuers = vec![key(4).address()];
        let name = "demo".to_owned();
        Genesis::new(name, 1_700_000_000_000, parameters, validators, openers, issuers).unwrap()
    }

    fn faults(text: &str) -> Vec<Fault> {
        parse(text, Path::new("genesis.toml")).unwrap_err().faults
    }

    #[test]
    fn a_genesis_survives_the_way_through_its_file() {
        let genesis = example();
        let read = parse(&write(&genesis), Path::new("genesis.toml")).unwrap();
        assert_eq!(read, genesis);
        assert_eq!(read.chain_id(), genesis.chain_id());
    }

    #[test]
    fn the_order_of_lists_does_not_matter() {
        let genesis = example();
        let text = write(&genesis);
        let [first, second] = [genesis.account_openers[0], genesis.account_openers[1]];
        let swapped = text
            .replacen(&first.to_string(), "FIRST", 1)
            .replacen(&second.to_string(), &first.to_string(), 1)
            .replacen("FIRST", &second.to_string(), 1);
        assert_ne!(swapped, text);
        assert_eq!(parse(&swapped, Path::new("g")).unwrap().chain_id(), genesis.chain_id());
    }

    #[test]
    fn all_faults_come_at_once() {
        let text = write(&example())
            .replace("chain_name = \"demo\"", "chain_name = \"De mo\"")
            .replace("state_buckets_log2 = 12", "state_buckets_log2 = 40")
            .replace("power = 5", "powr = 5")
            .replace("certified_lag_heights = 2", "certified_lag_heights = -1")
            .replace("time_millis = 1700000000000", "time_millis = 18446744073709551615");
        let faults = faults(&text);
        let keys: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
        let place = if write(&example()).find("power = 1") < write(&example()).find("power = 5") {
            1
        } else {
            0
        };
        let (unknown, missing) =
            (format!("validators[{place}].powr"), format!("validators[{place}].power"));
        for expected in [
            "chain_name",
            "time_millis",
            "parameters.certified_lag_heights",
            "parameters.state_buckets_log2",
            &unknown,
            &missing,
        ] {
            assert!(keys.contains(&expected), "{expected} not in {keys:?}");
        }
        assert_eq!(keys.len(), 6);
        let misspelt = faults.iter().find(|fault| fault.key == unknown).unwrap();
        assert_eq!(misspelt.remedy, "did you mean `power`?");
    }

    #[test]
    fn nothing_has_a_default() {
        let keys: Vec<String> = faults("").into_iter().map(|fault| fault.key).collect();
        assert_eq!(keys, ROOT_KEYS.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>());
    }

    #[test]
    fn keys_off_the_curve_and_repeated_addresses_are_refused() {
        let genesis = example();
        for (seed, name) in [(1, ".vote_key"), (101, ".link_key")] {
            let off = write(&genesis).replace(&key(seed).to_string(), &"11".repeat(64));
            assert!(faults(&off).iter().any(|fault| fault.key.ends_with(name)), "{name}");
        }
        let [first, second] = [genesis.account_openers[0], genesis.account_openers[1]];
        let twice = write(&genesis).replace(&first.to_string(), &second.to_string());
        assert!(faults(&twice).iter().any(|fault| fault.rule == "is named twice"));
        for (taken, from, field) in [(1, 2, "vote key"), (101, 102, "link key"), (101, 2, "key")] {
            let same = write(&genesis).replace(&key(taken).to_string(), &key(from).to_string());
            let found = faults(&same);
            let is_meant = |fault: &Fault| fault.key == "validators" && fault.rule.contains(field);
            assert!(found.iter().any(is_meant), "{found:?}");
        }
        let named = write(&genesis).replace("node-2", "node-1");
        assert!(faults(&named)[0].rule.contains("name is there twice"));
    }
}
