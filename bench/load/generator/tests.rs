use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::replay::Replay;
use crate::synthetic::SyntheticHour;

fn tasks() -> Vec<Scheduled> {
    let events: Vec<_> = SyntheticHour::new(3, 4_000).collect();
    let replay = Replay::new(events.into(), 10, 1, 0).unwrap();
    replay.map(|task| Scheduled { task, due: None, signings_count: 0 }).collect()
}

fn options(nodes_count: u16, connections_count: u16) -> SendOptions {
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let mut options = SendOptions::over((1..=nodes_count).map(address).collect(), ChainId::ZERO);
    options.connections_count = connections_count;
    options
}

#[test]
fn a_broker_talks_to_one_node_and_the_clearing_house_to_all() {
    let tasks = tasks();
    let mut nodes: BTreeMap<Role, BTreeSet<usize>> = BTreeMap::new();
    for Scheduled { task, .. } in &tasks {
        nodes.entry(task.role).or_default().insert(node_of(task, 3));
        assert_eq!(node_of(task, 1), 0);
    }
    let all = BTreeSet::from([0, 1, 2]);
    assert_eq!(nodes.remove(&Role::ClearingHouse), Some(all.clone()));
    assert_eq!(nodes.len(), 10, "every broker is heard of");
    assert!(nodes.values().all(|nodes| nodes.len() == 1));
    assert_eq!(nodes.into_values().flatten().collect::<BTreeSet<_>>(), all);
}

#[test]
fn every_task_goes_to_one_connection_of_its_node() {
    let tasks = tasks();
    for (nodes_count, connections_count) in [(1, 1), (1, 3), (3, 1), (3, 3), (3, 7), (16, 2)] {
        let options = options(nodes_count, connections_count);
        let generator = Generator::new(&options, None, 0).unwrap();
        let nodes_count = usize::from(nodes_count);
        let connections = generator.shares.len();
        assert_eq!(connections, usize::from(connections_count).max(nodes_count));
        // Handfuls smaller than the number of connections take turns too.
        let mut counts = vec![0; connections];
        for handful in tasks.chunks(5) {
            let lists = generator.divide(handful);
            let mut all: Vec<u32> = lists.iter().flatten().copied().collect();
            all.sort_unstable();
            let expected: Vec<u32> = (0..).take(handful.len()).collect();
            assert_eq!(all, expected, "each task once");
            for (number, list) in lists.iter().enumerate() {
                assert!(list.is_sorted(), "in the order of the parcel");
                counts[number] += list.len();
                let node = generator.shares[number].node;
                for at in list {
                    let wanted = node_of(&handful[index(*at)].task, nodes_count);
                    assert_eq!(node, options.nodes[wanted]);
                }
            }
        }
        if nodes_count < 16 {
            assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        }
    }
}
