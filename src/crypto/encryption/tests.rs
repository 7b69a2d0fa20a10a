//! Encryption against the standard's example, other projects' vectors and RustCrypto, and what must
//! be refused.

use std::convert::Infallible;
use std::path::Path;

use proptest::prelude::*;
use sm2::elliptic_curve::rand_core::{self, TryCryptoRng, TryRng};
use sm2::pke::{DecryptingKey, EncryptingKey, Mode};

use super::*;
use crate::{Signer as _, entropy};

/// GB/T 32918.5-2017 annex C.2: private key, k, plaintext, and C1, C3, C2.
const PRIVATE: &str = "3945208F7B2144B13F36E38AC6D39F95889393692860B51A42FB81EF4DF7C5B8";
const SCALAR: &str = "59276E27D506861A16680F3AD9C02DCCEF3CC1FA3CDBE4CE6D54B80DEAC1BC21";
const PLAINTEXT: &[u8] = b"encryption standard";
const CIPHERTEXT: &str = "0404EBFC718E8D1798620432268E77FEB6415E2EDE0E073C0F4F640ECD2E149A73\
    E858F9D81E5430A57B36DAAB8F950A3C64E6EE6A63094D99283AFF767E124DF0\
    59983C18F809E262923C53AEC295D30383B54E39D609D160AFCB1908D0BD8766\
    21886CA989CA9C7D58087307CA93092D651EFA";

fn unhex(text: &str) -> Vec<u8> {
    let mut bytes = vec![0; text.len() / 2];
    crate::digest::decode_hex(text, &mut bytes).unwrap();
    bytes
}

fn example_key() -> SoftwareSigner {
    SoftwareSigner::from_bytes(&unhex(PRIVATE).try_into().unwrap()).unwrap()
}

fn generator() -> Drbg {
    Drbg::new(entropy::system(), "test").unwrap()
}

fn backends() -> impl Iterator<Item = Backend> {
    [Some(Backend::PORTABLE), Backend::avx2(), Backend::avx512()].into_iter().flatten()
}

#[test]
fn the_example_of_the_standard_is_met_both_ways() {
    let (signer, scalar) = (example_key(), unhex(SCALAR).try_into().unwrap());
    for backend in backends() {
        let made = encrypt_with(backend, &scalar, signer.public_key(), PLAINTEXT).unwrap();
        assert_eq!(made.to_bytes(), unhex(CIPHERTEXT));
        assert_eq!(**signer.decrypt(backend, &made).unwrap(), *PLAINTEXT);
    }
}

#[test]
fn every_form_goes_round() {
    let signer = example_key();
    let mut generator = generator();
    for size in [1, 31, 32, 33, 511, 512, 513, 2_000] {
        let plaintext: Vec<u8> = (0..=255).cycle().take(size).collect();
        let made =
            encrypt(Backend::best(), &mut generator, signer.public_key(), &plaintext).unwrap();
        assert_eq!(made.plaintext_size(), size);
        assert_eq!(Ciphertext::from_bytes(&made.to_bytes()).unwrap(), made);
        assert_eq!(Ciphertext::from_der(&made.to_der()).unwrap(), made);
        for backend in backends() {
            assert_eq!(*signer.decrypt(backend, &made).unwrap(), plaintext, "{size} bytes");
        }
    }
}

#[test]
fn any_change_is_refused() {
    let signer = example_key();
    let good = unhex(CIPHERTEXT);
    for bit in 8..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let bad = Ciphertext::from_bytes(&bad).unwrap();
        let refused = signer.decrypt(Backend::best(), &bad).err();
        assert!(matches!(refused, Some(Error::CiphertextRejected)), "bit {bit}");
    }
    for size in HEAD_SIZE + 1..good.len() {
        let cut = Ciphertext::from_bytes(&good[..size]).unwrap();
        assert!(signer.decrypt(Backend::best(), &cut).is_err(), "{size} bytes");
    }
    let other = SoftwareSigner::from_bytes(&[9; 32]).unwrap();
    let whole = Ciphertext::from_bytes(&good).unwrap();
    let refused = other.decrypt(Backend::best(), &whole).err();
    assert!(matches!(refused, Some(Error::CiphertextRejected)));
}

#[test]
fn what_is_no_ciphertext_is_named() {
    let good = unhex(CIPHERTEXT);
    for size in 0..HEAD_SIZE {
        let refused = Ciphertext::from_bytes(&good[..size]);
        assert!(matches!(refused, Err(Error::CiphertextEncoding(_))), "{size} bytes");
    }
    let empty = Ciphertext::from_bytes(&good[..HEAD_SIZE]);
    assert!(matches!(empty, Err(Error::PlaintextSize { bytes: 0 })));
    let mut compressed = good.clone();
    compressed[0] = 2;
    let error = Ciphertext::from_bytes(&compressed).unwrap_err();
    assert_eq!(error.to_string(), "ciphertext is not one: C1: tag 0x02, expected 0x04");
    let der = Ciphertext::from_bytes(&good).unwrap().to_der();
    for size in 0..der.len() {
        assert!(Ciphertext::from_der(&der[..size]).is_err(), "{size} bytes");
    }
}

#[test]
fn nothing_too_much_and_nowhere_are_refused() {
    let mut generator = generator();
    let (best, key) = (Backend::best(), *example_key().public_key());
    let refused = encrypt(best, &mut generator, &key, b"").err();
    assert!(matches!(refused, Some(Error::PlaintextSize { bytes: 0 })));
    let refused = encrypt(best, &mut generator, &key, &vec![0; PLAINTEXT_SIZE_MAX + 1]).err();
    assert!(matches!(refused, Some(Error::PlaintextSize { .. })));
    for key in [PublicKey([0; 64]), PublicKey([1; 64]), PublicKey([0xff; 64])] {
        let refused = encrypt(best, &mut generator, &key, b"text").err();
        assert!(matches!(refused, Some(Error::PublicKeyInvalid)));
    }
    for scalar in [[0; 32], [0xff; 32]] {
        assert!(encrypt_with(best, &scalar, &key, b"text").is_none());
    }
}

/// A single byte is hidden by a pad of zero once in 256 draws: another k is taken then.
#[test]
fn a_pad_of_zero_is_drawn_again() {
    let signer = example_key();
    let mut refused = 0;
    for number in 1..=600_u16 {
        let mut scalar = [0; 32];
        scalar[30..].copy_from_slice(&number.to_be_bytes());
        let made = encrypt_with(Backend::PORTABLE, &scalar, signer.public_key(), &[0x55]);
        match made {
            Some(made) => assert_ne!(made.text, [0x55]),
            None => {
                refused += 1;
                // Who takes it all the same makes a ciphertext that is the text (step B4).
                let point = multiply_base(Backend::PORTABLE, &scalar).unwrap();
                let shared = multiply(Backend::PORTABLE, &scalar, &signer.public_key().0).unwrap();
                let bare =
                    Ciphertext { point, hash: check_value(&shared, &[0x55]), text: vec![0x55] };
                let opened = signer.decrypt(Backend::PORTABLE, &bare);
                assert!(matches!(opened, Err(Error::CiphertextRejected)));
            }
        }
    }
    assert!(
        refused > 0,
        "600 draws meet a pad of zero with a probability of nine tenths and these do"
    );
}

#[test]
fn a_generator_that_repeats_itself_encrypts_no_two_texts_with_one_pad() {
    struct Same;
    impl crate::Entropy for Same {
        fn fill(&self, bytes: &mut [u8]) -> Result<(), Error> {
            for (byte, place) in bytes.iter_mut().zip((0..=255).cycle()) {
                *byte = place;
            }
            Ok(())
        }
    }
    let key = *example_key().public_key();
    let made = |text: &[u8]| {
        let mut generator = Drbg::new(std::sync::Arc::new(Same), "test").unwrap();
        encrypt(Backend::best(), &mut generator, &key, text).unwrap()
    };
    assert_eq!(made(b"first"), made(b"first"));
    assert_ne!(made(b"first").point, made(b"other").point);
}

/// Numbers for RustCrypto: a text hashed with a counter.
struct Counted([u8; 32], u64);

impl TryRng for Counted {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        rand_core::utils::next_word_via_fill(self)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        rand_core::utils::next_word_via_fill(self)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for part in bytes.chunks_mut(32) {
            part.copy_from_slice(&Sm3::of(&[&self.0, &self.1.to_be_bytes()]).0[..part.len()]);
            self.1 += 1;
        }
        Ok(())
    }
}

impl TryCryptoRng for Counted {}

/// Decrypts everything in Tongsuo's file that its own library decrypts.
#[test]
fn tongsuo_agrees() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/vectors/tongsuo/evppkey_sm2.txt");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: no {}", path.display());
        return;
    };
    let begin = text.find("-----BEGIN PRIVATE KEY-----").unwrap();
    let end = "-----END PRIVATE KEY-----\n";
    let end = begin + text[begin..].find(end).unwrap() + end.len();
    let signer = SoftwareSigner::from_pkcs8_pem(&text[begin..end]).unwrap();
    let mut count = 0;
    for block in text.split("\n\n") {
        let line = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        let (Some(_), Some(input), Some(output)) =
            (line("Decrypt = SM2_key1"), line("Input = "), line("Output = "))
        else {
            continue;
        };
        if !matches!(line("Ctrl = "), None | Some("digest:SM3")) {
            continue;
        }
        let ciphertext = Ciphertext::from_der(&unhex(input)).unwrap();
        for backend in backends() {
            let plaintext = signer.decrypt(backend, &ciphertext).unwrap();
            assert_eq!(format!("\"{}\"", String::from_utf8_lossy(&plaintext)), output);
        }
        count += 1;
    }
    assert!(count >= 4, "{count} vectors");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(32918),
        ..ProptestConfig::default()
    })]

    /// RustCrypto reads what we write and we read what it writes.
    #[test]
    fn another_library_agrees(
        private in prop::collection::vec(any::<u8>(), 31),
        plaintext in prop::collection::vec(any::<u8>(), 1..200),
        draw in any::<[u8; 32]>(),
    ) {
        let mut bytes = [1; 32];
        bytes[..31].copy_from_slice(&private);
        let Ok(signer) = SoftwareSigner::from_bytes(&bytes) else { return Ok(()) };
        let theirs = sm2::SecretKey::from_slice(&bytes).unwrap();
        let decrypting = DecryptingKey::new_with_mode(theirs.to_nonzero_scalar(), Mode::C1C3C2);
        let made =
            encrypt(Backend::best(), &mut generator(), signer.public_key(), &plaintext).unwrap();
        prop_assert_eq!(decrypting.decrypt(&made.to_bytes()).unwrap(), plaintext.clone());
        prop_assert_eq!(decrypting.decrypt_der(&made.to_der()).unwrap(), plaintext.clone());
        let encrypting = EncryptingKey::new_with_mode(theirs.public_key(), Mode::C1C3C2);
        let theirs = encrypting.encrypt(&mut Counted(draw, 0), &plaintext).unwrap();
        let read = Ciphertext::from_bytes(&theirs).unwrap();
        prop_assert_eq!(&**signer.decrypt(Backend::best(), &read).unwrap(), plaintext.as_slice());
    }
}
