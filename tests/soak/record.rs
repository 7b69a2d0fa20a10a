//! What was compared and what was found: counts that live on in a file from run to run, and a
//! disagreement with all of its input.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Comparisons by name; a name is `what/with whom`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// Counts more comparisons.
    pub fn add(&mut self, name: &str, count: usize) {
        *self.0.entry(name.to_owned()).or_default() += count as u64;
    }

    /// All comparisons with `whom`.
    #[must_use]
    pub fn sum(&self, whom: &str) -> u64 {
        let with = |name: &str| name.rsplit_once('/').is_some_and(|(_, other)| other == whom);
        self.0.iter().filter(|(name, _)| with(name)).map(|(_, count)| count).sum()
    }

    /// Comparisons under one name.
    #[must_use]
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in &self.0 {
            writeln!(formatter, "{count:>14} {name}")?;
        }
        Ok(())
    }
}

/// Two that should agree do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// Who says what.
    pub what: String,
    /// The input, every part in hexadecimal digits.
    pub input: Vec<(&'static str, String)>,
}

impl Disagreement {
    /// A disagreement over this input.
    #[must_use]
    pub fn new(what: String, input: &[(&'static str, &[u8])]) -> Self {
        let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { what, input: input.iter().map(|(name, part)| (*name, digits(part))).collect() }
    }
}

impl fmt::Display for Disagreement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}", self.what)?;
        for (name, part) in &self.input {
            writeln!(formatter, "  {name} {part}")?;
        }
        Ok(())
    }
}

/// Where a soak stands: the next round and the counts so far, kept in a file.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    /// The round that comes next.
    pub round: u64,
    /// Comparisons of all runs.
    pub counts: Counts,
}

impl Record {
    /// Reads the file, or begins anew where there is none.
    ///
    /// # Errors
    /// Those of reading, and a line that is none of ours.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut record = Self { path: path.to_owned(), round: 0, counts: Counts::default() };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(record),
            Err(error) => return Err(error),
        };
        for line in text.lines() {
            let entry = line.trim().split_once(' ');
            let entry = entry.and_then(|(count, name)| Some((count.parse().ok()?, name)));
            let (count, name): (u64, &str) =
                entry.ok_or_else(|| io::Error::other(format!("not a count and a name: {line}")))?;
            match name {
                "round" => record.round = count,
                name => drop(record.counts.0.insert(name.to_owned(), count)),
            }
        }
        Ok(record)
    }

    /// Writes the file anew; a run that is killed meanwhile leaves the old one.
    ///
    /// # Errors
    /// Those of writing.
    pub fn save(&self) -> io::Result<()> {
        let next = self.path.with_extension("next");
        fs::write(&next, format!("{:>14} round\n{}", self.round, self.counts))?;
        fs::rename(next, &self.path)
    }

    /// Writes a disagreement beside the counts, and gives the file's name.
    ///
    /// # Errors
    /// Those of writing.
    pub fn report(&self, found: &Disagreement) -> io::Result<PathBuf> {
        let path = self.path.with_extension(format!("disagreement-{}", self.round));
        fs::write(&path, format!("round {}\n{found}", self.round))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_live_on_in_the_file() {
        let folder = std::env::temp_dir().join(format!("hufu-soak-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("state");
        let mut record = Record::open(&path).unwrap();
        record.counts.add("sm3/portable", 5);
        record.counts.add("sm2 verify/portable", 7);
        record.counts.add("sm3/openssl", 1);
        record.round = 9;
        record.save().unwrap();
        let mut again = Record::open(&path).unwrap();
        assert_eq!((again.round, again.counts.sum("portable")), (9, 12));
        again.counts.add("sm3/portable", 1);
        assert_eq!(again.counts.of("sm3/portable"), 6);
        let found = Disagreement::new("yes and no".to_owned(), &[("key", &[1, 0xfe])]);
        let text = fs::read_to_string(again.report(&found).unwrap()).unwrap();
        assert!(text.starts_with("round 9\nyes and no\n  key 01fe"), "{text}");
        fs::write(&path, "many rounds\n").unwrap();
        assert!(Record::open(&path).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
