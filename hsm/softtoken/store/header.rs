//! The token file: who the token is, its PINs as wrapped keys, and the counters of wrong PINs.
//!
//! A checksum finds accidents. Who can write the file can set a counter back, as on any disk: what
//! then still stands between him and the key is the derivation from the PIN.

use hufu_crypto::{Backend, Sm3, Sm4Key, cipher, entropy};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::Zeroizing;

use super::{StoreError, TokenKey, pin};
use crate::config::{PIN_ROUNDS, PIN_TRIES};

const MAGIC: [u8; 8] = *b"HUFUTOK1";

/// Fewest and most bytes of a PIN.
pub(crate) const PIN_BYTES: std::ops::RangeInclusive<usize> = 4..=64;

/// Whose PIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// The security officer, who sets the user's PIN.
    So,
    /// The user, who uses keys.
    Normal,
}

/// One PIN: the token's key wrapped by the key that follows from the PIN.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Pin {
    /// 1 if it is set.
    is_set: u8,
    /// Wrong attempts since the last right one.
    failures_count: U32,
    tries_max: U32,
    rounds: U32,
    salt: [u8; 16],
    nonce: [u8; 12],
    wrapped: [u8; 16],
    tag: [u8; 16],
}

/// The whole file.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    magic: [u8; 8],
    /// 0 before the first `C_InitToken`; then [`UNSETTLED`] until the objects of the life before
    /// are gone, and [`SETTLED`].
    life_state: u8,
    serial: [u8; 16],
    label: [u8; 32],
    /// Drawn anew by each `C_InitToken`: what was sealed in another life opens no more.
    life: [u8; 16],
    public_key: [u8; 16],
    so: Pin,
    user: Pin,
    checksum: [u8; 32],
}

/// Initialised, and nothing is left to do.
const SETTLED: u8 = 1;
/// Initialised, and objects of the life before may still be there.
const UNSETTLED: u8 = 2;

const CHECKED_SIZE: usize = size_of::<Header>() - 32;

/// What came of an attempt at a PIN.
pub(crate) enum Attempt {
    /// It is right.
    Right(TokenKey),
    /// It is wrong.
    Wrong,
    /// No attempt is left, or was.
    Locked,
    /// There is none.
    Unset,
}

/// How near a PIN is to being locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tries {
    pub(crate) is_set: bool,
    /// A wrong one was tried since the last right one.
    pub(crate) is_low: bool,
    /// One attempt is left.
    pub(crate) is_last: bool,
    /// None is.
    pub(crate) is_locked: bool,
}

impl Pin {
    const UNSET: Self = Self {
        is_set: 0,
        failures_count: U32::ZERO,
        tries_max: U32::ZERO,
        rounds: U32::ZERO,
        salt: [0; 16],
        nonce: [0; 12],
        wrapped: [0; 16],
        tag: [0; 16],
    };

    fn new(
        pin: &[u8],
        key: &TokenKey,
        bound: &[u8],
        rounds: u32,
        tries_max: u32,
    ) -> Result<Self, StoreError> {
        let mut made = Self { is_set: 1, ..Self::UNSET };
        (made.rounds, made.tries_max) = (rounds.into(), tries_max.into());
        entropy::fill(&mut made.salt)?;
        entropy::fill(&mut made.nonce)?;
        let wrapping = Sm4Key::from_bytes(&pin::derive(pin, &made.salt, rounds));
        made.wrapped = *key.0;
        made.tag =
            cipher::gcm_seal(Backend::best(), &wrapping, &made.nonce, bound, &mut made.wrapped)?;
        Ok(made)
    }

    fn open(&self, pin: &[u8], bound: &[u8]) -> Option<TokenKey> {
        let wrapping = Sm4Key::from_bytes(&pin::derive(pin, &self.salt, self.rounds.get()));
        let mut key = Zeroizing::new(self.wrapped);
        cipher::gcm_open(Backend::best(), &wrapping, &self.nonce, bound, &mut *key, &self.tag)
            .ok()?;
        Some(TokenKey(key))
    }

    /// Whether it is in the ranges of what is written. A checksum is soon made: who can write here
    /// shall not make a login last for hours.
    fn is_possible(&self) -> bool {
        let is_unset = self.is_set == 0;
        let rounds = (1..=*PIN_ROUNDS.end()).contains(&self.rounds.get());
        is_unset || self.is_set == 1 && rounds && PIN_TRIES.contains(&self.tries_max.get())
    }

    fn tries(&self) -> Tries {
        let (failures, max) = (self.failures_count.get(), self.tries_max.get());
        let is_set = self.is_set == 1;
        Tries {
            is_set,
            is_low: is_set && failures > 0,
            is_last: is_set && failures.checked_add(1) == Some(max),
            is_locked: is_set && failures >= max,
        }
    }
}

impl Header {
    /// A token that is not initialised, with the serial number it keeps.
    pub(super) fn blank(serial_start: &str) -> Result<Self, StoreError> {
        let mut drawn = [0; 8];
        entropy::fill(&mut drawn)?;
        let text = format!("{serial_start}{:016X}", u64::from_le_bytes(drawn));
        let mut serial = [b' '; 16];
        for (place, byte) in serial.iter_mut().zip(text.bytes()) {
            *place = byte;
        }
        let mut public_key = [0; 16];
        entropy::fill(&mut public_key)?;
        Ok(Self {
            magic: MAGIC,
            life_state: 0,
            serial,
            label: [b' '; 32],
            life: [0; 16],
            public_key,
            so: Pin::UNSET,
            user: Pin::UNSET,
            checksum: [0; 32],
        })
    }

    /// The same token in a new life: other keys, this label, this PIN of the SO, none of the user.
    /// The objects of the old life are still to be removed.
    pub(crate) fn initialised(
        &self,
        label: [u8; 32],
        so_pin: &[u8],
        rounds: u32,
        tries_max: u32,
    ) -> Result<Self, StoreError> {
        let mut made = *self;
        (made.life_state, made.label, made.user) = (UNSETTLED, label, Pin::UNSET);
        entropy::fill(&mut made.life)?;
        entropy::fill(&mut made.public_key)?;
        let key = TokenKey::new()?;
        made.so = Pin::new(so_pin, &key, &made.bound(User::So), rounds, tries_max)?;
        Ok(made)
    }

    /// Sets a PIN of a token whose key is known.
    pub(crate) fn set_pin(
        &mut self,
        user: User,
        pin: &[u8],
        key: &TokenKey,
        rounds: u32,
        tries_max: u32,
    ) -> Result<(), StoreError> {
        *self.pin_mut(user) = Pin::new(pin, key, &self.bound(user), rounds, tries_max)?;
        Ok(())
    }

    /// Tries a PIN. The attempt counts before it is known to be wrong: `write` makes the counter
    /// durable first, so that nobody gets attempts for free by pulling the plug.
    pub(crate) fn attempt(
        &mut self,
        user: User,
        pin: &[u8],
        mut write: impl FnMut(&Self) -> Result<(), StoreError>,
    ) -> Result<Attempt, StoreError> {
        let tries = self.tries(user);
        if !tries.is_set {
            return Ok(Attempt::Unset);
        }
        if tries.is_locked {
            return Ok(Attempt::Locked);
        }
        let bound = self.bound(user);
        let failures = self.pin(user).failures_count.get();
        self.count(user, failures.saturating_add(1), &mut write)?;
        let Some(key) = self.pin(user).open(pin, &bound) else {
            let locked = self.tries(user).is_locked;
            return Ok(if locked { Attempt::Locked } else { Attempt::Wrong });
        };
        self.count(user, 0, &mut write)?;
        Ok(Attempt::Right(key))
    }

    /// Sets a counter, on disk first: here it never says what was not written.
    fn count(
        &mut self,
        user: User,
        failures: u32,
        write: &mut impl FnMut(&Self) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut counted = *self;
        counted.pin_mut(user).failures_count = failures.into();
        write(&counted)?;
        *self = counted;
        Ok(())
    }

    /// How near a PIN is to being locked.
    pub(crate) fn tries(&self, user: User) -> Tries {
        self.pin(user).tries()
    }

    /// Whether `C_InitToken` was called.
    pub(crate) const fn is_initialised(&self) -> bool {
        matches!(self.life_state, SETTLED | UNSETTLED)
    }

    /// Whether no object of the life before is there.
    pub(super) const fn is_settled(&self) -> bool {
        self.life_state != UNSETTLED
    }

    /// As it is when the objects of the life before are gone.
    pub(super) const fn settled(mut self) -> Self {
        self.life_state = SETTLED;
        self
    }

    pub(crate) const fn serial(&self) -> &[u8; 16] {
        &self.serial
    }

    pub(crate) const fn label(&self) -> &[u8; 32] {
        &self.label
    }

    /// What differs between two lives of a token.
    pub(crate) const fn life(&self) -> &[u8; 16] {
        &self.life
    }

    /// The key that public objects are sealed with.
    pub(crate) fn public_key(&self) -> TokenKey {
        TokenKey(Zeroizing::new(self.public_key))
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.as_bytes().to_vec();
        let sum = Sm3::of(&[&bytes[..CHECKED_SIZE]]);
        bytes[CHECKED_SIZE..].copy_from_slice(&sum.0);
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        let header = Self::read_from_bytes(bytes).map_err(|_| "the token file has a wrong size")?;
        if header.magic != MAGIC {
            return Err("this is no token file of this version");
        }
        if Sm3::of(&[&bytes[..CHECKED_SIZE]]).0 != header.checksum {
            return Err("the token file was changed or not wholly written");
        }
        let pins = [&header.so, &header.user];
        if header.life_state > UNSETTLED || !pins.into_iter().all(Pin::is_possible) {
            return Err("the token file has values that are never written");
        }
        Ok(header)
    }

    const fn pin(&self, user: User) -> &Pin {
        match user {
            User::So => &self.so,
            User::Normal => &self.user,
        }
    }

    const fn pin_mut(&mut self, user: User) -> &mut Pin {
        match user {
            User::So => &mut self.so,
            User::Normal => &mut self.user,
        }
    }

    /// What a wrapped key is bound to: this life, this user.
    fn bound(&self, user: User) -> [u8; 17] {
        let mut bytes = [u8::from(user == User::So); 17];
        bytes[..16].copy_from_slice(&self.life);
        bytes
    }
}
