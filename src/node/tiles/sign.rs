//! The sign tile: signs what consensus may sign, and nothing else.
//!
//! ```text
//! consensus --Durable<SignIntent>--> sign --> desk (software key or card) --Signed--> consensus
//!                                      '--Event--> audit: what was signed, what failed
//! ```
//!
//! The type is the proof: only an intent whose record is on disk can come in here (design.md 3, "A
//! vote"). The signature was verified in software before it leaves.
//!
//! A card that is away or busy is asked again, the same bytes, until it answers: this validator
//! follows and does not vote meanwhile, and nothing else signs for it. One that refuses for good (a
//! PIN that was changed, a key that is gone, a wrong signature) is not asked again before the node
//! starts anew. A failure in software is fatal, that of a fresh seed too
//! ([`crate::seeded_signer`]).

use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::Digest;
use hufu_runtime::clock::Nanos;
use hufu_runtime::link::{Consumer, Producer};
use hufu_runtime::tile::{Fatal, Progress, Tile};
use hufu_runtime::wake::PollSet;
use hufu_types::vote::signing_digest;

use crate::audit::SignAudit;
use crate::log;
use crate::messages::{SignRequest, Signed};
use crate::metrics::Metrics;
use crate::signing_desk::{DeskError, SigningDesk};

/// Before a card that is away is asked again, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// See the module.
pub struct SignTile {
    desk: SigningDesk,
    audit: SignAudit,
    metrics: Arc<Metrics>,
    incoming: Consumer<SignRequest>,
    outgoing: Producer<Signed>,
    held: Option<Signed>,
    asked: Option<Asked>,
    /// How long the card is away: when it was first missed, the pause before the next try.
    away: Option<(Nanos, Duration)>,
    /// The card has said for good that it does not sign.
    is_refused: bool,
    is_stopping: bool,
}

/// The one signature that consensus waits for.
struct Asked {
    request: SignRequest,
    digest: Digest,
    /// When the desk is asked again; it is at work until then if there is none.
    retry_at: Option<Nanos>,
}

impl SignTile {
    /// A tile that signs at `desk` and tells `audit` about it.
    #[must_use]
    pub fn new(
        desk: SigningDesk,
        audit: SignAudit,
        metrics: Arc<Metrics>,
        incoming: Consumer<SignRequest>,
        outgoing: Producer<Signed>,
    ) -> Self {
        Self {
            desk,
            audit,
            metrics,
            incoming,
            outgoing,
            held: None,
            asked: None,
            away: None,
            is_refused: false,
            is_stopping: false,
        }
    }

    /// Takes the next request to the desk.
    fn ask(&mut self, now: Nanos) -> Result<Progress, Fatal> {
        let Some(request) = self.incoming.pop() else {
            let is_finished =
                self.is_stopping && self.incoming.is_finished() && self.audit.finish();
            return Ok(if is_finished { Progress::Done } else { Progress::Idle });
        };
        let digest = signing_digest(request.intent.get().bytes(), self.desk.public_key());
        self.asked = Some(Asked { request, digest, retry_at: None });
        self.submit(digest, now)
    }

    fn submit(&mut self, digest: Digest, now: Nanos) -> Result<Progress, Fatal> {
        match self.desk.submit(&digest, now) {
            Ok(()) => Ok(Progress::Busy),
            Err(error) => self.failed(error, now),
        }
    }

    /// There is no signature: a card that may answer later is asked again after a pause, one that
    /// refuses is left alone, and without a key in software the node stops.
    fn failed(&mut self, error: DeskError, now: Nanos) -> Result<Progress, Fatal> {
        if !error.may_pass() {
            if error.is_of_card() {
                self.refused(&error);
            } else {
                self.audit.ends(error, now);
            }
            return Ok(Progress::Busy);
        }
        self.metrics.sign_failures.add(1);
        let (since, pause) = match self.away {
            Some((since, pause)) => (since, pause.saturating_mul(2).min(PAUSE_MAX)),
            None => {
                let reason: &str = &error.to_string();
                log::error(
                    "this validator does not vote: its card gives no signature",
                    &[("reason", reason)],
                );
                self.metrics.sign_is_card_away.set(1);
                self.audit.away(&error);
                (now, PAUSE_MIN)
            }
        };
        self.away = Some((since, pause));
        if let Some(asked) = &mut self.asked {
            asked.retry_at = Some(now.after(pause));
        }
        Ok(Progress::Busy)
    }

    /// The card refuses for good. Its agent runs foreign code: whatever that says, it costs this
    /// validator its votes, and not its clients their node.
    fn refused(&mut self, error: &DeskError) {
        self.metrics.sign_failures.add(1);
        self.metrics.sign_is_card_away.set(1);
        self.metrics.sign_is_card_refused.set(1);
        let reason: &str = &error.to_string();
        let remedy = "`hufu hsm status` says what is wrong; start the node anew when it is mended";
        let fields = [("reason", reason), ("remedy", remedy)];
        log::error("this validator votes no more: its card refuses", &fields);
        self.audit.refused(error);
        self.is_refused = true;
    }

    fn answered(&mut self, now: Nanos) {
        if let Some((since, _)) = self.away.take() {
            self.audit.back(now.duration_since(since));
            let millis: &str = &now.duration_since(since).as_millis().to_string();
            log::info("the card signs again", &[("away_millis", millis)]);
            self.metrics.sign_is_card_away.set(0);
        }
    }
}

impl Tile for SignTile {
    fn name(&self) -> &'static str {
        "sign"
    }

    fn poll(&mut self, now: Nanos) -> Result<Progress, Fatal> {
        if let Some(signed) = self.held.take()
            && let Err(back) = self.outgoing.try_push(signed)
        {
            self.held = Some(back);
            return Ok(Progress::PushedBack);
        }
        if !self.audit.poll(now)? {
            return Ok(Progress::PushedBack);
        }
        if self.is_refused {
            // What was asked for stands on record; nothing signs it.
            self.asked = None;
            let is_over = self.is_stopping && self.incoming.pop().is_none();
            let is_over = is_over && self.incoming.is_finished() && self.audit.finish();
            return Ok(if is_over { Progress::Done } else { Progress::Idle });
        }
        let Some(asked) = &mut self.asked else { return self.ask(now) };
        if let Some(retry_at) = asked.retry_at {
            if self.is_stopping {
                // Nobody waits for it any more; the record of the intent stands.
                self.asked = None;
                return Ok(Progress::Busy);
            }
            if now < retry_at {
                return Ok(Progress::Idle);
            }
            asked.retry_at = None;
            let digest = asked.digest;
            return self.submit(digest, now);
        }
        match self.desk.poll() {
            None => Ok(Progress::Idle),
            Some(Err(error)) => self.failed(error, now),
            Some(Ok(signature)) => {
                self.answered(now);
                if let Some(Asked { request, .. }) = self.asked.take() {
                    self.metrics.sign_signatures.add(1);
                    self.audit.signed(request.intent.get(), now);
                    let signed = Signed { ticket: request.ticket, signature };
                    self.held = self.outgoing.try_push(signed).err();
                }
                Ok(Progress::Busy)
            }
        }
    }

    fn deadline(&self) -> Option<Nanos> {
        let asked = self.asked.as_ref();
        let asked = asked.and_then(|asked| asked.retry_at.or_else(|| self.desk.deadline()));
        [asked, self.audit.deadline()].into_iter().flatten().min()
    }

    fn poll_fds<'a>(&'a self, fds: &mut PollSet<'_, 'a>) {
        self.desk.poll_fds(fds);
    }

    fn stop(&mut self) {
        self.is_stopping = true;
    }
}
