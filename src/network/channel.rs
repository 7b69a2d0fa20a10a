//! The seam between the bytes of a socket and the bytes of the protocol.
//!
//! ```text
//! socket --wire--> Channel::receive --plain--> frames
//! frames --plain--> Channel::send --wire--> socket
//! ```
//! A channel does no I/O. [`PlainChannel`] passes bytes through and is for loopback only, which the
//! node that uses it says loudly; GM-TLS comes in as another implementation, with nothing above
//! changed.

/// How far a channel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelState {
    /// The two ends are still agreeing on keys; plain bytes do not pass yet.
    Handshaking,
    /// Plain bytes pass.
    Open,
    /// One end has closed it; nothing passes any more.
    Closed,
}

/// Why a channel failed. It cannot be used again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Plain bytes were given to a channel that is not open.
    #[error("channel is not open")]
    NotOpen,
    /// The other end broke the rules of the channel or is not who it must be.
    #[error("channel failed: {reason}")]
    Failed {
        /// What the implementation says; holds no secret.
        reason: String,
    },
}

/// Turns the bytes of a socket into those of the protocol and back. Both directions share one
/// state, as TLS wants it; whoever reads and writes in two threads puts a lock around it.
pub trait Channel: Send {
    /// How far the channel is.
    fn state(&self) -> ChannelState;

    /// Takes bytes from the socket and appends plain bytes, never more than it was given; returns
    /// how many it took.
    ///
    /// # Errors
    /// [`ChannelError::Failed`]; the connection is to be closed.
    fn receive(&mut self, wire: &[u8], plain: &mut Vec<u8>) -> Result<usize, ChannelError>;

    /// Takes all plain bytes and appends bytes for the socket.
    ///
    /// # Errors
    /// [`ChannelError::NotOpen`] unless the state is open.
    fn send(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), ChannelError>;

    /// Appends what the channel itself has to say to the other end: its handshake, alerts.
    fn pending(&mut self, wire: &mut Vec<u8>);

    /// Says farewell to the other end; nothing is sent after it.
    fn close(&mut self, wire: &mut Vec<u8>);

    /// The certificate that the other end has proven to hold, DER; `None` where the channel proves
    /// nothing.
    fn peer_certificate(&self) -> Option<&[u8]>;
}

/// No protection at all: for loopback only.
#[derive(Debug, Default)]
pub struct PlainChannel {
    is_closed: bool,
}

impl PlainChannel {
    /// An open channel.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Channel for PlainChannel {
    fn state(&self) -> ChannelState {
        if self.is_closed { ChannelState::Closed } else { ChannelState::Open }
    }

    fn receive(&mut self, wire: &[u8], plain: &mut Vec<u8>) -> Result<usize, ChannelError> {
        plain.extend_from_slice(wire);
        Ok(wire.len())
    }

    fn send(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), ChannelError> {
        if self.is_closed {
            return Err(ChannelError::NotOpen);
        }
        wire.extend_from_slice(plain);
        Ok(())
    }

    fn pending(&mut self, _wire: &mut Vec<u8>) {}

    fn close(&mut self, _wire: &mut Vec<u8>) {
        self.is_closed = true;
    }

    fn peer_certificate(&self) -> Option<&[u8]> {
        None
    }
}
