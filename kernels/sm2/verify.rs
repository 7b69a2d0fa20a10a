//! Verification, portable (GB/T 32918.2-2016 7.1, steps B1 to B7 with e given).
//!
//! ```text
//! t = r + s mod n;  (x1, y1) = [s]G + [t]P;  valid when (e + x1) mod n = r
//! ```
//! Both multiples share their doublings (Straus), with signed windows of odd multiples: eight
//! computed for each key, 1,024 of G computed once. The last comparison is made on the projective
//! x, so that nothing is divided: x1 is r - e mod n, or n more where that is below p.
//!
//! Signatures in a batch share one division, which brings the multiples of all their keys to z = 1;
//! else each is verified as if it were alone.

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

    /// Step B7 with [s]G + [t]P.
    fn judge(&self, sum: &Jacobian) -> Verdict {
        let has = |x: [u64; 4]| Fe::from_limbs(x).is_some_and(|x| sum.has_x(&x));
        let is_valid = has(self.x) || (self.has_second_lift() && has(add_limbs(&self.x, &N).0));
        if is_valid { Verdict::Valid } else { Verdict::SignatureInvalid }
    }

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
    parsed.judge(&sum)
}

/// Items without tables that share a division.
const CHUNK: usize = 16;

/// The verdicts on items; see [`verify`].
pub(super) fn verify_many(items: &[Item<'_>], verdicts: &mut [Verdict]) {
    for (items, verdicts) in items.chunks(CHUNK).zip(verdicts.chunks_mut(CHUNK)) {
        match items {
            [item] => verdicts[0] = verify(item),
            items => verify_chunk(items, verdicts),
        }
    }
}

/// The verdicts on up to [`CHUNK`] items. The multiples of all keys are divided by their z at once:
/// adding one costs 8M + 3S then, not 11M + 3S.
fn verify_chunk(items: &[Item<'_>], verdicts: &mut [Verdict]) {
    let mut fresh = [(0, Parsed::IDLE); CHUNK];
    let mut tables = [KeyMultiples::EMPTY; CHUNK];
    let mut count = 0;
    for (place, (item, verdict)) in items.iter().zip(verdicts.iter_mut()).enumerate() {
        if item.table.is_some() {
            *verdict = verify(item);
            continue;
        }
        match (parse(item), point(item.key)) {
            (Err(refusal), _) => *verdict = refusal,
            (_, None) => *verdict = Verdict::KeyInvalid,
            (Ok(parsed), Some(key)) => {
                fresh[count] = (place, parsed);
                tables[count] = KeyMultiples::new(&key);
                count += 1;
            }
        }
    }
    let (fresh, tables) = (&fresh[..count], &mut tables[..count]);
    KeyMultiples::normalise(tables);
    let tables = &*tables;
    let (pairs, odd) = fresh.as_chunks::<2>();
    let (pairs_of_tables, odd_tables) = tables.as_chunks::<2>();
    for (fresh, tables) in pairs.iter().zip(pairs_of_tables) {
        judge_together(fresh, tables, Jacobian::double_both, verdicts);
    }
    if let ([fresh], [table]) = (odd, odd_tables) {
        let double_times = |[sum]: &mut [Jacobian; 1], count| sum.double_times(count);
        judge_together(&[*fresh], core::array::from_ref(table), double_times, verdicts);
    }
}

/// Writes the verdicts on some items to their places, with the multiples of their keys.
fn judge_together<const COUNT: usize>(
    items: &[(usize, Parsed); COUNT],
    multiples: &[KeyMultiples; COUNT],
    double_times: impl Fn(&mut [Jacobian; COUNT], usize),
    verdicts: &mut [Verdict],
) {
    let base = base_multiples();
    let steps = items.each_ref().map(|(_, parsed)| Steps::new(&parsed.s, &parsed.t));
    let sums = Steps::run(&steps, double_times, |one, sum, step| {
        let table = if step.is_of_base { base } else { &multiples[one].points };
        sum.accumulate(&table[step.place_in_table], step.is_negative);
    });
    for ((place, parsed), sum) in items.iter().zip(&sums) {
        verdicts[*place] = parsed.judge(sum);
    }
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
    let double_times = |[sum]: &mut [Jacobian; 1], count| sum.double_times(count);
    let [sum] = Steps::run(&[Steps::new(s, t)], double_times, |_, sum, step| {
        if step.is_of_base {
            sum.accumulate(&base[step.place_in_table], step.is_negative);
        } else {
            let multiple = &multiples[step.place_in_table];
            *sum = if step.is_negative {
                sum.add_multiple(&multiple.negate())
            } else {
                sum.add_multiple(multiple)
            };
        }
    });
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

/// P, 3P, 5P ... of a key.
///
/// They are made by additions of points with one z in common (N. Meloni, "New Point Addition
/// Formulae for ECC Applications"): 2P is added again and again, and each addition gives it the z
/// of the sum. No case is told apart, for none is met: 2P and an odd multiple below 15P would have
/// one x only if n divided a number below 17.
struct KeyMultiples {
    /// Before they are normalised, all but the first without their z.
    points: [Affine; KEY_MULTIPLES],
    /// z of each is this times that of the one before it.
    ratios: [Fe; KEY_MULTIPLES],
    /// z of the last: the product of all ratios, and never 0.
    z: Fe,
}

impl KeyMultiples {
    const EMPTY: Self = Self {
        points: [Affine { x: Fe::ZERO, y: Fe::ZERO }; KEY_MULTIPLES],
        ratios: [Fe::ONE; KEY_MULTIPLES],
        z: Fe::ONE,
    };

    fn new(key: &Affine) -> Self {
        let mut these =
            Self { points: [*key; KEY_MULTIPLES], ratios: [key.y; KEY_MULTIPLES], z: key.y };
        let (mut twice, mut last) = key.double_with();
        for number in 1..KEY_MULTIPLES {
            let ratio = twice.add_with(&mut last);
            these.points[number] = last;
            these.ratios[number] = if number == 1 { key.y.mul(&ratio) } else { ratio };
            these.z = these.z.mul(&ratio);
        }
        these
    }

    /// Divides the points of all tables by their z, with one inversion.
    fn normalise(tables: &mut [Self]) {
        let mut befores = [Fe::ONE; CHUNK];
        let mut product = Fe::ONE;
        for (before, table) in befores.iter_mut().zip(tables.iter()) {
            *before = product;
            product = product.mul(&table.z);
        }
        let mut inverse = product.invert();
        for (before, table) in befores.iter().zip(tables).rev() {
            let mut own = inverse.mul(before);
            inverse = inverse.mul(&table.z);
            for (point, ratio) in table.points.iter_mut().zip(&table.ratios).skip(1).rev() {
                *point = point.divide(&own);
                own = own.mul(ratio);
            }
        }
    }
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

/// A multiple that is added, and when.
#[derive(Clone, Copy)]
struct Step {
    /// How many doublings come after it.
    doublings: usize,
    is_of_base: bool,
    place_in_table: usize,
    is_negative: bool,
}

/// Digits of the key and of G at most: as many windows as begin below the end.
const STEPS_MAX: usize = DIGITS.div_ceil(KEY_WINDOW) + DIGITS.div_ceil(BASE_WINDOW);

/// The multiples that make up [s]G + [t]P, in the order in which they are added.
struct Steps {
    steps: [Step; STEPS_MAX],
    count: usize,
}

impl Steps {
    fn new(s: &[u64; 4], t: &[u64; 4]) -> Self {
        let none = Step { doublings: 0, is_of_base: false, place_in_table: 0, is_negative: false };
        let mut these = Self { steps: [none; STEPS_MAX], count: 0 };
        let (mut of_base, mut of_key) = (Digits::new(s, BASE_WINDOW), Digits::new(t, KEY_WINDOW));
        let (mut base, mut key) = (of_base.next(), of_key.next());
        // Digits come from the lowest.
        loop {
            let is_of_base = match (&base, &key) {
                (Some(base), Some(key)) => base.0 < key.0,
                (base, None) => base.is_some(),
                (None, _) => false,
            };
            let digit = if is_of_base {
                core::mem::replace(&mut base, of_base.next())
            } else {
                core::mem::replace(&mut key, of_key.next())
            };
            let Some((doublings, digit)) = digit else { break };
            let place_in_table = usize::from(digit.unsigned_abs()) / 2;
            let is_negative = digit < 0;
            these.steps[these.count] = Step { doublings, is_of_base, place_in_table, is_negative };
            these.count += 1;
        }
        these
    }

    /// The sums of the multiples of each, with the doublings of all side by side. `add` is told
    /// which of the sums it adds to.
    fn run<const COUNT: usize>(
        all: &[Self; COUNT],
        double_times: impl Fn(&mut [Jacobian; COUNT], usize),
        mut add: impl FnMut(usize, &mut Jacobian, &Step),
    ) -> [Jacobian; COUNT] {
        let mut sums = [Jacobian::INFINITY; COUNT];
        let mut left = all.each_ref().map(|these| these.count);
        let mut place = 0;
        loop {
            // What has the most doublings before it comes next.
            let next = (0..COUNT)
                .filter_map(|one| Some((all[one].steps.get(left[one].checked_sub(1)?)?, one)))
                .max_by_key(|(step, _)| step.doublings);
            let doublings = next.map_or(0, |(step, _)| step.doublings);
            double_times(&mut sums, place - doublings.min(place));
            let Some((step, one)) = next else { return sums };
            place = doublings;
            left[one] -= 1;
            add(one, &mut sums[one], step);
        }
    }
}

/// Signed digits of a scalar that are not 0, from the lowest, each with its place: odd, below
/// 2^(window-1) either way and `window` places apart at least.
struct Digits<'a> {
    scalar: &'a [u64; 4],
    window: usize,
    place: usize,
    carry: u16,
}

impl<'a> Digits<'a> {
    fn new(scalar: &'a [u64; 4], window: usize) -> Self {
        Self { scalar, window, place: 0, carry: 0 }
    }
}

impl Iterator for Digits<'_> {
    type Item = (usize, i16);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        while self.place < DIGITS {
            let bits = bits_from(self.scalar, self.place);
            // A bit and what was carried to it sum up to an even number where they are equal.
            let equal = (bits ^ u64::from(self.carry).wrapping_neg()).trailing_zeros();
            if equal == u64::BITS {
                self.place += 64;
                continue;
            }
            let place = self.place + usize::try_from(equal).unwrap_or(0);
            if place >= DIGITS {
                break;
            }
            let bits = bits_from(self.scalar, place) & ((1 << self.window) - 1);
            let digit = u16::try_from(bits).unwrap_or(0) + self.carry;
            self.carry = u16::from(digit >= 1 << (self.window - 1));
            self.place = place + self.window;
            return Some((place, digit.wrapping_sub(self.carry << self.window).cast_signed()));
        }
        None
    }
}

/// The 64 bits of the scalar from `place` up; zeros above its end.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
fn bits_from(scalar: &[u64; 4], place: usize) -> u64 {
    let (limb, shift) = (place / 64, place % 64);
    let low = scalar.get(limb).copied().unwrap_or(0);
    let high = scalar.get(limb + 1).copied().unwrap_or(0);
    ((u128::from(high) << 64 | u128::from(low)) >> shift) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sum of digit * 2^place, by Horner's rule over 320 bits of two's complement.
    fn value(digits: &[i16]) -> [u64; 5] {
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
                let mut digits = [0; DIGITS];
                for (place, digit) in Digits::new(&scalar, window) {
                    digits[place] = digit;
                }
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

    /// Against repeated additions that tell all cases apart; keys in a batch of every size.
    #[test]
    fn multiples_of_keys_are_odd_and_normalised() {
        let mut point = Jacobian::from(Affine::generator());
        let keys: Vec<Affine> = (0..CHUNK)
            .map(|number| {
                // The same key comes thrice.
                if number % 3 == 0 {
                    point = point.double();
                }
                point.to_affine().unwrap()
            })
            .collect();
        for count in 0..=CHUNK {
            let mut tables: Vec<KeyMultiples> =
                keys[..count].iter().map(KeyMultiples::new).collect();
            KeyMultiples::normalise(&mut tables);
            for (key, table) in keys.iter().zip(&tables) {
                let mut multiple = Jacobian::from(*key);
                let twice = multiple.double();
                for point in table.points {
                    assert_eq!(Some(point), multiple.to_affine());
                    multiple = multiple.add(&twice);
                }
            }
        }
    }
}
