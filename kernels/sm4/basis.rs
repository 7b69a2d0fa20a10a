//! SM4 with its bytes in the basis of the AES field, which vector instructions invert in.
//!
//! The S-box of SM4 is S(x) = A inv(A x + c) + c in the field of
//! x^8 + x^7 + x^6 + x^5 + x^4 + x^2 + 1; the instructions know the field of
//! x^8 + x^4 + x^3 + x + 1. With M from the first field to the second, all words are kept as
//! K x = M A x, byte by byte. What is before the inversion is then in the round keys,
//! K k + M c; what is behind it, together with L and the way back into the basis, is a few maps of
//! bytes:
//!
//! ```text
//! R  = B <<< 2,  of which byte i is  P B[i] + Q B[i-1]         P: << 2, Q: >> 6
//! L(B) = B + R + R <<< 8 + R <<< 16 + B <<< 24
//!      = (1 + P) B + (P + Q) B <<< 8 + (P + Q) B <<< 16 + (1 + Q) B <<< 24
//!      = u + v <<< 8 + v <<< 16 + (u + v) <<< 24
//! with u = K (1 + P) B and v = K (P + Q) B, and B = A M^-1 inv(..) + c
//! ```
//!
//! All maps are found by the compiler, from the two polynomials, A and c alone.

/// A linear map of bytes; bit i of the image is the parity of the byte under mask `0[i]`.
#[derive(Clone, Copy)]
pub(super) struct Map([u8; 8]);

/// A linear map and a constant that is added behind it.
#[derive(Clone, Copy)]
pub(super) struct Affine {
    pub(super) map: Map,
    pub(super) constant: u8,
}

/// The field polynomials, without x^8.
const SM4_FIELD: u8 = 0xf5;
const AES_FIELD: u8 = 0x1b;

/// A and c of the S-box: bit i of A x is the parity of x under the mask 0xa7 <<< i.
const A: Map = Map::turning(0xa7);
const C: u8 = 0xd3;

/// M, the map of fields.
const FIELDS: Map = {
    // It sends x to a root of the polynomial of SM4 in the AES field; any of the eight will do.
    let mut root = 2_u8;
    while !is_root(root) {
        root += 1;
    }
    let mut columns = [0; 8];
    let mut power = 1;
    let mut degree = 0;
    while degree < 8 {
        columns[degree] = power;
        power = product(power, root);
        degree += 1;
    }
    Map(columns).transposed()
};

/// K, into the basis.
pub(super) const INTO: Map = FIELDS.after(A);

/// Out of the basis.
pub(super) const OUT: Map = INTO.inverse();

/// M c, which is added to round keys in the basis.
pub(super) const KEY_CONSTANT: u8 = FIELDS.apply(C);

/// u and v of the inverse.
pub(super) const U: Affine = mixed(Map::ONE.plus(Map::SHIFT));
pub(super) const V: Affine = mixed(Map::ROTATE);

/// K D (A M^-1 x + c), where D is what L does to a byte.
const fn mixed(diffusion: Map) -> Affine {
    let map = INTO.after(diffusion);
    Affine { map: map.after(A).after(FIELDS.inverse()), constant: map.apply(C) }
}

/// The S-box of AES without its constant 0x63, which is added behind: what undoes it gives an
/// inversion to machines that have AES but no other way to invert.
const AES_LINEAR: Map = Map::turning(0xf1);
const AES_CONSTANT: u8 = 0x63;

impl Affine {
    /// This one of the inverse, as a map of the AES S-box.
    pub(super) const fn of_aes_sbox(self) -> Self {
        let map = self.map.after(AES_LINEAR.inverse());
        Self { map, constant: self.constant ^ map.apply(AES_CONSTANT) }
    }

    /// The images of 0..16 with the constant, and of 0, 16, .. 240 without: the sum of one of each
    /// is the image of any byte.
    pub(super) const fn nibble_tables(self) -> [[u8; 16]; 2] {
        let mut tables = [[0; 16]; 2];
        let mut nibble = 0;
        while nibble < 16 {
            tables[0][nibble as usize] = self.map.apply(nibble) ^ self.constant;
            tables[1][nibble as usize] = self.map.apply(nibble << 4);
            nibble += 1;
        }
        tables
    }
}

impl Map {
    const ONE: Self = Self([1, 2, 4, 8, 16, 32, 64, 128]);
    /// P: << 2.
    const SHIFT: Self = Self([0, 0, 1, 2, 4, 8, 16, 32]);
    /// P + Q: <<< 2.
    const ROTATE: Self = Self([64, 128, 1, 2, 4, 8, 16, 32]);

    /// The map whose masks are those of bit 0, turned on by one for each bit.
    const fn turning(mask: u8) -> Self {
        let mut rows = [mask; 8];
        let mut bit = 1;
        while bit < 8 {
            rows[bit] = rows[bit - 1].rotate_left(1);
            bit += 1;
        }
        Self(rows)
    }

    /// The map as GFNI instructions take it: the mask of bit i in byte 7 - i.
    pub(super) const fn matrix(self) -> u64 {
        u64::from_be_bytes(self.0)
    }

    /// The map and nothing added.
    pub(super) const fn alone(self) -> Affine {
        Affine { map: self, constant: 0 }
    }

    pub(super) const fn apply(self, byte: u8) -> u8 {
        let mut image = 0;
        let mut bit = 0;
        while bit < 8 {
            if (self.0[bit] & byte).count_ones() % 2 == 1 {
                image |= 1 << bit;
            }
            bit += 1;
        }
        image
    }

    const fn plus(self, other: Self) -> Self {
        let mut rows = self.0;
        let mut bit = 0;
        while bit < 8 {
            rows[bit] ^= other.0[bit];
            bit += 1;
        }
        Self(rows)
    }

    /// The map that applies `first`, then this one.
    const fn after(self, first: Self) -> Self {
        let columns = first.transposed().0;
        let mut images = [0; 8];
        let mut bit = 0;
        while bit < 8 {
            images[bit] = self.apply(columns[bit]);
            bit += 1;
        }
        Self(images).transposed()
    }

    const fn transposed(self) -> Self {
        let mut rows = [0; 8];
        let mut place = 0;
        while place < 64 {
            rows[place / 8] |= (self.0[place % 8] >> (place / 8) & 1) << (place % 8);
            place += 1;
        }
        Self(rows)
    }

    /// The inverse of a map that has one: column i is what the map sends to bit i.
    const fn inverse(self) -> Self {
        let mut columns = [0; 8];
        let mut byte = 0_u8;
        loop {
            let image = self.apply(byte);
            if image.is_power_of_two() {
                columns[image.trailing_zeros() as usize] = byte;
            }
            if byte == u8::MAX {
                return Self(columns).transposed();
            }
            byte += 1;
        }
    }
}

/// The product in the AES field.
const fn product(left: u8, right: u8) -> u8 {
    product_in(AES_FIELD, left, right)
}

const fn product_in(field: u8, mut left: u8, right: u8) -> u8 {
    let mut product = 0;
    let mut bit = 0;
    while bit < 8 {
        if right >> bit & 1 == 1 {
            product ^= left;
        }
        left = if left & 0x80 == 0 { left << 1 } else { left << 1 ^ field };
        bit += 1;
    }
    product
}

/// Whether the polynomial of SM4 is zero at this element of the AES field.
const fn is_root(element: u8) -> bool {
    // Horner's rule, from the coefficient of x^8 down.
    let mut value = 1;
    let mut degree = 8;
    while degree > 0 {
        degree -= 1;
        value = product(value, element) ^ (SM4_FIELD >> degree & 1);
    }
    value == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x^254: the inverse, and 0 for 0.
    fn inverse_in(field: u8, byte: u8) -> u8 {
        (0..254).fold(1, |power, _| product_in(field, power, byte))
    }

    fn sbox(byte: u8) -> u8 {
        A.apply(inverse_in(SM4_FIELD, A.apply(byte) ^ C)) ^ C
    }

    /// The first row of the table of GB/T 32907-2016 6.2.
    #[test]
    fn the_formula_is_the_sbox_of_the_standard() {
        let row = [
            0xd6, 0x90, 0xe9, 0xfe, 0xcc, 0xe1, 0x3d, 0xb7, 0x16, 0xb6, 0x14, 0xc2, 0x28, 0xfb,
            0x2c, 0x05,
        ];
        assert_eq!((0..16).map(sbox).collect::<Vec<_>>(), row);
    }

    #[test]
    fn the_portable_gates_are_the_sbox() {
        for byte in 0..=u8::MAX {
            let word = u32::from_le_bytes([byte, !byte, byte ^ 0x5a, 0]);
            let wanted = word.to_le_bytes().map(sbox);
            assert_eq!(super::super::portable::substitute(word).to_le_bytes(), wanted, "{byte}");
        }
    }

    #[test]
    fn the_field_map_keeps_products() {
        for left in 0..=u8::MAX {
            for right in 0..=u8::MAX {
                let mapped = FIELDS.apply(product_in(SM4_FIELD, left, right));
                assert_eq!(mapped, product(FIELDS.apply(left), FIELDS.apply(right)));
            }
        }
    }

    /// Inversion in the basis and u, v give T of one byte, as the S-box and L of the standard do.
    #[test]
    fn u_and_v_are_the_round_in_the_basis() {
        for byte in 0..=u8::MAX {
            let inverse = inverse_in(AES_FIELD, INTO.apply(byte) ^ KEY_CONSTANT);
            let through = |affine: Affine| affine.map.apply(inverse) ^ affine.constant;
            let (u, v) = (through(U), through(V));
            let word = u32::from(sbox(byte)) * 0x0101_0101;
            let wanted = [0, 2, 10, 18, 24].map(|by| word.rotate_left(by));
            let wanted = wanted.into_iter().fold(0, |sum, part| sum ^ part).to_le_bytes();
            // With four equal bytes every rotation by bytes gives the same again.
            assert_eq!([OUT.apply(u ^ v ^ v ^ u ^ v); 4], wanted);
            // And byte by byte, for one that is alone.
            let (zero_u, zero_v) = (through_zero(U), through_zero(V));
            let alone = u32::from(sbox(byte) ^ sbox(0));
            let wanted = [0, 2, 10, 18, 24].map(|by| alone.rotate_left(by));
            let wanted = wanted.into_iter().fold(0, |sum, part| sum ^ part).to_le_bytes();
            let (u, v) = (u ^ zero_u, v ^ zero_v);
            assert_eq!([u, v, v, u ^ v].map(|byte| OUT.apply(byte)), wanted);
        }
    }

    fn through_zero(affine: Affine) -> u8 {
        affine.map.apply(inverse_in(AES_FIELD, KEY_CONSTANT)) ^ affine.constant
    }

    #[test]
    fn nibble_tables_are_the_map_of_the_aes_sbox() {
        for affine in [U, V] {
            let [low, high] = affine.of_aes_sbox().nibble_tables();
            for byte in 0..=u8::MAX {
                let inverse = inverse_in(AES_FIELD, byte);
                let aes = AES_LINEAR.apply(inverse) ^ AES_CONSTANT;
                let wanted = affine.map.apply(inverse) ^ affine.constant;
                let image = low[usize::from(aes & 15)] ^ high[usize::from(aes >> 4)];
                assert_eq!(image, wanted);
            }
        }
    }
}
