//! A blocking client over TCP, for the command line, the load generator and tests.
//!
//! ```text
//! Client (one thread):  call -> ClientSender -> socket -> ClientReceiver -> answer
//! split (two threads):  ClientSender --frames--> socket
//!                       socket --frames--> ClientReceiver -> handler
//! ```
//! Both halves use the same [`Channel`], so nothing here knows whether the connection is protected.

mod connection;
mod subscription;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use hufu_runtime::clock::{Nanos, monotonic};
use hufu_types::codec::DecodeError;
use hufu_types::{Address, ChainId, Receipt, RefusalCode, Strength, Transaction, TxId};

use crate::channel::{Channel, ChannelError, PlainChannel};
use crate::codes::ErrorCode;
use crate::frame::{FrameError, FrameKind};
use crate::message::answer::{AccountInfo, BlockInfo, StatusInfo, TransactionInfo, Welcome};
use crate::message::request::{QueryAccount, QueryBlock, QueryTransaction, Wait};
use crate::message::{ClientMessage, ServerMessage, WaitFor};

pub use connection::{ClientReceiver, ClientSender, Incoming};

/// How a client connects and how long it is patient.
#[derive(Clone, Copy, Debug)]
pub struct ClientConfig {
    /// The chain expected; `None` takes any.
    pub chain_id: Option<ChainId>,
    /// Longest time for connecting and the hello.
    pub connect_timeout: Duration,
    /// Longest time without any progress of a call.
    pub call_timeout: Duration,
}

impl Default for ClientConfig {
    /// Any chain, 5 s to connect, 30 s for a call.
    fn default() -> Self {
        Self {
            chain_id: None,
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(30),
        }
    }
}

/// Why a call of the client failed. After all but [`ClientError::Refused`] and
/// [`ClientError::Limit`] the connection is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection was made.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// The node.
        address: SocketAddr,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// An unprotected channel may only be used on this host.
    #[error("{address} is not a loopback address, and the channel is not protected")]
    NotLoopback {
        /// The node.
        address: SocketAddr,
    },
    /// The socket failed.
    #[error("connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The node has closed the connection.
    #[error("the node has closed the connection")]
    Closed,
    /// No progress for too long.
    #[error("no answer within {waited:?}")]
    Timeout {
        /// How long was waited.
        waited: Duration,
    },
    /// The channel below the frames failed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The node sends what is no frame.
    #[error("answer is no frame: {0}")]
    Frame(#[from] FrameError),
    /// The node sends a frame whose body is not canonical.
    #[error("answer is not canonical: {0}")]
    Decode(#[from] DecodeError),
    /// The node answers with an error.
    #[error("node answers {code}: {text}")]
    Refused {
        /// Its code.
        code: ErrorCode,
        /// Its details.
        text: String,
    },
    /// The node answers something else than was asked.
    #[error("node answers with a frame of kind {found:?}")]
    Unexpected {
        /// What it sent.
        found: FrameKind,
    },
    /// The call asks for more than a frame may hold.
    #[error("{what} is {found}, at most {max} are allowed")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// How large.
        found: usize,
        /// The limit.
        max: usize,
    },
}

/// The last word on one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionResult {
    /// Taken; nothing more was waited for.
    Taken,
    /// Refused: it is not and will not be included by this submission.
    Refused(RefusalCode),
    /// Its receipt.
    Receipt {
        /// The receipt.
        receipt: Receipt,
        /// How strong it is.
        strength: Strength,
        /// Canonical bytes of a [`hufu_types::ReceiptProof`]; empty when none was asked for.
        proof: Vec<u8>,
    },
}

/// A connection to one node, one call at a time.
pub struct Client {
    sender: ClientSender,
    receiver: ClientReceiver,
    call_timeout: Duration,
    streams: subscription::Streams,
}

impl Client {
    /// Connects without protection, which is possible on this host only, and says hello.
    ///
    /// # Errors
    /// Why there is no conversation.
    pub fn connect(address: SocketAddr, config: &ClientConfig) -> Result<Self, ClientError> {
        if !address.ip().is_loopback() {
            return Err(ClientError::NotLoopback { address });
        }
        Self::connect_with(address, config, Box::new(PlainChannel::new()))
    }

    /// Connects over a channel and says hello.
    ///
    /// # Errors
    /// Why there is no conversation.
    pub fn connect_with(
        address: SocketAddr,
        config: &ClientConfig,
        channel: Box<dyn Channel>,
    ) -> Result<Self, ClientError> {
        let (sender, receiver) = connection::open(address, config, channel)?;
        let streams = subscription::Streams::default();
        Ok(Self { sender, receiver, call_timeout: config.call_timeout, streams })
    }

    /// What the node said to the hello.
    #[must_use]
    pub const fn welcome(&self) -> &Welcome {
        self.sender.welcome()
    }

    /// The two halves, for two threads. Subscriptions go on; their events reach the receiver.
    #[must_use]
    pub fn split(self) -> (ClientSender, ClientReceiver) {
        (self.sender, self.receiver)
    }

    /// Hands in transactions in as many frames as needed, never more than the node takes at once,
    /// and waits for the last word on each; `results[i]` belongs to `transactions[i]`.
    ///
    /// # Errors
    /// Why the last words did not all come; transactions may have been included all the same.
    pub fn submit(
        &mut self,
        transactions: &[Transaction],
        wait: WaitFor,
        with_proof: bool,
    ) -> Result<Vec<TransactionResult>, ClientError> {
        let mut submission = Submission {
            results: vec![None; transactions.len()],
            first_of: HashMap::new(),
            wait,
            finished: 0,
        };
        let window = usize::try_from(self.welcome().transactions_in_flight_max).unwrap_or(1);
        let mut sent = 0;
        let mut deadline = monotonic().after(self.call_timeout);
        while submission.finished < transactions.len() {
            let before = submission.finished;
            let room = window.saturating_sub(sent - submission.finished);
            let (_, rest) = transactions.split_at(sent);
            let count = self.sender.frame_count(rest.iter().map(|tx| tx.bytes().len())).min(room);
            if count > 0 {
                let frame = rest.iter().take(count).map(Transaction::bytes);
                let request = self.sender.submit(frame, wait, with_proof)?;
                submission.first_of.insert(request, sent);
                sent += count;
                self.sender.flush()?;
                // Answers are taken as they come, so that neither side waits for the other to read.
                self.receive(Nanos::ZERO, &mut |incoming| submission.take(&incoming))?;
            } else {
                self.receive(deadline, &mut |incoming| submission.take(&incoming))?;
            }
            if submission.finished > before || count > 0 {
                deadline = monotonic().after(self.call_timeout);
            } else if monotonic() >= deadline {
                return Err(ClientError::Timeout { waited: self.call_timeout });
            }
        }
        Ok(submission.results.into_iter().flatten().collect())
    }

    /// Waits for the receipt of a transaction, whoever handed it in, until `until_height` is
    /// executed without it.
    ///
    /// # Errors
    /// Why there is no last word.
    pub fn wait(
        &mut self,
        id: TxId,
        strength: Strength,
        with_proof: bool,
        until_height: u64,
    ) -> Result<TransactionResult, ClientError> {
        let wait = Wait { id, until_height, strength, with_proof };
        let request = self.sender.send(&ClientMessage::Wait(wait))?;
        let mut submission = Submission {
            results: vec![None],
            first_of: HashMap::from([(request, 0)]),
            wait: WaitFor::Committed,
            finished: 0,
        };
        self.sender.flush()?;
        let deadline = monotonic().after(self.call_timeout);
        while submission.finished == 0 {
            self.receive(deadline, &mut |incoming| submission.take(&incoming))?;
            if submission.finished == 0 && monotonic() >= deadline {
                return Err(ClientError::Timeout { waited: self.call_timeout });
            }
        }
        submission.results.pop().flatten().ok_or(ClientError::Closed)
    }

    /// Asks for the node's state.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn status(&mut self) -> Result<StatusInfo, ClientError> {
        self.call(&ClientMessage::QueryStatus, |message| match message {
            ServerMessage::Status(info) => Some(info),
            _ => None,
        })
    }

    /// Asks for an account.
    ///
    /// # Errors
    /// Why there is no answer; an account that does not exist is an answer.
    pub fn account(
        &mut self,
        address: Address,
        with_proof: bool,
    ) -> Result<AccountInfo, ClientError> {
        let query = ClientMessage::QueryAccount(QueryAccount { address, with_proof });
        self.call(&query, |message| match message {
            ServerMessage::Account(info) => Some(info),
            _ => None,
        })
    }

    /// Asks for a block (`None`: the latest) with its transaction ids from `ids_from` on.
    ///
    /// # Errors
    /// Why there is no answer; [`ErrorCode::NotFound`] when the node does not hold it.
    pub fn block(&mut self, height: Option<u64>, ids_from: u32) -> Result<BlockInfo, ClientError> {
        let query = ClientMessage::QueryBlock(QueryBlock { height, ids_from });
        self.call(&query, |message| match message {
            ServerMessage::Block(info) => Some(info),
            _ => None,
        })
    }

    /// Asks for an included transaction and its receipt.
    ///
    /// # Errors
    /// Why there is no answer; [`ErrorCode::NotFound`] when it is not included.
    pub fn transaction(
        &mut self,
        id: TxId,
        with_proof: bool,
    ) -> Result<TransactionInfo, ClientError> {
        let query = ClientMessage::QueryTransaction(QueryTransaction { id, with_proof });
        self.call(&query, |message| match message {
            ServerMessage::Transaction(info) => Some(info),
            _ => None,
        })
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// Why there is none.
    pub fn ping(&mut self) -> Result<(), ClientError> {
        self.call(&ClientMessage::Ping, |message| match message {
            ServerMessage::Pong => Some(()),
            _ => None,
        })
    }

    /// Sends a request and waits for its one answer, which `read` recognises.
    fn call<T>(
        &mut self,
        message: &ClientMessage<'_>,
        mut read: impl FnMut(ServerMessage<'_>) -> Option<T>,
    ) -> Result<T, ClientError> {
        let request = self.sender.send(message)?;
        self.sender.flush()?;
        let mut answer = None;
        let deadline = monotonic().after(self.call_timeout);
        while answer.is_none() {
            self.receive(deadline, &mut |incoming| {
                if incoming.request == request {
                    let found = incoming.message.kind();
                    answer = Some(match incoming.message {
                        ServerMessage::Error(error) => Err(refused(error)),
                        other => read(other).ok_or(ClientError::Unexpected { found }),
                    });
                }
            })?;
            if answer.is_none() && monotonic() >= deadline {
                return Err(ClientError::Timeout { waited: self.call_timeout });
            }
        }
        answer.unwrap_or(Err(ClientError::Closed))
    }

    /// Takes what has come, waiting until `deadline` for the first of it. Events are kept for
    /// [`Client::next_event`].
    fn receive(
        &mut self,
        deadline: Nanos,
        handle: &mut dyn FnMut(Incoming<'_>),
    ) -> Result<usize, ClientError> {
        let Self { receiver, streams, .. } = self;
        let mut fault = None;
        let patience = deadline.duration_since(monotonic());
        let count = receiver.receive(patience, &mut |incoming| match incoming.message {
            ServerMessage::Error(error) if error.code.closes() => {
                fault.get_or_insert(refused(error));
            }
            ServerMessage::Events(events) => streams.take(incoming.request, &events),
            ServerMessage::SubscriptionEnded(end) if streams.end(incoming.request, &end) => {}
            _ => handle(incoming),
        });
        match fault {
            Some(fault) => Err(fault),
            None => count,
        }
    }
}

/// The error that a node's error frame stands for.
fn refused(error: crate::message::answer::ErrorInfo) -> ClientError {
    ClientError::Refused { code: error.code, text: error.text }
}

/// Collects the last words on the transactions of one call.
struct Submission {
    results: Vec<Option<TransactionResult>>,
    first_of: HashMap<u64, usize>,
    wait: WaitFor,
    finished: usize,
}

impl Submission {
    fn take(&mut self, incoming: &Incoming<'_>) {
        match &incoming.message {
            ServerMessage::Statuses(entries) => {
                for entry in *entries {
                    let result = match entry.refusal() {
                        Some(code) => TransactionResult::Refused(code),
                        None if self.wait == WaitFor::Nothing => TransactionResult::Taken,
                        None => continue,
                    };
                    self.finish(entry.request(), entry.position(), result);
                }
            }
            ServerMessage::Receipts(receipts) => {
                for entry in receipts.entries() {
                    let (receipt, strength) = (*entry.receipt, entry.strength);
                    let proof = entry.proof.to_vec();
                    let result = TransactionResult::Receipt { receipt, strength, proof };
                    self.finish(entry.request, entry.position, result);
                }
            }
            // A wait beyond the node's limit is refused by an error of its own.
            ServerMessage::Error(_) => {
                let refusal = TransactionResult::Refused(RefusalCode::Overloaded);
                self.finish(incoming.request, 0, refusal);
            }
            _ => {}
        }
    }

    fn finish(&mut self, request: u64, position: u32, result: TransactionResult) {
        let Some(first) = self.first_of.get(&request) else { return };
        let place = usize::try_from(position).ok().and_then(|position| first.checked_add(position));
        let slot = place.and_then(|place| self.results.get_mut(place));
        if let Some(slot) = slot.filter(|slot| slot.is_none()) {
            *slot = Some(result);
            self.finished += 1;
        }
    }
}
