//! Log lines: a fixed message and fields, one line each, on standard error.
//!
//! ERROR says someone must act, WARN says look; what happens per item is a counter, not a line.
//! Fields are chosen by the caller: no secret is ever one (keys and PINs have no `Display`).
//! Control plane only: a line costs a system call.

use std::fmt::{self, Display, Write as _};
use std::io::Write as _;
use std::sync::OnceLock;

use hufu_runtime::clock::{self, UnixNanos};

/// How important a line is, the most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Someone must act.
    Error,
    /// Someone should look.
    Warn,
    /// What the node does, once per start, stop or change.
    Info,
    /// For engineers.
    Debug,
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `time LEVEL message key=value …`
    Text,
    /// One JSON object.
    Json,
}

/// The words for levels in configurations.
pub const LEVELS: &[(&str, Level)] = &[
    ("error", Level::Error),
    ("warn", Level::Warn),
    ("info", Level::Info),
    ("debug", Level::Debug),
];

/// The words for formats in configurations.
pub const FORMATS: &[(&str, Format)] = &[("text", Format::Text), ("json", Format::Json)];

/// One field of a line; fields of different types in one line are `&dyn Display`.
pub type Field<T> = (&'static str, T);

static SETTINGS: OnceLock<(Level, Format)> = OnceLock::new();

/// Sets level and format for the life of the process; only the first call counts.
pub fn init(level: Level, format: Format) {
    SETTINGS.get_or_init(|| (level, format));
}

/// Writes an ERROR line.
pub fn error<T: Display>(message: &'static str, fields: &[Field<T>]) {
    line(Level::Error, message, fields);
}

/// Writes a WARN line.
pub fn warn<T: Display>(message: &'static str, fields: &[Field<T>]) {
    line(Level::Warn, message, fields);
}

/// Writes an INFO line.
pub fn info<T: Display>(message: &'static str, fields: &[Field<T>]) {
    line(Level::Info, message, fields);
}

/// Writes a DEBUG line.
pub fn debug<T: Display>(message: &'static str, fields: &[Field<T>]) {
    line(Level::Debug, message, fields);
}

fn line<T: Display>(level: Level, message: &'static str, fields: &[Field<T>]) {
    let (least, format) = *SETTINGS.get().unwrap_or(&(Level::Info, Format::Text));
    if level > least {
        return;
    }
    let mut text = match format {
        Format::Text => text_line(clock::wall(), level, message, fields),
        Format::Json => json_line(clock::wall(), level, message, fields),
    };
    text.push('\n');
    // Nobody is left to tell when standard error is gone.
    drop(std::io::stderr().lock().write_all(text.as_bytes()));
}

fn text_line<T: Display>(
    now: UnixNanos,
    level: Level,
    message: &str,
    fields: &[Field<T>],
) -> String {
    let mut line = format!("{} {:5} {message}", Timestamp(now), level.word());
    for (key, value) in fields {
        let value = value.to_string();
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'=';
        let written = if !value.is_empty() && value.bytes().all(plain) {
            write!(line, " {key}={value}")
        } else {
            write!(line, " {key}=\"{}\"", value.escape_debug())
        };
        debug_assert!(written.is_ok(), "writing to a string does not fail");
    }
    line
}

fn json_line<T: Display>(
    now: UnixNanos,
    level: Level,
    message: &str,
    fields: &[Field<T>],
) -> String {
    let mut object = serde_json::Map::new();
    object.insert("time".to_owned(), Timestamp(now).to_string().into());
    object.insert("level".to_owned(), level.word().into());
    object.insert("message".to_owned(), message.into());
    for (key, value) in fields {
        object.insert((*key).to_owned(), value.to_string().into());
    }
    serde_json::Value::from(object).to_string()
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warn => "WARN",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
        }
    }
}

/// A reading of the wall clock as RFC 3339 with milliseconds, in UTC.
pub struct Timestamp(pub UnixNanos);

impl Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (days, of_day) = (millis / 86_400_000, millis % 86_400_000);
        let (year, month, day) = civil_date(days);
        let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
        let (second, millis) = (of_day / 1_000 % 60, of_day % 1_000);
        write!(
            formatter,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
        )
    }
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar.
///
/// The year is counted from 1 March, so that the leap day is its last and every block of 400 years
/// (146,097 days) is alike; 719,468 days lie between 0000-03-01 and 1970-01-01.
const fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> UnixNanos {
        UnixNanos::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn timestamps_are_civil_dates() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(Timestamp(at(seconds)).to_string(), expected);
        }
    }

    #[test]
    fn text_quotes_what_would_break_the_line() {
        let fields: [Field<&dyn Display>; 3] =
            [("path", &"/a b"), ("height", &7), ("forged", &"x\ny=\"z\"")];
        let line = text_line(at(0), Level::Warn, "log opened", &fields);
        let fields = r#"path="/a b" height=7 forged="x\ny=\"z\"""#;
        assert_eq!(line, format!("1970-01-01T00:00:00.000Z WARN  log opened {fields}"));
    }

    #[test]
    fn json_is_one_object() {
        let line = json_line(at(0), Level::Info, "ready", &[("address", &"127.0.0.1:1")]);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["message"], "ready");
        assert_eq!(object["address"], "127.0.0.1:1");
        assert!(!line.contains('\n'));
    }
}
