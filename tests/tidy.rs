//! Rules of the repository as tests: architecture, style and honesty of the documents.
//!
//! It reads manifests and sources as text, so it needs no build of what it judges and runs in a
//! second. Every rule reports all it finds with file, line and how to mend it, and every rule has a
//! test that it finds a bad example. The tables of the architecture are in `tidy/floors.rs` and
//! `tidy/sources.rs`.

#[cfg(test)]
#[path = "tidy/documents.rs"]
mod documents;
#[cfg(test)]
#[path = "tidy/floors.rs"]
mod floors;
#[cfg(test)]
#[path = "tidy/lexer.rs"]
mod lexer;
#[cfg(test)]
#[path = "tidy/repository.rs"]
mod repository;
#[cfg(test)]
#[path = "tidy/sources.rs"]
mod sources;

/// One test for each rule: it holds in this repository.
macro_rules! rules {
    ($($module:ident: $($rule:ident),+ $(,)?;)+) => {
        #[cfg(test)]
        mod rules {
            use crate::repository::{Repository, report};

            $($(
                #[test]
                fn $rule() {
                    report(stringify!($rule), &crate::$module::$rule(&Repository::here()));
                }
            )+)+
        }
    };
}

rules! {
    floors:
        members_in_floor_order,
        edges_only_go_down,
        rule_crates_use_listed_packages,
        packages_stay_at_home,
        manifests_inherit,
        root_manifest_is_sound;
    sources:
        unsafe_is_forbidden,
        unsafe_is_listed,
        unsafe_list_is_true,
        rules_do_no_io,
        entropy_has_one_home,
        files_are_short,
        lines_are_short,
        nothing_is_unfinished,
        ignored_tests_have_owners,
        allowed_lints_have_reasons,
        nothing_retries_tests,
        no_registry_is_named,
        names_say_something,
        modules_are_introduced;
    documents:
        crates_have_readmes,
        named_paths_exist,
        named_targets_exist;
}
