//! Metrics of the cards: what the pools, the agents and the groups count, one label for each card.
//!
//! Nothing is counted here. A scrape reads what the cards last said of themselves: that of an agent
//! comes over its socket once a second, and begins at zero with each new process of an agent.

use std::sync::Arc;

use hufu_hsm::agent::AgentState;
use hufu_hsm::group::{MemberCounts, Standing};
use hufu_hsm::pool::{CardReport, Operation};
use hufu_hsm::{ErrorClass, Rv};

use super::{head, line};
use crate::cards::{CardStatus, NodeCard};

/// Return values that PKCS#11 does not name, and those beyond what a pool tells apart.
const OTHER: &str = "other";

/// One number of a card's report.
type Read = fn(&CardReport) -> u64;

const GAUGES: &[(&str, &str, Read)] = &[
    ("hufu_card_sessions", "Sessions that are open now.", |report| report.sessions_open),
    ("hufu_card_sessions_lent", "Sessions that calls use now.", |report| report.sessions_lent),
    ("hufu_card_calls_waiting", "Calls that wait for a session now.", |report| {
        report.calls_waiting
    }),
    ("hufu_card_circuit_open", "1 while the card rests after failures, else 0.", |report| {
        report.is_resting.into()
    }),
    (
        "hufu_card_stopped",
        "1 while the card serves no more until somebody acts (a PIN, another card, a wrong \
         signature), else 0.",
        |report| report.is_stopped.into(),
    ),
];

const COUNTERS: &[(&str, &str, Read)] = &[
    ("hufu_card_sessions_opened", "Sessions opened.", |report| report.sessions_opened_total),
    ("hufu_card_sessions_lost", "Sessions closed because of an error of their own.", |report| {
        report.sessions_lost_total
    }),
    ("hufu_card_tokens_lost", "Times the token was lost.", |report| report.tokens_lost_total),
    ("hufu_card_tokens_reached", "Times the library was loaded and the token reached.", |report| {
        report.connected_total
    }),
    ("hufu_card_logins_done", "Logins that the token took.", |report| report.logins_total),
    ("hufu_card_operations_retried", "Operations begun again after an error.", |report| {
        report.retried_total
    }),
    ("hufu_card_calls_crowded", "Calls turned away because too many waited.", |report| {
        report.queue_refused_total
    }),
    ("hufu_card_calls_rested", "Calls turned away because the card rested.", |report| {
        report.circuit_refused_total
    }),
    (
        "hufu_card_signatures_mended",
        "Signatures that were not encoded as they should be.",
        |report| report.oddities_total,
    ),
];

/// Adds all metrics of these cards, and of the group that signs votes.
pub(super) fn render(out: &mut String, cards: &[Arc<NodeCard>], members: &[Arc<MemberCounts>]) {
    let read = |card: &Arc<NodeCard>| (card.config().name.clone(), card.status());
    let cards: Vec<(String, CardStatus)> = cards.iter().map(read).collect();
    if cards.is_empty() {
        return;
    }
    render_agents(out, &cards);
    let reports: Vec<(&str, &CardReport)> = cards
        .iter()
        .filter_map(|(name, status)| Some((name.as_str(), status.report.as_ref()?)))
        .collect();
    render_reports(out, &reports);
    render_members(out, members);
}

fn render_agents(out: &mut String, cards: &[(String, CardStatus)]) {
    let agents = || cards.iter().filter_map(|(name, status)| Some((name, status.agent.as_ref()?)));
    if agents().next().is_none() {
        return;
    }
    let name = "hufu_card_agent_state";
    head(out, name, "gauge", "1 for the state in which the card's agent is, else 0.");
    for (card, agent) in agents() {
        for state in AgentState::ALL {
            let (label, value) = (state.name(), u8::from(agent.state == state));
            line(out, format_args!("{name}{{card=\"{card}\",state=\"{label}\"}} {value}"));
        }
    }
    let name = "hufu_card_agent_calls";
    head(out, name, "gauge", "Calls that the card's agent has now.");
    for (card, agent) in agents() {
        line(out, format_args!("{name}{{card=\"{card}\"}} {}", agent.open_calls_count));
    }
    let (started, killed) = ("hufu_card_agents_started", "hufu_card_agents_killed");
    head(out, started, "counter", "Processes of the card's agent that were started or reached.");
    for (card, agent) in agents() {
        line(out, format_args!("{started}_total{{card=\"{card}\"}} {}", agent.starts_count));
    }
    head(out, killed, "counter", "Agents ended because they hung or broke the protocol.");
    for (card, agent) in agents() {
        line(out, format_args!("{killed}_total{{card=\"{card}\"}} {}", agent.kills_count));
    }
}

fn render_reports(out: &mut String, reports: &[(&str, &CardReport)]) {
    if reports.is_empty() {
        return;
    }
    for (name, help, read) in GAUGES {
        head(out, name, "gauge", help);
        for (card, report) in reports {
            line(out, format_args!("{name}{{card=\"{card}\"}} {}", read(report)));
        }
    }
    for (name, help, read) in COUNTERS {
        head(out, name, "counter", help);
        for (card, report) in reports {
            line(out, format_args!("{name}_total{{card=\"{card}\"}} {}", read(report)));
        }
    }
    let name = "hufu_card_errors_met";
    head(out, name, "counter", "Errors by class, those that a retry healed included.");
    for (card, report) in reports {
        for (class, count) in ErrorClass::ALL.iter().zip(report.errors) {
            let class = class.name();
            line(out, format_args!("{name}_total{{card=\"{card}\",class=\"{class}\"}} {count}"));
        }
    }
    let name = "hufu_card_return_values_met";
    head(out, name, "counter", "Errors by what the library returned (PKCS#11's CK_RV).");
    for (card, report) in reports {
        for (value, count) in by_name(report) {
            line(out, format_args!("{name}_total{{card=\"{card}\",value=\"{value}\"}} {count}"));
        }
    }
    render_latency(out, reports);
}

/// Return values by the names that PKCS#11 gives them, all others together.
fn by_name(report: &CardReport) -> Vec<(&'static str, u64)> {
    let mut others = report.return_values_others;
    let mut named = Vec::new();
    for (rv, count) in &report.return_values {
        match Rv::name(*rv) {
            Some(name) if named.iter().all(|(known, _)| *known != name) => {
                named.push((name, *count));
            }
            // No agent of ours tells one value twice.
            _ => others = others.saturating_add(*count),
        }
    }
    named.push((OTHER, others));
    named
}

/// Only operations that were done: a card that signs has no use for the empty buckets of others.
fn render_latency(out: &mut String, reports: &[(&str, &CardReport)]) {
    let name = "hufu_card_operation_nanoseconds";
    let help = "How long operations took, from the wish for a session to its return.";
    head(out, name, "histogram", help);
    for (card, report) in reports {
        for (operation, latency) in Operation::ALL.iter().zip(&report.latency) {
            let labels = format!("card=\"{card}\",operation=\"{}\"", operation.name());
            let mut count = 0_u64;
            let total = latency.buckets.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
            if total == 0 {
                continue;
            }
            let (last, buckets) = latency.buckets.split_last().unwrap_or((&0, &[]));
            for (power, bucket) in buckets.iter().enumerate() {
                count = count.saturating_add(*bucket);
                let bound = 1_000_u64 << power;
                let le = format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
                line(out, le);
            }
            count = count.saturating_add(*last);
            line(out, format_args!("{name}_bucket{{{labels},le=\"+Inf\"}} {count}"));
            line(out, format_args!("{name}_count{{{labels}}} {count}"));
            line(out, format_args!("{name}_sum{{{labels}}} {}", latency.nanos_total));
        }
    }
}

fn render_members(out: &mut String, members: &[Arc<MemberCounts>]) {
    if members.is_empty() {
        return;
    }
    let name = "hufu_sign_card_standing";
    head(out, name, "gauge", "1 for where a card with the vote key stands, else 0.");
    for member in members {
        for standing in Standing::ALL {
            let (card, label) = (member.name(), standing.name());
            let value = u8::from(member.standing() == standing);
            line(out, format_args!("{name}{{card=\"{card}\",standing=\"{label}\"}} {value}"));
        }
    }
    let (signed, failed) = ("hufu_sign_card_signatures_given", "hufu_sign_card_calls_failed");
    let help = "Signatures that a card with the vote key gave, those nobody needed included.";
    head(out, signed, "counter", help);
    for member in members {
        let (card, count) = (member.name(), member.signed_total());
        line(out, format_args!("{signed}_total{{card=\"{card}\"}} {count}"));
    }
    head(out, failed, "counter", "Signatures that a card with the vote key did not give.");
    for member in members {
        let (card, count) = (member.name(), member.failed_total());
        line(out, format_args!("{failed}_total{{card=\"{card}\"}} {count}"));
    }
}

#[cfg(test)]
mod tests {
    use hufu_hsm::agent::AgentStatus;
    use hufu_hsm::pool::{BUCKETS_COUNT, Latency};

    use super::*;

    fn report() -> CardReport {
        let mut latency =
            [Latency { buckets: [0; BUCKETS_COUNT], nanos_total: 0 }; Operation::ALL.len()];
        latency[0].buckets[2] = 3;
        latency[0].buckets[BUCKETS_COUNT - 1] = 1;
        latency[0].nanos_total = 12_345;
        CardReport {
            sessions_open: 4,
            sessions_lent: 1,
            calls_waiting: 0,
            is_resting: true,
            is_stopped: false,
            sessions_opened_total: 5,
            sessions_lost_total: 1,
            tokens_lost_total: 2,
            connected_total: 3,
            logins_total: 3,
            retried_total: 1,
            queue_refused_total: 0,
            circuit_refused_total: 0,
            oddities_total: 7,
            latency,
            errors: [1, 0, 2, 0, 0],
            return_values: vec![(Rv(0x32), 2), (Rv(0x8000_0001), 4), (Rv(0x32), 1)],
            return_values_others: 1,
        }
    }

    #[test]
    fn numbers_of_a_card_have_its_label_and_labels_come_from_closed_sets() {
        let agent =
            AgentStatus { state: AgentState::Serving, starts_count: 2, ..Default::default() };
        let status = CardStatus { agent: Some(agent), report: Some(report()) };
        let mut out = String::new();
        render_agents(&mut out, &[("card-0".to_owned(), status)]);
        let report = report();
        render_reports(&mut out, &[("card-0", &report)]);
        let wanted = [
            "hufu_card_agent_state{card=\"card-0\",state=\"serving\"} 1\n",
            "hufu_card_agent_state{card=\"card-0\",state=\"refused\"} 0\n",
            "hufu_card_agents_started_total{card=\"card-0\"} 2\n",
            "hufu_card_sessions{card=\"card-0\"} 4\n",
            "hufu_card_circuit_open{card=\"card-0\"} 1\n",
            "hufu_card_errors_met_total{card=\"card-0\",class=\"token_lost\"} 2\n",
            "hufu_card_return_values_met_total{card=\"card-0\",value=\"CKR_DEVICE_REMOVED\"} 2\n",
            "hufu_card_return_values_met_total{card=\"card-0\",value=\"other\"} 6\n",
            "_bucket{card=\"card-0\",operation=\"sign\",le=\"2000\"} 0\n",
            "_bucket{card=\"card-0\",operation=\"sign\",le=\"4000\"} 3\n",
            "_bucket{card=\"card-0\",operation=\"sign\",le=\"+Inf\"} 4\n",
            "hufu_card_operation_nanoseconds_sum{card=\"card-0\",operation=\"sign\"} 12345\n",
        ];
        for line in wanted {
            assert!(out.contains(line), "{line}: {out}");
        }
        assert!(!out.contains("operation=\"decrypt\""), "nothing was decrypted");
        let mut names: Vec<&str> =
            out.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
