//! Walks a parsed `hufu.toml` with the table of keys and gathers every fault on the way.
//!
//! Each `read` method always returns a value. Where the file's is faulty it is an arbitrary one,
//! which nobody sees: a reader that has met a fault yields no configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hufu_runtime::placement::CoreSet;
use hufu_types::limits::NAME_SIZE_MAX;
use toml::de::DeValue;

use super::Cores;
use super::document::{Document, Entry, as_unsigned, nearest, show};
use super::faults::Fault;
use super::table::{KEYS, KeySpec, Kind, find, sections};

/// The text every key's meaning and default come from.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// Reads values by key, from the file where it has them and from the defaults where not.
pub(super) struct Reader<'a> {
    file: Document<'a>,
    defaults: Document<'static>,
    folder: &'a Path,
    faults: Vec<Fault>,
    syntax_is_good: bool,
    read: Vec<&'static KeySpec>,
}

impl<'a> Reader<'a> {
    /// Parses the text and refuses unknown sections and keys.
    pub(super) fn new(text: &'a str, folder: &'a Path) -> Self {
        let (file, faults) = Document::parse(text);
        let (defaults, _) = Document::parse(DEFAULT_TOML);
        let syntax_is_good = faults.is_empty();
        let mut reader = Self { file, defaults, folder, faults, syntax_is_good, read: Vec::new() };
        reader.refuse_unknown();
        reader
    }

    /// All faults met, and the keys that were read.
    pub(super) fn finish(self) -> (Vec<Fault>, Vec<&'static KeySpec>) {
        (self.faults, self.read)
    }

    /// Adds a fault of a relation between keys, at the line of the first if the file has it; not if
    /// one of them is itself at fault, since its value here is then none that anybody wrote.
    pub(super) fn relation(&mut self, keys: &[&str], value: &str, rule: &str, remedy: &str) {
        let Some(path) = keys.first().filter(|_| self.are_good(keys)) else { return };
        let (section, name) = path.split_once('.').unwrap_or((path, ""));
        let line = lookup(&self.file, section, name).map(|entry| entry.line);
        self.faults.push(Fault::new(path, value, rule, remedy).at(line));
    }

    /// Whether the values of these keys are those of the file. Behind a syntax error, in a section
    /// that is none, and where a key of the section is misspelt, a default may stand for what was
    /// meant.
    fn are_good(&self, keys: &[&str]) -> bool {
        let may_mean = |fault: &Fault, key: &str| {
            let section = key.split('.').next().unwrap_or_default();
            let at = fault.key.split('.').next().unwrap_or_default();
            let is_known = find(at, fault.key.get(at.len() + 1..).unwrap_or_default()).is_some();
            fault.key == key || (at == section && !is_known)
        };
        let is_good = |key: &&str| self.faults.iter().all(|fault| !may_mean(fault, key));
        self.syntax_is_good && keys.iter().all(is_good)
    }

    pub(super) fn integer(&mut self, section: &'static str, name: &'static str) -> u64 {
        self.read(section, name, |kind, entry| match kind {
            Kind::Integer { min, max, step } => as_unsigned(entry.value)
                .and_then(|number| u64::try_from(number).ok())
                .filter(|number| (*min..=*max).contains(number) && number.is_multiple_of(*step)),
            _ => None,
        })
        .unwrap_or_default()
    }

    /// An integer whose range fits 32 bits.
    pub(super) fn integer_u32(&mut self, section: &'static str, name: &'static str) -> u32 {
        u32::try_from(self.integer(section, name)).unwrap_or(u32::MAX)
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        section: &'static str,
        name: &'static str,
        words: &'static [(&'static str, T)],
        otherwise: T,
    ) -> T {
        self.read(section, name, |_, entry| {
            let word = entry.value.as_str()?;
            words.iter().find(|(known, _)| *known == word).map(|(_, choice)| *choice)
        })
        .unwrap_or(otherwise)
    }

    pub(super) fn path(&mut self, section: &'static str, name: &'static str) -> PathBuf {
        let folder = self.folder;
        self.read(section, name, |_, entry| {
            let path = entry.value.as_str()?;
            (!path.is_empty() && !path.contains('\0')).then(|| folder.join(path))
        })
        .unwrap_or_default()
    }

    /// The path of a key that may be left out.
    pub(super) fn optional_path(
        &mut self,
        section: &'static str,
        name: &'static str,
    ) -> Option<PathBuf> {
        self.is_stated(section, name).then(|| self.path(section, name))
    }

    /// The name of a systemd credential, of a key that may be left out.
    pub(super) fn optional_credential(
        &mut self,
        section: &'static str,
        name: &'static str,
    ) -> Option<String> {
        let is_stated = self.is_stated(section, name);
        let read = |reader: &mut Self| {
            reader.read(section, name, |_, entry| {
                let is_plain = |name: &&str| !name.is_empty() && !name.starts_with('.');
                let name = entry.value.as_str().filter(is_plain)?;
                (!name.contains(['/', '\0'])).then(|| name.to_owned())
            })
        };
        is_stated.then(|| read(self).unwrap_or_default())
    }

    /// A descriptor, of a key that may be left out.
    pub(super) fn optional_descriptor(
        &mut self,
        section: &'static str,
        name: &'static str,
    ) -> Option<i32> {
        let is_stated = self.is_stated(section, name);
        is_stated.then(|| i32::try_from(self.integer(section, name)).unwrap_or_default())
    }

    /// Whether the file has a key that may be left out.
    fn is_stated(&mut self, section: &'static str, name: &'static str) -> bool {
        let is_stated = lookup(&self.file, section, name).is_some();
        if !is_stated {
            self.read.extend(find(section, name));
        }
        is_stated
    }

    /// A path, or nothing for the word `auto`.
    pub(super) fn path_or_auto(
        &mut self,
        section: &'static str,
        name: &'static str,
    ) -> Option<PathBuf> {
        let path = self.path(section, name);
        (path != self.folder.join("auto")).then_some(path)
    }

    pub(super) fn name(&mut self, section: &'static str, name: &'static str) -> String {
        self.read(section, name, |_, entry| {
            entry.value.as_str().filter(|name| is_name(name)).map(str::to_owned)
        })
        .unwrap_or_default()
    }

    pub(super) fn loopback(&mut self, section: &'static str, name: &'static str) -> SocketAddr {
        self.read(section, name, |kind, entry| {
            let is_known = *kind == Kind::LoopbackKnown;
            read_loopback(entry.value).filter(|address| !is_known || address.port() != 0)
        })
        .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// The addresses of a table that are good; each of the others is a fault of its own.
    pub(super) fn addresses(
        &mut self,
        section: &'static str,
        name: &'static str,
    ) -> BTreeMap<String, SocketAddr> {
        self.read(section, name, |_, entry| entry.value.as_table().map(|_| ()));
        let mut addresses = BTreeMap::new();
        let mut names: BTreeMap<SocketAddr, &str> = BTreeMap::new();
        let table = lookup(&self.file, section, name);
        let Some(table) = table.and_then(|entry| entry.value.as_table()) else {
            return addresses;
        };
        for (peer, line) in self.file.keys(table) {
            let Some(entry) = self.file.entry(table, peer) else { continue };
            let mut fault = |rule: &str, remedy: &str| {
                let path = format!("{section}.{name}.{peer}");
                let fault = Fault::new(&path, &show(entry.value), rule, remedy);
                self.faults.push(fault.at(Some(line)));
            };
            if !is_name(peer) {
                let remedy = "write the name that the genesis gives the validator";
                fault(&format!("is no name: it {}", Kind::Name.rule()), remedy);
            }
            match read_loopback(entry.value).filter(|address| address.port() != 0) {
                None => fault(&Kind::LoopbackKnown.rule(), "write it as \"127.0.0.1:7003\""),
                Some(address) => {
                    if let Some(other) = names.insert(address, peer) {
                        let rule = format!("is also the address of {other}");
                        fault(&rule, "give each validator an address of its own");
                    }
                    addresses.insert(peer.to_owned(), address);
                }
            }
        }
        addresses
    }

    /// Whether the file has this section.
    pub(super) fn has_section(&self, section: &str) -> bool {
        self.file.entry(self.file.root(), section).is_some()
    }

    pub(super) fn cores(&mut self, section: &'static str, name: &'static str) -> Cores {
        self.read(section, name, |_, entry| read_cores(entry.value)).unwrap_or(Cores::Auto)
    }

    fn read<T>(
        &mut self,
        section: &'static str,
        name: &'static str,
        accept: impl Fn(&Kind, Entry<'_, '_>) -> Option<T>,
    ) -> Option<T> {
        let spec = find(section, name)?;
        self.read.push(spec);
        let in_file = lookup(&self.file, section, name);
        let entry = in_file.or_else(|| lookup(&self.defaults, section, name));
        let Some(entry) = entry else {
            // Behind a syntax error the key may well be there; its absence proves nothing.
            if self.syntax_is_good {
                let remedy = format!("add `{name} = …` to section [{section}]");
                self.faults.push(Fault::new(
                    &spec.path(),
                    "",
                    "is missing, it has no default",
                    &remedy,
                ));
            }
            return None;
        };
        let value = accept(&spec.kind, entry);
        if value.is_none() {
            let fault = Fault::new(
                &spec.path(),
                &show(entry.value),
                &spec.kind.rule(),
                &remedy(spec, entry.value, &self.defaults),
            );
            self.faults.push(fault.at(Some(entry.line)));
        }
        value
    }

    fn refuse_unknown(&mut self) {
        let mut faults = Vec::new();
        for (section, line) in self.file.keys(self.file.root()) {
            if sections().all(|known| known != section) {
                faults.push(unknown_section(section).at(Some(line)));
                continue;
            }
            let Some(entry) = self.file.entry(self.file.root(), section) else { continue };
            let Some(table) = entry.value.as_table() else {
                let rule = "is a section, not a value";
                let remedy = format!("write `[{section}]` on a line of its own, its keys below");
                let fault = Fault::new(section, &show(entry.value), rule, &remedy);
                faults.push(fault.at(Some(entry.line)));
                continue;
            };
            for (name, line) in self.file.keys(table) {
                if find(section, name).is_none() {
                    let value = self.file.entry(table, name).map(|entry| show(entry.value));
                    let fault = unknown_key(section, name, &value.unwrap_or_default());
                    faults.push(fault.at(Some(line)));
                }
            }
        }
        self.faults.append(&mut faults);
    }
}

/// The value of a key in its section.
pub(super) fn lookup<'d, 'a>(
    document: &'d Document<'a>,
    section: &str,
    name: &str,
) -> Option<Entry<'d, 'a>> {
    let table = document.entry(document.root(), section)?.value.as_table()?;
    document.entry(table, name)
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=NAME_SIZE_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

fn read_loopback(value: &DeValue<'_>) -> Option<SocketAddr> {
    let address: SocketAddr = value.as_str()?.parse().ok()?;
    address.ip().is_loopback().then_some(address)
}

fn read_cores(value: &DeValue<'_>) -> Option<Cores> {
    if let Some(elements) = value.as_array() {
        let cores = elements.iter().map(|element| {
            as_unsigned(element.get_ref()).filter(|core| *core < 1_024).map(|core| core.to_string())
        });
        let list = cores.collect::<Option<Vec<String>>>()?.join(",");
        return read_core_list(&list);
    }
    match value.as_str()? {
        "auto" => Some(Cores::Auto),
        "none" => Some(Cores::None),
        list => read_core_list(list),
    }
}

fn read_core_list(list: &str) -> Option<Cores> {
    list.parse::<CoreSet>().ok().filter(|cores| !cores.is_any()).map(Cores::List)
}

fn remedy(spec: &KeySpec, found: &DeValue<'_>, defaults: &Document<'_>) -> String {
    if let (Kind::Choice(words), Some(word)) = (&spec.kind, found.as_str())
        && let Some(meant) = nearest(word, words.iter().copied())
    {
        return format!("did you mean \"{meant}\"?");
    }
    match lookup(defaults, spec.section, spec.name) {
        Some(entry) => format!("leave the key out for the default, {}", show(entry.value)),
        None => "see `hufu config schema` for what the key means".to_owned(),
    }
}

fn unknown_section(section: &str) -> Fault {
    let remedy = match nearest(section, sections()) {
        Some(meant) => format!("did you mean [{meant}]?"),
        None => {
            let all: Vec<&str> = sections().collect();
            format!("sections are: {}", all.join(", "))
        }
    };
    Fault::new(section, "", "is no section", &remedy)
}

fn unknown_key(section: &str, name: &str, value: &str) -> Fault {
    let siblings = KEYS.iter().filter(|spec| spec.section == section).map(|spec| spec.name);
    let elsewhere = KEYS.iter().find(|spec| spec.name == name);
    let remedy = match (elsewhere, nearest(name, siblings.clone())) {
        (Some(spec), _) => format!("it belongs to section [{}]", spec.section),
        (None, Some(meant)) => format!("did you mean `{meant}`?"),
        (None, None) => {
            let all: Vec<&str> = siblings.collect();
            format!("keys of [{section}] are: {}", all.join(", "))
        }
    };
    Fault::new(&format!("{section}.{name}"), value, "is no key", &remedy)
}
