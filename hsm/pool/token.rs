//! A token behind a PKCS#11 library, as the pool sees it.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Handles, Pool, Source};
use crate::pin::Pin;
use crate::pkcs11::{CallStyle, Library, Session, TokenInfo, Unload, User, codes as ck};
use crate::{CardIdentity, Error, ErrorClass};

/// A pool over PKCS#11.
pub type CardPool = Pool<TokenSource>;

/// How a configuration names a token. Slot numbers change from load to load on some libraries; a
/// serial number does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSelector {
    /// `CK_TOKEN_INFO.serialNumber`, without padding.
    Serial(String),
    /// `CK_TOKEN_INFO.label`, without padding.
    Label(String),
    /// The slot's number.
    Slot(u64),
}

impl core::fmt::Display for TokenSelector {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Serial(serial) => write!(formatter, "serial number {serial:?}"),
            Self::Label(label) => write!(formatter, "label {label:?}"),
            Self::Slot(slot) => write!(formatter, "slot {slot}"),
        }
    }
}

/// Which token, and how to talk to it.
#[derive(Clone, Debug)]
pub struct TokenOptions {
    /// The library.
    pub library: PathBuf,
    /// The token.
    pub token: TokenSelector,
    /// Whether sessions may change the token's objects.
    pub is_read_write: bool,
    /// How the library wants to be called.
    pub call_style: CallStyle,
    /// Whether the library may be taken out of memory.
    pub unload: Unload,
    /// Most sessions by the card's profile.
    pub sessions_max: Option<usize>,
}

/// A token behind a PKCS#11 library.
pub struct TokenSource {
    options: TokenOptions,
    pin: Option<Pin>,
}

/// A loaded library with the token's slot.
pub struct TokenConnection {
    library: Arc<Library>,
    slot: u64,
}

impl TokenSource {
    /// Nothing is loaded yet. Without a PIN nobody is logged in.
    #[must_use]
    pub const fn new(options: TokenOptions, pin: Option<Pin>) -> Self {
        Self { options, pin }
    }

    /// The PIN, for keys that want it at each use.
    pub(crate) const fn pin(&self) -> Option<&Pin> {
        self.pin.as_ref()
    }

    /// Loads the library once, to learn which card it is; nobody logs in.
    ///
    /// # Errors
    /// If library or token are not there.
    pub fn look(&self) -> Result<CardIdentity, Error> {
        let connection = self.connect()?;
        self.identity(&connection)
    }

    /// Loads the library and finds the token: the library, the slot, and which card it is. Nobody
    /// logs in.
    ///
    /// # Errors
    /// If library or token are not there.
    pub fn find(&self) -> Result<(Arc<Library>, u64, CardIdentity), Error> {
        let connection = self.connect()?;
        let identity = self.identity(&connection)?;
        Ok((connection.library, connection.slot, identity))
    }

    fn is_wanted(&self, slot: u64, info: &TokenInfo) -> bool {
        match &self.options.token {
            TokenSelector::Serial(serial) => *serial == info.serial,
            TokenSelector::Label(label) => *label == info.label,
            TokenSelector::Slot(number) => *number == slot,
        }
    }

    fn missing(&self, found: String) -> Error {
        Error::TokenMissing { wanted: self.options.token.to_string(), found }
    }
}

impl Source for TokenSource {
    type Connection = TokenConnection;
    type Session = Session;
    type Handles = Handles;

    fn connect(&self) -> Result<TokenConnection, Error> {
        let library = Library::load_with(&self.options.library, self.options.unload)?;
        let (mut wanted, mut found) = (Vec::new(), Vec::new());
        for slot in library.slots()? {
            // A slot whose token cannot be read must not hide the others.
            let info = match library.token_info(slot) {
                Ok(info) => info,
                Err(error) => {
                    found.push(format!("slot {slot} (unreadable: {error})"));
                    continue;
                }
            };
            if self.is_wanted(slot, &info) {
                wanted.push(slot);
            }
            found.push(format!("slot {slot} ({:?}, serial {:?})", info.label, info.serial));
        }
        match wanted.as_slice() {
            [slot] => Ok(TokenConnection { slot: *slot, library }),
            [] if found.is_empty() => Err(self.missing("no token at all".to_owned())),
            [] => Err(self.missing(found.join(", "))),
            many => Err(self.missing(format!("{} such tokens: {}", many.len(), found.join(", ")))),
        }
    }

    fn identity(&self, connection: &TokenConnection) -> Result<CardIdentity, Error> {
        let library = connection.library.info()?;
        let token = connection.library.token_info(connection.slot)?;
        Ok(CardIdentity {
            library_manufacturer: library.manufacturer,
            library_version: library.version,
            token_label: token.label,
            token_manufacturer: token.manufacturer,
            token_model: token.model,
            token_serial: token.serial,
            firmware_version: token.firmware_version,
            hardware_version: token.hardware_version,
        })
    }

    fn sessions_max(&self, connection: &TokenConnection) -> Result<Option<usize>, Error> {
        let token = connection.library.token_info(connection.slot)?;
        let write = token.write_sessions_max.filter(|_| self.options.is_read_write);
        let told = [token.sessions_max, write].into_iter().flatten();
        let told = told.map(|count| usize::try_from(count).unwrap_or(usize::MAX));
        Ok(told.chain(self.options.sessions_max).min())
    }

    fn generation(&self, connection: &TokenConnection) -> u64 {
        connection.library.generation()
    }

    fn open(&self, connection: &TokenConnection) -> Result<Session, Error> {
        let session =
            connection.library.open_session(connection.slot, self.options.is_read_write)?;
        session.set_call_style(self.options.call_style);
        Ok(session)
    }

    fn wants_login(&self) -> bool {
        self.pin.is_some()
    }

    fn is_logged_in(&self, session: &Session) -> Result<bool, Error> {
        let state = session.info()?.state;
        Ok(matches!(state, ck::CKS_RO_USER_FUNCTIONS | ck::CKS_RW_USER_FUNCTIONS))
    }

    fn touch(&self, session: &Session) -> Result<(), Error> {
        match session.random(&mut [0; 8]) {
            // A card without a generator has been asked, and is well.
            Err(error) if error.class() != ErrorClass::Permanent => Err(error),
            _ => Ok(()),
        }
    }

    fn login(&self, session: &Session) -> Result<(), Error> {
        self.pin.as_ref().map_or(Ok(()), |pin| session.login(User::User, pin))
    }

    fn is_spoiled(&self, session: &Session) -> bool {
        session.is_spoiled()
    }
}
