//! Tokens begun anew, PINs set, users logged in and out.

use cryptoki_sys::*;

use super::{Slot, State};
use crate::answer::{Answer, locked};
use crate::session::Session;
use crate::store::TokenKey;
use crate::store::header::{Attempt, PIN_BYTES, User};

fn check_new_pin(pin: &[u8]) -> Answer<()> {
    if PIN_BYTES.contains(&pin.len()) { Ok(()) } else { Err(CKR_PIN_LEN_RANGE) }
}

impl Slot {
    /// Tries a PIN of an initialised token; the counter is durable before the answer is known.
    fn try_pin(&self, state: &mut State, user: User, pin: &[u8]) -> Answer<TokenKey> {
        let mut header = *Self::header(state)?;
        let attempt = self.alter(state, |store, state| {
            let attempt = header.attempt(user, pin, |header| store.write_header(header));
            state.header = Some(header);
            attempt
        })?;
        match attempt {
            Attempt::Right(key) => Ok(key),
            Attempt::Wrong => Err(CKR_PIN_INCORRECT),
            Attempt::Locked => Err(CKR_PIN_LOCKED),
            Attempt::Unset => Err(CKR_USER_PIN_NOT_INITIALIZED),
        }
    }

    /// `C_InitToken`: all objects go, and so does the user's PIN. A token that was initialised
    /// before wants the SO's PIN.
    ///
    /// # Errors
    /// As `C_InitToken`.
    pub(crate) fn init_token(&self, so_pin: &[u8], label: [u8; 32]) -> Answer<()> {
        let (mut state, _lock) = self.enter_to_write()?;
        if !state.sessions.is_empty() {
            return Err(CKR_SESSION_EXISTS);
        }
        let is_initialised =
            state.header.as_ref().ok_or(CKR_TOKEN_NOT_RECOGNIZED)?.is_initialised();
        if is_initialised {
            self.try_pin(&mut state, User::So, so_pin)?;
        } else {
            check_new_pin(so_pin)?;
        }
        let header = state.header.ok_or(CKR_TOKEN_NOT_RECOGNIZED)?;
        let (rounds, tries_max) = (self.shared.config.pin_rounds, self.shared.config.pin_tries_max);
        // All that is known is of the old life; what follows is read from the disk.
        self.alter(&mut state, |store, state| {
            self.forget(state);
            store.begin_life(header.initialised(label, so_pin, rounds, tries_max)?)
        })?;
        Ok(())
    }

    /// `C_InitPIN`: the SO sets the user's PIN.
    ///
    /// # Errors
    /// As `C_InitPIN`.
    pub(crate) fn init_pin(&self, pin: &[u8]) -> Answer<()> {
        let (mut state, _lock) = self.enter_to_write()?;
        let Some((User::So, key)) = &state.login else { return Err(CKR_USER_NOT_LOGGED_IN) };
        let key = key.clone();
        check_new_pin(pin)?;
        self.set_new_pin(&mut state, User::Normal, pin, &key)
    }

    /// `C_SetPIN`: whoever is logged in changes the own PIN, and nobody that of the user.
    ///
    /// # Errors
    /// As `C_SetPIN`.
    pub(crate) fn set_pin(&self, session: &Session, old: &[u8], new: &[u8]) -> Answer<()> {
        let (mut state, _lock) = self.enter_session(session)?;
        if !session.is_rw {
            return Err(CKR_SESSION_READ_ONLY);
        }
        let user = state.login.as_ref().map_or(User::Normal, |(user, _)| *user);
        check_new_pin(new)?;
        let key = self.try_pin(&mut state, user, old)?;
        self.set_new_pin(&mut state, user, new, &key)
    }

    fn set_new_pin(&self, state: &mut State, user: User, pin: &[u8], key: &TokenKey) -> Answer<()> {
        let (rounds, tries_max) = (self.shared.config.pin_rounds, self.shared.config.pin_tries_max);
        let mut header = *Self::header(state)?;
        self.alter(state, |store, state| {
            header.set_pin(user, pin, key, rounds, tries_max)?;
            store.write_header(&header)?;
            state.header = Some(header);
            Ok(())
        })
    }

    /// `C_Login` of SO or user.
    ///
    /// # Errors
    /// As `C_Login`.
    pub(crate) fn login(&self, session: &Session, user: User, pin: &[u8]) -> Answer<()> {
        let (mut state, _lock) = self.enter_session(session)?;
        match &state.login {
            Some((there, _)) if *there == user => return Err(CKR_USER_ALREADY_LOGGED_IN),
            Some(_) => return Err(CKR_USER_ANOTHER_ALREADY_LOGGED_IN),
            None => {}
        }
        if user == User::So && state.sessions.values().any(|session| !session.is_rw) {
            return Err(CKR_SESSION_READ_ONLY_EXISTS);
        }
        let key = self.try_pin(&mut state, user, pin)?;
        state.login = Some((user, key));
        if let Err(refused) = self.reload_objects(&mut state) {
            self.log_out(&mut state);
            return Err(refused);
        }
        Ok(())
    }

    /// `C_Login` for one operation: the user's PIN once more. If that locks it, the user is logged
    /// out.
    ///
    /// # Errors
    /// As `C_Login`; `CKR_OPERATION_NOT_INITIALIZED`, and no attempt, if none waits for it.
    pub(crate) fn authenticate(&self, session: &Session, pin: &[u8]) -> Answer<()> {
        // Operations are locked before slots, never after.
        if !locked(&session.operations).wait_for_login(self.epoch()) {
            return Err(CKR_OPERATION_NOT_INITIALIZED);
        }
        let (mut state, lock) = self.enter_session(session)?;
        if !state.is_user() {
            return Err(CKR_USER_NOT_LOGGED_IN);
        }
        if let Err(refused) = self.try_pin(&mut state, User::Normal, pin) {
            if refused == CKR_PIN_LOCKED {
                self.log_out(&mut state);
            }
            return Err(refused);
        }
        drop((state, lock));
        locked(&session.operations).authenticate();
        Ok(())
    }

    /// `C_Logout`.
    ///
    /// # Errors
    /// `CKR_USER_NOT_LOGGED_IN`.
    pub(crate) fn logout(&self) -> Answer<()> {
        let mut state = self.enter()?;
        if state.login.is_none() {
            return Err(CKR_USER_NOT_LOGGED_IN);
        }
        self.log_out(&mut state);
        Ok(())
    }
}
