//! The rows of the speed table: what is measured, who offers it, and the least cycles it can take.
//!
//! # Floors
//! What is counted is the vector instructions of the AVX-512 code, put on the ports of a Zen 5 as
//! loops of one instruction show them: two `vpmadd52` a cycle (latency 4), four additions, logic
//! or `vpternlogd` (2), two rotations, shifts (2), permutations (5) or GFNI (3), one `vpclmulqdq`
//! in two cycles (5). M is a product in the field, 70 `vpmadd52` for eight lanes, S a square, 50.
//!
//! - verify, fresh key, 12,600: table of the key 186M + 66S, 255 doublings of 4M + 4S, 51 additions
//!   of 11M + 3S, 22 of 8M + 3S, rest 12M + 4S;
//! - verify, known key, 2,900: 15 doublings, 54 additions of 8M + 3S, rest 8M + 4S;
//! - sign, batch, 1,300: 32 affine sums of 5M + 1S, 10 additions of 8M + 3S, rest 10M + 3S;
//! - multiply, one, portable, 42,800: 1,748M + 1,486S of 16 and 10 multiplications, one a cycle;
//! - SM3, 16 streams, 0.39 a byte: 24.7 instructions a round, 64 rounds for 16 blocks;
//! - SM3, 64 bytes, 44: a block, and one without a schedule, 19 a round;
//! - SM4-CTR, 0.35 a byte: 10 instructions a round and 40 around them, for 256 bytes;
//! - SM4-GCM, 0.39 a byte: 40 more for the hash.
//!
//! # The gaps
//! Latencies, loads, choices from tables and the portable parts are not in a floor.
//! - SM2 in lanes, 1.8 to 2.6: the emitted additions and doublings have nearly as many other vector
//!   instructions, for carries, as `vpmadd52`, and wait for the carries at the end of a product.
//!   Known keys read 54 entries of eight lanes each and turn them; with 16,384 keys the 268 MB of
//!   tables come from memory. Signing reads its whole table for each digit, and ends in portable
//!   code, lane by lane.
//! - SM3 of 16 streams, 2.3: there is one set of lanes, so a round waits for the one before: from E
//!   to E an addition, a rotation, an addition, a rotation and the sum of three, two cycles each
//!   (measured): 0.63 a byte. With 32 messages there are two sets, and the gap is 1.7.
//! - SM4, 1.5: four groups of blocks hide most of the latency of two inversions a round.
//! - One multiple alone, 2.7: carries are additions that wait for each other.

use hufu_kernels::Backend;
use hufu_kernels::sm2::{self as kernel, Item, KeyTable, PrivateKey, SignItem, Verdict};
use hufu_kernels::{sm3 as kernel_sm3, sm4 as kernel_sm4};
use hufu_soak::Numbers;
use libsm::sm2::ecc::EccCtx;
use libsm::sm3::hash::Sm3Hash;
use libsm::sm4::cipher_mode::{CipherMode as LibsmMode, Sm4CipherMode as LibsmCipher};
use num_bigint::BigUint;
use sm3::Digest as _;

use crate::libraries as other;
use crate::openssl;

/// One thing that is measured.
pub struct Row {
    /// What it is.
    pub name: &'static str,
    /// Bytes of an item, where bytes a second are what counts.
    pub bytes: usize,
    /// The least cycles of an item with AVX-512, if it was computed.
    pub floor: Option<f64>,
    /// How many times RustCrypto it must be, and should be, on the back end named.
    pub aim: Option<(&'static str, f64, f64)>,
    /// Those who do it.
    pub contenders: Vec<Contender>,
}

/// Who does it, and how.
pub struct Contender {
    /// A back end of hufu, or a library.
    pub name: String,
    /// Items of a call.
    pub items: usize,
    /// Does it, and panics if the result is wrong.
    pub call: Box<dyn FnMut()>,
}

impl Row {
    fn add(&mut self, name: &str, items: usize, call: impl FnMut() + 'static) {
        self.contenders.push(Contender { name: name.to_owned(), items, call: Box::new(call) });
    }
}

/// A signature with its key.
#[derive(Clone)]
struct Signed {
    d: [u8; 32],
    key: [u8; 64],
    digest: [u8; 32],
    signature: [u8; 64],
}

fn hufu(backend: Backend) -> String {
    format!("hufu {}", backend.name())
}

/// A scalar in 1..n that looks random.
fn scalar(numbers: &mut Numbers) -> [u8; 32] {
    let mut scalar: [u8; 32] = numbers.array();
    scalar[0] &= 0x7f;
    scalar[31] |= 1;
    scalar
}

fn signed(count: usize, numbers: &mut Numbers) -> Vec<Signed> {
    let make = |_| {
        let (d, digest, nonce) = (scalar(numbers), numbers.array(), scalar(numbers));
        let key = PrivateKey::new(Backend::PORTABLE, &d).expect("a key");
        let mut made = [None];
        let item = SignItem { key: &key, digest: &digest, nonce: &nonce };
        kernel::sign_many(Backend::PORTABLE, &[item], &mut made);
        Signed { d, key: *key.public_key(), digest, signature: made[0].expect("a signature") }
    };
    (0..count).map(make).collect()
}

/// Back ends that have SM2 of their own.
fn sm2_backends() -> Vec<Backend> {
    [Some(Backend::PORTABLE), Backend::avx512()].into_iter().flatten().collect()
}

/// All rows whose name contains `part`.
pub fn all(part: &str) -> Vec<Row> {
    let makers: &[(&str, fn(&'static str) -> Row)] = &[
        ("sm2_verify/keys=fresh", verify_fresh),
        ("sm2_verify/keys=64", |name| verify_known(name, 64)),
        ("sm2_verify/keys=1024", |name| verify_known(name, 1_024)),
        ("sm2_verify/keys=16384", |name| verify_known(name, 16_384)),
        ("sm2_sign/batch=256", |name| sign(name, 256)),
        ("sm2_sign/batch=1", |name| sign(name, 1)),
        ("sm2_ecdh/batch=1", ecdh),
        ("sm3/streams=1 bytes=16384", |name| sm3_streams(name, 1)),
        ("sm3/streams=16 bytes=16384", |name| sm3_streams(name, 16)),
        ("sm3/messages=1024 bytes=64", sm3_short),
        ("sm4_ctr/bytes=16384", sm4_ctr),
        ("sm4_gcm/bytes=16384", sm4_gcm),
    ];
    let wanted = makers.iter().filter(|(name, _)| name.contains(part));
    wanted.map(|(name, make)| make(name)).collect()
}

/// Verdicts of one back end on all items at once.
fn verify_call(
    backend: Backend,
    items: Vec<Signed>,
    tables: Vec<Box<KeyTable>>,
    owners: Vec<usize>,
) -> impl FnMut() {
    move || {
        let items: Vec<Item<'_>> = items
            .iter()
            .enumerate()
            .map(|(place, signed)| {
                let table = owners.get(place).map(|owner| &*tables[*owner]);
                let Signed { key, digest, signature, .. } = signed;
                Item { key, digest, signature, table }
            })
            .collect();
        let mut verdicts = vec![Verdict::KeyInvalid; items.len()];
        kernel::verify_many(backend, &items, &mut verdicts);
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Valid), "good signatures");
    }
}

/// Calls `verify` on one item after the other, `count` a call.
fn one_by_one<T: 'static>(items: Vec<T>, count: usize, verify: fn(&T) -> bool) -> impl FnMut() {
    let mut place = 0;
    move || {
        for _ in 0..count {
            assert!(verify(&items[place]), "a good signature");
            place = (place + 1) % items.len();
        }
    }
}

fn verify_others(row: &mut Row, items: &[Signed]) {
    let items = &items[..items.len().min(64)];
    row.add("RustCrypto", 4, {
        let make = |signed: &Signed| (other::RustCrypto::new(&signed.key).unwrap(), signed.clone());
        one_by_one(items.iter().map(make).collect(), 4, |(key, signed)| {
            key.verify(&signed.digest, &signed.signature)
        })
    });
    row.add("OpenSSL", 4, {
        let make = |signed: &Signed| {
            let der = other::der(&signed.signature);
            (openssl::Key::public(&signed.key).unwrap(), signed.digest, der)
        };
        one_by_one(items.iter().map(make).collect(), 4, |(key, digest, der)| {
            key.verify(digest, der)
        })
    });
    row.add("libsm", 2, {
        let make = |signed: &Signed| (other::Libsm::new(&signed.key).unwrap(), signed.clone());
        one_by_one(items.iter().map(make).collect(), 2, |(key, signed)| {
            key.verify(&signed.digest, &signed.signature)
        })
    });
    row.add("sm-crypto", 1, {
        let make = |signed: &Signed| (other::hex(&signed.key), signed.clone());
        one_by_one(items.iter().map(make).collect(), 1, |(key, signed)| {
            let (r, s) = signed.signature.split_at(32);
            let numbers = (BigUint::from_bytes_be(r), BigUint::from_bytes_be(s));
            sm_crypto::sm2::Verify::new(key).verify(&signed.digest, numbers, false)
        })
    });
    row.add("efficient-sm2", 8, {
        let make = |signed: &Signed| {
            let (x, y) = signed.key.split_at(32);
            (efficient_sm2::PublicKey::new(x, y), signed.clone())
        };
        one_by_one(items.iter().map(make).collect(), 8, |(key, signed)| {
            let (r, s) = signed.signature.split_at(32);
            let signature = efficient_sm2::Signature::new(r, s);
            signature.is_ok_and(|signature| signature.verify_digest(key, &signed.digest).is_ok())
        })
    });
}

fn verify_fresh(name: &'static str) -> Row {
    let mut row = Row {
        name,
        bytes: 0,
        floor: Some((1_951.0 * 70.0 + 1_309.0 * 50.0) / 16.0),
        aim: Some(("avx512", 27.0, 33.0)),
        contenders: Vec::new(),
    };
    let items = signed(512, &mut Numbers::of_round(1));
    for backend in sm2_backends() {
        let count = if backend == Backend::PORTABLE { 64 } else { 512 };
        let call = verify_call(backend, items[..count].to_vec(), Vec::new(), Vec::new());
        row.add(&hufu(backend), count, call);
    }
    verify_others(&mut row, &items);
    row
}

/// Signatures in random order whose keys have tables; one for each key, and no fewer than 4,096.
fn verify_known(name: &'static str, count: usize) -> Row {
    let mut row = Row {
        name,
        bytes: 0,
        floor: Some((500.0 * 70.0 + 226.0 * 50.0) / 16.0),
        aim: (count > 64).then_some(("avx512", 100.0, 125.0)),
        contenders: Vec::new(),
    };
    let mut numbers = Numbers::of_round(2);
    let items = signed(count, &mut numbers);
    for backend in sm2_backends() {
        if backend == Backend::PORTABLE && count > 1_024 {
            continue;
        }
        let keys: Vec<&[u8; 64]> = items.iter().map(|signed| &signed.key).collect();
        let mut tables: Vec<Box<KeyTable>> =
            keys.iter().map(|_| Box::new(KeyTable::empty())).collect();
        let mut places: Vec<&mut KeyTable> = tables.iter_mut().map(AsMut::as_mut).collect();
        kernel::tables_many(backend, &keys, &mut places);
        let taken = if backend == Backend::PORTABLE { 256 } else { count.max(4_096) };
        let mut owners: Vec<usize> = (0..taken).map(|place| place % count).collect();
        numbers.shuffle(&mut owners);
        let ordered = owners.iter().map(|owner| items[*owner].clone()).collect();
        row.add(&hufu(backend), taken, verify_call(backend, ordered, tables, owners));
    }
    let rustcrypto =
        |signed: &Signed| (other::RustCrypto::new(&signed.key).unwrap(), signed.clone());
    let keys = items[..64].iter().map(rustcrypto).collect();
    row.add(
        "RustCrypto",
        4,
        one_by_one(keys, 4, |(key, signed)| key.verify(&signed.digest, &signed.signature)),
    );
    row
}

fn sign(name: &'static str, count: usize) -> Row {
    let mut row = Row {
        name,
        bytes: 0,
        floor: (count > 1).then_some((250.0 * 70.0 + 65.0 * 50.0) / 16.0),
        aim: (count > 1).then_some(("avx512", 50.0, 58.0)),
        contenders: Vec::new(),
    };
    let mut numbers = Numbers::of_round(3);
    let signed = signed(1, &mut numbers).remove(0);
    let inputs: Vec<([u8; 32], [u8; 32])> =
        (0..count).map(|_| (numbers.array(), scalar(&mut numbers))).collect();
    for backend in sm2_backends() {
        let key = PrivateKey::new(backend, &signed.d).expect("a key");
        let inputs = inputs.clone();
        row.add(&hufu(backend), count, move || {
            let items: Vec<SignItem<'_>> = inputs
                .iter()
                .map(|(digest, nonce)| SignItem { key: &key, digest, nonce })
                .collect();
            let mut made = vec![None; items.len()];
            kernel::sign_many(backend, &items, &mut made);
            assert!(made.iter().all(Option::is_some), "good nonces");
        });
    }
    let digest = signed.digest;
    let key = other::rustcrypto_signer(&signed.d).expect("a key");
    row.add("RustCrypto", 4, move || {
        for _ in 0..4 {
            assert!(other::rustcrypto_sign(&key, &digest).is_some());
        }
    });
    let key = openssl::Key::private(&signed.d).expect("a key");
    row.add("OpenSSL", 4, move || {
        for _ in 0..4 {
            assert!(key.sign(&digest).is_some());
        }
    });
    let (key, d) = (other::Libsm::new(&signed.key).unwrap(), BigUint::from_bytes_be(&signed.d));
    row.add("libsm", 4, move || {
        for _ in 0..4 {
            assert!(key.sign(&d, &digest));
        }
    });
    let d = other::hex(&signed.d);
    row.add("sm-crypto", 1, move || {
        sm_crypto::sm2::Sign::new(&d).sign(&digest, false);
    });
    let key = efficient_sm2::KeyPair::new(&signed.d).expect("a key");
    let mut source = other::Source(numbers);
    row.add("efficient-sm2", 8, move || {
        for _ in 0..8 {
            assert!(key.sign_digest(&mut source, &digest).is_ok());
        }
    });
    row
}

fn ecdh(name: &'static str) -> Row {
    let floor = Some(1_748.0 * 16.0 + 1_486.0 * 10.0);
    let aim = Some(("avx512", 4.0, 8.0));
    let mut row = Row { name, bytes: 0, floor, aim, contenders: Vec::new() };
    let pair = signed(2, &mut Numbers::of_round(4));
    let (d, key) = (pair[0].d, pair[1].key);
    let wanted = kernel::multiply(Backend::PORTABLE, &d, &key);
    for backend in sm2_backends() {
        row.add(&hufu(backend), 8, move || {
            for _ in 0..8 {
                assert_eq!(kernel::multiply(backend, &d, &key), wanted);
            }
        });
    }
    row.add("RustCrypto", 4, move || {
        for _ in 0..4 {
            assert_eq!(other::rustcrypto_multiply(&d, &key), wanted);
        }
    });
    let curve = openssl::Curve::new().expect("the curve");
    row.add("OpenSSL", 4, move || {
        for _ in 0..4 {
            assert_eq!(curve.multiply(&d, &key), wanted);
        }
    });
    let (context, number) = (EccCtx::new(), BigUint::from_bytes_be(&d));
    row.add("libsm", 2, move || {
        for _ in 0..2 {
            let sec1 = [&[4], key.as_slice()].concat();
            let point = context.bytes_to_point(&sec1).expect("a point");
            let product = context.mul(&number, &point).expect("a multiple");
            let bytes = context.point_to_bytes(&product, false).expect("no infinity");
            assert_eq!(Some(bytes[1..].try_into().unwrap()), wanted);
        }
    });
    row
}

fn all_backends() -> Vec<Backend> {
    hufu_soak::backends()
}

fn sm3_streams(name: &'static str, count: usize) -> Row {
    const SIZE: usize = 16 << 10;
    let mut row = Row {
        name,
        bytes: SIZE,
        floor: (count > 1).then_some(24.7 * 64.0 / 4.0 / 16.0 / 64.0 * SIZE as f64),
        aim: (count > 1).then_some(("avx512", 11.0, 13.0)),
        contenders: Vec::new(),
    };
    let messages: Vec<Vec<u8>> = (0..count).map(|_| Numbers::of_round(5).bytes(SIZE)).collect();
    let wanted: [u8; 32] = sm3::Sm3::digest(&messages[0]).into();
    for backend in all_backends() {
        if count == 1 && backend != Backend::PORTABLE {
            continue;
        }
        let messages = messages.clone();
        row.add(&hufu(backend), count, move || {
            let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            let mut digests = vec![[0; 32]; slices.len()];
            kernel_sm3::digest_many(backend, &slices, &mut digests);
            assert_eq!(digests[0], wanted);
        });
    }
    let message = messages[0].clone();
    sm3_others(&mut row, message, 1);
    row
}

/// The others hash one message after the other; hence one is enough.
fn sm3_others(row: &mut Row, message: Vec<u8>, count: usize) {
    let wanted: [u8; 32] = sm3::Sm3::digest(&message).into();
    let hashers: [(&str, fn(&[u8]) -> [u8; 32]); 4] = [
        ("RustCrypto", |message| sm3::Sm3::digest(message).into()),
        ("OpenSSL", openssl::sm3),
        ("libsm", |message| Sm3Hash::new(message).get_hash()),
        ("sm-crypto", |message| {
            let digest = sm_crypto::sm3::sm3_hash_raw(message);
            digest.try_into().expect("32 bytes")
        }),
    ];
    for (name, hash) in hashers {
        let message = message.clone();
        row.add(name, count, move || {
            for _ in 0..count {
                assert_eq!(hash(std::hint::black_box(&message)), wanted);
            }
        });
    }
}

fn sm3_short(name: &'static str) -> Row {
    const COUNT: usize = 1_024;
    let mut row = Row {
        name,
        bytes: 0,
        floor: Some((24.7 + 19.0) * 64.0 / 4.0 / 16.0),
        aim: Some(("avx512", 13.0, 16.0)),
        contenders: Vec::new(),
    };
    let message: [u8; 64] = Numbers::of_round(6).array();
    let wanted: [u8; 32] = sm3::Sm3::digest(message).into();
    for backend in all_backends() {
        let (pairs, mut parents) = (vec![message; COUNT], vec![[0; 32]; COUNT]);
        row.add(&hufu(backend), COUNT, move || {
            kernel_sm3::digest_pairs(backend, &pairs, &mut parents);
            assert_eq!(parents[COUNT - 1], wanted);
        });
    }
    sm3_others(&mut row, message.to_vec(), 64);
    row
}

const KEY: [u8; 16] = *b"sixteen key byte";
const DATA: usize = 16 << 10;

/// Each call encrypts what the one before left: only the first result is known.
fn checked(wanted: Vec<u8>, mut run: impl FnMut(&mut [u8])) -> impl FnMut() {
    let mut first = vec![7; DATA];
    run(&mut first);
    assert!(first == wanted[..DATA], "the same ciphertext");
    move || {
        for _ in 0..8 {
            run(std::hint::black_box(&mut first));
        }
    }
}

fn sm4_ctr(name: &'static str) -> Row {
    let floor = Some((320.0 + 40.0) / 4.0 / 256.0 * DATA as f64);
    let aim = Some(("avx512", 42.0, 48.0));
    let mut row = Row { name, bytes: DATA, floor, aim, contenders: Vec::new() };
    let counter = [9; 16];
    let mut wanted = vec![7; DATA];
    other::rustcrypto_ctr(&KEY, &counter, &mut wanted);
    for backend in all_backends() {
        let key = kernel_sm4::Key::new(backend, &KEY);
        row.add(
            &hufu(backend),
            8,
            checked(wanted.clone(), move |data| {
                key.ctr(&counter, data);
            }),
        );
    }
    row.add(
        "RustCrypto",
        8,
        checked(wanted.clone(), move |data| {
            other::rustcrypto_ctr(&KEY, &counter, data);
        }),
    );
    let mut key = openssl::Sm4::new(openssl::Mode::Ctr, &KEY, &counter, true);
    row.add("OpenSSL", 8, checked(wanted.clone(), move |data| key.run(data)));
    let key = LibsmCipher::new(&KEY, LibsmMode::Ctr).expect("a key");
    row.add(
        "libsm",
        8,
        checked(wanted, move |data| {
            let made = key.encrypt(&[], data, &counter).expect("a ciphertext");
            data.copy_from_slice(&made[..data.len()]);
        }),
    );
    row
}

fn sm4_gcm(name: &'static str) -> Row {
    let floor = Some((360.0 + 40.0) / 4.0 / 256.0 * DATA as f64);
    let aim = Some(("avx512", 30.0, 38.0));
    let mut row = Row { name, bytes: DATA, floor, aim, contenders: Vec::new() };
    let nonce = [9; 12];
    let mut wanted = vec![7; DATA];
    let other_key = other::RustCryptoGcm::new(&KEY);
    other_key.seal(&nonce, &mut wanted);
    for backend in all_backends() {
        let key = kernel_sm4::gcm::Key::new(backend, &KEY);
        row.add(
            &hufu(backend),
            8,
            checked(wanted.clone(), move |data| {
                std::hint::black_box(key.seal(&nonce, &[], data)).expect("lengths");
            }),
        );
    }
    row.add(
        "RustCrypto",
        8,
        checked(wanted, move |data| {
            std::hint::black_box(other_key.seal(&nonce, data));
        }),
    );
    // libsm takes a nonce of 16 bytes and not GCM's 12: the time is the same kind of work.
    let key = LibsmCipher::new(&KEY, LibsmMode::Gcm).expect("a key");
    let data = vec![7; DATA];
    row.add("libsm", 1, move || {
        std::hint::black_box(key.encrypt(&[], &data, &[9; 16]).expect("a ciphertext"));
    });
    row
}
