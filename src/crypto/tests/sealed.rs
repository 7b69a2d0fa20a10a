//! SM4-CCM against RustCrypto's `ccm` over its own SM4: every length of nonce and tag.

use ccm::aead::array::ArraySize;
use ccm::consts::{U4, U6, U7, U8, U9, U10, U11, U12, U13, U14, U16};
use ccm::{AeadInOut as _, Ccm, KeyInit as _, Nonce, NonceSize, Tag as OtherTag, TagSize};

use super::*;
use crate::cipher::{ccm_open, ccm_seal};

/// What is sealed.
struct Message<'a> {
    key: &'a [u8; 16],
    nonce: &'a [u8; 13],
    associated: &'a [u8],
    plain: &'a [u8],
}

impl Message<'_> {
    /// Both libraries seal the same and open what the other has sealed.
    fn agrees<M, N>(&self)
    where
        M: ArraySize + TagSize,
        N: ArraySize + NonceSize,
    {
        let Self { key, associated, plain, .. } = *self;
        let nonce = &self.nonce[..N::USIZE];
        let other = Ccm::<sm4::Sm4, M, N>::new(key.into());
        let its_nonce = Nonce::<N>::try_from(nonce).unwrap();
        let mut its = plain.to_vec();
        let its_tag =
            other.encrypt_inout_detached(&its_nonce, associated, its.as_mut_slice().into());
        let its_tag = its_tag.unwrap();
        let own_key = Sm4Key::from_bytes(key);
        for backend in [Some(Backend::PORTABLE), Backend::avx2(), Backend::avx512()] {
            let Some(backend) = backend else { continue };
            let what = format!("{} nonce {} tag {}", backend.name(), N::USIZE, M::USIZE);
            let mut own = plain.to_vec();
            let tag = ccm_seal(backend, &own_key, nonce, associated, &mut own, M::USIZE).unwrap();
            let tag = &tag[..M::USIZE];
            assert_eq!((&own, tag), (&its, its_tag.as_slice()), "{what}");
            ccm_open(backend, &own_key, nonce, associated, &mut own, &its_tag).unwrap();
            assert_eq!(own, plain, "{what}");
        }
        let tag = OtherTag::<M>::try_from(its_tag.as_slice()).unwrap();
        let opened =
            other.decrypt_inout_detached(&its_nonce, associated, its.as_mut_slice().into(), &tag);
        assert!(opened.is_ok() && its == plain, "the oracle opens what it sealed");
    }

    fn agrees_with_every_nonce<M: ArraySize + TagSize>(&self) {
        self.agrees::<M, U7>();
        self.agrees::<M, U8>();
        self.agrees::<M, U9>();
        self.agrees::<M, U10>();
        self.agrees::<M, U11>();
        self.agrees::<M, U12>();
        self.agrees::<M, U13>();
    }

    fn agrees_with_every_tag(&self) {
        self.agrees_with_every_nonce::<U4>();
        self.agrees_with_every_nonce::<U6>();
        self.agrees_with_every_nonce::<U8>();
        self.agrees_with_every_nonce::<U10>();
        self.agrees_with_every_nonce::<U12>();
        self.agrees_with_every_nonce::<U14>();
        self.agrees_with_every_nonce::<U16>();
    }
}

/// Around every block and every form of the length of associated data.
#[test]
fn another_library_agrees_at_the_ends_of_every_length() {
    let bytes: Vec<u8> = (0..=255_u8).cycle().take(70_000).collect();
    let (key, nonce) = ([0xa5; 16], core::array::from_fn(|at| bytes[77 + at]));
    for (associated, plain) in
        [(0, 0), (0, 1), (1, 0), (13, 15), (14, 16), (15, 17), (30, 31), (31, 257), (300, 1_024)]
    {
        let (associated, plain) = (&bytes[..associated], &bytes[..plain]);
        Message { key: &key, nonce: &nonce, associated, plain }.agrees_with_every_tag();
    }
    for associated in [0xfeff, 0xff00, 0xff01, 0xffff, 0x1_0000] {
        let (associated, plain) = (&bytes[..associated], &bytes[..40]);
        Message { key: &key, nonce: &nonce, associated, plain }.agrees::<U16, U12>();
    }
    // The longest message of the longest nonce, whose length has two bytes.
    let plain = &bytes[..0xffff];
    Message { key: &key, nonce: &nonce, associated: b"", plain }.agrees::<U16, U13>();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(8998),
        ..ProptestConfig::default()
    })]

    #[test]
    fn another_library_agrees_on_any_message(
        key: [u8; 16],
        nonce: [u8; 13],
        associated in prop::collection::vec(any::<u8>(), 0..100),
        plain in prop::collection::vec(any::<u8>(), 0..700),
    ) {
        let (associated, plain) = (&associated, &plain);
        Message { key: &key, nonce: &nonce, associated, plain }.agrees_with_every_tag();
    }
}
