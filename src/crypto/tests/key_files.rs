//! Private key files as other programs, or an enemy, may write them: PKCS#8 built by hand.

use super::*;

/// 1.2.840.10045.2.1, a key of an elliptic curve.
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
/// 1.2.156.10197.1.301, the curve of SM2.
const SM2: &[u8] = &[0x2a, 0x81, 0x1c, 0xcf, 0x55, 1, 0x82, 0x2d];
/// 1.2.840.10045.3.1.7, the curve P-256.
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let size = content.len();
    let length = match u8::try_from(size).unwrap() {
        short @ 0..0x80 => vec![short],
        long => vec![0x81, long],
    };
    [&[tag], length.as_slice(), content].concat()
}

/// What a file says; `good` is what every program writes.
#[derive(Clone)]
struct Parts {
    algorithm: Vec<u8>,
    curve: Vec<u8>,
    private: Vec<u8>,
    inner_curve: Option<Vec<u8>>,
    public: Option<Vec<u8>>,
    behind: Vec<u8>,
}

fn good() -> Parts {
    Parts {
        algorithm: EC.to_vec(),
        curve: SM2.to_vec(),
        private: EXAMPLE_SECRET.to_vec(),
        inner_curve: None,
        public: Some([&[4], EXAMPLE_KEY.0.as_slice()].concat()),
        behind: Vec::new(),
    }
}

impl Parts {
    fn der(&self) -> Vec<u8> {
        let oid = |bytes: &Vec<u8>| element(6, bytes);
        let inner_curve = self.inner_curve.as_ref().map(|curve| element(0xa0, &oid(curve)));
        let public =
            self.public.as_ref().map(|key| element(0xa1, &element(3, &[&[0], &key[..]].concat())));
        let key = [
            element(2, &[1]),
            element(4, &self.private),
            inner_curve.unwrap_or_default(),
            public.unwrap_or_default(),
        ];
        let algorithm = element(0x30, &[oid(&self.algorithm), oid(&self.curve)].concat());
        let key = element(4, &element(0x30, &key.concat()));
        let whole = element(0x30, &[element(2, &[0]), algorithm, key].concat());
        [whole, self.behind.clone()].concat()
    }

    fn pem(&self) -> String {
        pem("PRIVATE KEY", &self.der())
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in der.chunks(3) {
        let mut bytes = [0; 4];
        bytes[1..=three.len()].copy_from_slice(three);
        let bits = u32::from_be_bytes(bytes);
        for place in 0..4 {
            let digit = DIGITS[usize::try_from(bits >> (18 - 6 * place) & 63).unwrap()];
            text.push(if place > three.len() { '=' } else { char::from(digit) });
        }
    }
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|l| str::from_utf8(l).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[test]
fn the_forms_that_other_programs_write_are_read() {
    let forms = [
        good(),
        Parts { public: None, ..good() },
        Parts { inner_curve: Some(SM2.to_vec()), ..good() },
        Parts { inner_curve: Some(SM2.to_vec()), public: None, ..good() },
    ];
    for form in forms {
        let signer = SoftwareSigner::from_pkcs8_pem(&form.pem()).unwrap();
        assert_eq!(*signer.public_key(), EXAMPLE_KEY);
    }
    let own = SoftwareSigner::from_bytes(&EXAMPLE_SECRET).unwrap().to_pkcs8_pem().unwrap();
    assert_eq!(*own, good().pem(), "this is what we write");
}

#[test]
fn a_file_that_contradicts_itself_or_is_of_another_kind_is_refused() {
    let other = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
    let mut damaged = good();
    damaged.private[31] ^= 1;
    let cases = [
        ("another curve", Parts { curve: P256.to_vec(), ..good() }),
        ("another curve inside", Parts { inner_curve: Some(P256.to_vec()), ..good() }),
        ("another algorithm", Parts { algorithm: SM2.to_vec(), ..good() }),
        ("one bit of d", damaged),
        (
            "another public key",
            Parts { public: Some([&[4], &other.public_key().0[..]].concat()), ..good() },
        ),
        ("no point", Parts { public: Some([[4].as_slice(), &[1; 64]].concat()), ..good() }),
        ("infinity", Parts { public: Some(vec![0]), ..good() }),
        ("zero", Parts { private: vec![0; 32], public: None, ..good() }),
        ("n", Parts { private: ORDER.to_vec(), public: None, ..good() }),
        ("33 bytes", Parts { private: vec![1; 33], public: None, ..good() }),
        ("nothing", Parts { private: Vec::new(), public: None, ..good() }),
        ("something behind", Parts { behind: vec![0], ..good() }),
    ];
    for (what, form) in cases {
        let refused = SoftwareSigner::from_pkcs8_pem(&form.pem()).err();
        assert!(matches!(refused, Some(Error::PrivateKeyEncoding)), "{what}: {refused:?}");
    }
    let last = Parts { private: minus_one(ORDER).to_vec(), public: None, ..good() };
    let refused = SoftwareSigner::from_pkcs8_pem(&last.pem()).err();
    assert!(matches!(refused, Some(Error::PrivateKeyRange)), "{refused:?}");
}

#[test]
fn other_texts_around_the_same_bytes_are_refused() {
    let der = good().der();
    let good = good().pem();
    let texts = [
        pem("EC PRIVATE KEY", &der),
        pem("ENCRYPTED PRIVATE KEY", &der),
        pem("CERTIFICATE", &der),
        format!("{good}{good}"),
        format!("{good}x"),
        good.replace("-----END", "----END"),
        good.replacen('M', "\0", 1),
    ];
    for text in texts {
        let refused = SoftwareSigner::from_pkcs8_pem(&text).err();
        assert!(matches!(refused, Some(Error::PrivateKeyEncoding)), "{text}");
    }
    for size in 0..der.len() {
        assert!(SoftwareSigner::from_pkcs8_pem(&pem("PRIVATE KEY", &der[..size])).is_err());
    }
}

/// Of a file with the public key inside, no single bit can change without being seen, but where the
/// bytes mean the same key.
#[test]
fn a_flipped_bit_never_gives_another_key() {
    let der = good().der();
    for bit in 0..der.len() * 8 {
        let mut flipped = der.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(signer) = SoftwareSigner::from_pkcs8_pem(&pem("PRIVATE KEY", &flipped)) {
            assert_eq!(*signer.public_key(), EXAMPLE_KEY, "bit {bit}");
        }
    }
}
