//! The agent's end: any [`Keystore`], served to the node that started this process.
//!
//! ```text
//! main thread: inherited() -> sandbox -> load the library -> serve(): hello, heartbeat, stop
//! workers:     ring -> check -> Keystore -> answer -> ring
//! ```
//!
//! A worker is a thread with one session's worth of work: the pool behind the keystore should have
//! as many. A worker that hangs in the library hangs alone; the node sees its call overdue and
//! kills the process. What the node wrote is checked as strictly as the node checks us: a request
//! that no node of ours makes ends this process.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::Signature;
use hufu_runtime::clock::{self, Nanos};
use hufu_runtime::process::die_with_parent;
use hufu_runtime::thread::{Group, Running, ThreadConfig, abort_process};
use hufu_runtime::tile::{Fatal, Progress, Tile};
use hufu_runtime::wake::Parker;
use zerocopy::IntoBytes;
use zeroize::Zeroize;

use super::protocol::{
    self, AnswerHeader, BODY_BYTES_MAX, MESSAGE_BYTES_MAX, Malformed, Message, Op,
};
use super::ring::{AgentEnd, Body, Job, Nonsense};
use super::{errors, os};
use crate::error::Error;
use crate::keystore::{KeyHandle, Keystore, SIGN_MANY_MAX, Usage, WRAPPED_BYTES_MAX};

/// Workers of one agent at most, count.
pub const WORKERS_COUNT_MAX: usize = 64;

/// How long an agent waits for the node's welcome.
const WELCOME_TIME: Duration = Duration::from_secs(10);

/// How long somebody who is turned away is listened to.
const STRANGER_TIME: Duration = Duration::from_millis(50);

/// How long the card may take to say who it is, when everything else is ready.
const IDENTITY_TIME: Duration = Duration::from_secs(30);

/// Between two beats of the heart.
const BEAT: Duration = Duration::from_millis(100);

/// Between two reports of what the card counts.
const REPORT_PAUSE: Duration = Duration::from_secs(1);

/// How long a worker sleeps at most before it looks whether it should stop.
const WORKER_SLEEP: Duration = Duration::from_millis(250);

/// How long calls that are under way may take when the node says stop.
const DRAIN_TIME: Duration = Duration::from_secs(4);

/// Why [`Endpoint::serve`] came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServeEnd {
    /// The node said stop.
    Stopped,
    /// The node is gone. An agent that others run may accept the next one with the same card.
    NodeGone,
}

/// The socket of an agent that others run. Its file has the modes that the umask leaves, and goes
/// with this value. The folder decides who gets near; who may talk is asked of the kernel.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`, in place of a socket that an agent before left there.
    ///
    /// # Errors
    /// If something else is there, or the host refuses.
    pub fn bind(path: &Path) -> Result<Self, Error> {
        use std::os::unix::fs::FileTypeExt;
        let about = std::fs::symlink_metadata(path);
        if about.is_ok_and(|about| about.file_type().is_socket()) {
            std::fs::remove_file(path).map_err(host)?;
        }
        let told = |error| host(format!("{}: {error}", path.display()));
        let socket = os::listen(path).map_err(told)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// Waits for a node that runs as `user`; others are turned away.
    ///
    /// # Errors
    /// If the host refuses; a node that says nothing sensible is turned away like others.
    pub fn accept(&self, user: u32) -> Result<Endpoint, Error> {
        loop {
            if !os::wait_readable(self.socket.as_fd(), WELCOME_TIME).map_err(host)? {
                continue;
            }
            let socket = os::accept(self.socket.as_fd()).map_err(host)?;
            let Ok((process, found)) = os::peer(socket.as_fd()) else { continue };
            if found != user {
                turn_away(&socket, user, found);
            } else if let Ok(endpoint) = Endpoint::welcomed(socket, process) {
                return Ok(endpoint);
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody may have taken it away already.
        drop(std::fs::remove_file(&self.path));
    }
}

/// Tells a node of another user why it is not served. It gets little time: whoever is no node of
/// ours must not keep those that are waiting.
fn turn_away(socket: &OwnedFd, user: u32, found: u32) {
    // What it has sent is read, or the kernel would throw our answer away with it.
    if matches!(os::wait_readable(socket.as_fd(), STRANGER_TIME), Ok(true)) {
        let (mut bytes, mut fds) = (vec![0; MESSAGE_BYTES_MAX], Vec::new());
        drop(os::receive(socket.as_fd(), &mut bytes, &mut fds));
    }
    let reason = format!("it serves nodes of user {user}, and this one is of user {found}");
    let refusal = Message::Refusal(errors::to_bytes(&host(reason)));
    // One that has gone away already needs no answer.
    drop(os::send(socket.as_fd(), &refusal.to_bytes(), &[]));
}

/// The connection to the node, before the card is open. Made first of all in an agent's process.
#[derive(Debug)]
pub struct Endpoint {
    pub(super) socket: OwnedFd,
    pub(super) waker: OwnedFd,
    pub(super) line: Arc<AgentEnd>,
    node: u32,
}

fn host(reason: impl std::fmt::Display) -> Error {
    Error::Agent { reason: reason.to_string() }
}

fn protocol(reason: impl std::fmt::Display) -> Error {
    Error::AgentProtocol { reason: format!("by the node: {reason}") }
}

impl Endpoint {
    /// The connection that the node left as standard input when it started this process. From here
    /// on the process dies with the node's thread that started it, and holds no descriptor but
    /// this one and the standard ones: call it before anything is opened.
    ///
    /// # Errors
    /// If standard input is no socket of the parent process and the same user, or what comes over
    /// it is not what a node sends.
    pub fn inherited() -> Result<Self, Error> {
        os::close_inherited().map_err(host)?;
        let socket = os::take_standard_input().map_err(host)?;
        let not_ours = |_| host("standard input is no socket: agents are started by a node");
        let (process, user) = os::peer(socket.as_fd()).map_err(not_ours)?;
        if user != os::user() {
            return Err(host(format!("started by user {user}, runs as user {}", os::user())));
        }
        die_with_parent(process).map_err(host)?;
        Self::welcomed(socket, process)
    }

    /// Waits for the node's first message and maps what comes with it.
    fn welcomed(socket: OwnedFd, node: u32) -> Result<Self, Error> {
        if !os::wait_readable(socket.as_fd(), WELCOME_TIME).map_err(host)? {
            return Err(host("no welcome from the node"));
        }
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let mut fds = Vec::new();
        let count = os::receive(socket.as_fd(), &mut bytes, &mut fds).map_err(host)?;
        let message = Message::from_bytes(bytes.get(..count).unwrap_or_default());
        let message = message.map_err(|Malformed(what)| protocol(what))?;
        let Message::Welcome { slots_count, spin_nanos } = message else {
            return Err(protocol("the first message is no welcome"));
        };
        let Ok([memory, waker]) = <[OwnedFd; 2]>::try_from(fds) else {
            return Err(protocol("a welcome without memory and waker"));
        };
        let spin = Duration::from_nanos(spin_nanos);
        let line = AgentEnd::adopt(memory, slots_count, spin).map_err(protocol)?;
        Ok(Self { socket, waker, line: Arc::new(line), node })
    }

    /// The node's process, as the kernel knows it.
    #[must_use]
    pub const fn node(&self) -> u32 {
        self.node
    }

    /// Tells the node that the PIN may be tried from here on. An agent that ends after this and
    /// before it serves is not followed by another one, unless the PIN has worked before: some
    /// libraries crash or hang where they mean that it is wrong.
    ///
    /// # Errors
    /// If the node is gone; then the PIN need not be tried.
    pub fn logs_in(&self) -> Result<(), Error> {
        self.tell(&Message::LogsIn)
    }

    /// Tells the node that there is nothing to serve, and why. After a permanent error it does not
    /// start an agent again: a wrong PIN must not be tried twice.
    ///
    /// # Errors
    /// If the node is gone.
    pub fn refuse(self, error: &Error) -> Result<(), Error> {
        self.tell(&Message::Refusal(errors::to_bytes(error)))
    }

    fn tell(&self, message: &Message) -> Result<(), Error> {
        os::send(self.socket.as_fd(), &message.to_bytes(), &[]).map_err(host)
    }

    /// Serves until the node says stop or is gone. `workers_count` is how many calls run at once;
    /// `notes` is what the node logs of this process, a line each: the sandbox's report.
    ///
    /// # Errors
    /// If the card does not say who it is (the node has then been told), the host refuses threads,
    /// or a worker hangs in the library after the stop: then the process should end.
    ///
    /// # Panics
    /// If `workers_count` is not from 1 to [`WORKERS_COUNT_MAX`].
    pub fn serve(
        self,
        keystore: &Arc<dyn Keystore>,
        workers_count: usize,
        notes: Vec<String>,
    ) -> Result<ServeEnd, Error> {
        assert!((1..=WORKERS_COUNT_MAX).contains(&workers_count), "{workers_count} workers");
        let identity = match keystore.identity(clock::monotonic().after(IDENTITY_TIME)) {
            Ok(identity) => identity,
            Err(error) => {
                self.refuse(&error)?;
                return Err(error);
            }
        };
        let workers = self.start_workers(keystore, workers_count)?;
        let workers_count = u32::try_from(workers_count).unwrap_or(u32::MAX);
        self.tell(&Message::Hello { workers_count, identity, notes })?;
        let end = self.until_stop(&**keystore);
        drain(workers)?;
        end
    }

    fn start_workers(&self, keystore: &Arc<dyn Keystore>, count: usize) -> Result<Running, Error> {
        let waker = Arc::new(self.waker.try_clone().map_err(host)?);
        let mut group = Group::new(abort_process());
        for index in 0..count {
            let name = format!("hsm-worker-{index}");
            let thread = group.thread(ThreadConfig::new(&name)).map_err(host)?;
            let worker = Worker {
                name,
                line: Arc::clone(&self.line),
                keystore: Arc::clone(keystore),
                waker: Arc::clone(&waker),
                request: Box::new([0; BODY_BYTES_MAX]),
                answer: Box::new([0; BODY_BYTES_MAX]),
                is_stopping: false,
            };
            group.add(thread, 0, Box::new(worker));
        }
        group.start().map_err(host)
    }

    /// Beats until the node says stop or is gone.
    fn until_stop(&self, keystore: &dyn Keystore) -> Result<ServeEnd, Error> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let mut report_at = Nanos::ZERO;
        loop {
            self.line.beat();
            let now = clock::monotonic();
            if now >= report_at
                && let Some(report) = keystore.report()
            {
                report_at = now.after(REPORT_PAUSE);
                // A node that has no room for it now gets the next one.
                drop(self.tell(&Message::Report(Box::new(report))));
            }
            if !os::wait_readable(self.socket.as_fd(), BEAT).map_err(host)? {
                continue;
            }
            let mut fds = Vec::new();
            let count = match os::receive(self.socket.as_fd(), &mut bytes, &mut fds) {
                Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
                count => count.map_err(host)?,
            };
            match Message::from_bytes(bytes.get(..count).unwrap_or_default()) {
                _ if count == 0 => return Ok(ServeEnd::NodeGone),
                Ok(Message::Stop) => return Ok(ServeEnd::Stopped),
                Ok(_) => return Err(protocol("a message that only an agent sends")),
                Err(Malformed(what)) => return Err(protocol(what)),
            }
        }
    }
}

/// Lets the workers answer what was asked, as far as that goes in time.
fn drain(workers: Running) -> Result<(), Error> {
    workers.request_stop();
    let end = clock::monotonic().after(DRAIN_TIME);
    let mut parker = Parker::new().map_err(host)?;
    loop {
        let now = clock::monotonic();
        let step = now.after(Duration::from_millis(5)).min(end);
        if parker.wait_until(Some(step), || workers.is_finished()).map_err(host)? {
            return workers.join().map_err(host);
        }
        if now >= end {
            return Err(host("a worker hangs in the library"));
        }
    }
}

/// One thread that calls the library.
struct Worker {
    name: String,
    line: Arc<AgentEnd>,
    keystore: Arc<dyn Keystore>,
    waker: Arc<OwnedFd>,
    request: Box<Body>,
    answer: Box<Body>,
    is_stopping: bool,
}

impl Tile for Worker {
    fn name(&self) -> &str {
        &self.name
    }

    /// Waits in the ring instead of parking: a worker has its thread for itself, and the ring's
    /// futex costs one wake-up where the runner's descriptor would cost three calls.
    fn poll(&mut self, _now: Nanos) -> Result<Progress, Fatal> {
        let limit = if self.is_stopping { Duration::ZERO } else { WORKER_SLEEP };
        let job = self.line.next(limit, &mut self.request);
        match job.map_err(|Nonsense(what)| protocol(what))? {
            None if self.is_stopping => return Ok(Progress::Done),
            None => {}
            Some(job) => self.serve(&job)?,
        }
        // A busy worker has other sessions beside its own that may be idle.
        self.keystore.tend();
        Ok(Progress::Busy)
    }

    fn stop(&mut self) {
        self.is_stopping = true;
    }
}

impl Worker {
    fn serve(&mut self, job: &Job) -> Result<(), Fatal> {
        let number = job.header.op.get();
        let op = Op::from_number(number).ok_or_else(|| protocol(format!("operation {number}")))?;
        let broken = |Malformed(what)| protocol(format!("{op:?}: {what}"));
        match self.call(op, job).map_err(broken)? {
            Ok(size) => {
                let body = self.answer.get(..size).unwrap_or_default();
                self.line.answer(job, AnswerHeader::DONE, body);
            }
            Err(error) => {
                self.line.answer(job, AnswerHeader::FAILED, &errors::to_bytes(&error));
            }
        }
        if op.is_secret() {
            self.request.zeroize();
            self.answer.zeroize();
        }
        if job.header.is_polled.get() != 0 && self.line.signal() {
            // A full socket is readable at the other end, which is all that counts.
            drop(os::send_byte(self.waker.as_fd()));
        }
        Ok(())
    }

    /// Does one call; the size of the answer. The outer error is the node's fault, the inner one
    /// the card's.
    fn call(&mut self, op: Op, job: &Job) -> Result<Result<usize, Error>, Malformed> {
        let deadline = os::from_host(job.header.deadline.get());
        if clock::monotonic() >= deadline {
            return Ok(Err(Error::Deadline { stage: "waiting for a worker of the agent" }));
        }
        let key = KeyHandle(job.header.key.get());
        let body = self.request.get(..job.body_size).ok_or(Malformed("too long"))?;
        let answer = &mut self.answer[..];
        let keystore = &*self.keystore;
        match op {
            Op::Identity => {
                if !body.is_empty() {
                    return Err(Malformed("a body"));
                }
                let mut writer = protocol::Writer::default();
                let identity = keystore.identity(deadline);
                let identity = identity.map(|it| protocol::write_identity(&mut writer, &it));
                Ok(identity.map(|()| put(answer, &writer.0)))
            }
            Op::OpenKey => {
                let (reference, usage) = protocol::read_open_request(body)?;
                let opened = keystore.open_key(&reference, usage, deadline);
                let opened = opened.and_then(|handle| match usage {
                    Usage::Wrap => Ok(protocol::opened(handle.0, None)),
                    Usage::Sign | Usage::Decrypt => {
                        let public = keystore.public_key(handle)?;
                        Ok(protocol::opened(handle.0, Some(&public)))
                    }
                });
                Ok(opened.map(|opened| put(answer, &opened)))
            }
            Op::Sign => {
                let digests = protocol::read_digests(body)?;
                let mut signatures = [Signature([0; Signature::SIZE]); SIGN_MANY_MAX];
                let signatures = &mut signatures[..digests.len()];
                let signed = keystore.sign_sm2(key, digests, signatures, deadline);
                Ok(signed.map(|()| put(answer, signatures.as_bytes())))
            }
            Op::Decrypt => {
                let (room, ciphertext) = protocol::read_decrypt_request(body)?;
                Ok(keystore.sm2_decrypt(key, ciphertext, &mut answer[..room], deadline))
            }
            Op::Wrap => {
                let secret = body.try_into().map_err(|_| Malformed("no secret of 32 bytes"))?;
                let (wrapped, _) =
                    answer.split_first_chunk_mut().ok_or(Malformed("never: no room"))?;
                Ok(keystore.wrap(key, secret, wrapped, deadline))
            }
            Op::Unwrap => {
                let wrapped = protocol::read_wrapped(body)?;
                let (secret, _) =
                    answer.split_first_chunk_mut().ok_or(Malformed("never: no room"))?;
                Ok(keystore.unwrap(key, wrapped, secret, deadline).map(|()| secret.len()))
            }
            Op::Random => {
                let count = protocol::read_count(body)?;
                Ok(keystore.random(&mut answer[..count], deadline).map(|()| count))
            }
        }
    }
}

const _: () = assert!(WRAPPED_BYTES_MAX <= BODY_BYTES_MAX);

/// Puts an answer's bytes where they are sent from; their count.
fn put(answer: &mut [u8], bytes: &[u8]) -> usize {
    answer[..bytes.len()].copy_from_slice(bytes);
    bytes.len()
}
