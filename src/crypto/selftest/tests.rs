//! Every back end passes, and every lie of a provider is found.

use std::sync::Arc;

use super::*;
use crate::provider::{Hasher, Verifier};
use crate::{Aead, Cipher, Entropy, Tag, software_provider_on};

fn backends() -> impl Iterator<Item = Backend> {
    [Some(Backend::PORTABLE), Backend::avx2(), Backend::avx512()].into_iter().flatten()
}

#[test]
fn every_back_end_passes() {
    for backend in backends() {
        let passed = selftest(&software_provider_on(backend), backend);
        assert_eq!(passed.map_err(|error| error.to_string()).map(|names| names.len()), Ok(11));
    }
}

/// What the test says of a provider that is good but for one part.
fn caught(change: impl FnOnce(&mut Provider)) -> &'static str {
    let mut provider = software_provider_on(Backend::best());
    change(&mut provider);
    match selftest(&provider, Backend::best()) {
        Err(Error::SelfTest { algorithm, .. }) => algorithm,
        other => panic!("{other:?}"),
    }
}

/// A verifier that is asked first and answers for itself where it wants to.
struct Lying<F>(Arc<dyn Verifier>, F);

impl<F: Fn(usize, Verdict) -> Verdict + Send + Sync> Verifier for Lying<F> {
    fn verify_many(&self, items: &[VerifyItem<'_>], verdicts: &mut [Verdict]) {
        self.0.verify_many(items, verdicts);
        for (place, verdict) in verdicts.iter_mut().enumerate() {
            *verdict = self.1(place, *verdict);
        }
    }
}

#[test]
fn a_verifier_that_errs_in_a_single_lane_is_found() {
    for lane in 0..PLACES {
        for answer in [Verdict::Valid, Verdict::SignatureInvalid, Verdict::KeyInvalid] {
            let algorithm = caught(|provider| {
                let truth = Arc::clone(&provider.verifier);
                let lie = move |place, verdict| if place == lane { answer } else { verdict };
                provider.verifier = Arc::new(Lying(truth, lie));
            });
            assert_eq!(algorithm, "SM2 verification", "lane {lane}, always {answer:?}");
        }
    }
}

#[test]
fn a_verifier_that_takes_the_point_at_infinity_is_found() {
    struct Lenient(Arc<dyn Verifier>);
    impl Verifier for Lenient {
        fn verify_many(&self, items: &[VerifyItem<'_>], verdicts: &mut [Verdict]) {
            self.0.verify_many(items, verdicts);
            for (item, verdict) in items.iter().zip(verdicts) {
                if item.signature.0[..32] == hex::<32>(INFINITY[0]) {
                    *verdict = Verdict::Valid;
                }
            }
        }
    }
    let algorithm = caught(|provider| {
        provider.verifier = Arc::new(Lenient(Arc::clone(&provider.verifier)));
    });
    assert_eq!(algorithm, "SM2 verification");
}

#[test]
fn a_hasher_that_errs_in_one_digest_is_found() {
    struct Wrong(Arc<dyn Hasher>, bool);
    impl Hasher for Wrong {
        fn digest_many(&self, messages: &[&[u8]], digests: &mut [Digest]) {
            self.0.digest_many(messages, digests);
            digests[digests.len() - 1].0[0] ^= u8::from(self.1);
        }

        fn digest_pairs(&self, pairs: &[[Digest; 2]], parents: &mut [Digest]) {
            self.0.digest_pairs(pairs, parents);
            parents[0].0[31] ^= u8::from(!self.1);
        }
    }
    for many in [true, false] {
        let algorithm = caught(|provider| {
            provider.hasher = Arc::new(Wrong(Arc::clone(&provider.hasher), many));
        });
        assert_eq!(algorithm, "SM3");
    }
}

#[test]
fn a_cipher_that_opens_what_was_changed_is_found() {
    struct Careless(Arc<dyn Cipher>);
    struct CarelessAead(Arc<dyn Aead>);
    impl Cipher for Careless {
        fn sm4_gcm(&self, key: &Sm4Key) -> Arc<dyn Aead> {
            Arc::new(CarelessAead(self.0.sm4_gcm(key)))
        }
    }
    impl Aead for CarelessAead {
        fn seal(&self, nonce: &[u8; 12], associated: &[u8], data: &mut [u8]) -> Tag {
            self.0.seal(nonce, associated, data)
        }

        fn open(
            &self,
            nonce: &[u8; 12],
            associated: &[u8],
            data: &mut [u8],
            _: &Tag,
        ) -> Result<(), Error> {
            self.0.seal(nonce, associated, data);
            Ok(())
        }
    }
    let algorithm =
        caught(|provider| provider.cipher = Arc::new(Careless(Arc::clone(&provider.cipher))));
    assert_eq!(algorithm, "SM4-GCM and SM4-CCM");
}

#[test]
fn a_source_that_repeats_itself_is_found() {
    struct Same;
    impl Entropy for Same {
        fn fill(&self, bytes: &mut [u8]) -> Result<(), Error> {
            for (byte, place) in bytes.iter_mut().zip((0..=255).cycle()) {
                *byte = place;
            }
            Ok(())
        }
    }
    assert_eq!(caught(|provider| provider.entropy = Arc::new(Same)), "entropy");
}

/// The signature at infinity is what it says it is: RustCrypto's arithmetic finds no point.
#[test]
fn the_signature_at_infinity_is_one() {
    use sm2::elliptic_curve::PrimeField as _;
    let scalar = |text: &str| sm2::Scalar::from_repr(hex::<32>(text).into()).unwrap();
    let [r, s] = INFINITY.map(scalar);
    let d = sm2::Scalar::from_repr(example().private.into()).unwrap();
    assert!(bool::from((s + (r + s) * d).is_zero()));
}
