//! Bytes on real sockets: raw connections to the client port, metrics over HTTP, and random choices
//! from a seed.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use hufu_network::codes::ErrorCode;
use hufu_network::frame::{self, Direction};
use hufu_network::message::request::Hello;
use hufu_network::message::{ClientMessage, ServerMessage};
use hufu_runtime::clock;
use hufu_types::ChainId;

use crate::node::{PATIENCE, TestNode};

/// A connection that sends whatever a test wants.
pub(crate) struct RawConnection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl RawConnection {
    pub(crate) fn open(node: &TestNode) -> Self {
        let stream = TcpStream::connect(node.client_address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, received: Vec::new() }
    }

    /// Opens a connection and says hello.
    pub(crate) fn greeted(node: &TestNode, chain: ChainId) -> Self {
        let mut connection = Self::open(node);
        connection.send(&hello(chain));
        connection.next(|message| assert!(matches!(message, ServerMessage::Welcome(_))));
        connection
    }

    /// Sends bytes; a node that has closed already may refuse to take them.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Err(error) if !is_end(error.kind()) => panic!("cannot send: {error}"),
            Ok(()) | Err(_) => {}
        }
    }

    /// Waits for one message.
    pub(crate) fn next<T>(&mut self, use_it: impl FnOnce(ServerMessage<'_>) -> T) -> T {
        loop {
            if let Some(frame) = frame::split(&self.received, Direction::FromServer).unwrap() {
                let size = frame.size();
                let result = use_it(ServerMessage::decode(&frame).unwrap());
                self.received.drain(..size);
                return result;
            }
            assert!(self.fill(), "the node has closed the connection");
        }
    }

    /// Reads until the node closes, and returns the last error it named.
    pub(crate) fn ending(mut self) -> Option<ErrorCode> {
        while self.fill() {}
        let mut code = None;
        let mut rest = self.received.as_slice();
        while let Ok(Some(frame)) = frame::split(rest, Direction::FromServer) {
            if let ServerMessage::Error(error) = ServerMessage::decode(&frame).unwrap() {
                code = Some(error.code);
            }
            rest = &rest[frame.size()..];
        }
        code
    }

    /// Says that nothing more will be sent.
    pub(crate) fn end_input(&mut self) {
        drop(self.stream.shutdown(std::net::Shutdown::Write));
    }

    fn fill(&mut self) -> bool {
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) if is_end(error.kind()) => false,
            Err(error) => panic!("nothing came and the connection was not closed: {error}"),
        }
    }
}

fn is_end(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// The bytes of a hello.
pub(crate) fn hello(chain: ChainId) -> Vec<u8> {
    message(&ClientMessage::Hello(Hello::new(Some(chain))), 0)
}

/// The bytes of a message.
pub(crate) fn message(message: &ClientMessage<'_>, request: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(request, &mut bytes);
    bytes
}

/// What a node's admin side answers for this path.
pub(crate) fn ask_admin(node: &TestNode, path: &str) -> String {
    let text = try_ask_admin(node.admin_address(), path, PATIENCE).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(head.split(' ').nth(1), Some("200"), "{text}");
    body.to_owned()
}

/// The whole answer, if one comes.
pub(crate) fn try_ask_admin(
    address: SocketAddr,
    path: &str,
    patience: Duration,
) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: x\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// All metrics of a node, by name and labels.
pub(crate) struct Metrics(BTreeMap<String, u64>);

impl Metrics {
    pub(crate) fn of(node: &TestNode) -> Self {
        let text = ask_admin(node, "/metrics");
        let values = text.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(values.collect())
    }

    /// The sum over all labels of a name.
    pub(crate) fn sum(&self, name: &str) -> u64 {
        let labelled = format!("{name}{{");
        let one = self.0.iter().filter(|(key, _)| key.starts_with(&labelled));
        one.map(|(_, value)| value).sum()
    }

    pub(crate) fn get(&self, name: &str) -> u64 {
        *self.0.get(name).unwrap_or_else(|| panic!("there is no metric {name}"))
    }
}

/// Choices from a seed (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    /// The seed of `HUFU_FAULT_SEED`, or a new one, which is printed so that a failed run can be
    /// repeated.
    pub(crate) fn from_environment() -> Self {
        let named = std::env::var("HUFU_FAULT_SEED").map(|seed| seed.parse().unwrap());
        let seed = named.unwrap_or_else(|_| clock::wall().as_millis());
        println!("HUFU_FAULT_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
