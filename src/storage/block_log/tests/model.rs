//! Random histories against a list in memory.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Poll,
    Flush,
    /// Stops without closing, as a kill does, and opens again.
    Crash,
    Close,
    /// Garbage is written behind the tail, as a power cut in the middle of a write leaves it.
    TornTail(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0_usize..20_000).prop_map(Step::Append),
        3 => Just(Step::Poll),
        2 => Just(Step::Flush),
        1 => Just(Step::Crash),
        1 => Just(Step::Close),
        1 => (1_usize..9_000).prop_map(Step::TornTail),
    ];
    vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_was_acknowledged_is_always_a_prefix_of_what_is_read(
        steps in steps(),
        depth in 1_u32..=4,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut options = small(folder.path());
        options.depth = depth;
        options.file_system = FileSystem::default();
        let (mut log, _) = open(&options);
        let mut offered: Vec<(RecordPosition, usize)> = Vec::new();
        for (index, step) in steps.into_iter().enumerate() {
            match step {
                Step::Append(bytes) => {
                    let position = append(&mut log, 1, &payload(index, bytes));
                    offered.push((position, bytes));
                }
                Step::Poll => {
                    let progress = log.poll().unwrap();
                    prop_assert!(progress.durable == log.durable());
                }
                Step::Flush => drop(log.flush().unwrap()),
                Step::Close => {
                    log.close().unwrap();
                    log = open(&options).0;
                }
                Step::Crash | Step::TornTail(_) => {
                    let durable = log.durable();
                    drop(log);
                    if let Step::TornTail(bytes) = step {
                        let (segment, start, length) = *groups(&options).last().unwrap();
                        let end = start + length;
                        let room = usize::try_from(options.segment_bytes - end).unwrap();
                        overwrite(folder.path(), segment, end, &payload(index, bytes.min(room)));
                    }
                    options.known_durable = durable.get();
                    log = open(&options).0;
                    let seen = read_all(&mut log.reader());
                    let acknowledged =
                        offered.iter().filter(|(position, _)| durable.covers(position)).count();
                    prop_assert!(seen.len() >= acknowledged && seen.len() <= offered.len());
                    offered.truncate(seen.len());
                }
            }
        }
        log.flush().unwrap();
        let seen = read_all(&mut log.reader());
        prop_assert_eq!(seen.len(), offered.len());
        for ((position, _, bytes), (expected, length)) in seen.iter().zip(&offered) {
            prop_assert_eq!(position, expected);
            prop_assert_eq!(bytes.len(), *length);
        }
        log.close().unwrap();
        let report = verify(&options, &mut |_, _| {}).unwrap();
        prop_assert!(report.is_clean() && report.sealed, "{:?}", report);
    }
}
