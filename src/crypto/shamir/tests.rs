use proptest::prelude::*;

use super::*;
use crate::entropy;

/// The field once more, by another way: powers of the generator 3 and their logarithms.
struct Tables {
    powers: [u8; 255],
    logarithms: [usize; 256],
}

impl Tables {
    fn new() -> Self {
        let (mut powers, mut logarithms) = ([0; 255], [0; 256]);
        let mut power: u16 = 1;
        for (exponent, place) in powers.iter_mut().enumerate() {
            *place = u8::try_from(power).unwrap();
            logarithms[usize::from(*place)] = exponent;
            // Times x + 1, and the whole polynomial taken off where x^8 appears.
            power = (power << 1) ^ power;
            if power > 255 {
                power ^= 0x11b;
            }
        }
        Self { powers, logarithms }
    }

    fn product(&self, left: u8, right: u8) -> u8 {
        if left == 0 || right == 0 {
            return 0;
        }
        let sum = self.logarithms[usize::from(left)] + self.logarithms[usize::from(right)];
        self.powers[sum % 255]
    }

    /// The polynomial's value by its powers, one after the other, the secret first.
    fn value(&self, coefficients: &[u8], at: u8) -> u8 {
        let mut power = 1;
        coefficients.iter().fold(0, |sum, coefficient| {
            let term = self.product(*coefficient, power);
            power = self.product(power, at);
            sum ^ term
        })
    }
}

#[test]
fn the_field_is_that_of_aes() {
    // FIPS 197 4.2 and 4.2.1.
    assert_eq!(product(0x57, 0x83), 0xc1);
    assert_eq!(product(0x57, 0x13), 0xfe);
    let tables = Tables::new();
    for left in 0..=255 {
        for right in 0..=255 {
            assert_eq!(product(left, right), tables.product(left, right), "{left} {right}");
        }
        let one = product(left, inverse(left));
        assert_eq!(one, u8::from(left != 0), "{left}");
    }
}

/// f(x) = 0x2a + 0x8d x + 0x01 x^2 in the first byte, 0xff + 0x10 x + 0xc3 x^2 in the second,
/// worked out with the tables of the test.
#[test]
fn known_polynomials_have_known_values() {
    let (secret, first, second) = ([0x2a, 0xff], [0x8d, 0x10], [0x01, 0xc3]);
    let coefficients = [Zeroizing::new(first), Zeroizing::new(second)];
    let tables = Tables::new();
    let mut shares = Vec::new();
    for index in 1..=255 {
        let value = value_at(&secret, &coefficients, index);
        let wanted: [u8; 2] = core::array::from_fn(|place| {
            tables.value(&[secret[place], first[place], second[place]], index)
        });
        assert_eq!(*value, wanted, "{index}");
        shares.push(Share { index, value });
    }
    // By hand: f(1) is the sum of the coefficients; f(2) adds 2 * 0x8d = 0x01 and 4.
    assert_eq!(*shares[0].value, [0x2a ^ 0x8d ^ 0x01, 0xff ^ 0x10 ^ 0xc3]);
    assert_eq!(shares[1].value[0], 0x2a ^ 0x01 ^ 0x04);
    for start in [0, 100, 252] {
        assert_eq!(*join(3, &shares[start..start + 3]).unwrap(), secret);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_so_many_shares_give_the_secret(
        secret in any::<[u8; 32]>(),
        (needed, count) in (2_u8..=8).prop_flat_map(|needed| (Just(needed), needed..=12)),
        order in any::<u64>(),
    ) {
        let mut shares = split(&secret, needed, count, entropy::system()).unwrap();
        prop_assert_eq!(shares.len(), usize::from(count));
        // Some order of them, decided by the number.
        let mut state = order | 1;
        for place in (1..shares.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let with = usize::try_from(state >> 33).unwrap() % (place + 1);
            shares.swap(place, with);
        }
        prop_assert_eq!(*join(needed, &shares).unwrap(), secret);
        // One fewer gives another secret: the polynomial is of a higher degree.
        shares.truncate(usize::from(needed) - 1);
        if needed > 2 {
            prop_assert_ne!(*join(needed - 1, &shares).unwrap(), secret);
        }
        let refused = join(needed, &shares).err().unwrap();
        let is_right = matches!(refused, ShamirError::TooFew { .. });
        prop_assert!(is_right, "{}", refused);
    }

    #[test]
    fn a_flipped_bit_of_a_share_gives_another_secret(
        secret in any::<[u8; 32]>(),
        bit in 0_usize..256,
    ) {
        let mut shares = split(&secret, 3, 5, entropy::system()).unwrap();
        shares[1].value[bit / 8] ^= 1 << (bit % 8);
        prop_assert_ne!(*join(3, &shares[..3]).unwrap(), secret);
        prop_assert_eq!(*join(3, &shares[2..]).unwrap(), secret);
    }
}

/// For every value of the secret there is one polynomial through a share that is known: one share
/// of two alone says nothing.
#[test]
fn one_share_of_two_fits_every_secret() {
    let tables = Tables::new();
    for (index, value) in [(1, 0x00), (2, 0x77), (9, 0xff)] {
        let mut secrets = [false; 256];
        for slope in 0..=255 {
            let secret = value ^ tables.product(slope, index);
            assert_eq!(value_at(&[secret], &[Zeroizing::new([slope])], index)[0], value);
            secrets[usize::from(secret)] = true;
        }
        assert!(secrets.iter().all(|is_possible| *is_possible));
    }
}

#[test]
fn what_cannot_be_split_or_joined_is_refused() {
    for (needed, count) in [(0, 3), (1, 3), (4, 3)] {
        let refused = split(&[7; 32], needed, count, entropy::system()).err().unwrap();
        assert!(matches!(refused, ShamirError::Counts { .. }), "{refused}");
    }
    let share = |index| Share { index, value: Zeroizing::new([index; 4]) };
    let of = |shares: &[Share<4>]| join(2, shares).err().unwrap().to_string();
    assert_eq!(of(&[share(3), share(1), share(3)]), "share 3 is there twice");
    assert_eq!(of(&[share(0), share(1)]), "a share has index 0");
    assert_eq!(of(&[share(1)]), "1 shares, 2 are needed");
}

/// Two splits of one secret share nothing, and a source without entropy splits nothing.
#[test]
fn coefficients_are_drawn_anew() {
    struct Empty;
    impl Entropy for Empty {
        fn fill(&self, _: &mut [u8]) -> Result<(), Error> {
            Err(Error::Entropy { cause: "empty".to_owned() })
        }
    }
    let split_again = || split(&[7; 32], 2, 2, entropy::system()).unwrap();
    assert_ne!(*split_again()[0].value, *split_again()[0].value);
    let refused = split(&[7; 32], 2, 2, Arc::new(Empty)).err().unwrap();
    assert!(matches!(refused, ShamirError::Generator(_)), "{refused}");
}
