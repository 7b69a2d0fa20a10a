//! The raw rate of a verifier on all cores, against which the end-to-end rate of the same machine
//! is held.
//!
//! ```text
//! threads x ( batch of signatures -> verify_many -> again ) for a fixed time -> signatures/s
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use hufu_crypto::{Digest, Provider, PublicKey, Signature, Sm3, Verdict, VerifyItem};
use hufu_crypto::{IDENTITY_DEFAULT, identity_digest, message_digest};
use hufu_runtime::clock::monotonic;

use crate::Error;
use crate::cast::Cast;
use crate::workload::Role;

/// Signatures of one batch, as a verify tile gathers them.
const BATCH_COUNT: u16 = 256;

/// Signatures a second that `threads` threads verify with this provider in about `span`, brokers
/// signing in turn.
///
/// # Errors
/// [`Error::Crypto`] when signatures could not be made, [`Error::Thread`] without threads.
pub fn rate(provider: &Provider, cast: &Cast, threads: u16, span: Duration) -> Result<u64, Error> {
    let signed = signed(cast)?;
    let items: Vec<VerifyItem<'_>> = signed
        .iter()
        .map(|(key, digest, signature)| VerifyItem { key, digest: *digest, signature })
        .collect();
    let (is_over, verified) = (AtomicBool::new(false), AtomicU64::new(0));
    let verify = || {
        let mut verdicts = vec![Verdict::SignatureInvalid; items.len()];
        while !is_over.load(Ordering::Relaxed) {
            provider.verifier.verify_many(&items, &mut verdicts);
            assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Valid), "honest signatures");
            verified.fetch_add(u64::from(BATCH_COUNT), Ordering::Relaxed);
        }
    };
    let started = monotonic();
    thread::scope(|scope| {
        let mut handles = Vec::new();
        for number in 0..threads.max(1) {
            let named = thread::Builder::new().name(format!("load-verify-{number}"));
            match named.spawn_scoped(scope, verify) {
                Ok(handle) => handles.push(handle),
                Err(cause) => {
                    is_over.store(true, Ordering::Relaxed);
                    return Err(Error::Thread(cause));
                }
            }
        }
        let end = started.after(span);
        while monotonic() < end {
            thread::park_timeout(end.duration_since(monotonic()));
        }
        is_over.store(true, Ordering::Relaxed);
        Ok(())
    })?;
    let nanos = monotonic().since(started);
    let product = u128::from(verified.into_inner()) * 1_000_000_000;
    Ok(u64::try_from(product / u128::from(nanos.max(1))).unwrap_or(u64::MAX))
}

fn signed(cast: &Cast) -> Result<Vec<(PublicKey, Digest, Signature)>, Error> {
    let sign = |number: u16| {
        let actor = cast.actor(Role::Broker(number % cast.accounts_count()));
        let message = Sm3::of(&[&number.to_le_bytes()]);
        let za = identity_digest(IDENTITY_DEFAULT, actor.public_key());
        let digest = message_digest(&za, message.as_bytes());
        Ok((*actor.public_key(), digest, actor.sign(message.as_bytes())?))
    };
    (0..BATCH_COUNT).map(sign).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_measured() {
        let cast = Cast::derive(&[6; 32], 3).unwrap();
        let provider = hufu_crypto::software_provider();
        let rate = rate(&provider, &cast, 1, Duration::from_millis(50)).unwrap();
        assert!((10..10_000_000).contains(&rate), "{rate}");
    }
}
