//! Verification of one signature, portable (GB/T 32918.2-2016 7.1, steps B1 to B7 with e given).
//!
//! ```text
//! t = r + s mod n;  (x1, y1) = [s]G + [t]P;  valid when (e + x1) mod n = r
//! ```
//! Both multiples share their doublings (Straus), with signed windows of odd multiples: eight
//! computed for each key, 1,024 of G computed once. The last comparison is made on the projective
//! x, so that nothing is divided: x1 is r - e mod n, or n more where that is below p.

use std::sync::OnceLock;

use super::field::{Fe, P, add_limbs, limbs, sub_limbs};
use super::point::{Affine, G, Jacobian, Multiple};
use super::{Item, Verdict, known};

/// The order n of G (GB/T 32918.5-2017 A.2), limbs from the lowest.
pub(super) const N: [u64; 4] =
    [0x53bb_f409_39d5_4123, 0x7203_df6b_21c6_052b, 0xffff_ffff_ffff_ffff, 0xffff_fffe_ffff_ffff];

/// Bits of the signed windows of the key and of G.
const KEY_WINDOW: usize = 5;
const BASE_WINDOW: usize = 12;
const KEY_MULTIPLES: usize = 1 << (KEY_WINDOW - 2);
const BASE_MULTIPLES: usize = 1 << (BASE_WINDOW - 2);

/// Signed digits of a scalar below 2^256, one more than its bits.
const DIGITS: usize = 257;

/// Whether x || y, big-endian, is a point of the curve.
pub(super) fn point(key: &[u8; 64]) -> Option<Affine> {
    let [x, y] = halves(key).map(limbs);
    Affine::on_curve(x, y)
}

/// An item that may be valid: all numbers in range and the key on the curve. Limbs from the lowest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parsed {
    /// x and y of the key.
    pub(super) key: [[u64; 4]; 2],
    pub(super) s: [u64; 4],
    /// r + s mod n, not zero.
    pub(super) t: [u64; 4],
    /// r - e mod n: what x1 must be modulo n.
    pub(super) x: [u64; 4],
}

impl Parsed {
    /// Stands where there is no item: the key G and the scalars 1.
    pub(super) const IDLE: Self =
        Self { key: G, s: [1, 0, 0, 0], t: [1, 0, 0, 0], x: [1, 0, 0, 0] };

    /// Whether x + n is below p too, so that two values of x1 are right.
    pub(super) fn has_second_lift(&self) -> bool {
        let (second, carry) = add_limbs(&self.x, &N);
        !carry && sub_limbs(&second, &P).1
    }
}

/// Steps B1, B2 and B5. That the key is on the curve is left to be looked at, but where the numbers
/// are bad.
pub(super) fn parse(item: &Item<'_>) -> Result<Parsed, Verdict> {
    let key = halves(item.key).map(limbs);
    if key.iter().any(|coordinate| !sub_limbs(coordinate, &P).1) {
        return Err(Verdict::KeyInvalid);
    }
    let [r, s] = halves(item.signature).map(limbs);
    let t = add_mod_n(&r, &s);
    if !is_scalar(&r) || !is_scalar(&s) || t == [0; 4] {
        let is_key = point(item.key).is_some();
        return Err(if is_key { Verdict::SignatureInvalid } else { Verdict::KeyInvalid });
    }
    let e = reduce_mod_n(&limbs(item.digest));
    Ok(Parsed { key, s, t, x: sub_mod_n(&r, &e) })
}

/// The verdict on one item.
pub(super) fn verify(item: &Item<'_>) -> Verdict {
    let parsed = match parse(item) {
        Ok(parsed) => parsed,
        Err(verdict) => return verdict,
    };
    let Some(key) = point(item.key) else { return Verdict::KeyInvalid };
    let sum = match item.table {
        Some(table) if table.is_portable() => {
            known::add_base(known::multiply(table, &parsed.t), &parsed.s)
        }
        _ => add_multiples(&parsed.s, &parsed.t, &key),
    };
    let has = |x: [u64; 4]| Fe::from_limbs(x).is_some_and(|x| sum.has_x(&x));
    let is_valid = has(parsed.x) || (parsed.has_second_lift() && has(add_limbs(&parsed.x, &N).0));
    if is_valid { Verdict::Valid } else { Verdict::SignatureInvalid }
}

pub(super) fn halves(bytes: &[u8; 64]) -> [&[u8; 32]; 2] {
    match bytes.as_chunks() {
        ([first, second], []) => [first, second],
        _ => unreachable!("64 bytes are twice 32"),
    }
}

/// Whether 1 <= a < n.
fn is_scalar(a: &[u64; 4]) -> bool {
    *a != [0; 4] && sub_limbs(a, &N).1
}

/// a mod n for a below 2^256, which is less than 2n.
fn reduce_mod_n(a: &[u64; 4]) -> [u64; 4] {
    let (less, is_below) = sub_limbs(a, &N);
    if is_below { *a } else { less }
}

fn add_mod_n(a: &[u64; 4], b: &[u64; 4]) -> [u64; 4] {
    let (sum, carry) = add_limbs(a, b);
    let (less, is_below) = sub_limbs(&sum, &N);
    if carry || !is_below { less } else { sum }
}

fn sub_mod_n(a: &[u64; 4], b: &[u64; 4]) -> [u64; 4] {
    let (rest, is_below) = sub_limbs(a, b);
    if is_below { add_limbs(&rest, &N).0 } else { rest }
}

/// [s]G + [t]P.
fn add_multiples(s: &[u64; 4], t: &[u64; 4], key: &Affine) -> Jacobian {
    let base = base_multiples();
    let multiples = odd_multiples(key);
    let (of_base, of_key) = (digits(s, BASE_WINDOW), digits(t, KEY_WINDOW));
    let mut sum = Jacobian::INFINITY;
    for place in (0..DIGITS).rev() {
        sum = sum.double();
        let digit = of_key[place];
        if digit != 0 {
            let multiple = &multiples[usize::from(digit.unsigned_abs()) / 2];
            sum = if digit > 0 {
                sum.add_multiple(multiple)
            } else {
                sum.add_multiple(&multiple.negate())
            };
        }
        let digit = of_base[place];
        if digit != 0 {
            let multiple = &base[usize::from(digit.unsigned_abs()) / 2];
            sum = if digit > 0 {
                sum.add_affine(multiple)
            } else {
                sum.add_affine(&multiple.negate())
            };
        }
    }
    sum
}

/// P, 3P, 5P ...
fn odd_multiples(key: &Affine) -> [Multiple; KEY_MULTIPLES] {
    let first = Jacobian::from(*key).to_multiple();
    let twice = first.point.double();
    let mut multiples = [first; KEY_MULTIPLES];
    for place in 1..KEY_MULTIPLES {
        multiples[place] = twice.add_multiple(&multiples[place - 1]).to_multiple();
    }
    multiples
}

/// G, 3G, 5G ... of 64 KB, made at first use.
fn base_multiples() -> &'static [Affine] {
    static MULTIPLES: OnceLock<Vec<Affine>> = OnceLock::new();
    MULTIPLES.get_or_init(|| {
        let generator = Jacobian::from(Affine::generator());
        let twice = generator.double();
        let mut multiples = vec![generator; BASE_MULTIPLES];
        for place in 1..BASE_MULTIPLES {
            multiples[place] = multiples[place - 1].add(&twice);
        }
        let mut affine = vec![Affine::generator(); BASE_MULTIPLES];
        Jacobian::normalise(&multiples, &mut affine);
        affine
    })
}

/// Signed digits of `scalar`, from the lowest: each is 0 or odd, below 2^(window-1) either way, and
/// `window - 1` zeros follow one that is not.
fn digits(scalar: &[u64; 4], window: usize) -> [i16; DIGITS] {
    let mut digits = [0; DIGITS];
    let mut carry = 0;
    let mut place = 0;
    while place < DIGITS {
        if bits(scalar, place, 1) == carry {
            // The bit and what was carried here sum up to an even number.
            place += 1;
            continue;
        }
        let mut digit = bits(scalar, place, window) + carry;
        carry = u16::from(digit >= 1 << (window - 1));
        digit = digit.wrapping_sub(carry << window);
        digits[place] = digit.cast_signed();
        place += window;
    }
    debug_assert!(carry == 0, "a scalar below 2^256 ends within its digits");
    digits
}

/// `count` bits of the scalar from `place` up; zeros above its end.
fn bits(scalar: &[u64; 4], place: usize, count: usize) -> u16 {
    let (limb, shift) = (place / 64, place % 64);
    let low = scalar.get(limb).copied().unwrap_or(0);
    let high = scalar.get(limb + 1).copied().unwrap_or(0);
    let wide = (u128::from(high) << 64 | u128::from(low)) >> shift;
    let masked = wide & ((1 << count) - 1);
    u16::try_from(masked).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sum of digit * 2^place, by Horner's rule over 320 bits of two's complement.
    fn value(digits: &[i16; DIGITS]) -> [u64; 5] {
        let mut value = [0u64; 5];
        for digit in digits.iter().rev() {
            let mut carry = i128::from(*digit);
            for limb in &mut value {
                let wide = (i128::from(*limb) << 1) + carry;
                *limb = u64::try_from(wide & i128::from(u64::MAX)).unwrap();
                carry = wide >> 64;
            }
        }
        value
    }

    #[test]
    fn digits_sum_up_to_the_scalar_and_keep_their_distance() {
        let edges = [
            [0; 4],
            [1, 0, 0, 0],
            [u64::MAX; 4],
            N,
            [0, 0, 0, 1 << 63],
            [0x8080_8080_8080_8080; 4],
            [0x7f7f_7f7f_7f7f_7f7f; 4],
            [0xf0f0_f0f0_f0f0_f0f1; 4],
        ];
        for scalar in edges {
            for window in [KEY_WINDOW, BASE_WINDOW] {
                let digits = digits(&scalar, window);
                let [a, b, c, d, top] = value(&digits);
                assert_eq!(([a, b, c, d], top), (scalar, 0));
                let mut last: Option<usize> = None;
                for (place, digit) in digits.iter().enumerate().filter(|(_, digit)| **digit != 0) {
                    assert!(digit % 2 != 0 && digit.unsigned_abs() < 1 << (window - 1));
                    assert!(last.is_none_or(|last| place - last >= window));
                    last = Some(place);
                }
            }
        }
    }
}
