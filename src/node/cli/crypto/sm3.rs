//! `hufu crypto sm3`: digests of files as sha256sum prints and checks them.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use hufu_crypto::{Digest, Sm3};
use serde_json::json;

use super::super::CliError;
use super::files;
use super::keys::hash_stream;
use crate::output::Output;

/// Bytes of a line of a list at most: a digest and the longest path Linux takes.
const LINE_BYTES_MAX: u64 = 16 * 1_024;

#[derive(Debug, Args)]
#[command(
    after_help = "Without FILE, or where FILE is `-`, standard input is read. Exit code 1 if a file \
    cannot be read or does not have its digest."
)]
pub(in crate::cli) struct Sums {
    /// Check the digests that these files list instead of printing any.
    #[arg(short, long)]
    check: bool,
    /// With --check: print nothing for files that are as listed.
    #[arg(short, long, requires = "check")]
    quiet: bool,
    /// Files to digest, or with --check lists of digests.
    files: Vec<PathBuf>,
}

pub(super) fn run(sums: &Sums, output: Output) -> Result<(), CliError> {
    let standard = [PathBuf::from("-")];
    let paths = if sums.files.is_empty() { &standard[..] } else { &sums.files };
    let mut is_good = true;
    for path in paths {
        is_good &= if sums.check { check(path, sums.quiet, output)? } else { print(path, output) };
    }
    if is_good { Ok(()) } else { Err(CliError::Reported) }
}

fn digest_of(path: &Path) -> Result<Digest, CliError> {
    hash_stream(&mut *files::open(path)?, Sm3::new())
        .map_err(|cause| files::unreadable(&cause, path))
}

/// Prints the digest of one file; an error is printed and the next file is taken.
fn print(path: &Path, output: Output) -> bool {
    match digest_of(path) {
        Ok(digest) => {
            let name = path.display().to_string();
            let (mark, escaped) = escape(&name);
            let value = json!({ "file": name, "sm3": digest.to_string() });
            output.result(&value, format!("{mark}{digest}  {escaped}"));
            true
        }
        Err(error) => {
            output.error(&error.to_json(), &error);
            false
        }
    }
}

/// A name that fits a line, and the mark in front of a line whose name was changed for that, as
/// sha256sum has it.
fn escape(name: &str) -> (&'static str, String) {
    if !name.contains(['\\', '\n', '\r']) {
        return ("", name.to_owned());
    }
    ("\\", name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r"))
}

/// Undoes [`escape`].
fn unescape(name: &str) -> Option<String> {
    let mut plain = String::with_capacity(name.len());
    let mut letters = name.chars();
    while let Some(letter) = letters.next() {
        plain.push(match letter {
            '\\' => match letters.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            letter => letter,
        });
    }
    Some(plain)
}

/// A digest and the name of its file, as a list has them.
fn parse(line: &str) -> Option<(Digest, String)> {
    let (is_escaped, line) =
        line.strip_prefix('\\').map_or((false, line), |without| (true, without));
    let (digits, rest) = line.split_at_checked(64)?;
    let name = rest.strip_prefix("  ").or_else(|| rest.strip_prefix(" *"))?;
    if name.is_empty() || digits.starts_with("0x") {
        return None;
    }
    let name = if is_escaped { unescape(name)? } else { name.to_owned() };
    Some((Digest::from_hex(digits)?, name))
}

/// Checks all files of a list; true if every one is there and as listed.
fn check(list: &Path, quiet: bool, output: Output) -> Result<bool, CliError> {
    let mut lines = BufReader::new(files::open(list)?);
    let (mut number, mut checked, mut failed, mut malformed) = (0_u64, 0_u64, 0_u64, 0_u64);
    loop {
        let mut line = Vec::new();
        let read = (&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if read.map_err(|cause| files::unreadable(&cause, list))? == 0 {
            break;
        }
        number += 1;
        let text = String::from_utf8(line).ok();
        let text = text.as_deref().map(|text| text.trim_end_matches(['\n', '\r']));
        match text.and_then(parse) {
            Some((wanted, name)) => {
                checked += 1;
                failed += u64::from(!check_one(&wanted, &name, quiet, output));
            }
            None => {
                malformed += 1;
                let place = files::name(list);
                output.note(format!("{place}: line {number}: no digest and file name"));
            }
        }
    }
    if checked == 0 {
        let remedy = "name a list that `hufu crypto sm3` has printed";
        return Err(CliError::failed(
            "no line is a digest and a file name",
            files::name(list),
            remedy,
        ));
    }
    if failed + malformed > 0 {
        output.note(format!(
            "{checked} checked: {failed} did not match; {malformed} lines are not of a list"
        ));
    }
    Ok(failed + malformed == 0)
}

fn check_one(wanted: &Digest, name: &str, quiet: bool, output: Output) -> bool {
    let (_, shown) = escape(name);
    let (is_good, text, error) = match digest_of(Path::new(name)) {
        Ok(found) if found == *wanted => (true, format!("{shown}: OK"), None),
        Ok(_) => (false, format!("{shown}: FAILED"), None),
        Err(error) => {
            let error = error.to_string().replace("error: ", "");
            let what = error.lines().next().unwrap_or_default().to_owned();
            (false, format!("{shown}: FAILED open or read"), Some(what))
        }
    };
    if !(is_good && quiet) {
        output.result(&json!({ "file": name, "ok": is_good, "error": error }), text);
    }
    is_good
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0";

    #[test]
    fn names_of_every_kind_go_round() {
        for name in ["abc", "a b", " a", "-", "a\nb", "a\\b", "\\n", "a\r", "*x"] {
            let (mark, escaped) = escape(name);
            let line = format!("{mark}{DIGITS}  {escaped}");
            assert!(!line.contains(['\n', '\r']), "{line:?}");
            let (digest, read) = parse(&line).unwrap();
            assert_eq!((digest.to_string().as_str(), read.as_str()), (DIGITS, name));
        }
        assert!(parse(&format!("{DIGITS} *binary")).is_some_and(|(_, name)| name == "binary"));
    }

    #[test]
    fn other_lines_are_no_list() {
        let upper = DIGITS.to_uppercase();
        assert!(parse(&format!("{upper}  abc")).is_some());
        for line in [
            "",
            "abc",
            DIGITS,
            &format!("{DIGITS}  "),
            &format!("{DIGITS} abc"),
            &format!("{DIGITS}\tabc"),
            &format!("0x{}  abc", &DIGITS[2..]),
            &format!("{}  abc", &DIGITS[1..]),
            &format!("g{}  abc", &DIGITS[1..]),
            &format!("\\{DIGITS}  a\\b"),
            &"é".repeat(32),
        ] {
            assert!(parse(line).is_none(), "{line:?}");
        }
    }
}
