//! HKDF (RFC 5869) with SM3.

use hufu_crypto::Sm3;
use zeroize::Zeroizing;

fn hmac(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut block = Zeroizing::new([0_u8; 64]);
    let hashed = Zeroizing::new(Sm3::of(&[key]).0);
    let key = if key.len() > 64 { &hashed[..] } else { key };
    for (target, byte) in block.iter_mut().zip(key) {
        *target = *byte;
    }
    let inner_pad = Zeroizing::new(block.map(|byte| byte ^ 0x36));
    let outer_pad = Zeroizing::new(block.map(|byte| byte ^ 0x5c));
    let mut inner = Sm3::new();
    inner.update(&*inner_pad);
    parts.iter().for_each(|part| inner.update(part));
    let inner = Zeroizing::new(inner.finish().0);
    Zeroizing::new(Sm3::of(&[&*outer_pad, &*inner]).0)
}

/// Fills `out`, at most 8,160 bytes, from a secret.
pub(crate) fn hkdf(salt: &[u8], secret: &[u8], info: &[u8], out: &mut [u8]) {
    let key = hmac(salt, &[secret]);
    let mut before: Zeroizing<Vec<u8>> = Zeroizing::new(Vec::new());
    for (chunk, number) in out.chunks_mut(32).zip(1_u8..) {
        let next = hmac(&*key, &[&before, info, &[number]]);
        for (target, byte) in chunk.iter_mut().zip(next.iter()) {
            *target = *byte;
        }
        before = Zeroizing::new(next.to_vec());
    }
}
