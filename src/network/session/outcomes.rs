//! What became of transactions: verdicts, receipts, and waits that end without one.
//!
//! Each transaction of a submit frame and each wait gets one last word. A wait is answered by the
//! block that brings its transaction, or by the node's look into the past; whichever is first.

use hufu_types::{Receipt, RefusalCode, Strength, TxId};

use super::waiters::{Hope, Waiter};
use super::{Delivery, Phase, ServerSession, Ticket};
use crate::message::submit::StatusEntry;

impl ServerSession {
    /// The transaction was verified and admitted under this id: its client is told, and waits from
    /// here on.
    ///
    /// Call it before any receipt of the same transaction is handed to [`ServerSession::deliver`].
    pub fn accepted(&mut self, ticket: &Ticket, id: TxId) {
        if self.phase != Phase::Open {
            return;
        }
        self.counters.transactions_accepted += 1;
        self.out.status(StatusEntry::new(ticket.request, ticket.position, None));
        match ticket.wait.strength() {
            Some(strength) => self.waiters.add(Waiter {
                id,
                request: ticket.request,
                position: ticket.position,
                until: ticket.valid_until,
                strength,
                with_proof: ticket.with_proof,
                is_submission: true,
                hope: Hope::Open,
            }),
            None => self.transaction_is_done(),
        }
    }

    /// The transaction is refused: its client is told, and waits no more. It counts as refused even
    /// if the conversation is over.
    pub fn refused(&mut self, ticket: &Ticket, code: RefusalCode) {
        self.counters.count_refusal(code);
        if self.phase != Phase::Open {
            return;
        }
        self.out.status(StatusEntry::new(ticket.request, ticket.position, Some(code)));
        self.transaction_is_done();
    }

    fn transaction_is_done(&mut self) {
        let is_counted = self.transactions_in_flight > 0;
        assert!(is_counted, "each transaction has one last word");
        self.transactions_in_flight -= 1;
    }

    /// All receipts up to `height` were delivered: whoever waits for a transaction that can no
    /// longer come is told.
    pub fn advance(&mut self, height: u64) {
        self.advanced = height;
        for waiter in self.waiters.take_expired(height) {
            self.end_wait(&waiter, RefusalCode::Expired);
        }
    }

    fn end_wait(&mut self, waiter: &Waiter, code: RefusalCode) {
        self.counters.count_refusal(code);
        self.out.status(StatusEntry::new(waiter.request, waiter.position, Some(code)));
        self.wait_is_done(waiter);
    }

    fn wait_is_done(&mut self, waiter: &Waiter) {
        if waiter.is_submission {
            self.transaction_is_done();
        } else {
            self.waits_in_flight = self.waits_in_flight.saturating_sub(1);
        }
    }

    /// How many wait for receipts; with none there is no need to look at a block.
    #[must_use]
    pub fn waiters_count(&self) -> usize {
        self.waiters.count()
    }

    /// Hands a receipt to all who wait for it at this strength or a lower one. `proof` is asked at
    /// most once, and only if one of them wants the proof; it gives the bytes of a
    /// [`hufu_types::ReceiptProof`] of the same strength.
    pub fn deliver(
        &mut self,
        strength: Strength,
        receipt: &Receipt,
        proof: &mut dyn FnMut() -> Vec<u8>,
    ) -> Delivery {
        let mut bytes = None;
        loop {
            let Some(with_proof) = self.waiters.peek(&receipt.id, strength) else {
                return Delivery::Done;
            };
            if self.out.is_full() {
                return Delivery::Full;
            }
            let Some(waiter) = self.waiters.take(&receipt.id, strength) else {
                return Delivery::Done;
            };
            assert_eq!(with_proof, waiter.with_proof, "the waiter looked at is the one taken");
            let shown: &[u8] =
                if waiter.with_proof { bytes.get_or_insert_with(&mut *proof) } else { &[] };
            self.counters.receipts_sent += 1;
            self.out.receipt(waiter.request, waiter.position, strength, receipt, shown);
            self.wait_is_done(&waiter);
        }
    }

    /// Answers a wait whose transaction was included before it began: it alone gets the receipt,
    /// with the proof if it asked for one. Dropped if a block has answered it meanwhile.
    pub fn answer_wait(
        &mut self,
        request: u64,
        strength: Strength,
        receipt: &Receipt,
        proof: &[u8],
    ) {
        if let Some(waiter) = self.waiters.take_wait(&receipt.id, request) {
            assert!(waiter.strength <= strength, "a wait gets what it asked for");
            let shown = if waiter.with_proof { proof } else { &[] };
            self.counters.receipts_sent += 1;
            self.out.receipt(request, waiter.position, strength, receipt, shown);
            self.wait_is_done(&waiter);
        }
    }

    /// Tells a wait that its transaction is included and that the header to prove it is still to
    /// come: it does not expire.
    pub fn wait_for_certificate(&mut self, request: u64, id: &TxId) {
        self.waiters.learn(id, request, Hope::Included);
    }

    /// Tells a wait that its transaction is in no block that the node had executed when it looked,
    /// `height` or more. From here on it may expire, and does so at once if no height is left to
    /// it.
    pub fn wait_for_inclusion(&mut self, request: u64, id: &TxId, height: u64) {
        self.waiters.learn(id, request, Hope::Open);
        // Blocks up to `height` may still be on their way to others who wait.
        let passed = height.max(self.advanced);
        if let Some(waiter) = self.waiters.take_overdue(id, request, passed) {
            self.end_wait(&waiter, RefusalCode::Expired);
        }
    }
}
