//! Placement: which cores a thread may run on.
//!
//! The config gives each tile's thread a [`CoreSet`]; an empty one means "not pinned", which is
//! what a laptop with more nodes than cores uses. Pinning to a core the process may not use fails,
//! and the node refuses to start rather than run where the operator did not put it.

use std::fmt;
use std::io;
use std::str::FromStr;

use crate::sys;

/// A set of logical cores, ascending and without duplicates; empty means "any core".
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CoreSet(Vec<usize>);

impl CoreSet {
    /// The set that pins nothing.
    #[must_use]
    pub const fn any() -> Self {
        Self(Vec::new())
    }

    /// A set of the cores given.
    #[must_use]
    pub fn new(cores: &[usize]) -> Self {
        let mut cores = cores.to_vec();
        cores.sort_unstable();
        cores.dedup();
        Self(cores)
    }

    /// The cores, ascending.
    #[must_use]
    pub fn cores(&self) -> &[usize] {
        &self.0
    }

    /// Whether the set pins nothing.
    #[must_use]
    pub const fn is_any(&self) -> bool {
        self.0.is_empty()
    }
}

/// A core list that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "core list {list:?}: expected numbers below {max} and ranges, as in \"0,2-5\"",
    max = sys::CORES_MAX
)]
pub struct CoreListError {
    /// The text that was given.
    pub list: String,
}

impl FromStr for CoreSet {
    type Err = CoreListError;

    /// Reads a core list as the kernel writes it, for example `0,2-5`; empty text pins nothing.
    fn from_str(list: &str) -> Result<Self, CoreListError> {
        let wrong = || CoreListError { list: list.to_owned() };
        let number = |text: &str| {
            let core = text.trim().parse::<usize>().map_err(|_| wrong())?;
            if core < sys::CORES_MAX { Ok(core) } else { Err(wrong()) }
        };
        if list.trim().is_empty() {
            return Ok(Self::any());
        }
        let mut cores = Vec::new();
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(wrong());
            }
            cores.extend(first..=last);
        }
        Ok(Self::new(&cores))
    }
}

impl fmt::Display for CoreSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() {
            return formatter.write_str("any");
        }
        for (index, core) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(formatter, "{comma}{core}")?;
        }
        Ok(())
    }
}

/// The cores the calling thread may run on.
///
/// # Errors
/// When the kernel has more cores than the mask holds.
pub fn available_cores() -> io::Result<CoreSet> {
    sys::affinity().map(CoreSet)
}

/// Restricts the calling thread to `cores`; does nothing for [`CoreSet::any`].
///
/// # Errors
/// When none of the cores is there or allowed.
pub fn pin_current_thread(cores: &CoreSet) -> io::Result<()> {
    if cores.is_any() { Ok(()) } else { sys::set_affinity(cores.cores()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists_are_read_and_refused() {
        let read = |list: &str| list.parse::<CoreSet>();
        assert_eq!(read("0,2-5").unwrap().cores(), &[0, 2, 3, 4, 5]);
        assert_eq!(read(" 3 , 1,3").unwrap().cores(), &[1, 3]);
        assert!(read("").unwrap().is_any());
        for wrong in ["x", "1,", "5-2", "1024", "0-1024", "-1", "1--2"] {
            assert_eq!(read(wrong).unwrap_err().list, wrong, "{wrong} was accepted");
        }
        assert_eq!(read("0,2-3").unwrap().to_string(), "0,2,3");
        assert_eq!(CoreSet::any().to_string(), "any");
    }

    #[test]
    fn a_pinned_thread_sees_one_core() {
        let last = *available_cores().unwrap().cores().last().unwrap();
        let pinned = std::thread::scope(|scope| {
            let run = || {
                pin_current_thread(&CoreSet::new(&[last])).unwrap();
                available_cores().unwrap()
            };
            scope.spawn(run).join().unwrap()
        });
        assert_eq!(pinned.cores(), &[last]);
        assert!(pin_current_thread(&CoreSet::new(&[sys::CORES_MAX])).is_err());
    }
}
