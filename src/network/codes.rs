//! Typed codes of error frames: what was wrong, whether the connection goes on, whose turn it is.
//!
//! Numbers go over the wire and into metrics; they are never reused.

hufu_types::codes!(
    /// Why the server answers with an error frame.
    ErrorCode {
        /// The hello does not begin with the protocol's magic. Closes.
        BadMagic = 1, "bad_magic";
        /// The frame header has a version this node does not read. Closes.
        FrameVersionUnknown = 2, "frame_version_unknown";
        /// The frame's body is larger than its kind allows. Closes.
        Oversized = 3, "oversized";
        /// No frame that a client sends has this kind. Closes.
        UnknownKind = 4, "unknown_kind";
        /// The frame or its body is not canonical. Closes.
        Malformed = 5, "malformed";
        /// The first frame is not a hello, or a later one is. Closes.
        HelloMisplaced = 6, "hello_misplaced";
        /// No version of the protocol is common to both sides. Closes.
        VersionUnsupported = 7, "version_unsupported";
        /// The client expects another chain. Closes.
        WrongChain = 8, "wrong_chain";
        /// Request ids must grow from frame to frame and not be zero. Closes.
        RequestIdInvalid = 9, "request_id_invalid";
        /// More waits, queries or subscriptions than the welcome allows; this one is not taken.
        TooManyInFlight = 32, "too_many_in_flight";
        /// The node holds nothing of that name.
        NotFound = 33, "not_found";
        /// The subscription is not open, so it has no credit and no end.
        SubscriptionUnknown = 34, "subscription_unknown";
        /// More credit than a subscription may hold; nothing is granted.
        CreditExceeded = 35, "credit_exceeded";
        /// The cursor lies before the oldest event the node still holds.
        CursorGone = 36, "cursor_gone";
        /// The node has no room for the request now; try again later.
        Overloaded = 38, "overloaded";
        /// The cursor lies further ahead of the chain than a node that is a little behind explains.
        CursorAhead = 39, "cursor_ahead";
        /// The answer does not fit a frame.
        AnswerTooLarge = 40, "answer_too_large";
        /// No header carries the state root of this height yet; try again after the next block.
        NotCertified = 41, "not_certified";
        /// The node is stopping; go to another one. Closes.
        Stopping = 64, "stopping";
        /// The client does not take what it asked for. Closes.
        SlowConsumer = 65, "slow_consumer";
        /// Nothing was heard for too long, no hello came in time, or another client needs the place
        /// of one that asks nothing. Closes.
        IdleTimeout = 66, "idle_timeout";
        /// The channel below the frames failed. Closes.
        ChannelFailed = 67, "channel_failed";
        /// All places for connections are taken by clients that use them. Closes.
        ConnectionsFull = 68, "connections_full";
    }
);

impl ErrorCode {
    /// Whether the node closes the connection after this error.
    #[must_use]
    pub const fn closes(self) -> bool {
        let number = self.number();
        self.is_fault() || number >= Self::Stopping.number()
    }

    /// Whether the client has broken the protocol: below all numbers of requests refused, or the
    /// channel.
    #[must_use]
    pub const fn is_fault(self) -> bool {
        self.number() < Self::TooManyInFlight.number() || matches!(self, Self::ChannelFailed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_read_back() {
        for (place, code) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(ErrorCode::from_number(code.number()), Some(*code));
            assert_eq!(code.place(), place);
        }
        assert!(ErrorCode::ALL.is_sorted_by(|first, second| first.number() < second.number()));
        assert!(ErrorCode::WrongChain.closes() && ErrorCode::SlowConsumer.closes());
        assert!(ErrorCode::WrongChain.is_fault() && ErrorCode::ChannelFailed.is_fault());
        assert!(!ErrorCode::SlowConsumer.is_fault() && !ErrorCode::NotFound.is_fault());
        assert!(!ErrorCode::NotFound.closes() && !ErrorCode::Overloaded.closes());
    }
}
