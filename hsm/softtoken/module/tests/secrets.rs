//! What is left in memory when a token is locked again: neither PIN nor key.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use zeroize::Zeroizing;

use super::*;

/// Secrets are never written down in these tests: only masked, so that a find is a remnant.
const MASK: u8 = 0x5a;

fn unmasked(masked: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(masked.iter().map(|byte| byte ^ MASK).collect())
}

/// How often the secret stands in the writable memory of this process.
fn count_in_memory(masked: &[u8]) -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut count = 0;
    let mut window = Zeroizing::new(vec![0; 1 << 20]);
    for line in
        maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|it| it.starts_with("rw")))
    {
        let (from, rest) = line.split_once('-').unwrap();
        let to = rest.split(' ').next().unwrap();
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let (mut at, to) = (number(from), number(to));
        while at < to {
            let size = usize::try_from(to - at).unwrap().min(window.len());
            // A mapping may go while it is looked at.
            let Ok(read) = memory.read_at(&mut window[..size], at) else { break };
            let same = |part: &&[u8]| part.iter().zip(masked).all(|(a, b)| a ^ MASK == *b);
            count += window[..read].windows(masked.len()).filter(same).count();
            at += u64::try_from(size).unwrap();
        }
    }
    count
}

fn masked(seed: u8) -> [u8; 32] {
    let text = Sm3::of(&[b"planted", &[seed]]);
    // The first byte keeps a scalar in range.
    let mut bytes = text.0;
    bytes[0] = MASK ^ 0x11;
    bytes
}

#[test]
fn the_search_finds_what_is_there() {
    let needle = masked(0);
    assert_eq!(count_in_memory(&needle), 0);
    let planted = unmasked(&needle);
    assert!(count_in_memory(&needle) > 0);
    drop(planted);
    assert_eq!(count_in_memory(&needle), 0);
}

#[test]
fn no_pin_and_no_key_stays_in_memory() {
    let card = Card::new("native");
    let (scalar, secret, pin) = (masked(1), masked(2), masked(3));
    // The stack of a thread goes with it, as that of a client who is gone.
    std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            let session = card.user();
            let (held, slot) = card.module.session(session).unwrap();
            slot.set_pin(&held, PIN, &unmasked(&pin)).unwrap();
            slot.logout().unwrap();
            card.module.login(session, CKU_USER, &unmasked(&pin)).unwrap();
            let private = new()
                .number(CKA_CLASS, CKO_PRIVATE_KEY)
                .number(CKA_KEY_TYPE, native::KEY_SM2)
                .flag(CKA_SIGN, true)
                .flag(CKA_TOKEN, true)
                .bytes(CKA_VALUE, &unmasked(&scalar));
            let private = card.module.create_object(session, &private).unwrap();
            card.sign(session, native::SM2, private, &[1; 32]).unwrap();
            let symmetric = new()
                .number(CKA_CLASS, CKO_SECRET_KEY)
                .number(CKA_KEY_TYPE, CKK_AES)
                .flag(CKA_ENCRYPT, true)
                .flag(CKA_TOKEN, true)
                .bytes(CKA_VALUE, &unmasked(&secret));
            let symmetric = card.module.create_object(session, &symmetric).unwrap();
            let call = card.call(CKM_AES_ECB);
            card.module.begin_ciphering(session, &call, symmetric, Kind::Encrypt).unwrap();
            card.module.cipher(session, Some(&[1; 16]), Some(16), Kind::Encrypt).unwrap();
            let label = new().bytes(CKA_LABEL, b"changed");
            card.module.change_object(session, symmetric, &label).unwrap();
            assert!(count_in_memory(&secret) > 0, "it is in use");
            slot.logout().unwrap();
        });
        work.join().unwrap();
    });
    for (what, masked) in [("scalar", scalar), ("secret", secret), ("PIN", pin)] {
        assert_eq!(count_in_memory(&masked), 0, "{what} is left in memory");
    }
}
