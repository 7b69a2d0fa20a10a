//! `[peer]`: the links to the other validators.
//!
//! A chain of one validator has none, and its configuration may leave the section out. What only
//! the genesis can tell (who the others are, which link key is this node's) is checked in
//! [`super::files`], where the genesis is at hand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hufu_mempool::dissemination::DisseminationConfig;
use hufu_network::peer::LinkConfig;
use hufu_types::limits::{BATCH_SIZE_MAX, BLOCK_SIZE_MAX};

use super::reader::Reader;

/// `[peer]`: who the other validators are and what they may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Loopback address that smaller peers dial.
    pub listen: SocketAddr,
    /// The private link key.
    pub key_file: PathBuf,
    /// Where the other validators listen, by their names in the genesis.
    pub addresses: BTreeMap<String, SocketAddr>,
    /// Bounds and times of each link.
    pub link: LinkConfig,
    /// Bytes of received batches that wait for verification, for each link.
    pub held_bytes_max: usize,
    /// How batches are spread and kept.
    pub dissemination: DisseminationConfig,
    /// Time before the second try to reach a peer; it doubles with each further one.
    pub back_off_min: Duration,
    /// Longest time before another try.
    pub back_off_max: Duration,
}

impl PeerConfig {
    /// Reads the section, if the file has it.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let section = "peer";
        if !reader.has_section(section) {
            return None;
        }
        let millis =
            |reader: &mut Reader<'_>, name| Duration::from_millis(reader.integer(section, name));
        let bytes = |reader: &mut Reader<'_>, name| {
            usize::try_from(reader.integer(section, name)).unwrap_or(usize::MAX)
        };
        Some(Self {
            listen: reader.loopback(section, "listen"),
            key_file: reader.path(section, "key_file"),
            addresses: reader.addresses(section, "addresses"),
            link: LinkConfig {
                control_bytes_max: bytes(reader, "control_bytes_max"),
                bulk_bytes_max: bytes(reader, "bulk_bytes_max"),
                handshake_nanos: nanos(millis(reader, "handshake_timeout_millis")),
                ping_nanos: nanos(millis(reader, "ping_interval_millis")),
                idle_nanos: nanos(millis(reader, "idle_timeout_millis")),
            },
            held_bytes_max: bytes(reader, "held_bytes_max"),
            dissemination: DisseminationConfig {
                origin_bytes_max: reader.integer(section, "origin_bytes_max"),
                proposer_bytes_max: reader.integer(section, "proposer_bytes_max"),
                ask_nanos: nanos(millis(reader, "ask_interval_millis")),
                heights_kept: reader.integer(section, "heights_kept"),
            },
            back_off_min: millis(reader, "back_off_min_millis"),
            back_off_max: millis(reader, "back_off_max_millis"),
        })
    }

    /// Bytes that peers can make this node hold: for each of them what waits both ways, with a
    /// batch on top of each bound and one on its way in, what it may push and what its proposals
    /// may have fetched; and the batches of the heights that are kept.
    pub(super) fn memory_bytes(&self) -> u64 {
        let widen = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let batch = u64::from(BATCH_SIZE_MAX);
        let parts = [
            widen(self.link.control_bytes_max).saturating_mul(2),
            widen(self.link.bulk_bytes_max),
            widen(self.held_bytes_max),
            self.dissemination.origin_bytes_max,
            self.dissemination.proposer_bytes_max,
            3 * batch,
        ];
        let peer = parts.iter().fold(0, |sum: u64, part| sum.saturating_add(*part));
        let kept = self.dissemination.heights_kept.saturating_mul(BLOCK_SIZE_MAX.into());
        widen(self.addresses.len()).saturating_mul(peer).saturating_add(kept)
    }

    /// Checks each relation whose own keys are good, whatever else is wrong.
    pub(super) fn check_relations(&self, reader: &mut Reader<'_>, others: [SocketAddr; 2]) {
        let listen = self.listen;
        for (key, other) in ["client.listen", "admin.listen"].into_iter().zip(others) {
            if listen == other {
                let (keys, rule) = (["peer.listen", key], format!("is also {key}"));
                reader.relation(&keys, &listen.to_string(), &rule, "choose another port");
            }
        }
        if let Some((name, _)) = self.addresses.iter().find(|(_, address)| **address == listen) {
            let rule = format!("is also what peer.addresses says of {name}");
            let remedy = "give each validator an address of its own";
            let keys = ["peer.listen", "peer.addresses"];
            reader.relation(&keys, &listen.to_string(), &rule, remedy);
        }
        let (ping, idle) = (self.link.ping_nanos, self.link.idle_nanos);
        if idle < ping.saturating_mul(2) {
            let keys = ["peer.idle_timeout_millis", "peer.ping_interval_millis"];
            let rule = "is less than two of peer.ping_interval_millis, so that links end at a \
                        single late answer";
            let value = (idle / NANOS_OF_A_MILLI).to_string();
            reader.relation(&keys, &value, rule, "raise it, or lower the interval");
        }
        if self.back_off_min > self.back_off_max {
            let keys = ["peer.back_off_min_millis", "peer.back_off_max_millis"];
            let value = self.back_off_min.as_millis().to_string();
            let rule = "is more than peer.back_off_max_millis";
            reader.relation(&keys, &value, rule, "lower it, or raise the maximum");
        }
    }
}

const NANOS_OF_A_MILLI: u64 = 1_000_000;

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
