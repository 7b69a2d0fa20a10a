//! Rules of sessions, logins, objects and operations, on the safe side of the C interface.

use std::path::Path;

use hufu_crypto::{
    Digest, IDENTITY_DEFAULT, PublicKey, Signature, Sm3, Verdict, VerifyItem, der, identity_digest,
    message_digest, software_provider,
};

use super::*;
use crate::faults::{Fault, Faults, Garbage};
use crate::imitations::native;
use crate::keys::point_in;

mod attacks;
mod crypto;
mod durability;
mod faults;
mod imitations;
mod races;
mod secrets;
mod tokens;

const SO_PIN: &[u8] = b"12345678";
const PIN: &[u8] = b"1234";

fn config(store: &Path, imitation: &str) -> Config {
    let mut config = Config::new(store);
    (config.pin_rounds, config.imitation) = (1_000, imitation.to_owned());
    (config.pin_tries_max, config.sessions_count_max) = (3, 8);
    config
}

/// A module with an initialised token, and the folder of its store.
struct Card {
    module: Module,
    folder: tempfile::TempDir,
}

impl Card {
    fn new(imitation: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let module = Module::open(config(folder.path(), imitation)).unwrap();
        module.slot(0).unwrap().init_token(SO_PIN, [b'x'; 32]).unwrap();
        let session = module.open_session(0, true).unwrap();
        module.login(session, CKU_SO, SO_PIN).unwrap();
        module.slot(0).unwrap().init_pin(PIN).unwrap();
        module.close_session(session).unwrap();
        Self { module, folder }
    }

    /// As another process would see it.
    fn other(&self) -> Module {
        let imitation = self.module.dialect().name;
        Module::open(config(self.folder.path(), imitation)).unwrap()
    }

    fn faults(&self) -> Faults {
        Faults::open(self.folder.path(), 0).unwrap()
    }

    /// A read-write session in which the user is logged in.
    fn user(&self) -> CK_SESSION_HANDLE {
        let session = self.module.open_session(0, true).unwrap();
        self.module.login(session, CKU_USER, PIN).unwrap();
        session
    }

    fn call(&self, code: CK_MECHANISM_TYPE) -> Call {
        self.module.call(code, Parameter::None).unwrap()
    }

    /// The code that this vendor has for an algorithm.
    fn code(&self, wanted: Algorithm) -> Option<CK_MECHANISM_TYPE> {
        let mut codes = self.module.dialect().all_codes();
        codes.find(|(_, algorithm)| *algorithm == wanted).map(|(code, _)| *code)
    }

    /// An SM2 pair that signs and decrypts.
    fn pair(&self, session: CK_SESSION_HANDLE) -> [CK_OBJECT_HANDLE; 2] {
        let public = new().flag(CKA_VERIFY, true).flag(CKA_ENCRYPT, true).flag(CKA_TOKEN, true);
        let private = new().flag(CKA_SIGN, true).flag(CKA_DECRYPT, true).flag(CKA_TOKEN, true);
        let call = self.call(self.code(Algorithm::Sm2Pair).unwrap());
        self.module.generate_pair(session, &call, &public, &private).unwrap()
    }

    fn public_key(&self, session: CK_SESSION_HANDLE, handle: CK_OBJECT_HANDLE) -> PublicKey {
        let object = self.module.object(session, handle).unwrap();
        let point = object.read(CKA_EC_POINT, self.module.dialect()).unwrap();
        PublicKey(point_in(&point).unwrap())
    }

    fn sign(
        &self,
        session: CK_SESSION_HANDLE,
        code: CK_MECHANISM_TYPE,
        key: CK_OBJECT_HANDLE,
        data: &[u8],
    ) -> Answer<Vec<u8>> {
        self.module.begin_signing(session, &self.call(code), key, Kind::Sign)?;
        match self.module.sign(session, Some(data), Some(128))? {
            Given::Bytes(signature) => Ok(signature),
            other => panic!("{other:?}"),
        }
    }

    /// Objects with this attribute.
    fn find(&self, session: CK_SESSION_HANDLE, template: &Template) -> Vec<CK_OBJECT_HANDLE> {
        find(&self.module, session, template)
    }
}

fn find(module: &Module, session: CK_SESSION_HANDLE, template: &Template) -> Vec<CK_OBJECT_HANDLE> {
    module.begin_find(session, template).unwrap();
    let found = module.find(session, 100).unwrap();
    module.finish_find(session).unwrap();
    found
}

fn new() -> Template {
    Template::default()
}

fn is_valid(key: &PublicKey, digest: Digest, signature: &[u8]) -> bool {
    let signature = Signature(signature.try_into().unwrap());
    let item = VerifyItem { key, digest, signature: &signature };
    software_provider().verifier.verify(item) == Verdict::Valid
}
