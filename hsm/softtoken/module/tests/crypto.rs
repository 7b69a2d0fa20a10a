use super::*;
use crate::imitations::{CipherForm, Mode};

#[test]
fn sm2_signatures_verify_in_software() {
    let card = Card::new("native");
    let session = card.user();
    let [public, private] = card.pair(session);
    let key = card.public_key(session, public);
    let e = Digest([9; 32]);
    let raw = card.sign(session, native::SM2, private, &e.0).unwrap();
    assert!(is_valid(&key, e, &raw));
    let written = card.sign(session, native::SM2_DER, private, &e.0).unwrap();
    assert!(is_valid(&key, e, &der::read_signature(&written).unwrap().0));
    let e = message_digest(&identity_digest(IDENTITY_DEFAULT, &key), b"message");
    let raw = card.sign(session, native::SM2_SM3, private, b"message").unwrap();
    assert!(is_valid(&key, e, &raw));
    let call = card.module.call(native::SM2_SM3, Parameter::Bytes(b"ALICE".to_vec())).unwrap();
    card.module.begin_signing(session, &call, private, Kind::Sign).unwrap();
    for part in [&b"mess"[..], b"age"] {
        card.module.update_signing(session, part, Kind::Sign).unwrap();
    }
    let Ok(Given::Bytes(raw)) = card.module.sign(session, None, Some(64)) else { panic!("signs") };
    let e = message_digest(&identity_digest(b"ALICE", &key), b"message");
    assert!(is_valid(&key, e, &raw));
    card.module.begin_signing(session, &call, public, Kind::Verify).unwrap();
    assert_eq!(card.module.verify(session, Some(b"message"), &raw), Ok(()));
    card.module.begin_signing(session, &call, public, Kind::Verify).unwrap();
    let refused = card.module.verify(session, Some(b"massage"), &raw);
    assert_eq!(refused, Err(CKR_SIGNATURE_INVALID));
}

#[test]
fn lengths_of_what_is_signed_are_checked() {
    let card = Card::new("native");
    let session = card.user();
    let [_, private] = card.pair(session);
    for size in [0, 31, 33] {
        let refused = card.sign(session, native::SM2, private, &vec![1; size]);
        assert_eq!(refused, Err(CKR_DATA_LEN_RANGE));
        // An error ends the operation.
        let refused = card.module.sign(session, Some(&[1; 32]), Some(64));
        assert_eq!(refused, Err(CKR_OPERATION_NOT_INITIALIZED));
    }
}

#[test]
fn questions_and_small_buffers_leave_the_operation() {
    let card = Card::new("native");
    let session = card.user();
    let [_, private] = card.pair(session);
    let call = card.call(native::SM2);
    card.module.begin_signing(session, &call, private, Kind::Sign).unwrap();
    let again = card.module.begin_signing(session, &call, private, Kind::Sign);
    assert_eq!(again, Err(CKR_OPERATION_ACTIVE));
    let sign = |room| card.module.sign(session, Some(&[1; 32]), room);
    assert_eq!(sign(None), Ok(Given::Size(64)));
    assert_eq!(sign(Some(63)), Ok(Given::TooSmall(64)));
    assert!(matches!(sign(Some(64)), Ok(Given::Bytes(_))));
    assert_eq!(sign(Some(64)), Err(CKR_OPERATION_NOT_INITIALIZED));
    let secret = secret_key(&card, session, &new().flag(CKA_ENCRYPT, true));
    let parameter = Parameter::Bytes(vec![0; 16]);
    let pad = card.module.call(native::SM4_CBC_PAD, parameter).unwrap();
    card.module.begin_ciphering(session, &pad, secret, Kind::Encrypt).unwrap();
    let encrypt = |room| card.module.cipher(session, Some(&[1; 20]), room, Kind::Encrypt);
    assert_eq!(encrypt(None), Ok(Given::Size(32)));
    assert_eq!(encrypt(Some(31)), Ok(Given::TooSmall(32)));
    assert!(matches!(encrypt(Some(32)), Ok(Given::Bytes(_))));
    card.module.begin_digest(session, &card.call(native::SM3)).unwrap();
    let digest = |room| card.module.digest(session, Some(b"abc"), room);
    assert_eq!(digest(None), Ok(Given::Size(32)));
    assert_eq!(digest(Some(5)), Ok(Given::TooSmall(32)));
    assert_eq!(digest(Some(32)), Ok(Given::Bytes(Sm3::of(&[b"abc"]).0.to_vec())));
}

fn secret_key(card: &Card, session: CK_SESSION_HANDLE, template: &Template) -> CK_OBJECT_HANDLE {
    card.module.generate_key(session, &card.call(native::SM4_KEY_GEN), template).unwrap()
}

#[test]
fn parts_and_whole_do_not_mix() {
    let card = Card::new("native");
    let session = card.user();
    let [_, private] = card.pair(session);
    card.module.begin_signing(session, &card.call(native::SM2_SM3), private, Kind::Sign).unwrap();
    card.module.update_signing(session, b"a", Kind::Sign).unwrap();
    let mixed = card.module.sign(session, Some(b"b"), Some(64));
    assert_eq!(mixed, Err(CKR_OPERATION_ACTIVE));
    assert!(card.module.sign(session, None, Some(64)).is_ok());
    card.module.begin_signing(session, &card.call(native::SM2), private, Kind::Sign).unwrap();
    let refused = card.module.update_signing(session, &[1; 32], Kind::Sign);
    assert_eq!(refused, Err(CKR_FUNCTION_NOT_SUPPORTED));
}

/// Whatever is signed byte by byte verifies as a whole, and the other way round, for no byte, the
/// sizes around a block of every digest, and more.
#[test]
fn signatures_are_the_same_in_parts() {
    let card = Card::new("native");
    let session = card.user();
    let uses = new().flag(CKA_SIGN, true).flag(CKA_VERIFY, true);
    let sm4 = secret_key(&card, session, &uses);
    let generic = uses.number(CKA_VALUE_LEN, 33);
    let code = card.call(CKM_GENERIC_SECRET_KEY_GEN);
    let generic = card.module.generate_key(session, &code, &generic).unwrap();
    let curve = new().bytes(CKA_EC_PARAMS, crate::keys::P256_CURVE).flag(CKA_VERIFY, true);
    let (call, private) = (card.call(CKM_EC_KEY_PAIR_GEN), new().flag(CKA_SIGN, true));
    let ec = card.module.generate_pair(session, &call, &curve, &private).unwrap();
    let sm2 = card.pair(session);
    for (code, [public, private]) in [
        (native::SM2_SM3, sm2),
        (native::SM2_SM3_DER, sm2),
        (CKM_ECDSA_SHA1, ec),
        (CKM_ECDSA_SHA256, ec),
        (CKM_ECDSA_SHA384, ec),
        (CKM_ECDSA_SHA512, ec),
        (native::SM3_HMAC, [generic; 2]),
        (native::SM4_MAC, [sm4; 2]),
    ] {
        let sizes = [0, 1, 55, 56, 63, 64, 65, 112, 127, 128, 129, 1_000];
        let fits = |size: &usize| code != native::SM4_MAC || size.is_multiple_of(16) && *size > 0;
        for size in sizes.into_iter().filter(fits) {
            let text = vec![9; size];
            let begin = |key, kind| {
                card.module.begin_signing(session, &card.call(code), key, kind).unwrap();
            };
            let feed = |kind| {
                for byte in &text {
                    card.module.update_signing(session, &[*byte], kind).unwrap();
                }
            };
            let whole = card.sign(session, code, private, &text).unwrap();
            begin(public, Kind::Verify);
            feed(Kind::Verify);
            assert_eq!(card.module.verify(session, None, &whole), Ok(()), "{code:#x} {size}");
            begin(private, Kind::Sign);
            feed(Kind::Sign);
            let Ok(Given::Bytes(parts)) = card.module.sign(session, None, Some(128)) else {
                panic!("{code:#x} signs {size} bytes")
            };
            begin(public, Kind::Verify);
            let answer = card.module.verify(session, Some(&text), &parts);
            assert_eq!(answer, Ok(()), "{code:#x} {size}");
        }
    }
}

#[test]
fn keys_do_what_they_may() {
    let card = Card::new("native");
    let session = card.user();
    let [public, private] = card.pair(session);
    let begin = |code, key, kind| card.module.begin_signing(session, &card.call(code), key, kind);
    let cases = [
        (native::SM2, public, Kind::Sign, CKR_KEY_TYPE_INCONSISTENT),
        (native::SM2, private, Kind::Verify, CKR_KEY_TYPE_INCONSISTENT),
        (CKM_ECDSA, private, Kind::Sign, CKR_KEY_TYPE_INCONSISTENT),
        (native::SM3, private, Kind::Sign, CKR_MECHANISM_INVALID),
        (native::SM2, 999, Kind::Sign, CKR_KEY_HANDLE_INVALID),
    ];
    for (code, key, kind, wanted) in cases {
        assert_eq!(begin(code, key, kind), Err(wanted), "{code:#x} {kind:?}");
    }
    let idle = secret_key(&card, session, &new());
    let ecb = card.call(native::SM4_ECB);
    let refused = card.module.begin_ciphering(session, &ecb, idle, Kind::Encrypt);
    assert_eq!(refused, Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
    let only =
        new().flag(CKA_ENCRYPT, true).bytes(CKA_ALLOWED_MECHANISMS, &native::SM4_CTR.to_ne_bytes());
    let only = secret_key(&card, session, &only);
    let refused = card.module.begin_ciphering(session, &ecb, only, Kind::Encrypt);
    assert_eq!(refused, Err(CKR_MECHANISM_INVALID));
    let data = new().number(CKA_CLASS, CKO_DATA);
    let data = card.module.create_object(session, &data).unwrap();
    assert_eq!(begin(native::SM2, data, Kind::Sign), Err(CKR_KEY_HANDLE_INVALID));
}

#[test]
fn wrapped_keys_come_back_sensitive() {
    let card = Card::new("native");
    let session = card.user();
    let both = new().flag(CKA_WRAP, true).flag(CKA_UNWRAP, true);
    let wrapping = secret_key(&card, session, &both);
    let call = card.module.call(native::SM4_CBC_PAD, Parameter::Bytes(vec![1; 16])).unwrap();
    let wrap = |key| card.module.wrap(session, &call, wrapping, key, Some(512));
    let kept = secret_key(&card, session, &new());
    assert_eq!(wrap(kept), Err(CKR_KEY_UNEXTRACTABLE));
    let trusted = new().flag(CKA_EXTRACTABLE, true).flag(CKA_WRAP_WITH_TRUSTED, true);
    assert_eq!(wrap(secret_key(&card, session, &trusted)), Err(CKR_KEY_NOT_WRAPPABLE));
    let key = new().flag(CKA_EXTRACTABLE, true).flag(CKA_ENCRYPT, true);
    let key = secret_key(&card, session, &key);
    let Ok(Given::Bytes(wrapped)) = wrap(key) else { panic!("wraps") };
    let template = new()
        .number(CKA_CLASS, CKO_SECRET_KEY)
        .number(CKA_KEY_TYPE, native::KEY_SM4)
        .flag(CKA_ENCRYPT, true);
    let unwrap = |template: &Template, wrapped: &[u8]| {
        card.module.unwrap(session, &call, wrapping, wrapped, template)
    };
    let again = unwrap(&template, &wrapped).unwrap();
    let ecb = |key| {
        card.module.begin_ciphering(session, &card.call(native::SM4_ECB), key, Kind::Encrypt)?;
        card.module.cipher(session, Some(&[3; 16]), Some(16), Kind::Encrypt)
    };
    assert_eq!(ecb(again), ecb(key));
    let object = card.module.object(session, again).unwrap();
    assert!(object.flag(CKA_SENSITIVE) && !object.flag(CKA_ALWAYS_SENSITIVE));
    let open = template.flag(CKA_SENSITIVE, false);
    assert_eq!(unwrap(&open, &wrapped), Err(CKR_TEMPLATE_INCONSISTENT));
    assert_eq!(unwrap(&new(), &wrapped), Err(CKR_TEMPLATE_INCOMPLETE));
}

#[test]
fn private_keys_are_wrapped_too() {
    let card = Card::new("native");
    let session = card.user();
    let call = card.call(card.code(Algorithm::Sm2Pair).unwrap());
    let private = new().flag(CKA_SIGN, true).flag(CKA_EXTRACTABLE, true);
    let [public, private] = card.module.generate_pair(session, &call, &new(), &private).unwrap();
    let aes = new().number(CKA_VALUE_LEN, 32).flag(CKA_WRAP, true).flag(CKA_UNWRAP, true);
    let aes = card.module.generate_key(session, &card.call(CKM_AES_KEY_GEN), &aes).unwrap();
    let wrap = card.call(CKM_AES_KEY_WRAP_KWP);
    let Ok(Given::Bytes(wrapped)) = card.module.wrap(session, &wrap, aes, private, Some(512))
    else {
        panic!("wraps")
    };
    let template = new()
        .number(CKA_CLASS, CKO_PRIVATE_KEY)
        .number(CKA_KEY_TYPE, native::KEY_SM2)
        .flag(CKA_SIGN, true);
    let again = card.module.unwrap(session, &wrap, aes, &wrapped, &template).unwrap();
    let signature = card.sign(session, native::SM2, again, &[5; 32]).unwrap();
    let key = card.public_key(session, public);
    assert!(is_valid(&key, Digest([5; 32]), &signature));
}

#[test]
fn sm2_and_gcm_decrypt_what_they_encrypt() {
    let card = Card::new("native");
    let session = card.user();
    let [public, private] = card.pair(session);
    let through = |call: &Call, from, to, data: &[u8]| {
        card.module.begin_ciphering(session, call, from, Kind::Encrypt)?;
        let Given::Bytes(sealed) =
            card.module.cipher(session, Some(data), Some(1024), Kind::Encrypt)?
        else {
            panic!("room")
        };
        card.module.begin_ciphering(session, call, to, Kind::Decrypt)?;
        card.module.cipher(session, Some(&sealed), Some(1024), Kind::Decrypt)
    };
    for form in [CipherForm::Raw, CipherForm::Der] {
        let call = card.call(card.code(Algorithm::Sm2Encrypt(form)).unwrap());
        assert_eq!(through(&call, public, private, b"text"), Ok(Given::Bytes(b"text".to_vec())));
    }
    let key = secret_key(&card, session, &new().flag(CKA_ENCRYPT, true).flag(CKA_DECRYPT, true));
    let (nonce, associated) = (vec![1; 12], vec![2]);
    let code = card.code(Algorithm::Block(crate::imitations::Block::Sm4, Mode::Gcm)).unwrap();
    let call = card.module.call(code, Parameter::Gcm { nonce, associated, tag_bits: 128 }).unwrap();
    assert_eq!(through(&call, key, key, b"text"), Ok(Given::Bytes(b"text".to_vec())));
}

#[test]
fn only_keys_that_can_be_read_are_digested() {
    let card = Card::new("native");
    let session = card.user();
    card.module.begin_digest(session, &card.call(native::SM3)).unwrap();
    let closed = secret_key(&card, session, &new());
    assert_eq!(card.module.digest_key(session, closed), Err(CKR_KEY_INDIGESTIBLE));
    let open = new()
        .number(CKA_CLASS, CKO_SECRET_KEY)
        .number(CKA_KEY_TYPE, CKK_GENERIC_SECRET)
        .bytes(CKA_VALUE, b"abc")
        .flag(CKA_SENSITIVE, false)
        .flag(CKA_EXTRACTABLE, true);
    let open = card.module.create_object(session, &open).unwrap();
    card.module.digest_key(session, open).unwrap();
    let digest = card.module.digest(session, None, Some(32));
    assert_eq!(digest, Ok(Given::Bytes(Sm3::of(&[b"abc"]).0.to_vec())));
}

#[test]
fn always_authenticate_wants_a_pin_for_each_signature() {
    let card = Card::new("native");
    let session = card.user();
    let private = new().flag(CKA_SIGN, true).flag(CKA_ALWAYS_AUTHENTICATE, true);
    let call = card.call(card.code(Algorithm::Sm2Pair).unwrap());
    let [_, private] = card.module.generate_pair(session, &call, &new(), &private).unwrap();
    for _ in 0..2 {
        let login = |pin| card.module.login(session, CKU_CONTEXT_SPECIFIC, pin);
        assert_eq!(login(PIN), Err(CKR_OPERATION_NOT_INITIALIZED));
        card.module.begin_signing(session, &card.call(native::SM2), private, Kind::Sign).unwrap();
        let sign = || card.module.sign(session, Some(&[1; 32]), Some(64));
        assert_eq!(sign(), Err(CKR_USER_NOT_LOGGED_IN));
        assert_eq!(login(b"0000"), Err(CKR_PIN_INCORRECT));
        assert_eq!(login(PIN), Ok(()));
        assert!(sign().is_ok());
    }
}

/// Two sessions compute at once: what the one does waits for no lock that the other holds. The
/// proof is that both stand in their own wait at the same time.
#[test]
fn sessions_sign_side_by_side() {
    let card = Card::new("native");
    let first = card.user();
    let [_, private] = card.pair(first);
    let second = card.module.open_session(0, false).unwrap();
    for session in [first, second] {
        let call = card.call(native::SM2);
        card.module.begin_signing(session, &call, private, Kind::Sign).unwrap();
    }
    let faults = card.faults();
    let before = faults.calls_count();
    faults.set(Fault::Latency { micros: 300_000 });
    std::thread::scope(|scope| {
        let sign = |session| card.module.sign(session, Some(&[1; 32]), Some(64));
        let threads = [first, second].map(|session| scope.spawn(move || sign(session)));
        while faults.calls_count() < before + 2 {
            assert!(threads.iter().all(|thread| !thread.is_finished()), "one after the other");
            std::thread::yield_now();
        }
        for thread in threads {
            assert!(matches!(thread.join().unwrap(), Ok(Given::Bytes(_))));
        }
    });
}
