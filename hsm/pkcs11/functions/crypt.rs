//! Operations on data with a key: an `Init`, then one call for all the data.

use cryptoki_sys as ck;

use super::{Functions, check, length, size, there};
use crate::Error;
use crate::pkcs11::Mechanism;

/// An operation that turns data into data. The four have the same shape in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transform {
    Sign,
    Encrypt,
    Decrypt,
    Digest,
}

impl Functions {
    /// PKCS#11 3.1 `C_SignInit`, `C_EncryptInit`, `C_DecryptInit`, `C_DigestInit`; a digest has no
    /// key, and `key` is not looked at.
    pub(crate) fn start(
        &self,
        transform: Transform,
        session: u64,
        mechanism: &Mechanism<'_>,
        key: u64,
    ) -> Result<(), Error> {
        let (name, pointer) = match transform {
            Transform::Sign => ("C_SignInit", self.list.C_SignInit),
            Transform::Encrypt => ("C_EncryptInit", self.list.C_EncryptInit),
            Transform::Decrypt => ("C_DecryptInit", self.list.C_DecryptInit),
            Transform::Digest => return self.start_digest(session, mechanism),
        };
        let call = there(name, pointer)?;
        let mut raw = mechanism.raw();
        // SAFETY: the mechanism is on this stack, its parameter borrowed for the call.
        let rv = unsafe { call(session, &raw mut raw, key) };
        check(name, rv)
    }

    fn start_digest(&self, session: u64, mechanism: &Mechanism<'_>) -> Result<(), Error> {
        const NAME: &str = "C_DigestInit";
        let call = there(NAME, self.list.C_DigestInit)?;
        let mut raw = mechanism.raw();
        // SAFETY: the mechanism is on this stack, its parameter borrowed for the call.
        let rv = unsafe { call(session, &raw mut raw) };
        check(NAME, rv)
    }

    /// PKCS#11 3.1 `C_Sign`, `C_Encrypt`, `C_Decrypt`, `C_Digest`: the bytes written to `output`.
    pub(crate) fn finish(
        &self,
        transform: Transform,
        session: u64,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, Error> {
        let (name, what, pointer) = self.transform(transform);
        let call = there(name, pointer)?;
        let data = input.as_ptr().cast_mut();
        let mut written = length(output.len());
        let place = output.as_mut_ptr();
        // SAFETY: input and output are borrowed for the call, as long as their lengths say.
        let rv = unsafe { call(session, data, length(input.len()), place, &raw mut written) };
        check(name, rv)?;
        size(what, written, output.len())
    }

    /// The same, asked for the length alone: the operation goes on.
    pub(crate) fn output_size(
        &self,
        transform: Transform,
        session: u64,
        input: &[u8],
        size_max: usize,
    ) -> Result<usize, Error> {
        let (name, what, pointer) = self.transform(transform);
        let call = there(name, pointer)?;
        let data = input.as_ptr().cast_mut();
        let nowhere = std::ptr::null_mut();
        let mut wanted = 0;
        // SAFETY: the input is borrowed for the call; no place for output means that its length is
        // asked for.
        let rv = unsafe { call(session, data, length(input.len()), nowhere, &raw mut wanted) };
        check(name, rv)?;
        size(what, wanted, size_max)
    }

    const fn transform(&self, transform: Transform) -> (&'static str, &'static str, ck::CK_C_Sign) {
        match transform {
            Transform::Sign => ("C_Sign", "a signature", self.list.C_Sign),
            Transform::Encrypt => ("C_Encrypt", "a ciphertext", self.list.C_Encrypt),
            Transform::Decrypt => ("C_Decrypt", "a plaintext", self.list.C_Decrypt),
            Transform::Digest => ("C_Digest", "a digest", self.list.C_Digest),
        }
    }

    /// PKCS#11 3.1 `C_VerifyInit`.
    pub(crate) fn start_verify(
        &self,
        session: u64,
        mechanism: &Mechanism<'_>,
        key: u64,
    ) -> Result<(), Error> {
        const NAME: &str = "C_VerifyInit";
        let call = there(NAME, self.list.C_VerifyInit)?;
        let mut raw = mechanism.raw();
        // SAFETY: the mechanism is on this stack, its parameter borrowed for the call.
        let rv = unsafe { call(session, &raw mut raw, key) };
        check(NAME, rv)
    }

    /// PKCS#11 3.1 `C_Verify`.
    pub(crate) fn finish_verify(
        &self,
        session: u64,
        data: &[u8],
        signature: &[u8],
    ) -> Result<(), Error> {
        const NAME: &str = "C_Verify";
        let call = there(NAME, self.list.C_Verify)?;
        let (data_bytes, signature_bytes) =
            (data.as_ptr().cast_mut(), signature.as_ptr().cast_mut());
        let (data_size, signature_size) = (length(data.len()), length(signature.len()));
        // SAFETY: both are borrowed for the call, as long as their lengths say, and only read.
        let rv = unsafe { call(session, data_bytes, data_size, signature_bytes, signature_size) };
        check(NAME, rv)
    }
}
