//! What a library, its slots and their mechanisms say of themselves, for people and as JSON.

use std::sync::Arc;

use hufu_hsm::forms::SignInput;
use hufu_hsm::pkcs11::{Library, LibraryInfo, MechanismInfo, TokenInfo, codes};
use hufu_hsm::pool::TokenSelector;
use hufu_hsm::{CardIdentity, Error, Profile};
use serde_json::{Value, json};

use super::super::card::Token;

/// A slot with a token in it. What the library would not tell is why it would not.
pub(super) struct Slot {
    pub(super) number: u64,
    description: String,
    token: Result<TokenInfo, String>,
    mechanisms: Result<Vec<(u64, Option<MechanismInfo>)>, String>,
    profile: Result<Profile, String>,
}

/// Flags of a token that an operator wants to know (PKCS#11 3.1 `CK_TOKEN_INFO`).
const TOKEN_FLAGS: &[(u64, &str)] = &[
    (codes::CKF_TOKEN_INITIALIZED, "initialized"),
    (codes::CKF_USER_PIN_INITIALIZED, "user-pin-set"),
    (codes::CKF_LOGIN_REQUIRED, "login-required"),
    (codes::CKF_RNG, "rng"),
    (codes::CKF_WRITE_PROTECTED, "write-protected"),
    (codes::CKF_PROTECTED_AUTHENTICATION_PATH, "pin-pad"),
    (codes::CKF_USER_PIN_COUNT_LOW, "user-pin-count-low"),
    (codes::CKF_USER_PIN_FINAL_TRY, "user-pin-final-try"),
    (codes::CKF_USER_PIN_LOCKED, "user-pin-locked"),
    (codes::CKF_SO_PIN_COUNT_LOW, "so-pin-count-low"),
    (codes::CKF_SO_PIN_FINAL_TRY, "so-pin-final-try"),
    (codes::CKF_SO_PIN_LOCKED, "so-pin-locked"),
    (codes::CKF_ERROR_STATE, "error-state"),
];

/// Flags of a mechanism (PKCS#11 3.1 `CK_MECHANISM_INFO`).
const MECHANISM_FLAGS: &[(u64, &str)] = &[
    (codes::CKF_HW, "hw"),
    (codes::CKF_ENCRYPT, "encrypt"),
    (codes::CKF_DECRYPT, "decrypt"),
    (codes::CKF_DIGEST, "digest"),
    (codes::CKF_SIGN, "sign"),
    (codes::CKF_VERIFY, "verify"),
    (codes::CKF_GENERATE, "generate"),
    (codes::CKF_GENERATE_KEY_PAIR, "generate-pair"),
    (codes::CKF_WRAP, "wrap"),
    (codes::CKF_UNWRAP, "unwrap"),
    (codes::CKF_DERIVE, "derive"),
];

/// Mechanisms of PKCS#11 that cards of this kind have; all others go by their number.
const MECHANISMS: &[(u64, &str)] = &[
    (codes::CKM_RSA_PKCS_KEY_PAIR_GEN, "RSA-PKCS-KEY-PAIR-GEN"),
    (codes::CKM_RSA_PKCS, "RSA-PKCS"),
    (codes::CKM_SHA256_RSA_PKCS, "SHA256-RSA-PKCS"),
    (codes::CKM_EC_KEY_PAIR_GEN, "EC-KEY-PAIR-GEN"),
    (codes::CKM_ECDSA, "ECDSA"),
    (codes::CKM_ECDSA_SHA256, "ECDSA-SHA256"),
    (codes::CKM_ECDH1_DERIVE, "ECDH1-DERIVE"),
    (codes::CKM_AES_KEY_GEN, "AES-KEY-GEN"),
    (codes::CKM_AES_ECB, "AES-ECB"),
    (codes::CKM_AES_CBC, "AES-CBC"),
    (codes::CKM_AES_CBC_PAD, "AES-CBC-PAD"),
    (codes::CKM_AES_CTR, "AES-CTR"),
    (codes::CKM_AES_GCM, "AES-GCM"),
    (codes::CKM_AES_KEY_WRAP, "AES-KEY-WRAP"),
    (codes::CKM_SHA_1, "SHA-1"),
    (codes::CKM_SHA256, "SHA-256"),
    (codes::CKM_SHA384, "SHA-384"),
    (codes::CKM_SHA512, "SHA-512"),
    (codes::CKM_GENERIC_SECRET_KEY_GEN, "GENERIC-SECRET-KEY-GEN"),
];

fn named(flags: u64, names: &[(u64, &'static str)]) -> Vec<&'static str> {
    names.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name).collect()
}

impl Slot {
    /// Asks the library for all of it; nobody logs in.
    pub(super) fn look(library: &Arc<Library>, number: u64, profiles: &[Profile]) -> Self {
        let told = |error: Error| error.to_string();
        let selector = TokenSelector::Slot(number);
        let card = |token: Token| -> CardIdentity { token.identity };
        let identity = Token::find(library.path(), selector).map(card);
        let mechanisms = library.mechanisms(number).map(|list| {
            let info = |code: &u64| (*code, library.mechanism_info(number, *code).ok());
            list.iter().map(info).collect()
        });
        Self {
            number,
            description: library.slot_info(number).map_or_else(told, |info| info.description),
            token: library.token_info(number).map_err(told),
            mechanisms: mechanisms.map_err(told),
            profile: identity
                .and_then(|card| Profile::choose_or_fit(profiles, &card))
                .map_err(told),
        }
    }

    /// What the profile that fits calls a mechanism, else PKCS#11.
    fn name_of(&self, code: u64) -> Option<String> {
        let standard = || MECHANISMS.iter().find(|(known, _)| *known == code).map(|(_, it)| *it);
        let ours = self.profile.as_ref().ok().and_then(|profile| role(profile, code));
        ours.or_else(|| standard().map(str::to_owned))
    }

    fn to_json(&self) -> Value {
        let mechanism = |(code, info): &(u64, Option<MechanismInfo>)| {
            json!({
                "code": format!("{code:#x}"),
                "name": self.name_of(*code),
                "flags": info.map(|info| named(info.flags, MECHANISM_FLAGS)),
            })
        };
        let list = |list: &Vec<_>| list.iter().map(mechanism).collect::<Vec<_>>();
        let token = |token: &TokenInfo| {
            json!({
                "label": token.label,
                "serial": token.serial,
                "manufacturer": token.manufacturer,
                "model": token.model,
                "firmware": version(token.firmware_version),
                "hardware": version(token.hardware_version),
                "sessions_max": token.sessions_max,
                "flags": named(token.flags, TOKEN_FLAGS),
            })
        };
        json!({
            "slot": self.number,
            "description": self.description,
            "token": self.token.as_ref().map_or_else(|error| json!({ "error": error }), token),
            "mechanisms": self.mechanisms.as_ref().map_or_else(|error| json!({ "error": error }),
                |found| list(found).into()),
            "profile": self.profile.as_ref().ok().map(|profile| &profile.name),
            "no_profile": self.profile.as_ref().err(),
        })
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("slot {}: {}", self.number, self.description)];
        lines.push(match &self.token {
            Ok(token) => format!(
                "  token      {:?}, serial {:?}, {:?} {:?}, hardware {}, firmware {}\n\
                 \x20 flags      {}",
                token.label,
                token.serial,
                token.manufacturer,
                token.model,
                version(token.hardware_version),
                version(token.firmware_version),
                named(token.flags, TOKEN_FLAGS).join(", "),
            ),
            Err(error) => format!("  token      unreadable: {error}"),
        });
        lines.push(match &self.profile {
            Ok(profile) => {
                let tested =
                    if profile.tested_on_hardware { "" } else { " (untested on hardware)" };
                format!("  profile    {}: {}{tested}", profile.name, profile.title)
            }
            Err(error) => format!("  profile    none: {error}"),
        });
        match &self.mechanisms {
            Ok(list) => lines.extend(list.iter().map(|(code, info)| {
                let flags = info.map_or_else(Vec::new, |it| named(it.flags, MECHANISM_FLAGS));
                let name = self.name_of(*code).unwrap_or_default();
                format!("  {code:#010x} {name:26} {}", flags.join(" ")).trim_end().to_owned()
            })),
            Err(error) => lines.push(format!("  mechanisms unreadable: {error}")),
        }
        lines
    }
}

/// What a mechanism is in a profile.
fn role(profile: &Profile, code: u64) -> Option<String> {
    let sm2 = &profile.sm2;
    if sm2.generate.contains(&code) {
        return Some("SM2 pair".to_owned());
    }
    if let Some(sign) = sm2.sign.iter().find(|sign| sign.mechanism == code) {
        let of = if sign.input == SignInput::PrehashedE { "of e" } else { "of a message" };
        return Some(format!("SM2 signature {of}"));
    }
    if sm2.decrypt.iter().any(|decrypt| decrypt.mechanism == code) {
        return Some("SM2 encryption".to_owned());
    }
    if profile.sm3.is_some_and(|sm3| sm3.digest == code) {
        return Some("SM3".to_owned());
    }
    let sm4 = profile.sm4?;
    let modes = [("key", Some(sm4.generate)), ("ECB", sm4.ecb), ("CBC", sm4.cbc), ("GCM", sm4.gcm)];
    let mode = modes.iter().find(|(_, mode)| *mode == Some(code));
    mode.map(|(name, _)| format!("SM4 {name}"))
}

fn version((major, minor): (u8, u8)) -> String {
    format!("{major}.{minor}")
}

/// The library and all slots, as JSON and as lines.
pub(super) fn of_library(info: &LibraryInfo, slots: &[Slot]) -> (Value, Vec<String>) {
    let value = json!({
        "library": {
            "manufacturer": info.manufacturer,
            "description": info.description,
            "version": version(info.version),
            "pkcs11": version(info.cryptoki_version),
        },
        "slots": slots.iter().map(Slot::to_json).collect::<Vec<_>>(),
    });
    let mut lines = vec![format!(
        "library    {:?}, {:?} {}, PKCS#11 {}",
        info.manufacturer,
        info.description,
        version(info.version),
        version(info.cryptoki_version)
    )];
    lines.extend(slots.iter().flat_map(Slot::lines));
    (value, lines)
}
