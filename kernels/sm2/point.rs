//! Points of the SM2 curve y^2 = x^3 - 3x + b in Jacobian coordinates, portable.
//!
//! Formulas: doubling "dbl-2001-b" with half the z, so that nothing is doubled, mixed addition
//! "madd-2004-hmv", addition "add-1998-cmo-2" of Bernstein and Lange's Explicit-Formulas Database.
//!
//! `add` and `add_affine` tell the exceptional cases (equal points, opposite points, infinity)
//! apart before they are wrong and are variable time: for public data only. `double`, the additions
//! of distinct points and `add_complete` are constant time.

use super::field::{Fe, bytes};

/// b of the curve (GB/T 32918.5-2017 A.2), limbs from the lowest.
pub(super) const B: [u64; 4] =
    [0xddbc_bd41_4d94_0e93, 0xf397_89f5_15ab_8f92, 0x4d5a_9e4b_cf65_09a7, 0x28e9_fa9e_9d9f_5e34];

/// b of the curve in Montgomery form.
const B_MONTGOMERY: Fe = Fe::from_montgomery([
    0x90d2_3063_2bc0_dd42,
    0x71cf_379a_e9b5_37ab,
    0x5279_8150_5ea5_1c3c,
    0x240f_e188_ba20_e2c8,
]);

/// x and y of the base point G.
pub(super) const G: [[u64; 4]; 2] = [
    [0x715a_4589_334c_74c7, 0x8fe3_0bbf_f266_0be1, 0x5f99_0446_6a39_c994, 0x32c4_ae2c_1f19_8119],
    [0x02df_32e5_2139_f0a0, 0xd0a9_877c_c62a_4740, 0x59bd_cee3_6b69_2153, 0xbc37_36a2_f4f6_779c],
];

/// x^3 - 3x + b.
fn right_side(x: &Fe) -> Fe {
    let three_x = x.double().add(x);
    x.square().mul(x).sub(&three_x).add(&B_MONTGOMERY)
}

/// A point other than infinity, by its coordinates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Affine {
    pub(super) x: Fe,
    pub(super) y: Fe,
}

/// (x / z^2, y / z^3), or infinity where z is 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Jacobian {
    pub(super) x: Fe,
    pub(super) y: Fe,
    pub(super) z: Fe,
}

/// A point with the powers of its z that every addition wants.
#[derive(Clone, Copy)]
pub(super) struct Multiple {
    pub(super) point: Jacobian,
    pub(super) zz: Fe,
    pub(super) zzz: Fe,
}

impl Affine {
    /// The base point.
    pub(super) fn generator() -> Self {
        let [Some(x), Some(y)] = G.map(Fe::from_limbs) else {
            unreachable!("the coordinates of G are below p")
        };
        Self { x, y }
    }

    /// The point with these coordinates; `None` unless they are below p and on the curve.
    pub(super) fn on_curve(x: [u64; 4], y: [u64; 4]) -> Option<Self> {
        let (x, y) = (Fe::from_limbs(x)?, Fe::from_limbs(y)?);
        (y.square() == right_side(&x)).then_some(Self { x, y })
    }

    /// The point with this x whose y is odd or not; `None` unless x is below p and has a point.
    /// Variable time, public data only (GB/T 32918.1-2016 A.5.2).
    pub(super) fn decompress(x: [u64; 4], is_odd: bool) -> Option<Self> {
        let x = Fe::from_limbs(x)?;
        let right = right_side(&x);
        let y = right.root();
        if y.square() != right {
            return None;
        }
        // There is no point with y = 0: it would have order 2.
        let is_other = (y.to_limbs()[0] & 1 == 1) != is_odd;
        Some(Self { x, y: if is_other { y.negate() } else { y } })
    }

    /// x || y, big-endian.
    pub(super) fn to_bytes(self) -> [u8; 64] {
        let (x, y) = self.coordinates();
        let mut both = [0; 64];
        both[..32].copy_from_slice(&bytes(&x));
        both[32..].copy_from_slice(&bytes(&y));
        both
    }

    /// x and y times the square and the cube of 1 / z, which is handed in. Constant time.
    pub(super) fn divide(&self, inverse: &Fe) -> Self {
        let square = inverse.square();
        Self { x: self.x.mul(&square), y: self.y.mul(&square).mul(inverse) }
    }

    /// Twice the point and the point itself, without the z of both, which is y. 2M + 4S. Constant
    /// time.
    pub(super) fn double_with(&self) -> (Self, Self) {
        let yy = self.y.square();
        let (s, yyyy) = (self.x.mul(&yy), yy.square());
        let product = self.x.square().sub(&Fe::ONE);
        let slope = product.add(&product.halve());
        let x = slope.square().sub(&s).sub(&s);
        let y = slope.mul(&s.sub(&x)).sub(&yyyy);
        (Self { x, y }, Self { x: s, y: yyyy })
    }

    /// The sum with a point of the same z, whose place it takes, while this one is brought to the
    /// z of the sum; answers with the factor from the old z to the new, which is 0 if the points
    /// have one x. 4M + 2S. Constant time.
    pub(super) fn add_with(&mut self, other: &mut Self) -> Fe {
        let ratio = self.x.sub(&other.x);
        let square = ratio.square();
        let (own, others) = (self.x.mul(&square), other.x.mul(&square));
        let slope = self.y.sub(&other.y);
        let y = self.y.mul(&own.sub(&others));
        let x3 = slope.square().sub(&own).sub(&others);
        let y3 = slope.mul(&own.sub(&x3)).sub(&y);
        *self = Self { x: own, y };
        *other = Self { x: x3, y: y3 };
        ratio
    }

    /// x and y in Montgomery form, and back from it.
    pub(super) const fn montgomery(&self) -> ([u64; 4], [u64; 4]) {
        (self.x.montgomery(), self.y.montgomery())
    }

    pub(super) const fn from_montgomery(x: [u64; 4], y: [u64; 4]) -> Self {
        Self { x: Fe::from_montgomery(x), y: Fe::from_montgomery(y) }
    }

    /// x and y, limbs from the lowest.
    pub(super) fn coordinates(&self) -> ([u64; 4], [u64; 4]) {
        (self.x.to_limbs(), self.y.to_limbs())
    }
}

/// What a doubling has come to before the coordinates of the double.
struct Tangent {
    /// 3/2 (x^2 - z^4).
    slope: Fe,
    /// x y^2.
    s: Fe,
    yy: Fe,
    /// z of the double.
    z: Fe,
}

impl Tangent {
    /// x of the double.
    #[inline(always)]
    fn x(&self) -> Fe {
        self.slope.square().sub(&self.s).sub(&self.s)
    }

    #[inline(always)]
    fn double(self, x: Fe) -> Jacobian {
        let y = Fe::product_less_square(&self.slope, &self.s.sub(&x), &self.yy);
        Jacobian { x, y, z: self.z }
    }
}

impl From<Affine> for Jacobian {
    fn from(Affine { x, y }: Affine) -> Self {
        Self { x, y, z: Fe::ONE }
    }
}

impl Multiple {
    pub(super) fn negate(&self) -> Self {
        Self { point: self.point.negate(), ..*self }
    }
}

impl Jacobian {
    pub(super) const INFINITY: Self = Self { x: Fe::ONE, y: Fe::ONE, z: Fe::ZERO };

    pub(super) fn is_infinity(&self) -> bool {
        self.z.is_zero()
    }

    pub(super) fn negate(&self) -> Self {
        Self { x: self.x, y: self.y.negate(), z: self.z }
    }

    /// Twice the point; right for infinity too, and there is no point of order 2. 4M + 4S. Constant
    /// time.
    #[inline(never)]
    pub(super) fn double(&self) -> Self {
        self.doubled()
    }

    /// Doubles the point `count` times. Constant time but for the count. Not inlined: a loop over
    /// one body that the CPU has decoded already, with the point where it is, is faster than what
    /// the compiler makes of it in the middle of other code.
    #[inline(never)]
    pub(super) fn double_times(&mut self, count: usize) {
        for _ in 0..count {
            *self = self.doubled();
        }
    }

    /// Doubles two points `count` times, side by side: one gives the CPU work where it would wait
    /// for the other. Constant time but for the count.
    #[inline(never)]
    pub(super) fn double_both([first, second]: &mut [Self; 2], count: usize) {
        for _ in 0..count {
            let (a, b) = (first.squares(), second.squares());
            let (a, b) = (first.slope(a), second.slope(b));
            let (a_x, b_x) = (a.x(), b.x());
            (*first, *second) = (a.double(a_x), b.double(b_x));
        }
    }

    #[inline(always)]
    fn doubled(&self) -> Self {
        let slope = self.slope(self.squares());
        let x = slope.x();
        slope.double(x)
    }

    /// y^2 and z^2, what a doubling begins with.
    #[inline(always)]
    fn squares(&self) -> [Fe; 2] {
        [self.y.square(), self.z.square()]
    }

    /// The tangent, with those squares.
    #[inline(always)]
    fn slope(&self, [yy, zz]: [Fe; 2]) -> Tangent {
        let Self { x, y, z } = self;
        let s = x.mul(&yy);
        let product = x.sub(&zz).mul(&x.add(&zz));
        let z = y.mul(z);
        Tangent { slope: product.add(&product.halve()), s, yy, z }
    }

    /// The sum with a point whose z is 1. 8M + 3S.
    #[inline(always)]
    pub(super) fn add_affine(&self, other: &Affine) -> Self {
        if self.is_infinity() {
            return Self::from(*other);
        }
        let zz = self.z.square();
        let u = other.x.mul(&zz);
        let s = other.y.mul(&zz).mul(&self.z);
        let h = u.sub(&self.x);
        let r = s.sub(&self.y);
        if h.is_zero() {
            return if r.is_zero() { self.double() } else { Self::INFINITY };
        }
        let z = self.z.mul(&h);
        Self::sum(&self.x, &self.y, &h, &r, z)
    }

    /// Adds the point, or its opposite, in place. Variable time.
    #[inline(never)]
    pub(super) fn accumulate(&mut self, other: &Affine, is_opposite: bool) {
        let y = other.y.negate_if(u64::from(is_opposite).wrapping_neg());
        *self = self.add_affine(&Affine { x: other.x, y });
    }

    /// The sum of two points. 12M + 4S.
    pub(super) fn add(&self, other: &Self) -> Self {
        if self.is_infinity() {
            return *other;
        }
        if other.is_infinity() {
            return *self;
        }
        let (zz, other_zz) = (self.z.square(), other.z.square());
        let (u1, u2) = (self.x.mul(&other_zz), other.x.mul(&zz));
        let s1 = self.y.mul(&other_zz).mul(&other.z);
        let s2 = other.y.mul(&zz).mul(&self.z);
        let (h, r) = (u2.sub(&u1), s2.sub(&s1));
        if h.is_zero() {
            return if r.is_zero() { self.double() } else { Self::INFINITY };
        }
        let z = self.z.mul(&other.z).mul(&h);
        Self::sum(&u1, &s1, &h, &r, z)
    }

    /// What both additions end with: the first point over the common denominator, the differences
    /// of the coordinates and the z of the sum.
    #[inline(always)]
    fn sum(x: &Fe, y: &Fe, h: &Fe, r: &Fe, z: Fe) -> Self {
        let hh = h.square();
        let hhh = hh.mul(h);
        let v = x.mul(&hh);
        let x3 = r.square().sub(&hhh).sub(&v.double());
        let y3 = Fe::difference_of_products(r, &v.sub(&x3), y, &hhh);
        Self { x: x3, y: y3, z }
    }

    /// The sum with a point that is neither this one nor its opposite; this one is not infinity.
    /// Constant time; z is 0 if the points are not as they should be. 8M + 3S.
    #[inline(always)]
    pub(super) fn add_affine_distinct(&self, other: &Affine) -> Self {
        let zz = self.z.square();
        let h = other.x.mul(&zz).sub(&self.x);
        let r = other.y.mul(&zz.mul(&self.z)).sub(&self.y);
        Self::sum(&self.x, &self.y, &h, &r, self.z.mul(&h))
    }

    /// [`Self::add_affine_distinct`] with a point of a table. 11M + 3S.
    #[inline(always)]
    pub(super) fn add_distinct(&self, other: &Multiple) -> Self {
        self.add_with_differences(other).0
    }

    /// The sum with a point of a table, which may be this one or its opposite; neither is infinity.
    /// Constant time.
    pub(super) fn add_complete(&self, other: &Multiple) -> Self {
        let (sum, h, r) = self.add_with_differences(other);
        let is_same = h.zero_mask() & r.zero_mask();
        let double = self.double();
        Self {
            x: Fe::select(is_same, &sum.x, &double.x),
            y: Fe::select(is_same, &sum.y, &double.y),
            z: Fe::select(is_same, &sum.z, &double.z),
        }
    }

    /// The sum with a point of a table in every case. Variable time.
    #[inline(never)]
    pub(super) fn add_multiple(&self, other: &Multiple) -> Self {
        if self.is_infinity() {
            return other.point;
        }
        let (sum, h, r) = self.add_with_differences(other);
        if h.is_zero() {
            return if r.is_zero() { self.double() } else { Self::INFINITY };
        }
        sum
    }

    /// The sum of distinct points and the differences of their coordinates, which are 0 where these
    /// are the same.
    #[inline(always)]
    fn add_with_differences(&self, other: &Multiple) -> (Self, Fe, Fe) {
        let zz = self.z.square();
        let (u1, u2) = (self.x.mul(&other.zz), other.point.x.mul(&zz));
        let s1 = self.y.mul(&other.zzz);
        let s2 = other.point.y.mul(&zz.mul(&self.z));
        let (h, r) = (u2.sub(&u1), s2.sub(&s1));
        let z = self.z.mul(&other.point.z).mul(&h);
        (Self::sum(&u1, &s1, &h, &r, z), h, r)
    }

    /// With the powers of z.
    pub(super) fn to_multiple(self) -> Multiple {
        let zz = self.z.square();
        Multiple { point: self, zz, zzz: zz.mul(&self.z) }
    }

    /// Whether this is a point whose affine x is `x`, without a division.
    pub(super) fn has_x(&self, x: &Fe) -> bool {
        let right = x.mul(&self.z.square());
        !self.is_infinity() && right.sub(&self.x).is_zero()
    }

    /// By its coordinates; `None` at infinity. Costs a division.
    pub(super) fn to_affine(self) -> Option<Affine> {
        if self.is_infinity() {
            return None;
        }
        Some(self.divide(&self.z.invert()))
    }

    /// By its coordinates, with 1 / z at hand. Constant time.
    pub(super) fn divide(&self, inverse: &Fe) -> Affine {
        Affine { x: self.x, y: self.y }.divide(inverse)
    }

    /// By their coordinates, with one division for all; no point is at infinity.
    ///
    /// # Panics
    /// If the two slices differ in length.
    pub(super) fn normalise(points: &[Self], affine: &mut [Affine]) {
        assert_eq!(points.len(), affine.len(), "a place for each point");
        // The product of the z of all points up to each stands in x of its place for a while.
        let mut product = Fe::ONE;
        for (place, point) in affine.iter_mut().zip(points) {
            product = product.mul(&point.z);
            place.x = product;
        }
        let mut inverse = product.invert();
        for number in (0..points.len()).rev() {
            let own = match number.checked_sub(1) {
                Some(before) => inverse.mul(&affine[before].x),
                None => inverse,
            };
            let point = &points[number];
            inverse = inverse.mul(&point.z);
            let square = own.square();
            affine[number] = Affine { x: point.x.mul(&square), y: point.y.mul(&square).mul(&own) };
        }
    }
}
