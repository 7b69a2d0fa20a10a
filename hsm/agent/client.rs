//! The seam over the ring, for threads that wait.
//!
//! [`AgentClient`] is a [`Keystore`] like any other. It survives the agent: when that ends, every
//! call under way fails at once with [`Error::Agent`], later ones fail the same way until the
//! supervisor has another one in service, and key handles stay good.

use std::sync::{Arc, PoisonError};

use hufu_crypto::{Digest, PublicKey, Signature, Verdict, VerifyItem};
use hufu_runtime::clock::{self, Nanos};
use zerocopy::IntoBytes;
use zeroize::{Zeroize, Zeroizing};

use super::errors;
use super::protocol::{self, BODY_BYTES_MAX, CIPHERTEXT_BYTES_MAX, Malformed, Op};
use super::ring::Body;
use super::shared::{Generation, Key, Service, Shared, UNVERIFIED, handle_of, locked};
use super::status::AgentStatus;
use crate::error::Error;
use crate::keystore::{
    BULK_BYTES_MAX, CardIdentity, KeyHandle, KeyReference, Keystore, SIGN_MANY_MAX, Usage,
    WRAPPED_BYTES_MAX,
};
use crate::pool::CardReport;

/// The keys of a card behind an agent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AgentClient {
    pub(crate) shared: Arc<Shared>,
}

impl AgentClient {
    /// Waits until the agent is in service.
    ///
    /// # Errors
    /// Why it is not, when the deadline has passed, or at once if it never will be by itself.
    pub fn wait_ready(&self, deadline: Nanos) -> Result<(), Error> {
        let mut service = locked(&self.shared.service);
        loop {
            let now = clock::monotonic();
            match &*service {
                Service::Up(_) => return Ok(()),
                Service::Down(error)
                    if now >= deadline || locked(&self.shared.status).is_refused() =>
                {
                    return Err(errors::again(error));
                }
                Service::Down(_) => {}
            }
            let wait = deadline.duration_since(now);
            let waited = self.shared.service_changed.wait_timeout(service, wait);
            service = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A handle for a key of a pair whose public key is known, though the agent may not be in
    /// service: whenever it comes, it opens the key first and must find this public key. Opens it
    /// now if the agent serves.
    ///
    /// # Errors
    /// [`Error::CardChanged`] where the key is open with another public key, or what keeps it from
    /// being opened.
    pub fn expect_key(
        &self,
        key: &KeyReference,
        usage: Usage,
        public: &PublicKey,
        deadline: Nanos,
    ) -> Result<KeyHandle, Error> {
        let expected = Key { reference: key.clone(), usage, public: Some(*public) };
        let handle = match self.shared.expect(&expected)? {
            Some(handle) => handle,
            None => self.open_key(key, usage, deadline)?,
        };
        match self.public_key(handle)? {
            found if found == *public => Ok(handle),
            found => Err(Error::CardChanged {
                field: "the public key",
                before: public.to_string(),
                after: found.to_string(),
            }),
        }
    }

    /// How the agent does, for metrics and `hufu hsm status`.
    #[must_use]
    pub fn status(&self) -> AgentStatus {
        let mut status = locked(&self.shared.status).clone();
        if let Ok(generation) = self.shared.generation() {
            status.open_calls_count = generation.line.open_count();
        }
        status
    }

    fn with_key(
        &self,
        (op, key): (Op, KeyHandle),
        request: &[u8],
        deadline: Nanos,
        answer: &mut Body,
    ) -> Result<(Arc<Generation>, usize), Error> {
        let generation = self.shared.generation()?;
        let handle = generation.handle(key)?;
        let size = self.shared.call(&generation, (op, handle), request, deadline, answer);
        match size {
            Ok(size) => Ok((generation, size)),
            // The agent's numbers mean nothing to the caller.
            Err(Error::HandleUnknown(_)) => Err(Error::HandleUnknown(key.0)),
            Err(error) => Err(error),
        }
    }

    fn broken(&self, generation: &Generation, op: Op, size: usize) -> Error {
        self.shared.condemn(generation, &format!("{op:?}: an answer of {size} bytes"))
    }
}

impl Keystore for AgentClient {
    fn identity(&self, deadline: Nanos) -> Result<CardIdentity, Error> {
        let generation = self.shared.generation()?;
        let mut answer: Body = [0; BODY_BYTES_MAX];
        let op = (Op::Identity, 0);
        let size = self.shared.call(&generation, op, &[], deadline, &mut answer)?;
        let mut reader = protocol::Reader(&answer[..size]);
        let identity = protocol::read_identity(&mut reader);
        let identity = identity.and_then(|identity| reader.end().map(|()| identity));
        identity.map_err(|Malformed(what)| {
            self.shared.condemn(&generation, &format!("Identity: {what}"))
        })
    }

    fn open_key(
        &self,
        key: &KeyReference,
        usage: Usage,
        deadline: Nanos,
    ) -> Result<KeyHandle, Error> {
        if !protocol::key_fits(key) {
            let reason = "its name is too long".to_owned();
            return Err(Error::KeyUnsuitable { key: key.clone(), reason });
        }
        let generation = self.shared.generation()?;
        let known = self.shared.keys().iter().position(|other| other.is(key, usage));
        if let Some(index) = known {
            let handle = handle_of(index);
            return generation.handle(handle).map(|_| handle);
        }
        let mut answer: Body = [0; BODY_BYTES_MAX];
        let request = protocol::open_request(key, usage);
        let op = (Op::OpenKey, 0);
        let size = self.shared.call(&generation, op, &request, deadline, &mut answer)?;
        let (handle, public) = self.shared.read_opened(&generation, usage, &answer[..size])?;
        let key = Key { reference: key.clone(), usage, public };
        self.shared.remember(&generation, &key, handle)
    }

    fn public_key(&self, key: KeyHandle) -> Result<PublicKey, Error> {
        self.shared.public_key(key)
    }

    fn sign_sm2(
        &self,
        key: KeyHandle,
        digests: &[Digest],
        signatures: &mut [Signature],
        deadline: Nanos,
    ) -> Result<(), Error> {
        assert_eq!(digests.len(), signatures.len(), "a signature for each digest");
        assert!(digests.len() <= SIGN_MANY_MAX, "{} digests in one call", digests.len());
        if digests.is_empty() {
            return Ok(());
        }
        let public = self.public_key(key)?;
        let mut answer: Body = [0; BODY_BYTES_MAX];
        let op = (Op::Sign, key);
        let (generation, size) = self.with_key(op, digests.as_bytes(), deadline, &mut answer)?;
        if size != digests.len() * Signature::SIZE {
            return Err(self.broken(&generation, Op::Sign, size));
        }
        let mut found = [Signature([0; Signature::SIZE]); SIGN_MANY_MAX];
        let found = &mut found[..digests.len()];
        found.as_mut_bytes().copy_from_slice(&answer[..size]);
        let items: Vec<VerifyItem<'_>> = digests
            .iter()
            .zip(&*found)
            .map(|(digest, signature)| VerifyItem { key: &public, digest: *digest, signature })
            .collect();
        if self.shared.verify(&items).iter().any(|verdict| *verdict != Verdict::Valid) {
            return Err(self.shared.condemn(&generation, UNVERIFIED));
        }
        signatures.copy_from_slice(found);
        Ok(())
    }

    fn sm2_decrypt(
        &self,
        key: KeyHandle,
        ciphertext: &[u8],
        plaintext: &mut [u8],
        deadline: Nanos,
    ) -> Result<usize, Error> {
        if ciphertext.len() > CIPHERTEXT_BYTES_MAX {
            let reason = format!("{} bytes are too many", ciphertext.len());
            return Err(Error::Refused { what: "ciphertext", reason });
        }
        let mut answer = Zeroizing::new([0; BODY_BYTES_MAX]);
        let room = plaintext.len().min(BULK_BYTES_MAX);
        let request = protocol::decrypt_request(room, ciphertext);
        let (generation, size) =
            self.with_key((Op::Decrypt, key), &request, deadline, &mut answer)?;
        if size > room {
            return Err(self.broken(&generation, Op::Decrypt, size));
        }
        plaintext[..size].copy_from_slice(&answer[..size]);
        Ok(size)
    }

    fn wrap(
        &self,
        key: KeyHandle,
        secret: &[u8; 32],
        wrapped: &mut [u8; WRAPPED_BYTES_MAX],
        deadline: Nanos,
    ) -> Result<usize, Error> {
        let mut answer: Body = [0; BODY_BYTES_MAX];
        let (generation, size) = self.with_key((Op::Wrap, key), secret, deadline, &mut answer)?;
        if size > WRAPPED_BYTES_MAX {
            return Err(self.broken(&generation, Op::Wrap, size));
        }
        wrapped[..size].copy_from_slice(&answer[..size]);
        Ok(size)
    }

    fn unwrap(
        &self,
        key: KeyHandle,
        wrapped: &[u8],
        secret: &mut [u8; 32],
        deadline: Nanos,
    ) -> Result<(), Error> {
        if wrapped.len() > WRAPPED_BYTES_MAX {
            let reason = format!("{} bytes are too many", wrapped.len());
            return Err(Error::Refused { what: "wrapped secret", reason });
        }
        let mut answer = Zeroizing::new([0; BODY_BYTES_MAX]);
        let (generation, size) =
            self.with_key((Op::Unwrap, key), wrapped, deadline, &mut answer)?;
        if size != secret.len() {
            return Err(self.broken(&generation, Op::Unwrap, size));
        }
        secret.copy_from_slice(&answer[..size]);
        Ok(())
    }

    fn random(&self, bytes: &mut [u8], deadline: Nanos) -> Result<(), Error> {
        assert!(bytes.len() <= BULK_BYTES_MAX, "{} random bytes in one call", bytes.len());
        let generation = self.shared.generation()?;
        let mut answer: Body = [0; BODY_BYTES_MAX];
        let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let op = (Op::Random, 0);
        let request = count.to_le_bytes();
        let size = self.shared.call(&generation, op, &request, deadline, &mut answer)?;
        if size != bytes.len() {
            return Err(self.broken(&generation, Op::Random, size));
        }
        bytes.copy_from_slice(&answer[..size]);
        answer.zeroize();
        Ok(())
    }

    fn report(&self) -> Option<CardReport> {
        locked(&self.shared.status).report.clone()
    }
}
