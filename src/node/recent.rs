//! A bounded memory of digests: the last `max` inserted, oldest forgotten first.

use std::collections::{HashSet, VecDeque};

use hufu_types::TxDigest;

/// See the module.
#[derive(Debug)]
pub struct RecentDigests {
    max: usize,
    order: VecDeque<TxDigest>,
    // The default hasher is seeded per process: senders cannot aim at one bucket.
    members: HashSet<TxDigest>,
}

impl RecentDigests {
    /// Remembers at most `max` digests; their memory is taken here.
    #[must_use]
    pub fn new(max: usize) -> Self {
        assert!(max > 0, "a memory of nothing recognises nothing");
        Self { max, order: VecDeque::with_capacity(max), members: HashSet::with_capacity(max) }
    }

    /// Whether `digest` is among the last inserted.
    #[must_use]
    pub fn contains(&self, digest: &TxDigest) -> bool {
        self.members.contains(digest)
    }

    /// Remembers `digest`, forgetting the oldest when full.
    pub fn insert(&mut self, digest: TxDigest) {
        if !self.members.insert(digest) {
            return;
        }
        if self.order.len() == self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.members.remove(&oldest);
        }
        self.order.push_back(digest);
        assert_eq!(self.order.len(), self.members.len(), "both hold the same digests");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hufu_crypto::Sm3;

    #[test]
    fn the_oldest_is_forgotten_and_nothing_else() {
        let digest = |number: u8| TxDigest(Sm3::of(&[&[number]]));
        let mut recent = RecentDigests::new(3);
        for number in [1, 2, 3, 2, 4] {
            recent.insert(digest(number));
        }
        let known: Vec<bool> = (1..=4).map(|number| recent.contains(&digest(number))).collect();
        assert_eq!(known, [false, true, true, true]);
    }
}
