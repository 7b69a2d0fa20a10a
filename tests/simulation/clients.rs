//! Clients: each submits one transaction to some node, waits for its receipt, and goes to another
//! node when it does not come.

use hufu_types::{Transaction, TxId};

use crate::material::Material;
use crate::random::Random;

const MILLISECOND: u64 = 1_000_000;

/// How long a client waits before it asks elsewhere, nanoseconds.
const PATIENCE_NANOS: u64 = 1_200 * MILLISECOND;

/// What is known of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unsent,
    Sent,
    Done,
    Expired,
}

struct Client {
    id: TxId,
    transaction: Transaction,
    fate: Fate,
    /// When it sets out, if nothing has to come before.
    starts_at: u64,
}

/// See the module.
pub(crate) struct Clients {
    clients: Vec<Client>,
    random: Random,
    /// Transactions that must be done one after the other before the rest, count.
    setup: usize,
}

impl Clients {
    /// `early` transactions set out before `heal_at`, `late` ones after it.
    pub(crate) fn new(
        material: &Material,
        mut random: Random,
        (early, late): (usize, usize),
        heal_at: u64,
    ) -> Self {
        let mut pool: Vec<&Transaction> = material.transfers.iter().collect();
        let mut clients = Vec::new();
        let mut add = |transaction: &Transaction, starts_at: u64| {
            let id = transaction.view().id();
            let transaction = transaction.clone();
            clients.push(Client { id, transaction, fate: Fate::Unsent, starts_at });
        };
        for transaction in &material.setup {
            add(transaction, 0);
        }
        for number in 0..(early + late).min(pool.len()) {
            let transaction = pool.swap_remove(random.index(pool.len()));
            let starts_at = if number < early {
                random.between(MILLISECOND, heal_at)
            } else {
                heal_at + random.below(500 * MILLISECOND)
            };
            add(transaction, starts_at);
        }
        let setup = material.setup.len();
        Self { clients, random, setup }
    }

    pub(crate) fn count(&self) -> usize {
        self.clients.len()
    }

    /// When each client sets out first. The setup begins at once.
    pub(crate) fn starts(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.clients.iter().enumerate().map(|(place, client)| (place, client.starts_at))
    }

    /// The client's turn: what it submits, or `None` if it has nothing to do; and when its turn
    /// comes again, if it does.
    pub(crate) fn turn(&mut self, place: usize) -> (Option<Transaction>, Option<u64>) {
        let first = self.clients.iter().take(self.setup.min(place));
        let may_go = first.into_iter().all(|client| client.fate == Fate::Done);
        let Some(client) = self.clients.get_mut(place) else { return (None, None) };
        if matches!(client.fate, Fate::Done | Fate::Expired) {
            return (None, None);
        }
        if !may_go {
            return (None, Some(self.random.between(20, 120) * MILLISECOND));
        }
        client.fate = Fate::Sent;
        let again = PATIENCE_NANOS + self.random.below(400 * MILLISECOND);
        (Some(client.transaction.clone()), Some(again))
    }

    /// The node that a client turns to.
    pub(crate) fn choose(&mut self, nodes: usize) -> usize {
        self.random.index(nodes)
    }

    fn find(&mut self, id: &TxId) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| client.id == *id)
    }

    pub(crate) fn done(&mut self, id: &TxId) {
        if let Some(client) = self.find(id) {
            client.fate = Fate::Done;
        }
    }

    pub(crate) fn expired(&mut self, id: &TxId) {
        if let Some(client) = self.find(id)
            && client.fate == Fate::Sent
        {
            client.fate = Fate::Expired;
        }
    }

    /// Whether nobody waits any more.
    pub(crate) fn are_done(&self) -> bool {
        self.clients.iter().all(|client| matches!(client.fate, Fate::Done | Fate::Expired))
    }

    /// Transactions whose receipt came, count.
    pub(crate) fn done_count(&self) -> usize {
        self.clients.iter().filter(|client| client.fate == Fate::Done).count()
    }

    /// Those who still wait, for a failure's text.
    pub(crate) fn waiting_count(&self) -> usize {
        let is_waiting = |client: &&Client| matches!(client.fate, Fate::Unsent | Fate::Sent);
        self.clients.iter().filter(is_waiting).count()
    }
}
