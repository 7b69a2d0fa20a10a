//! What the pool needs of a token. The rules of the pool are written over this, so that they are
//! tested with failures in any order, and run over PKCS#11.

use std::sync::{Condvar, MutexGuard, PoisonError};
use std::time::Duration;

use hufu_runtime::clock::{Nanos, monotonic};

use crate::{CardIdentity, Error};

/// A token that can be reached, lost and reached again.
pub trait Source: Send + Sync {
    /// A loaded library with its token found. Sessions keep what they need of it alive; when it and
    /// all its sessions are gone, the library is finalised.
    type Connection: Send + Sync;
    /// A session, used by one thread at a time.
    type Session: Send;
    /// What is remembered of the token's objects. It is made anew whenever handles may have lost
    /// their meaning.
    type Handles: Default + Send + Sync;

    /// Loads the library and finds the token.
    ///
    /// # Errors
    /// If either is not there.
    fn connect(&self) -> Result<Self::Connection, Error>;

    /// Which card it is.
    ///
    /// # Errors
    /// What the card says.
    fn identity(&self, connection: &Self::Connection) -> Result<CardIdentity, Error>;

    /// Most sessions that the token allows, where it tells.
    ///
    /// # Errors
    /// What the card says.
    fn sessions_max(&self, connection: &Self::Connection) -> Result<Option<usize>, Error>;

    /// Which load of the library it is.
    fn generation(&self, connection: &Self::Connection) -> u64;

    /// Opens a session.
    ///
    /// # Errors
    /// What the card says.
    fn open(&self, connection: &Self::Connection) -> Result<Self::Session, Error>;

    /// Whether sessions of this token must be logged in.
    fn wants_login(&self) -> bool;

    /// Whether the token takes this process for logged in.
    ///
    /// # Errors
    /// What the card says.
    fn is_logged_in(&self, session: &Self::Session) -> Result<bool, Error>;

    /// Makes the card itself do something small, where a library answers questions about its
    /// sessions without asking it.
    ///
    /// # Errors
    /// What the card says.
    fn touch(&self, session: &Self::Session) -> Result<(), Error> {
        let _: &Self::Session = session;
        Ok(())
    }

    /// Logs in, with the one attempt that this is.
    ///
    /// # Errors
    /// [`Error::PinRefused`], after which it is not called again, or what the card says.
    fn login(&self, session: &Self::Session) -> Result<(), Error>;

    /// Whether the session is better closed than used again.
    fn is_spoiled(&self, session: &Self::Session) -> bool;

    /// The time.
    fn now(&self) -> Nanos {
        monotonic()
    }

    /// Waits until `condition` is notified or `timeout` has passed.
    fn wait<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        condition: &Condvar,
        timeout: Duration,
    ) -> MutexGuard<'a, T> {
        condition.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0
    }
}
