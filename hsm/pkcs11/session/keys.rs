//! Keys that are made, wrapped and unwrapped in the token, through a session.

use super::Session;
use crate::Error;
use crate::pkcs11::{Attribute, Mechanism};

impl Session {
    /// PKCS#11 3.1 `C_GenerateKey`.
    ///
    /// # Errors
    /// What the library says.
    pub fn generate_key(
        &self,
        mechanism: &Mechanism<'_>,
        template: &[Attribute],
    ) -> Result<u64, Error> {
        self.functions().generate_key(self.handle, mechanism, template)
    }

    /// The public and the private key (PKCS#11 3.1 `C_GenerateKeyPair`).
    ///
    /// # Errors
    /// What the library says.
    pub fn generate_key_pair(
        &self,
        mechanism: &Mechanism<'_>,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<(u64, u64), Error> {
        self.functions().generate_key_pair(self.handle, mechanism, public, private)
    }

    /// Wraps `key` into `out`, which must have room for it: the bytes written (PKCS#11 3.1
    /// `C_WrapKey`).
    ///
    /// # Errors
    /// What the library says.
    pub fn wrap_key(
        &self,
        mechanism: &Mechanism<'_>,
        wrapping_key: u64,
        key: u64,
        out: &mut [u8],
    ) -> Result<usize, Error> {
        self.functions().wrap_key(self.handle, mechanism, wrapping_key, key, out)
    }

    /// PKCS#11 3.1 `C_UnwrapKey`.
    ///
    /// # Errors
    /// What the library says.
    pub fn unwrap_key(
        &self,
        mechanism: &Mechanism<'_>,
        unwrapping_key: u64,
        wrapped: &[u8],
        template: &[Attribute],
    ) -> Result<u64, Error> {
        self.functions().unwrap_key(self.handle, mechanism, unwrapping_key, wrapped, template)
    }
}
