//! Strict streaming reader of LOBSTER message files, plain or gzip.
//!
//! ```text
//! file -> [gzip] -> line, at most LINE_SIZE_MAX bytes -> Event -> workload
//! ```
//!
//! A line has six columns: time in seconds after midnight, event type, order id, size in shares,
//! price in dollars x 10,000, direction. Every fault names its line and column, both counted from
//! 1. Nothing is guessed or skipped.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

/// Bytes of one line, its newline not counted. Real lines have some 45.
pub const LINE_SIZE_MAX: usize = 200;

/// Columns of one line.
pub const COLUMNS_COUNT: usize = 6;

/// Shares of one event: far above any real order, and far from overflow when multiplied by a price.
pub const SIZE_SHARES_MAX: u64 = 1_000_000_000;

/// Price in dollars x 10,000: a hundred million dollars a share.
pub const PRICE_MAX: u64 = 1_000_000_000_000;

/// Seconds of one day, one leap second included.
const DAY_SECONDS_MAX: u64 = 86_400;

/// Digits of a time's fraction. The format promises nanoseconds; real files hold a few stray
/// picoseconds.
const FRACTION_DIGITS_MAX: usize = 12;

/// Picoseconds in one second.
pub const SECOND_PICOS: u64 = 1_000_000_000_000;

/// What happened in the order book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// 1: a new limit order.
    Submission,
    /// 2: part of an order is cancelled.
    CancellationPartial,
    /// 3: an order is deleted.
    Deletion,
    /// 4: a visible order is executed.
    ExecutionVisible,
    /// 5: a hidden order is executed.
    ExecutionHidden,
    /// 6: a cross trade, such as an auction's.
    CrossTrade,
    /// 7: trading halts, quoting resumes or trading resumes.
    Halt,
}

impl EventKind {
    /// The kind's number in the file.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Submission => 1,
            Self::CancellationPartial => 2,
            Self::Deletion => 3,
            Self::ExecutionVisible => 4,
            Self::ExecutionHidden => 5,
            Self::CrossTrade => 6,
            Self::Halt => 7,
        }
    }

    const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Submission,
            2 => Self::CancellationPartial,
            3 => Self::Deletion,
            4 => Self::ExecutionVisible,
            5 => Self::ExecutionHidden,
            6 => Self::CrossTrade,
            7 => Self::Halt,
            _ => return None,
        })
    }

    /// Whether the event is a trade that is to be settled.
    #[must_use]
    pub const fn is_execution(self) -> bool {
        matches!(self, Self::ExecutionVisible | Self::ExecutionHidden)
    }

    /// The kind in a word or two, for memos.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Submission => "new order",
            Self::CancellationPartial => "partial cancel",
            Self::Deletion => "delete",
            Self::ExecutionVisible => "execution",
            Self::ExecutionHidden => "hidden execution",
            Self::CrossTrade => "cross trade",
            Self::Halt => "halt",
        }
    }
}

/// Side of the order an event speaks of; of an execution, the side that rested in the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// 1: a buy limit order.
    Buy,
    /// -1: a sell limit order.
    Sell,
}

/// What a halt message says; the file writes it in the price column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HaltState {
    /// -1: trading halts.
    Halted,
    /// 0: quoting resumes.
    Quoting,
    /// 1: trading resumes.
    Trading,
}

/// One line of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Picoseconds after midnight.
    pub time_picos: u64,
    /// What happened.
    pub kind: EventKind,
    /// The order; 0 when hidden or when there is none.
    pub order: u64,
    /// Shares; 0 for a halt only.
    pub size: u64,
    /// Dollars x 10,000; 0 for a halt.
    pub price: u64,
    /// Side of the order.
    pub direction: Direction,
    /// Of a halt only.
    pub halt: Option<HaltState>,
}

/// The canonical line: the shortest fraction of a second, no newline. It is what a notarisation
/// puts on record.
impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, picos) = (self.time_picos / SECOND_PICOS, self.time_picos % SECOND_PICOS);
        write!(formatter, "{seconds}")?;
        if picos > 0 {
            let (mut fraction, mut width) = (picos, FRACTION_DIGITS_MAX);
            while fraction.is_multiple_of(10) {
                fraction /= 10;
                width -= 1;
            }
            write!(formatter, ".{fraction:0width$}")?;
        }
        write!(formatter, ",{},{},{},", self.kind.number(), self.order, self.size)?;
        match self.halt {
            None => write!(formatter, "{}", self.price)?,
            Some(HaltState::Halted) => formatter.write_str("-1")?,
            Some(HaltState::Quoting) => formatter.write_str("0")?,
            Some(HaltState::Trading) => formatter.write_str("1")?,
        }
        formatter.write_str(match self.direction {
            Direction::Buy => ",1",
            Direction::Sell => ",-1",
        })
    }
}

/// A column, as errors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// 1: seconds after midnight.
    Time,
    /// 2: event type.
    Kind,
    /// 3: order id.
    Order,
    /// 4: shares.
    Size,
    /// 5: dollars x 10,000.
    Price,
    /// 6: side.
    Direction,
}

impl fmt::Display for Column {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Time => "1 (time)",
            Self::Kind => "2 (event type)",
            Self::Order => "3 (order id)",
            Self::Size => "4 (size)",
            Self::Price => "5 (price)",
            Self::Direction => "6 (direction)",
        })
    }
}

/// Why a file is not read. The host's faults carry the cause; all others are the file's and final.
#[derive(Debug, thiserror::Error)]
pub enum LobsterError {
    /// The file cannot be opened.
    #[error("cannot open {}: {cause}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// The bytes end or break in the middle, as in a damaged gzip file.
    #[error("line {line}: cannot read: {cause}")]
    Read {
        /// The line being read.
        line: u64,
        /// What the operating system or the decompressor said.
        cause: io::Error,
    },
    /// A line is longer than any message.
    #[error("line {line}: longer than {LINE_SIZE_MAX} bytes")]
    LineTooLong {
        /// Which line.
        line: u64,
    },
    /// A line has too few or too many columns.
    #[error("line {line}: {found} columns, expected {COLUMNS_COUNT}")]
    ColumnsCount {
        /// Which line.
        line: u64,
        /// How many it has.
        found: usize,
    },
    /// A value is not what its column allows.
    #[error("line {line}, column {column}: \"{found}\" is not {expected}")]
    Value {
        /// Which line.
        line: u64,
        /// Which column.
        column: Column,
        /// What it holds, shortened.
        found: String,
        /// What is allowed there.
        expected: &'static str,
    },
    /// Events must be in the order of time.
    #[error("line {line}, column {column}: earlier than the line before", column = Column::Time)]
    TimeBackwards {
        /// Which line.
        line: u64,
    },
    /// There is not a single event.
    #[error("the file holds no event")]
    Empty,
}

/// Iterates over the events of one file; the first error ends it.
pub struct LobsterReader {
    source: Box<dyn BufRead + Send>,
    line: Vec<u8>,
    lines_count: u64,
    time_last: u64,
    ended: bool,
}

impl fmt::Debug for LobsterReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LobsterReader")
            .field("lines_count", &self.lines_count)
            .finish_non_exhaustive()
    }
}

impl LobsterReader {
    /// Opens a file; gzip is known by its first two bytes, whatever the name says.
    ///
    /// # Errors
    /// [`LobsterError::Open`], or [`LobsterError::Read`] when not even the first bytes come.
    pub fn open(path: &Path) -> Result<Self, LobsterError> {
        let file = File::open(path)
            .map_err(|cause| LobsterError::Open { path: path.to_owned(), cause })?;
        Self::new(file)
    }

    /// Reads from any source of bytes.
    ///
    /// # Errors
    /// [`LobsterError::Read`] when not even the first bytes come.
    pub fn new(source: impl Read + Send + 'static) -> Result<Self, LobsterError> {
        let mut plain = BufReader::with_capacity(1 << 16, source);
        let start = plain.fill_buf().map_err(|cause| LobsterError::Read { line: 1, cause })?;
        let source: Box<dyn BufRead + Send> = if start.starts_with(&[0x1f, 0x8b]) {
            Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(plain)))
        } else {
            Box::new(plain)
        };
        let line = Vec::with_capacity(LINE_SIZE_MAX + 1);
        Ok(Self { source, line, lines_count: 0, time_last: 0, ended: false })
    }

    /// Reads one line into the buffer; false at the end of the file.
    fn read_line(&mut self) -> Result<bool, LobsterError> {
        self.line.clear();
        let line = self.lines_count + 1;
        let bound = u64::try_from(LINE_SIZE_MAX + 1).unwrap_or(u64::MAX);
        let read = self.source.by_ref().take(bound).read_until(b'\n', &mut self.line);
        if read.map_err(|cause| LobsterError::Read { line, cause })? == 0 {
            return Ok(false);
        }
        self.lines_count = line;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        } else if self.line.len() > LINE_SIZE_MAX {
            return Err(LobsterError::LineTooLong { line });
        }
        Ok(true)
    }

    fn read_event(&mut self) -> Result<Option<Event>, LobsterError> {
        if !self.read_line()? {
            return Ok(None);
        }
        let event = parse_line(&self.line, self.lines_count)?;
        if event.time_picos < self.time_last {
            return Err(LobsterError::TimeBackwards { line: self.lines_count });
        }
        self.time_last = event.time_picos;
        Ok(Some(event))
    }
}

impl Iterator for LobsterReader {
    type Item = Result<Event, LobsterError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let event = self.read_event().transpose();
        self.ended = !matches!(event, Some(Ok(_)));
        event
    }
}

/// All events of a file.
///
/// # Errors
/// The first fault, or [`LobsterError::Empty`].
pub fn read_all(path: &Path) -> Result<Vec<Event>, LobsterError> {
    let events = LobsterReader::open(path)?.collect::<Result<Vec<_>, _>>()?;
    if events.is_empty() { Err(LobsterError::Empty) } else { Ok(events) }
}

/// Reads one line without its newline; `line` is its number, for errors.
///
/// # Errors
/// The first column at fault.
pub fn parse_line(text: &[u8], line: u64) -> Result<Event, LobsterError> {
    let mut columns = [&text[..0]; COLUMNS_COUNT];
    let mut found = 0;
    for column in text.split(|&byte| byte == b',') {
        if let Some(place) = columns.get_mut(found) {
            *place = column;
        }
        found += 1;
    }
    if found != COLUMNS_COUNT {
        return Err(LobsterError::ColumnsCount { line, found });
    }
    parse_columns(columns).map_err(|(column, found, expected)| LobsterError::Value {
        line,
        column,
        found: String::from_utf8_lossy(found.get(..32).unwrap_or(found)).into_owned(),
        expected,
    })
}

type Fault<'a> = (Column, &'a [u8], &'static str);

fn parse_columns(columns: [&[u8]; COLUMNS_COUNT]) -> Result<Event, Fault<'_>> {
    let [time, kind, order, size, price, direction] = columns;
    let fault = |column, found, expected| move || (column, found, expected);
    let time_picos =
        parse_time(time).ok_or_else(fault(Column::Time, time, "seconds of a day, 0..=86400"))?;
    let kind_fault = fault(Column::Kind, kind, "an event type, 1..=7");
    let kind = parse_u64(kind).and_then(EventKind::from_number).ok_or_else(kind_fault)?;
    // Cross trades and halts belong to no order: files write -1 or 0.
    let order_none = matches!(kind, EventKind::CrossTrade | EventKind::Halt) && order == b"-1";
    let order_parsed = if order_none { Some(0) } else { parse_u64(order) };
    let order = order_parsed.ok_or_else(fault(Column::Order, order, "an order id"))?;
    let (size, price, halt) = if kind == EventKind::Halt {
        let zero = parse_u64(size).filter(|&size| size == 0);
        let size = zero.ok_or_else(fault(Column::Size, size, "0, as a halt has no size"))?;
        let halt = match price {
            b"-1" => HaltState::Halted,
            b"0" => HaltState::Quoting,
            b"1" => HaltState::Trading,
            _ => return Err((Column::Price, price, "-1, 0 or 1, as in a halt")),
        };
        (size, 0, Some(halt))
    } else {
        let size_fault = fault(Column::Size, size, "a number of shares, 1..=1000000000");
        let size = parse_u64(size).filter(|size| (1..=SIZE_SHARES_MAX).contains(size));
        let size = size.ok_or_else(size_fault)?;
        let price_fault = fault(Column::Price, price, "a price x 10000, 1..=1000000000000");
        let price = parse_u64(price).filter(|price| (1..=PRICE_MAX).contains(price));
        (size, price.ok_or_else(price_fault)?, None)
    };
    let direction = match direction {
        b"1" => Direction::Buy,
        b"-1" => Direction::Sell,
        _ => return Err((Column::Direction, direction, "1 or -1")),
    };
    Ok(Event { time_picos, kind, order, size, price, direction, halt })
}

/// Seconds with an optional fraction, in picoseconds.
fn parse_time(text: &[u8]) -> Option<u64> {
    let (seconds, fraction) = match text.iter().position(|&byte| byte == b'.') {
        Some(place) => (text.get(..place)?, Some(text.get(place + 1..)?)),
        None => (text, None),
    };
    let seconds = parse_u64(seconds).filter(|&seconds| seconds <= DAY_SECONDS_MAX)?;
    let mut picos = 0;
    if let Some(fraction) = fraction {
        if fraction.is_empty() || fraction.len() > FRACTION_DIGITS_MAX {
            return None;
        }
        let mut unit = SECOND_PICOS;
        for &digit in fraction {
            unit /= 10;
            picos += unit * digit_value(digit)?;
        }
    }
    Some(seconds * SECOND_PICOS + picos)
}

/// Decimal digits only: no sign, no space, no leading zero.
fn parse_u64(text: &[u8]) -> Option<u64> {
    if text.is_empty() || (text.len() > 1 && text.first() == Some(&b'0')) {
        return None;
    }
    text.iter()
        .try_fold(0_u64, |value, &digit| value.checked_mul(10)?.checked_add(digit_value(digit)?))
}

fn digit_value(digit: u8) -> Option<u64> {
    digit.is_ascii_digit().then(|| u64::from(digit - b'0'))
}

#[cfg(test)]
mod tests;
