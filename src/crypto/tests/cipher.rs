//! SM4, HMAC and HKDF through the seam: vectors of other projects, RustCrypto as oracle, and what
//! must be refused. Every back end must pass every test.

use ::hmac::Mac as _;
use cbc::cipher::{BlockCipherEncrypt as _, BlockModeDecrypt as _, BlockModeEncrypt as _};
use cbc::cipher::{InOutBuf, KeyInit as _, KeyIvInit as _, StreamCipher as _};
use ghash::GHash;
use ghash::universal_hash::UniversalHash as _;

use super::vectors::{blocks, find};
use super::*;
use crate::cipher::*;

const NONCE: [u8; 12] = [3; 12];

fn backends() -> impl Iterator<Item = Backend> {
    [Some(Backend::PORTABLE), Backend::avx2(), Backend::avx512()].into_iter().flatten()
}

fn key_of_bytes(bytes: &[u8]) -> Sm4Key {
    Sm4Key::from_bytes(bytes.try_into().unwrap())
}

#[test]
fn botan_agrees_on_blocks() {
    let mut count = 0;
    for block in blocks("botan/sm4.vec").unwrap_or_default() {
        let Some(key) = find(&block, "Key") else { continue };
        let key = key_of_bytes(&unhex(key));
        let (plain, wanted) =
            (unhex(find(&block, "In").unwrap()), unhex(find(&block, "Out").unwrap()));
        for backend in backends() {
            let mut data = plain.clone();
            ecb_encrypt(backend, &key, &mut data).unwrap();
            assert_eq!(data, wanted, "{}", backend.name());
            ecb_decrypt(backend, &key, &mut data).unwrap();
            assert_eq!(data, plain, "{}", backend.name());
        }
        count += 1;
    }
    assert!(count == 0 || count > 10, "{count} vectors of Botan");
}

/// One vector of Tongsuo in one mode; false for modes there are none of here.
fn check_mode(backend: Backend, mode: &str, block: &[(String, String)]) -> bool {
    let value = |name| unhex(find(block, name).unwrap_or_default());
    let (plain, wanted, vector) = (value("Plaintext"), value("Ciphertext"), value("IV"));
    let key = key_of_bytes(&value("Key")[..16]);
    let (associated, tag) = (value("AAD"), value("Tag"));
    let mut data = plain.clone();
    match mode {
        "SM4-ECB" => ecb_encrypt(backend, &key, &mut data).unwrap(),
        "SM4-CBC" => {
            let vector = vector.as_slice().try_into().unwrap();
            // Vectors of OpenSSL are padded unless they are whole blocks.
            if wanted.len() > data.len() {
                pad(&mut data);
            }
            cbc_encrypt(backend, &key, vector, &mut data).unwrap();
        }
        "SM4-CTR" => ctr(backend, &key, vector.as_slice().try_into().unwrap(), &mut data),
        "SM4-GCM" => {
            let found = gcm_seal(backend, &key, &vector, &associated, &mut data).unwrap();
            assert_eq!(found[..], tag);
        }
        "SM4-CCM" => {
            let sealed = ccm_seal(backend, &key, &vector, &associated, &mut data, tag.len());
            assert_eq!(sealed.unwrap()[..], tag);
        }
        _ => return false,
    }
    assert_eq!(data, wanted, "{mode} {}", backend.name());
    match mode {
        "SM4-ECB" => ecb_decrypt(backend, &key, &mut data).unwrap(),
        "SM4-CBC" => {
            cbc_decrypt(backend, &key, vector.as_slice().try_into().unwrap(), &mut data).unwrap();
            if wanted.len() > plain.len() {
                unpad(&mut data).unwrap();
            }
        }
        "SM4-CTR" => ctr(backend, &key, vector.as_slice().try_into().unwrap(), &mut data),
        "SM4-GCM" => {
            gcm_open(backend, &key, &vector, &associated, &mut data, &tag).unwrap();
        }
        _ => ccm_open(backend, &key, &vector, &associated, &mut data, &tag).unwrap(),
    }
    assert_eq!(data, plain, "{mode} {}", backend.name());
    true
}

#[test]
fn tongsuo_agrees_on_every_mode() {
    let Some(blocks) = blocks("tongsuo/evpciph_sm4.txt") else { return };
    for backend in backends() {
        let known = |block: &&Vec<(String, String)>| {
            find(block, "Cipher").is_some_and(|mode| check_mode(backend, mode, block))
        };
        assert_eq!(blocks.iter().filter(known).count(), 7, "{}", backend.name());
    }
}

#[test]
fn tongsuo_agrees_on_hmac() {
    let Some(blocks) = blocks("tongsuo/evpmac_sm3.txt") else { return };
    let mut count = 0;
    for block in blocks.iter().filter(|block| find(block, "MAC") == Some("HMAC")) {
        let bytes = |name| match find(block, name).unwrap().strip_prefix('"') {
            Some(text) => text.trim_end_matches('"').as_bytes().to_vec(),
            None => unhex(find(block, name).unwrap()),
        };
        let mac = crate::hmac(&bytes("Key"), &[&bytes("Input")]);
        assert_eq!(mac.to_string(), find(block, "Output").unwrap());
        count += 1;
    }
    assert_eq!(count, 4);
}

/// GCM put together from RustCrypto's block cipher, counter mode and GHASH.
fn oracle_gcm(key: &[u8; 16], associated: &[u8], data: &mut [u8]) -> [u8; 16] {
    let mut point = [0; 16].into();
    sm4::Sm4::new(key.into()).encrypt_block(&mut point);
    let mut first = [0; 16];
    first[..12].copy_from_slice(&NONCE);
    first[15] = 1;
    let mut stream = ctr::Ctr32BE::<sm4::Sm4>::new(key.into(), &first.into());
    let mut tag = [0; 16];
    stream.apply_keystream(&mut tag);
    stream.apply_keystream(data);
    let mut hash = GHash::new(&point);
    hash.update_padded(associated);
    hash.update_padded(data);
    let mut lengths = [0; 16];
    lengths[..8].copy_from_slice(&(8 * associated.len() as u64).to_be_bytes());
    lengths[8..].copy_from_slice(&(8 * data.len() as u64).to_be_bytes());
    hash.update(&[lengths.into()]);
    for (byte, hashed) in tag.iter_mut().zip(hash.finalize()) {
        *byte ^= hashed;
    }
    tag
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn rustcrypto_agrees_on_gcm(
        key: [u8; 16],
        associated in proptest::collection::vec(any::<u8>(), 0..80),
        plain in proptest::collection::vec(any::<u8>(), 0..4_000),
    ) {
        let mut wanted = plain.clone();
        let wanted_tag = oracle_gcm(&key, &associated, &mut wanted);
        for provider in providers() {
            let aead = provider.cipher.sm4_gcm(&Sm4Key::from_bytes(&key));
            let mut data = plain.clone();
            let tag = aead.seal(&NONCE, &associated, &mut data);
            prop_assert_eq!((tag.0, &data), (wanted_tag, &wanted));
            aead.open(&NONCE, &associated, &mut data, &tag).unwrap();
            prop_assert_eq!(&data, &plain);
        }
    }

    #[test]
    fn rustcrypto_agrees_on_ctr_and_cbc(
        key: [u8; 16],
        vector: [u8; 16],
        plain in proptest::collection::vec(any::<u8>(), 0..3_000),
    ) {
        let sm4_key = Sm4Key::from_bytes(&key);
        let mut wanted = plain.clone();
        ctr::Ctr128BE::<sm4::Sm4>::new((&key).into(), (&vector).into())
            .apply_keystream(&mut wanted);
        let mut padded = plain.clone();
        pad(&mut padded);
        let mut chained = padded.clone();
        let (whole, rest) = InOutBuf::from(chained.as_mut_slice()).into_chunks();
        assert!(rest.is_empty(), "padded to whole blocks");
        cbc::Encryptor::<sm4::Sm4>::new((&key).into(), (&vector).into())
            .encrypt_blocks_inout(whole);
        for backend in backends() {
            let mut data = plain.clone();
            ctr(backend, &sm4_key, &vector, &mut data);
            prop_assert_eq!(&data, &wanted);
            let mut data = padded.clone();
            cbc_encrypt(backend, &sm4_key, &vector, &mut data).unwrap();
            prop_assert_eq!(&data, &chained);
            cbc_decrypt(backend, &sm4_key, &vector, &mut data).unwrap();
            unpad(&mut data).unwrap();
            prop_assert_eq!(&data, &plain);
        }
        let (whole, _) = InOutBuf::from(chained.as_mut_slice()).into_chunks();
        cbc::Decryptor::<sm4::Sm4>::new((&key).into(), (&vector).into())
            .decrypt_blocks_inout(whole);
        prop_assert_eq!(chained, padded);
    }

    #[test]
    fn rustcrypto_agrees_on_hmac_and_so_on_hkdf(
        key in proptest::collection::vec(any::<u8>(), 0..200),
        message in proptest::collection::vec(any::<u8>(), 0..300),
        info in proptest::collection::vec(any::<u8>(), 0..40),
        size in 0_usize..200,
    ) {
        let oracle = |key: &[u8], parts: &[&[u8]]| -> [u8; 32] {
            let mut mac = ::hmac::Hmac::<sm3::Sm3>::new_from_slice(key).unwrap();
            parts.iter().for_each(|part| mac.update(part));
            mac.finalize().into_bytes().into()
        };
        prop_assert_eq!(crate::hmac(&key, &[&message]).0, oracle(&key, &[&message]));
        // RFC 5869 2.2 and 2.3.
        let extracted = oracle(&key, &[&message]);
        let (mut wanted, mut last) = (Vec::new(), Vec::new());
        for counter in 1..=7 {
            last = oracle(&extracted, &[&last, &info, &[counter]]).to_vec();
            wanted.extend_from_slice(&last);
        }
        let mut derived = vec![0; size];
        hkdf(&key, &message, &info, &mut derived);
        prop_assert_eq!(&derived[..], &wanted[..size]);
    }
}

#[test]
fn what_was_changed_is_rejected_and_zeroed() {
    for provider in providers() {
        let aead = provider.cipher.sm4_gcm(&Sm4Key::from_bytes(&[9; 16]));
        let other = provider.cipher.sm4_gcm(&Sm4Key::from_bytes(&[8; 16]));
        let mut sealed = *b"what only two may read, and nobody may change";
        let tag = aead.seal(&NONCE, b"for", &mut sealed);
        let rejected = |aead: &dyn Aead, nonce, associated: &[u8], mut data: Vec<u8>, tag| {
            let opened = aead.open(nonce, associated, &mut data, &Tag(tag));
            assert!(matches!(opened, Err(Error::CiphertextRejected)));
            assert!(data.iter().all(|byte| *byte == 0));
        };
        rejected(&*other, &NONCE, b"for", sealed.to_vec(), tag.0);
        rejected(&*aead, &[4; 12], b"for", sealed.to_vec(), tag.0);
        rejected(&*aead, &NONCE, b"fox", sealed.to_vec(), tag.0);
        rejected(&*aead, &NONCE, b"for", sealed[1..].to_vec(), tag.0);
        for place in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[place] ^= 0x80;
            rejected(&*aead, &NONCE, b"for", changed, tag.0);
        }
        for place in 0..16 {
            let mut changed = tag.0;
            changed[place] ^= 1;
            rejected(&*aead, &NONCE, b"for", sealed.to_vec(), changed);
        }
    }
}

#[test]
fn data_that_is_no_whole_blocks_is_refused() {
    let key = Sm4Key::from_bytes(&[1; 16]);
    for size in [1, 15, 17, 31] {
        let mut data = vec![5; size];
        let refused = [
            ecb_encrypt(Backend::best(), &key, &mut data),
            ecb_decrypt(Backend::best(), &key, &mut data),
            cbc_encrypt(Backend::best(), &key, &[0; 16], &mut data),
            cbc_decrypt(Backend::best(), &key, &[0; 16], &mut data),
        ];
        for refused in refused {
            assert!(matches!(refused, Err(Error::CipherBlocks { size: found }) if found == size));
        }
        assert_eq!(data, vec![5; size], "untouched");
    }
    let refused = gcm_seal(Backend::best(), &key, b"", b"", &mut []);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "cipher: nonce has a length this mode does not take"
    );
}

/// Every last byte, and every place of a byte that is wrong, ends in the same error.
#[test]
fn padding_goes_round_and_wrong_padding_is_one_error() {
    for size in 0..50 {
        let mut data = vec![7; size];
        pad(&mut data);
        assert!(data.len().is_multiple_of(16) && data.len() > size);
        unpad(&mut data).unwrap();
        assert_eq!(data, vec![7; size]);
    }
    let rejected = |mut data: Vec<u8>| {
        assert!(matches!(unpad(&mut data), Err(Error::CiphertextRejected)), "{data:?}");
        assert!(data.is_empty());
    };
    rejected(Vec::new());
    for size in [1, 15, 17] {
        rejected(vec![1; size]);
    }
    for last in 0..=u8::MAX {
        let mut block = [last; 32];
        block[15] = !last;
        match last {
            1..=16 => {
                let mut data = block.to_vec();
                unpad(&mut data).unwrap();
                assert_eq!(data, block[..32 - usize::from(last)]);
                for from_end in 1..usize::from(last) {
                    let mut wrong = block;
                    wrong[31 - from_end] ^= 0x40;
                    rejected(wrong.to_vec());
                }
            }
            _ => rejected(block.to_vec()),
        }
    }
}

#[test]
fn many_streams_are_chained_as_alone() {
    let key = Sm4Key::from_bytes(&[6; 16]);
    let plain: Vec<Vec<[u8; 16]>> =
        (0..90_u8).map(|stream| vec![[stream; 16]; usize::from(stream) % 7]).collect();
    for backend in backends() {
        let mut data = plain.clone();
        let mut streams: Vec<CbcStream<'_>> =
            data.iter_mut().map(|blocks| CbcStream { chain: [2; 16], blocks }).collect();
        cbc_encrypt_many(backend, &key, &mut streams);
        for (stream, plain) in data.iter().zip(&plain) {
            let mut alone = plain.clone();
            cbc_encrypt(Backend::PORTABLE, &key, &[2; 16], alone.as_flattened_mut()).unwrap();
            assert_eq!(*stream, alone, "{}", backend.name());
        }
    }
}
