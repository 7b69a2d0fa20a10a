//! Planted bugs: mistakes on purpose, by which the tests show that their oracles would notice.
//!
//! No build has any unless it is compiled with `--cfg hufu_planted_bug="name"`, which only the
//! tests' scripts do. With `hufu_planted_bug="by_choice"` beside several of them, one binary holds
//! all of them and the environment variable `HUFU_PLANTED_BUG` names the one that it has.

/// Whether this bug is planted here: `false`, and compiled away, in every build but those of the
/// tests' scripts.
#[macro_export]
macro_rules! planted {
    ($bug:literal) => {
        cfg!(hufu_planted_bug = $bug) && $crate::planted::is_chosen($bug)
    };
}

/// Whether this bug is the one that is chosen, where several are compiled in.
#[cfg(hufu_planted_bug = "by_choice")]
#[doc(hidden)]
#[must_use]
pub fn is_chosen(bug: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var("HUFU_PLANTED_BUG").unwrap_or_default());
    chosen == bug
}

/// Whether this bug is the one that is chosen: the only one compiled in is.
#[cfg(not(hufu_planted_bug = "by_choice"))]
#[doc(hidden)]
#[must_use]
pub const fn is_chosen(bug: &str) -> bool {
    !bug.is_empty()
}
