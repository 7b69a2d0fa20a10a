//! Planted bugs: mistakes on purpose, by which the tests show that their oracles would notice.
//!
//! No build has any unless it is compiled with `--cfg hufu_planted_bug="name"`, which only the
//! tests' scripts do. With `hufu_planted_bug="by_choice"` beside several of them, one binary holds
//! all of them and [`choose`] says which one it has.

/// Whether this bug is planted here: `false`, and compiled away, in every build but those of the
/// tests' scripts.
#[macro_export]
macro_rules! planted {
    ($bug:literal) => {
        cfg!(hufu_planted_bug = $bug) && $crate::planted::is_chosen($bug)
    };
}

#[cfg(hufu_planted_bug = "by_choice")]
static CHOSEN: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// Says which bug this process has, once; `false` where the build leaves no choice.
#[cfg(hufu_planted_bug = "by_choice")]
#[doc(hidden)]
#[must_use]
pub fn choose(bug: &str) -> bool {
    CHOSEN.set(bug.to_owned()).is_ok()
}

/// Says which bug this process has, once; `false` where the build leaves no choice.
#[cfg(not(hufu_planted_bug = "by_choice"))]
#[doc(hidden)]
#[must_use]
pub const fn choose(_bug: &str) -> bool {
    false
}

/// Whether this bug is the one that is chosen, where several are compiled in.
#[cfg(hufu_planted_bug = "by_choice")]
#[doc(hidden)]
#[must_use]
pub fn is_chosen(bug: &str) -> bool {
    CHOSEN.get().is_some_and(|chosen| chosen == bug)
}

/// Whether this bug is the one that is chosen: the only one compiled in is.
#[cfg(not(hufu_planted_bug = "by_choice"))]
#[doc(hidden)]
#[must_use]
pub const fn is_chosen(bug: &str) -> bool {
    !bug.is_empty()
}
