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
//! It stands wherever a key file may stand (`node.key`), so that the configuration of a node is the
//! same in both custodies, and who the node is can be checked without its card. What is in the card
//! must have this very public key. A relative path of the card is relative to the folder of the
//! file.

use std::path::{Path, PathBuf};

use hufu_crypto::{PublicKey, is_curve_point};
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
}

/// Where one copy of a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardPlace {
    /// The file that describes the card.
    pub card: PathBuf,
    /// The key in it.
    pub key: KeyUri,
}

impl CardKey {
    /// All cards that hold the key, in the order of the file.
    #[must_use]
    pub fn places(&self) -> Vec<CardPlace> {
        let first = CardPlace { card: self.card.clone(), key: self.key.clone() };
        std::iter::once(first).chain(self.copies.iter().cloned()).collect()
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
    let public = PublicKey::from_hex(&written.public_key)
        .filter(is_curve_point)
        .ok_or_else(|| fault("public_key: no point of the SM2 curve".to_owned()))?;
    Ok(CardKey { card, key, public, copies })
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
}
