//! The transport key in a card: made of the shared secret, used for one wrapping, destroyed.
//!
//! A key of class `cloned` leaves only under a key that the token's officer marked as trusted
//! (`CKA_WRAP_WITH_TRUSTED`, PKCS#11 3.1 4.9). So the officer makes the transport key, as a session
//! object that everybody may see and nobody read; the user, to whom the key belongs, wraps with
//! it. Neither can do it alone, and nothing of it is ever on the token.

use cryptoki_sys as ck;
use hufu_crypto::shamir;
use hufu_crypto::{Digest, Drbg, PublicKey, Verifier, entropy};
use zeroize::Zeroizing;

use super::package::WrappedKey;
use super::share::{Custodian, Opener, ShareFile};
use super::{CUSTODIANS_MAX, CloneError, ExportId, Facts, Secret, commitment};
use crate::card::{FoundKey, KeyClass, KeyName, keys, operations};
use crate::keystore::WRAPPED_BYTES_MAX;
use crate::pin::Pin;
use crate::pkcs11::{Attribute, AttributeValue, GcmParameter, Library, Mechanism, Session, User};
use crate::profile::{KeyWrap, Profile, WrapForm};
use crate::{Error, ErrorClass, KeyReference, Usage, probe};

/// Bytes of a wrapped key at most, more than any encoding of an SM2 key takes.
const WRAPPED_KEY_BYTES_MAX: usize = 4 << 10;

/// Bytes of the tag of GCM.
const TAG_BYTES: usize = 16;

/// What the transport key is called while it is there.
const LABEL: &str = "hufu transport";

/// A card in the hands of its officer and its user.
pub struct Ceremony<'a> {
    /// A session that may write, in which nobody is logged in.
    pub session: &'a Session,
    /// The card's profile.
    pub profile: &'a Profile,
    /// The user's PIN.
    pub pin: &'a Pin,
    /// Verifies what a key signs before it is believed to be the one.
    pub verifier: &'a dyn Verifier,
}

/// What is to leave the card, and for whom.
pub struct Order<'a> {
    /// Which key.
    pub key: &'a KeyReference,
    /// What it is for.
    pub usage: Usage,
    /// The officer's PIN.
    pub officer: &'a Pin,
    /// Shares that give the key back, count.
    pub needed: u8,
    /// Whose shares, one each.
    pub custodians: &'a [Custodian<'a>],
}

impl WrapForm {
    /// As a profile says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sm4CbcPad => "sm4-cbc-pad",
            Self::Sm4Gcm => "sm4-gcm",
            Self::AesKeyWrapPad => "aes-key-wrap-pad",
        }
    }

    /// Bytes of the transport key.
    const fn key_bytes(self) -> usize {
        match self {
            Self::Sm4CbcPad | Self::Sm4Gcm => 16,
            Self::AesKeyWrapPad => 32,
        }
    }

    /// Bytes of first value or nonce.
    const fn start_bytes(self) -> usize {
        match self {
            Self::Sm4CbcPad => 16,
            Self::Sm4Gcm => 12,
            Self::AesKeyWrapPad => 0,
        }
    }

    fn mechanism(self, code: u64, start: &mut [u8]) -> Mechanism<'_> {
        match self {
            Self::Sm4CbcPad => Mechanism::with(code, start),
            Self::Sm4Gcm => Mechanism::gcm(code, GcmParameter::new(start, &[], TAG_BYTES)),
            Self::AesKeyWrapPad => Mechanism::bare(code),
        }
    }
}

/// A transport key in the card, destroyed when dropped.
struct Transport<'a> {
    session: &'a Session,
    object: u64,
}

impl Drop for Transport<'_> {
    fn drop(&mut self) {
        // The session's end would destroy it too.
        self.session.destroy_object(self.object).ok();
    }
}

/// Every key is one custodian's; passphrases are not compared.
fn check_different(custodians: &[Custodian<'_>]) -> Result<(), CloneError> {
    let key_of = |custodian: &Custodian<'_>| match custodian {
        Custodian::Key(key) => Some(*key),
        Custodian::Passphrase(_) => None,
    };
    let keys: Vec<PublicKey> = custodians.iter().filter_map(key_of).collect();
    let twice = (1..keys.len()).find(|place| keys[..*place].contains(&keys[*place]));
    match twice.and_then(|place| keys.get(place)) {
        Some(key) => Err(CloneError::SameCustodian { key: Box::new(*key) }),
        None => Ok(()),
    }
}

/// Which way a transport key works; never both.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Out of the card: made by the officer.
    Out,
    /// Into the card: made by the user.
    In,
}

impl<'a> Ceremony<'a> {
    /// Takes a copy of a cloned key out of the card: the wrapped key, and a share for each
    /// custodian. The copy is brought in again, tried and destroyed before this returns: a
    /// backup that was never read is none.
    ///
    /// # Errors
    /// [`CloneError`]; nothing that was made is of use then.
    pub fn export(&self, order: &Order<'_>) -> Result<(WrappedKey, Vec<ShareFile>), CloneError> {
        let custodians = order.custodians.len();
        let count = u8::try_from(custodians).ok().filter(|_| custodians <= CUSTODIANS_MAX);
        let count = count.ok_or(CloneError::Custodians { count: custodians })?;
        check_different(order.custodians)?;
        if order.needed < 2 || order.needed > count {
            let needed = order.needed;
            return Err(shamir::ShamirError::Counts { needed, count }.into());
        }
        self.session.login(User::User, self.pin)?;
        let found = self.may_leave(order)?;
        self.session.logout()?;

        let mut generator = Drbg::new(entropy::system(), "hufu cloned key")?;
        let (mut id, mut secret) = ([0; 16], Zeroizing::new([0; 32]));
        generator.fill(&mut id)?;
        generator.fill(&mut *secret)?;
        let (export, public) = (ExportId(id), found.public);
        let key = order.key.to_string();
        let facts = Facts { export, key, public, needed: order.needed, count };
        let shares = shamir::split(&secret, order.needed, count, entropy::system())?;
        let secret = Secret(secret);

        let package = WrappedKey {
            facts: facts.clone(),
            usage: order.usage,
            profile: self.profile.name.clone(),
            form: WrapForm::Sm4CbcPad,
            start: Vec::new(),
            wrapped: Vec::new(),
            proof: Vec::new(),
            commitments: shares.iter().map(|share| commitment(export, share)).collect(),
            check: Digest([0; 32]),
        };
        let package = self.wrap_by_any(order, &secret, package, &mut generator)?;
        self.read_back(order.key, &package, &secret)?;
        let sealed = shares.iter().zip(order.custodians).map(|(share, custodian)| {
            ShareFile::seal(facts.clone(), share, *custodian, &mut generator)
        });
        let sealed = sealed.collect::<Result<_, _>>()?;
        Ok((package.checked(&secret), sealed))
    }

    /// Brings a copy of a key into the card under a name that no key has yet, and proves that it is
    /// that key. What is not is destroyed.
    ///
    /// # Errors
    /// [`CloneError`]; then the card is as it was.
    pub fn import(
        &self,
        package: &WrappedKey,
        shares: &[(&ShareFile, Opener<'_>)],
        key: &KeyReference,
        class: KeyClass,
    ) -> Result<FoundKey, CloneError> {
        let secret = package.open(shares)?;
        let label = keys::name_of(self.profile, key)?;
        let name = KeyName { label: &label.0, id: &label.1, is_kept: true };
        self.session.login(User::User, self.pin)?;
        let public = match &package.facts.public {
            Some(public) => Some(self.publish(&name, package.usage, public)?),
            None => None,
        };
        let brought = self.bring_in(package, &secret, &name, class).and_then(|object| {
            // Found by its name, as the node will find it, unless the card calls it otherwise.
            let found = keys::find(self.session, self.profile, key, package.usage);
            let proven = found.map_err(CloneError::from).and_then(|found| {
                self.prove(key, package, &found)?;
                Ok(found)
            });
            proven.inspect_err(|_| {
                self.session.destroy_object(object).ok();
            })
        });
        brought.inspect_err(|_| {
            // The first error is the one to tell.
            public.map(|public| self.session.destroy_object(public).ok());
        })
    }

    /// The key, if it was made to leave, and only under a trusted key.
    fn may_leave(&self, order: &Order<'_>) -> Result<FoundKey, CloneError> {
        let found = keys::find(self.session, self.profile, order.key, order.usage)?;
        let kinds = [ck::CKA_EXTRACTABLE, ck::CKA_WRAP_WITH_TRUSTED];
        let told = self.session.attributes(found.object, &kinds)?;
        let is = |place: usize| told.get(place).and_then(AttributeValue::bool);
        let key = order.key.clone();
        match (is(0), is(1)) {
            (Some(false), _) => Err(CloneError::SingleCard { key }),
            (_, Some(true)) => Ok(found),
            (_, Some(false) | None) => Err(CloneError::Unguarded { key }),
        }
    }

    /// Mechanisms that wrap on this card: the profile's, then AES key wrap, whose code PKCS#11
    /// itself gives, if the card lists it.
    fn mechanisms(&self) -> Result<Vec<KeyWrap>, Error> {
        let mut all = self.profile.key_wrap.clone();
        let library: &Library = self.session.library();
        let mechanism = ck::CKM_AES_KEY_WRAP_KWP;
        if library.mechanisms(self.session.slot())?.contains(&mechanism) {
            all.push(KeyWrap { form: WrapForm::AesKeyWrapPad, mechanism });
        }
        Ok(all)
    }

    fn wrap_by_any(
        &self,
        order: &Order<'_>,
        secret: &Secret,
        package: WrappedKey,
        generator: &mut Drbg,
    ) -> Result<WrappedKey, CloneError> {
        let mut tried = Vec::new();
        for way in self.mechanisms()? {
            let mut start = vec![0; way.form.start_bytes()];
            generator.fill(&mut start)?;
            match self.wrap(order, secret, way, &mut start) {
                Ok((wrapped, proof)) => {
                    return Ok(WrappedKey { form: way.form, start, wrapped, proof, ..package });
                }
                // A PIN is not tried with each mechanism.
                Err(error @ (Error::PinRefused { .. } | Error::PinUnreadable { .. })) => {
                    return Err(error.into());
                }
                Err(error) if error.class() == ErrorClass::Permanent => {
                    tried.push(format!("{} ({:#x}): {error}", way.form.name(), way.mechanism));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let none = "its profile names no mechanism, and it lists none of PKCS#11's".to_owned();
        let reason = if tried.is_empty() { none } else { tried.join("; ") };
        Err(CloneError::NoMechanism { reason })
    }

    /// The officer makes the transport key, the user wraps with it.
    fn wrap(
        &self,
        order: &Order<'_>,
        secret: &Secret,
        way: KeyWrap,
        start: &mut [u8],
    ) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let session = self.session;
        session.login(User::SecurityOfficer, order.officer)?;
        let made = self.transport(way.form, secret, Way::Out);
        session.logout()?;
        let transport = made?;
        session.login(User::User, self.pin)?;
        let wrapped = self.wrap_with(order, way, start, &transport);
        drop(transport);
        session.logout()?;
        wrapped
    }

    fn wrap_with(
        &self,
        order: &Order<'_>,
        way: KeyWrap,
        start: &mut [u8],
        transport: &Transport<'_>,
    ) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let session = self.session;
        let found = keys::find(session, self.profile, order.key, order.usage)?;
        let mut wrapped = vec![0; WRAPPED_KEY_BYTES_MAX];
        let mechanism = way.form.mechanism(way.mechanism, start);
        let size = session.wrap_key(&mechanism, transport.object, found.object, &mut wrapped)?;
        wrapped.truncate(size);
        let mut proof = Vec::new();
        if order.usage == Usage::Wrap {
            let (mut known, mut place) = (Zeroizing::new([0; 32]), [0; WRAPPED_BYTES_MAX]);
            session.random(&mut *known)?;
            let size =
                operations::wrap(session, self.profile, order.key, &found, &known, &mut place)?;
            proof.extend_from_slice(place.get(..size).unwrap_or_default());
        }
        Ok((wrapped, proof))
    }

    fn transport(&self, form: WrapForm, secret: &Secret, way: Way) -> Result<Transport<'a>, Error> {
        let key_type = match form {
            WrapForm::AesKeyWrapPad => Some(ck::CKK_AES),
            WrapForm::Sm4CbcPad | WrapForm::Sm4Gcm => self.profile.sm4.map(|sm4| sm4.key_type),
        };
        let reason = format!("profile {} has no SM4", self.profile.name);
        let key = KeyReference::Label(LABEL.to_owned());
        let key_type = key_type.ok_or(Error::KeyUnsuitable { key, reason })?;
        let is_out = way == Way::Out;
        let object = self.session.create_object(&[
            Attribute::number(ck::CKA_CLASS, ck::CKO_SECRET_KEY),
            Attribute::number(ck::CKA_KEY_TYPE, key_type),
            Attribute::bool(ck::CKA_TOKEN, false),
            // The officer sees and makes no private objects.
            Attribute::bool(ck::CKA_PRIVATE, !is_out),
            Attribute::bool(ck::CKA_SENSITIVE, true),
            Attribute::bool(ck::CKA_EXTRACTABLE, false),
            Attribute::bool(if is_out { ck::CKA_WRAP } else { ck::CKA_UNWRAP }, true),
            Attribute::bool(ck::CKA_TRUSTED, is_out),
            Attribute::text(ck::CKA_LABEL, LABEL),
            Attribute::bytes(ck::CKA_VALUE, &secret.transport(form.name(), form.key_bytes())),
        ])?;
        Ok(Transport { session: self.session, object })
    }

    /// Unwraps the key in the card; its handle. The user is logged in.
    fn bring_in(
        &self,
        package: &WrappedKey,
        secret: &Secret,
        name: &KeyName<'_>,
        class: KeyClass,
    ) -> Result<u64, CloneError> {
        let form = package.form;
        if package.start.len() != form.start_bytes() {
            let reason = "start has another length".to_owned();
            return Err(CloneError::Malformed { what: "wrapped key", reason });
        }
        let all = self.mechanisms()?;
        let way = all.iter().find(|way| way.form == form).ok_or_else(|| {
            let reason = format!("the key was wrapped by {}, which it has not", form.name());
            CloneError::NoMechanism { reason }
        })?;
        let template = keys::template_of_unwrapped(self.profile, name, package.usage, class)?;
        let transport = self.transport(form, secret, Way::In)?;
        let mut start = package.start.clone();
        let mechanism = form.mechanism(way.mechanism, &mut start);
        let object =
            self.session.unwrap_key(&mechanism, transport.object, &package.wrapped, &template)?;
        Ok(object)
    }

    /// Brings the copy in for as long as it takes to see that it is one.
    fn read_back(
        &self,
        key: &KeyReference,
        package: &WrappedKey,
        secret: &Secret,
    ) -> Result<(), CloneError> {
        self.session.login(User::User, self.pin)?;
        let label = keys::name_of(self.profile, key)?;
        let name = KeyName { label: &label.0, id: &label.1, is_kept: false };
        let object = self.bring_in(package, secret, &name, KeyClass::SingleCard)?;
        let found = FoundKey { object, public: package.facts.public, wants_pin: false };
        let proven = self.prove(key, package, &found);
        let destroyed = self.session.destroy_object(object);
        proven?;
        destroyed?;
        self.session.logout()?;
        Ok(())
    }

    /// The public half of a pair that comes in: without it most cards' keys cannot be found.
    fn publish(&self, name: &KeyName<'_>, usage: Usage, public: &PublicKey) -> Result<u64, Error> {
        let template = keys::template_of_public(self.profile, name, usage, public);
        self.session.create_object(&template)
    }

    /// That the key in the card is the one that left: it signs or decrypts for its public key, or
    /// unwraps what it wrapped before it left.
    fn prove(
        &self,
        key: &KeyReference,
        package: &WrappedKey,
        found: &FoundKey,
    ) -> Result<(), CloneError> {
        let (session, profile) = (self.session, self.profile);
        if let (Some(found), Some(expected)) = (found.public, package.facts.public)
            && found != expected
        {
            let (found, expected) = (Box::new(found), Box::new(expected));
            return Err(CloneError::OtherKey { found, expected });
        }
        match package.usage {
            Usage::Sign => {
                probe::prove(session, profile, found, Some(self.pin), self.verifier)?;
            }
            Usage::Decrypt => {
                probe::prove_decrypt(session, profile, found, Some(self.pin))?;
            }
            Usage::Wrap => {
                let mut secret = Zeroizing::new([0; 32]);
                operations::unwrap(session, profile, key, found, &package.proof, &mut secret)?;
            }
        }
        Ok(())
    }
}
