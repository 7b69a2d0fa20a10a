//! SM4 in every mode on every back end, against portable; portable against RustCrypto's parts.

use cbc::cipher::{BlockCipherEncrypt as _, BlockModeEncrypt as _, InOutBuf};
use cbc::cipher::{KeyInit as _, KeyIvInit as _, StreamCipher as _};
use ghash::GHash;
use ghash::universal_hash::UniversalHash as _;
use hufu_kernels::Backend;
use hufu_kernels::sm4::{CbcStream, Key, ccm, gcm};

use crate::{Counts, Disagreement, Numbers, backends};

/// Inputs of a round.
const INPUTS: usize = 12;

/// What is encrypted, and with what.
pub struct Input {
    /// The key.
    pub key: [u8; 16],
    /// Counter, initial vector.
    pub vector: [u8; 16],
    /// Nonce of GCM.
    pub nonce: Vec<u8>,
    /// Associated data.
    pub associated: Vec<u8>,
    /// The data.
    pub data: Vec<u8>,
}

impl Input {
    /// One of many lengths, with counters that wrap.
    pub fn new(numbers: &mut Numbers) -> Self {
        let size = match numbers.below(4) {
            0 => numbers.below(300),
            1 => 256 * numbers.below(24) + numbers.below(33),
            2 => 16 * numbers.below(200),
            _ => numbers.below(6_000),
        };
        let mut vector: [u8; 16] = numbers.array();
        match numbers.below(4) {
            0 => vector[12..].fill(0xff),
            1 => vector.fill(0xff),
            2 => vector[8..].fill(0xff),
            _ => {}
        }
        vector[15] = numbers.next() as u8;
        let nonce_size = if numbers.once_in(4) { 1 + numbers.below(40) } else { 12 };
        let associated_max = if numbers.once_in(8) { 1_500 } else { 70 };
        let associated_size = numbers.below(associated_max);
        Self {
            key: numbers.array(),
            vector,
            nonce: numbers.bytes(nonce_size),
            associated: numbers.bytes(associated_size),
            data: numbers.bytes(size),
        }
    }

    fn disagreement(&self, what: String) -> Disagreement {
        let parts: [(&str, &[u8]); 5] = [
            ("key", &self.key),
            ("vector", &self.vector),
            ("nonce", &self.nonce),
            ("associated", &self.associated),
            ("data", &self.data),
        ];
        Disagreement::new(what, &parts)
    }

    fn blocks(&self) -> Vec<[u8; 16]> {
        self.data.as_chunks::<16>().0.to_vec()
    }
}

/// What one back end makes of an input in one mode.
type Run = fn(Backend, &Input) -> Vec<u8>;

const MODES: &[(&str, Run)] = &[
    ("ecb", |backend, input| {
        let (key, mut blocks) = (Key::new(backend, &input.key), input.blocks());
        key.encrypt_blocks(&mut blocks);
        blocks.concat()
    }),
    ("ecb decrypt", |backend, input| {
        let (key, mut blocks) = (Key::new(backend, &input.key), input.blocks());
        key.decrypt_blocks(&mut blocks);
        blocks.concat()
    }),
    ("ctr", |backend, input| {
        let mut data = input.data.clone();
        let next = Key::new(backend, &input.key).ctr(&input.vector, &mut data);
        data.extend(next);
        data
    }),
    ("cbc", |backend, input| {
        let (key, mut blocks) = (Key::new(backend, &input.key), input.blocks());
        let mut chain = input.vector;
        key.cbc_encrypt(&mut chain, &mut blocks);
        blocks.push(chain);
        blocks.concat()
    }),
    ("cbc decrypt", |backend, input| {
        let (key, mut blocks) = (Key::new(backend, &input.key), input.blocks());
        let mut chain = input.vector;
        key.cbc_decrypt(&mut chain, &mut blocks);
        blocks.push(chain);
        blocks.concat()
    }),
    ("cbc of many", |backend, input| {
        let (key, mut blocks) = (Key::new(backend, &input.key), input.blocks());
        let mut rest = blocks.as_mut_slice();
        let mut streams = Vec::new();
        let mut chain = input.vector;
        while !rest.is_empty() {
            let (size, all) = (usize::from(chain[0] % 9), rest.len());
            let (first, others) = rest.split_at_mut(size.min(all));
            streams.push(CbcStream { chain, blocks: first });
            chain[0] = chain[0].wrapping_mul(5).wrapping_add(13);
            rest = others;
        }
        key.cbc_encrypt_many(&mut streams);
        let chains = streams.iter().flat_map(|stream| stream.chain).collect::<Vec<_>>();
        [blocks.concat(), chains].concat()
    }),
    ("gcm", |backend, input| {
        let mut data = input.data.clone();
        let key = gcm::Key::new(backend, &input.key);
        let tag = key.seal(&input.nonce, &input.associated, &mut data).unwrap();
        data.extend(tag);
        data
    }),
    ("gcm open", |backend, input| {
        let key = gcm::Key::new(backend, &input.key);
        let mut data = input.data.clone();
        let mut tag = key.seal(&input.nonce, &input.associated, &mut data).unwrap();
        let opened = key.open(&input.nonce, &input.associated, &mut data, &tag);
        assert_eq!((opened, &data), (Ok(()), &input.data), "its own ciphertext");
        tag[usize::from(input.key[0] % 16)] ^= 1 << (input.key[1] % 8);
        key.open(&input.nonce, &input.associated, &mut data, &tag).unwrap_err();
        data
    }),
    ("ccm", |backend, input| {
        let key = Key::new(backend, &input.key);
        let mut data = input.data.clone();
        let nonce = &input.vector[..7 + usize::from(input.key[0] % 7)];
        let size = 4 + 2 * usize::from(input.key[1] % 7);
        let Ok(tag) = ccm::seal(&key, nonce, &input.associated, &mut data, size) else {
            return Vec::new();
        };
        let mut opened = data.clone();
        let result = ccm::open(&key, nonce, &input.associated, &mut opened, &tag[..size]);
        assert_eq!((result, &opened), (Ok(()), &input.data), "its own ciphertext");
        data.extend(tag);
        data
    }),
];

/// # Errors
/// The first disagreement.
pub fn compare(numbers: &mut Numbers, counts: &mut Counts) -> Result<(), Disagreement> {
    for _ in 0..INPUTS {
        let input = Input::new(numbers);
        for (mode, run) in MODES {
            let expected = run(Backend::PORTABLE, &input);
            for backend in backends().into_iter().skip(1) {
                if run(backend, &input) != expected {
                    let what = format!("SM4 {mode}: {} is not portable", backend.name());
                    return Err(input.disagreement(what));
                }
                counts.add("sm4/portable", 1);
            }
            if let Some(other) = rustcrypto(mode, &input) {
                if other[..] != expected[..other.len()] {
                    let what = format!("SM4 {mode}: portable is not RustCrypto");
                    return Err(input.disagreement(what));
                }
                counts.add("sm4/rustcrypto", 1);
            }
        }
    }
    Ok(())
}

/// The beginning of what RustCrypto makes of the input; nothing for modes there are none of.
fn rustcrypto(mode: &str, input: &Input) -> Option<Vec<u8>> {
    let (key, vector) = (&input.key.into(), &input.vector.into());
    let mut data = input.data.clone();
    match mode {
        "ecb" => {
            let cipher = sm4::Sm4::new(key);
            let mut blocks = input.blocks();
            for block in &mut blocks {
                cipher.encrypt_block(block.into());
            }
            return Some(blocks.concat());
        }
        "ctr" => ctr::Ctr128BE::<sm4::Sm4>::new(key, vector).apply_keystream(&mut data),
        "cbc" => {
            data.truncate(data.len() / 16 * 16);
            let (blocks, _) = InOutBuf::from(data.as_mut_slice()).into_chunks();
            cbc::Encryptor::<sm4::Sm4>::new(key, vector).encrypt_blocks_inout(blocks);
        }
        "gcm" if input.nonce.len() == 12 => {
            let mut point = [0; 16].into();
            sm4::Sm4::new(key).encrypt_block(&mut point);
            let mut first = [0; 16];
            first[..12].copy_from_slice(&input.nonce);
            first[15] = 1;
            let mut stream = ctr::Ctr32BE::<sm4::Sm4>::new(key, &first.into());
            let mut tag = [0; 16];
            stream.apply_keystream(&mut tag);
            stream.apply_keystream(&mut data);
            let mut hash = GHash::new(&point);
            hash.update_padded(&input.associated);
            hash.update_padded(&data);
            let mut lengths = [0; 16];
            lengths[..8].copy_from_slice(&(8 * input.associated.len() as u64).to_be_bytes());
            lengths[8..].copy_from_slice(&(8 * data.len() as u64).to_be_bytes());
            hash.update(&[lengths.into()]);
            for (byte, hashed) in tag.iter_mut().zip(hash.finalize()) {
                *byte ^= hashed;
            }
            data.extend(tag);
        }
        _ => return None,
    }
    Some(data)
}
