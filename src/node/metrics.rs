//! Metrics: declared once, here; published by the tiles, rendered by the admin plane.
//!
//! Names follow style.md 11. Counters are added to per batch, gauges are set at housekeeping or per
//! block. The text is OpenMetrics 1.0, as Prometheus scrapes it.

mod cards;

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use hufu_hsm::group::MemberCounts;
use hufu_mempool::Blame;
use hufu_network::PeerCode;
use hufu_network::codes::ErrorCode;
use hufu_runtime::link::LinkStats;
use hufu_runtime::process;
use hufu_runtime::tile::TileStats;
use hufu_types::{FailureCode, RefusalCode};

use crate::cards::NodeCard;

hufu_types::codes!(
    /// Why something between peers was dropped. Whoever needs it asks for it again.
    PeerDrop {
        /// There is no link to the validator it was for.
        NoLink = 1, "no_link";
        /// A batch or height for a peer that takes less than there is for it.
        OutboxFull = 2, "outbox_full";
        /// A batch from a peer, while verification has no room.
        VerifyFull = 3, "verify_full";
        /// A peer's request for batches, while the mempool has no room.
        MempoolFull = 4, "mempool_full";
        /// A request for heights or bodies while too many of the same peer wait.
        RequestsTooMany = 5, "requests_too_many";
        /// It waited when its link ended.
        LinkEnded = 6, "link_ended";
    }
);

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Adds the length of something in memory.
    pub fn add_count(&self, count: usize) {
        self.add(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Replaces the value by that of a counter kept elsewhere.
    pub fn publish(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Sets the value to the length of something in memory.
    pub fn set_count(&self, count: usize) {
        self.set(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! metrics {
    (counters { $($counter:ident: $counter_name:literal, $counter_help:literal;)* }
     gauges { $($gauge:ident: $gauge_name:literal, $gauge_help:literal;)* }) => {
        /// All metrics of one node.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $counter_help] pub $counter: Counter,)*
            $(#[doc = $gauge_help] pub $gauge: Gauge,)*
            /// Refused transactions by [`RefusalCode`], in the order of its numbers.
            refused: [Counter; RefusalCode::ALL.len()],
            /// Transactions included with a failure by [`FailureCode`], in the order of its
            /// numbers.
            failed: [Counter; FailureCode::ALL.len()],
            /// Errors answered to clients by [`ErrorCode`], in the order of its numbers.
            errors: [Counter; ErrorCode::ALL.len()],
            /// Links between validators ended by [`PeerCode`], in the order of its numbers.
            peer_ends: [Counter; PeerCode::ALL.len()],
            /// What was dropped between validators by [`PeerDrop`], in the order of its numbers.
            peer_drops: [Counter; PeerDrop::ALL.len()],
            /// What peers did wrong with batches, by [`Blame`], in the order of its numbers.
            blamed: [Counter; Blame::ALL.len()],
            /// Counters of tiles and links; known once the topology is up.
            topology: OnceLock<(Vec<Arc<TileStats>>, Vec<LinkStats>)>,
            /// The cards, and what those with the vote key did; known once they are open.
            cards: OnceLock<(Vec<Arc<NodeCard>>, Vec<Arc<MemberCounts>>)>,
        }

        impl Metrics {
            fn render_declared(&self, out: &mut String) {
                $(render_one(out, $counter_name, "counter", $counter_help, self.$counter.get());)*
                $(render_one(out, $gauge_name, "gauge", $gauge_help, self.$gauge.get());)*
            }
        }

        /// Name, type and meaning of every metric without labels, for the generated documentation.
        pub const DECLARED: &[(&str, &str, &str)] = &[
            $(($counter_name, "counter", $counter_help),)*
            $(($gauge_name, "gauge", $gauge_help),)*
        ];
    };
}

metrics! {
    counters {
        ingress_frames: "hufu_ingress_frames_received", "Frames received from clients.";
        ingress_bytes_in: "hufu_ingress_bytes_received", "Bytes received from clients.";
        ingress_bytes_out: "hufu_ingress_bytes_sent", "Bytes sent to clients.";
        ingress_transactions: "hufu_ingress_transactions_received", "Transactions received, refused ones included.";
        ingress_connections_accepted: "hufu_ingress_connections_accepted", "Client connections accepted.";
        ingress_connections_refused: "hufu_ingress_connections_refused", "Client connections refused because all places were taken by clients that use them.";
        ingress_connections_faulted: "hufu_ingress_connections_faulted", "Client connections closed because they broke the protocol.";
        ingress_pauses: "hufu_ingress_reads_paused", "Times a client's frame began to wait for room: in verification, in flight, or in its answers.";
        verify_signatures: "hufu_verify_signatures_checked", "SM2 signatures of transactions verified.";
        verify_batches: "hufu_verify_batches_checked", "Batches of signatures verified.";
        verify_duplicates: "hufu_verify_duplicates_recognised", "Exact copies of admitted transactions recognised before verification.";
        verify_keys_hit: "hufu_verify_known_keys_hit", "Signatures verified with the table of a known key.";
        verify_keys_missed: "hufu_verify_known_keys_missed", "Signatures verified without one.";
        verify_keys_made: "hufu_verify_known_keys_made", "Tables of known keys made.";
        verify_keys_evicted: "hufu_verify_known_keys_evicted", "Tables of known keys that gave way to others.";
        mempool_batches: "hufu_mempool_batches_sealed", "Batches sealed.";
        mempool_admitted: "hufu_mempool_transactions_admitted", "Transactions admitted.";
        mempool_untold: "hufu_mempool_admissions_untold", "Admissions a verify tile had no room to hear of; a copy of one is verified again.";
        mempool_batches_received: "hufu_mempool_batches_received", "Batches of other validators read, those not taken included.";
        mempool_batches_judged: "hufu_mempool_batches_judged", "Batches of other validators whose signatures were all looked at.";
        mempool_batches_expired: "hufu_mempool_batches_expired", "Own batches that no block ordered while one might.";
        mempool_needs_refused: "hufu_mempool_needs_refused", "Proposed blocks not waited for, because their proposer would have this node fetch too much.";
        mempool_forgotten: "hufu_mempool_transactions_forgotten", "Transactions forgotten while duplicates of them could still come; execution finds those.";
        sign_signatures: "hufu_sign_signatures_made", "Consensus signatures made.";
        sign_failures: "hufu_sign_attempts_failed", "Signatures that the card did not give when asked; they are asked for again.";
        consensus_blocks: "hufu_consensus_blocks_decided", "Blocks decided.";
        consensus_rounds: "hufu_consensus_rounds_started", "Rounds started.";
        consensus_refused: "hufu_consensus_inputs_refused", "Inputs the ordering engine did not take in.";
        consensus_blamed: "hufu_consensus_peers_blamed", "Messages of peers that no honest validator sends.";
        consensus_caught_up: "hufu_consensus_heights_caught_up", "Heights taken over from peers instead of voted on.";
        execute_transactions: "hufu_execute_transactions_executed", "Transactions executed, failed ones included.";
        log_bytes: "hufu_log_bytes_written", "Bytes written to the block log, padding included.";
        log_groups: "hufu_log_groups_synced", "Groups of the block log made durable.";
        vote_log_syncs: "hufu_vote_log_syncs_done", "Times the vote log was made durable.";
        peer_bytes_in: "hufu_peer_bytes_received", "Bytes received from other validators.";
        peer_bytes_out: "hufu_peer_bytes_sent", "Bytes sent to other validators.";
        peer_frames: "hufu_peer_frames_received", "Frames received from other validators.";
        peer_batches: "hufu_peer_batches_received", "Batches received from other validators, those dropped included.";
        peer_connections_accepted: "hufu_peer_connections_accepted", "Connections accepted at the peer port, strangers included.";
        peer_connections_refused: "hufu_peer_connections_refused", "Connections at the peer port that found no place or had to make room.";
        peer_dials: "hufu_peer_connections_dialled", "Connections begun to other validators.";
        peer_dials_failed: "hufu_peer_dials_failed", "Connections to other validators that could not be made.";
        peer_heights_served: "hufu_peer_heights_served", "Decided heights and sets of bodies sent to validators that asked.";
        audit_records: "hufu_audit_records_written", "Records written to the audit log by the tiles, its own not counted.";
        audit_seals: "hufu_audit_seals_written", "Seals written to the audit log.";
        audit_bytes: "hufu_audit_bytes_written", "Bytes written to the audit log.";
        audit_pushed_back: "hufu_audit_senders_pushed_back", "Times a record found no room on its way to the audit log; whoever sent it does nothing until there is.";
        queries_answered: "hufu_query_requests_answered", "Queries answered to clients, by whichever tile.";
    }
    gauges {
        chain_height: "hufu_chain_height", "Height of the last block executed here.";
        chain_time_millis: "hufu_chain_time_milliseconds", "Unix time of the last block executed here.";
        ingress_connections: "hufu_ingress_connections", "Client connections now.";
        sign_is_card_away: "hufu_sign_card_away", "1 while the card with the vote key gives no signatures, else 0.";
        consensus_is_without_signer: "hufu_consensus_without_signer", "1 while this validator follows and does not vote, because its signer does not answer, else 0.";
        sign_is_card_refused: "hufu_sign_card_refused", "1 once the card with the vote key has refused for good: this validator votes again when the node is started anew.";
        verify_keys: "hufu_verify_known_keys", "Public keys that have a table now.";
        mempool_transactions: "hufu_mempool_transactions", "Transactions pending.";
        mempool_bytes: "hufu_mempool_bytes", "Bytes pending.";
        execute_cache_bytes: "hufu_execute_cache_bytes", "Bytes of state values in the cache.";
        peer_links: "hufu_peer_links", "Links to other validators that are open.";
        peer_round_trip_nanos: "hufu_peer_round_trip_nanoseconds", "Longest time of a ping there and back on an open link.";
        audit_unsealed: "hufu_audit_unsealed_records", "Records of the audit log that no seal covers yet.";
        audit_seal_age_millis: "hufu_audit_seal_age_milliseconds", "Time since the last seal of the audit log was written, or since the start.";
        is_ready: "hufu_node_ready", "1 while the node takes transactions.";
    }
}

impl Metrics {
    /// Counts refused transactions.
    pub fn count_refused(&self, code: RefusalCode, count: u64) {
        if let Some(counter) = RefusalCode::ALL.iter().position(|one| *one == code) {
            self.refused.get(counter).inspect(|counter| counter.add(count));
        }
    }

    /// Counts a transaction included with a failure.
    pub fn count_failed(&self, code: FailureCode) {
        if let Some(counter) = FailureCode::ALL.iter().position(|one| *one == code) {
            self.failed.get(counter).inspect(|counter| counter.add(1));
        }
    }

    /// Counts errors answered to clients.
    pub fn count_errors(&self, code: ErrorCode, count: u64) {
        self.errors.get(code.place()).inspect(|counter| counter.add(count));
    }

    /// Counts a link between validators that has ended.
    pub fn count_link_ended(&self, code: PeerCode) {
        self.peer_ends.get(code.place()).inspect(|counter| counter.add(1));
    }

    /// Links ended with this code.
    #[must_use]
    pub fn links_ended(&self, code: PeerCode) -> u64 {
        self.peer_ends.get(code.place()).map_or(0, Counter::get)
    }

    /// Counts what was dropped between validators.
    pub fn count_peer_dropped(&self, reason: PeerDrop, count: usize) {
        self.peer_drops.get(reason.place()).inspect(|counter| counter.add_count(count));
    }

    /// What was dropped between validators for this reason.
    #[must_use]
    pub fn peer_dropped(&self, reason: PeerDrop) -> u64 {
        self.peer_drops.get(reason.place()).map_or(0, Counter::get)
    }

    /// Counts what a peer did wrong with a batch.
    pub fn count_blamed(&self, blame: Blame) {
        if let Some(counter) = Blame::ALL.iter().position(|one| *one == blame) {
            self.blamed.get(counter).inspect(|counter| counter.add(1));
        }
    }

    /// How often peers did this wrong.
    #[must_use]
    pub fn blamed(&self, blame: Blame) -> u64 {
        let place = Blame::ALL.iter().position(|one| *one == blame);
        place.and_then(|place| self.blamed.get(place)).map_or(0, Counter::get)
    }

    /// Makes the counters of tiles and links part of the metrics. Once only.
    pub fn publish_topology(&self, tiles: Vec<Arc<TileStats>>, links: Vec<LinkStats>) {
        let is_first = self.topology.set((tiles, links)).is_ok();
        assert!(is_first, "the topology is published once");
    }

    /// Makes what the node's cards count part of the metrics, and what those of the vote key did.
    /// Once only.
    pub fn publish_cards(&self, cards: Vec<Arc<NodeCard>>, signing: Vec<Arc<MemberCounts>>) {
        let is_first = self.cards.set((cards, signing)).is_ok();
        assert!(is_first, "the cards are published once");
    }

    /// All metrics as OpenMetrics text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(16 << 10);
        self.render_declared(&mut out);
        self.render_codes(&mut out);
        if let Some((tiles, links)) = self.topology.get() {
            render_tiles(&mut out, tiles);
            render_links(&mut out, links);
        }
        if let Some((cards, signing)) = self.cards.get() {
            cards::render(&mut out, cards, signing);
        }
        // A host that does not tell shows as zero; nothing depends on these two.
        let cpu = process::process_cpu_nanos().unwrap_or(0);
        let resident = process::resident_memory().map_or(0, |memory| memory.bytes);
        render_one(
            &mut out,
            "hufu_process_cpu_nanoseconds",
            "counter",
            "CPU time of the process.",
            cpu,
        );
        render_one(
            &mut out,
            "hufu_process_resident_bytes",
            "gauge",
            "Resident memory of the process.",
            resident,
        );
        out.push_str("# EOF\n");
        out
    }

    fn render_codes(&self, out: &mut String) {
        let (name, help) =
            ("hufu_transactions_refused", "Transactions refused before inclusion, by reason.");
        render_family(out, name, help, "reason", RefusalCode::ALL, &self.refused);
        let (name, help) =
            ("hufu_transactions_failed", "Transactions included with a failure, by reason.");
        render_family(out, name, help, "reason", FailureCode::ALL, &self.failed);
        let (name, help) = ("hufu_ingress_errors_answered", "Errors answered to clients, by code.");
        render_family(out, name, help, "code", ErrorCode::ALL, &self.errors);
        let (name, help) = ("hufu_peer_links_ended", "Links at the peer port that ended, by code.");
        render_family(out, name, help, "code", PeerCode::ALL, &self.peer_ends);
        let (name, help) = (
            "hufu_peer_messages_dropped",
            "Messages from and to other validators that were dropped, by reason.",
        );
        render_family(out, name, help, "reason", PeerDrop::ALL, &self.peer_drops);
        let (name, help) =
            ("hufu_mempool_peers_blamed", "Batches of other validators not taken, by reason.");
        render_family(out, name, help, "reason", &Blame::ALL.map(Blame::name), &self.blamed);
    }
}

/// Counters of one name, one for each code.
fn render_family<C: std::fmt::Display>(
    out: &mut String,
    name: &str,
    help: &str,
    label: &str,
    codes: &[C],
    counters: &[Counter],
) {
    head(out, name, "counter", help);
    for (code, counter) in codes.iter().zip(counters) {
        line(out, format_args!("{name}_total{{{label}=\"{code}\"}} {}", counter.get()));
    }
}

fn render_tiles(out: &mut String, tiles: &[Arc<TileStats>]) {
    type Read = fn(&TileStats) -> u64;
    let families: [(&str, &str, Read); 5] = [
        ("hufu_tile_busy_nanoseconds", "Time a tile worked.", TileStats::busy_nanos),
        (
            "hufu_tile_waiting_nanoseconds",
            "Time a tile had nothing to do.",
            TileStats::waiting_nanos,
        ),
        (
            "hufu_tile_pushed_back_nanoseconds",
            "Time a tile waited for room downstream.",
            TileStats::pushed_back_nanos,
        ),
        ("hufu_tile_polls_done", "Polls of a tile.", TileStats::polls),
        ("hufu_tile_heartbeats_counted", "Rounds of a tile's thread.", TileStats::heartbeat),
    ];
    for (name, help, read) in families {
        head(out, name, "counter", help);
        for tile in tiles {
            let (label, thread, value) = (tile.tile(), tile.thread(), read(tile));
            line(out, format_args!("{name}_total{{tile=\"{label}\",thread=\"{thread}\"}} {value}"));
        }
    }
}

fn render_links(out: &mut String, links: &[LinkStats]) {
    type Read = fn(&LinkStats) -> u64;
    let families: [(&str, &str, &str, Read); 3] = [
        ("hufu_link_items_pushed", "counter", "Items that went into a link.", LinkStats::pushed),
        ("hufu_link_full_met", "counter", "Pushes that met a full link.", LinkStats::full),
        ("hufu_link_items_queued", "gauge", "Items waiting in a link.", LinkStats::queued),
    ];
    for (name, kind, help, read) in families {
        head(out, name, kind, help);
        let suffix = if kind == "counter" { "_total" } else { "" };
        for link in links {
            line(out, format_args!("{name}{suffix}{{link=\"{}\"}} {}", link.name(), read(link)));
        }
    }
}

fn render_one(out: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    head(out, name, kind, help);
    let suffix = if kind == "counter" { "_total" } else { "" };
    line(out, format_args!("{name}{suffix} {value}"));
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    line(out, format_args!("# TYPE {name} {kind}"));
    line(out, format_args!("# HELP {name} {help}"));
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    writeln!(out, "{text}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_openmetrics_with_unique_names() {
        let metrics = Metrics::default();
        metrics.count_refused(RefusalCode::Expired, 1);
        metrics.count_failed(FailureCode::HoldingFrozen);
        metrics.verify_signatures.add(7);
        let text = metrics.render();
        assert!(text.ends_with("# EOF\n"));
        assert!(text.contains("hufu_verify_signatures_checked_total 7\n"));
        assert!(text.contains("hufu_transactions_refused_total{reason=\"expired\"} 1\n"));
        assert!(text.contains("hufu_transactions_failed_total{reason=\"holding_frozen\"} 1\n"));
        let mut names: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
