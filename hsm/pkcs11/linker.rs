//! Loads a library into the process and takes its list of functions.

use std::path::Path;

use cryptoki_sys as ck;
use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW, Symbol};

use super::functions::{Functions, check};
use crate::Error;

/// A library in memory, with its functions; it is taken out of memory when dropped.
pub(super) struct Linked {
    pub(super) functions: Functions,
    /// Keeps the code of `functions` mapped.
    handle: Option<Handle>,
}

impl Linked {
    /// Leaves the code in memory for good, for a library of which threads may still run.
    pub(super) fn keep_mapped(&mut self) {
        self.handle.take().map(Handle::into_raw);
    }
}

/// What happens to a library's code when its last user has left and it is finalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unload {
    /// It is taken out of memory, so that the next load starts from nothing.
    #[default]
    Unmap,
    /// It stays in memory, for libraries whose own threads outlive `C_Finalize`.
    KeepMapped,
}

type GetFunctionList = unsafe extern "C" fn(*mut *mut ck::CK_FUNCTION_LIST) -> ck::CK_RV;
type GetInterface = unsafe extern "C" fn(
    *mut ck::CK_UTF8CHAR,
    *mut ck::CK_VERSION,
    *mut *mut ck::CK_INTERFACE,
    ck::CK_FLAGS,
) -> ck::CK_RV;

/// Maps the library and checks its list of functions; nothing of PKCS#11 is initialised.
pub(super) fn link(path: &Path, unload: Unload) -> Result<Linked, Error> {
    let load = |cause: String| Error::LibraryLoad { path: path.to_owned(), cause };
    let unusable = |reason: String| Error::LibraryUnusable { path: path.to_owned(), reason };
    let keep = match unload {
        Unload::Unmap => 0,
        Unload::KeepMapped => libc::RTLD_NODELETE,
    };
    if let Some(why) = super::elf::unloadable(path) {
        return Err(load(why));
    }
    let flags = RTLD_NOW | RTLD_LOCAL | keep;
    // SAFETY: running a library's constructors is what the operator asks for by naming it; that it
    // behaves is the operator's to know, and what the agent process shields the node from.
    let handle = unsafe { Handle::open(Some(path), flags) };
    let handle = handle.map_err(|error| {
        let told = escaped(&error);
        load(
            super::elf::mismatch(path)
                .map_or_else(|| told.clone(), |why| format!("{why} ({told})")),
        )
    })?;
    let list = match list_of_interface(&handle) {
        Some(list) => list,
        None => list_of_functions(&handle).map_err(unusable)?,
    };
    let functions = Functions::new(list).map_err(unusable)?;
    Ok(Linked { functions, handle: Some(handle) })
}

/// What the dynamic linker said, on one line.
fn escaped(error: &libloading::Error) -> String {
    let source = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
    let text = if source.is_empty() { error.to_string() } else { source };
    text.chars().map(|one| if one.is_control() { ' ' } else { one }).collect()
}

/// PKCS#11 3.0, 5.4.7: the default interface by its name. A library that has the function and gives
/// nothing usable is asked the old way.
fn list_of_interface(handle: &Handle) -> Option<ck::CK_FUNCTION_LIST> {
    // SAFETY: the type is the one PKCS#11 gives the symbol of this name.
    let symbol: Symbol<GetInterface> = unsafe { handle.get(b"C_GetInterface\0") }.ok()?;
    let mut name = *b"PKCS 11\0";
    let mut interface: *mut ck::CK_INTERFACE = std::ptr::null_mut();
    let any_version = std::ptr::null_mut();
    // SAFETY: the name ends in zero, no version means the library's default, and the place for the
    // answer is on this stack.
    let rv = unsafe { symbol(name.as_mut_ptr(), any_version, &raw mut interface, 0) };
    check("C_GetInterface", rv).ok()?;
    if interface.is_null() || !interface.is_aligned() {
        return None;
    }
    // SAFETY: a library that says CKR_OK points to a static CK_INTERFACE; null and stray alignment
    // were ruled out.
    let interface = unsafe { interface.read() };
    read_list(interface.pFunctionList.cast()).ok()
}

/// PKCS#11 2.40, 5.4: `C_GetFunctionList`.
fn list_of_functions(handle: &Handle) -> Result<ck::CK_FUNCTION_LIST, String> {
    // SAFETY: the type is the one PKCS#11 gives the symbol of this name.
    let symbol: Result<Symbol<GetFunctionList>, _> = unsafe { handle.get(b"C_GetFunctionList\0") };
    let symbol = symbol.map_err(|_| {
        "it has no symbol C_GetFunctionList: it is another kind of library".to_owned()
    })?;
    let mut list: *mut ck::CK_FUNCTION_LIST = std::ptr::null_mut();
    // SAFETY: the place for the answer is on this stack.
    let rv = unsafe { symbol(&raw mut list) };
    check("C_GetFunctionList", rv).map_err(|error| error.to_string())?;
    read_list(list)
}

/// Lists of 3.x begin with the list of 2.40, which is that of 2.20, and no function beyond it is
/// used. Older lists are shorter, so the version is looked at before anything behind it is.
fn read_list(list: *const ck::CK_FUNCTION_LIST) -> Result<ck::CK_FUNCTION_LIST, String> {
    if list.is_null() || !list.is_aligned() {
        return Err("C_GetFunctionList gave an empty list".to_owned());
    }
    // SAFETY: a library that says CKR_OK points to a static list, which begins with its version;
    // null and stray alignment were ruled out.
    check_version(unsafe { list.cast::<ck::CK_VERSION>().read() })?;
    // SAFETY: by its version, the list is at least as long as the one of 2.20.
    Ok(unsafe { list.read() })
}

fn check_version(version: ck::CK_VERSION) -> Result<(), String> {
    match (version.major, version.minor) {
        (2, 20..) | (3, _) => Ok(()),
        (major, minor) => {
            Err(format!("it speaks PKCS#11 {major}.{minor}; 2.20 to 3.x can be used"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_from_2_20_to_3_x_are_taken() {
        let of = |major, minor| check_version(ck::CK_VERSION { major, minor });
        assert!(
            [(2, 20), (2, 30), (2, 40), (3, 0), (3, 2)].iter().all(|(a, b)| of(*a, *b).is_ok())
        );
        for (major, minor) in [(0, 0), (2, 1), (2, 11), (4, 0), (1, 40)] {
            assert!(of(major, minor).unwrap_err().contains(&format!("{major}.{minor}")));
        }
    }
}
