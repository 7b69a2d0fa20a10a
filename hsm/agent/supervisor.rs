//! Who starts the agent, watches it, kills it and starts it again.
//!
//! ```text
//! waiting -> starting (hello) -> opening (keys known from before) -> serving
//!    ^                                                                  |  ended, hangs, nonsense
//!    `------- back-off <------ reaped <------ killed, calls failed <----'
//! ```
//!
//! The supervisor is a tile; it needs a thread that lives as long as the agent, because the agent
//! dies with the thread that started it, and because starting a process takes longer than a tile
//! beside others may. It never waits for the agent: everything is a descriptor or a deadline.
//!
//! The process is started with nothing inherited but a socket as its standard input; memory and
//! waker follow over that. So no descriptor is ever open across an `exec` that others run at the
//! same time, and the node need not be forked with all its memory.
//!
//! An agent that others run (systemd, as another user) is reached by its socket instead, gets
//! memory and waker the same way, and is over for us when the connection is.
//!
//! An agent that says that its card cannot be served for good (a wrong PIN before all) is not
//! started again: each start would be one more attempt at the PIN. So it is with one that ends in
//! any other way while it tries a PIN that has not worked before.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::PublicKey;
use hufu_runtime::clock::{self, Nanos};
use hufu_runtime::thread::{Group, Running, ThreadConfig, abort_process};
use hufu_runtime::tile::{Fatal, Progress, Tile};
use hufu_runtime::wake::PollSet;

use super::client::AgentClient;
use super::config::AgentConfig;
use super::peer::Peer;
use super::protocol::{self, BODY_BYTES_MAX, MESSAGE_BYTES_MAX, Malformed, Message, Op};
use super::ring::{Body, NodeEnd, Place, Waited};
use super::shared::{Generation, Key, Service, Shared, header, locked};
use super::status::AgentState;
use super::submitter::Submitter;
use super::{errors, os};
use crate::error::{Error, ErrorClass};
use crate::keystore::CardIdentity;

/// Between two looks at an agent that serves.
const WATCH_TIME: Duration = Duration::from_millis(100);

/// Between two looks at keys that are being opened again.
const OPENING_TIME: Duration = Duration::from_millis(1);

/// How long an agent that closed its socket may take to end.
const CLOSED_TIME: Duration = Duration::from_millis(500);

/// How many reports of an agent may be ahead of two a second, count: an agent of ours sends one.
const REPORTS_AHEAD: u64 = 8;

/// Messages taken from the socket in one poll at most, count.
const MESSAGES_PER_POLL: usize = 4;

/// An agent with its supervisor on a thread of its own.
#[derive(Debug)]
pub struct Agent {
    client: AgentClient,
    running: Option<Running>,
}

impl Agent {
    /// Starts the supervisor, which starts the agent. Does not wait for the card:
    /// [`AgentClient::wait_ready`] does.
    ///
    /// # Errors
    /// If the configuration does not hold together or the host refuses descriptors or the thread.
    pub fn start(config: AgentConfig) -> Result<(Self, Submitter), Error> {
        let host = |reason: String| Error::Agent { reason };
        let mut thread = ThreadConfig::new(&format!("hsm-{}", config.name));
        thread.housekeeping = Duration::from_secs(1);
        let (supervisor, client, submitter) = supervise(config)?;
        let mut group = Group::new(abort_process());
        let id = group.thread(thread).map_err(|error| host(error.to_string()))?;
        group.add(id, 0, Box::new(supervisor));
        let running = group.start().map_err(|failure| host(failure.to_string()))?;
        Ok((Self { client, running: Some(running) }, submitter))
    }

    /// The keystore.
    #[must_use]
    pub const fn client(&self) -> &AgentClient {
        &self.client
    }

    /// Lets the agent answer what was asked and end; kills it if it does not.
    ///
    /// # Errors
    /// If the supervisor's thread failed.
    pub fn stop(mut self) -> Result<(), Error> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), Error> {
        let Some(running) = self.running.take() else { return Ok(()) };
        running.request_stop();
        running.join().map_err(|failure| Error::Agent { reason: failure.to_string() })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The failure of a thread has been through the fatal handler already.
        drop(self.finish());
    }
}

/// The three parts of one agent, for a node that puts the supervisor on a thread of its own
/// choice.
///
/// # Errors
/// As [`Agent::start`].
pub fn supervise(config: AgentConfig) -> Result<(Supervisor, AgentClient, Submitter), Error> {
    let shared = Shared::new(config)?;
    let supervisor = Supervisor {
        name: format!("hsm-{}", shared.config.name),
        shared: Arc::clone(&shared),
        process: None,
        start_at: Some(Nanos::ZERO),
        failures_count: 0,
        looked: Nanos::ZERO,
        is_pin_known: false,
        is_stopping: false,
    };
    let submitter = Submitter::new(Arc::clone(&shared));
    Ok((supervisor, AgentClient { shared }, submitter))
}

/// See the module.
#[derive(Debug)]
pub struct Supervisor {
    name: String,
    shared: Arc<Shared>,
    process: Option<Process>,
    /// Nothing where no start is to come.
    start_at: Option<Nanos>,
    /// Ends in a row without health between them.
    failures_count: u32,
    looked: Nanos,
    /// An agent came into service, so that the PIN was right.
    is_pin_known: bool,
    is_stopping: bool,
}

#[derive(Debug)]
struct Process {
    peer: Peer,
    socket: OwnedFd,
    generation: Arc<Generation>,
    stage: Stage,
    /// It said that it tries the PIN.
    logs_in: bool,
    started: Nanos,
    serving_since: Option<Nanos>,
    closed_at: Option<Nanos>,
    reports_count: u64,
    /// The last heartbeat that differed from the one before, and when.
    beat: (u32, Nanos),
}

#[derive(Debug)]
enum Stage {
    Starting,
    /// The call that opens the next key, if it is under way.
    Opening(Option<Place>),
    Serving,
    /// Until when it may take.
    Stopping(Nanos),
    /// Killed.
    Ending,
}

/// Why an agent must not go on.
#[derive(Debug)]
struct Trouble {
    error: Error,
    /// Whether no other agent may be tried.
    is_final: bool,
    /// The agent said it itself: it knows what became of the PIN.
    is_told: bool,
}

impl Trouble {
    fn passing(reason: impl Into<String>) -> Self {
        Self { error: Error::Agent { reason: reason.into() }, is_final: false, is_told: false }
    }

    const fn lasting(error: Error) -> Self {
        Self { error, is_final: true, is_told: true }
    }

    /// In words, without what every error of an agent begins with.
    fn reason(&self) -> String {
        match &self.error {
            Error::Agent { reason } => reason.clone(),
            error => error.to_string(),
        }
    }

    fn protocol(reason: impl std::fmt::Display) -> Self {
        let error = Error::AgentProtocol { reason: reason.to_string() };
        Self { error, is_final: false, is_told: false }
    }
}

impl Tile for Supervisor {
    fn name(&self) -> &str {
        &self.name
    }

    fn poll(&mut self, now: Nanos) -> Result<Progress, Fatal> {
        self.shared.supervisor_event.clear();
        self.looked = now;
        match self.process.take() {
            Some(process) => self.process = self.watch(process, now),
            None if self.is_stopping => {
                locked(&self.shared.status).state = AgentState::Stopped;
                self.set_down(Error::Agent { reason: "stopped".to_owned() });
                return Ok(Progress::Done);
            }
            None if self.start_at.is_some_and(|at| at <= now) => self.start(now),
            None => {}
        }
        Ok(Progress::Idle)
    }

    fn deadline(&self) -> Option<Nanos> {
        let Some(process) = &self.process else { return self.start_at };
        let looked = self.looked;
        Some(match &process.stage {
            Stage::Opening(_) => looked.after(OPENING_TIME),
            _ if process.closed_at.is_some() => looked.after(CLOSED_TIME),
            Stage::Starting => process.started.after(self.shared.config.start_time),
            Stage::Stopping(until) => *until,
            Stage::Serving => looked.after(WATCH_TIME),
            // A connection that is given up is over with the next poll.
            Stage::Ending => return process.peer.ended().is_none().then_some(Nanos::ZERO),
        })
    }

    fn poll_fds<'a>(&'a self, fds: &mut PollSet<'_, 'a>) {
        fds.readable(self.shared.supervisor_event.descriptor());
        if let Some(process) = &self.process {
            if let Some(ended) = process.peer.ended() {
                fds.readable(ended);
            }
            // One that is being ended is not listened to, however much it has said.
            if process.closed_at.is_none() && !matches!(process.stage, Stage::Ending) {
                fds.readable(&process.socket);
            }
        }
    }

    fn stop(&mut self) {
        self.is_stopping = true;
        self.start_at = None;
        let Some(mut process) = self.process.take() else { return };
        let bytes = Message::Stop.to_bytes();
        let is_told = matches!(process.stage, Stage::Serving)
            && os::send(process.socket.as_fd(), &bytes, &[]).is_ok();
        if is_told {
            self.set_down(Error::Agent { reason: "stopped".to_owned() });
            let until = clock::monotonic().after(self.shared.config.stop_time);
            process.stage = Stage::Stopping(until);
        } else {
            self.fall(&mut process, Trouble::passing("stopped"));
        }
        self.process = Some(process);
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            process.generation.line.end("its supervisor is gone");
        }
    }
}

impl Supervisor {
    fn set_down(&self, error: Error) {
        self.shared.set_service(Service::Down(error));
    }

    fn start(&mut self, now: Nanos) {
        self.start_at = None;
        match self.spawn(now) {
            Ok(process) => {
                let mut status = locked(&self.shared.status);
                status.state = AgentState::Starting;
                status.process = Some(process.peer.process());
                status.starts_count += 1;
                drop(status);
                self.process = Some(process);
            }
            Err(error) => {
                let reason = format!("{}: {error}", self.shared.config.source);
                locked(&self.shared.status).last_failure = Some(reason.clone());
                self.set_down(Error::Agent { reason });
                self.plan_restart(now);
            }
        }
    }

    fn spawn(&self, now: Nanos) -> io::Result<Process> {
        let config = &self.shared.config;
        let line = NodeEnd::create(config.slots_count)?;
        let (waker, their_waker) = os::socket_pair()?;
        let welcome = Message::Welcome {
            slots_count: config.slots_count,
            spin_nanos: u64::try_from(config.worker_spin.as_nanos()).unwrap_or(u64::MAX),
        };
        let (peer, socket) = Peer::reach(&config.source, |socket| {
            let fds = [line.descriptor(), their_waker.as_fd()];
            os::send(socket.as_fd(), &welcome.to_bytes(), &fds)
        })?;
        // An older kernel leaves it to who receives them to close them.
        let _is_refused = [&waker, &socket].map(|end| os::refuse_descriptors(end.as_fd()));
        Ok(Process {
            peer,
            socket,
            generation: Arc::new(Generation::new(line, waker)),
            stage: Stage::Starting,
            logs_in: false,
            started: now,
            serving_since: None,
            closed_at: None,
            reports_count: 0,
            beat: (0, now),
        })
    }

    /// Looks after the process once; nothing when it has ended.
    fn watch(&mut self, mut process: Process, now: Nanos) -> Option<Process> {
        let mut checked = self.hear(&mut process, now);
        let is_closed = process.closed_at.is_some();
        match process.peer.end(is_closed, matches!(process.stage, Stage::Ending)) {
            Ok(Some(how)) => {
                // Its last words came before its end: a refusal must not be lost, or a wrong PIN
                // would be tried again.
                let heard = checked.and_then(|()| self.hear(&mut process, now)).err();
                self.reap(&process, heard, &how, now);
                return None;
            }
            Ok(None) => {}
            Err(error) => checked = Err(Trouble::passing(format!("cannot be watched: {error}"))),
        }
        let checked = checked.and_then(|()| self.check(&mut process, now));
        if let Err(trouble) = checked {
            self.fall(&mut process, trouble);
        }
        Some(process)
    }

    /// Takes in what the agent says over its socket.
    fn hear(&mut self, process: &mut Process, now: Nanos) -> Result<(), Trouble> {
        for _ in 0..MESSAGES_PER_POLL {
            if process.closed_at.is_some() || matches!(process.stage, Stage::Ending) {
                break;
            }
            let mut bytes = vec![0; MESSAGE_BYTES_MAX];
            // Descriptors that an agent sends are closed unseen.
            let mut fds = Vec::new();
            let count = match os::receive(process.socket.as_fd(), &mut bytes, &mut fds) {
                Ok(0) => {
                    process.closed_at = Some(now);
                    break;
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    process.closed_at = Some(now);
                    break;
                }
                Err(error) => return Err(Trouble::protocol(error)),
            };
            let message = Message::from_bytes(bytes.get(..count).unwrap_or_default());
            let message = message.map_err(|Malformed(what)| Trouble::protocol(what))?;
            self.take_in(process, message, now)?;
        }
        Ok(())
    }

    fn take_in(
        &mut self,
        process: &mut Process,
        message: Message,
        now: Nanos,
    ) -> Result<(), Trouble> {
        match (message, &process.stage) {
            (Message::Hello { workers_count, identity, notes }, Stage::Starting) => {
                let mut status = locked(&self.shared.status);
                if let Some(before) = &status.identity {
                    same_card(before, &identity).map_err(Trouble::lasting)?;
                }
                status.identity = Some(identity);
                status.workers_count = workers_count;
                status.notes = notes;
                drop(status);
                self.is_pin_known = true;
                process.stage = Stage::Opening(None);
                Ok(())
            }
            (Message::Refusal(bytes), Stage::Starting) => {
                let error = errors::from_bytes(&bytes);
                let error = error.map_err(|Malformed(what)| Trouble::protocol(what))?;
                // A token that was there is away now, and nobody has tried its PIN.
                let is_known = locked(&self.shared.status).identity.is_some();
                if is_known && matches!(error, Error::TokenMissing { .. }) {
                    return Err(Trouble::passing(error.to_string()));
                }
                let is_final = error.class() == ErrorClass::Permanent;
                Err(Trouble { error, is_final, is_told: true })
            }
            (Message::LogsIn, Stage::Starting) if !process.logs_in => {
                process.logs_in = true;
                Ok(())
            }
            (Message::Report(report), Stage::Opening(_) | Stage::Serving | Stage::Stopping(_)) => {
                process.reports_count += 1;
                let age = now.duration_since(process.started).as_secs();
                if process.reports_count > age.saturating_mul(2).saturating_add(REPORTS_AHEAD) {
                    return Err(Trouble::protocol("more reports than anybody asked for"));
                }
                locked(&self.shared.status).report = Some(*report);
                Ok(())
            }
            _ => Err(Trouble::protocol("a message out of turn")),
        }
    }

    fn check(&self, process: &mut Process, now: Nanos) -> Result<(), Trouble> {
        let config = &self.shared.config;
        if let Some(reason) = process.generation.line.condemned() {
            return Err(Trouble::protocol(reason));
        }
        if process.closed_at.is_some_and(|at| now >= at.after(CLOSED_TIME)) {
            return Err(Trouble::passing("closed its connection"));
        }
        match process.stage {
            Stage::Starting if now >= process.started.after(config.start_time) => {
                Err(Trouble::passing(format!("not ready after {:?}", config.start_time)))
            }
            Stage::Starting | Stage::Ending => Ok(()),
            Stage::Stopping(until) if now >= until => {
                Err(Trouble::passing(format!("still running {:?} after stop", config.stop_time)))
            }
            Stage::Stopping(_) => Ok(()),
            Stage::Opening(_) => {
                self.check_life(process, now)?;
                self.open_keys(process, now)
            }
            Stage::Serving => self.check_life(process, now),
        }
    }

    /// Notices an agent that hangs: silent, or with a call long past its deadline.
    fn check_life(&self, process: &mut Process, now: Nanos) -> Result<(), Trouble> {
        let config = &self.shared.config;
        let line = &process.generation.line;
        let beat = line.heartbeat();
        if beat != process.beat.0 {
            process.beat = (beat, now);
        } else if now >= process.beat.1.after(config.silence_time) {
            return Err(Trouble::passing(format!("silent for {:?}", config.silence_time)));
        }
        let overdue = Duration::from_nanos(line.overdue_nanos(os::host_nanos()));
        if overdue >= config.grace {
            return Err(Trouble::passing(format!(
                "hangs: a call is {overdue:?} past its deadline"
            )));
        }
        Ok(())
    }

    /// Opens the keys that were open before, one after the other, and then takes the agent into
    /// service.
    fn open_keys(&self, process: &mut Process, now: Nanos) -> Result<(), Trouble> {
        let generation = Arc::clone(&process.generation);
        loop {
            let keys = self.shared.keys();
            let Some(key) = keys.get(generation.handles_count()).cloned() else {
                // With the keys locked nobody adds one that this agent does not know.
                process.stage = Stage::Serving;
                process.serving_since = Some(now);
                locked(&self.shared.status).state = AgentState::Serving;
                self.shared.set_service(Service::Up(generation));
                drop(keys);
                return Ok(());
            };
            drop(keys);
            let Stage::Opening(opening) = &mut process.stage else { return Ok(()) };
            let Some(place) = opening.take() else {
                let none = || Trouble::protocol("no slot in new memory");
                let place = generation.line.take(0).ok_or_else(none)?;
                let latest = self.shared.latest(Nanos::MAX);
                let request = protocol::open_request(&key.reference, key.usage);
                generation.line.request(&place, header(Op::OpenKey, 0, latest, false), &request);
                *opening = Some(place);
                return Ok(());
            };
            match generation.line.look(&place) {
                None => {
                    *opening = Some(place);
                    return Ok(());
                }
                Some(Waited::Answered) => {
                    let handle = self.opened(&generation, &key, &place);
                    generation.line.release(place, false);
                    generation.add_handle(handle?);
                }
                Some(Waited::Late | Waited::Ended) => {
                    return Err(Trouble::protocol("ended while its keys were opened"));
                }
            }
        }
    }

    /// What the agent says of a key that was open before. A key that is missing now fails whoever
    /// uses it; one that is another key now fails the card.
    fn opened(
        &self,
        generation: &Generation,
        key: &Key,
        place: &Place,
    ) -> Result<Result<u32, Error>, Trouble> {
        let mut body: Body = [0; BODY_BYTES_MAX];
        let found = self.shared.take_answer(generation, place, Op::OpenKey, &mut body);
        let found = found.and_then(|size| {
            self.shared.read_opened(generation, key.usage, body.get(..size).unwrap_or_default())
        });
        match found {
            Ok((handle, public)) if public == key.public => Ok(Ok(handle)),
            Ok((_, public)) => Err(Trouble::lasting(Error::CardChanged {
                field: "public key",
                before: shown(key.public.as_ref()),
                after: shown(public.as_ref()),
            })),
            Err(error) if error.class() == ErrorClass::Permanent => Ok(Err(error)),
            Err(error) => Err(Trouble { error, is_final: false, is_told: true }),
        }
    }

    /// Fails all calls, kills the process and leaves its end to be noticed.
    fn fall(&mut self, process: &mut Process, trouble: Trouble) {
        if matches!(process.stage, Stage::Ending) {
            return;
        }
        let trouble = self.judged(process, trouble);
        let reason = trouble.reason();
        self.note_failure(&trouble, AgentState::Ending);
        self.set_down(trouble.error);
        process.generation.line.end(&reason);
        process.peer.kill();
        locked(&self.shared.status).kills_count += 1;
        process.stage = Stage::Ending;
    }

    /// What ends an agent while it tries a PIN that never worked may be what the PIN brought about.
    fn judged(&self, process: &Process, trouble: Trouble) -> Trouble {
        let is_unclear = process.logs_in && matches!(process.stage, Stage::Starting);
        if !is_unclear || self.is_pin_known || self.is_stopping || trouble.is_told {
            return trouble;
        }
        Trouble::lasting(Error::PinUnanswered { reason: trouble.reason() })
    }

    fn note_failure(&mut self, trouble: &Trouble, state: AgentState) {
        let mut status = locked(&self.shared.status);
        status.last_failure = Some(trouble.reason());
        status.state = if trouble.is_final { AgentState::Refused } else { state };
    }

    /// The process has ended and was waited for.
    fn reap(&mut self, process: &Process, heard: Option<Trouble>, how: &str, now: Nanos) {
        locked(&self.shared.status).process = None;
        if !matches!(process.stage, Stage::Ending) {
            let trouble = heard.unwrap_or_else(|| Trouble::passing(how));
            let trouble = self.judged(process, trouble);
            let reason = trouble.reason();
            self.note_failure(&trouble, AgentState::Waiting);
            if !self.is_stopping {
                self.set_down(trouble.error);
            }
            process.generation.line.end(&reason);
        }
        let mut known = locked(&self.shared.status);
        if self.is_stopping || known.state == AgentState::Refused {
            return;
        }
        known.state = AgentState::Waiting;
        drop(known);
        let health = self.shared.config.health_time;
        if process.serving_since.is_some_and(|since| now >= since.after(health)) {
            self.failures_count = 0;
        }
        self.plan_restart(now);
    }

    /// The first restart is at once, later ones wait longer and longer.
    fn plan_restart(&mut self, now: Nanos) {
        let config = &self.shared.config;
        let wait = match self.failures_count.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => {
                let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
                config.restart_wait_min.saturating_mul(factor).min(config.restart_wait_max)
            }
        };
        self.failures_count = self.failures_count.saturating_add(1);
        if !self.is_stopping {
            self.start_at = Some(now.after(wait));
        }
    }
}

/// Whether the card is the one that was there before.
fn same_card(before: &CardIdentity, after: &CardIdentity) -> Result<(), Error> {
    let version = |(major, minor): (u8, u8)| format!("{major}.{minor}");
    let texts = |card: &CardIdentity| {
        [
            ("library manufacturer", card.library_manufacturer.clone()),
            ("library version", version(card.library_version)),
            ("token label", card.token_label.clone()),
            ("token manufacturer", card.token_manufacturer.clone()),
            ("token model", card.token_model.clone()),
            ("token serial", card.token_serial.clone()),
            ("firmware version", version(card.firmware_version)),
            ("hardware version", version(card.hardware_version)),
        ]
    };
    for ((field, before), (_, after)) in texts(before).into_iter().zip(texts(after)) {
        if before != after {
            return Err(Error::CardChanged { field, before, after });
        }
    }
    Ok(())
}

fn shown(key: Option<&PublicKey>) -> String {
    key.map_or_else(|| "none".to_owned(), ToString::to_string)
}
