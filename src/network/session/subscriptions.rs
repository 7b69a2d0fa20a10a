//! Subscriptions of one session: cursor, filter and credit of each. The events themselves come from
//! the node, which reads them from where it keeps blocks; nothing is queued here beyond the credit
//! granted.

use hufu_types::codec::index;

use super::{Phase, Push, ServerSession};
use crate::codes::ErrorCode;
use crate::limits::CREDITS_MAX;
use crate::message::ServerMessage;
use crate::message::event::{
    Credit, Cursor, Event, EventContent, Filter, Subscribe, SubscriptionEnd,
};

/// What the node needs to know to feed a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionState {
    /// Its name: the request id of the subscribe frame.
    pub subscription: u64,
    /// Place of the next event it has not seen.
    pub next: Cursor,
    /// Which events it wants.
    pub filter: Filter,
    /// Events it may still be sent, at least 1.
    pub credits: u32,
}

struct Subscription {
    request: u64,
    /// `None` until the node has said where it begins.
    next: Option<Cursor>,
    filter: Filter,
    credits: u32,
    /// The cursor has moved without an event since the client was last told.
    is_progress_due: bool,
}

pub(super) struct Subscriptions {
    open: Vec<Subscription>,
    max: u32,
}

impl Subscriptions {
    pub(super) const fn new(max: u32) -> Self {
        Self { open: Vec::new(), max }
    }

    pub(super) const fn count(&self) -> usize {
        self.open.len()
    }

    pub(super) fn add(&mut self, request: u64, body: &Subscribe) -> bool {
        if self.open.len() >= index(self.max) {
            return false;
        }
        self.open.push(Subscription {
            request,
            next: None,
            filter: body.filter,
            credits: body.credits,
            is_progress_due: false,
        });
        true
    }

    pub(super) fn credit(&mut self, body: &Credit) -> Result<(), ErrorCode> {
        let subscription = self.get(body.subscription).ok_or(ErrorCode::SubscriptionUnknown)?;
        let credits = subscription.credits.saturating_add(body.events);
        if credits > CREDITS_MAX {
            return Err(ErrorCode::CreditExceeded);
        }
        subscription.credits = credits;
        Ok(())
    }

    pub(super) fn remove(&mut self, request: u64) -> Option<SubscriptionEnd> {
        let place = self.open.iter().position(|open| open.request == request)?;
        let next = self.open.remove(place).next.unwrap_or_default();
        Some(SubscriptionEnd { reason: None, next })
    }

    fn get(&mut self, request: u64) -> Option<&mut Subscription> {
        self.open.iter_mut().find(|open| open.request == request)
    }
}

impl ServerSession {
    /// Says where a subscription begins: the cursor asked for, or for "now" the start of the next
    /// height.
    pub fn subscribed(&mut self, subscription: u64, begin: Cursor) {
        if let Some(open) = self.subscriptions.get(subscription).filter(|open| open.next.is_none())
        {
            open.next = Some(begin);
            self.out.message(subscription, &ServerMessage::Subscribed(begin));
        }
    }

    /// Ends a subscription that cannot go on: an error if it had not begun, else the cursor where
    /// another may go on.
    pub fn end_subscription(&mut self, subscription: u64, reason: ErrorCode) {
        let begun = self.subscriptions.get(subscription).map(|open| open.next.is_some());
        let Some(mut end) = self.subscriptions.remove(subscription) else { return };
        self.out.flush_events();
        if begun == Some(true) {
            end.reason = Some(reason);
            self.counters.count_error(reason);
            self.out.message(subscription, &ServerMessage::SubscriptionEnded(end));
        } else {
            self.answer_error(subscription, reason, "the subscription cannot begin there");
        }
    }

    /// The subscriptions that have begun and have credit. Feed them unless
    /// [`ServerSession::is_full`].
    pub fn subscriptions(&self) -> impl Iterator<Item = SubscriptionState> + '_ {
        self.subscriptions.open.iter().filter(|open| open.credits > 0).filter_map(|open| {
            open.next.map(|next| SubscriptionState {
                subscription: open.request,
                next,
                filter: open.filter,
                credits: open.credits,
            })
        })
    }

    /// Sends an event that the subscription's filter wants. Events are given in order; one before
    /// the cursor is a duplicate and is dropped.
    pub fn push_event(&mut self, subscription: u64, event: &Event) -> Push {
        if self.phase != Phase::Open {
            return Push::Taken;
        }
        let is_full = self.out.is_full();
        let Some(open) = self.subscriptions.get(subscription) else { return Push::Stale };
        if open.next.is_none_or(|next| event.cursor < next) {
            return Push::Stale;
        }
        if is_full {
            return Push::Full;
        }
        if open.credits == 0 {
            return Push::NoCredit;
        }
        open.credits -= 1;
        // The block's own event is the last of its height.
        let next = match event.content {
            EventContent::Transaction { .. } => event.cursor.next(),
            EventContent::Block(_) => Cursor::start_of(event.cursor.height.saturating_add(1)),
        };
        open.next = Some(next);
        open.is_progress_due = false;
        let credits = open.credits;
        self.counters.events_sent += 1;
        self.out.event(subscription, next, credits, Some(event));
        Push::Taken
    }

    /// Moves a subscription past events its filter does not want; takes no credit. Its client
    /// learns of it at housekeeping.
    pub fn skip_to(&mut self, subscription: u64, cursor: Cursor) {
        let open = self.subscriptions.get(subscription);
        if let Some(open) = open.filter(|open| open.next.is_some_and(|next| next < cursor)) {
            open.next = Some(cursor);
            open.is_progress_due = true;
        }
    }

    pub(super) fn announce_progress(&mut self) {
        if self.phase != Phase::Open || self.out.is_full() {
            return;
        }
        for open in self.subscriptions.open.iter_mut().filter(|open| open.is_progress_due) {
            open.is_progress_due = false;
            let next = open.next.unwrap_or_default();
            self.out.event(open.request, next, open.credits, None);
        }
    }
}
