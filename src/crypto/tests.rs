//! Tests of the whole crate: the standard's examples, vectors of other projects, and what must be
//! refused. They go through the seam, so a new back end is tested by naming it in [`providers`].

use std::path::Path;

use proptest::prelude::*;
use sm2::dsa::signature::hazmat::PrehashVerifier as _;
use sm2::elliptic_curve::group::Group as _;
use sm2::elliptic_curve::point::{AffineCoordinates as _, DecompressPoint as _};
use sm2::elliptic_curve::sec1::ToSec1Point as _;
use sm2::elliptic_curve::{PrimeField as _, subtle::Choice};
use sm2::{AffinePoint, ProjectivePoint, Scalar};

use super::*;

mod cipher;
mod encrypted_keys;
mod kernels;
mod key_files;
mod sealed;

/// Order n of the base point (GB/T 32918.5-2017 A.1).
const ORDER: [u8; 32] = hex("FFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123");
/// Prime p of the field (GB/T 32918.5-2017 A.1).
const PRIME: [u8; 32] = hex("FFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF");

/// The signature example of GB/T 32918.5-2017 A.2: private key, public key, message.
const EXAMPLE_SECRET: [u8; 32] =
    hex("3945208F7B2144B13F36E38AC6D39F95889393692860B51A42FB81EF4DF7C5B8");
const EXAMPLE_KEY: PublicKey = PublicKey(hex(
    "09F9DF311E5421A150DD7D161E4BC5C672179FAD1833FC076BB08FF356F35020CCEA490CE26775A52DC6EA718CC1AA60\
     0AED05FBF35E084A6632F6072DA9AD13",
));
const EXAMPLE_MESSAGE: &[u8] = b"message digest";
/// ZA and e of the same example.
const EXAMPLE_IDENTITY_DIGEST: Digest =
    Digest(hex("B2E14C5C79C6DF5B85F4FE7ED8DB7A262B9DA7E07CCB0EA9F4747B8CCDA8A4F3"));
const EXAMPLE_DIGEST: Digest =
    Digest(hex("F0B43E94BA45ACCAACE692ED534382EB17E6AB5A19CE7B31F4486FDFC0D28640"));
/// r || s of the same example.
const EXAMPLE_SIGNATURE: Signature = Signature(hex(
    "F5A03B0648D2C4630EEAC513E1BB81A15944DA3827D5B74143AC7EACEEE720B3B1B6AA29DF212FD8763182BC0D421CA1\
     BB9038FD1F7F42D4840B69C485BBC1AA",
));

/// Hexadecimal digits of a standard as bytes, checked while compiling.
const fn hex<const SIZE: usize>(text: &str) -> [u8; SIZE] {
    let digits = text.as_bytes();
    assert!(digits.len() == 2 * SIZE, "two digits a byte");
    let mut bytes = [0; SIZE];
    let mut index = 0;
    while index < SIZE {
        bytes[index] = value(digits[2 * index]) << 4 | value(digits[2 * index + 1]);
        index += 1;
    }
    bytes
}

const fn value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'A'..=b'F' => digit - b'A' + 10,
        _ => panic!("a hexadecimal digit"),
    }
}

/// Every back end there is; each must pass every test.
fn providers() -> Vec<Provider> {
    let backends = [Some(Backend::PORTABLE), Backend::avx2(), Backend::avx512()];
    backends.into_iter().flatten().map(software_provider_on).collect()
}

/// What every back end says of one signature; they must agree, and with RustCrypto, which shares no
/// line with them.
fn judge(key: &PublicKey, digest: Digest, signature: &Signature) -> Verdict {
    let item = VerifyItem { key, digest, signature };
    let expected = oracle(key, &digest, signature);
    let neighbour =
        VerifyItem { key: &EXAMPLE_KEY, digest: EXAMPLE_DIGEST, signature: &EXAMPLE_SIGNATURE };
    for provider in providers() {
        assert_eq!(provider.verifier.verify(item), expected, "{key} {digest} {signature}");
        // In lanes too, of which a single item need not take any.
        let mut verdicts = [Verdict::KeyInvalid; 3];
        provider.verifier.verify_many(&[item, neighbour, item], &mut verdicts);
        let all = [expected, Verdict::Valid, expected];
        assert_eq!(verdicts, all, "{key} {digest} {signature}");
    }
    assert_eq!(is_curve_point(key), expected != Verdict::KeyInvalid);
    expected
}

fn oracle(key: &PublicKey, digest: &Digest, signature: &Signature) -> Verdict {
    let mut sec1 = [4; 65];
    sec1[1..].copy_from_slice(&key.0);
    let Ok(key) = sm2::dsa::VerifyingKey::from_sec1_bytes("", &sec1) else {
        return Verdict::KeyInvalid;
    };
    let verified = sm2::dsa::Signature::from_slice(&signature.0)
        .and_then(|signature| key.verify_prehash(&digest.0, &signature));
    if verified.is_ok() { Verdict::Valid } else { Verdict::SignatureInvalid }
}

fn scalar(bytes: &[u8; 32]) -> Scalar {
    Scalar::from_repr((*bytes).into()).unwrap()
}

fn bytes(scalar: Scalar) -> [u8; 32] {
    scalar.to_repr().into()
}

fn joined(r: [u8; 32], s: [u8; 32]) -> Signature {
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&r);
    signature[32..].copy_from_slice(&s);
    Signature(signature)
}

fn key_of(point: ProjectivePoint) -> PublicKey {
    let encoded = point.to_affine().to_sec1_point(false);
    PublicKey(encoded.as_bytes()[1..].try_into().unwrap())
}

/// `value` plus `count`, as 256-bit big-endian numbers.
fn plus(mut value: [u8; 32], count: u8) -> [u8; 32] {
    let mut carry = count;
    for byte in value.iter_mut().rev() {
        let (sum, over) = byte.overflowing_add(carry);
        (*byte, carry) = (sum, u8::from(over));
    }
    value
}

/// `value` minus one.
fn minus_one(mut value: [u8; 32]) -> [u8; 32] {
    for byte in value.iter_mut().rev() {
        let (difference, under) = byte.overflowing_sub(1);
        *byte = difference;
        if !under {
            break;
        }
    }
    value
}

fn unhex(text: &str) -> Vec<u8> {
    let mut bytes = vec![0; text.len() / 2];
    digest::decode_hex(text, &mut bytes).unwrap();
    bytes
}

mod standard {
    use super::*;

    /// GB/T 32918.5-2017 A.2, every intermediate value it prints.
    #[test]
    fn the_signature_example_verifies() {
        let signer = SoftwareSigner::from_bytes(&EXAMPLE_SECRET).unwrap();
        assert_eq!(signer.public_key(), &EXAMPLE_KEY);
        let za = identity_digest(IDENTITY_DEFAULT, &EXAMPLE_KEY);
        assert_eq!(za, EXAMPLE_IDENTITY_DIGEST);
        let e = message_digest(&za, EXAMPLE_MESSAGE);
        assert_eq!(e, EXAMPLE_DIGEST);
        assert_eq!(judge(&EXAMPLE_KEY, e, &EXAMPLE_SIGNATURE), Verdict::Valid);
    }

    #[test]
    fn another_identity_message_or_key_does_not_verify() {
        let other = message_digest(&identity_digest(b"ALICE123@YAHOO.COM", &EXAMPLE_KEY), b"");
        assert_eq!(judge(&EXAMPLE_KEY, other, &EXAMPLE_SIGNATURE), Verdict::SignatureInvalid);
        let changed = message_digest(&EXAMPLE_IDENTITY_DIGEST, b"message digesu");
        assert_eq!(judge(&EXAMPLE_KEY, changed, &EXAMPLE_SIGNATURE), Verdict::SignatureInvalid);
        let signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
        let verdict = judge(signer.public_key(), EXAMPLE_DIGEST, &EXAMPLE_SIGNATURE);
        assert_eq!(verdict, Verdict::SignatureInvalid);
    }
}

mod vectors {
    use super::*;

    /// Blocks of `name = value` lines, each ended by a blank line, of a file outside the project;
    /// `None`, with a message, when the file is not there.
    pub(super) fn blocks(name: &str) -> Option<Vec<Vec<(String, String)>>> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors").join(name);
        let Ok(text) = std::fs::read_to_string(&path) else {
            println!("skipped: no {}", path.display());
            return None;
        };
        let mut blocks = vec![Vec::new()];
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            match line.split_once('=') {
                _ if line.is_empty() => blocks.push(Vec::new()),
                Some((name, value)) => {
                    let pair = (name.trim().to_owned(), value.trim().to_owned());
                    blocks.last_mut().unwrap().push(pair);
                }
                None => {}
            }
        }
        Some(blocks)
    }

    pub(super) fn find<'a>(block: &'a [(String, String)], name: &str) -> Option<&'a str> {
        block.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// SM3 by every way the seam has must give `expected`.
    fn check_digest(message: &[u8], expected: &str) {
        let expected = Digest::from_hex(expected).unwrap();
        assert_eq!(Sm3::of(&[message]), expected);
        for provider in providers() {
            let mut digests = [Digest::ZERO; 3];
            provider.hasher.digest_many(&[b"before", message, b"after"], &mut digests);
            assert_eq!(digests[1], expected);
            assert_eq!([digests[0], digests[2]], [Sm3::of(&[b"before"]), Sm3::of(&[b"after"])]);
        }
    }

    #[test]
    fn botan_and_tongsuo_agree_on_sm3() {
        let mut count = 0;
        for block in blocks("botan/sm3.vec").unwrap_or_default() {
            // Messages and digests alternate inside a block.
            for pair in block.chunks_exact(2).filter(|pair| pair[0].0 == "In") {
                assert_eq!(pair[1].0, "Out");
                check_digest(&unhex(&pair[0].1), &pair[1].1);
                count += 1;
            }
        }
        assert!(count == 0 || count > 100, "{count} vectors of Botan");
        for block in blocks("tongsuo/evpmd_sm3.txt").unwrap_or_default() {
            if find(&block, "Digest") == Some("SM3") {
                let message = find(&block, "Input").unwrap();
                check_digest(&unhex(message), find(&block, "Output").unwrap());
            }
        }
    }

    #[test]
    fn botan_agrees_on_signatures() {
        let Some(blocks) = blocks("botan/sm2_sig.vec") else { return };
        let (mut ours, mut count) = (false, 0);
        for block in blocks {
            if let Some(prime) = find(&block, "P") {
                ours = prime == format!("0x{}", Digest(PRIME).to_string().to_uppercase());
            }
            if !ours || find(&block, "Hash") != Some("SM3") {
                continue;
            }
            let secret = unhex(find(&block, "x").unwrap().trim_start_matches("0x"));
            let signer = SoftwareSigner::from_bytes(&secret.try_into().unwrap()).unwrap();
            let identity = find(&block, "Ident").unwrap();
            let za = identity_digest(identity.as_bytes(), signer.public_key());
            let e = message_digest(&za, &unhex(find(&block, "Msg").unwrap()));
            let signature = Signature::from_hex(find(&block, "Signature").unwrap()).unwrap();
            assert_eq!(judge(signer.public_key(), e, &signature), Verdict::Valid);
            count += 1;
        }
        assert!(count > 0, "no vector for the recommended curve was read");
    }

    #[test]
    fn tongsuo_agrees_on_signatures() {
        let Some(blocks) = blocks("tongsuo/evppkey_sm2.txt") else { return };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
        let text = std::fs::read_to_string(path.join("tongsuo/evppkey_sm2.txt")).unwrap();
        let begin = text.find("-----BEGIN PRIVATE KEY-----").unwrap();
        let end = "-----END PRIVATE KEY-----\n";
        let end = begin + text[begin..].find(end).unwrap() + end.len();
        let signer = SoftwareSigner::from_pkcs8_pem(&text[begin..end]).unwrap();
        let mut count = 0;
        for block in blocks {
            let ours = find(&block, "Verify").is_some() && find(&block, "Result").is_none();
            if !ours || find(&block, "Ctrl") != Some("digest:SM3") {
                continue;
            }
            let e = Digest::from_hex(find(&block, "Input").unwrap()).unwrap();
            let signature = from_der(&unhex(find(&block, "Output").unwrap()));
            assert_eq!(judge(signer.public_key(), e, &signature), Verdict::Valid);
            count += 1;
        }
        assert!(count > 0, "no vector was read");
    }

    /// r || s of a DER sequence of two integers.
    fn from_der(der: &[u8]) -> Signature {
        assert_eq!((der[0], usize::from(der[1])), (0x30, der.len() - 2));
        let (r, rest) = integer(&der[2..]);
        let (s, rest) = integer(rest);
        assert!(rest.is_empty());
        joined(r, s)
    }

    fn integer(der: &[u8]) -> ([u8; 32], &[u8]) {
        assert_eq!(der[0], 2);
        let (number, rest) = der[2..].split_at(usize::from(der[1]));
        let digits = number.strip_prefix(&[0]).unwrap_or(number);
        let mut padded = [0; 32];
        padded[32 - digits.len()..].copy_from_slice(digits);
        (padded, rest)
    }
}

mod refusals {
    use super::*;

    const R: [u8; 32] = hex("F5A03B0648D2C4630EEAC513E1BB81A15944DA3827D5B74143AC7EACEEE720B3");
    const S: [u8; 32] = hex("B1B6AA29DF212FD8763182BC0D421CA1BB9038FD1F7F42D4840B69C485BBC1AA");

    fn refused(signature: Signature) {
        let verdict = judge(&EXAMPLE_KEY, EXAMPLE_DIGEST, &signature);
        assert_eq!(verdict, Verdict::SignatureInvalid, "{signature}");
    }

    /// GB/T 32918.2-2016 7.1 steps B1 and B2: 1 <= r, s <= n - 1.
    #[test]
    fn r_and_s_out_of_range_are_refused() {
        let outside = [[0; 32], ORDER, plus(ORDER, 1), PRIME, [0xff; 32]];
        for bad in outside {
            refused(joined(bad, S));
            refused(joined(R, bad));
            refused(joined(bad, bad));
        }
        // At the ends of the range the numbers are allowed; the signature is still not one.
        for end in [plus([0; 32], 1), minus_one(ORDER)] {
            refused(joined(end, S));
            refused(joined(R, end));
        }
    }

    /// r + n has the same residue as r: it must not be a second encoding of the same signature.
    #[test]
    fn a_residue_has_one_encoding() {
        // e chosen so that r is small enough for r + n to fit 256 bits: r = t - s with t = s + 1.
        let s = scalar(&S);
        let point =
            ProjectivePoint::generator() * s + ProjectivePoint::from(affine()) * (s + Scalar::ONE);
        let x = scalar_of_x(&point);
        let e = Digest(bytes(Scalar::ONE - x));
        let small = joined(plus([0; 32], 1), S);
        assert_eq!(judge(&EXAMPLE_KEY, e, &small), Verdict::Valid);
        assert_eq!(judge(&EXAMPLE_KEY, e, &joined(plus(ORDER, 1), S)), Verdict::SignatureInvalid);
    }

    fn affine() -> AffinePoint {
        let odd = Choice::from(EXAMPLE_KEY.0[63] & 1);
        let x: [u8; 32] = EXAMPLE_KEY.0[..32].try_into().unwrap();
        AffinePoint::decompress(&x.into(), odd).unwrap()
    }

    /// The affine x of a point modulo n; only for points whose x is below n.
    fn scalar_of_x(point: &ProjectivePoint) -> Scalar {
        Scalar::from_repr(point.to_affine().x()).unwrap()
    }

    /// GB/T 32918.2-2016 7.1 step B5: t = (r + s) mod n must not be zero.
    #[test]
    fn r_plus_s_equal_to_n_is_refused() {
        for r in [R, plus([0; 32], 1), EXAMPLE_SECRET] {
            let s = bytes(-scalar(&r));
            // With t = 0 the equation would read R = e + x([s]G), which the forger can satisfy.
            let x = scalar_of_x(&(ProjectivePoint::generator() * scalar(&s)));
            let e = Digest(bytes(scalar(&r) - x));
            assert_eq!(judge(&EXAMPLE_KEY, e, &joined(r, s)), Verdict::SignatureInvalid);
        }
    }

    /// [s]G + [t]P = infinity is invalid: the holder of the key picks r = e mod n and s to match,
    /// and a verifier that reads x1 = 0 there would accept, splitting the verdicts of a chain.
    #[test]
    fn the_point_at_infinity_is_refused() {
        let d = scalar(&EXAMPLE_SECRET);
        for message in [EXAMPLE_DIGEST, Sm3::of(&[b"another"]), Sm3::of(&[b"a third"])] {
            let r = scalar(&message.0);
            let t = r * (Scalar::ONE + d).invert().unwrap();
            let s = t - r;
            assert_eq!(s + t * d, Scalar::ZERO, "the forgery reaches infinity");
            assert_ne!(r + s, Scalar::ZERO, "it passes step B5");
            let point = ProjectivePoint::generator() * s + ProjectivePoint::from(affine()) * t;
            assert!(bool::from(point.is_identity()));
            let forged = joined(bytes(r), bytes(s));
            assert_eq!(judge(&EXAMPLE_KEY, message, &forged), Verdict::SignatureInvalid);
        }
    }

    /// x1 is reduced modulo n before it is added: a point whose x lies in n..p is as good as any.
    #[test]
    fn a_point_whose_x_exceeds_n_is_accepted() {
        let (s, t) = (scalar(&S), scalar(&EXAMPLE_SECRET));
        let lifted = (1..=u8::MAX).find_map(|count| {
            let point = AffinePoint::decompress(&plus(ORDER, count).into(), Choice::from(0));
            Option::<AffinePoint>::from(point).map(|point| (count, ProjectivePoint::from(point)))
        });
        let (count, point) = lifted.unwrap();
        assert!(point.to_affine().x().as_slice() > ORDER.as_slice());
        let key = key_of((point - ProjectivePoint::generator() * s) * t.invert().unwrap());
        let r = t - s;
        let e = Digest(bytes(r - Scalar::from(u64::from(count))));
        assert_eq!(judge(&key, e, &joined(bytes(r), bytes(s))), Verdict::Valid);
    }

    #[test]
    fn keys_that_are_no_points_are_refused() {
        let mut off_curve = EXAMPLE_KEY;
        off_curve.0[63] ^= 1;
        let mut swapped = EXAMPLE_KEY;
        swapped.0.rotate_left(32);
        // x + p has the residue of x; the smallest x of the curve for which it fits 256 bits.
        let small = (1..=u8::MAX).find_map(|x| {
            let point = AffinePoint::decompress(&plus([0; 32], x).into(), Choice::from(0));
            Option::<AffinePoint>::from(point).map(|point| (x, point))
        });
        let (x, point) = small.unwrap();
        let mut unreduced = key_of(ProjectivePoint::from(point));
        assert_eq!(
            judge(&unreduced, EXAMPLE_DIGEST, &EXAMPLE_SIGNATURE),
            Verdict::SignatureInvalid
        );
        unreduced.0[..32].copy_from_slice(&plus(PRIME, x));
        assert!(crate::is_curve_point(&EXAMPLE_KEY));
        let bad = [off_curve, swapped, unreduced, PublicKey([0; 64]), PublicKey([0xff; 64])];
        for key in bad {
            assert_eq!(
                judge(&key, EXAMPLE_DIGEST, &EXAMPLE_SIGNATURE),
                Verdict::KeyInvalid,
                "{key}"
            );
            assert!(!crate::is_curve_point(&key), "{key}");
        }
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        for bit in 0..256 {
            let mut digest = EXAMPLE_DIGEST;
            digest.0[bit / 8] ^= 1 << (bit % 8);
            let verdict = judge(&EXAMPLE_KEY, digest, &EXAMPLE_SIGNATURE);
            assert_eq!(verdict, Verdict::SignatureInvalid, "bit {bit} of e");
        }
        for bit in 0..512 {
            let mut signature = EXAMPLE_SIGNATURE;
            signature.0[bit / 8] ^= 1 << (bit % 8);
            refused(signature);
            let mut key = EXAMPLE_KEY;
            key.0[bit / 8] ^= 1 << (bit % 8);
            let verdict = judge(&key, EXAMPLE_DIGEST, &EXAMPLE_SIGNATURE);
            assert_ne!(verdict, Verdict::Valid, "bit {bit} of the key");
        }
    }
}

mod batches {
    use super::*;

    /// The rule of a batch: the verdict of an item is what it is alone, whatever its neighbours
    /// are.
    #[test]
    fn bad_items_do_not_spoil_their_neighbours() {
        let mut off_curve = EXAMPLE_KEY;
        off_curve.0[0] ^= 1;
        let zero = Signature([0; 64]);
        let other = Sm3::of(&[b"other"]);
        let kinds = [
            (EXAMPLE_KEY, EXAMPLE_DIGEST, EXAMPLE_SIGNATURE, Verdict::Valid),
            (EXAMPLE_KEY, other, EXAMPLE_SIGNATURE, Verdict::SignatureInvalid),
            (EXAMPLE_KEY, EXAMPLE_DIGEST, zero, Verdict::SignatureInvalid),
            (off_curve, EXAMPLE_DIGEST, EXAMPLE_SIGNATURE, Verdict::KeyInvalid),
        ];
        for provider in providers() {
            // Every mix of four kinds over four places, so that each stands beside each.
            for mix in 0..256_usize {
                let chosen = [0, 2, 4, 6].map(|shift| &kinds[mix >> shift & 3]);
                let items = chosen.map(|(key, digest, signature, _)| VerifyItem {
                    key,
                    digest: *digest,
                    signature,
                });
                let mut verdicts = [Verdict::SignatureInvalid; 4];
                provider.verifier.verify_many(&items, &mut verdicts);
                assert_eq!(verdicts, chosen.map(|(.., verdict)| *verdict));
            }
            provider.verifier.verify_many(&[], &mut []);
        }
    }

    #[test]
    fn pairs_and_many_equal_one_after_the_other() {
        let leaves: Vec<Digest> = (0..9_u8).map(|number| Sm3::of(&[&[number]])).collect();
        let pairs: Vec<[Digest; 2]> = leaves.windows(2).map(|pair| [pair[0], pair[1]]).collect();
        for provider in providers() {
            let mut parents = vec![Digest::ZERO; pairs.len()];
            provider.hasher.digest_pairs(&pairs, &mut parents);
            for (pair, parent) in pairs.iter().zip(parents) {
                assert_eq!(parent, Sm3::of(&[&pair[0].0, &pair[1].0]));
            }
        }
    }
}

mod private_keys {
    use super::*;

    /// GB/T 32918.1-2016 6.1: d is in 1..=n-2, for 1 + d must have an inverse.
    #[test]
    fn the_range_of_private_keys_is_kept() {
        let last = minus_one(minus_one(ORDER));
        for good in [plus([0; 32], 1), EXAMPLE_SECRET, last] {
            let signer = SoftwareSigner::from_bytes(&good).unwrap();
            assert!(signer.sign(&EXAMPLE_DIGEST).is_ok());
        }
        for bad in [[0; 32], minus_one(ORDER), ORDER, plus(ORDER, 1), [0xff; 32]] {
            let refused = SoftwareSigner::from_bytes(&bad).err();
            assert!(matches!(refused, Some(Error::PrivateKeyRange)), "{refused:?}");
        }
    }

    #[test]
    fn pem_goes_round() {
        let signer = SoftwareSigner::generate().unwrap();
        let pem = signer.to_pkcs8_pem().unwrap();
        let again = SoftwareSigner::from_pkcs8_pem(&pem).unwrap();
        assert_eq!(again.public_key(), signer.public_key());
        assert_eq!(*again.to_pkcs8_pem().unwrap(), *pem);
        let signature = again.sign(&EXAMPLE_DIGEST).unwrap();
        assert_eq!(judge(signer.public_key(), EXAMPLE_DIGEST, &signature), Verdict::Valid);
        assert_ne!(SoftwareSigner::generate().unwrap().public_key(), signer.public_key());
    }

    /// A key of the curve P-256 in PKCS#8: the right form for the wrong curve.
    const OTHER_CURVE: &str = "-----BEGIN PRIVATE KEY-----\n\
        MEECAQAwEwYHKoZIzj0CAQYIKoZIzj0DAQcEJzAlAgEBBCADAwMDAwMDAwMDAwMD\n\
        AwMDAwMDAwMDAwMDAwMDAwMDAw==\n-----END PRIVATE KEY-----\n";

    #[test]
    fn other_texts_are_no_keys() {
        let pem = SoftwareSigner::generate().unwrap().to_pkcs8_pem().unwrap();
        let renamed = pem.replace("PRIVATE KEY", "PUBLIC KEY");
        let cut = pem[..pem.len() / 2].to_owned();
        for text in ["", "secret", OTHER_CURVE, &renamed, &cut] {
            let refused = SoftwareSigner::from_pkcs8_pem(text).err();
            assert!(matches!(refused, Some(Error::PrivateKeyEncoding)), "{refused:?}");
        }
    }

    /// No error and no debug text holds what a private key is made of.
    #[test]
    fn secrets_are_not_printed() {
        let secret = Digest(ORDER).to_string();
        let error = SoftwareSigner::from_bytes(&ORDER).err().unwrap();
        let text = format!("{error} {error:?}").to_lowercase();
        assert!(!text.contains(&secret[..16]), "{text}");
        let pem = SoftwareSigner::generate().unwrap().to_pkcs8_pem().unwrap();
        let broken = pem.replace("PRIVATE", "STOLEN");
        let body = pem.lines().nth(1).unwrap();
        let error = SoftwareSigner::from_pkcs8_pem(&broken).err().unwrap();
        assert!(!format!("{error} {error:?}").contains(&body[..12]));
        assert_eq!(format!("{:?}", software_provider()), "Provider { name: \"software\", .. }");
    }

    /// Random nonces, so that no signature gives the key away: two of one digest differ, but for a
    /// signer that is made to repeat.
    #[test]
    fn nonces_differ() {
        let signer = SoftwareSigner::from_bytes(&EXAMPLE_SECRET).unwrap();
        let repeatable = SoftwareSigner::repeatable(&EXAMPLE_SECRET).unwrap();
        let again = SoftwareSigner::repeatable(&EXAMPLE_SECRET).unwrap();
        let mut nonces = Vec::new();
        let mut push = |signature: Signature| {
            // k = s(1 + d) + r d is the nonce behind the signature.
            let (r, s) = signature.0.split_at(32);
            let (r, s) = (scalar(r.try_into().unwrap()), scalar(s.try_into().unwrap()));
            let d = scalar(&EXAMPLE_SECRET);
            nonces.push(bytes(s * (Scalar::ONE + d) + r * d));
        };
        for number in 0..32_u8 {
            let e = Sm3::of(&[&[number]]);
            push(signer.sign(&e).unwrap());
            push(signer.sign_unverified(&e).unwrap());
            let signature = repeatable.sign(&e).unwrap();
            push(signature);
            assert_eq!(again.sign_unverified(&e).unwrap(), signature);
        }
        nonces.sort_unstable();
        nonces.dedup();
        assert_eq!(nonces.len(), 96, "no nonce is used twice");
    }
}

mod properties {
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 48,
            failure_persistence: None,
            rng_seed: proptest::test_runner::RngSeed::Fixed(32918),
            ..ProptestConfig::default()
        })]

        #[test]
        fn what_is_signed_verifies_and_nothing_else(
            secret in any::<[u8; 31]>(),
            message in any::<Vec<u8>>(),
            bit in 0_usize..512,
        ) {
            let mut padded = [0; 32];
            padded[..31].copy_from_slice(&secret);
            padded[31] = 1;
            let signer = SoftwareSigner::from_bytes(&padded);
            prop_assume!(signer.is_ok());
            let signer = signer.unwrap();
            let za = identity_digest(IDENTITY_DEFAULT, signer.public_key());
            let e = message_digest(&za, &message);
            let mut signature = signer.sign(&e).unwrap();
            prop_assert_eq!(judge(signer.public_key(), e, &signature), Verdict::Valid);
            signature.0[bit / 8] ^= 1 << (bit % 8);
            let verdict = judge(signer.public_key(), e, &signature);
            prop_assert_eq!(verdict, Verdict::SignatureInvalid);
        }

        #[test]
        fn any_bytes_get_a_verdict(
            key in proptest::array::uniform32(any::<[u8; 2]>()),
            signature in proptest::array::uniform32(any::<[u8; 2]>()),
            digest in any::<[u8; 32]>(),
        ) {
            let key = PublicKey(key.as_flattened().try_into().unwrap());
            let signature = Signature(signature.as_flattened().try_into().unwrap());
            prop_assert_ne!(judge(&key, Digest(digest), &signature), Verdict::Valid);
            let verdict = judge(&EXAMPLE_KEY, Digest(digest), &signature);
            prop_assert_eq!(verdict, Verdict::SignatureInvalid);
        }

        #[test]
        fn a_digest_does_not_depend_on_how_the_message_is_cut(
            message in any::<Vec<u8>>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let at = cut.index(message.len() + 1);
            let (head, tail) = message.split_at(at);
            prop_assert_eq!(Sm3::of(&[head, tail]), Sm3::of(&[&message]));
        }

        /// Items of all kinds in one call, more than one call of the kernel takes: each has the
        /// verdict it has alone.
        #[test]
        fn neighbours_have_no_influence(kinds in prop::collection::vec(0_u8..4, 0..150)) {
            let signer = SoftwareSigner::from_bytes(&EXAMPLE_SECRET).unwrap();
            let outside = PublicKey([1; 64]);
            let made: Vec<(PublicKey, Digest, Signature)> = kinds
                .iter()
                .zip(0_u8..)
                .map(|(kind, number)| {
                    let digest = Sm3::of(&[&[number]]);
                    let signature = signer.sign_unverified(&digest).unwrap();
                    match kind {
                        0 => (EXAMPLE_KEY, digest, Signature([number; 64])),
                        1 => (outside, digest, signature),
                        _ => (EXAMPLE_KEY, digest, signature),
                    }
                })
                .collect();
            let items = made.iter().map(|(key, digest, signature)| {
                VerifyItem { key, digest: *digest, signature }
            });
            let items: Vec<VerifyItem<'_>> = items.collect();
            for provider in providers() {
                let mut verdicts = vec![Verdict::KeyInvalid; items.len()];
                provider.verifier.verify_many(&items, &mut verdicts);
                for (item, verdict) in items.iter().zip(&verdicts) {
                    let alone = oracle(item.key, &item.digest, item.signature);
                    prop_assert_eq!(*verdict, alone);
                }
            }
        }

        /// RustCrypto's SM3 shares no line with ours.
        #[test]
        fn digests_are_those_of_another_library(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..40),
        ) {
            use sm3::Digest as _;
            let wanted: Vec<Digest> =
                messages.iter().map(|message| Digest(sm3::Sm3::digest(message).into())).collect();
            let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            for provider in providers() {
                let mut digests = vec![Digest::ZERO; messages.len()];
                provider.hasher.digest_many(&messages, &mut digests);
                prop_assert_eq!(&digests, &wanted);
            }
            for (message, digest) in messages.iter().zip(wanted) {
                prop_assert_eq!(Sm3::of(&[message]), digest);
            }
        }

        #[test]
        fn hexadecimal_goes_round_and_refuses_the_rest(bytes in any::<[u8; 32]>(), text: String) {
            let digest = Digest(bytes);
            prop_assert_eq!(Digest::from_hex(&digest.to_string()), Some(digest));
            let read = Digest::from_hex(&text);
            prop_assert!(read.is_none_or(|read| text.to_lowercase().ends_with(&read.to_string())));
        }
    }
}
