//! A parsed TOML text that remembers the line of every value.
//!
//! Parsing goes on behind a syntax error as far as the parser can, so that an operator sees the
//! faults of the whole file and not only the first.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::faults::Fault;

/// A TOML text with its values.
pub(crate) struct Document<'a> {
    text: &'a str,
    root: Spanned<DeTable<'a>>,
}

/// A table of a document.
pub(crate) type Table<'a> = DeTable<'a>;

/// One value and the line it begins at.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'d, 'a> {
    /// The value.
    pub value: &'d DeValue<'a>,
    /// Its line, from 1.
    pub line: usize,
}

impl<'a> Document<'a> {
    /// Parses a text; what does not parse comes back as faults beside what does.
    pub(crate) fn parse(text: &'a str) -> (Self, Vec<Fault>) {
        let (root, errors) = DeTable::parse_recoverable(text);
        let document = Self { text, root };
        let mut faults: Vec<Fault> = Vec::new();
        for error in &errors {
            let line = error.span().map(|span| document.line(span.start));
            // What follows the first error of a line follows from it.
            if line.is_some() && faults.last().is_some_and(|last| last.line == line) {
                continue;
            }
            let rule = format!("not valid TOML: {}", error.message());
            let remedy = "mend the line, each is `key = value` or `[section]`";
            faults.push(Fault::new("", "", &rule, remedy).at(line));
        }
        (document, faults)
    }

    /// The outermost table.
    pub(crate) fn root(&self) -> &DeTable<'a> {
        self.root.get_ref()
    }

    /// The value of a key of a table of this document.
    pub(crate) fn entry<'d>(&self, table: &'d Table<'a>, name: &str) -> Option<Entry<'d, 'a>> {
        let value = table.get(name)?;
        // The parser puts an empty value where it went on behind a syntax error; nobody wrote it.
        if value.span().is_empty() && !value.get_ref().is_table() {
            return None;
        }
        Some(Entry { value: value.get_ref(), line: self.line(value.span().start) })
    }

    /// All keys of a table of this document, with the line of each key.
    pub(crate) fn keys<'d>(
        &self,
        table: &'d Table<'a>,
    ) -> impl Iterator<Item = (&'d str, usize)> + use<'_, 'd, 'a> {
        table.keys().map(|key| (key.get_ref().as_ref(), self.line(key.span().start)))
    }

    /// The elements of an array of this document.
    pub(crate) fn elements<'d>(
        &self,
        value: &'d DeValue<'a>,
    ) -> Option<impl Iterator<Item = Entry<'d, 'a>> + use<'_, 'd, 'a>> {
        let elements = value.as_array()?.iter();
        Some(elements.map(|element| Entry {
            value: element.get_ref(),
            line: self.line(element.span().start),
        }))
    }

    fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().iter().take(offset);
        before.filter(|&&byte| byte == b'\n').count() + 1
    }
}

/// A value as an operator would recognise it in a message.
pub(crate) fn show(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{}\"", text.escape_debug()),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(elements) => {
            let shown: Vec<String> = elements.iter().map(|one| show(one.get_ref())).collect();
            format!("[{}]", shown.join(", "))
        }
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// An integer that is not negative and fits 128 bits.
pub(crate) fn as_unsigned(value: &DeValue<'_>) -> Option<u128> {
    let number = value.as_integer()?;
    let digits = number.as_str().replace('_', "");
    u128::from_str_radix(digits.trim_start_matches('+'), number.radix()).ok()
}

/// The candidate nearest to `found` by edit distance, if one is near enough to be what was meant.
pub(crate) fn nearest<'c>(
    found: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let ranked = candidates.into_iter().map(|candidate| (distance(found, candidate), candidate));
    let (distance, candidate) = ranked.min()?;
    let near_enough = found.chars().count().max(candidate.chars().count()) / 3 + 1;
    (distance <= near_enough).then_some(candidate)
}

/// Levenshtein distance: the least number of insertions, removals and replacements of characters.
fn distance(first: &str, second: &str) -> usize {
    let second: Vec<char> = second.chars().collect();
    let mut row: Vec<usize> = (0..=second.len()).collect();
    for (index, from) in first.chars().enumerate() {
        let mut diagonal = index;
        let mut left = index + 1;
        let mut next = vec![left];
        for (to, &above) in second.iter().zip(row.iter().skip(1)) {
            let replaced = diagonal + usize::from(from != *to);
            left = replaced.min(above + 1).min(left + 1);
            next.push(left);
            diagonal = above;
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        let cases = [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3)];
        for (first, second, expected) in cases {
            assert_eq!(distance(first, second), expected, "{first} {second}");
            assert_eq!(distance(second, first), expected, "{second} {first}");
        }
    }

    #[test]
    fn suggestions_are_near_or_none() {
        assert_eq!(nearest("byte_max", ["bytes_max", "depth"]), Some("bytes_max"));
        assert_eq!(nearest("zzzzzzzz", ["bytes_max", "depth"]), None);
    }

    #[test]
    fn lines_count_from_one_and_survive_errors() {
        let (document, faults) = Document::parse("a = 1\nb = = 2\n[c]\nd = 0x10\n");
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].line, Some(2));
        let root = document.root();
        assert_eq!(document.entry(root, "a").unwrap().line, 1);
        let section = document.entry(root, "c").unwrap();
        let entry = document.entry(section.value.as_table().unwrap(), "d").unwrap();
        assert_eq!((entry.line, as_unsigned(entry.value)), (4, Some(16)));
    }
}
