//! What is wrong with a file an operator wrote: every fault at once, each with its remedy.

use std::fmt;
use std::path::{Path, PathBuf};

/// One fault: where it is, what was found, which rule it breaks and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key, with its section: `mempool.bytes_max`. Empty when the fault is the file's as a
    /// whole.
    pub key: String,
    /// The value found, as written; empty when there is none.
    pub value: String,
    /// The rule it breaks.
    pub rule: String,
    /// What to do about it.
    pub remedy: String,
    /// Line of the file, from 1, when the fault lies in a line.
    pub line: Option<usize>,
}

impl Fault {
    /// A fault that lies in no particular line.
    #[must_use]
    pub fn new(key: &str, value: &str, rule: &str, remedy: &str) -> Self {
        let [key, value, rule, remedy] = [key, value, rule, remedy].map(str::to_owned);
        Self { key, value, rule, remedy, line: None }
    }

    /// The same fault, at a line.
    #[must_use]
    pub fn at(mut self, line: Option<usize>) -> Self {
        self.line = line;
        self
    }

    /// The fault as a JSON object.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "key": self.key,
            "value": self.value,
            "rule": self.rule,
            "remedy": self.remedy,
            "line": self.line,
        })
    }
}

impl Fault {
    /// Where it is, what was found and which rule it breaks.
    #[must_use]
    pub fn place_and_rule(&self) -> String {
        let line = self.line.map_or_else(String::new, |line| format!("line {line}: "));
        let what = match (self.key.as_str(), self.value.as_str()) {
            ("", "") => String::new(),
            (key, "") => format!("{key}: "),
            ("", value) => format!("{value}: "),
            (key, value) => format!("{key} = {value}: "),
        };
        format!("{line}{what}{}", self.rule)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}; {}", self.place_and_rule(), self.remedy)
    }
}

/// All faults of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// The file.
    pub file: PathBuf,
    /// At least one, in the order of the file where they have a line.
    pub faults: Vec<Fault>,
}

impl Faults {
    /// `good` if there is no fault, else all of them in the order of their lines.
    ///
    /// # Errors
    /// The faults, if there is one.
    pub fn or<T>(file: &Path, mut faults: Vec<Fault>, good: T) -> Result<T, Self> {
        if faults.is_empty() {
            return Ok(good);
        }
        faults.sort_by_key(|fault| fault.line.unwrap_or(usize::MAX));
        Err(Self { file: file.to_owned(), faults })
    }

    /// The one fault of a file that could not be read at all.
    #[must_use]
    pub fn unreadable(file: &Path, cause: &std::io::Error) -> Self {
        let remedy = "check that the path is right and that this user may read the file";
        let fault = Fault::new("", "", &format!("file cannot be read: {cause}"), remedy);
        Self { file: file.to_owned(), faults: vec![fault] }
    }

    /// The faults as a JSON object.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let faults: Vec<serde_json::Value> = self.faults.iter().map(Fault::to_json).collect();
        serde_json::json!({ "file": self.file.display().to_string(), "faults": faults })
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.faults.len();
        let plural = if count == 1 { "fault" } else { "faults" };
        write!(formatter, "{}: {count} {plural}", self.file.display())?;
        self.faults.iter().try_for_each(|fault| write!(formatter, "\n  {fault}"))
    }
}

impl std::error::Error for Faults {}
