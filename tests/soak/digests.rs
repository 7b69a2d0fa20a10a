//! SM3 of many streams and of pairs on every back end, against the portable hash in pieces and
//! against RustCrypto's `sm3`.

use hufu_kernels::Backend;
use hufu_kernels::sm3 as kernel;
use sm3::Digest as _;

use crate::{Counts, Disagreement, Numbers, backends};

/// Messages of a round at most.
const MESSAGES: usize = 300;

/// Messages of unequal lengths: short, about blocks' ends, and long ones.
#[must_use]
pub fn messages(numbers: &mut Numbers) -> Vec<Vec<u8>> {
    let count = 1 + numbers.below(MESSAGES);
    let mut message = |_| {
        let size = match numbers.below(8) {
            0 => 64 * numbers.below(12) + numbers.below(3),
            1 => 55 + numbers.below(10),
            2 => numbers.below(9_000),
            3 => 0,
            _ => numbers.below(300),
        };
        numbers.bytes(size)
    };
    (0..count).map(&mut message).collect()
}

/// # Errors
/// The first disagreement.
pub fn compare(numbers: &mut Numbers, counts: &mut Counts) -> Result<(), Disagreement> {
    let messages = messages(numbers);
    let expected: Vec<[u8; 32]> = messages
        .iter()
        .map(|message| {
            let (mut hasher, mut rest) = (kernel::Sm3::new(), message.as_slice());
            while !rest.is_empty() {
                let (piece, others) = rest.split_at(rest.len().min(1 + numbers.below(200)));
                hasher.update(piece);
                rest = others;
            }
            hasher.finish()
        })
        .collect();
    for (message, expected) in messages.iter().zip(&expected) {
        let other: [u8; 32] = sm3::Sm3::digest(message).into();
        if other != *expected {
            let what = "SM3 in pieces, not that of RustCrypto".to_owned();
            return Err(Disagreement::new(what, &[("message", message)]));
        }
    }
    counts.add("sm3/rustcrypto", messages.len());
    let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let pairs: Vec<[u8; 64]> = (0..1 + numbers.below(64)).map(|_| numbers.array()).collect();
    let pair_slices: Vec<&[u8]> = pairs.iter().map(<[u8; 64]>::as_slice).collect();
    for backend in backends() {
        let mut digests = vec![[0; 32]; slices.len()];
        kernel::digest_many(backend, &slices, &mut digests);
        agree(backend, &slices, &digests, &expected)?;
        let mut parents = vec![[0; 32]; pairs.len()];
        kernel::digest_pairs(backend, &pairs, &mut parents);
        let mut expected = vec![[0; 32]; pairs.len()];
        kernel::digest_many(Backend::PORTABLE, &pair_slices, &mut expected);
        agree(backend, &pair_slices, &parents, &expected)?;
        counts.add("sm3/portable", slices.len() + pairs.len());
    }
    Ok(())
}

fn agree(
    backend: Backend,
    messages: &[&[u8]],
    digests: &[[u8; 32]],
    expected: &[[u8; 32]],
) -> Result<(), Disagreement> {
    for (place, (digest, expected)) in digests.iter().zip(expected).enumerate() {
        if digest != expected {
            let (name, all) = (backend.name(), messages.len());
            let lengths: Vec<usize> = messages.iter().map(|message| message.len()).collect();
            let what = format!("SM3 by {name}, message {place} of {all}, lengths {lengths:?}");
            return Err(Disagreement::new(what, &[("message", messages[place])]));
        }
    }
    Ok(())
}
