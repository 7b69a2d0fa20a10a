//! Digests, signatures and encryption in sessions: begun, fed, finished.
//!
//! PKCS#11 2.40 5.2: a question for the length and a buffer that is too small leave the operation
//! as it is; every other end is its end.

use std::sync::Arc;

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::Module;
use crate::answer::{Answer, locked};
use crate::attributes::number;
use crate::imitations::native::{KEY_SM2, KEY_SM4};
use crate::imitations::{Algorithm, Block};
use crate::mechanisms::Call;
use crate::mechanisms::ciphering::{Ciphering, Direction};
use crate::mechanisms::hashing::Hasher;
use crate::mechanisms::signing::Signing;
use crate::object::Object;
use crate::session::{Active, Operations};
use crate::slot::{Found, Slot};

/// What becomes of a call that gives bytes, with the room the client has for them.
#[cfg_attr(test, derive(Debug, PartialEq, Eq))]
pub(crate) enum Given {
    /// He has room for all.
    Bytes(Vec<u8>),
    /// He asked how much room he needs.
    Size(usize),
    /// He has too little.
    TooSmall(usize),
}

/// What a key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sign,
    Verify,
    Encrypt,
    Decrypt,
}

impl Kind {
    /// The attribute that allows it, and the class that has the key besides secret keys.
    const fn usage(self) -> (CK_ATTRIBUTE_TYPE, CK_OBJECT_CLASS) {
        match self {
            Self::Sign => (CKA_SIGN, CKO_PRIVATE_KEY),
            Self::Verify => (CKA_VERIFY, CKO_PUBLIC_KEY),
            Self::Encrypt => (CKA_ENCRYPT, CKO_PUBLIC_KEY),
            Self::Decrypt => (CKA_DECRYPT, CKO_PRIVATE_KEY),
        }
    }
}

/// The type of key that a mechanism takes.
pub(crate) const fn key_type_of(algorithm: Algorithm) -> Option<CK_KEY_TYPE> {
    match algorithm {
        Algorithm::Sm2Sign(..) | Algorithm::Sm2Encrypt(_) => Some(KEY_SM2),
        Algorithm::Ecdsa(_) => Some(CKK_EC),
        Algorithm::HmacSm3 => Some(CKK_GENERIC_SECRET),
        Algorithm::Sm4Mac | Algorithm::Block(Block::Sm4, _) => Some(KEY_SM4),
        Algorithm::Block(Block::Aes, _) | Algorithm::AesKeyWrap { .. } => Some(CKK_AES),
        _ => None,
    }
}

/// Whether `CKA_ALLOWED_MECHANISMS`, where it is set, has this one.
pub(crate) fn allows(object: &Object, code: CK_MECHANISM_TYPE) -> bool {
    let list = object.get(CKA_ALLOWED_MECHANISMS).unwrap_or_default();
    list.is_empty() || list.chunks(size_of::<CK_ULONG>()).any(|it| number(it) == Some(code))
}

/// What of an operation is there, if it was begun since the last logout or removal; what was begun
/// before is swept out.
fn current<'a, T>(active: &'a mut Option<Active<T>>, slot: &Slot) -> Answer<&'a mut Active<T>> {
    if active.as_ref().is_some_and(|active| active.epoch != slot.epoch()) {
        *active = None;
    }
    active.as_mut().ok_or(CKR_OPERATION_NOT_INITIALIZED)
}

/// As [`current`], and not waiting for a login.
fn ready<'a, T>(active: &'a mut Option<Active<T>>, slot: &Slot) -> Answer<&'a mut Active<T>> {
    let found = current(active, slot)?;
    if found.waits_for_login { Err(CKR_USER_NOT_LOGGED_IN) } else { Ok(found) }
}

/// Takes the work of an operation that ends now, in one part or after several.
///
/// # Errors
/// As [`ready`]; `CKR_OPERATION_ACTIVE` for the one part of what came in several.
fn ending<'a, T>(
    place: &'a mut Option<Active<T>>,
    slot: &Slot,
    is_whole: bool,
) -> Answer<Ending<'a, T>> {
    if ready(place, slot)?.has_parts && is_whole {
        return Err(CKR_OPERATION_ACTIVE);
    }
    Ok(Ending(place))
}

/// An operation that is there and may end.
struct Ending<'a, T>(&'a mut Option<Active<T>>);

impl<T> Ending<'_, T> {
    fn work(&self) -> Answer<&T> {
        self.0.as_ref().map(|active| &active.work).ok_or(CKR_OPERATION_NOT_INITIALIZED)
    }

    /// The operation ends, whatever comes of it.
    fn take(self) -> Answer<T> {
        self.0.take().map(|active| active.work).ok_or(CKR_OPERATION_NOT_INITIALIZED)
    }
}

const fn signing(operations: &mut Operations, kind: Kind) -> &mut Option<Active<Signing>> {
    match kind {
        Kind::Sign => &mut operations.sign,
        _ => &mut operations.verify,
    }
}

const fn ciphering(operations: &mut Operations, kind: Kind) -> &mut Option<Active<Ciphering>> {
    match kind {
        Kind::Encrypt => &mut operations.encrypt,
        _ => &mut operations.decrypt,
    }
}

impl Module {
    /// Whether the room is enough; `None` is the question for the size.
    fn room(&self, size: usize, room: Option<usize>) -> Answer<Option<Given>> {
        match room {
            None if !self.dialect().tells_length => Err(CKR_ARGUMENTS_BAD),
            None => Ok(Some(Given::Size(size))),
            Some(room) if room < size => Ok(Some(Given::TooSmall(size))),
            Some(_) => Ok(None),
        }
    }

    /// The key, if it may be used for this by this mechanism.
    fn usable_key(
        &self,
        slot: &Slot,
        handle: CK_OBJECT_HANDLE,
        call: &Call,
        kind: Kind,
    ) -> Answer<Found> {
        let found = slot.object(handle, CKR_KEY_HANDLE_INVALID)?;
        let object = &found.object;
        let (usage, class) = kind.usage();
        if object.class() != class && object.class() != CKO_SECRET_KEY {
            let is_key = matches!(object.class(), CKO_PRIVATE_KEY | CKO_PUBLIC_KEY);
            return Err(if is_key { CKR_KEY_TYPE_INCONSISTENT } else { CKR_KEY_HANDLE_INVALID });
        }
        if key_type_of(call.algorithm).is_some_and(|key_type| key_type != object.key_type()) {
            return Err(CKR_KEY_TYPE_INCONSISTENT);
        }
        if !object.flag(usage) {
            return Err(CKR_KEY_FUNCTION_NOT_PERMITTED);
        }
        if !allows(object, call.code) {
            return Err(CKR_MECHANISM_INVALID);
        }
        Ok(found)
    }

    /// `C_SignInit`, `C_VerifyInit`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn begin_signing(
        &self,
        session: CK_SESSION_HANDLE,
        call: &Call,
        key: CK_OBJECT_HANDLE,
        kind: Kind,
    ) -> Answer<()> {
        let (session, slot) = self.session(session)?;
        if current(signing(&mut locked(&session.operations), kind), slot).is_ok() {
            return Err(CKR_OPERATION_ACTIVE);
        }
        let found = self.usable_key(slot, key, call, kind)?;
        let work = Signing::start(call, found.object.prepared()?)?;
        let waits = kind == Kind::Sign && found.object.flag(CKA_ALWAYS_AUTHENTICATE);
        let active = Active::new(work, found.epoch, waits);
        *signing(&mut locked(&session.operations), kind) = Some(active);
        Ok(())
    }

    /// `C_SignUpdate`, `C_VerifyUpdate`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn update_signing(
        &self,
        session: CK_SESSION_HANDLE,
        part: &[u8],
        kind: Kind,
    ) -> Answer<()> {
        let (session, slot) = self.session(session)?;
        let mut operations = locked(&session.operations);
        let place = signing(&mut operations, kind);
        let active = ready(place, slot)?;
        active.has_parts = true;
        let fed = if active.work.is_single_part() {
            Err(CKR_FUNCTION_NOT_SUPPORTED)
        } else {
            active.work.update(part)
        };
        if fed.is_err() {
            *place = None;
        }
        fed
    }

    /// `C_Sign` with the data, `C_SignFinal` without.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn sign(
        &self,
        session: CK_SESSION_HANDLE,
        data: Option<&[u8]>,
        room: Option<usize>,
    ) -> Answer<Given> {
        let (session, slot) = self.session(session)?;
        let mut operations = locked(&session.operations);
        let ending = ending(&mut operations.sign, slot, data.is_some())?;
        if let Some(answer) = self.room(ending.work()?.size_max(), room)? {
            return Ok(answer);
        }
        let mut work = ending.take()?;
        let call = self.strain(&session, slot)?;
        work.update(data.unwrap_or_default())?;
        let mut signature = work.sign()?;
        slot.faults.spoil(call, &mut signature);
        // What is spoiled may be longer than what was asked for.
        signature.truncate(room.unwrap_or_default());
        Ok(Given::Bytes(signature))
    }

    /// `C_Verify` with the data, `C_VerifyFinal` without.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn verify(
        &self,
        session: CK_SESSION_HANDLE,
        data: Option<&[u8]>,
        signature: &[u8],
    ) -> Answer<()> {
        let (session, slot) = self.session(session)?;
        let mut operations = locked(&session.operations);
        let mut work = ending(&mut operations.verify, slot, data.is_some())?.take()?;
        self.strain(&session, slot)?;
        work.update(data.unwrap_or_default())?;
        work.verify(signature)
    }

    /// `C_EncryptInit`, `C_DecryptInit`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn begin_ciphering(
        &self,
        session: CK_SESSION_HANDLE,
        call: &Call,
        key: CK_OBJECT_HANDLE,
        kind: Kind,
    ) -> Answer<()> {
        let (session, slot) = self.session(session)?;
        if current(ciphering(&mut locked(&session.operations), kind), slot).is_ok() {
            return Err(CKR_OPERATION_ACTIVE);
        }
        let found = self.usable_key(slot, key, call, kind)?;
        let direction = if kind == Kind::Encrypt { Direction::Encrypt } else { Direction::Decrypt };
        let work = Ciphering::start(call, found.object.prepared()?, direction)?;
        let waits = kind == Kind::Decrypt && found.object.flag(CKA_ALWAYS_AUTHENTICATE);
        let active = Active::new(work, found.epoch, waits);
        *ciphering(&mut locked(&session.operations), kind) = Some(active);
        Ok(())
    }

    /// `C_Encrypt`, `C_Decrypt` with the data, `C_EncryptFinal`, `C_DecryptFinal` without.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn cipher(
        &self,
        session: CK_SESSION_HANDLE,
        data: Option<&[u8]>,
        room: Option<usize>,
        kind: Kind,
    ) -> Answer<Given> {
        let (session, slot) = self.session(session)?;
        let mut operations = locked(&session.operations);
        let ending = ending(ciphering(&mut operations, kind), slot, data.is_some())?;
        let work = ending.work()?;
        if room.is_none() {
            let bound = work.finish_size_max(data.map_or(0, <[u8]>::len));
            return self.room(bound, None).map(|answer| answer.unwrap_or(Given::Size(bound)));
        }
        let done = self.strain(&session, slot).and_then(|_| match data {
            Some(data) => work.whole(data),
            None => work.finish(),
        });
        let given = done.and_then(|bytes| self.fitted(bytes, room));
        if !matches!(given, Ok(Given::TooSmall(_))) {
            ending.take()?;
        }
        given
    }

    /// `C_EncryptUpdate`, `C_DecryptUpdate`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn update_ciphering(
        &self,
        session: CK_SESSION_HANDLE,
        part: &[u8],
        room: Option<usize>,
        kind: Kind,
    ) -> Answer<Given> {
        let (session, slot) = self.session(session)?;
        let mut operations = locked(&session.operations);
        let place = ciphering(&mut operations, kind);
        let active = ready(place, slot)?;
        if let Some(answer) = self.room(active.work.update_size(part.len()), room)? {
            return Ok(answer);
        }
        active.has_parts = true;
        let given = active.work.update(part);
        if given.is_err() {
            *place = None;
        }
        given.map(Given::Bytes)
    }

    /// The bytes, if there is room for them; else they are overwritten.
    pub(super) fn fitted(&self, bytes: Vec<u8>, room: Option<usize>) -> Answer<Given> {
        let mut bytes = Zeroizing::new(bytes);
        let answer = self.room(bytes.len(), room)?;
        Ok(answer.unwrap_or_else(|| Given::Bytes(std::mem::take(&mut *bytes))))
    }

    /// `C_DigestInit`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn begin_digest(&self, session: CK_SESSION_HANDLE, call: &Call) -> Answer<()> {
        let (session, slot) = self.session(session)?;
        let Algorithm::Hash(hash) = call.algorithm else { return Err(CKR_MECHANISM_INVALID) };
        if call.parameter != crate::mechanisms::Parameter::None {
            return Err(CKR_MECHANISM_PARAM_INVALID);
        }
        let mut operations = locked(&session.operations);
        if current(&mut operations.digest, slot).is_ok() {
            return Err(CKR_OPERATION_ACTIVE);
        }
        operations.digest = Some(Active::new(Hasher::new(hash), slot.epoch(), false));
        Ok(())
    }

    /// `C_DigestUpdate`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn update_digest(&self, session: CK_SESSION_HANDLE, part: &[u8]) -> Answer<()> {
        let (session, slot) = self.session(session)?;
        let mut operations = locked(&session.operations);
        let active = current(&mut operations.digest, slot)?;
        active.has_parts = true;
        active.work.update(part);
        Ok(())
    }

    /// `C_DigestKey`: of keys whose value may be read only, or a digest would tell of others.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn digest_key(
        &self,
        session: CK_SESSION_HANDLE,
        key: CK_OBJECT_HANDLE,
    ) -> Answer<()> {
        let (held, slot) = self.session(session)?;
        let found = slot.object(key, CKR_KEY_HANDLE_INVALID)?;
        current(&mut locked(&held.operations).digest, slot)?;
        if found.object.class() != CKO_SECRET_KEY {
            return Err(CKR_KEY_INDIGESTIBLE);
        }
        let value = found.object.read(CKA_VALUE, self.dialect());
        let value = Zeroizing::new(value.map_err(|_| CKR_KEY_INDIGESTIBLE)?);
        self.update_digest(session, &value)
    }

    /// `C_Digest` with the data, `C_DigestFinal` without.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn digest(
        &self,
        session: CK_SESSION_HANDLE,
        data: Option<&[u8]>,
        room: Option<usize>,
    ) -> Answer<Given> {
        let (session, slot) = self.session(session)?;
        let mut operations = locked(&session.operations);
        let ending = ending(&mut operations.digest, slot, data.is_some())?;
        if let Some(answer) = self.room(ending.work()?.size(), room)? {
            return Ok(answer);
        }
        let mut work = ending.take()?;
        work.update(data.unwrap_or_default());
        Ok(Given::Bytes(work.digest()))
    }

    /// `C_FindObjectsInit`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn begin_find(
        &self,
        session: CK_SESSION_HANDLE,
        template: &crate::attributes::Template,
    ) -> Answer<()> {
        let (session, slot) = self.session(session)?;
        if locked(&session.operations).find.is_some() {
            return Err(CKR_OPERATION_ACTIVE);
        }
        let epoch = slot.epoch();
        let mut found = slot.find(template)?;
        found.reverse();
        locked(&session.operations).find = Some(Active::new(found, epoch, false));
        Ok(())
    }

    /// `C_FindObjects`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn find(
        &self,
        session: CK_SESSION_HANDLE,
        count_max: usize,
    ) -> Answer<Vec<CK_OBJECT_HANDLE>> {
        let (session, slot) = self.session(session)?;
        let mut operations = locked(&session.operations);
        let active = operations.find.as_mut().ok_or(CKR_OPERATION_NOT_INITIALIZED)?;
        let epoch = slot.epoch();
        if active.epoch != epoch {
            // Somebody logged out since: what he alone could see was not found.
            slot.retain_seen(&mut active.work)?;
            active.epoch = epoch;
        }
        let from = active.work.len().saturating_sub(count_max);
        let mut found = active.work.split_off(from);
        found.reverse();
        Ok(found)
    }

    /// `C_FindObjectsFinal`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn finish_find(&self, session: CK_SESSION_HANDLE) -> Answer<()> {
        let (session, _slot) = self.session(session)?;
        let found = locked(&session.operations).find.take();
        found.map(drop).ok_or(CKR_OPERATION_NOT_INITIALIZED)
    }

    /// `C_SessionCancel` of PKCS#11 3.0.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn cancel(&self, session: CK_SESSION_HANDLE, flags: CK_FLAGS) -> Answer<()> {
        let (session, _slot) = self.session(session)?;
        locked(&session.operations).end(flags);
        Ok(())
    }

    /// An `Init` function without a mechanism ends the operation it would begin.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD` if there is none to end.
    pub(crate) fn abandon(&self, session: CK_SESSION_HANDLE, flag: CK_FLAGS) -> Answer<()> {
        let (session, _slot) = self.session(session)?;
        let ended = locked(&session.operations).end(flag);
        if ended { Ok(()) } else { Err(CKR_ARGUMENTS_BAD) }
    }

    /// An object that may be seen in the session.
    ///
    /// # Errors
    /// `CKR_OBJECT_HANDLE_INVALID`.
    pub(crate) fn object(
        &self,
        session: CK_SESSION_HANDLE,
        handle: CK_OBJECT_HANDLE,
    ) -> Answer<Arc<Object>> {
        let (_session, slot) = self.session(session)?;
        Ok(slot.object(handle, CKR_OBJECT_HANDLE_INVALID)?.object)
    }
}
