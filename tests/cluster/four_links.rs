//! Bad networks between four validators: packets that get lost, and a node that is heard by nobody.
//!
//! ```text
//! test -> unshare -n: the same test again, alone with its loopback device
//!   node-0 .. node-3, each with a group of its own -> output hook of nft -> lo
//!                                                     drops by group and port of the links
//! ```
//! Nothing outside of the network namespace is touched. It needs root; without it the tests say so
//! and are skipped.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::four::Four;
use crate::load::Loader;
use crate::node::wait_until;

/// Receipts between two faults, count.
const SOME: usize = 200;

/// Group of the process of the first node; nothing else on a host runs with these.
const FIRST_GROUP: u32 = 61_000;

/// Set in the process that runs inside of the namespace.
const INSIDE: &str = "HUFU_OWN_NETWORK";

/// Whether this process has a network of its own. If not, the test is run again in one that has,
/// and must succeed there.
fn has_own_network(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if let Some(reason) = unavailable() {
        eprintln!("skipped: {reason}");
        return false;
    }
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("four_links::{test}"), "--nocapture"]);
    let output = command.env(INSIDE, "1").stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "there is no test of that name: {said}");
    print!("{said}");
    false
}

/// Why this host cannot lend a network, if it cannot.
fn unavailable() -> Option<String> {
    for tool in ["unshare", "ip", "nft"] {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output();
        if !found.is_ok_and(|output| output.status.success()) {
            return Some(format!("{tool} is not installed"));
        }
    }
    let tried = Command::new("unshare").args(["-n", "nft", "add table inet faults"]).output();
    match tried {
        Ok(output) if output.status.success() => None,
        _ => Some("network namespaces with packet filters need root".to_owned()),
    }
}

fn nft(rules: &str) -> String {
    let output = Command::new("nft").arg(rules).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {rules}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// What happens to packets between validators, from now until it is dropped.
struct Fault;

impl Fault {
    /// Drops those packets of the links that `which` matches.
    fn begin(peers: &[SocketAddr], which: &str) -> Self {
        let ports: Vec<String> = peers.iter().map(|peer| peer.port().to_string()).collect();
        let ports = ports.join(", ");
        nft("add table inet faults");
        nft("add chain inet faults out { type filter hook output priority 0; }");
        for side in ["dport", "sport"] {
            nft(&format!("add rule inet faults out {which} tcp {side} {{ {ports} }} counter drop"));
        }
        Self
    }

    /// Ends the fault, which must have hit something.
    fn end(self) {
        let listed = nft("list chain inet faults out");
        nft("delete table inet faults");
        let counts = listed.split("packets ").skip(1).filter_map(|text| text.split(' ').next());
        let dropped: u64 = counts.map(|count| count.parse::<u64>().unwrap()).sum();
        println!("{dropped} packets dropped");
        assert!(dropped > 0, "no packet was dropped: {listed}");
    }
}

/// Four nodes whose packets can be told apart, serving.
fn open(name: &str) -> Four {
    let mut four = Four::new(name);
    for (group, node) in (FIRST_GROUP..).zip(&mut four.nodes) {
        node.set_group(group);
    }
    four.open()
}

#[test]
fn a_node_that_nobody_hears_does_not_stop_the_others() {
    if !has_own_network("a_node_that_nobody_hears_does_not_stop_the_others") {
        return;
    }
    let four = open("one-way");
    let loaders = four.load(&[0, 1, 2, 3]);
    four.record.wait_for_more(SOME);
    let (mute, other) = (0, 1);
    let fault = Fault::begin(&four.peers, &format!("meta skgid {FIRST_GROUP}"));
    // Until the others have no link to it any more, and ten heights from there.
    wait_until("the end of the links to the node", || {
        four.metrics(other).get("hufu_peer_links") == 2
    });
    four.wait_heights(other, 10);
    let reached = four.tip(other);
    fault.end();
    wait_until("the node with the others", || four.tip(mute) > reached);
    four.record.wait_for_more(SOME);
    loaders.into_iter().for_each(Loader::finish);
    four.finish();
}

#[test]
fn the_chain_goes_on_while_three_in_ten_packets_are_lost() {
    if !has_own_network("the_chain_goes_on_while_three_in_ten_packets_are_lost") {
        return;
    }
    let four = open("loss");
    let loaders = four.load(&[0, 1, 2, 3]);
    four.record.wait_for_more(SOME);
    let fault = Fault::begin(&four.peers, "numgen random mod 100 < 30");
    for index in 0..four.nodes.len() {
        four.wait_heights(index, 5);
    }
    fault.end();
    four.record.wait_for_more(SOME);
    loaders.into_iter().for_each(Loader::finish);
    four.finish();
}
