//! The sign tile: signs what consensus may sign, and nothing else.
//!
//! ```text
//! consensus --Durable<SignIntent>--> sign (software key or card) --Signed--> consensus
//! ```
//!
//! The type is the proof: only an intent whose record is on disk can come in here (design.md 3, "A
//! vote"). The signature was verified in software before it leaves; any failure is fatal, that of a
//! fresh seed too ([`SeededSigner`]).

use std::sync::Arc;

use hufu_crypto::Signer;
use hufu_runtime::clock::Nanos;
use hufu_runtime::link::{Consumer, Producer};
use hufu_runtime::tile::{Fatal, Progress, Tile};
use hufu_types::vote::signing_digest;

use crate::messages::{SignRequest, Signed};
use crate::metrics::Metrics;
use crate::seeded_signer::SeededSigner;

/// See the module.
pub struct SignTile {
    signer: SeededSigner,
    metrics: Arc<Metrics>,
    incoming: Consumer<SignRequest>,
    outgoing: Producer<Signed>,
    held: Option<Signed>,
    is_stopping: bool,
}

impl SignTile {
    /// A tile that signs with `signer`.
    #[must_use]
    pub fn new(
        signer: Box<dyn Signer>,
        metrics: Arc<Metrics>,
        incoming: Consumer<SignRequest>,
        outgoing: Producer<Signed>,
    ) -> Self {
        let signer = SeededSigner::new(signer);
        Self { signer, metrics, incoming, outgoing, held: None, is_stopping: false }
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
        let Some(request) = self.incoming.pop() else {
            let is_finished = self.is_stopping && self.incoming.is_finished();
            return Ok(if is_finished { Progress::Done } else { Progress::Idle });
        };
        let digest = signing_digest(request.intent.get().bytes(), self.signer.public_key());
        let signature = self.signer.sign(&digest, now)?;
        self.metrics.sign_signatures.add(1);
        self.held = self.outgoing.try_push(Signed { ticket: request.ticket, signature }).err();
        Ok(Progress::Busy)
    }

    fn stop(&mut self) {
        self.is_stopping = true;
    }
}
