//! The known-answer test of a back end before anybody relies on it (GM/T 0028-2014 7.10).
//!
//! ```text
//! Provider, Backend --> every algorithm, every lane: answers of the standards, and refusals
//!                  '--> the first that is wrong ends it: the node does not start
//! ```
//!
//! Answers come from the standards and from OpenSSL, so a back end that errs as portable does is
//! found too. It takes the provider as an argument: what is tested is what the node will use.

#[cfg(test)]
mod tests;

use hufu_kernels::{Backend, sm2 as kernel};

use crate::cipher::{self, Sm4Key};
use crate::digest::{Digest, Sm3, decode_hex};
use crate::keys::{PublicKey, Signature};
use crate::provider::{Provider, Verdict, VerifyItem};
use crate::{Drbg, Error, Signer as _, SoftwareSigner, drbg, encryption, exchange, hkdf, hmac};

/// Items side by side, count: every lane of the widest back end (sixteen), and some of a batch
/// more.
const PLACES: usize = 20;

/// Signatures made at once, count: more than any back end takes in one go.
const MANY: usize = 72;

/// What is wrong with an algorithm, if anything is.
type Finding = Result<(), &'static str>;

/// One algorithm and its test.
type Test = (&'static str, fn(&Provider, Backend) -> Finding);

/// What is tested, in this order: what the others build on comes first.
const TESTS: [Test; 11] = [
    ("SM3", digests),
    ("HMAC and HKDF", keyed_digests),
    ("SM2 verification", verification),
    ("SM2 verification, known keys", known_keys),
    ("SM2 signing", signing),
    ("SM2 encryption", sm2_encryption),
    ("SM2 key exchange", key_exchange),
    ("SM4 blocks, CTR and CBC", blocks),
    ("SM4-GCM and SM4-CCM", sealed),
    ("random bit generator", generator),
    ("entropy", entropy),
];

/// Tests every algorithm of the provider and of the back end it stands on; gives their names.
///
/// # Errors
/// [`Error::SelfTest`] with the first that gave a wrong answer.
pub fn selftest(provider: &Provider, backend: Backend) -> Result<Vec<&'static str>, Error> {
    let mut passed = Vec::with_capacity(TESTS.len());
    for (algorithm, test) in TESTS {
        test(provider, backend).map_err(|fault| Error::SelfTest { algorithm, fault })?;
        passed.push(algorithm);
    }
    Ok(passed)
}

const fn ensure(holds: bool, fault: &'static str) -> Finding {
    if holds { Ok(()) } else { Err(fault) }
}

/// Digits of this file as bytes; zero, which no test accepts, if they are none.
fn hex<const SIZE: usize>(text: &str) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    if decode_hex(text, &mut bytes).is_none() {
        return [0; SIZE];
    }
    bytes
}

/// Bytes that repeat nowhere within a block of any algorithm.
fn sample(size: usize) -> Vec<u8> {
    let byte = |place: usize| (3 * place + (place >> 8)).to_le_bytes()[0];
    (0..size).map(byte).collect()
}

/// SM3 of one stream, of messages of unequal lengths side by side, and of pairs.
fn digests(provider: &Provider, _: Backend) -> Finding {
    // GB/T 32905-2016 annex A.1.
    let abc = "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0";
    ensure(Sm3::of(&[b"a", b"bc"]).0 == hex(abc), "one stream")?;
    let data = sample(4_101);
    let whole = "40dfaeb4561792f949c5c3a4eaddd27d223773e17d2633a781a2746dab8eb0b0";
    ensure(Sm3::of(&[&data]).0 == hex(whole), "one long stream")?;

    let messages: Vec<&[u8]> = (0..40).map(|number| &data[..7 * number]).collect();
    let mut found = vec![Digest::ZERO; messages.len()];
    provider.hasher.digest_many(&messages, &mut found);
    let all = "b1591d5eb86b065796ab600ae32ff1ce717dccf07ce1042c57c6f45e1da00de4";
    ensure(of_all(&found) == hex(all), "many streams of unequal lengths")?;
    let each = messages.iter().zip(&found);
    ensure(each.clone().all(|(message, digest)| Sm3::of(&[message]) == *digest), "a lane")?;

    let half = |at: usize| Digest(data[at..at + 32].try_into().unwrap_or_default());
    let pairs: Vec<[Digest; 2]> =
        (0..40).map(|number| [half(64 * number), half(64 * number + 32)]).collect();
    let mut parents = vec![Digest::ZERO; pairs.len()];
    provider.hasher.digest_pairs(&pairs, &mut parents);
    let all = "9b4a454ca638d82b50ef2df436d31deee9dfc8372a14793d5110645d204f5910";
    ensure(of_all(&parents) == hex(all), "pairs")
}

/// HMAC-SM3 with a short key and one longer than a block, and HKDF over three rounds.
fn keyed_digests(_: &Provider, _: Backend) -> Finding {
    let short = "bd4a34077888162b210645b8ebf74b9af357303789357a27c7fc457244ebd398";
    let found = hmac(b"key", &[b"The quick brown fox ", b"jumps over the lazy dog"]);
    ensure(found.0 == hex(short), "HMAC")?;
    let long_key: Vec<u8> = (0..100).collect();
    let long = "80e2e45a2f42292ce33b20004a0c9bdfcdcd98d7b21bba7e9f66b775a8a261d1";
    ensure(hmac(&long_key, &[b"long key"]).0 == hex(long), "HMAC with a long key")?;
    let mut derived = [0; 80];
    hkdf(b"salt", &long_key[..32], b"info", &mut derived);
    let wanted = "a764dd17270791aafe1d44629b653316944ac27497ac7fb03ecbc3008981a20ac7d8cc99f4f6\
        5764f51f965ceb1eb8f385f05aa8a3483fead0913cae132527ecd338befa0fba03524ba14d41fce6c714";
    ensure(derived == hex::<80>(wanted), "HKDF")
}

fn of_all(digests: &[Digest]) -> [u8; 32] {
    let parts: Vec<&[u8]> = digests.iter().map(|digest| digest.0.as_slice()).collect();
    Sm3::of(&parts).0
}

/// The signature example of GB/T 32918.5-2017 A.2.
struct Example {
    private: [u8; 32],
    nonce: [u8; 32],
    key: PublicKey,
    digest: Digest,
    signature: Signature,
}

fn example() -> Example {
    let [x, y] = [
        "09f9df311e5421a150dd7d161e4bc5c672179fad1833fc076bb08ff356f35020",
        "ccea490ce26775a52dc6ea718cc1aa600aed05fbf35e084a6632f6072da9ad13",
    ];
    let [r, s] = [
        "f5a03b0648d2c4630eeac513e1bb81a15944da3827d5b74143ac7eaceee720b3",
        "b1b6aa29df212fd8763182bc0d421ca1bb9038fd1f7f42d4840b69c485bbc1aa",
    ];
    Example {
        private: hex("3945208f7b2144b13f36e38ac6d39f95889393692860b51a42fb81ef4df7c5b8"),
        nonce: hex("59276e27d506861a16680f3ad9c02dccef3cc1fa3cdbe4ce6d54b80deac1bc21"),
        key: PublicKey(joined(x, y)),
        digest: Digest(hex("f0b43e94ba45accaace692ed534382eb17e6ab5a19ce7b31f4486fdfc0d28640")),
        signature: Signature(joined(r, s)),
    }
}

fn joined(left: &str, right: &str) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&hex::<32>(left));
    bytes[32..].copy_from_slice(&hex::<32>(right));
    bytes
}

/// The order n of the base point.
const ORDER: &str = "fffffffeffffffffffffffffffffffff7203df6b21c6052b53bbf40939d54123";

/// r = e and s with [s]G + [t]P at infinity for the key of the example: whoever knows d can make
/// one, and some libraries take it.
const INFINITY: [&str; 2] = [
    "4f81beecc10af4f71a9cd9c968ba764de01c08233e46ffdc935658074844098e",
    "44bce0949bce0e9afff2889f4fc7dc839c11c133e76e48128b80b17c77c5f3e2",
];

/// The example with one thing wrong with it, in every way a verifier must see.
fn bad_items(good: &Example) -> Vec<(PublicKey, Digest, Signature, Verdict)> {
    let Example { key, digest, signature, .. } = *good;
    let order: [u8; 32] = hex(ORDER);
    let with = |range: core::ops::Range<usize>, bytes: [u8; 32]| {
        let mut changed = signature;
        changed.0[range].copy_from_slice(&bytes);
        (key, digest, changed, Verdict::SignatureInvalid)
    };
    let flipped = |place: usize| {
        let mut changed = signature;
        changed.0[place] ^= 1;
        (key, digest, changed, Verdict::SignatureInvalid)
    };
    let mut other_digest = digest;
    other_digest.0[31] ^= 1;
    let mut off_curve = key;
    off_curve.0[63] ^= 1;
    // t = r + s = 0: s = n - r.
    let mut opposite = order;
    let mut borrow = 0;
    for (digit, r) in opposite.iter_mut().zip(&signature.0[..32]).rev() {
        let (first, under) = digit.overflowing_sub(*r);
        let (difference, again) = first.overflowing_sub(borrow);
        (*digit, borrow) = (difference, u8::from(under | again));
    }
    let [r, s] = INFINITY;
    let mut swapped = signature;
    swapped.0.rotate_left(32);
    vec![
        with(0..32, [0; 32]),
        with(32..64, [0; 32]),
        with(0..32, order),
        with(32..64, order),
        with(32..64, opposite),
        flipped(31),
        flipped(63),
        (key, digest, swapped, Verdict::SignatureInvalid),
        (key, other_digest, signature, Verdict::SignatureInvalid),
        (key, Digest(hex(r)), Signature(joined(r, s)), Verdict::SignatureInvalid),
        (off_curve, digest, signature, Verdict::KeyInvalid),
        (PublicKey([0; 64]), digest, signature, Verdict::KeyInvalid),
        (PublicKey([0xff; 64]), digest, signature, Verdict::KeyInvalid),
    ]
}

/// A good signature alone and in every lane, and every kind of bad one in every lane between good
/// ones.
fn verification(provider: &Provider, _: Backend) -> Finding {
    let good = example();
    let item = VerifyItem { key: &good.key, digest: good.digest, signature: &good.signature };
    ensure(provider.verifier.verify(item) == Verdict::Valid, "a good signature alone")?;
    let mut verdicts = [Verdict::KeyInvalid; PLACES];
    provider.verifier.verify_many(&[item; PLACES], &mut verdicts);
    ensure(verdicts == [Verdict::Valid; PLACES], "good signatures side by side")?;
    for (key, digest, signature, wanted) in &bad_items(&good) {
        let bad = VerifyItem { key, digest: *digest, signature };
        ensure(provider.verifier.verify(bad) == *wanted, "a bad signature alone")?;
        for place in 0..PLACES {
            let (mut items, mut expected) = ([item; PLACES], [Verdict::Valid; PLACES]);
            (items[place], expected[place]) = (bad, *wanted);
            provider.verifier.verify_many(&items, &mut verdicts);
            ensure(verdicts == expected, "a bad signature between good ones")?;
        }
    }
    Ok(())
}

/// The same with the tables of known keys: for all items, and for every second one.
fn known_keys(_: &Provider, backend: Backend) -> Finding {
    let good = example();
    let mut table = Box::new(kernel::KeyTable::empty());
    kernel::tables_many(backend, &[&good.key.0], &mut [&mut *table]);
    ensure(table.is_of(backend, &good.key.0), "the table of a key")?;
    let item = |place: usize, is_mixed: bool| kernel::Item {
        key: &good.key.0,
        digest: &good.digest.0,
        signature: &good.signature.0,
        table: (!is_mixed || place.is_multiple_of(2)).then_some(&*table),
    };
    let bad = bad_items(&good);
    for is_mixed in [false, true] {
        let items: [kernel::Item<'_>; PLACES] = core::array::from_fn(|place| item(place, is_mixed));
        let mut verdicts = [kernel::Verdict::KeyInvalid; PLACES];
        kernel::verify_many(backend, &items, &mut verdicts);
        ensure(verdicts == [kernel::Verdict::Valid; PLACES], "good signatures")?;
        let of_the_key = bad.iter().filter(|(key, ..)| *key == good.key);
        for (place, (_, digest, signature, _)) in of_the_key.cycle().take(4 * PLACES).enumerate() {
            let place = place % PLACES;
            let (mut items, mut expected) = (items, [kernel::Verdict::Valid; PLACES]);
            items[place].digest = &digest.0;
            items[place].signature = &signature.0;
            expected[place] = kernel::Verdict::SignatureInvalid;
            kernel::verify_many(backend, &items, &mut verdicts);
            ensure(verdicts == expected, "a bad signature between good ones")?;
        }
    }
    Ok(())
}

/// The example's signature from its nonce in every lane, refusals in every lane, and a fresh
/// signature that the provider takes.
fn signing(provider: &Provider, backend: Backend) -> Finding {
    let Example { private, nonce, key, digest, signature } = example();
    let own = kernel::PrivateKey::new(backend, &private).ok_or("a private key")?;
    ensure(own.public_key() == &key.0, "the public key of a private key")?;
    let item = kernel::SignItem { key: &own, digest: &digest.0, nonce: &nonce };
    let mut made = [None; PLACES];
    kernel::sign_many(backend, &[item; PLACES], &mut made);
    ensure(made == [Some(signature.0); PLACES], "signatures side by side")?;
    let mut many = [None; MANY];
    kernel::sign_many(backend, &[item; MANY], &mut many);
    ensure(many == [Some(signature.0); MANY], "many signatures side by side")?;
    for unfit in [[0; 32], hex(ORDER), [0xff; 32]] {
        for place in 0..PLACES {
            let (mut items, mut expected) = ([item; PLACES], [Some(signature.0); PLACES]);
            items[place] = kernel::SignItem { nonce: &unfit, ..item };
            expected[place] = None;
            kernel::sign_many(backend, &items, &mut made);
            ensure(made == expected, "a nonce out of range between good ones")?;
        }
    }
    for bad in [[0; 32], hex(ORDER)] {
        let refused = kernel::PrivateKey::new(backend, &bad).is_none();
        ensure(refused, "a private key out of range")?;
    }
    let signer = SoftwareSigner::from_bytes(&private).map_err(|_| "a signer")?.on(backend);
    let fresh = signer.sign(&digest).map_err(|_| "a fresh signature")?;
    let item = VerifyItem { key: &key, digest, signature: &fresh };
    ensure(provider.verifier.verify(item) == Verdict::Valid, "a fresh signature")
}

/// The example of GB/T 32918.5-2017 C.2 both ways, and a change.
fn sm2_encryption(_: &Provider, backend: Backend) -> Finding {
    let Example { private, nonce, key, .. } = example();
    let answer = encryption::known_answer(backend, &private, &nonce, &key);
    answer.map_err(|()| "the example of the standard")
}

fn key_exchange(_: &Provider, backend: Backend) -> Finding {
    exchange::known_answer(backend).map_err(|()| "the example of the standard")
}

/// The key of GB/T 32907-2016 annex A.
fn sm4_key() -> Sm4Key {
    Sm4Key::from_bytes(&hex("0123456789abcdeffedcba9876543210"))
}

/// The example of the standard, and streams that OpenSSL encrypted.
fn blocks(_: &Provider, backend: Backend) -> Finding {
    let key = sm4_key();
    let mut block: [u8; 16] = hex("0123456789abcdeffedcba9876543210");
    cipher::ecb_encrypt(backend, &key, &mut block).map_err(|_| "a block")?;
    ensure(block == hex("681edf34d206965e86b3e94f536e4246"), "a block")?;

    let (plain, start) = (sample(4_101), hex("000102030405060708090afffffffff0"));
    let mut data = plain.clone();
    cipher::ctr(backend, &key, &start, &mut data);
    let wanted = "cfb6866f3746db70b60404645719d1711143190e7ce47456a3ff7190548e3791";
    ensure(Sm3::of(&[&data]).0 == hex(wanted), "CTR")?;
    cipher::ctr(backend, &key, &start, &mut data);
    ensure(data == plain, "CTR back")?;

    let plain = &plain[..4_096];
    let mut data = plain.to_vec();
    cipher::ecb_encrypt(backend, &key, &mut data).map_err(|_| "ECB")?;
    let wanted = "52bc0061b36d2189441ac6217a3a54b73e21644e987785f7e2a8dd2c6b6193d8";
    ensure(Sm3::of(&[&data]).0 == hex(wanted), "ECB")?;
    cipher::ecb_decrypt(backend, &key, &mut data).map_err(|_| "ECB back")?;
    ensure(data == plain, "ECB back")?;

    cipher::cbc_encrypt(backend, &key, &start, &mut data).map_err(|_| "CBC")?;
    let wanted = "f7f569179fa35fd214e58364023ab2daf32cd5c1670fb7bcf5dbca623ab54664";
    ensure(Sm3::of(&[&data]).0 == hex(wanted), "CBC")?;
    cipher::cbc_decrypt(backend, &key, &start, &mut data).map_err(|_| "CBC back")?;
    ensure(data == plain, "CBC back")
}

/// RFC 8998 appendix A: nonce, associated data, and what both modes encrypt.
struct Sealed {
    nonce: [u8; 12],
    associated: [u8; 20],
    plain: Vec<u8>,
}

fn rfc_8998() -> Sealed {
    let bytes = [0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0xee, 0xaa];
    Sealed {
        nonce: hex("00001234567800000000abcd"),
        associated: hex("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
        plain: bytes.iter().flat_map(|byte| [*byte; 8]).collect(),
    }
}

/// The examples of RFC 8998, a long message as portable seals it, and refusals.
fn sealed(provider: &Provider, backend: Backend) -> Finding {
    let (key, Sealed { nonce, associated, plain }) = (sm4_key(), rfc_8998());
    let aead = provider.cipher.sm4_gcm(&key);
    let mut data = plain.clone();
    let tag = aead.seal(&nonce, &associated, &mut data);
    ensure(tag.0 == hex("83de3541e4c2b58177e065a9bf7b62ec"), "the tag of GCM")?;
    ensure(data[..8] == hex::<8>("17f399f08c67d5ee"), "the ciphertext of GCM")?;
    aead.open(&nonce, &associated, &mut data, &tag).map_err(|_| "GCM back")?;
    ensure(data == plain, "GCM back")?;

    let mut data = plain.clone();
    let made = cipher::ccm_seal(backend, &key, &nonce, &associated, &mut data, 16);
    let tag = made.map_err(|_| "CCM")?;
    ensure(tag == hex("16842d4fa186f56ab33256971fa110f4"), "the tag of CCM")?;
    cipher::ccm_open(backend, &key, &nonce, &associated, &mut data, &tag)
        .map_err(|_| "CCM back")?;
    ensure(data == plain, "CCM back")?;

    let plain = sample(4_101);
    let (mut data, mut wanted) = (plain.clone(), plain.clone());
    let mut tag = aead.seal(&nonce, &plain, &mut data);
    let portable = cipher::gcm_seal(Backend::PORTABLE, &key, &nonce, &plain, &mut wanted)
        .map_err(|_| "GCM")?;
    ensure(tag.0 == portable && data == wanted, "a long message of GCM")?;
    let mut changed = data.clone();
    changed[4_000] ^= 1;
    let refused = aead.open(&nonce, &plain, &mut changed, &tag).is_err();
    ensure(refused && changed.iter().all(|byte| *byte == 0), "a changed ciphertext of GCM")?;
    tag.0[15] ^= 1;
    ensure(aead.open(&nonce, &plain, &mut data, &tag).is_err(), "a changed tag of GCM")
}

fn generator(_: &Provider, _: Backend) -> Finding {
    drbg::known_answer().map_err(|()| "draws from a known seed")
}

/// The source passes its tests of health, and no two generators draw the same.
fn entropy(provider: &Provider, _: Backend) -> Finding {
    let mut draws = [[0; 32]; 2];
    for draw in &mut draws {
        let source = std::sync::Arc::clone(&provider.entropy);
        let generator = Drbg::new(source, "self-test");
        generator
            .and_then(|mut generator| generator.fill(draw))
            .map_err(|_| "the source's health")?;
    }
    ensure(draws[0] != draws[1], "two seeds are equal")
}
