//! The trace of a run: a hash over all events, and on demand a line for each.

use hufu_crypto::{Digest, Sm3};

/// Takes one line.
type Print = Box<dyn FnMut(&str)>;

/// See the module.
pub struct Trace {
    hash: Digest,
    events: u64,
    print: Option<Print>,
}

impl Trace {
    /// A trace that only hashes.
    #[must_use]
    pub fn silent() -> Self {
        Self { hash: Digest::ZERO, events: 0, print: None }
    }

    /// A trace that hands each line to `print`.
    #[must_use]
    pub fn printing(print: impl FnMut(&str) + 'static) -> Self {
        Self { hash: Digest::ZERO, events: 0, print: Some(Box::new(print)) }
    }

    /// Takes note of an event at `now` nanoseconds: `kind` and `parts` are hashed, `text` is made
    /// only for a reader.
    pub(crate) fn event(
        &mut self,
        now: u64,
        node: usize,
        kind: &str,
        parts: &[u8],
        text: impl FnOnce() -> String,
    ) {
        let place = u8::try_from(node).unwrap_or(u8::MAX);
        self.hash =
            Sm3::of(&[self.hash.as_bytes(), &now.to_le_bytes(), &[place], kind.as_bytes(), parts]);
        self.events += 1;
        if let Some(print) = &mut self.print {
            let (millis, nanos) = (now / 1_000_000, now % 1_000_000);
            print(&format!("{millis:>6}.{nanos:06} ms  node {node}  {kind:<14} {}", text()));
        }
    }

    /// The hash over all events so far, and their count.
    #[must_use]
    pub const fn end(&self) -> (Digest, u64) {
        (self.hash, self.events)
    }
}
