//! The C interface: what a client finds when it loads the library.
//!
//! ```text
//! client --C_GetFunctionList--> lists --> general, slots, sessions, objects, crypto, keys
//!                                            | memory: pointers and lengths looked at, copied
//!                                            v
//!                                         Module
//! ```
//!
//! Every function catches unwinding, because beyond it are frames of C. Whether a pointer points to
//! what it should is the client's word; that it is not NULL, is aligned and has a possible length
//! is checked.
//!
//! The functions are exported by their names too: some clients look each of them up instead of the
//! list.
//!
//! A process that forked has no module: its child initialises one of its own (PKCS#11 2.40 6.6.1).

mod crypto;
mod general;
mod keys;
mod lists;
mod memory;
mod objects;
mod sessions;
mod slots;
mod unsupported;

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicPtr, Ordering};

use cryptoki_sys::*;

use crate::answer::Answer;
use crate::config::Config;
use crate::module::Module;

/// A module and the process that initialised it.
struct Running {
    module: Module,
    config: Config,
    process: u32,
}

/// What is initialised; NULL after `C_Finalize`.
///
/// Neither a lock nor a count stands before it: a fork while another thread held one would leave
/// the child without. So what is behind it is never freed; [`LAST`] is used again instead.
static CURRENT: AtomicPtr<Running> = AtomicPtr::new(std::ptr::null_mut());
/// What was initialised last.
static LAST: AtomicPtr<Running> = AtomicPtr::new(std::ptr::null_mut());

/// Calls, and answers with a return value whatever happens.
fn guard(call: impl FnOnce() -> Answer<()>) -> CK_RV {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => CKR_OK,
        Ok(Err(refused)) => refused,
        Err(_) => CKR_GENERAL_ERROR,
    }
}

/// As [`guard`], with the module of this process.
fn with_module(call: impl FnOnce(&'static Module) -> Answer<()>) -> CK_RV {
    guard(|| call(&running(&CURRENT).ok_or(CKR_CRYPTOKI_NOT_INITIALIZED)?.module))
}

/// As [`with_module`], for a function that makes an object and gives its handle.
///
/// # Safety
/// The client's word.
unsafe fn with_handle(
    place: *mut CK_OBJECT_HANDLE,
    make: impl FnOnce(&Module) -> Answer<CK_OBJECT_HANDLE>,
) -> CK_RV {
    with_module(|module| {
        // Looked at first: nothing is made whose handle nobody can have.
        memory::check(place)?;
        let handle = make(module)?;
        // SAFETY: the client's word, which is our caller's.
        unsafe { memory::write(place, handle) }
    })
}

/// What is there, if it is this process's.
fn running(place: &AtomicPtr<Running>) -> Option<&'static Running> {
    let found = place.load(Ordering::Acquire);
    // SAFETY: NULL, or from `Box::leak` and never freed.
    let found = unsafe { found.as_ref() };
    found.filter(|running| running.process == std::process::id())
}

/// Makes the configuration's module current.
fn start(config: Config) -> Answer<()> {
    if running(&CURRENT).is_some() {
        return Err(CKR_CRYPTOKI_ALREADY_INITIALIZED);
    }
    let before = CURRENT.load(Ordering::Acquire);
    let again = running(&LAST).filter(|last| last.config == config);
    let next: *const Running = match again {
        Some(last) => last,
        None => {
            let opened = Module::open(config.clone()).map_err(|error| {
                crate::config::complain(&error.to_string());
                CKR_GENERAL_ERROR
            })?;
            let process = std::process::id();
            Box::leak(Box::new(Running { module: opened, config, process }))
        }
    };
    let next = next.cast_mut();
    CURRENT
        .compare_exchange(before, next, Ordering::AcqRel, Ordering::Acquire)
        .map_err(|_| CKR_CRYPTOKI_ALREADY_INITIALIZED)?;
    if let Some(last) = again {
        last.module.reopen();
    }
    LAST.store(next, Ordering::Release);
    Ok(())
}

/// Ends what is current.
fn stop() -> Answer<()> {
    let current = running(&CURRENT).ok_or(CKR_CRYPTOKI_NOT_INITIALIZED)?;
    let place = std::ptr::from_ref(current).cast_mut();
    CURRENT
        .compare_exchange(place, std::ptr::null_mut(), Ordering::AcqRel, Ordering::Acquire)
        .map_err(|_| CKR_CRYPTOKI_NOT_INITIALIZED)?;
    current.module.shut();
    Ok(())
}
