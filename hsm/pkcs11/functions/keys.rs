//! Keys that are made, wrapped and unwrapped in the token.

use cryptoki_sys as ck;

use super::{Functions, check, length, size, there};
use crate::Error;
use crate::pkcs11::Mechanism;
use crate::pkcs11::template::{Attribute, raw};

impl Functions {
    /// PKCS#11 3.1 `C_GenerateKey`.
    pub(crate) fn generate_key(
        &self,
        session: u64,
        mechanism: &Mechanism<'_>,
        template: &[Attribute],
    ) -> Result<u64, Error> {
        const NAME: &str = "C_GenerateKey";
        let call = there(NAME, self.list.C_GenerateKey)?;
        let (mut mechanism, mut template) = (mechanism.raw(), raw(template));
        let count = length(template.len());
        let mut key = ck::CK_INVALID_HANDLE;
        let mechanism = &raw mut mechanism;
        // SAFETY: mechanism, template and the place for the answer are here for the call, and what
        // the first two point to is borrowed.
        let rv = unsafe { call(session, mechanism, template.as_mut_ptr(), count, &raw mut key) };
        check(NAME, rv).map(|()| key)
    }

    /// PKCS#11 3.1 `C_GenerateKeyPair`: the public and the private key.
    pub(crate) fn generate_key_pair(
        &self,
        session: u64,
        mechanism: &Mechanism<'_>,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<(u64, u64), Error> {
        const NAME: &str = "C_GenerateKeyPair";
        let call = there(NAME, self.list.C_GenerateKeyPair)?;
        let mut mechanism = mechanism.raw();
        let (mut public, mut private) = (raw(public), raw(private));
        let (public_count, private_count) = (length(public.len()), length(private.len()));
        let (mut public_key, mut private_key) = (ck::CK_INVALID_HANDLE, ck::CK_INVALID_HANDLE);
        // SAFETY: mechanism, templates and the places for the answers are here for the call, and
        // what the first three point to is borrowed.
        let rv = unsafe {
            call(
                session,
                &raw mut mechanism,
                public.as_mut_ptr(),
                public_count,
                private.as_mut_ptr(),
                private_count,
                &raw mut public_key,
                &raw mut private_key,
            )
        };
        check(NAME, rv).map(|()| (public_key, private_key))
    }

    /// PKCS#11 3.1 `C_WrapKey`: the bytes written to `output`.
    pub(crate) fn wrap_key(
        &self,
        session: u64,
        mechanism: &Mechanism<'_>,
        wrapping_key: u64,
        key: u64,
        output: &mut [u8],
    ) -> Result<usize, Error> {
        const NAME: &str = "C_WrapKey";
        let call = there(NAME, self.list.C_WrapKey)?;
        let mut mechanism = mechanism.raw();
        let mechanism = &raw mut mechanism;
        let mut written = length(output.len());
        let place = output.as_mut_ptr();
        // SAFETY: the mechanism is here for the call, its parameter and the output are borrowed.
        let rv = unsafe { call(session, mechanism, wrapping_key, key, place, &raw mut written) };
        check(NAME, rv)?;
        size("a wrapped key", written, output.len())
    }

    /// PKCS#11 3.1 `C_UnwrapKey`.
    pub(crate) fn unwrap_key(
        &self,
        session: u64,
        mechanism: &Mechanism<'_>,
        unwrapping_key: u64,
        wrapped: &[u8],
        template: &[Attribute],
    ) -> Result<u64, Error> {
        const NAME: &str = "C_UnwrapKey";
        let call = there(NAME, self.list.C_UnwrapKey)?;
        let (mut mechanism, mut template) = (mechanism.raw(), raw(template));
        let count = length(template.len());
        let mut key = ck::CK_INVALID_HANDLE;
        // SAFETY: mechanism, template and the place for the answer are here for the call; what the
        // first two point to and the wrapped key are borrowed.
        let rv = unsafe {
            call(
                session,
                &raw mut mechanism,
                unwrapping_key,
                wrapped.as_ptr().cast_mut(),
                length(wrapped.len()),
                template.as_mut_ptr(),
                count,
                &raw mut key,
            )
        };
        check(NAME, rv).map(|()| key)
    }
}
