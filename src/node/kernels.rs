//! Which back end of the kernels this process computes with: `HUFU_KERNELS`, or the best there is.
//!
//! ```text
//! HUFU_KERNELS --choose, once, before anything computes--> backend() --> provider()
//! ```
//!
//! Every back end gives the same answers, so the choice is about speed, and about proving that it
//! is: tests and engineers force one. An unknown name is a fault and never the default in disguise.

use std::ffi::OsStr;
use std::sync::OnceLock;

use hufu_crypto::{Backend, Provider, software_provider_on, software_provider_with};
use hufu_types::codec::index;

/// The environment variable that forces a back end.
pub const VARIABLE: &str = "HUFU_KERNELS";

/// The names of all back ends there are, narrowest first.
const NAMES: [&str; 3] = ["portable", "avx2", "avx512"];

static CHOSEN: OnceLock<Backend> = OnceLock::new();

/// `HUFU_KERNELS` names no back end that this CPU can run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelsError {
    /// There is no back end of this name.
    #[error("{VARIABLE}={name}: no such back end, this CPU has {available}")]
    Unknown {
        /// What the variable says.
        name: String,
        /// What this CPU has.
        available: String,
    },
    /// The CPU lacks its instructions.
    #[error("{VARIABLE}={name}: this CPU cannot run it, it has {available}")]
    Unsupported {
        /// What the variable says.
        name: String,
        /// What this CPU has.
        available: String,
    },
}

impl KernelsError {
    /// What an operator does about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        "name one of these, or unset the variable for the fastest"
    }
}

/// The back ends this CPU can run, narrowest first.
#[must_use]
pub fn available() -> Vec<Backend> {
    NAMES.into_iter().filter_map(Backend::named).collect()
}

/// Whether the environment forces a back end.
#[must_use]
pub fn is_forced() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Reads the choice from the environment, for the life of the process; only the first call counts.
///
/// # Errors
/// If the variable names no back end, or one this CPU cannot run.
pub fn choose() -> Result<Backend, KernelsError> {
    let wanted = std::env::var_os(VARIABLE);
    let chosen = pick(wanted.as_deref(), &available())?;
    Ok(*CHOSEN.get_or_init(|| chosen))
}

/// The back end of this process: the one chosen, or the best where nobody chose.
#[must_use]
pub fn backend() -> Backend {
    CHOSEN.get().copied().unwrap_or_else(Backend::best)
}

/// The provider of this process, on its back end.
#[must_use]
pub fn provider() -> Provider {
    software_provider_on(backend())
}

/// As [`provider`], with a cache of so many public keys that come again.
#[must_use]
pub fn provider_knowing(keys_max: u32) -> Provider {
    software_provider_with(backend(), index(keys_max))
}

/// The back end of this name among `available`; the last of them without a name.
fn pick(wanted: Option<&OsStr>, available: &[Backend]) -> Result<Backend, KernelsError> {
    let Some(wanted) = wanted else {
        return Ok(available.last().copied().unwrap_or(Backend::PORTABLE));
    };
    let found = available.iter().find(|backend| *wanted == *backend.name());
    found.copied().ok_or_else(|| {
        let names: Vec<&str> = available.iter().map(|backend| backend.name()).collect();
        let (name, available) = (wanted.display().to_string(), names.join(", "));
        if NAMES.contains(&name.as_str()) {
            KernelsError::Unsupported { name, available }
        } else {
            KernelsError::Unknown { name, available }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_forces_its_back_end_and_none_the_best() {
        let available = available();
        assert_eq!(pick(None, &available), Ok(Backend::best()));
        for backend in &available {
            assert_eq!(pick(Some(OsStr::new(backend.name())), &available), Ok(*backend));
        }
    }

    #[test]
    fn other_names_are_refused_and_say_what_there_is() {
        let narrow = [Backend::PORTABLE];
        for name in ["", "neon", "AVX2", "avx512 "] {
            let refused = pick(Some(OsStr::new(name)), &narrow).unwrap_err();
            assert!(matches!(refused, KernelsError::Unknown { .. }), "{refused}");
            assert!(refused.to_string().ends_with("this CPU has portable"), "{refused}");
        }
        let refused = pick(Some(OsStr::new("avx512")), &narrow).unwrap_err();
        assert!(matches!(refused, KernelsError::Unsupported { .. }), "{refused}");
        assert!(refused.to_string().contains("avx512") && refused.to_string().contains("portable"));
    }
}
