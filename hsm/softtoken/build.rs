//! Binds the module's own functions to each other. Every PKCS#11 library exports the same names,
//! and a process may hold several: without this, our list could name another library's functions.

#![allow(clippy::print_stdout, reason = "this is how cargo is told")]

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic");
}
