//! Handles of keys, remembered while they mean something.

use std::sync::OnceLock;

use crate::{Error, KeyHandle};

/// Most keys of one keystore.
pub const KEYS_MAX: usize = 256;

/// The objects of one key. Handles are good while the [`Handles`] they come from are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyObjects {
    /// The private or the secret key.
    pub key: u64,
    /// The public key, where the token has it as an object.
    pub public: Option<u64>,
}

/// What is known of the token's objects since the last login: looking a key up costs more than a
/// signature, so it is done once. The pool makes this anew after every login, every reload and
/// every handle that turned out to be stale.
#[derive(Debug)]
pub struct Handles {
    keys: Box<[OnceLock<KeyObjects>]>,
}

impl Default for Handles {
    fn default() -> Self {
        Self { keys: (0..KEYS_MAX).map(|_| OnceLock::new()).collect() }
    }
}

impl Handles {
    /// The objects of `key`; `find` looks for them if nobody has yet.
    ///
    /// # Errors
    /// What `find` says, or [`Error::HandleUnknown`] for a number of [`KEYS_MAX`] or more.
    pub fn get_or_find(
        &self,
        key: KeyHandle,
        find: impl FnOnce() -> Result<KeyObjects, Error>,
    ) -> Result<KeyObjects, Error> {
        let place = usize::try_from(key.0).ok().and_then(|index| self.keys.get(index));
        let place = place.ok_or(Error::HandleUnknown(key.0))?;
        if let Some(known) = place.get() {
            return Ok(*known);
        }
        let found = find()?;
        // Two threads may look at once; both find the same key, and the first answer stays.
        Ok(*place.get_or_init(|| found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_looked_for_until_it_is_found_and_then_no_more() {
        let handles = Handles::default();
        let objects = KeyObjects { key: 7, public: Some(8) };
        let missing = handles.get_or_find(KeyHandle(3), || Err(Error::SignatureWrong));
        assert!(missing.is_err());
        assert_eq!(handles.get_or_find(KeyHandle(3), || Ok(objects)).unwrap(), objects);
        let again = handles.get_or_find(KeyHandle(3), || Err(Error::SignatureWrong));
        assert_eq!(again.unwrap(), objects);
        let beyond = handles.get_or_find(KeyHandle(256), || Ok(objects)).unwrap_err();
        assert!(matches!(beyond, Error::HandleUnknown(256)));
    }
}
