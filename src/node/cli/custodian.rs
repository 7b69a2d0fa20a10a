//! A private key of the command line by its key file: in software, or in a card by the rules of its
//! custody.
//!
//! ```text
//! key file --PEM-----------> software
//!          --names a card--> card in this process, hsm-only or hsm-preferred --> signature, key
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::{Digest, PublicKey};
use hufu_hsm::card::{Card, deadline_in};
use hufu_hsm::custody::{self, Custodian, CustodyError, Signed, StandIn, Witness};
use hufu_hsm::pin::PinSource;
use hufu_hsm::{Error, Keystore as _, Usage};

use super::CliError;
use super::hsm::{check_token, fault, load_card};
use super::passphrase::PassphraseArguments;
use crate::card_key::CardKey;
use crate::keys_file::{self, NodeKey};
use crate::{kernels, log};

/// How long a card may take to be ready.
const START_TIME: Duration = Duration::from_secs(60);

/// A key that signs.
pub(super) struct Key {
    custodian: Custodian,
    /// How long one signature may take.
    patience: Duration,
    path: PathBuf,
}

/// Says on standard error that another key signs, or that none does.
struct Warning;

impl Witness for Warning {
    fn stood_in(&self, card_key: &PublicKey, stand_in: &PublicKey, cause: &Error) {
        let (card_key, stand_in) = (card_key.to_string(), stand_in.to_string());
        let fields =
            [("card_key", &*card_key), ("signed_by", &stand_in), ("reason", &cause.to_string())];
        log::warn("another key stands in for the one in the card", &fields);
    }

    fn refused(&self, _: &PublicKey, _: &Error) {
        // The command fails with the same error.
    }
}

impl Key {
    /// Reads the key file, and where it names a card, loads its library into this process.
    pub(super) fn open(path: &Path, passphrase: &PassphraseArguments) -> Result<Self, CliError> {
        let key = keys_file::open(path).map_err(|error| CliError::key(&error, path))?;
        let source = passphrase.source();
        let (custodian, patience) = match key {
            NodeKey::Card(key) => in_card(&key, path, source.as_ref())?,
            key => {
                let signer = key.unlock(source.as_ref());
                let signer = signer.map_err(|error| CliError::key(&error, path))?;
                (Custodian::Software { signer: Box::new(signer) }, Duration::ZERO)
            }
        };
        Ok(Self { custodian, patience, path: path.to_owned() })
    }

    /// Every key that may sign.
    pub(super) fn keys(&self) -> Vec<PublicKey> {
        self.custodian.keys()
    }

    /// Signs; `digest_of` says what e is for the key that does.
    pub(super) fn sign(
        &self,
        digest_of: &dyn Fn(&PublicKey) -> Digest,
    ) -> Result<Signed, CliError> {
        let signed = self.custodian.sign(digest_of, deadline_in(self.patience), &Warning);
        signed.map_err(|error| match error {
            CustodyError::Card { cause, .. } => fault(&cause, self.path.display()),
            CustodyError::Software(_) | CustodyError::StandIn { .. } => {
                let remedy = "run `hufu crypto selftest`: this machine errs";
                CliError::file(error, &self.path, remedy)
            }
            CustodyError::NotRegistered { .. } => {
                CliError::misconfigured(error, self.path.display(), "name another key")
            }
        })
    }
}

fn in_card(
    key: &CardKey,
    path: &Path,
    passphrase: Option<&PinSource>,
) -> Result<(Custodian, Duration), CliError> {
    let config = load_card(&key.card)?;
    let told = |error: Error| fault(&error, key.card.display());
    let card = Arc::new(Card::open(&config, kernels::provider().verifier).map_err(told)?);
    let until = deadline_in(START_TIME);
    check_token(&key.key, &card.identity(until).map_err(told)?)?;
    let handle = card.open_key(&key.key.key, Usage::Sign, until).map_err(told)?;
    let found = card.public_key(handle).map_err(told)?;
    if found != key.public {
        return Err(CliError::misconfigured(
            format!("the key in the card is {found}, the key file says {}", key.public),
            path.display(),
            "name the card and the key of which the file was made",
        ));
    }
    let in_card = custody::CardKey::new(card, handle).map_err(told)?;
    let Some(other) = &key.stand_in else {
        return Ok((Custodian::HsmOnly { card: in_card }, config.deadline));
    };
    let signer = keys_file::open(&other.file).and_then(|key| key.unlock(passphrase));
    let signer = signer.map_err(|error| CliError::key(&error, &other.file))?;
    let stand_in = StandIn::new(Box::new(signer), &[other.public], &in_card).map_err(|error| {
        let remedy = "name the file of the key that stand_in_public_key says";
        CliError::misconfigured(error, path.display(), remedy)
    })?;
    Ok((Custodian::HsmPreferred { card: in_card, stand_in }, config.deadline))
}
