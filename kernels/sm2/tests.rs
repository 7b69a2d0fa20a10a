//! The standard's example, what must be refused, and the field against long division.

use super::field::{Fe, P, add_limbs, sub_limbs};
use super::point::{Affine, Jacobian};
use super::*;
use crate::numbers::Numbers;

fn hex<const SIZE: usize>(text: &str) -> [u8; SIZE] {
    core::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
}

fn verdict(key: &str, digest: &str, signature: &str) -> Verdict {
    let (key, digest, signature) = (hex(key), hex(digest), hex(signature));
    judge(&key, &digest, &signature)
}

fn backends() -> impl Iterator<Item = Backend> {
    [Some(Backend::PORTABLE), Backend::avx2(), Backend::avx512()].into_iter().flatten()
}

/// What every back end says of the item, alone and in every lane among good ones, with the table of
/// its key and without; all must agree.
fn judge(key: &[u8; 64], digest: &[u8; 32], signature: &[u8; 64]) -> Verdict {
    let item = Item { key, digest, signature, table: None };
    let mut verdicts = [Verdict::KeyInvalid];
    verify_many(Backend::PORTABLE, &[item], &mut verdicts);
    let [expected] = verdicts;
    let good = (hex(KEY), hex(DIGEST), hex(SIGNATURE));
    let good = Item { key: &good.0, digest: &good.1, signature: &good.2, table: None };
    for backend in backends() {
        let mut tables = [KeyTable::empty(), KeyTable::empty()];
        let [own, others] = &mut tables;
        tables_many(backend, &[key, good.key], &mut [own, others]);
        let [own, others] = &tables;
        assert_eq!(own.is_of(backend, key), expected != Verdict::KeyInvalid);
        let with_table = Item { table: own.is_of(backend, key).then_some(own), ..item };
        let good_with_table = Item { table: Some(others), ..good };
        for (item, [even, odd]) in [
            (item, [good, good]),
            (item, [good_with_table, good]),
            (with_table, [good_with_table, good_with_table]),
            (with_table, [good, good_with_table]),
        ] {
            // Only one back end has lanes.
            for lane in 0..if has_lanes(backend) { 17 } else { 1 } {
                let mut items: [Item<'_>; 17] =
                    core::array::from_fn(|place| if place % 2 == 0 { even } else { odd });
                items[lane] = item;
                let mut verdicts = [Verdict::KeyInvalid; 17];
                verify_many(backend, &items, &mut verdicts);
                for (place, verdict) in verdicts.into_iter().enumerate() {
                    let expected = if place == lane { expected } else { Verdict::Valid };
                    assert_eq!(verdict, expected, "{} {place} of {lane}", backend.name());
                }
            }
        }
    }
    expected
}

/// GB/T 32918.5-2017 A.2.
const KEY: &str = "09f9df311e5421a150dd7d161e4bc5c672179fad1833fc076bb08ff356f35020\
                   ccea490ce26775a52dc6ea718cc1aa600aed05fbf35e084a6632f6072da9ad13";
const DIGEST: &str = "f0b43e94ba45accaace692ed534382eb17e6ab5a19ce7b31f4486fdfc0d28640";
const SIGNATURE: &str = "f5a03b0648d2c4630eeac513e1bb81a15944da3827d5b74143ac7eaceee720b3\
                         b1b6aa29df212fd8763182bc0d421ca1bb9038fd1f7f42d4840b69c485bbc1aa";
const GENERATOR: &str = "32c4ae2c1f1981195f9904466a39c9948fe30bbff2660be1715a4589334c74c7\
                         bc3736a2f4f6779c59bdcee36b692153d0a9877cc62a474002df32e52139f0a0";

#[test]
fn the_example_of_the_standard_is_valid_and_nothing_near_it() {
    assert_eq!(verdict(KEY, DIGEST, SIGNATURE), Verdict::Valid);
    let (key, digest, signature) = (hex::<64>(KEY), hex(DIGEST), hex::<64>(SIGNATURE));
    for bit in 0..512 {
        let mut other = signature;
        other[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(judge(&key, &digest, &other), Verdict::SignatureInvalid, "bit {bit}");
        let mut other = key;
        other[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(judge(&other, &digest, &signature), Verdict::KeyInvalid, "bit {bit}");
    }
    for bit in 0..256 {
        let mut other = digest;
        other[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(judge(&key, &other, &signature), Verdict::SignatureInvalid, "bit {bit}");
    }
}

/// Faulty items of every sort among good ones, equal keys beside each other and tables here and
/// there: each item gets the verdict it gets alone, for every number of items that share a
/// division.
#[test]
fn items_of_a_batch_do_not_touch_each_other() {
    let mut numbers = Numbers(11);
    let keys: Vec<PrivateKey> =
        (1..6_u8).map(|d| PrivateKey::new(Backend::PORTABLE, &[d; 32]).unwrap()).collect();
    let made: Vec<_> = (0..70)
        .map(|_| {
            let private = &keys[numbers.below(5)];
            let mut digest: [u8; 32] = numbers.bytes(32).try_into().unwrap();
            let nonce: [u8; 32] = numbers.bytes(32).try_into().unwrap();
            let item = SignItem { key: private, digest: &digest, nonce: &nonce };
            let mut signature = [None];
            sign_many(Backend::PORTABLE, &[item], &mut signature);
            let (mut key, mut signature) = (*private.public_key(), signature[0].unwrap());
            let verdict = match numbers.next() % 10 {
                0 => {
                    key[63] ^= 1;
                    Verdict::KeyInvalid
                }
                1 => {
                    key = [0xff; 64];
                    Verdict::KeyInvalid
                }
                2 => {
                    signature[..32].fill(0);
                    Verdict::SignatureInvalid
                }
                3 => {
                    digest[0] ^= 1;
                    Verdict::SignatureInvalid
                }
                _ => Verdict::Valid,
            };
            (key, digest, signature, verdict)
        })
        .collect();
    for backend in backends() {
        let mut tables = vec![KeyTable::empty(); made.len()];
        let of: Vec<&[u8; 64]> = made.iter().map(|(key, ..)| key).collect();
        tables_many(backend, &of, &mut tables.iter_mut().collect::<Vec<_>>());
        for count in (0..20).chain([31, 32, 33, 70]) {
            let items: Vec<Item<'_>> = made[made.len() - count..]
                .iter()
                .zip(&tables[made.len() - count..])
                .map(|((key, digest, signature, verdict), table)| {
                    let is_known = *verdict != Verdict::KeyInvalid && numbers.below(4) == 0;
                    Item { key, digest, signature, table: is_known.then_some(table) }
                })
                .collect();
            let mut verdicts = vec![Verdict::Valid; count];
            verify_many(backend, &items, &mut verdicts);
            for (place, (verdict, one)) in verdicts.iter().zip(&items).enumerate() {
                let expected = made[made.len() - count + place].3;
                assert_eq!(*verdict, expected, "{} {place} of {count}", backend.name());
                let mut alone = [Verdict::Valid];
                verify_many(backend, &[*one], &mut alone);
                assert_eq!(alone, [expected], "{} {place} alone", backend.name());
            }
        }
    }
}

/// x1 lies between n and p in the first, below p - n in the second: both lifts of r - e are met.
/// Made with Python's integers from points with such coordinates.
#[test]
fn a_sum_whose_x_wraps_at_n_is_judged_exactly() {
    let signature = "fdb9752ff6b97532eca8641fe5a864305eac438b076e695c406458291f7da553\
                     1234567890abcdef1234567890abcdef1234567890abcdef1234567890abcdef";
    let wrapped = "524107848c5748c92a49a4770318d9244a44e09006cd54873c1485ca26b1529e\
                   b29f92c8855c1492b7cde717d8b000bcaa69686c9d690813faed62ef21d7ec87";
    let e = "fdb9752ff6b97532eca8641fe5a864305eac438b076e695c406458291f7da54f";
    assert_eq!(verdict(wrapped, e, signature), Verdict::Valid);
    let small = "b9a4754f9ebccfdeb06a1616b4bd1fa5a7e052a36e663dccc82931665e6cb73f\
                 dcb2ae7ab0c4ab4d63249ed6e7397cb77dec5facf4be5a70dbf797436fceb303";
    let other = "fdb9752ff6b97532eca8641fe5a864305eac438b076e695c406458291f7da552";
    assert_eq!(verdict(small, other, signature), Verdict::Valid);
    assert_eq!(verdict(small, e, signature), Verdict::SignatureInvalid);
    assert_eq!(verdict(wrapped, other, signature), Verdict::SignatureInvalid);
}

/// The last digit of t = n - 6 adds -3P to -3P in the lanes; only the portable code tells that
/// apart. Made with Python's integers for the key of the standard's example.
#[test]
fn a_case_that_the_lanes_do_not_tell_apart_is_judged_exactly() {
    let e = "9e3082cfcd67f740d055f3bbb69a44e777ab4fd5c07d149c4042aad78165d360";
    let signature = "edcba9866f543210edcba9876f5432105fcf88f2911a373c41879d90a929732e\
                     1234567890abcdef1234567890abcdef1234567890abcdef1234567890abcdef";
    assert_eq!(verdict(KEY, e, signature), Verdict::Valid);
    assert_eq!(verdict(KEY, DIGEST, signature), Verdict::SignatureInvalid);
}

/// With t = 0 the key has no part in the sum: r = n - 1, s = 1 and e = r - x of G fit any key.
#[test]
fn a_signature_without_the_key_is_none() {
    let signature = "fffffffeffffffffffffffffffffffff7203df6b21c6052b53bbf40939d54122\
                     0000000000000000000000000000000000000000000000000000000000000001";
    let e = "cd3b51d2e0e67ee6a066fbb995c6366ae220d3ab2f5ff949e261ae800688cc5b";
    assert_eq!(verdict(KEY, e, signature), Verdict::SignatureInvalid);
}

/// The owner of d = 1 chooses s = -r / 2, so that [s]G + [t]G = [s + t]G is at infinity, and e = r.
#[test]
fn a_sum_at_infinity_is_no_signature() {
    let r = "0000000000000000000000000000000000000000000000000000000000000003";
    let s = "7fffffff7fffffffffffffffffffffffb901efb590e30295a9ddfa049ceaa090";
    let signature = format!("{r}{s}");
    assert_eq!(verdict(GENERATOR, r, &signature), Verdict::SignatureInvalid);
}

#[test]
fn scalars_out_of_range_and_a_zero_t_are_refused() {
    let n = "fffffffeffffffffffffffffffffffff7203df6b21c6052b53bbf40939d54123";
    let n_less_one = "fffffffeffffffffffffffffffffffff7203df6b21c6052b53bbf40939d54122";
    let (zero, one) = ("0".repeat(64), format!("{:0>64}", "1"));
    let most = "f".repeat(64);
    for (r, s) in [
        (zero.as_str(), one.as_str()),
        (&one, &zero),
        (n, &one),
        (&one, n),
        (&most, &one),
        (&one, &most),
        (n_less_one, &one),
        (&one, n_less_one),
    ] {
        let signature = format!("{r}{s}");
        assert_eq!(verdict(KEY, DIGEST, &signature), Verdict::SignatureInvalid, "{r} {s}");
    }
}

#[test]
fn only_points_below_p_and_on_the_curve_are_keys() {
    assert!(is_on_curve(&hex(KEY)) && is_on_curve(&hex(GENERATOR)));
    assert!(!is_on_curve(&[0; 64]), "stands for infinity nowhere");
    // x + p, where x = 1 has a point: the same point, written as nobody may.
    let x = hex::<32>("fffffffeffffffffffffffffffffffffffffffff000000010000000000000000");
    let mut key = hex::<64>(GENERATOR);
    key[..32].copy_from_slice(&x);
    assert!(!is_on_curve(&key));
    assert_eq!(judge(&key, &hex(DIGEST), &hex(SIGNATURE)), Verdict::KeyInvalid);
}

/// A limb that is an edge half of the time.
fn limb(numbers: &mut Numbers) -> u64 {
    match numbers.next() % 8 {
        0 => 0,
        1 => u64::MAX,
        2 => 0xffff_ffff_0000_0000,
        3 => 0x0000_0000_ffff_ffff,
        _ => numbers.next(),
    }
}

fn below_p(numbers: &mut Numbers) -> [u64; 4] {
    loop {
        let limbs = core::array::from_fn(|_| limb(numbers));
        if sub_limbs(&limbs, &P).1 {
            return limbs;
        }
    }
}

/// a * b mod p by doubling and adding: slow, and nothing like the code it checks.
fn product(a: &[u64; 4], b: &[u64; 4]) -> [u64; 4] {
    let mut sum = [0; 4];
    for bit in (0..256).rev() {
        sum = plus(&sum, &sum);
        if b[bit / 64] >> (bit % 64) & 1 == 1 {
            sum = plus(&sum, a);
        }
    }
    sum
}

fn plus(a: &[u64; 4], b: &[u64; 4]) -> [u64; 4] {
    let (sum, carry) = add_limbs(a, b);
    let (less, is_below) = sub_limbs(&sum, &P);
    if carry || !is_below { less } else { sum }
}

#[test]
fn the_field_agrees_with_long_arithmetic() {
    let mut numbers = Numbers(1);
    let (minus_one, _) = sub_limbs(&P, &[1, 0, 0, 0]);
    let edges = [[0; 4], [1, 0, 0, 0], minus_one, [0, 0, 0, 1 << 63], [u64::MAX, 0, 0, 0]];
    let pairs = edges.iter().flat_map(|a| edges.iter().map(move |b| (*a, *b)));
    let random = (0..4_000).map(|_| (below_p(&mut numbers), below_p(&mut numbers)));
    let mut last = Fe::ONE;
    for (a, b) in pairs.chain(random.collect::<Vec<_>>()) {
        let (x, y) = (Fe::from_limbs(a).unwrap(), Fe::from_limbs(b).unwrap());
        assert_eq!(x.to_limbs(), a, "there and back");
        assert_eq!(x.mul(&y).to_limbs(), product(&a, &b), "{a:x?} * {b:x?}");
        assert_eq!(x.square(), x.mul(&x), "{a:x?} squared");
        assert_eq!(x.add(&y).to_limbs(), plus(&a, &b));
        assert_eq!(x.sub(&y).add(&y), x);
        let difference = Fe::difference_of_products(&x, &y, &y, &last);
        assert_eq!(difference, x.mul(&y).sub(&y.mul(&last)), "{a:x?} {b:x?}");
        assert_eq!(x.halve().double(), x);
        last = x;
        assert_eq!(x.negate().add(&x), Fe::ZERO);
    }
    for (a, _) in (0..20).map(|_| (below_p(&mut numbers), ())) {
        let x = Fe::from_limbs(a).unwrap();
        let expected = if x.is_zero() { Fe::ZERO } else { Fe::ONE };
        assert_eq!(x.invert().mul(&x), expected);
    }
    assert!(Fe::from_limbs(P).is_none() && Fe::from_limbs([u64::MAX; 4]).is_none());
}

#[test]
fn additions_agree_with_each_other_in_every_case() {
    let g = Affine::generator();
    let one = Jacobian::from(g);
    let two = one.double();
    let three = two.add_affine(&g);
    let affine = |point: Jacobian| point.to_affine();
    assert_eq!(affine(one.add_affine(&g)), affine(two), "equal points");
    assert_eq!(affine(one.add(&one)), affine(two));
    assert_eq!(affine(two.add(&two)), affine(three.add_affine(&g)));
    assert_eq!(affine(three.add(&two)), affine(two.add(&three)));
    assert!(one.add_affine(&Affine { y: g.y.negate(), ..g }).is_infinity(), "opposite points");
    assert!(two.add(&two.negate()).is_infinity());
    assert!(Jacobian::INFINITY.double().is_infinity());
    assert_eq!(affine(Jacobian::INFINITY.add_affine(&g)), Some(g));
    assert_eq!(affine(Jacobian::INFINITY.add(&two)), affine(two));
    assert_eq!(affine(two.add(&Jacobian::INFINITY)), affine(two));
    // 15G by two ways.
    let five = three.add(&two);
    let fifteen = five.double().add(&five);
    assert_eq!(affine(fifteen), affine(three.double().double().add(&three)));
}
