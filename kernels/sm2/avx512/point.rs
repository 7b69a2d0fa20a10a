//! Points in Jacobian coordinates, in lanes: x / z^2 and y / z^3.
//!
//! No case is told apart: where two points to be added are equal, opposite or infinite, z becomes 0
//! and stays so whatever is done with the point afterwards. Who uses a sum looks at its z in the
//! end, or knows that it cannot happen.
//!
//! The bounds in [`Point`] are what every function here takes and gives; see
//! [`field`](super::field) for what they mean.

use core::arch::x86_64::{__m512i, __mmask8, _mm512_loadu_si512, _mm512_setzero_si512};

use super::super::field::P;
use super::super::known::Entry;
use super::field::{Fe, LANES, Limbs, split, transpose};

/// a * 2^260 mod p for a below p: Montgomery form.
pub(super) const fn montgomery(mut a: [u64; 4]) -> Limbs {
    let mut round = 0;
    while round < 260 {
        // 2 a, and what is left of it when p is taken off.
        let (mut twice, mut less) = ([0; 4], [0; 4]);
        let (mut carry, mut borrow) = (0, false);
        let mut at = 0;
        while at < 4 {
            twice[at] = a[at] << 1 | carry;
            carry = a[at] >> 63;
            let (rest, first) = twice[at].overflowing_sub(P[at]);
            let (rest, second) = rest.overflowing_sub(borrow as u64);
            (less[at], borrow) = (rest, first | second);
            at += 1;
        }
        a = if carry == 1 || !borrow { less } else { twice };
        round += 1;
    }
    split(&a)
}

/// 1 in Montgomery form.
pub(super) const ONE: Limbs = montgomery([1, 0, 0, 0]);

/// One point a lane.
#[derive(Clone, Copy)]
pub(super) struct Point<const V: usize> {
    pub(super) x: Fe<V, 2>,
    pub(super) y: Fe<V, 4>,
    pub(super) z: Fe<V, 4>,
}

/// One point a lane, z being 1.
#[derive(Clone, Copy)]
pub(super) struct Affine<const V: usize> {
    pub(super) x: Fe<V, 2>,
    pub(super) y: Fe<V, 2>,
}

/// A point with the powers of z that an addition wants.
#[derive(Clone, Copy)]
pub(super) struct Multiple<const V: usize> {
    pub(super) point: Point<V>,
    pub(super) zz: Fe<V, 2>,
    pub(super) zzz: Fe<V, 2>,
}

impl<const V: usize> Affine<V> {
    /// The entries, one a lane.
    #[target_feature(enable = "avx512f,avx512vbmi2")]
    #[inline]
    pub(super) fn load(entries: &[[&Entry; LANES]; V]) -> Self {
        let mut words = [[_mm512_setzero_si512(); V]; 8];
        for (v, entries) in entries.iter().enumerate() {
            let mut rows = [_mm512_setzero_si512(); LANES];
            for (row, entry) in rows.iter_mut().zip(entries) {
                // SAFETY: an entry is eight words, the 64 bytes that are read.
                *row = unsafe { _mm512_loadu_si512(entry.0.as_ptr().cast::<__m512i>()) };
            }
            for (word, row) in words.iter_mut().zip(transpose(rows)) {
                word[v] = row;
            }
        }
        let [x0, x1, x2, x3, y0, y1, y2, y3] = words;
        Self { x: Fe::from_words([x0, x1, x2, x3]), y: Fe::from_words([y0, y1, y2, y3]) }
    }

    /// The opposite points where the masks are set.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn negate_where(self, masks: [__mmask8; V]) -> Self {
        Self { x: self.x, y: self.y.negate_where(masks).tight() }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn to_point(self) -> Point<V> {
        Point { x: self.x, y: self.y.widen(), z: Fe::all(&ONE) }
    }
}

impl<const V: usize> Point<V> {
    /// Twice the points; "dbl-2001-b" with 2yz multiplied out: 4M + 4S.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn double(&self) -> Self {
        let Self { x, y, z } = self;
        let delta: Fe<V, 2> = z.square().tight();
        let gamma: Fe<V, 2> = y.square().tight();
        let beta4: Fe<V, 8> = x.mul::<2, 2>(&gamma).shifted::<2, 8>().tight();
        let less: Fe<V, 12> = x.minus::<2, 4>(delta).tripled().tight();
        let more: Fe<V, 4> = x.plus(delta).tight();
        let alpha: Fe<V, 4> = less.mul(&more).tight();
        let z: Fe<V, 4> = y.mul::<4, 2>(z).shifted::<1, 4>().tight();
        let x = alpha.square::<2>().minus::<16, 18>(beta4.loose().shifted::<1, 16>()).folded();
        let rest: Fe<V, 10> = beta4.minus(x).tight();
        let gammas = gamma.square::<2>().shifted::<3, 16>();
        let y = alpha.mul::<10, 4>(&rest).minus::<16, 20>(gammas).folded().widen();
        Self { x, y, z }
    }

    /// The sums: 11M + 3S.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn add(&self, other: &Multiple<V>) -> Self {
        let zz: Fe<V, 2> = self.z.square().tight();
        let zzz: Fe<V, 2> = zz.mul(&self.z).tight();
        let u: Fe<V, 2> = self.x.mul(&other.zz).tight();
        let s: Fe<V, 2> = self.y.mul(&other.zzz).tight();
        let h: Fe<V, 4> = other.point.x.mul::<2, 2>(&zz).minus(u.loose()).tight();
        let r: Fe<V, 4> = other.point.y.mul::<2, 2>(&zzz).minus(s.loose()).tight();
        let both: Fe<V, 2> = self.z.mul(&other.point.z).tight();
        let z: Fe<V, 2> = both.mul(&h).tight();
        let hh: Fe<V, 2> = h.square().tight();
        let hhh: Fe<V, 2> = hh.mul(&h).tight();
        let v: Fe<V, 2> = u.mul(&hh).tight();
        let twice_v = v.loose().shifted::<1, 4>();
        let x = r.square::<2>().minus::<2, 4>(hhh.loose()).minus::<4, 8>(twice_v).folded();
        let rest: Fe<V, 4> = v.minus(x).tight();
        let y = r.mul::<4, 2>(&rest).minus::<2, 4>(s.mul(&hhh)).tight();
        Self { x, y, z: z.widen() }
    }

    /// The sums with points whose z is 1.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn add_affine(&self, other: &Affine<V>) -> Self {
        self.add_signed(other, [0; V])
    }

    /// The sums with points whose z is 1, or with their opposites where the masks are set: 8M + 3S.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn add_signed(&self, other: &Affine<V>, negative: [__mmask8; V]) -> Self {
        let zz: Fe<V, 2> = self.z.square().tight();
        let zzz: Fe<V, 2> = zz.mul(&self.z).tight();
        let h: Fe<V, 4> = other.x.mul::<2, 2>(&zz).minus(self.x.loose()).tight();
        let s = other.y.mul::<2, 2>(&zzz).negate_where(negative);
        let r: Fe<V, 6> = s.minus(self.y.loose()).tight();
        let z: Fe<V, 2> = self.z.mul(&h).tight();
        let hh: Fe<V, 2> = h.square().tight();
        let hhh: Fe<V, 2> = hh.mul(&h).tight();
        let v: Fe<V, 2> = self.x.mul(&hh).tight();
        let twice_v = v.loose().shifted::<1, 4>();
        let x = r.square::<4>().minus::<2, 6>(hhh.loose()).minus::<4, 10>(twice_v).folded();
        let rest: Fe<V, 4> = v.minus(x).tight();
        let y = r.mul::<4, 3>(&rest).minus::<2, 5>(self.y.mul(&hhh)).folded();
        Self { x, y: y.widen(), z: z.widen() }
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn to_multiple(self) -> Multiple<V> {
        let zz: Fe<V, 2> = self.z.square().tight();
        Multiple { point: self, zz, zzz: zz.mul(&self.z).tight() }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn negate(self) -> Self {
        Self { x: self.x, y: self.y.negate_where([!0; V]).tight(), z: self.z }
    }

    /// Whether x1 of the points, which is below p, is `x`; whatever it says where z is 0 is wrong.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn have_x(&self, x: &Fe<V, 2>) -> [[bool; LANES]; V] {
        let zz: Fe<V, 2> = self.z.square().tight();
        let rest: Fe<V, 4> = x.mul::<2, 2>(&zz).minus(self.x.loose()).tight();
        rest.are_zero()
    }
}
