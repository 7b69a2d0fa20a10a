//! The software provider: the kernels verify and hash. Who signs is in [`crate::signer`].
//!
//! Verification is for public data. Digests are made side by side with the widest instructions of
//! this CPU.

use std::sync::Arc;

use hufu_kernels::sm2 as kernel;
use hufu_kernels::{Backend, sm3};

use crate::cipher::SoftwareCipher;
use crate::digest::Digest;
use crate::entropy;
use crate::keys::PublicKey;
use crate::known_keys::KnownKeys;
use crate::provider::{Hasher, Provider, Verdict, Verifier, VerifyItem};

/// The provider without any device, on the widest instructions this CPU has.
#[must_use]
pub fn software_provider() -> Provider {
    software_provider_on(Backend::best())
}

/// The provider without any device, on a back end of the caller's choice: every back end gives
/// the same answers.
#[must_use]
pub fn software_provider_on(backend: Backend) -> Provider {
    software_provider_with(backend, 0)
}

/// As [`software_provider_on`], with a cache of so many public keys whose owners sign again and
/// again; see [`KnownKeys`].
#[must_use]
pub fn software_provider_with(backend: Backend, known_keys_max: usize) -> Provider {
    let known_keys = Arc::new(KnownKeys::new(backend, known_keys_max));
    Provider {
        name: "software",
        verifier: Arc::new(SoftwareVerifier { backend, known_keys: Arc::clone(&known_keys) }),
        hasher: Arc::new(SoftwareHasher(backend)),
        entropy: entropy::system(),
        cipher: Arc::new(SoftwareCipher(backend)),
        known_keys,
    }
}

pub(crate) struct SoftwareVerifier {
    backend: Backend,
    known_keys: Arc<KnownKeys>,
}

/// Items handed to the kernel at once, count: enough to fill any number of lanes, and little enough
/// for the stack.
const ITEMS_PER_CALL: usize = 64;

impl Verifier for SoftwareVerifier {
    fn verify_many(&self, items: &[VerifyItem<'_>], verdicts: &mut [Verdict]) {
        assert_eq!(items.len(), verdicts.len(), "one verdict for each item");
        let Some(first) = items.first() else { return };
        let mut tables = [const { None }; ITEMS_PER_CALL];
        let mut found = [kernel::Verdict::SignatureInvalid; ITEMS_PER_CALL];
        let parts = items.chunks(ITEMS_PER_CALL).zip(verdicts.chunks_mut(ITEMS_PER_CALL));
        for (items, verdicts) in parts {
            self.known_keys.tables(items.iter().map(|item| item.key), &mut tables);
            let mut asked = [kernel_item(first, None); ITEMS_PER_CALL];
            for ((place, item), table) in asked.iter_mut().zip(items).zip(&tables) {
                *place = kernel_item(item, table.as_deref());
            }
            let found = &mut found[..items.len()];
            kernel::verify_many(self.backend, &asked[..items.len()], found);
            for (verdict, found) in verdicts.iter_mut().zip(found) {
                *verdict = match found {
                    kernel::Verdict::Valid => Verdict::Valid,
                    kernel::Verdict::SignatureInvalid => Verdict::SignatureInvalid,
                    kernel::Verdict::KeyInvalid => Verdict::KeyInvalid,
                };
            }
        }
    }
}

const fn kernel_item<'a>(
    item: &'a VerifyItem<'a>,
    table: Option<&'a kernel::KeyTable>,
) -> kernel::Item<'a> {
    kernel::Item { key: &item.key.0, digest: &item.digest.0, signature: &item.signature.0, table }
}

/// Whether the key is a point of the SM2 curve other than the one at infinity (GB/T 32918.1-2016
/// 6.2.1), as every verifier asks of a key before it looks at a signature. Variable time.
#[must_use]
pub fn is_curve_point(key: &PublicKey) -> bool {
    kernel::is_on_curve(&key.0)
}

struct SoftwareHasher(Backend);

impl Hasher for SoftwareHasher {
    fn digest_many(&self, messages: &[&[u8]], digests: &mut [Digest]) {
        sm3::digest_many(self.0, messages, zerocopy::transmute_mut!(digests));
    }

    fn digest_pairs(&self, pairs: &[[Digest; 2]], parents: &mut [Digest]) {
        sm3::digest_pairs(
            self.0,
            zerocopy::transmute_ref!(pairs),
            zerocopy::transmute_mut!(parents),
        );
    }
}
