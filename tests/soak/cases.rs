//! Signatures to be judged: random, structured, and at every edge of GB/T 32918.2-2016 7.1.
//!
//! Most begin with the sum that a verifier computes: for any key P and any s and t, with
//! (x1, y1) = [s]G + [t]P, the digest e = r - x1 and r = t - s make a valid signature. So keys and
//! scalars can be chosen as is most dangerous, and no private key need be known. For a sum with a
//! chosen x1 the key is computed: P = [1/t](R - [s]G).

use hufu_kernels::Backend;
use hufu_kernels::sm2 as kernel;
use sm2::elliptic_curve::PrimeField as _;
use sm2::elliptic_curve::ops::Reduce as _;
use sm2::{FieldBytes, Scalar};

use crate::Numbers;

/// The order n (GB/T 32918.5-2017 A.2).
pub const ORDER: [u8; 32] = *b"\xff\xff\xff\xfe\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\
    \x72\x03\xdf\x6b\x21\xc6\x05\x2b\x53\xbb\xf4\x09\x39\xd5\x41\x23";
/// p.
pub const PRIME: [u8; 32] = *b"\xff\xff\xff\xfe\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\
    \xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff";

/// Every kind there is.
pub const KINDS: &[&str] = &[
    "sum",
    "signed",
    "infinity",
    "x1 from n to p",
    "two lifts",
    "t = 0",
    "r out of range",
    "s out of range",
    "r = 0",
    "bit of r",
    "bit of s",
    "bit of e",
    "bit of the key",
    "opposite key",
    "x of the key + p",
    "key at random",
    "r and s swapped",
    "e one more",
];

/// Keys that cases share, so that tables of them serve several.
const POOL: usize = 12;

/// One signature to be judged.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is made for.
    pub kind: &'static str,
    /// x || y of the public key; perhaps no point.
    pub key: [u8; 64],
    /// e.
    pub digest: [u8; 32],
    /// r || s.
    pub signature: [u8; 64],
    /// What it must be, where that follows from how it was made.
    pub expected: Option<bool>,
}

impl Case {
    /// All of it, for a report.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, &[u8]); 3] {
        [("key", &self.key), ("digest", &self.digest), ("signature", &self.signature)]
    }
}

/// A key and, where it is known, what it is the multiple of G by.
struct Key {
    point: [u8; 64],
    d: Option<Scalar>,
}

/// Cases without end.
pub struct Cases {
    numbers: Numbers,
    pool: Vec<Key>,
    /// The last good case: what others are made of.
    last: Option<Case>,
}

/// The 32 bytes of a number.
#[must_use]
pub fn bytes(scalar: &Scalar) -> [u8; 32] {
    scalar.to_repr().into()
}

/// The number modulo n.
#[must_use]
pub fn reduced(bytes: &[u8; 32]) -> Scalar {
    Scalar::reduce(&FieldBytes::from(*bytes))
}

/// a + b as 256-bit numbers; whether it went over.
fn plus(a: &[u8; 32], b: &[u8; 32]) -> ([u8; 32], bool) {
    let (mut sum, mut carry) = ([0; 32], 0);
    for place in (0..32).rev() {
        let wide = u16::from(a[place]) + u16::from(b[place]) + carry;
        (sum[place], carry) = (wide as u8, wide >> 8);
    }
    (sum, carry != 0)
}

fn halves(point: &[u8; 64]) -> [[u8; 32]; 2] {
    [point[..32].try_into().unwrap(), point[32..].try_into().unwrap()]
}

fn joined(first: &[u8; 32], second: &[u8; 32]) -> [u8; 64] {
    let mut both = [0; 64];
    both[..32].copy_from_slice(first);
    both[32..].copy_from_slice(second);
    both
}

fn negative(point: &[u8; 64]) -> [u8; 64] {
    // p - y = p + not(y) + 1 modulo 2^256.
    let [x, y] = halves(point);
    let mut one = [0; 32];
    one[31] = 1;
    joined(&x, &plus(&plus(&PRIME, &y.map(|byte| !byte)).0, &one).0)
}

fn decompressed(x: &[u8; 32], is_odd: bool) -> Option<[u8; 64]> {
    let mut point = [None];
    kernel::decompress_many(Backend::PORTABLE, &[(x, is_odd)], &mut point);
    point[0]
}

fn multiple(scalar: &Scalar, point: &[u8; 64]) -> [u8; 64] {
    kernel::multiply(Backend::PORTABLE, &bytes(scalar), point).unwrap()
}

fn multiple_of_base(scalar: &Scalar) -> [u8; 64] {
    kernel::multiply_base(Backend::PORTABLE, &bytes(scalar)).unwrap()
}

/// 2^bit mod n.
fn power(bit: usize) -> Scalar {
    let mut bits = [0; 32];
    bits[31 - bit / 8] = 1 << (bit % 8);
    reduced(&bits)
}

/// A scalar that is not 0: random, or one whose digits meet the ends of tables and ranges.
pub fn scalar(numbers: &mut Numbers) -> Scalar {
    let one = Scalar::ONE;
    let found = match numbers.below(8) {
        0 => Scalar::from(1 + numbers.next() % 96),
        1 => -Scalar::from(1 + numbers.next() % 96),
        2 => power(numbers.below(255) + 1) - one,
        3 => -power(numbers.below(256)),
        4 => reduced(&numbers.edged()),
        5 => {
            // Runs of ones and zeros.
            let run = 1 + numbers.below(16);
            let mut bits = [0_u8; 32];
            for bit in (0..256).filter(|bit| (bit / run).is_multiple_of(2)) {
                bits[31 - bit / 8] |= 1 << (bit % 8);
            }
            reduced(&bits)
        }
        _ => reduced(&numbers.array()),
    };
    if bool::from(found.is_zero()) { one } else { found }
}

/// A digest: random, at edges of its limbs, or about n.
pub fn digest(numbers: &mut Numbers) -> [u8; 32] {
    let small = |numbers: &mut Numbers| bytes(&Scalar::from(numbers.next() % 4));
    match numbers.below(8) {
        0 => ORDER,
        1 => plus(&ORDER, &small(numbers)).0,
        2 => bytes(&-Scalar::from(1 + numbers.next() % 4)),
        3 => [0xff; 32],
        4 => small(numbers),
        5 => numbers.edged(),
        _ => numbers.array(),
    }
}

impl Cases {
    /// The cases of a stream of numbers.
    #[must_use]
    pub fn new(mut numbers: Numbers) -> Self {
        let pool = (0..POOL).map(|_| Key::choose(&mut numbers)).collect();
        Self { numbers, pool, last: None }
    }

    fn key(&mut self) -> usize {
        if self.numbers.once_in(64) {
            let place = self.numbers.below(POOL);
            self.pool[place] = Key::choose(&mut self.numbers);
        }
        self.numbers.below(POOL)
    }

    /// e for a sum that is chosen; the sum may be at infinity.
    fn of_sum(&mut self) -> Case {
        let place = self.key();
        let t = scalar(&mut self.numbers);
        let aims_at_infinity = self.numbers.once_in(12);
        let Key { point, d } = &self.pool[place];
        let s = match d {
            Some(d) if aims_at_infinity => -(t * d),
            // Equal and opposite addends at the last step, and small differences of them.
            _ if self.numbers.once_in(64) => t,
            Some(d) if self.numbers.once_in(8) => t * d + Scalar::from(self.numbers.next() % 4),
            _ => scalar(&mut self.numbers),
        };
        let s = if bool::from(s.is_zero()) { Scalar::ONE } else { s };
        let r = t - s;
        let sum = kernel::add_points(&multiple_of_base(&s), &multiple(&t, point));
        let signature = joined(&bytes(&r), &bytes(&s));
        let (kind, expected, digest) = match sum {
            // r = e mod n is what a verifier finds that takes x1 of infinity for 0.
            None => ("infinity", false, bytes(&r)),
            Some(_) if bool::from(r.is_zero()) => ("r = 0", false, self.numbers.array()),
            Some(sum) => ("sum", true, bytes(&(r - reduced(&halves(&sum)[0])))),
        };
        Case { kind, key: *point, digest, signature, expected: Some(expected) }
    }

    /// Signed as a signer does, with a digest that is chosen.
    fn signed(&mut self) -> Option<Case> {
        let place = self.key();
        let d = self.pool[place].d?;
        let (k, digest) = (scalar(&mut self.numbers), digest(&mut self.numbers));
        let r = reduced(&digest) + reduced(&halves(&multiple_of_base(&k))[0]);
        let s = Option::<Scalar>::from((Scalar::ONE + d).invert())? * (k - r * d);
        let unusable = r.is_zero() | s.is_zero() | (r + s).is_zero();
        let signature = joined(&bytes(&r), &bytes(&s));
        let key = self.pool[place].point;
        let expected = Some(!bool::from(unusable));
        Some(Case { kind: "signed", key, digest, signature, expected })
    }

    /// A key for which x1 lies between n and p, or below p - n.
    fn of_x(&mut self) -> Case {
        let (kind, start) = match self.numbers.below(2) {
            0 => ("x1 from n to p", ORDER),
            _ => ("two lifts", [0; 32]),
        };
        let sum = loop {
            // p - n has 127 bits and a half: all below 2^126 will do.
            let mut offset = [0; 32];
            offset[16..].copy_from_slice(&self.numbers.array::<16>());
            offset[16] &= 0x3f;
            if self.numbers.once_in(4) {
                offset[16..31].fill(0);
            }
            let x = plus(&start, &offset).0;
            let found = decompressed(&x, self.numbers.once_in(2));
            if let Some(point) = found {
                break point;
            }
        };
        let (s, t) = (scalar(&mut self.numbers), scalar(&mut self.numbers));
        let rest = kernel::add_points(&sum, &multiple_of_base(&-s));
        let r = t - s;
        let Some(rest) = rest.filter(|_| !bool::from(r.is_zero())) else { return self.of_x() };
        let key = multiple(&t.invert().unwrap(), &rest);
        let digest = bytes(&(r - reduced(&halves(&sum)[0])));
        let signature = joined(&bytes(&r), &bytes(&s));
        Case { kind, key, digest, signature, expected: Some(true) }
    }

    /// A good case with one thing changed.
    fn changed(&mut self, good: &Case) -> Case {
        let mut case = Case { expected: None, ..good.clone() };
        let [r, s] = halves(&good.signature);
        let edges = [[0; 32], bytes(&Scalar::ONE), bytes(&-Scalar::ONE), ORDER, [0xff; 32], PRIME];
        let numbers = &mut self.numbers;
        let more = plus(&ORDER, &bytes(&Scalar::ONE)).0;
        let bit = numbers.below(512);
        let flip = |bytes: &mut [u8]| bytes[bit / 8 % bytes.len()] ^= 1 << (bit % 8);
        (case.kind, case.expected) = match numbers.below(12) {
            0 => {
                case.signature = joined(&r, &bytes(&-reduced(&r)));
                ("t = 0", Some(false))
            }
            1 => {
                let edge = if numbers.once_in(6) { more } else { *numbers.one_of(&edges) };
                case.signature = joined(&edge, &s);
                ("r out of range", None)
            }
            2 => {
                let edge = if numbers.once_in(6) { more } else { *numbers.one_of(&edges) };
                case.signature = joined(&r, &edge);
                ("s out of range", None)
            }
            3 => {
                flip(&mut case.signature[..32]);
                ("bit of r", None)
            }
            4 => {
                flip(&mut case.signature[32..]);
                ("bit of s", None)
            }
            5 => {
                flip(&mut case.digest);
                ("bit of e", None)
            }
            6 => {
                flip(&mut case.key);
                ("bit of the key", None)
            }
            7 => {
                case.key = negative(&case.key);
                ("opposite key", None)
            }
            8 => {
                let [x, y] = halves(&case.key);
                case.key = joined(&plus(&x, &PRIME).0, &y);
                ("x of the key + p", None)
            }
            9 => {
                case.key = joined(&numbers.edged(), &numbers.edged());
                ("key at random", None)
            }
            10 => {
                case.signature = joined(&s, &r);
                ("r and s swapped", None)
            }
            _ => {
                case.digest = plus(&case.digest, &bytes(&Scalar::ONE)).0;
                ("e one more", None)
            }
        };
        case
    }
}

impl Key {
    fn choose(numbers: &mut Numbers) -> Self {
        match numbers.below(4) {
            0 => loop {
                // x with limbs at their edges, small ones among them.
                let mut x = numbers.edged();
                if numbers.once_in(2) {
                    x[..28].fill(0);
                }
                if let Some(point) = decompressed(&x, numbers.once_in(2)) {
                    return Self { point, d: None };
                }
            },
            _ => {
                let d = scalar(numbers);
                Self { point: multiple_of_base(&d), d: Some(d) }
            }
        }
    }
}

impl Iterator for Cases {
    type Item = Case;

    fn next(&mut self) -> Option<Case> {
        let changes = self.numbers.below(8) < 3;
        if let Some(good) = self.last.take().filter(|_| changes) {
            let changed = self.changed(&good);
            self.last = Some(good);
            return Some(changed);
        }
        let case = match self.numbers.below(8) {
            0..=3 => self.of_sum(),
            4..=6 => self.signed().unwrap_or_else(|| self.of_sum()),
            _ => self.of_x(),
        };
        if case.expected == Some(true) {
            self.last = Some(case.clone());
        }
        Some(case)
    }
}
