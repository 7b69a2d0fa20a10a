//! One run: everything that happens, in the order of virtual time.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hufu_types::Digest;

use crate::byzantine::Byzantine;
use crate::clients::Clients;
use crate::faults::{Crash, Fault, Profile};
use crate::ledger::Ledger;
use crate::material::Material;
use crate::network::Network;
use crate::node::{Halt, Node, Outside, Reply, Task};
use crate::oracles::{Failure, Oracles};
use crate::random::Random;
use crate::trace::Trace;
use crate::wire::Wire;

const MILLISECOND: u64 = 1_000_000;

/// Virtual nanoseconds after the healing within which everything must be done.
const LIVENESS_NANOS: u64 = 60_000 * MILLISECOND;

/// Virtual nanoseconds after which a cut ends the link: keep-alive sees it.
const KEEP_ALIVE_NANOS: u64 = 700 * MILLISECOND;

/// Events of a run, count: far more than any needs.
const EVENTS_COUNT_MAX: u64 = 2_000_000;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The rule that was broken, if any.
    pub failure: Option<Failure>,
    /// Hash over all events.
    pub hash: Digest,
    /// Events, count.
    pub events: u64,
    /// Virtual nanoseconds.
    pub nanos: u64,
    /// The last height.
    pub height: u64,
    /// Transactions with a receipt, and all, counts.
    pub transactions: (usize, usize),
}

enum Event {
    Start(usize),
    Task { place: usize, life: u64, task: Task },
    Frame { from: usize, to: usize, epoch: u32, wire: Box<Wire> },
    Open(usize, usize),
    Close(usize, usize),
    Client(usize),
    Fault(Fault),
    Mend { from: usize, to: usize },
    Heal,
}

struct Run<'a> {
    material: &'a Material,
    now: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), Event>,
    nodes: Vec<Node>,
    randoms: Vec<Random>,
    network: Network,
    clients: Clients,
    byzantine: Option<Byzantine>,
    oracles: Oracles,
    heal_at: u64,
    crashes: Random,
    /// How long a node stays down whose disk was told to stop.
    torn_nanos: Vec<u64>,
    trace: Trace,
}

/// Runs one seed to its end, or to the first rule that is broken.
///
/// A panic in the shipped rules is such a failure: their assertions are oracles too.
#[must_use]
pub fn run_seed(material: &Material, seed: u64, trace: Trace) -> Report {
    material.forget();
    let profile = Profile::of(seed, material.nodes());
    let mut run = Run::new(material, seed, profile, trace);
    let ended = catch_unwind(AssertUnwindSafe(|| run.finish()));
    let failure = match ended {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(failure),
        Err(panic) => Some(Failure::new("assertion", panic_text(&*panic))),
    };
    let (hash, events) = run.trace.end();
    Report {
        seed,
        failure,
        hash,
        events,
        nanos: run.now,
        height: run.oracles.height(),
        transactions: (run.clients.done_count(), run.clients.count()),
    }
}

fn panic_text(panic: &(dyn core::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without words".to_owned())
}

impl<'a> Run<'a> {
    fn new(material: &'a Material, seed: u64, profile: Profile, trace: Trace) -> Self {
        let count = material.nodes();
        let stream = |name: &str| Random::stream(seed, name);
        let liar = profile.byzantine.as_ref().map(|(place, _)| *place);
        let ahead = |place: usize| profile.clocks_ahead_millis.get(place).copied().unwrap_or(0);
        let nodes =
            (0..count).map(|place| Node::new(material, place, liar == Some(place), ahead(place)));
        let heal_at = profile.heal_at;
        let mut run = Self {
            material,
            now: 0,
            sequence: 0,
            queue: BTreeMap::new(),
            nodes: nodes.collect(),
            randoms: (0..count).map(|place| stream(&format!("node {place}"))).collect(),
            network: Network::new(count, stream("network")),
            clients: Clients::new(material, stream("clients"), profile.transactions, heal_at),
            byzantine: profile
                .byzantine
                .map(|(place, vices)| Byzantine::new(place, vices, stream("byzantine"))),
            oracles: Oracles::new(Ledger::genesis_roots(material), liar),
            heal_at,
            crashes: stream("crashes"),
            torn_nanos: vec![0; count],
            trace,
        };
        for place in 0..count {
            run.post(0, Event::Start(place));
        }
        let starts: Vec<_> = run.clients.starts().collect();
        for (client, at) in starts {
            run.post(10 * MILLISECOND + at, Event::Client(client));
        }
        for (at, fault) in profile.faults {
            run.post(at, Event::Fault(fault));
        }
        run.post(heal_at, Event::Heal);
        run
    }

    fn post(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), event);
    }

    fn finish(&mut self) -> Result<(), Failure> {
        let mut events = 0;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            self.happen(event)?;
            events += 1;
            if self.now > self.heal_at && self.is_done() {
                return self.check_end();
            }
            if self.now > self.heal_at + LIVENESS_NANOS || events > EVENTS_COUNT_MAX {
                return Err(self.standstill());
            }
        }
        if self.is_done() { self.check_end() } else { Err(self.standstill()) }
    }

    fn standstill(&self) -> Failure {
        let heights: Vec<u64> = self.nodes.iter().map(Node::height).collect();
        let waiting = self.clients.waiting_count();
        let text = format!("{waiting} clients wait, heights {heights:?} long after the healing");
        Failure::new("liveness after healing", text)
    }

    /// Whether nobody waits and all honest nodes have executed the same chain.
    fn is_done(&self) -> bool {
        let height = self.oracles.height();
        let mut honest = self.nodes.iter().filter(|node| !node.is_byzantine);
        self.clients.are_done() && honest.all(|node| node.height() == height)
    }

    fn check_end(&self) -> Result<(), Failure> {
        let mut first = None;
        for node in self.nodes.iter().filter(|node| !node.is_byzantine) {
            let place = node.place;
            let Some(life) = &node.life else { continue };
            self.oracles.check_durability(place, &life.receipts, life.ledger.height())?;
            let totals = life
                .ledger
                .audit()
                .map_err(|error| Failure::new("conservation", format!("node {place}: {error}")))?;
            let expected = first.get_or_insert(totals.clone());
            if *expected != totals {
                let text = format!("node {place} has other totals");
                return Err(Failure::new("conservation", text));
            }
        }
        let issued = 1_000 * 8;
        let supply = first.iter().flat_map(|totals| totals.assets.values());
        if supply.into_iter().any(|asset| asset.supply != issued) {
            return Err(Failure::new("conservation", "the supply is not what was issued"));
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Start(place) => self.start(place),
            Event::Task { place, life, task } => {
                if self.nodes[place].lives != life || self.nodes[place].life.is_none() {
                    return Ok(());
                }
                self.trace.event(self.now, place, task.name(), &[], String::new);
                self.with(place, |node, outside| node.run(outside, task))
            }
            Event::Frame { from, to, epoch, wire } => self.frame(from, to, epoch, *wire),
            Event::Open(first, second) => self.open(first, second),
            Event::Close(first, second) => self.close(first, second, true),
            Event::Client(client) => self.client(client),
            Event::Fault(fault) => self.fault(fault),
            Event::Mend { from, to } => {
                self.network.mend(from, to);
                self.open(from, to)
            }
            Event::Heal => self.heal(),
        }
    }

    /// Lets a node work, and sees to what it asks for.
    fn with(
        &mut self,
        place: usize,
        work: impl FnOnce(&mut Node, &mut Outside<'_>) -> Result<(), Halt>,
    ) -> Result<(), Failure> {
        let mut outside = Outside {
            now: self.now,
            material: self.material,
            oracles: &mut self.oracles,
            random: &mut self.randoms[place],
            sends: Vec::new(),
            later: Vec::new(),
            replies: Vec::new(),
            notes: Vec::new(),
        };
        let ended = work(&mut self.nodes[place], &mut outside);
        let Outside { sends, later, replies, notes, .. } = outside;
        for note in notes {
            self.trace.event(self.now, place, "note", &[], || note);
        }
        let life = self.nodes[place].lives;
        for (delay, task) in later {
            self.post(delay, Event::Task { place, life, task });
        }
        for reply in replies {
            self.reply(place, reply);
        }
        self.send(place, sends);
        match ended {
            Ok(()) => Ok(()),
            Err(Halt::Failed(failure)) => Err(failure),
            Err(Halt::Died) => {
                let nanos = self.torn_nanos[place];
                self.down(place, Crash::Power, nanos)
            }
        }
    }

    fn reply(&mut self, place: usize, reply: Reply) {
        let (id, kind) = match reply {
            Reply::Receipt(receipt) => {
                self.clients.done(&receipt.id);
                (receipt.id, "receipt")
            }
            Reply::Expired(id) => {
                self.clients.expired(&id);
                (id, "expired")
            }
        };
        self.trace.event(self.now, place, kind, id.as_bytes(), || id.to_string());
    }

    fn send(&mut self, from: usize, mut sends: Vec<(usize, Wire)>) {
        if let Some(liar) = self.byzantine.as_mut().filter(|liar| liar.place == from) {
            sends = liar.twist(self.material, self.nodes[from].life.as_ref(), sends);
        }
        for (to, wire) in sends {
            let Some(epoch) = self.network.epoch(from, to) else { continue };
            let route = self.network.route(self.now, from, to, &wire);
            for at in route.arrivals {
                let wire = Box::new(wire.clone());
                self.post(at - self.now, Event::Frame { from, to, epoch, wire });
            }
            if let Some(delay) = route.reset_in {
                self.post(delay, Event::Close(from, to));
            }
        }
    }

    fn frame(&mut self, from: usize, to: usize, epoch: u32, wire: Wire) -> Result<(), Failure> {
        if self.network.epoch(from, to) != Some(epoch) || self.nodes[to].life.is_none() {
            return Ok(());
        }
        self.trace.event(self.now, to, "frame", &wire.fingerprint(), || {
            format!("from {from}: {}", wire.describe())
        });
        self.with(to, |node, outside| node.receive(outside, from, wire))
    }

    fn start(&mut self, place: usize) -> Result<(), Failure> {
        if self.nodes[place].life.is_some() {
            return Ok(());
        }
        self.trace.event(self.now, place, "start", &[], String::new);
        self.with(place, Node::start)?;
        for other in (0..self.nodes.len()).filter(|other| *other != place) {
            if self.nodes[other].life.is_some() {
                let delay = 1 + self.crashes.below(5) * MILLISECOND;
                self.post(delay, Event::Open(place, other));
            }
        }
        Ok(())
    }

    fn open(&mut self, first: usize, second: usize) -> Result<(), Failure> {
        let are_up = [first, second].into_iter().all(|place| self.nodes[place].life.is_some());
        if !are_up || !self.network.open(first, second) {
            return Ok(());
        }
        for (place, peer) in [(first, second), (second, first)] {
            self.trace.event(self.now, place, "up", &[], || format!("node {peer}"));
            self.with(place, |node, outside| node.link(outside, peer, true))?;
        }
        Ok(())
    }

    /// Ends a link; `again` opens it a little later.
    fn close(&mut self, first: usize, second: usize, again: bool) -> Result<(), Failure> {
        if again && !self.network.is_dirty(first, second) && !self.network.is_cut(first, second) {
            // It was renewed since.
            return Ok(());
        }
        if !self.network.close(first, second) {
            return Ok(());
        }
        for (place, peer) in [(first, second), (second, first)] {
            self.trace.event(self.now, place, "down", &[], || format!("node {peer}"));
            self.with(place, |node, outside| node.link(outside, peer, false))?;
        }
        if again {
            let delay = 1 + self.crashes.below(20) * MILLISECOND;
            self.post(delay, Event::Open(first, second));
        }
        Ok(())
    }

    fn client(&mut self, client: usize) -> Result<(), Failure> {
        let (transaction, again) = self.clients.turn(client);
        if let Some(again) = again {
            self.post(again, Event::Client(client));
        }
        let Some(transaction) = transaction else { return Ok(()) };
        let place = self.clients.choose(self.nodes.len());
        let id = transaction.view().id();
        self.trace.event(self.now, place, "submit", id.as_bytes(), || id.to_string());
        self.with(place, |node, outside| node.submit(outside, &transaction))
    }

    fn fault(&mut self, fault: Fault) -> Result<(), Failure> {
        if self.now >= self.heal_at {
            return Ok(());
        }
        match fault {
            Fault::Weather(conditions) => {
                self.trace.event(self.now, 0, "weather", &[], || format!("{conditions:?}"));
                self.network.conditions = conditions;
                Ok(())
            }
            Fault::Cut { from, to, nanos } => {
                self.trace.event(self.now, from, "cut", &[], || format!("to {to}"));
                self.network.cut(from, to);
                self.post(nanos, Event::Mend { from, to });
                self.post(KEEP_ALIVE_NANOS, Event::Close(from, to));
                Ok(())
            }
            Fault::Crash { place, crash, down_nanos } => self.down(place, crash, down_nanos),
            Fault::Card { place, nanos } => {
                self.trace.event(self.now, place, "card-away", &[], || format!("{nanos} ns"));
                self.nodes[place].card_back_at = self.now + nanos;
                Ok(())
            }
        }
    }

    fn down(&mut self, place: usize, crash: Crash, nanos: u64) -> Result<(), Failure> {
        if let Crash::Torn(operations) = crash {
            // It dies in the middle of what it writes next.
            self.torn_nanos[place] = nanos;
            self.nodes[place].disk.disk.stop_after(operations);
            return Ok(());
        }
        if crash == Crash::Signing {
            self.torn_nanos[place] = nanos;
            self.nodes[place].dies_at_sign = true;
            return Ok(());
        }
        self.trace.event(self.now, place, "crash", &[], || format!("{crash:?}"));
        self.nodes[place].stop();
        let disk = self.nodes[place].disk.disk.clone();
        disk.revive();
        if crash == Crash::Power {
            disk.cut_power(self.crashes.next());
        }
        if crash == Crash::Wipe {
            self.nodes[place].wipe(self.material, self.now);
        }
        for other in (0..self.nodes.len()).filter(|other| *other != place) {
            self.close(place, other, false)?;
        }
        self.post(nanos.max(MILLISECOND), Event::Start(place));
        Ok(())
    }

    /// From here on nothing goes wrong but what the byzantine node does.
    fn heal(&mut self) -> Result<(), Failure> {
        self.trace.event(self.now, 0, "heal", &[], String::new);
        self.network.heal();
        for place in 0..self.nodes.len() {
            if self.nodes[place].life.is_some() {
                self.nodes[place].disk.disk.revive();
            }
            self.nodes[place].dies_at_sign = false;
            self.post(1, Event::Start(place));
        }
        for first in 0..self.nodes.len() {
            for second in first + 1..self.nodes.len() {
                self.close(first, second, false)?;
                self.post(5 * MILLISECOND, Event::Open(first, second));
            }
        }
        Ok(())
    }
}
