//! One suite for both back ends. The peers are plain blocking sockets of `std` on threads of their
//! own, so that a fault of the reactor cannot hide in its own mirror image; the connect tests alone
//! put a reactor on both sides.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc;

use super::*;
use crate::clock;
use crate::wake::Parker;

/// How long a test waits for an event before it calls it lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// A reactor with a parker, and everything that ever happened on it.
struct Host {
    reactor: Reactor,
    parker: Parker,
    listener: ListenerToken,
    addr: SocketAddr,
    events: Vec<Event>,
}

fn localhost() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// Runs a test for each back end, or says that io_uring is forbidden.
fn each_backend(config: &Config, test: impl Fn(Host)) {
    for backend in [Backend::Epoll, Backend::Uring] {
        let config = Config { backend, ..config.clone() };
        let mut reactor = match Reactor::new(config) {
            Ok(reactor) => reactor,
            Err(error) if backend == Backend::Uring => {
                println!("skipped: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let listener = reactor.listen(localhost()).unwrap();
        let addr = reactor.local_addr(listener).unwrap();
        let parker = Parker::new().unwrap();
        println!("with {:?}", reactor.backend());
        test(Host { reactor, parker, listener, addr, events: Vec::new() });
    }
}

fn small() -> Config {
    Config {
        connections_max: 8,
        receive_bytes: 4 << 10,
        send_bytes: 4 << 10,
        pool_buffers: 64,
        pool_buffer_bytes: 512,
        ..Config::default()
    }
}

impl Host {
    /// Polls once and hands out the new events.
    fn poll(&mut self) -> Vec<Event> {
        let before = self.events.len();
        let count = self.reactor.poll(clock::monotonic(), &mut self.events).unwrap();
        assert_eq!(self.events.len() - before, count);
        self.events[before..].to_vec()
    }

    /// Polls and sleeps on the descriptor until `step` is satisfied; it sees each event once.
    fn until(&mut self, what: &str, mut step: impl FnMut(&mut Self, &[Event]) -> bool) {
        let give_up = clock::monotonic().after(PATIENCE);
        loop {
            let fresh = self.poll();
            if step(self, &fresh) {
                return;
            }
            let last = &self.events[self.events.len().saturating_sub(8)..];
            assert!(clock::monotonic() < give_up, "no {what}; last {last:?}");
            if fresh.is_empty() {
                // As the runner does: announce, look once more, sleep.
                let fresh = self.poll();
                if step(self, &fresh) {
                    return;
                }
                if fresh.is_empty() {
                    let deadline = self.reactor.deadline().map_or(give_up, |d| d.min(give_up));
                    let reactor = &self.reactor;
                    self.parker.park(Some(deadline), |fds| fds.readable(reactor)).unwrap();
                }
            }
        }
    }

    fn event<T>(&mut self, what: &str, pick: impl Fn(&Event) -> Option<T>) -> T {
        let mut found = self.events.iter().find_map(&pick);
        if found.is_none() {
            self.until(what, |_, fresh| {
                found = fresh.iter().find_map(&pick);
                found.is_some()
            });
        }
        found.unwrap()
    }

    fn accepted(&mut self) -> ConnToken {
        self.event("Accepted", |event| match event {
            Event::Accepted { conn, .. } => Some(*conn),
            _ => None,
        })
    }

    fn closed(&mut self, conn: ConnToken) -> CloseReason {
        self.event("Closed", |event| match event {
            Event::Closed { conn: other, reason } if *other == conn => Some(*reason),
            _ => None,
        })
    }

    /// A client that is connected and accepted.
    fn client(&mut self) -> (TcpStream, ConnToken) {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_nodelay(true).unwrap();
        let mine = stream.local_addr().unwrap();
        let conn = self.event("Accepted", |event| match event {
            Event::Accepted { conn, peer_addr, .. } if *peer_addr == mine => Some(*conn),
            _ => None,
        });
        (stream, conn)
    }

    fn unread(&mut self, conn: ConnToken, len: usize) {
        self.until("bytes", |host, _| host.reactor.received(conn).len() >= len);
    }

    /// Sends `block` again and again until neither the send buffer nor the kernel takes more for a
    /// while. Returns how many bytes were taken.
    fn fill(&mut self, conn: ConnToken, block: &[u8]) -> usize {
        let (mut sent, mut full_count) = (0, 0);
        while full_count < 50 {
            let room = self.reactor.send_room(conn);
            let taken = self.reactor.send(conn, block).unwrap();
            assert_eq!(taken, room.min(block.len()));
            sent += taken;
            full_count = if taken == 0 { full_count + 1 } else { 0 };
            self.poll();
            if taken == 0 {
                // The peer's kernel acknowledges, and widens its window, in its own time.
                let soon = clock::monotonic().after(Duration::from_millis(2));
                self.parker.park(Some(soon), |_| ()).unwrap();
            }
        }
        sent
    }

    fn stats(&self) -> Stats {
        self.reactor.stats()
    }
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i * 31 + i / 251 + seed * 7) % 256).unwrap()).collect()
}

/// Makes a socket reset its connection when it is closed.
fn reset(stream: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = u32::try_from(std::mem::size_of::<libc::linger>()).unwrap();
    let value = (&raw const linger).cast();
    let (fd, level, option) = (stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER);
    // SAFETY: `value` points to a linger structure of `size` bytes on this stack.
    let answer = unsafe { libc::setsockopt(fd, level, option, value, size) };
    assert_eq!(answer, 0);
    drop(stream);
}

/// Echoes whatever comes, keeping what the send buffer does not take in the receive buffer.
fn echo(host: &mut Host, events: &[Event]) {
    for event in events {
        match *event {
            Event::Received { conn, .. } | Event::Writable { conn, .. } => {
                let unread = host.reactor.received(conn).to_vec();
                let taken = host.reactor.send(conn, &unread).unwrap_or(0);
                host.reactor.consume(conn, taken);
            }
            Event::EndOfInput { conn } => host.reactor.close(clock::monotonic(), conn),
            _ => {}
        }
    }
}

#[test]
fn many_connections_echo_thousands_of_messages() {
    const CLIENTS: usize = 64;
    const MESSAGES: usize = 200;
    let config = Config { connections_max: 100, pool_buffers: 128, ..small() };
    each_backend(&config, |mut host| {
        let addr = host.addr;
        let (done, finished) = mpsc::channel();
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let done = done.clone();
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(addr).unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    stream.set_nodelay(true).unwrap();
                    for message in 0..MESSAGES {
                        let sent = pattern(client * MESSAGES + message, 1 + (message * 7) % 900);
                        stream.write_all(&sent).unwrap();
                        let mut back = vec![0; sent.len()];
                        stream.read_exact(&mut back).unwrap();
                        assert!(back == sent, "message {message} of client {client} differs");
                    }
                    stream.shutdown(Shutdown::Write).unwrap();
                    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
                    done.send(()).unwrap();
                });
            }
            let mut closed = 0;
            host.until("end of all clients", |host, events| {
                echo(host, events);
                let is_closed = |e: &&Event| matches!(e, Event::Closed { .. });
                closed += events.iter().filter(is_closed).count();
                closed == CLIENTS
            });
        });
        assert_eq!(finished.try_iter().count(), CLIENTS);
        let stats = host.stats();
        assert_eq!((stats.accepted, stats.closed, stats.reset), (64, 64, 0));
        assert_eq!(stats.received_bytes, stats.sent_bytes);
        host.poll();
        assert_eq!(host.reactor.connections_count(), 0);
    });
}

#[test]
fn large_messages_cross_the_buffers_whole() {
    const SIZE: usize = 3 << 20;
    each_backend(&small(), |mut host| {
        let addr = host.addr;
        std::thread::scope(|scope| {
            let client = scope.spawn(move || {
                let stream = TcpStream::connect(addr).unwrap();
                let mut writer = stream.try_clone().unwrap();
                let sender = std::thread::Builder::new().spawn(move || {
                    writer.write_all(&pattern(1, SIZE)).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut back = Vec::new();
                (&stream).read_to_end(&mut back).unwrap();
                sender.unwrap().join().unwrap();
                assert!(back == pattern(1, SIZE), "{} bytes came back, or others", back.len());
            });
            let mut is_over = false;
            host.until("end", |host, events| {
                for event in events {
                    // The end must not overtake bytes that wait for room.
                    if let Event::EndOfInput { .. } = event {
                        is_over = true;
                    }
                    is_over &= !matches!(event, Event::Closed { .. });
                    if let Event::Received { conn, .. } | Event::Writable { conn, .. } = *event {
                        let unread = host.reactor.received(conn).to_vec();
                        let taken = host.reactor.send(conn, &unread).unwrap_or(0);
                        host.reactor.consume(conn, taken);
                    }
                }
                if is_over {
                    let conn = host.accepted();
                    if host.reactor.received(conn).is_empty() {
                        host.reactor.close(clock::monotonic(), conn);
                    }
                }
                events.iter().any(|event| matches!(event, Event::Closed { .. }))
            });
            client.join().unwrap();
        });
        assert_eq!(host.stats().received_bytes, u64::try_from(SIZE).unwrap());
        assert_eq!(host.stats().sent_bytes, u64::try_from(SIZE).unwrap());
    });
}

#[test]
fn a_slow_reader_fills_the_send_buffer_and_no_more() {
    let config = Config { socket_send_bytes: Some(8 << 10), ..small() };
    each_backend(&config, |mut host| {
        let (mut client, conn) = host.client();
        let block = pattern(2, 1_000);
        // The kernel's buffers take some; then the send buffer fills and stays full.
        let sent = host.fill(conn, &block);
        assert_eq!(host.reactor.send_room(conn), 0);
        assert_eq!(host.reactor.send(conn, &block), Ok(0));
        let is_writable = |e: &Event| matches!(e, Event::Writable { .. });
        let before = host.events.iter().filter(|event| is_writable(event)).count();
        let reader = std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let mut bytes = vec![0; sent];
                client.read_exact(&mut bytes).unwrap();
                (bytes, client)
            });
            host.until("Writable", |host, _| {
                host.events.iter().filter(|event| is_writable(event)).count() > before
            });
            host.until("flush", |host, _| host.reactor.send_room(conn) == 4 << 10);
            reader.join().unwrap()
        });
        let mut offset = 0;
        while offset < sent {
            // Each send that took part of the block began the block anew.
            let len = reader.0[offset..].iter().zip(&block).take_while(|(a, b)| a == b).count();
            assert!(len > 0, "foreign byte at {offset}");
            offset += len;
        }
    });
}

/// What a connection has given to the kernel and the kernel has not sent.
fn unsent_in_kernel(host: &mut Host, conn: ConnToken) -> usize {
    const SIOCOUTQNSD: libc::c_ulong = 0x894B;
    let mut count: libc::c_int = 0;
    let fd = host.reactor.table.at(conn.slot).fd();
    // SAFETY: `count` is an integer that outlives the call.
    let answer = unsafe { libc::ioctl(fd, SIOCOUTQNSD, &raw mut count) };
    assert_eq!(answer, 0);
    usize::try_from(count).unwrap()
}

/// Both for accepted and for dialled connections.
#[test]
fn little_waits_in_the_kernel_when_that_is_asked_for() {
    for (unsent, is_little) in [(Some(16 << 10), true), (None, false)] {
        let config = Config {
            socket_unsent_bytes: unsent,
            socket_receive_bytes: Some(8 << 10),
            socket_send_bytes: Some(1 << 20),
            ..small()
        };
        each_backend(&config, |mut host| {
            let (_silent, accepted) = host.client();
            let block = pattern(4, 4_000);
            let dialled = host.reactor.connect(host.addr).unwrap();
            host.event("Connected", |event| {
                matches!(event, Event::Connected { conn } if *conn == dialled).then_some(())
            });
            for conn in [accepted, dialled] {
                host.fill(conn, &block);
                let count = unsent_in_kernel(&mut host, conn);
                assert_eq!(count < 100 << 10, is_little, "{count} bytes with {unsent:?}");
            }
        });
    }
}

#[test]
fn a_full_receive_buffer_stops_reading_until_consumed() {
    let config = Config { socket_receive_bytes: Some(8 << 10), ..small() };
    each_backend(&config, |mut host| {
        let (client, conn) = host.client();
        // The peer sends all it can without anybody consuming.
        client.set_nonblocking(true).unwrap();
        let data = pattern(3, 32 << 20);
        let mut sent = 0;
        let mut stuck_count = 0;
        while stuck_count < 50 && sent < data.len() {
            match (&client).write(&data[sent..]) {
                Ok(count) => {
                    sent += count;
                    stuck_count = 0;
                }
                Err(_) => {
                    stuck_count += 1;
                    let soon = clock::monotonic().after(Duration::from_millis(2));
                    host.parker.park(Some(soon), |_| ()).unwrap();
                }
            }
            host.poll();
        }
        let held = host.reactor.received(conn).len();
        assert!(held >= 4 << 10, "only {held} bytes were read");
        assert!(held <= (4 << 10) + 32 * 512, "{held} bytes are held");
        assert!(sent < data.len(), "the peer was never pushed back");
        // Everything arrives once the owner consumes.
        let mut seen = Vec::new();
        host.until("the rest", |host, _| {
            let bytes = host.reactor.received(conn).to_vec();
            seen.extend_from_slice(&bytes);
            host.reactor.consume(conn, bytes.len());
            seen.len() == sent
        });
        assert!(seen == data[..sent], "the bytes differ");
        assert_eq!(host.stats().overrun, 0);
    });
}

#[test]
fn a_paused_connection_is_silent_until_resumed() {
    let config = Config { socket_receive_bytes: Some(4 << 10), ..small() };
    each_backend(&config, |mut host| {
        let (mut first, paused) = host.client();
        let (mut second, other) = host.client();
        host.reactor.pause_reading(paused);
        host.poll();
        let events_before = host.events.len();
        first.write_all(b"hello").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        second.write_all(b"world").unwrap();
        host.unread(other, 5);
        let of_paused = host.events[events_before..].iter().any(|event| {
            let (Event::Received { conn, .. } | Event::EndOfInput { conn }) = *event else {
                return false;
            };
            conn == paused
        });
        assert!(!of_paused, "{:?}", host.events);
        // Not only silent: the bytes are still in the kernel, so the window closes.
        assert_eq!(host.reactor.received(paused), b"");
        host.reactor.resume_reading(paused);
        let bytes = host.event("Received", |event| match event {
            Event::Received { conn, bytes } if *conn == paused => Some(*bytes),
            _ => None,
        });
        assert_eq!(bytes, 5);
        assert_eq!(host.reactor.received(paused), b"hello");
        host.event("EndOfInput", |event| {
            matches!(event, Event::EndOfInput { conn } if *conn == paused).then_some(())
        });
    });
}

#[test]
fn connections_over_the_maximum_are_closed_and_counted() {
    let config = Config { connections_max: 2, ..small() };
    each_backend(&config, |mut host| {
        let (first, conn) = host.client();
        let (_second, _) = host.client();
        let mut third = TcpStream::connect(host.addr).unwrap();
        host.until("refusal", |host, _| host.stats().refused_over_max == 1);
        let ended = third.read(&mut [0; 1]);
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        assert_eq!(
            host.reactor.connect(host.addr).unwrap_err().kind(),
            io::ErrorKind::QuotaExceeded
        );
        // A freed place is given to the next, under another token.
        drop(first);
        host.event("EndOfInput", |event| {
            matches!(event, Event::EndOfInput { conn: other } if *other == conn).then_some(())
        });
        host.reactor.close(clock::monotonic(), conn);
        assert_eq!(host.closed(conn), CloseReason::Requested);
        let (_fourth, again) = host.client();
        assert_eq!(again.slot(), conn.slot());
        assert_ne!(again, conn);
        assert_eq!(host.reactor.send(conn, b"x"), Err(Gone::new(conn)));
        assert_eq!(host.reactor.received(conn), b"");
        assert_eq!(host.reactor.send_room(conn), 0);
        // None of these may touch the new connection.
        host.reactor.consume(conn, 0);
        host.reactor.pause_reading(conn);
        host.reactor.close(clock::monotonic(), conn);
        host.reactor.abort(conn);
        assert_eq!(host.reactor.send(again, b"x"), Ok(1));
    });
}

#[test]
fn an_abrupt_reset_closes_with_its_reason_and_leaves_others_alone() {
    each_backend(&small(), |mut host| {
        let (mut rude, conn) = host.client();
        let (mut kind, other) = host.client();
        rude.write_all(b"last words").unwrap();
        host.unread(conn, 10);
        reset(rude);
        assert_eq!(host.closed(conn), CloseReason::Reset);
        assert_eq!(host.reactor.received(conn), b"last words");
        host.poll();
        assert_eq!(host.reactor.received(conn), b"");
        assert_eq!(host.stats().reset, 1);
        kind.write_all(b"still here").unwrap();
        host.unread(other, 10);
    });
}

#[test]
fn a_half_closed_peer_still_gets_its_answer() {
    each_backend(&small(), |mut host| {
        let (mut client, conn) = host.client();
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        host.event("EndOfInput", |event| matches!(event, Event::EndOfInput { .. }).then_some(()));
        assert_eq!(host.reactor.received(conn), b"question");
        assert_eq!(host.reactor.send(conn, b"answer"), Ok(6));
        host.reactor.close(clock::monotonic(), conn);
        assert_eq!(host.reactor.send(conn, b"more"), Err(Gone::new(conn)));
        assert_eq!(host.closed(conn), CloseReason::Requested);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"answer");
    });
}

/// The last answer before a close must arrive though the peer goes on sending: a plain close with
/// unread input would reset the connection and destroy the answer on its way.
#[test]
fn a_close_delivers_the_last_answer_to_a_peer_that_keeps_sending() {
    each_backend(&small(), |mut host| {
        let (mut client, conn) = host.client();
        let mut writer = client.try_clone().unwrap();
        writer.write_all(&pattern(4, 2_000)).unwrap();
        host.unread(conn, 2_000);
        writer.write_all(&pattern(4, 20_000)).unwrap();
        assert_eq!(host.reactor.send(conn, b"broken framing"), Ok(14));
        host.reactor.close(clock::monotonic(), conn);
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                answer
            });
            assert_eq!(host.closed(conn), CloseReason::Requested);
            assert_eq!(reader.join().unwrap(), b"broken framing");
        });
    });
}

#[test]
fn a_peer_that_takes_nothing_cannot_hold_up_a_close() {
    let config = Config {
        close_grace: Duration::from_millis(50),
        socket_send_bytes: Some(4 << 10),
        ..small()
    };
    each_backend(&config, |mut host| {
        let (client, conn) = host.client();
        host.fill(conn, &[7; 4_096]);
        host.reactor.close(clock::monotonic(), conn);
        assert_eq!(host.closed(conn), CloseReason::GraceExpired);
        assert_eq!(host.stats().grace_expired, 1);
        drop(client);
    });
}

#[test]
fn an_abort_is_immediate_and_reported_once() {
    each_backend(&small(), |mut host| {
        let (mut client, conn) = host.client();
        host.reactor.abort(conn);
        host.reactor.abort(conn);
        assert_eq!(host.closed(conn), CloseReason::Requested);
        assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
        host.poll();
        host.poll();
        let is_closed = |event: &&Event| matches!(event, Event::Closed { .. });
        assert_eq!(host.events.iter().filter(is_closed).count(), 1);
    });
}

#[test]
fn two_reactors_connect_and_talk() {
    each_backend(&small(), |mut host| {
        let conn = host.reactor.connect(host.addr).unwrap();
        // Bytes may be queued before the handshake is over.
        assert_eq!(host.reactor.send(conn, b"early"), Ok(5));
        host.event("Connected", |event| {
            matches!(event, Event::Connected { conn: other } if *other == conn).then_some(())
        });
        let accepted = host.accepted();
        host.unread(accepted, 5);
        assert_eq!(host.reactor.received(accepted), b"early");
        assert_eq!(host.reactor.send(accepted, b"late"), Ok(4));
        host.unread(conn, 4);
        assert_eq!(host.reactor.received(conn), b"late");
    });
}

#[test]
fn a_refused_connect_is_an_event() {
    each_backend(&small(), |mut host| {
        let nobody = TcpListener::bind(localhost()).unwrap().local_addr().unwrap();
        let conn = host.reactor.connect(nobody).unwrap();
        let refused = CloseReason::ConnectFailed(io::ErrorKind::ConnectionRefused);
        assert_eq!(host.closed(conn), refused);
        let aborted = host.reactor.connect(host.addr).unwrap();
        host.reactor.abort(aborted);
        assert_eq!(host.closed(aborted), CloseReason::Requested);
    });
}

#[test]
fn a_stopped_listener_accepts_nobody_and_frees_its_address() {
    each_backend(&small(), |mut host| {
        let (mut client, conn) = host.client();
        host.reactor.stop_listening(host.listener);
        let listener = host.listener;
        host.until("end of the listener", |host, _| host.reactor.local_addr(listener).is_err());
        assert!(TcpStream::connect(host.addr).is_err());
        assert_eq!(host.reactor.send(conn, b"stays"), Ok(5));
        host.poll();
        let mut bytes = [0; 5];
        client.read_exact(&mut bytes).unwrap();
        let again = host.reactor.listen(host.addr).unwrap();
        assert_eq!(host.reactor.local_addr(again).unwrap(), host.addr);
    });
}

/// Few provided buffers and many senders: receives end for want of a buffer and are started again.
#[test]
fn exhausted_buffers_delay_but_lose_nothing() {
    const CLIENTS: usize = 12;
    const SIZE: usize = 100_000;
    let config = Config { connections_max: 16, pool_buffers: 4, pool_buffer_bytes: 128, ..small() };
    each_backend(&config, |mut host| {
        let addr = host.addr;
        let mut seen: HashMap<ConnToken, Vec<u8>> = HashMap::new();
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(addr).unwrap();
                    stream.write_all(&pattern(client, SIZE)).unwrap();
                });
            }
            host.until("all bytes", |host, events| {
                for event in events {
                    if let Event::Received { conn, .. } = *event {
                        let bytes = host.reactor.received(conn).to_vec();
                        host.reactor.consume(conn, bytes.len());
                        seen.entry(conn).or_default().extend(bytes);
                    }
                }
                seen.values().map(Vec::len).sum::<usize>() == CLIENTS * SIZE
            });
        });
        for bytes in seen.values() {
            assert!((0..CLIENTS).any(|client| *bytes == pattern(client, SIZE)));
        }
        if matches!(host.reactor.backend(), BackendInUse::Uring { .. }) {
            assert!(host.stats().buffers_exhausted > 0, "the pool was never empty");
        }
    });
}

#[test]
fn places_are_used_again_and_again_without_mixing_connections() {
    let config = Config { connections_max: 4, ..small() };
    each_backend(&config, |mut host| {
        let addr = host.addr;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for round in 0..500 {
                    let mut stream = TcpStream::connect(addr).unwrap();
                    let sent = pattern(round, 100);
                    stream.write_all(&sent).unwrap();
                    if round % 3 == 0 {
                        reset(stream);
                        continue;
                    }
                    stream.shutdown(Shutdown::Write).unwrap();
                    let mut back = Vec::new();
                    let read = stream.read_to_end(&mut back);
                    // A full table refuses; whoever was let in gets exactly its own bytes.
                    assert!(read.is_err() || back.is_empty() || back == sent, "foreign bytes");
                }
            });
            host.until("500 connections", |host, events| {
                echo(host, events);
                let stats = host.stats();
                let gone = stats.closed + stats.refused_over_max + stats.accept_aborted;
                gone >= 500
            });
        });
        host.poll();
        assert_eq!(host.reactor.connections_count(), 0);
    });
}

#[test]
fn bounds_out_of_range_are_refused() {
    let wrong = [
        Config { connections_max: 0, ..small() },
        Config { connections_max: CONNECTIONS_MAX + 1, ..small() },
        Config { receive_bytes: 0, ..small() },
        Config { send_bytes: 0, ..small() },
        Config { pool_buffer_bytes: 63, ..small() },
    ];
    for config in wrong {
        assert!(matches!(Reactor::new(config.clone()), Err(Error::Bound { .. })), "{config:?}");
    }
    let odd = Config { pool_buffers: 3, ..small() };
    assert!(matches!(Reactor::new(odd), Err(Error::PoolBuffers { value: 3 })));
}

#[test]
fn auto_always_finds_a_back_end() {
    let reactor = Reactor::new(small()).unwrap();
    match reactor.backend() {
        BackendInUse::Uring { .. } | BackendInUse::Epoll { refused: Some(_) } => {}
        BackendInUse::Epoll { refused: None } => panic!("io_uring was not tried"),
    }
}

/// Dropped with receives, sends and accepts under way: the kernel must be done with the memory.
#[test]
fn a_reactor_can_be_dropped_in_the_middle() {
    each_backend(&small(), |mut host| {
        let (mut client, conn) = host.client();
        let (_idle, _) = host.client();
        for _ in 0..50 {
            host.reactor.send(conn, &[1; 4_096]).unwrap();
            client.write_all(&[2; 100]).unwrap();
            host.poll();
        }
        drop(host);
        let mut rest = Vec::new();
        drop(client.read_to_end(&mut rest));
    });
}
