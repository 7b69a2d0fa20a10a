//! The C interface of PKCS#11 (2.20 to 3.x), and the only place that knows it.
//!
//! ```text
//! Library (dlopen, C_Initialize) --> Session (C_OpenSession) --> sign, find, generate, ...
//!     `-- functions: one safe function for each C function; lengths and counts are checked there
//! ```
//!
//! A [`Library`] is loaded once in a process and finalised when its last user is gone; a
//! [`Session`] keeps its library alive, so no handle outlives the load it belongs to. Nothing here
//! retries, waits or decides: that is the pool's. What a library answers is foreign: counts and
//! lengths are bounded before they are used, text is trimmed and escaped. What cannot be defended
//! against in the same process (a library that writes behind a buffer, crashes or hangs) is what
//! the agent process is for.

mod elf;
mod functions;
mod info;
mod library;
mod linker;
mod session;
mod template;

pub use info::{LibraryInfo, MechanismInfo, SessionInfo, SlotInfo, TokenInfo};
pub use library::Library;
pub use linker::Unload;
pub use session::{CallStyle, FOUND_MAX, Session, User};
pub use template::{
    ATTRIBUTE_BYTES_MAX, Attribute, AttributeValue, GcmParameter, Mechanism, Parameter,
};

/// Codes of mechanisms, attributes and flags that PKCS#11 names.
pub use cryptoki_sys as codes;
