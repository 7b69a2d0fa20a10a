//! Eight threads that do everything at once, and what each of them gets is right.

use std::sync::atomic::{AtomicBool, Ordering};

use hufu_crypto::{Digest, PublicKey, Signature, Sm3, Verdict, VerifyItem, software_provider};

use super::*;
use crate::keys::point_in;

const THREADS_COUNT: u64 = 8;
const TURNS_COUNT: u64 = 40;

fn flag(type_: CK_ATTRIBUTE_TYPE, value: &mut CK_BBOOL) -> CK_ATTRIBUTE {
    CK_ATTRIBUTE { type_, pValue: std::ptr::from_mut(value).cast(), ulValueLen: 1 }
}

fn bytes(type_: CK_ATTRIBUTE_TYPE, value: &mut [u8]) -> CK_ATTRIBUTE {
    CK_ATTRIBUTE { type_, pValue: value.as_mut_ptr().cast(), ulValueLen: ulong(value.len()) }
}

/// One thread's session and what it does there; its number is in all it makes.
struct Worker {
    session: CK_SESSION_HANDLE,
    number: u8,
}

impl Worker {
    fn generate(&self, code: CK_MECHANISM_TYPE, template: &mut [CK_ATTRIBUTE]) -> u64 {
        let (mut key, count) = (0, ulong(template.len()));
        let (t, m) = (template.as_mut_ptr(), &mut plain(code));
        assert_eq!(call!(C_GenerateKey, self.session, m, t, count, &raw mut key), CKR_OK);
        key
    }

    /// A pair in the token, under an identifier of this thread.
    fn pair(&self) -> ([u64; 2], PublicKey) {
        let (mut yes, mut id) = (CK_TRUE, [self.number]);
        let mut public =
            [flag(CKA_VERIFY, &mut yes), flag(CKA_TOKEN, &mut yes), bytes(CKA_ID, &mut id)];
        let mut private =
            [flag(CKA_SIGN, &mut yes), flag(CKA_TOKEN, &mut yes), bytes(CKA_ID, &mut id)];
        let mut keys = [0; 2];
        let answer = call!(
            C_GenerateKeyPair,
            self.session,
            &mut plain(native::SM2_KEY_PAIR_GEN),
            public.as_mut_ptr(),
            3,
            private.as_mut_ptr(),
            3,
            &raw mut keys[0],
            &raw mut keys[1],
        );
        assert_eq!(answer, CKR_OK);
        let mut point = [0; 67];
        let mut read = bytes(CKA_EC_POINT, &mut point);
        let answer = call!(C_GetAttributeValue, self.session, keys[0], &raw mut read, 1);
        assert_eq!(answer, CKR_OK);
        (keys, PublicKey(point_in(&point).unwrap()))
    }

    fn signs([public, private]: [u64; 2], key: &PublicKey, s: u64, turn: u64) {
        let mut digest = Sm3::of(&[&s.to_le_bytes(), &turn.to_le_bytes()]).0;
        let (d, mut signature, mut length) = (digest.as_mut_ptr(), [0; 64], 64);
        let (to, m) = (signature.as_mut_ptr(), &mut plain(native::SM2));
        assert_eq!(call!(C_SignInit, s, m, private), CKR_OK);
        assert_eq!(call!(C_Sign, s, d, 32, to, &raw mut length), CKR_OK);
        let item = VerifyItem { key, digest: Digest(digest), signature: &Signature(signature) };
        assert_eq!(software_provider().verifier.verify(item), Verdict::Valid);
        assert_eq!(call!(C_VerifyInit, s, m, public), CKR_OK);
        assert_eq!(call!(C_Verify, s, d, 32, to, 64), CKR_OK);
        let mut wrong = signature;
        wrong[20] ^= 1;
        assert_eq!(call!(C_VerifyInit, s, m, public), CKR_OK);
        assert_eq!(call!(C_Verify, s, d, 32, wrong.as_mut_ptr(), 64), CKR_SIGNATURE_INVALID);
    }

    /// A text of this thread goes through a key and comes back, in parts of odd sizes.
    fn ciphers(&self, key: u64, code: CK_MECHANISM_TYPE, turn: u64) {
        let s = self.session;
        let mut vector = [self.number; 16];
        let m: *mut CK_MECHANISM = &mut CK_MECHANISM {
            mechanism: code,
            pParameter: vector.as_mut_ptr().cast(),
            ulParameterLen: 16,
        };
        let text: Vec<u8> = Sm3::of(&[&[self.number], &turn.to_le_bytes()]).0.repeat(5);
        let through = |from: &[u8], is_encryption: bool| {
            let (mut input, mut output, mut size) = (from.to_vec(), vec![0; 512], 0);
            for part in input.chunks_mut(7) {
                let (p, count, mut room) = (part.as_mut_ptr(), ulong(part.len()), 64);
                let to = output[size..].as_mut_ptr();
                let answer = if is_encryption {
                    call!(C_EncryptUpdate, s, p, count, to, &raw mut room)
                } else {
                    call!(C_DecryptUpdate, s, p, count, to, &raw mut room)
                };
                assert_eq!(answer, CKR_OK);
                size += usize::try_from(room).unwrap();
            }
            let (to, mut room) = (output[size..].as_mut_ptr(), 64);
            let answer = if is_encryption {
                call!(C_EncryptFinal, s, to, &raw mut room)
            } else {
                call!(C_DecryptFinal, s, to, &raw mut room)
            };
            assert_eq!(answer, CKR_OK);
            output.truncate(size + usize::try_from(room).unwrap());
            output
        };
        assert_eq!(call!(C_EncryptInit, s, m, key), CKR_OK);
        let sealed = through(&text, true);
        assert_ne!(sealed, text);
        assert_eq!(call!(C_DecryptInit, s, m, key), CKR_OK);
        assert_eq!(through(&sealed, false), text);
    }

    fn digests(&self, turn: u64) {
        let s = self.session;
        let mut text = [self.number; 100];
        text[0] = turn.to_le_bytes()[0];
        let (mut digest, mut length) = ([0; 32], 32);
        assert_eq!(call!(C_DigestInit, s, &mut plain(native::SM3)), CKR_OK);
        for part in text.clone().chunks_mut(33) {
            let count = ulong(part.len());
            assert_eq!(call!(C_DigestUpdate, s, part.as_mut_ptr(), count), CKR_OK);
        }
        assert_eq!(call!(C_DigestFinal, s, digest.as_mut_ptr(), &raw mut length), CKR_OK);
        assert_eq!(digest, Sm3::of(&[&text]).0);
    }

    /// Finds exactly what this thread has made.
    fn finds(&self, wanted: [u64; 2]) {
        let (s, mut id) = (self.session, [self.number]);
        let mut template = bytes(CKA_ID, &mut id);
        let (mut found, mut count) = ([0; 10], 0);
        assert_eq!(call!(C_FindObjectsInit, s, &raw mut template, 1), CKR_OK);
        let answer = call!(C_FindObjects, s, found.as_mut_ptr(), 10, &raw mut count);
        assert_eq!((answer, count), (CKR_OK, 2));
        assert_eq!(call!(C_FindObjectsFinal, s), CKR_OK);
        assert_eq!(found[..2], wanted);
    }

    /// A key goes out wrapped, comes back, and encrypts as before.
    fn wraps(&self, outer: u64, turn: u64) {
        let (s, mut yes) = (self.session, CK_TRUE);
        let uses = [flag(CKA_EXTRACTABLE, &mut yes), flag(CKA_ENCRYPT, &mut yes)];
        let inner = self.generate(native::SM4_KEY_GEN, &mut uses.clone());
        let mut vector = [turn.to_le_bytes()[0]; 16];
        let m: *mut CK_MECHANISM = &mut CK_MECHANISM {
            mechanism: native::SM4_CBC_PAD,
            pParameter: vector.as_mut_ptr().cast(),
            ulParameterLen: 16,
        };
        let (mut wrapped, mut length, mut again) = ([0; 64], 64, 0);
        let w = wrapped.as_mut_ptr();
        assert_eq!(call!(C_WrapKey, s, m, outer, inner, w, &raw mut length), CKR_OK);
        let (mut class, mut kind) = (CKO_SECRET_KEY.to_ne_bytes(), native::KEY_SM4.to_ne_bytes());
        let mut template = [bytes(CKA_CLASS, &mut class), bytes(CKA_KEY_TYPE, &mut kind), uses[1]];
        let t = template.as_mut_ptr();
        let answer = call!(C_UnwrapKey, s, m, outer, w, length, t, 3, &raw mut again);
        assert_eq!(answer, CKR_OK);
        let blocks = [inner, again].map(|key| {
            let (mut block, mut room) = ([self.number; 16], 16);
            let b = block.as_mut_ptr();
            assert_eq!(call!(C_EncryptInit, s, &mut plain(native::SM4_ECB), key), CKR_OK);
            assert_eq!(call!(C_Encrypt, s, b, 16, b, &raw mut room), CKR_OK);
            block
        });
        assert_eq!(blocks[0], blocks[1]);
        for key in [inner, again] {
            assert_eq!(call!(C_DestroyObject, s, key), CKR_OK);
        }
    }

    fn works(&self) {
        let (mut yes, mut size) = (CK_TRUE, 32_u64.to_ne_bytes());
        let (keys, key) = self.pair();
        let mut both = [flag(CKA_ENCRYPT, &mut yes), flag(CKA_DECRYPT, &mut yes)];
        let sm4 = self.generate(native::SM4_KEY_GEN, &mut both);
        let mut long = [both[0], both[1], bytes(CKA_VALUE_LEN, &mut size)];
        let aes = self.generate(CKM_AES_KEY_GEN, &mut long);
        let mut both = [flag(CKA_WRAP, &mut yes), flag(CKA_UNWRAP, &mut yes)];
        let outer = self.generate(native::SM4_KEY_GEN, &mut both);
        for turn in 0..TURNS_COUNT {
            Self::signs(keys, &key, self.session, turn);
            self.ciphers(sm4, native::SM4_CBC_PAD, turn);
            self.ciphers(aes, CKM_AES_CBC_PAD, turn);
            self.digests(turn);
            self.finds(keys);
            self.wraps(outer, turn);
            let mut random = [0; 32];
            assert_eq!(call!(C_GenerateRandom, self.session, random.as_mut_ptr(), 32), CKR_OK);
            assert_ne!(random, [0; 32]);
        }
        for key in keys {
            assert_eq!(call!(C_DestroyObject, self.session, key), CKR_OK);
        }
    }
}

#[test]
fn eight_threads_get_what_is_theirs() {
    let _client = Client::new();
    std::thread::scope(|scope| {
        for number in 1..=THREADS_COUNT {
            scope.spawn(move || {
                let number = number.to_le_bytes()[0];
                let worker = Worker { session: open(CKF_RW_SESSION), number };
                worker.works();
                assert_eq!(call!(C_CloseSession, worker.session), CKR_OK);
            });
        }
    });
}

fn login(s: CK_SESSION_HANDLE) -> CK_RV {
    let mut pin = *b"1234";
    call!(C_Login, s, CKU_USER, pin.as_mut_ptr(), 4)
}

/// A session is opened, a pair made, something signed and verified, as far as it goes; whether it
/// went to the end.
fn hurries(turn: u64) -> bool {
    let mut s = 0;
    let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
    let opened = call!(C_OpenSession, 0, flags, null_mut(), None, &raw mut s);
    let mut answers = vec![opened, login(s)];
    let (mut yes, mut keys) = (CK_TRUE, [0; 2]);
    let (mut public, mut private) = ([flag(CKA_VERIFY, &mut yes)], [flag(CKA_SIGN, &mut yes)]);
    answers.push(call!(
        C_GenerateKeyPair,
        s,
        &mut plain(native::SM2_KEY_PAIR_GEN),
        public.as_mut_ptr(),
        1,
        private.as_mut_ptr(),
        1,
        &raw mut keys[0],
        &raw mut keys[1],
    ));
    let mut digest = Sm3::of(&[&turn.to_le_bytes()]).0;
    let (d, mut signature, mut length) = (digest.as_mut_ptr(), [0; 64], 64);
    let (to, m) = (signature.as_mut_ptr(), &mut plain(native::SM2));
    answers.push(call!(C_SignInit, s, m, keys[1]));
    answers.push(call!(C_Sign, s, d, 32, to, &raw mut length));
    if answers.last() == Some(&CKR_OK) {
        answers.push(call!(C_VerifyInit, s, m, keys[0]));
    }
    let mut is_verified = false;
    if answers.len() == 6 && answers[5] == CKR_OK {
        let verified = call!(C_Verify, s, d, 32, to, 64);
        assert_ne!(verified, CKR_SIGNATURE_INVALID);
        is_verified = verified == CKR_OK;
    }
    answers.push(call!(C_CloseSession, s));
    for never in [CKR_GENERAL_ERROR, CKR_DEVICE_ERROR, CKR_PIN_INCORRECT] {
        assert!(!answers.contains(&never), "{answers:x?}");
    }
    is_verified
}

/// Seven threads work while the eighth closes their sessions, logs out and in, and finalises under
/// their hands: every call is answered, none is answered wrongly, and in the end all is whole.
#[test]
fn nothing_breaks_when_the_ground_is_pulled_away() {
    let client = Client::new();
    let folder = &client.folder;
    let ends = AtomicBool::new(false);
    let work = || {
        let turns = (1_u64..).take_while(|_| !ends.load(Ordering::Acquire));
        turns.filter(|turn| hurries(*turn)).count()
    };
    let signed: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..THREADS_COUNT).map(|_| scope.spawn(work)).collect();
        for turn in 0..60_u32 {
            match turn % 4 {
                0 => {
                    call!(C_CloseAllSessions, 0);
                }
                1 => {
                    let s = open(0);
                    call!(C_Logout, s);
                }
                2 => {
                    assert_eq!(call!(C_Finalize, null_mut()), CKR_OK);
                    start(config(folder)).unwrap();
                }
                _ => crate::faults::sleep_micros(20_000),
            }
        }
        ends.store(true, Ordering::Release);
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert!(signed > 0);
    let mut info = CK_SESSION_INFO { slotID: 0, state: 9, flags: 0, ulDeviceError: 0 };
    let s = open(CKF_RW_SESSION);
    assert_eq!(call!(C_GetSessionInfo, s, &raw mut info), CKR_OK);
    assert_eq!(info.state, CKS_RW_PUBLIC_SESSION, "all sessions were closed: nobody is logged in");
    let mut token = std::mem::MaybeUninit::<CK_TOKEN_INFO>::uninit();
    assert_eq!(call!(C_GetTokenInfo, 0, token.as_mut_ptr()), CKR_OK);
    // SAFETY: written by the call above.
    let token = unsafe { token.assume_init() };
    assert_eq!(token.ulSessionCount, 1, "no session was left behind");
    assert_eq!(token.flags & (CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_LOCKED), 0);
    assert_eq!(login(s), CKR_OK);
    let (mut found, mut count) = ([0; 10], 9);
    assert_eq!(call!(C_FindObjectsInit, s, null_mut(), 0), CKR_OK);
    assert_eq!(call!(C_FindObjects, s, found.as_mut_ptr(), 10, &raw mut count), CKR_OK);
    assert_eq!(count, 0, "no object was left behind");
}

/// A process forks again and again while its threads compute, log in and write: each child makes a
/// module of its own, and none of them waits for a lock that a thread of its parent held.
#[test]
fn children_of_a_busy_process_work() {
    let client = Client::new();
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 1..=4 {
            let ends = &ends;
            scope.spawn(move || {
                let worker = Worker { session: open(CKF_RW_SESSION), number };
                while !ends.load(Ordering::Acquire) {
                    let (keys, key) = worker.pair();
                    Worker::signs(keys, &key, worker.session, 1);
                    for key in keys {
                        assert_eq!(call!(C_DestroyObject, worker.session, key), CKR_OK);
                    }
                }
            });
        }
        for _ in 0..16 {
            // SAFETY: the child calls this module only and ends at once.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: ends a child that waits for ever.
                unsafe { libc::alarm(60) };
                let started = start(config(&client.folder)).is_ok();
                let signed = (1..4).any(hurries);
                // SAFETY: ends the child without running what belongs to the parent.
                unsafe { libc::_exit(i32::from(!(started && signed))) };
            }
            let mut status = 0;
            // SAFETY: our own child, and a status of ours.
            let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
            assert_eq!((ended, status), (child, 0));
        }
        ends.store(true, Ordering::Release);
    });
}
