//! A key file for a key that lives in a card: it says which card and which key, and has no secret.
//!
//! ```toml
//! # Made by `hufu hsm keygen`: the private key is in the card.
//! card = "card-0.toml"
//! key = "pkcs11:object=vote"
//! public_key = "…128 hexadecimal digits…"
//!
//! [[copy]]                      # the same key in another card, any number of times
//! card = "card-1.toml"
//! key = "pkcs11:object=vote"
//! ```
//!
//! A key that is used for other things than votes may be `hsm-preferred`: while its card is away,
//! another key signs in software, which whoever verifies has accepted beforehand.
//!
//! ```toml
//! custody = "hsm-preferred"                   # else "hsm-only": the card, or nothing
//! stand_in = "standby.key"                    # the other key's file
//! stand_in_public_key = "…128 digits…"        # as it is registered
//! ```
//!
//! It stands wherever a key file may stand (`node.key`), so that the configuration of a node is the
//! same in both custodies, and who the node is can be checked without its card. What is in the card
//! must have this very public key. A relative path of the card is relative to the folder of the
//! file.

use std::path::{Path, PathBuf};

use hufu_crypto::{PublicKey, is_curve_point};
use hufu_hsm::custody::Custody;
use hufu_hsm::group::MEMBERS_MAX;
use hufu_hsm::uri::KeyUri;
use serde::Deserialize;

use crate::keys_file::KeyFileError;

/// A key in a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardKey {
    /// The file that describes the card.
    pub card: PathBuf,
    /// The key in it.
    pub key: KeyUri,
    /// Its public key.
    pub public: PublicKey,
    /// Other cards that hold the same key.
    pub copies: Vec<CardPlace>,
    /// What stands in for it while its card is away: `hsm-preferred`. Else nothing does.
    pub stand_in: Option<StandInKey>,
}

/// Where one copy of a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardPlace {
    /// The file that describes the card.
    pub card: PathBuf,
    /// The key in it.
    pub key: KeyUri,
}

/// A key that may sign in software instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandInKey {
    /// The key's file.
    pub file: PathBuf,
    /// The public key that is registered for it.
    pub public: PublicKey,
}

impl std::fmt::Display for CardPlace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} of card {}", self.key, self.card.display())
    }
}

impl CardKey {
    /// All cards that hold the key, in the order of the file.
    #[must_use]
    pub fn places(&self) -> Vec<CardPlace> {
        let first = CardPlace { card: self.card.clone(), key: self.key.clone() };
        std::iter::once(first).chain(self.copies.iter().cloned()).collect()
    }

    /// That this key may sign votes: nothing stands in for a vote key, since a validator has one
    /// (DB4403/T 9.5-h0).
    ///
    /// # Errors
    /// [`KeyFileError::StandIn`].
    pub fn check_votes(&self) -> Result<(), KeyFileError> {
        if self.stand_in.is_some() { Err(KeyFileError::StandIn) } else { Ok(()) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    card: PathBuf,
    key: String,
    public_key: String,
    #[serde(default)]
    copy: Vec<WrittenCopy>,
    #[serde(default = "hsm_only")]
    custody: Custody,
    stand_in: Option<PathBuf>,
    stand_in_public_key: Option<String>,
}

const fn hsm_only() -> Custody {
    Custody::HsmOnly
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCopy {
    card: PathBuf,
    key: String,
}

/// Whether the text of a key file speaks of a card.
pub(crate) fn is_card_key(text: &str) -> bool {
    !text.trim_start().starts_with("-----BEGIN")
}

/// Reads the text of the key file at `path`.
///
/// # Errors
/// [`KeyFileError::CardKey`] with the fault.
pub fn parse(text: &str, path: &Path) -> Result<CardKey, KeyFileError> {
    let fault = |reason: String| KeyFileError::CardKey { reason };
    let written: Written =
        toml::from_str(text).map_err(|cause| fault(cause.message().to_owned()))?;
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    let place = |(card, key): (PathBuf, String)| -> Result<CardPlace, KeyFileError> {
        let key = key.parse().map_err(|cause| fault(format!("key: {cause}")))?;
        Ok(CardPlace { card: folder.join(card), key })
    };
    let CardPlace { card, key } = place((written.card, written.key))?;
    let copies = written.copy.into_iter().map(|copy| place((copy.card, copy.key)));
    let copies = copies.collect::<Result<Vec<_>, _>>()?;
    let mut cards: Vec<&PathBuf> = copies.iter().map(|copy| &copy.card).collect();
    cards.push(&card);
    if cards.len() > MEMBERS_MAX {
        return Err(fault(format!("{} cards; there may be {MEMBERS_MAX}", cards.len())));
    }
    cards.sort_unstable();
    if let Some([twice, _]) = cards.array_windows().find(|[one, other]| one == other) {
        return Err(fault(format!("card {} comes twice", twice.display())));
    }
    let point = |name: &str, text: &str| {
        let none = || fault(format!("{name}: no point of the SM2 curve"));
        PublicKey::from_hex(text).filter(is_curve_point).ok_or_else(none)
    };
    let public = point("public_key", &written.public_key)?;
    let stand_in = match (written.custody, written.stand_in, written.stand_in_public_key) {
        (Custody::HsmOnly, None, None) => None,
        (Custody::HsmPreferred, Some(file), Some(text)) => {
            let registered = point("stand_in_public_key", &text)?;
            if registered == public {
                let reason = "stand_in_public_key: a key in a card is not in software too";
                return Err(fault(reason.to_owned()));
            }
            Some(StandInKey { file: folder.join(file), public: registered })
        }
        (Custody::HsmPreferred, _, _) => {
            let reason = "custody hsm-preferred wants stand_in and stand_in_public_key";
            return Err(fault(reason.to_owned()));
        }
        (Custody::HsmOnly, _, _) => {
            let reason = "stand_in: nothing stands in for a key that is hsm-only";
            return Err(fault(reason.to_owned()));
        }
        (Custody::Software, _, _) => {
            let reason = "custody: a key in a card is hsm-only or hsm-preferred";
            return Err(fault(reason.to_owned()));
        }
    };
    Ok(CardKey { card, key, public, copies, stand_in })
}

/// What is added to a key file for one more card that holds the same key.
#[must_use]
pub fn copy_text(card: &Path, uri: &str) -> String {
    format!("\n[[copy]]\ncard = {}\nkey = {}\n", quote(&card.to_string_lossy()), quote(uri))
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The text of a key file for the key that `uri` names in the card of the file `card`.
#[must_use]
pub fn text(card: &Path, uri: &str, public: &PublicKey) -> String {
    format!(
        "# Made by `hufu hsm keygen`: the private key is in the card.\ncard = {}\nkey = {}\n\
         public_key = \"{public}\"\n",
        quote(&card.to_string_lossy()),
        quote(uri),
    )
}

#[cfg(test)]
mod tests {
    use hufu_crypto::{Signer, SoftwareSigner};
    use hufu_hsm::KeyReference;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_not_is_refused_with_its_reason() {
        let public = *SoftwareSigner::from_bytes(&[7; 32]).unwrap().public_key();
        let good = text(Path::new("card \"0\".toml"), "pkcs11:object=vote", &public);
        let read = parse(&good, Path::new("/etc/hufu/vote.key")).unwrap();
        assert_eq!(read.card, Path::new("/etc/hufu/card \"0\".toml"));
        assert_eq!(read.key.key, KeyReference::Label("vote".to_owned()));
        assert_eq!(read.public, public);
        assert_eq!(read.places().len(), 1);
        let spare = copy_text(Path::new("/other/card-1.toml"), "pkcs11:id=%01");
        let more = parse(&format!("{good}{spare}"), Path::new("/etc/hufu/vote.key")).unwrap();
        assert_eq!(more.places()[1].card, Path::new("/other/card-1.toml"));
        assert_eq!(more.places()[1].key.key, KeyReference::Id(vec![1]));
        assert_eq!(CardKey { copies: Vec::new(), ..more }, read);
        assert!(is_card_key(&good) && !is_card_key("\n-----BEGIN PRIVATE KEY-----"));
        let cases = [
            (good.replace("object=vote", "object=vote?pin-value=1"), "pin-value"),
            (good.replace("pkcs11:object=vote", "vote.pem"), "pkcs11:"),
            (good.replace("public_key = \"", "public_key = \"00"), "public_key"),
            (good.replace("card = ", "cart = "), "cart"),
            (String::new(), "card"),
            (format!("{good}pin = \"1234\"\n"), "pin"),
            (format!("{good}{spare}pin = \"1234\"\n"), "pin"),
            (format!("{good}{spare}{spare}"), "twice"),
            (format!("{good}{}", spare.replace("pkcs11:", "")), "pkcs11:"),
        ];
        for (text, reason) in cases {
            let refused = parse(&text, Path::new("vote.key")).unwrap_err().to_string();
            assert!(refused.contains(reason) && !refused.contains("1234"), "{reason}: {refused}");
        }
    }
    #[test]
    fn what_stands_in_is_another_key_and_never_votes() {
        let key = |number: u8| *SoftwareSigner::from_bytes(&[number; 32]).unwrap().public_key();
        let (public, other) = (key(7), key(8));
        let plain = text(Path::new("card.toml"), "pkcs11:object=pay", &public);
        let of = |more: &str| parse(&format!("{plain}{more}"), Path::new("/etc/hufu/pay.key"));
        let preferred = "custody = \"hsm-preferred\"\n";
        let stand_in = "stand_in = \"standby.key\"\n";
        let registered = |key: &PublicKey| format!("stand_in_public_key = \"{key}\"\n");
        assert!(of("custody = \"hsm-only\"\n").unwrap().check_votes().is_ok());
        let both = of(&format!("{preferred}{stand_in}{}", registered(&other))).unwrap();
        let wanted = StandInKey { file: "/etc/hufu/standby.key".into(), public: other };
        assert_eq!(both.stand_in.as_ref(), Some(&wanted));
        let refused = both.check_votes().unwrap_err().to_string();
        assert!(refused.contains("vote"), "{refused}");
        for (more, reason) in [
            (preferred.to_owned(), "wants stand_in"),
            (format!("{preferred}{stand_in}"), "wants stand_in"),
            (format!("{preferred}{}", registered(&other)), "wants stand_in"),
            (stand_in.to_owned(), "hsm-only"),
            (format!("{preferred}{stand_in}{}", registered(&public)), "in software too"),
            ("custody = \"software\"\n".to_owned(), "hsm-only or hsm-preferred"),
            ("custody = \"hsm\"\n".to_owned(), "hsm"),
        ] {
            let refused = of(&more).unwrap_err().to_string();
            assert!(refused.contains(reason), "{reason}: {refused}");
        }
    }
}
