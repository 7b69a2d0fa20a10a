//! Up to sixteen points found by their x side by side (GB/T 32918.1-2016 A.5.2); variable time, for
//! public data.

use super::super::field::{P, bytes, limbs, sub_limbs};
use super::field::{Fe, LANES, store};
use super::{right_side, words};

/// Points side by side.
const COUNT: usize = 2 * LANES;

/// The points with these x and an odd y or an even one, at most sixteen.
///
/// # Panics
/// If there are more, or not as many points.
#[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
pub(in super::super) fn decompress(items: &[(&[u8; 32], bool)], points: &mut [Option<[u8; 64]>]) {
    assert!(items.len() <= COUNT && items.len() == points.len());
    let mut given = [[[0; 4]; LANES]; 2];
    for (x, (bytes, _)) in given.as_flattened_mut().iter_mut().zip(items) {
        *x = limbs(bytes);
    }
    let x: Fe<2, 2> = Fe::new(words(&given));
    let right = right_side(&x).folded();
    let y = right.root();
    let rest: Fe<2, 4> = y.square::<2>().minus(right.loose()).tight();
    let has_root = rest.are_zero();
    // Out of Montgomery form.
    let y: Fe<2, 2> = y.mul(&Fe::<2, 1>::all(&[1, 0, 0, 0, 0])).tight();
    let y = y.reduced().to_words().map(|word| word.map(|vector| store(vector)));
    for (place, ((x, is_odd), point)) in items.iter().zip(points).enumerate() {
        let (v, lane) = (place / LANES, place % LANES);
        let is_point = has_root[v][lane] && sub_limbs(&given[v][lane], &P).1;
        *point = is_point.then(|| {
            let root = y.each_ref().map(|word| word[v][lane]);
            // There is no point with y = 0: it would have order 2.
            let is_other = (root[0] & 1 == 1) != *is_odd;
            let y = if is_other { sub_limbs(&P, &root).0 } else { root };
            let mut both = [0; 64];
            both[..32].copy_from_slice(*x);
            both[32..].copy_from_slice(&bytes(&y));
            both
        });
    }
}
