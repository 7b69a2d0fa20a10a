//! What the tool and tests do with a store without being a PKCS#11 client: begin a token, make a
//! key.

use cryptoki_sys::*;

use crate::answer::Answer;
use crate::attributes::Template;
use crate::config::Config;
use crate::imitations::{Algorithm, Secret};
use crate::keys::point_in;
use crate::mechanisms::Parameter;
use crate::module::{Module, OpenError};
use crate::slot::padded;

/// Kinds of keys that the product uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// An SM2 pair that signs.
    Sm2Sign,
    /// An SM2 pair that decrypts.
    Sm2Decrypt,
    /// An SM4 key that encrypts and decrypts.
    Sm4Encrypt,
    /// An SM4 key that wraps and unwraps.
    Sm4Wrap,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The store or its configuration cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The token refused.
    #[error("{doing}: the token answered {value:#x}{}", meaning(*.value))]
    Refused {
        /// What was tried.
        doing: &'static str,
        /// The return value of PKCS#11.
        value: u64,
    },
}

/// The name of a return value that an operator meets.
const fn meaning(value: u64) -> &'static str {
    match value {
        CKR_PIN_INCORRECT => " (wrong PIN)",
        CKR_PIN_LOCKED => " (the PIN is locked)",
        CKR_PIN_LEN_RANGE => " (a PIN has 4 to 64 bytes)",
        CKR_SLOT_ID_INVALID => " (no such slot)",
        CKR_TOKEN_NOT_RECOGNIZED => " (not initialised, or its file is damaged)",
        CKR_TOKEN_NOT_PRESENT => " (the device is commanded away)",
        CKR_DEVICE_ERROR => " (the store failed, see `messages` of the configuration)",
        CKR_USER_PIN_NOT_INITIALIZED => " (the user has no PIN yet)",
        CKR_SESSION_COUNT => " (commanded to have no sessions)",
        _ => "",
    }
}

/// A store that is open.
pub struct Admin {
    module: Module,
}

impl Admin {
    /// Opens the store; makes the folders that are missing.
    ///
    /// # Errors
    /// If the configuration or the store cannot be used.
    pub fn open(config: Config) -> Result<Self, AdminError> {
        Ok(Self { module: Module::open(config)? })
    }

    /// Initialises a token and sets both PINs. One that was initialised before loses all its
    /// objects, and wants its SO PIN.
    ///
    /// # Errors
    /// What the token refuses.
    pub fn init(
        &self,
        slot: u32,
        label: &str,
        so_pin: &[u8],
        pin: &[u8],
    ) -> Result<(), AdminError> {
        let refused = |doing| move |value| AdminError::Refused { doing, value };
        let token = self.module.slot(slot.into()).map_err(refused("look for the slot"))?;
        token.init_token(so_pin, padded(label)).map_err(refused("initialise the token"))?;
        self.with_session(slot, CKU_SO, so_pin, |_| token.init_pin(pin))
            .map_err(refused("set the user's PIN"))
    }

    /// Makes a key that never leaves; x || y of the public key if it is a pair.
    ///
    /// # Errors
    /// What the token refuses.
    pub fn generate(
        &self,
        slot: u32,
        pin: &[u8],
        kind: KeyKind,
        label: &str,
        id: &[u8],
    ) -> Result<Option<[u8; 64]>, AdminError> {
        let named = Template::default()
            .flag(CKA_TOKEN, true)
            .bytes(CKA_LABEL, label.as_bytes())
            .bytes(CKA_ID, id);
        self.with_session(slot, CKU_USER, pin, |session| self.make(session, kind, &named))
            .map_err(|value| AdminError::Refused { doing: "make the key", value })
    }

    fn make(
        &self,
        session: CK_SESSION_HANDLE,
        kind: KeyKind,
        named: &Template,
    ) -> Answer<Option<[u8; 64]>> {
        let uses = |one, other| named.clone().flag(one, true).flag(other, true);
        let (algorithm, public, closed) = match kind {
            KeyKind::Sm2Sign => {
                let (verify, sign) = (CKA_VERIFY, CKA_SIGN);
                (
                    Algorithm::Sm2Pair,
                    named.clone().flag(verify, true),
                    named.clone().flag(sign, true),
                )
            }
            KeyKind::Sm2Decrypt => {
                let (encrypt, decrypt) = (CKA_ENCRYPT, CKA_DECRYPT);
                let public = named.clone().flag(encrypt, true);
                (Algorithm::Sm2Pair, public, named.clone().flag(decrypt, true))
            }
            KeyKind::Sm4Encrypt => {
                let closed = uses(CKA_ENCRYPT, CKA_DECRYPT);
                (Algorithm::Key(Secret::Sm4), Template::default(), closed)
            }
            KeyKind::Sm4Wrap => {
                let closed = uses(CKA_WRAP, CKA_UNWRAP);
                (Algorithm::Key(Secret::Sm4), Template::default(), closed)
            }
        };
        let mut codes = self.module.dialect().all_codes();
        let code = codes.find(|(_, known)| *known == algorithm).map(|(code, _)| *code);
        let call = self.module.call(code.ok_or(CKR_MECHANISM_INVALID)?, Parameter::None)?;
        if matches!(kind, KeyKind::Sm4Encrypt | KeyKind::Sm4Wrap) {
            self.module.generate_key(session, &call, &closed)?;
            return Ok(None);
        }
        let [public, _] = self.module.generate_pair(session, &call, &public, &closed)?;
        let public = self.module.object(session, public)?;
        Ok(public.get(CKA_EC_POINT).and_then(point_in))
    }

    fn with_session<T>(
        &self,
        slot: u32,
        user: CK_USER_TYPE,
        pin: &[u8],
        call: impl FnOnce(CK_SESSION_HANDLE) -> Answer<T>,
    ) -> Answer<T> {
        let session = self.module.open_session(slot.into(), true)?;
        let done = self.module.login(session, user, pin).and_then(|()| call(session));
        self.module.close_session(session)?;
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_and_filled() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(folder.path());
        config.pin_rounds = 1_000;
        let admin = Admin::open(config).unwrap();
        admin.init(0, "demo", b"12345678", b"1234").unwrap();
        for kind in [KeyKind::Sm2Sign, KeyKind::Sm2Decrypt] {
            let point = admin.generate(0, b"1234", kind, "key", &[1]).unwrap().unwrap();
            assert!(hufu_crypto::is_curve_point(&hufu_crypto::PublicKey(point)));
        }
        for kind in [KeyKind::Sm4Encrypt, KeyKind::Sm4Wrap] {
            assert_eq!(admin.generate(0, b"1234", kind, "key", &[2]).unwrap(), None);
        }
        let wrong = admin.generate(0, b"0000", KeyKind::Sm2Sign, "key", &[3]).unwrap_err();
        assert!(wrong.to_string().contains("wrong PIN"), "{wrong}");
        assert!(admin.init(1, "x", b"12345678", b"1234").is_err());
        assert!(admin.init(0, "x", b"87654321", b"1234").is_err());
    }
}
