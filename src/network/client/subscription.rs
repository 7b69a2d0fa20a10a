//! The client's side of subscriptions: events kept until asked for, and credit granted as they are
//! taken.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use hufu_runtime::clock::monotonic;

use super::{Client, ClientError};
use crate::message::event::{
    Credit, Cursor, Event, EventsView, Filter, Subscribe, SubscribeStart, SubscriptionEnd,
    Unsubscribe,
};
use crate::message::{ClientMessage, ServerMessage};

/// Events that have come and were not asked for yet; bounded by the credit granted.
#[derive(Default)]
pub(super) struct Streams {
    events: VecDeque<(u64, Event)>,
    open: HashMap<u64, Stream>,
    ended: VecDeque<ClientError>,
}

struct Stream {
    /// Credit the stream is kept at.
    window: u32,
    /// Events handed out since credit was last granted.
    taken: u32,
    /// Where to resume after the last frame.
    next: Cursor,
}

impl Streams {
    pub(super) fn end(&mut self, subscription: u64, end: &SubscriptionEnd) -> bool {
        let is_known = self.open.remove(&subscription).is_some();
        if let Some(code) = end.reason.filter(|_| is_known) {
            let Cursor { height, index } = end.next;
            let text = format!("subscription {subscription} has ended; resume at {height}:{index}");
            self.ended.push_back(ClientError::Refused { code, text });
        }
        is_known
    }

    pub(super) fn take(&mut self, subscription: u64, events: &EventsView<'_>) {
        if let Some(stream) = self.open.get_mut(&subscription) {
            stream.next = events.next();
            self.events.extend(events.events().map(|event| (subscription, event)));
        }
    }
}

impl Client {
    /// Asks for events; `window` is how many may be on their way at once. Returns the subscription
    /// and where it begins.
    ///
    /// # Errors
    /// Why there is no subscription.
    pub fn subscribe(
        &mut self,
        start: SubscribeStart,
        filter: Filter,
        window: u32,
    ) -> Result<(u64, Cursor), ClientError> {
        // Credit comes after the stream is known here, so that no event can come before.
        let query = ClientMessage::Subscribe(Subscribe { start, filter, credits: 0 });
        let mut begins = None;
        self.call(&query, |message| match message {
            ServerMessage::Subscribed(cursor) => {
                begins = Some(cursor);
                Some(())
            }
            _ => None,
        })?;
        let begins = begins.unwrap_or_default();
        let subscription = self.sender.last_request();
        self.streams.open.insert(subscription, Stream { window, taken: 0, next: begins });
        self.grant(subscription, window)?;
        Ok((subscription, begins))
    }

    /// The next event of any subscription, or `None` if none comes within `patience`. Credit is
    /// granted as events are taken.
    ///
    /// # Errors If the node has ended a subscription or the connection fails; resume at
    /// [`Client::resume_at`] on another one.
    pub fn next_event(&mut self, patience: Duration) -> Result<Option<(u64, Event)>, ClientError> {
        let deadline = monotonic().after(patience);
        while self.streams.events.is_empty() {
            if let Some(fault) = self.streams.ended.pop_front() {
                return Err(fault);
            }
            self.receive(deadline, &mut |_| ())?;
            if self.streams.events.is_empty() && monotonic() >= deadline {
                return Ok(None);
            }
        }
        let Some((subscription, event)) = self.streams.events.pop_front() else { return Ok(None) };
        let mut due = 0;
        if let Some(stream) = self.streams.open.get_mut(&subscription) {
            stream.taken += 1;
            if stream.taken >= stream.window.div_ceil(2) {
                due = core::mem::take(&mut stream.taken);
            }
        }
        self.grant(subscription, due)?;
        Ok(Some((subscription, event)))
    }

    /// Where another subscription goes on without loss or duplicate, counting only events that were
    /// handed out.
    #[must_use]
    pub fn resume_at(&self, subscription: u64) -> Option<Cursor> {
        let waiting = self.streams.events.iter().find(|(of, _)| *of == subscription);
        let next = || self.streams.open.get(&subscription).map(|stream| stream.next);
        waiting.map(|(_, event)| event.cursor).or_else(next)
    }

    /// Ends a subscription; events of it that were not asked for yet are dropped. Returns where
    /// another may go on.
    ///
    /// # Errors
    /// If the connection fails or there is no such subscription.
    pub fn unsubscribe(&mut self, subscription: u64) -> Result<Cursor, ClientError> {
        let query = ClientMessage::Unsubscribe(Unsubscribe { subscription });
        let resume = self.resume_at(subscription);
        let end = self.call(&query, |message| match message {
            ServerMessage::SubscriptionEnded(end) => Some(end.next),
            _ => None,
        })?;
        self.streams.open.remove(&subscription);
        let had = self.streams.events.len();
        self.streams.events.retain(|(of, _)| *of != subscription);
        Ok(if had == self.streams.events.len() { end } else { resume.unwrap_or(end) })
    }

    fn grant(&mut self, subscription: u64, events: u32) -> Result<(), ClientError> {
        if events == 0 {
            return Ok(());
        }
        self.sender.send(&ClientMessage::Credit(Credit { subscription, events }))?;
        self.sender.flush()
    }
}
