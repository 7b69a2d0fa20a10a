//! Keys that leave one card in shares and come into another, in the manner of every vendor.

use hufu_crypto::{Signer as _, SoftwareSigner, software_provider};
use hufu_hsm::card::{FoundKey, KeyClass, KeyName, keys};
use hufu_hsm::cloned::{Ceremony, CloneError, Custodian, Opener, Order, ShareFile, WrappedKey};
use hufu_hsm::pin::Pin;
use hufu_hsm::pkcs11::Library;
use hufu_hsm::{Error, Keystore, Usage};

use crate::token::{IMITATIONS, OFFICER_PIN, PIN, Token, number_of, soon, with_each};

type Exported = (WrappedKey, Vec<ShareFile>);

fn pin(bytes: &[u8]) -> Pin {
    Pin::from_reader(bytes, "test").unwrap()
}

fn custodian(number: u8) -> SoftwareSigner {
    SoftwareSigner::from_bytes(&[number; 32]).unwrap()
}

/// Makes a key of a class for a use.
fn make(token: &Token, label: &str, usage: Usage, class: KeyClass) -> FoundKey {
    let (_library, session) = token.session();
    let profile = token.profile();
    let id = number_of(label).to_le_bytes();
    let name = KeyName { label, id: &id, is_kept: true };
    if usage == Usage::Wrap {
        return keys::generate_wrapping_key(&session, &profile, &name, class).unwrap();
    }
    let code = profile.sm2.generate[0];
    keys::generate_pair(&session, &profile, code, &name, usage, class).unwrap()
}

/// A ceremony in a session of its own, in which nobody is logged in.
fn ceremony<T>(token: &Token, body: impl FnOnce(&Ceremony<'_>) -> T) -> T {
    let library = Library::load(&token.module).unwrap();
    let session = library.open_session(library.slots().unwrap()[0], true).unwrap();
    let (profile, pin) = (token.profile(), pin(PIN));
    let verifier = &*software_provider().verifier;
    body(&Ceremony { session: &session, profile: &profile, pin: &pin, verifier })
}

/// Shares for three custodians, of which two give the key back.
fn export(token: &Token, label: &str, usage: Usage) -> Result<Exported, CloneError> {
    let custodians = [1, 2, 3].map(|number| Custodian::Key(*custodian(number).public_key()));
    let (key, officer) = (token.key(label), pin(OFFICER_PIN));
    let order = Order { key: &key, usage, officer: &officer, needed: 2, custodians: &custodians };
    ceremony(token, |ceremony| ceremony.export(&order))
}

fn import(token: &Token, label: &str, exported: &Exported) -> Result<FoundKey, CloneError> {
    let (two, three) = (custodian(2), custodian(3));
    let shares = [(&exported.1[2], Opener::Key(&three)), (&exported.1[1], Opener::Key(&two))];
    let key = token.key(label);
    ceremony(token, |ceremony| ceremony.import(&exported.0, &shares, &key, KeyClass::Cloned))
}

/// Vendors with a mechanism that wraps a key of any length. The soft token has AES key wrap behind
/// each manner, so that where a profile names nothing the standard's own mechanism serves.
#[test]
fn a_cloned_key_leaves_in_shares_and_comes_into_another_card() {
    const NAME: &str = "cloned::a_cloned_key_leaves_in_shares_and_comes_into_another_card";
    with_each(NAME, &IMITATIONS, |token| {
        let vote = make(token, "vote", Usage::Sign, KeyClass::Cloned);
        let open = make(token, "open", Usage::Decrypt, KeyClass::Cloned);
        make(token, "data", Usage::Wrap, KeyClass::Cloned);
        let (mut wrapped, mut secret) = ([0; hufu_hsm::keystore::WRAPPED_BYTES_MAX], [0; 32]);
        let size = {
            let card = token.card("").unwrap();
            let key = card.open_key(&token.key("data"), Usage::Wrap, soon()).unwrap();
            card.wrap(key, &[0x5a; 32], &mut wrapped, soon()).unwrap()
        };
        let has_decrypt = !token.profile().sm2.decrypt.is_empty();
        let exported = [
            export(token, "vote", Usage::Sign).unwrap(),
            export(token, "data", Usage::Wrap).unwrap(),
        ];
        let opening = has_decrypt.then(|| export(token, "open", Usage::Decrypt).unwrap());
        let text = exported[0].0.to_text().unwrap();
        let wanted = match token.imitation.as_str() {
            "native" | "koal" => "sm4-gcm",
            "sansec" | "westone" | "wosign" => "aes-key-wrap-pad",
            _ => "sm4-cbc-pad",
        };
        assert!(text.contains(&format!("form = \"{wanted}\"")), "{text}");

        // Another card: the token begins anew, and nothing that was on it is left.
        token.initialise();
        let found = import(token, "vote", &exported[0]).unwrap();
        assert_eq!(found.public, vote.public);
        import(token, "data", &exported[1]).unwrap();
        if let Some(opening) = &opening {
            assert_eq!(import(token, "open", opening).unwrap().public, open.public);
        }
        let config = token.config("");
        std::fs::remove_file(&config.identity_file).ok();
        let card = token.card("").unwrap();
        crate::sign(token, &card, 50).unwrap();
        let key = card.open_key(&token.key("data"), Usage::Wrap, soon()).unwrap();
        card.unwrap(key, &wrapped[..size], &mut secret, soon()).unwrap();
        assert_eq!(secret, [0x5a; 32]);
        drop(card);

        // It may leave that one too, and nothing of the ceremony stays behind.
        export(token, "vote", Usage::Sign).unwrap();
        let (_library, session) = token.session();
        let objects = session.find(&[], 64).unwrap().len();
        assert_eq!(objects, if has_decrypt { 5 } else { 3 }, "two pairs and a key");
    });
}

#[test]
fn a_key_that_was_made_to_stay_stays() {
    with_each("cloned::a_key_that_was_made_to_stay_stays", &["native"], |token| {
        make(token, "vote", Usage::Sign, KeyClass::SingleCard);
        let refused = export(token, "vote", Usage::Sign).err().unwrap();
        assert!(matches!(refused, CloneError::SingleCard { .. }), "{refused}");
        let (key, officer) = (token.key("vote"), pin(OFFICER_PIN));
        let custodians = [1, 2, 1].map(|number| Custodian::Key(*custodian(number).public_key()));
        let order = Order {
            key: &key,
            usage: Usage::Sign,
            officer: &officer,
            needed: 2,
            custodians: &custodians,
        };
        let refused = ceremony(token, |ceremony| ceremony.export(&order)).err().unwrap();
        assert!(matches!(refused, CloneError::SameCustodian { .. }), "{refused}");
        let refused = export(token, "nobody", Usage::Sign).err().unwrap();
        assert!(matches!(refused, CloneError::Card(Error::KeyMissing { .. })), "{refused}");
    });
}

#[test]
fn nothing_leaves_without_the_officer_whose_pin_is_tried_once() {
    const NAME: &str = "cloned::nothing_leaves_without_the_officer_whose_pin_is_tried_once";
    with_each(NAME, &["native", "sansec"], |token| {
        make(token, "vote", Usage::Sign, KeyClass::Cloned);
        let custodians = [1, 2].map(|number| Custodian::Key(*custodian(number).public_key()));
        let (key, wrong) = (token.key("vote"), pin(b"00000000"));
        for _ in 0..5 {
            // The native token has three mechanisms: each would cost an attempt.
            let order = Order {
                key: &key,
                usage: Usage::Sign,
                officer: &wrong,
                needed: 2,
                custodians: &custodians,
            };
            let refused = ceremony(token, |ceremony| ceremony.export(&order)).err().unwrap();
            let is_pin = matches!(&refused, CloneError::Card(Error::PinRefused { .. }));
            assert!(is_pin, "{refused}");
        }
        // The token locks after ten.
        export(token, "vote", Usage::Sign).unwrap();
    });
}

#[test]
fn what_comes_in_is_the_key_or_nothing() {
    with_each("cloned::what_comes_in_is_the_key_or_nothing", &["native", "tass"], |token| {
        make(token, "vote", Usage::Sign, KeyClass::Cloned);
        let exported = export(token, "vote", Usage::Sign).unwrap();
        let objects = || {
            let (_library, session) = token.session();
            session.find(&[], 64).unwrap().len()
        };
        // Over a key of that name, none comes.
        let refused = import(token, "vote", &exported).err().unwrap();
        assert!(matches!(refused, CloneError::Card(Error::KeyAmbiguous { .. })), "{refused}");
        assert_eq!(objects(), 2);

        // A card that lacks the mechanism says so.
        let text = exported.0.to_text().unwrap();
        let form = if token.imitation == "native" { "sm4-gcm" } else { "sm4-cbc-pad" };
        assert!(text.contains(form), "{text}");
        let profile = {
            let mut profile = token.profile();
            profile.key_wrap.clear();
            profile
        };
        let library = Library::load(&token.module).unwrap();
        let session = library.open_session(library.slots().unwrap()[0], true).unwrap();
        let (one, two, pin) = (custodian(1), custodian(2), pin(PIN));
        let verifier = &*software_provider().verifier;
        let poor = Ceremony { session: &session, profile: &profile, pin: &pin, verifier };
        let shares = [(&exported.1[0], Opener::Key(&one)), (&exported.1[1], Opener::Key(&two))];
        let key = token.key("other");
        let refused = poor.import(&exported.0, &shares, &key, KeyClass::Cloned).err().unwrap();
        assert!(matches!(refused, CloneError::NoMechanism { .. }), "{refused}");
        assert_eq!(objects(), 2, "the public half went too");
    });
}
