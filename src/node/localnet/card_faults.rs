//! Cards of a loaded network that fail: the agent of one is killed, the device of another is taken
//! away for a while; and what that costs the two validators and the chain.
//!
//! ```text
//! load begins --after--> fault -> attempts fail: this validator does not vote -> votes again
//!                        |<------------------------- away ------------------------>|
//! ```
//!
//! Looked at from outside, by the metrics of the victim and of a node that nothing happens to.

use std::fmt;
use std::time::Duration;

use hufu_load::Sample;
use hufu_runtime::clock::{self, Nanos};
use serde::Serialize;

use super::cards;
use super::child::Nodes;
use super::folder::{Folder, name};
use super::outage::Began;
use crate::cli::CliError;
use crate::ready::Ready;

/// What happens to the cards of a network, and how long after the load began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CardFaults {
    /// When the agent of the third node is killed.
    pub kill_agent_after: Option<Duration>,
    /// When the device of the second node is taken away, and for how long.
    pub remove_after: Option<(Duration, Duration)>,
}

/// Node whose device is taken away, and node whose agent is killed.
const REMOVED_INDEX: u16 = 1;
const KILLED_INDEX: u16 = 2;

/// Pause between two looks at the metrics.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// How long a validator may take to vote again once its card can be there.
const BACK_PATIENCE: Duration = Duration::from_secs(60);

/// What is done to a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    AgentKilled,
    DeviceRemoved(Duration),
}

/// What the two nodes say at one moment.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Nanos,
    height: u64,
    others_height: u64,
    caught_up: u64,
    signed: u64,
    failed: u64,
}

/// One card and what became of it.
struct Fault {
    kind: Kind,
    index: u16,
    after: Duration,
    struck: Option<Look>,
    /// The first look that shows a signature that failed.
    missed: Option<Look>,
    /// The last look before it signed again.
    last_away: Option<Look>,
    back: Option<Look>,
}

/// See the module.
pub(super) struct CardCourse {
    began: Began,
    faults: Vec<Fault>,
    next_look: Nanos,
}

impl CardCourse {
    /// `None` where nothing is to happen.
    pub(super) fn new(faults: CardFaults, began: Began) -> Option<Self> {
        let fault = |kind, index, after| Fault {
            kind,
            index,
            after,
            struck: None,
            missed: None,
            last_away: None,
            back: None,
        };
        let killed =
            faults.kill_agent_after.map(|after| fault(Kind::AgentKilled, KILLED_INDEX, after));
        let removed = faults
            .remove_after
            .map(|(after, span)| fault(Kind::DeviceRemoved(span), REMOVED_INDEX, after));
        let faults: Vec<Fault> = killed.into_iter().chain(removed).collect();
        (!faults.is_empty()).then_some(Self { began, faults, next_look: Nanos::ZERO })
    }

    /// Does what is due; `true` once all cards have come back.
    ///
    /// # Errors
    /// If a fault cannot be made, came too late for the load, or a validator does not vote again.
    pub(super) fn step(
        &mut self,
        nodes: &Nodes,
        folder: &Folder,
        ready: &[Ready],
        is_loaded: bool,
    ) -> Result<bool, CliError> {
        let now = clock::monotonic();
        let (Some(began), Some(witness)) = (self.began.get(), ready.first()) else {
            return Ok(false);
        };
        if now < self.next_look {
            return Ok(false);
        }
        self.next_look = now.after(LOOK_PAUSE);
        for fault in self.faults.iter_mut().filter(|fault| fault.back.is_none()) {
            let Some(victim) = ready.get(usize::from(fault.index)) else { continue };
            if fault.struck.is_some() {
                fault.watch(witness, victim)?;
            } else if now >= began.after(fault.after) {
                fault.struck = Some(look(fault.index, witness, victim)?);
                fault.strike(nodes, folder)?;
            } else if is_loaded {
                let remedy = "let it happen sooner, or give the load more events";
                let what = "the load was over before its card failed";
                return Err(CliError::failed(what, name(fault.index), remedy));
            }
        }
        Ok(self.faults.iter().all(|fault| fault.back.is_some()))
    }

    /// The figures, once all cards have come back.
    pub(super) fn report(&self) -> Report {
        Report(self.faults.iter().filter_map(Fault::report).collect())
    }
}

impl Fault {
    fn strike(&self, nodes: &Nodes, folder: &Folder) -> Result<(), CliError> {
        match self.kind {
            Kind::AgentKilled => nodes.kill_agent(self.index),
            Kind::DeviceRemoved(span) => cards::remove(&folder.node(self.index), span),
        }
    }

    fn watch(&mut self, witness: &Ready, victim: &Ready) -> Result<(), CliError> {
        let Some(struck) = self.struck else { return Ok(()) };
        let look = look(self.index, witness, victim)?;
        let is_missed = look.failed > struck.failed;
        let missed = *self.missed.get_or_insert(look);
        if !is_missed {
            self.missed = None;
        } else if look.signed > missed.signed {
            self.back = Some(look);
        } else {
            self.last_away = Some(look);
        }
        let span = match self.kind {
            Kind::AgentKilled => Duration::ZERO,
            Kind::DeviceRemoved(span) => span,
        };
        if self.back.is_none() && look.at >= struck.at.after(span).after(BACK_PATIENCE) {
            let what = format!("it does not vote {BACK_PATIENCE:?} after its card could be back");
            return Err(CliError::failed(what, name(self.index), "look at its log"));
        }
        Ok(())
    }

    fn report(&self) -> Option<Away> {
        let (struck, missed, back) = (self.struck?, self.missed?, self.back?);
        let last = self.last_away.unwrap_or(missed);
        let (what, removed_seconds) = match self.kind {
            Kind::AgentKilled => ("its agent was killed", None),
            Kind::DeviceRemoved(span) => ("its device was removed", Some(span.as_secs_f64())),
        };
        Some(Away {
            node: name(self.index),
            what,
            removed_seconds,
            away_seconds: back.at.duration_since(struck.at).as_secs_f64(),
            chain_heights: back.others_height.saturating_sub(struck.others_height),
            own_heights: back.height.saturating_sub(struck.height),
            heights_from_peers: back.caught_up.saturating_sub(struck.caught_up),
            attempts_failed: back.failed.saturating_sub(struck.failed),
            signatures_meanwhile: last.signed.saturating_sub(missed.signed),
        })
    }
}

fn look(index: u16, witness: &Ready, victim: &Ready) -> Result<Look, CliError> {
    let seen = |node: &Ready| {
        let remedy = "look at the logs of the nodes";
        let sample = Sample::take(node.admin, None);
        sample.map_err(|cause| CliError::failed(cause, name(index), remedy))
    };
    let (others, own) = (seen(witness)?, seen(victim)?);
    Ok(Look {
        at: clock::monotonic(),
        height: own.height(),
        others_height: others.height(),
        caught_up: own.heights_caught_up(),
        signed: own.signatures_made(),
        failed: own.signatures_failed(),
    })
}

/// How one card was away.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Away {
    node: String,
    what: &'static str,
    /// For how long the device was away.
    removed_seconds: Option<f64>,
    /// From the fault until the validator had signed again.
    away_seconds: f64,
    /// Heights that the chain decided meanwhile.
    chain_heights: u64,
    /// Those that this node executed, and those it took over from peers instead of voting.
    own_heights: u64,
    heights_from_peers: u64,
    attempts_failed: u64,
    /// Signatures made while the card gave none: each would be one that no card made.
    signatures_meanwhile: u64,
}

/// What became of the cards.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Report(Vec<Away>);

impl Report {
    /// Whether every validator followed the chain, and none signed, while its card was away.
    pub(super) fn is_good(&self) -> bool {
        self.0.iter().all(|away| away.signatures_meanwhile == 0 && away.chain_heights > 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for away in &self.0 {
            let span = away.removed_seconds.map(|seconds| format!(" for {seconds:.1} s"));
            writeln!(
                out,
                "{:<14}{}{}: votes again after {:.1} s; the chain {} heights meanwhile, this node \
                 {} ({} from peers), {} signatures refused, {} made",
                away.node,
                away.what,
                span.unwrap_or_default(),
                away.away_seconds,
                away.chain_heights,
                away.own_heights,
                away.heights_from_peers,
                away.attempts_failed,
                away.signatures_meanwhile,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64, height: u64, signed: u64, failed: u64) -> Look {
        let at = Nanos::from_nanos(millis * 1_000_000);
        Look { at, height, others_height: height + 1, caught_up: height / 2, signed, failed }
    }

    #[test]
    fn a_card_that_was_away_is_told_in_figures() {
        let fault = Fault {
            kind: Kind::DeviceRemoved(Duration::from_secs(1)),
            index: 1,
            after: Duration::ZERO,
            struck: Some(at(1_000, 10, 30, 0)),
            missed: Some(at(1_050, 10, 31, 1)),
            last_away: Some(at(2_000, 28, 31, 9)),
            back: Some(at(2_100, 30, 33, 9)),
        };
        let away = fault.report().unwrap();
        assert_eq!((away.chain_heights, away.own_heights, away.heights_from_peers), (20, 20, 10));
        assert_eq!((away.signatures_meanwhile, away.attempts_failed), (0, 9));
        assert!((away.away_seconds - 1.1).abs() < 0.001);
        assert!(Report(vec![away.clone()]).is_good());
        let text = Report(vec![away.clone()]).to_string();
        assert!(text.contains("node-1") && text.contains("for 1.0 s"), "{text}");
        assert!(!Report(vec![Away { signatures_meanwhile: 1, ..away }]).is_good());
        assert!(Fault { back: None, ..fault }.report().is_none());
    }
}
