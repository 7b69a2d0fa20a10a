//! Ports for the links between the nodes of a local network.
//!
//! Peers must know each other's ports before any of them starts. So that nobody takes one in
//! between, they come from below the range that the system picks from on its own; only another
//! local network that starts at the same moment could take one, and its draw is another.

use std::io;
use std::net::{SocketAddr, TcpListener};

use hufu_crypto::entropy;

/// The first port that is tried; those below are for services with names.
const PORT_MIN: u16 = 10_000;

/// Where the system's own range begins on Linux, unless it says otherwise.
const SYSTEM_PORT_MIN: u16 = 32_768;

/// Distinct ports on 127.0.0.1 that nobody listens at.
pub(super) fn pick(count: u16) -> io::Result<Vec<SocketAddr>> {
    let end = system_port_min().max(PORT_MIN + 1);
    let mut start = [0; 2];
    entropy::fill(&mut start).map_err(io::Error::other)?;
    let start = PORT_MIN + u16::from_le_bytes(start) % (end - PORT_MIN);
    let candidates = (start..end).chain(PORT_MIN..start);
    // All are held until the last is found: none is found twice.
    let mut held = Vec::new();
    for port in candidates {
        if held.len() == usize::from(count) {
            break;
        }
        held.extend(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))));
    }
    if held.len() < usize::from(count) {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "no free ports"));
    }
    held.iter().map(TcpListener::local_addr).collect()
}

/// First port of the range that the system picks from.
fn system_port_min() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let first = text.ok().and_then(|text| text.split_whitespace().next()?.parse().ok());
    first.unwrap_or(SYSTEM_PORT_MIN)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_distinct_free_and_not_the_systems() {
        let ports = pick(16).unwrap();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 16);
        for address in &ports {
            assert!((PORT_MIN..system_port_min()).contains(&address.port()), "{address}");
            assert!(TcpListener::bind(address).is_ok(), "{address} is taken");
        }
        assert_eq!(pick(0).unwrap(), []);
    }
}
