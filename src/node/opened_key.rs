//! A key of a card that wraps data keys, opened for as long as it is needed.
//!
//! ```text
//! data key file --names--> CardPlace --alone--> a card of its own, whose agent ends with this
//!                                    `-among--> one of the node's cards, which others use as well
//! ```
//!
//! A command uses cards as a node does, through an agent or as the card's file says: what works
//! here works at the start of the node too.

use std::sync::Arc;

use hufu_hsm::card::deadline_in;
use hufu_hsm::{KeyHandle, Keystore, Usage};
use hufu_runtime::clock::Nanos;

use crate::card_key::CardPlace;
use crate::cards::{CardError, Cards, NodeCard, START_TIME};

/// See the module.
pub struct OpenedKey {
    keystore: Arc<dyn Keystore>,
    handle: KeyHandle,
    /// Its agent ends with the last user.
    _card: Option<Arc<NodeCard>>,
}

impl OpenedKey {
    /// Opens the key of this place, in a card that nobody else of this process uses.
    ///
    /// # Errors
    /// What keeps the card or the key from being used.
    pub fn alone(place: &CardPlace) -> Result<Self, CardError> {
        Self::among(&mut Cards::new()?, place)
    }

    /// Opens the key of this place in one of these cards, which is started if it is none of them.
    ///
    /// # Errors
    /// As [`OpenedKey::alone`].
    pub fn among(cards: &mut Cards, place: &CardPlace) -> Result<Self, CardError> {
        let card = cards.card(&place.card)?;
        let handle = card.open_key(&place.key, Usage::Wrap)?;
        Ok(Self { keystore: card.keystore(), handle, _card: Some(card) })
    }

    /// One of another keystore.
    #[cfg(test)]
    pub(crate) fn on(keystore: Arc<dyn Keystore>, handle: KeyHandle) -> Self {
        Self { keystore, handle, _card: None }
    }

    /// What the card is asked through.
    #[must_use]
    pub fn keystore(&self) -> &dyn Keystore {
        &*self.keystore
    }

    /// The key's number there.
    #[must_use]
    pub const fn handle(&self) -> KeyHandle {
        self.handle
    }

    /// Until when a call that begins now may take.
    #[must_use]
    pub fn deadline() -> Nanos {
        deadline_in(START_TIME)
    }
}

/// Opens the key of a place: [`OpenedKey::alone`] but in a node and in tests.
pub type OpenKey<'a> = &'a dyn Fn(&CardPlace) -> Result<OpenedKey, CardError>;
