//! What commands print: results on standard output, errors on standard error, in text or JSON.
//!
//! A reader that goes away (`hufu … | head`) ends the printing and nothing else: the command
//! goes on to the exit code it has earned. Only a stream without end (`hufu events`) ends with it.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

/// Where and how a command prints.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// Prints JSON if `json`, else text.
    #[must_use]
    pub const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether results are printed as JSON.
    #[must_use]
    pub const fn is_json(self) -> bool {
        self.json
    }

    /// Prints one result: the JSON value as one line, or the text.
    pub fn result(self, value: &Value, text: impl Display) {
        if self.json {
            self.print(value);
        } else {
            self.print(text);
        }
    }

    /// Prints a line as it is, in both modes.
    pub fn print(self, line: impl Display) {
        // A reader that is gone wants no more lines.
        drop(self.stream(line));
    }

    /// Prints a line of a stream without end, which its reader ends by going away.
    ///
    /// # Errors
    /// When nobody reads any more, or the lines cannot be written.
    pub fn stream(self, line: impl Display) -> std::io::Result<()> {
        // One write for a line, however long: whoever stops this process, while it prints piece by
        // piece, would leave a part of the line behind.
        let line = format!("{line}\n");
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush())
    }

    /// Whether anybody is left to read the stream.
    #[must_use]
    pub fn has_reader(self) -> bool {
        // Where the host does not tell, the next line will.
        hufu_runtime::process::has_reader(&std::io::stdout()).unwrap_or(true)
    }

    /// Prints a line for people on standard error; nothing in JSON mode.
    pub fn note(self, line: impl Display) {
        if !self.json {
            drop(writeln!(std::io::stderr().lock(), "{line}"));
        }
    }

    /// Prints an error on standard error.
    pub fn error(self, value: &Value, text: impl Display) {
        let mut stderr = std::io::stderr().lock();
        let written =
            if self.json { writeln!(stderr, "{value}") } else { writeln!(stderr, "{text}") };
        drop(written);
    }

    /// A progress bar over `length` steps on standard error; invisible unless that is a terminal.
    #[must_use]
    pub fn bar(self, length: u64, what: &'static str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(length), self.target());
        let style =
            ProgressStyle::with_template("{msg:24} {bar:32} {pos}/{len} ({per_sec}, {eta} left)");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what);
        bar
    }

    /// A sign of life for work of unknown length.
    #[must_use]
    pub fn spinner(self, what: &'static str) -> ProgressBar {
        let spinner = ProgressBar::with_draw_target(None, self.target());
        spinner.set_message(what);
        if !spinner.is_hidden() {
            spinner.enable_steady_tick(Duration::from_millis(120));
        }
        spinner
    }

    fn target(self) -> ProgressDrawTarget {
        if self.json || !std::io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        }
    }
}
