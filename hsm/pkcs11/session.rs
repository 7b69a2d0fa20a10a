//! A session of a token.

mod keys;
mod objects;

pub use objects::FOUND_MAX;

use std::cell::Cell;
use std::sync::Arc;

use cryptoki_sys as ck;

use super::functions::{Functions, Transform, refused_pin};
use super::{Library, Mechanism, SessionInfo};
use crate::error::TriesLeft;
use crate::pin::Pin;
use crate::{Error, Rv};

/// A session (`CK_SESSION_HANDLE`). It keeps its library loaded, so it can belong to no other load,
/// and it is closed when dropped. It may be handed to another thread, but is used by one at a time:
/// a session has one operation under way.
pub struct Session {
    library: Arc<Library>,
    slot: u64,
    handle: u64,
    style: Cell<CallStyle>,
    /// An operation may still be under way in it.
    is_spoiled: Cell<bool>,
}

/// How a library wants to be called for output of a length it decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallStyle {
    /// One call, with a buffer that is large enough. Some libraries refuse to be asked for a
    /// length.
    #[default]
    OneCall,
    /// First asked for the length, as some libraries insist, then called.
    LengthFirst,
}

/// Who logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// `CKU_SO`: initialises tokens and users' PINs.
    SecurityOfficer,
    /// `CKU_USER`: uses keys.
    User,
}

impl Session {
    pub(super) fn open(
        library: &Arc<Library>,
        slot: u64,
        is_read_write: bool,
    ) -> Result<Self, Error> {
        let handle = library.functions().open_session(slot, is_read_write)?;
        let style = Cell::new(CallStyle::default());
        let is_spoiled = Cell::new(false);
        Ok(Self { library: Arc::clone(library), slot, handle, style, is_spoiled })
    }

    /// The library it belongs to.
    #[must_use]
    pub const fn library(&self) -> &Arc<Library> {
        &self.library
    }

    /// The slot it was opened on.
    #[must_use]
    pub const fn slot(&self) -> u64 {
        self.slot
    }

    /// How the library wants to be called, by its profile.
    pub fn set_call_style(&self, style: CallStyle) {
        self.style.set(style);
    }

    /// Whether an operation may be left under way, so that the session is better closed than used.
    #[must_use]
    pub fn is_spoiled(&self) -> bool {
        self.is_spoiled.get()
    }

    /// PKCS#11 3.1 `C_GetSessionInfo`.
    ///
    /// # Errors
    /// What the library says.
    pub fn info(&self) -> Result<SessionInfo, Error> {
        self.functions().session_info(self.handle).map(|raw| SessionInfo::from(&raw))
    }

    /// Logs in, for all sessions of this process with the token (PKCS#11 3.1 `C_Login`). That
    /// somebody has logged in already is fine.
    ///
    /// # Errors
    /// [`Error::PinRefused`], after which the PIN must not be tried again, or what the library
    /// says.
    pub fn login(&self, user: User, pin: &Pin) -> Result<(), Error> {
        let code = match user {
            User::SecurityOfficer => ck::CKU_SO,
            User::User => ck::CKU_USER,
        };
        self.library.check_pad(self.slot, pin)?;
        match self.functions().login(self.handle, code, pin.bytes()) {
            Err(Error::Call { rv: Rv(ck::CKR_USER_ALREADY_LOGGED_IN), .. }) => Ok(()),
            result => result.map_err(|error| self.refused(error, pin, user)),
        }
    }

    /// An error of a login. At a pad, whoever would have typed the PIN may have gone away or
    /// pressed "cancel": nobody is asked again and again by a program.
    fn refused(&self, error: Error, pin: &Pin, user: User) -> Error {
        match error {
            Error::Call {
                rv: rv @ Rv(ck::CKR_FUNCTION_CANCELED | ck::CKR_FUNCTION_REJECTED | ck::CKR_CANCEL),
                ..
            } if pin.is_at_the_pad() => {
                let tries_left = self.tries_left(user).unwrap_or(TriesLeft::Unknown);
                Error::PinRefused { rv, tries_left }
            }
            error => refused_pin(error, || self.tries_left(user)),
        }
    }

    /// PKCS#11 3.1 `C_Logout`.
    ///
    /// # Errors
    /// What the library says.
    pub fn logout(&self) -> Result<(), Error> {
        self.functions().logout(self.handle)
    }

    /// Sets the user's PIN; the security officer must be logged in (PKCS#11 3.1 `C_InitPIN`).
    ///
    /// # Errors
    /// What the library says.
    pub fn init_pin(&self, pin: &Pin) -> Result<(), Error> {
        self.library.check_pad(self.slot, pin)?;
        self.functions().init_pin(self.handle, pin.bytes())
    }

    /// Changes the PIN of who is logged in, or of the user (PKCS#11 3.1 `C_SetPIN`).
    ///
    /// # Errors
    /// [`Error::PinRefused`], after which the old PIN must not be tried again, or what the library
    /// says.
    pub fn set_pin(&self, old: &Pin, new: &Pin) -> Result<(), Error> {
        self.library.check_pad(self.slot, old)?;
        self.library.check_pad(self.slot, new)?;
        let state = self.info()?.state;
        let user = match state {
            ck::CKS_RW_SO_FUNCTIONS => User::SecurityOfficer,
            _ => User::User,
        };
        let result = self.functions().set_pin(self.handle, old.bytes(), new.bytes());
        result.map_err(|error| self.refused(error, old, user))
    }

    /// Fills `bytes` from the token's generator (PKCS#11 3.1 `C_GenerateRandom`).
    ///
    /// # Errors
    /// What the library says.
    pub fn random(&self, bytes: &mut [u8]) -> Result<(), Error> {
        self.functions().random(self.handle, bytes)
    }

    /// Signs `data` into `out`, which must have room for the longest signature: the bytes written
    /// (PKCS#11 3.1 `C_SignInit`, `C_Sign`).
    ///
    /// # Errors
    /// What the library says.
    pub fn sign(
        &self,
        mechanism: &Mechanism<'_>,
        key: u64,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        self.transform(Transform::Sign, mechanism, key, None, data, out)
    }

    /// [`Session::sign`] with a key that wants the PIN for each use (`CKA_ALWAYS_AUTHENTICATE`).
    ///
    /// # Errors
    /// [`Error::PinRefused`], after which the PIN must not be tried again, or what the library
    /// says.
    pub fn sign_with_pin(
        &self,
        mechanism: &Mechanism<'_>,
        key: u64,
        pin: &Pin,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        self.transform(Transform::Sign, mechanism, key, Some(pin), data, out)
    }

    /// Encrypts `data` into `out`: the bytes written (PKCS#11 3.1 `C_EncryptInit`, `C_Encrypt`).
    ///
    /// # Errors
    /// What the library says.
    pub fn encrypt(
        &self,
        mechanism: &Mechanism<'_>,
        key: u64,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        self.transform(Transform::Encrypt, mechanism, key, None, data, out)
    }

    /// Decrypts `data` into `out`: the bytes written (PKCS#11 3.1 `C_DecryptInit`, `C_Decrypt`).
    ///
    /// # Errors
    /// What the library says.
    pub fn decrypt(
        &self,
        mechanism: &Mechanism<'_>,
        key: u64,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        self.transform(Transform::Decrypt, mechanism, key, None, data, out)
    }

    /// [`Session::decrypt`] with a key that wants the PIN for each use
    /// (`CKA_ALWAYS_AUTHENTICATE`).
    ///
    /// # Errors
    /// [`Error::PinRefused`], after which the PIN must not be tried again, or what the library
    /// says.
    pub fn decrypt_with_pin(
        &self,
        mechanism: &Mechanism<'_>,
        key: u64,
        pin: &Pin,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        self.transform(Transform::Decrypt, mechanism, key, Some(pin), data, out)
    }

    /// Digests `data` into `out`: the bytes written (PKCS#11 3.1 `C_DigestInit`, `C_Digest`).
    ///
    /// # Errors
    /// What the library says.
    pub fn digest(
        &self,
        mechanism: &Mechanism<'_>,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        self.transform(Transform::Digest, mechanism, ck::CK_INVALID_HANDLE, None, data, out)
    }

    /// Whether the token takes `signature` for one of `data` (PKCS#11 3.1 `C_VerifyInit`,
    /// `C_Verify`).
    ///
    /// # Errors
    /// What the library says, but for "it is wrong".
    pub fn verify(
        &self,
        mechanism: &Mechanism<'_>,
        key: u64,
        data: &[u8],
        signature: &[u8],
    ) -> Result<bool, Error> {
        self.functions().start_verify(self.handle, mechanism, key)?;
        match self.functions().finish_verify(self.handle, data, signature) {
            Ok(()) => Ok(true),
            Err(Error::Call {
                rv: Rv(ck::CKR_SIGNATURE_INVALID | ck::CKR_SIGNATURE_LEN_RANGE),
                ..
            }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `Init`, the PIN if the key wants it, the length if the library wants to be asked, the call.
    fn transform(
        &self,
        transform: Transform,
        mechanism: &Mechanism<'_>,
        key: u64,
        pin: Option<&Pin>,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        self.functions().start(transform, self.handle, mechanism, key)?;
        // From here to the end of the last call an operation is under way; leaving in between
        // leaves it so, and there is no call of 2.40 that would end it.
        let was_spoiled = self.is_spoiled.replace(true);
        if let Some(pin) = pin {
            self.login_again(pin)?;
        }
        if self.style.get() == CallStyle::LengthFirst {
            self.functions().output_size(transform, self.handle, data, out.len())?;
        }
        let result = self.functions().finish(transform, self.handle, data, out);
        // PKCS#11 3.1, 5.2: too small a buffer does not end the operation; all else does.
        let is_under_way =
            matches!(result, Err(Error::Call { rv: Rv(ck::CKR_BUFFER_TOO_SMALL), .. }));
        self.is_spoiled.set(was_spoiled || is_under_way);
        result
    }

    /// Logs in for the operation under way (`CKU_CONTEXT_SPECIFIC`).
    fn login_again(&self, pin: &Pin) -> Result<(), Error> {
        let result = self.functions().login(self.handle, ck::CKU_CONTEXT_SPECIFIC, pin.bytes());
        result.map_err(|error| self.refused(error, pin, User::User))
    }

    fn tries_left(&self, user: User) -> Result<TriesLeft, Error> {
        let info = self.library.token_info(self.slot)?;
        Ok(match user {
            User::SecurityOfficer => info.officer_tries_left(),
            User::User => info.user_tries_left(),
        })
    }

    fn functions(&self) -> &Functions {
        self.library.functions()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.functions().close_session(self.handle);
    }
}

impl core::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter
            .debug_struct("Session")
            .field("generation", &self.library.generation())
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}
