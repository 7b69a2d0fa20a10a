//! The two halves of a connection: one queues and writes frames, the other reads and hands them
//! out.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hufu_runtime::clock::{Nanos, monotonic};
use hufu_types::codec::{index, length_u32, put};
use zerocopy::little_endian::U32;

use super::{ClientConfig, ClientError, refused};
use crate::channel::{Channel, ChannelState};
use crate::frame::{self, Direction, FrameKind};
use crate::limits::{FRAME_BODY_SIZE_MAX, FRAME_HEADER_SIZE};
use crate::message::answer::Welcome;
use crate::message::request::Hello;
use crate::message::submit::SubmitHeader;
use crate::message::{ClientMessage, ServerMessage, WaitFor};

/// Bytes queued before the sender writes without being asked.
const FLUSH_BYTES: usize = 256 * 1_024;

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 256 * 1_024;

/// Shortest read time-out that the operating system takes.
const TIMEOUT_MIN: Duration = Duration::from_micros(1);

type SharedChannel = Arc<Mutex<Box<dyn Channel>>>;

fn lock(channel: &SharedChannel) -> MutexGuard<'_, Box<dyn Channel>> {
    // A panic ends the process, so a poisoned lock is only ever met in tests.
    channel.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connects, lets the channel agree on its keys, and says hello.
pub(super) fn open(
    address: SocketAddr,
    config: &ClientConfig,
    channel: Box<dyn Channel>,
) -> Result<(ClientSender, ClientReceiver), ClientError> {
    let deadline = monotonic().after(config.connect_timeout);
    let stream = TcpStream::connect_timeout(&address, config.connect_timeout)
        .map_err(|error| ClientError::Connect { address, error })?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(config.call_timeout.max(TIMEOUT_MIN)))?;
    let channel = Arc::new(Mutex::new(channel));
    let mut receiver = ClientReceiver {
        stream: stream.try_clone()?,
        channel: Arc::clone(&channel),
        wire: vec![0; READ_BYTES],
        wire_end: 0,
        plain: Vec::new(),
        start: 0,
        timeout: None,
    };
    let mut sender = ClientSender {
        stream,
        channel,
        plain: Vec::new(),
        wire: Vec::new(),
        last: 0,
        welcome: NOBODY,
    };
    let timed_out = || ClientError::Timeout { waited: config.connect_timeout };
    sender.flush()?;
    while lock(&sender.channel).state() == ChannelState::Handshaking {
        if !receiver.fill(deadline.duration_since(monotonic()))? && monotonic() >= deadline {
            return Err(timed_out());
        }
        sender.flush()?;
    }
    ClientMessage::Hello(Hello::new(config.chain_id)).encode(0, &mut sender.plain);
    sender.flush()?;
    let mut answer = None;
    while answer.is_none() {
        let patience = deadline.duration_since(monotonic());
        let count = receiver.receive(patience, &mut |incoming| {
            let found = incoming.message.kind();
            answer.get_or_insert(match incoming.message {
                ServerMessage::Welcome(welcome) => Ok(welcome),
                ServerMessage::Error(error) => Err(refused(error)),
                _ => Err(ClientError::Unexpected { found }),
            });
        });
        // An error frame says more than the end of the connection that follows it.
        if answer.is_none() && count? == 0 && monotonic() >= deadline {
            return Err(timed_out());
        }
    }
    sender.welcome = answer.unwrap_or(Err(ClientError::Closed))?;
    Ok((sender, receiver))
}

/// Stands in the sender until the node has answered; no call reaches it before.
const NOBODY: Welcome = Welcome {
    version: 0,
    frame_body_size_max: 0,
    submit_transactions_max: 0,
    transactions_in_flight_max: 0,
    requests_in_flight_max: 0,
    subscriptions_max: 0,
    chain_id: hufu_types::ChainId::ZERO,
    node: hufu_types::Address::ZERO,
    height: 0,
};

/// The writing half of a connection. Frames are queued until [`ClientSender::flush`], or until
/// there are many bytes.
pub struct ClientSender {
    stream: TcpStream,
    channel: SharedChannel,
    plain: Vec<u8>,
    wire: Vec<u8>,
    last: u64,
    welcome: Welcome,
}

impl ClientSender {
    /// What the node said to the hello.
    #[must_use]
    pub const fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// How many of the transactions with these sizes fit one submit frame.
    #[must_use]
    pub fn frame_count(&self, sizes: impl Iterator<Item = usize>) -> usize {
        let max = index(self.welcome.frame_body_size_max.min(FRAME_BODY_SIZE_MAX));
        let mut total = size_of::<SubmitHeader>();
        let fitting = sizes.take(index(self.welcome.submit_transactions_max)).take_while(|size| {
            total = total.saturating_add(size_of::<U32>()).saturating_add(*size);
            total <= max
        });
        fitting.count()
    }

    /// Queues a frame of transactions, which must fit one; returns its request id. Allocates
    /// nothing once the queue has its size.
    ///
    /// # Errors [`ClientError::Limit`] if they are none or do not fit a frame, and everything that
    /// writing can bring.
    pub fn submit<'a>(
        &mut self,
        transactions: impl IntoIterator<Item = &'a [u8]>,
        wait: WaitFor,
        with_proof: bool,
    ) -> Result<u64, ClientError> {
        let start = self.plain.len();
        let request = self.last + 1;
        let body = start + FRAME_HEADER_SIZE;
        put(&mut self.plain, &frame::FrameHeader::new(FrameKind::Submit, request, 0));
        put(&mut self.plain, &SubmitHeader::new(wait, with_proof, 0));
        let mut count: u32 = 0;
        for transaction in transactions {
            put(&mut self.plain, &U32::new(length_u32(transaction)));
            self.plain.extend_from_slice(transaction);
            count = count.saturating_add(1);
        }
        let size = self.plain.len() - body;
        let size_max = index(self.welcome.frame_body_size_max.min(FRAME_BODY_SIZE_MAX));
        let count_max = self.welcome.submit_transactions_max;
        if size > size_max || count > count_max || count == 0 {
            self.plain.truncate(start);
            let (what, found, max) = if size > size_max {
                ("size of a submit frame", size, size_max)
            } else {
                ("count of a submit frame", index(count), index(count_max))
            };
            return Err(ClientError::Limit { what, found, max });
        }
        let header = SubmitHeader::new(wait, with_proof, count);
        if let Some(field) = self.plain.get_mut(body..body + size_of::<SubmitHeader>()) {
            field.copy_from_slice(zerocopy::IntoBytes::as_bytes(&header));
        }
        frame::finish(&mut self.plain, start, FrameKind::Submit);
        self.last = request;
        self.flush_when_large()?;
        Ok(request)
    }

    /// Queues any other message; returns its request id.
    ///
    /// # Errors
    /// Everything that writing can bring.
    pub fn send(&mut self, message: &ClientMessage<'_>) -> Result<u64, ClientError> {
        self.last += 1;
        message.encode(self.last, &mut self.plain);
        self.flush_when_large()?;
        Ok(self.last)
    }

    /// The request id used last.
    #[must_use]
    pub const fn last_request(&self) -> u64 {
        self.last
    }

    fn flush_when_large(&mut self) -> Result<(), ClientError> {
        if self.plain.len() >= FLUSH_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes everything queued; blocks while the node takes nothing.
    ///
    /// # Errors
    /// If the channel or the socket fails, or nothing can be written within the call time-out.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        {
            let mut channel = lock(&self.channel);
            channel.pending(&mut self.wire);
            if !self.plain.is_empty() {
                channel.send(&self.plain, &mut self.wire)?;
            }
        }
        self.plain.clear();
        let written = self.stream.write_all(&self.wire);
        self.wire.clear();
        Ok(written?)
    }

    /// Says farewell and shuts the writing side down; answers on their way still reach the
    /// receiver.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn finish(mut self) -> Result<(), ClientError> {
        self.flush()?;
        lock(&self.channel).close(&mut self.wire);
        self.stream.write_all(&self.wire)?;
        Ok(self.stream.shutdown(Shutdown::Write)?)
    }
}

/// One message of the node, read in place.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// The request it answers; 0 where it answers none or many.
    pub request: u64,
    /// What it says.
    pub message: ServerMessage<'a>,
}

/// The reading half of a connection.
pub struct ClientReceiver {
    stream: TcpStream,
    channel: SharedChannel,
    wire: Vec<u8>,
    wire_end: usize,
    plain: Vec<u8>,
    start: usize,
    timeout: Option<Duration>,
}

impl ClientReceiver {
    /// Hands every message that has come to `handle`, waiting up to `patience` if none has; returns
    /// how many, 0 after `patience`.
    ///
    /// # Errors [`ClientError::Closed`] at the end of the connection, once every message before it
    /// was handed out.
    pub fn receive(
        &mut self,
        patience: Duration,
        handle: &mut dyn FnMut(Incoming<'_>),
    ) -> Result<usize, ClientError> {
        let ready = self.hand_out(handle)?;
        if ready > 0 {
            return Ok(ready);
        }
        let deadline = monotonic().after(patience);
        loop {
            let now = monotonic();
            if !self.fill(deadline.duration_since(now))? {
                return Ok(0);
            }
            let count = self.hand_out(handle)?;
            if count > 0 || now >= deadline && deadline != Nanos::MAX {
                return Ok(count);
            }
        }
    }

    fn hand_out(&mut self, handle: &mut dyn FnMut(Incoming<'_>)) -> Result<usize, ClientError> {
        let mut count = 0;
        while let Some(rest) = self.plain.get(self.start..) {
            let Some(frame) = frame::split(rest, Direction::FromServer)? else { break };
            let message = ServerMessage::decode(&frame)?;
            handle(Incoming { request: frame.request, message });
            self.start += frame.size();
            count += 1;
        }
        if self.start > 0 {
            self.plain.drain(..self.start);
            self.start = 0;
        }
        Ok(count)
    }

    /// Reads once from the socket; `false` when nothing came within `patience`.
    fn fill(&mut self, patience: Duration) -> Result<bool, ClientError> {
        let timeout = patience.max(TIMEOUT_MIN);
        if self.timeout != Some(timeout) {
            self.stream.set_read_timeout(Some(timeout))?;
            self.timeout = Some(timeout);
        }
        let room = self.wire.get_mut(self.wire_end..).unwrap_or_default();
        match self.stream.read(room) {
            Ok(0) => return Err(ClientError::Closed),
            Ok(count) => self.wire_end += count,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => return Ok(false),
                ErrorKind::Interrupted => return Ok(true),
                ErrorKind::ConnectionReset => return Err(ClientError::Closed),
                _ => return Err(error.into()),
            },
        }
        let wire = self.wire.get(..self.wire_end).unwrap_or_default();
        let taken = lock(&self.channel).receive(wire, &mut self.plain)?;
        self.wire.copy_within(taken..self.wire_end, 0);
        self.wire_end -= taken;
        Ok(true)
    }
}
