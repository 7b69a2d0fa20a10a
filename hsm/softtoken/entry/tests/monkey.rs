//! Calls in no order.

use super::*;
use crate::imitations::{Algorithm, Mode};

/// A client that calls anything with anything that is well formed.
struct Monkey {
    seed: u64,
    bytes: [u8; 256],
    out: [u8; 256],
    number: CK_ULONG,
    handles: Vec<u64>,
    codes: Vec<u64>,
}

impl Monkey {
    /// xorshift64*.
    fn draw(&mut self, below: usize) -> usize {
        self.seed ^= self.seed >> 12;
        self.seed ^= self.seed << 25;
        self.seed ^= self.seed >> 27;
        let drawn = self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(drawn).unwrap() % below
    }

    fn handle(&mut self) -> u64 {
        let place = self.draw(self.handles.len());
        self.handles[place]
    }

    /// Bytes to read: 256 at most, or none at all.
    fn input(&mut self) -> (*mut u8, CK_ULONG) {
        let length = [0, 1, 15, 16, 17, 31, 32, 33, 64, 200][self.draw(10)];
        let start = if self.draw(20) == 0 { null_mut() } else { self.bytes.as_mut_ptr() };
        (start, length)
    }

    /// Room to write to: 256 bytes at most, or a question.
    fn room(&mut self) -> (*mut u8, *mut CK_ULONG) {
        self.number = [0, 16, 31, 64, 100, 256][self.draw(6)];
        let start = if self.draw(3) == 0 { null_mut() } else { self.out.as_mut_ptr() };
        (start, &raw mut self.number)
    }

    fn mechanism(&mut self) -> CK_MECHANISM {
        let place = self.draw(self.codes.len());
        let code = self.codes[place];
        let length = [0, 0, 0, 16, 16, 24, 5][self.draw(7)];
        CK_MECHANISM {
            mechanism: code,
            pParameter: self.bytes.as_mut_ptr().cast(),
            ulParameterLen: length,
        }
    }

    fn template(&mut self) -> Vec<CK_ATTRIBUTE> {
        const TYPES: [CK_ATTRIBUTE_TYPE; 16] = [
            CKA_CLASS,
            CKA_KEY_TYPE,
            CKA_TOKEN,
            CKA_PRIVATE,
            CKA_LABEL,
            CKA_ID,
            CKA_VALUE,
            CKA_VALUE_LEN,
            CKA_SIGN,
            CKA_VERIFY,
            CKA_ENCRYPT,
            CKA_DECRYPT,
            CKA_WRAP,
            CKA_UNWRAP,
            CKA_EXTRACTABLE,
            CKA_EC_PARAMS,
        ];
        const NUMBERS: &[[u8; 8]] = &[
            CKO_SECRET_KEY.to_ne_bytes(),
            CKO_PRIVATE_KEY.to_ne_bytes(),
            CKO_DATA.to_ne_bytes(),
            16_u64.to_ne_bytes(),
            CKK_AES.to_ne_bytes(),
            native::KEY_SM4.to_ne_bytes(),
            native::KEY_SM2.to_ne_bytes(),
        ];
        const FLAGS: &[[u8; 1]] = &[[0], [1], [1], [2]];
        let count = self.draw(5);
        let one = |monkey: &mut Self| {
            let type_ = TYPES[monkey.draw(TYPES.len())];
            let (value, length) = match type_ {
                CKA_CLASS | CKA_KEY_TYPE | CKA_VALUE_LEN => {
                    (NUMBERS[monkey.draw(NUMBERS.len())].as_ptr(), 8)
                }
                CKA_LABEL | CKA_ID | CKA_VALUE | CKA_EC_PARAMS => {
                    (monkey.bytes.as_ptr(), [0, 10, 16, 32][monkey.draw(4)])
                }
                _ => (FLAGS[monkey.draw(FLAGS.len())].as_ptr(), 1),
            };
            CK_ATTRIBUTE { type_, pValue: value.cast_mut().cast(), ulValueLen: length }
        };
        (0..count).map(|_| one(self)).collect()
    }

    /// One call of a function with a session, about objects or keys.
    fn keys(&mut self, s: u64) -> CK_RV {
        let mut made = [0; 2];
        let (h, g) = (self.handle(), self.handle());
        let mut template = self.template();
        let mut other = self.template();
        let (t, count) = (template.as_mut_ptr(), ulong(template.len()));
        let (o, other_count) = (other.as_mut_ptr(), ulong(other.len()));
        let m: *mut CK_MECHANISM = &mut self.mechanism();
        let (input, length) = self.input();
        let (to, n) = self.room();
        let [first, second] = [&raw mut made[0], &raw mut made[1]];
        let answer = match self.draw(12) {
            0 => call!(C_CreateObject, s, t, count, first),
            1 => call!(C_CopyObject, s, h, t, count, first),
            2 if !self.handles[..4].contains(&h) => call!(C_DestroyObject, s, h),
            3 => call!(C_GetAttributeValue, s, h, t, 0),
            4 => call!(C_SetAttributeValue, s, h, t, count),
            5 => call!(C_FindObjectsInit, s, t, count),
            6 => call!(C_FindObjects, s, first, 2, n),
            7 => call!(C_FindObjectsFinal, s),
            8 => call!(C_GenerateKey, s, m, t, count, first),
            9 => call!(C_GenerateKeyPair, s, m, t, count, o, other_count, first, second),
            2 | 10 => call!(C_WrapKey, s, m, h, g, to, n),
            _ => call!(C_UnwrapKey, s, m, h, input, length, t, count, first),
        };
        self.handles.extend(made.iter().filter(|handle| **handle != 0));
        // The first are the keys that can do something.
        while self.handles.len() > 24 {
            self.handles.remove(4);
        }
        answer
    }

    /// One call of a function that computes.
    fn operation(&mut self, s: u64) -> CK_RV {
        const FITTING: [&[u64]; 4] = [
            &[native::SM2, native::SM2_SM3],
            &[native::SM2, native::SM2_SM3_DER],
            &[native::SM4_ECB, native::SM4_CBC, native::SM4_CBC_PAD, native::SM4_MAC],
            &[CKM_AES_ECB, CKM_AES_CBC, CKM_AES_CBC_PAD, CKM_AES_CTR],
        ];
        let place = self.draw(4);
        let (mut h, mut mechanism) = (self.handles[place], self.mechanism());
        mechanism.mechanism = FITTING[place][self.draw(FITTING[place].len())];
        if self.draw(4) == 0 {
            (h, mechanism) = (self.handle(), self.mechanism());
        }
        let m = &raw mut mechanism;
        let (d, l) = self.input();
        let (to, n) = self.room();
        match self.draw(24) {
            0 | 1 => call!(C_SignInit, s, m, h),
            2 => call!(C_Sign, s, d, l, to, n),
            3 => call!(C_SignUpdate, s, d, l),
            4 => call!(C_SignFinal, s, to, n),
            5 | 6 => call!(C_VerifyInit, s, m, h),
            7 => call!(C_Verify, s, d, l, d, l),
            8 => call!(C_VerifyUpdate, s, d, l),
            9 => call!(C_VerifyFinal, s, d, l),
            10 | 11 => call!(C_EncryptInit, s, m, h),
            12 => call!(C_Encrypt, s, d, l, to, n),
            13 => call!(C_EncryptUpdate, s, d, l, to, n),
            14 => call!(C_EncryptFinal, s, to, n),
            15 | 16 => call!(C_DecryptInit, s, m, h),
            17 => call!(C_Decrypt, s, d, l, to, n),
            18 => call!(C_DecryptUpdate, s, d, l, to, n),
            19 => call!(C_DecryptFinal, s, to, n),
            20 => call!(C_DigestInit, s, m),
            21 => call!(C_Digest, s, d, l, to, n),
            22 => call!(C_DigestUpdate, s, d, l),
            _ => call!(C_DigestFinal, s, to, n),
        }
    }
}

/// Thousands of well-formed calls in no order: none panics, and enough of them do something.
#[test]
fn any_order_of_calls_gets_an_answer() {
    let client = Client::new();
    let mut handles = client.pair().to_vec();
    let mut length = 16_u64;
    let mut yes = CK_TRUE;
    for code in [native::SM4_KEY_GEN, CKM_AES_KEY_GEN] {
        let flag = |type_| CK_ATTRIBUTE { type_, pValue: (&raw mut yes).cast(), ulValueLen: 1 };
        let size =
            CK_ATTRIBUTE { type_: CKA_VALUE_LEN, pValue: (&raw mut length).cast(), ulValueLen: 8 };
        let uses = [CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY].map(flag);
        let mut template = [&uses[..], &[size]].concat();
        let (t, mut key) = (template.as_mut_ptr(), 0);
        let answer = call!(C_GenerateKey, client.session, &mut plain(code), t, 5, &raw mut key);
        assert_eq!(answer, CKR_OK);
        handles.push(key);
    }
    let codes: Vec<u64> = native::DIALECT
        .all_codes()
        .filter(|(_, it)| !matches!(it, Algorithm::Block(_, Mode::Gcm)))
        .map(|(code, _)| *code)
        .collect();
    let (bytes, out) = ([0x10; 256], [0; 256]);
    let seed = 0x6875_6675_2021;
    let mut monkey = Monkey { seed, bytes, out, number: 0, handles, codes };
    monkey.handles.push(0);
    let mut done = 0;
    for turn in 0..60_000 {
        let s = if monkey.draw(50) == 0 { 0 } else { client.session };
        let is_operation = monkey.draw(3) > 0;
        let answer = if is_operation { monkey.operation(s) } else { monkey.keys(s) };
        assert_ne!(answer, CKR_GENERAL_ERROR, "call {turn} panicked");
        done += u32::from(answer == CKR_OK);
    }
    assert!(done > 6_000, "{done} calls did anything");
}
