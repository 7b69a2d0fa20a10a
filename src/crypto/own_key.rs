//! Checking what was signed with a key of our own, in software or in a card, before it is used.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use hufu_kernels::Backend;
use hufu_kernels::sm2 as kernel;

use crate::Error;
use crate::digest::Digest;
use crate::keys::{PublicKey, Signature};

/// Signatures checked at once, count.
const ITEMS_PER_CALL: usize = 64;

/// From this number of signatures on, a table of the key pays.
const TABLE_PAYS_FROM: u64 = 8;

/// A public key that many signatures are checked against; from the eighth on with a table of its
/// multiples (16 KB), which makes it four times as fast. Shared between threads.
pub struct OwnKey {
    public: PublicKey,
    backend: Backend,
    checked_count: AtomicU64,
    table: OnceLock<Box<kernel::KeyTable>>,
}

impl OwnKey {
    /// For signatures of `public`, on the best back end.
    #[must_use]
    pub fn new(public: PublicKey) -> Self {
        Self::on(public, Backend::best())
    }

    /// On a back end of the caller's choice.
    #[must_use]
    pub const fn on(public: PublicKey, backend: Backend) -> Self {
        Self { public, backend, checked_count: AtomicU64::new(0), table: OnceLock::new() }
    }

    /// The key.
    #[must_use]
    pub const fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Whether `signatures[i]` is one of `digests[i]` by this key, for all of them. Variable time.
    ///
    /// # Errors
    /// [`Error::SignatureRejected`] if one is not.
    ///
    /// # Panics
    /// If the two slices differ in length, which only our own mistake can bring about.
    pub fn check_many(&self, digests: &[Digest], signatures: &[Signature]) -> Result<(), Error> {
        assert_eq!(digests.len(), signatures.len(), "one signature for each digest");
        let parts = digests.chunks(ITEMS_PER_CALL).zip(signatures.chunks(ITEMS_PER_CALL));
        for (digests, signatures) in parts {
            self.check_part(digests, signatures)?;
        }
        Ok(())
    }

    fn check_part(&self, digests: &[Digest], signatures: &[Signature]) -> Result<(), Error> {
        let first = kernel::Item {
            key: &self.public.0,
            digest: &Digest::ZERO.0,
            signature: &signatures[0].0,
            table: self.table(digests.len()),
        };
        let mut items = [first; ITEMS_PER_CALL];
        for (item, (digest, signature)) in items.iter_mut().zip(digests.iter().zip(signatures)) {
            (item.digest, item.signature) = (&digest.0, &signature.0);
        }
        let mut verdicts = [kernel::Verdict::SignatureInvalid; ITEMS_PER_CALL];
        let verdicts = &mut verdicts[..digests.len()];
        kernel::verify_many(self.backend, &items[..digests.len()], verdicts);
        if verdicts.iter().all(|verdict| *verdict == kernel::Verdict::Valid) {
            Ok(())
        } else {
            Err(Error::SignatureRejected)
        }
    }

    /// The table of the key, once `more` checks make it pay.
    fn table(&self, more: usize) -> Option<&kernel::KeyTable> {
        let count = self.checked_count.fetch_add(more as u64, Ordering::Relaxed);
        if count < TABLE_PAYS_FROM {
            return None;
        }
        let table = self.table.get_or_init(|| {
            let mut table = Box::new(kernel::KeyTable::empty());
            kernel::tables_many(self.backend, &[&self.public.0], &mut [&mut table]);
            table
        });
        table.is_of(self.backend, &self.public.0).then_some(table)
    }
}
