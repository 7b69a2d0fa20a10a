//! Pointers and lengths that no client should hand over, and some that he may.

use super::*;

/// One byte beside where it should be.
fn beside<T>(place: *mut T) -> *mut T {
    place.wrapping_byte_add(1)
}

#[test]
fn no_bytes_need_no_pointer() {
    let client = Client::new();
    let [public, private] = client.pair();
    let s = client.session;
    let (mut out, mut length) = ([0; 64], 64);
    let (to, n) = (out.as_mut_ptr(), &raw mut length);
    assert_eq!(call!(C_DigestInit, s, &mut plain(native::SM3)), CKR_OK);
    assert_eq!(call!(C_Digest, s, null_mut(), 0, to, n), CKR_OK);
    assert_eq!(out[..32], hufu_crypto::Sm3::of(&[]).0);
    let message: *mut CK_MECHANISM = &mut plain(native::SM2_SM3);
    length = 64;
    assert_eq!(call!(C_SignInit, s, message, private), CKR_OK);
    assert_eq!(call!(C_SignUpdate, s, null_mut(), 0), CKR_OK);
    assert_eq!(call!(C_SignFinal, s, to, &raw mut length), CKR_OK);
    assert_eq!(call!(C_VerifyInit, s, message, public), CKR_OK);
    assert_eq!(call!(C_Verify, s, null_mut(), 0, to, 64), CKR_OK);
}

#[test]
fn absurd_lengths_are_refused() {
    let client = Client::new();
    let [public, _] = client.pair();
    let s = client.session;
    let (mut number, mut bytes) = (0, vec![0; 8_192]);
    let (n, b) = (&raw mut number, bytes.as_mut_ptr());
    let aes: *mut CK_MECHANISM = &mut plain(CKM_AES_KEY_WRAP);
    let mut attributes = [CK_ATTRIBUTE { type_: CKA_ID, pValue: null_mut(), ulValueLen: 0 }; 257];
    let t = attributes.as_mut_ptr();
    for max in [CK_ULONG::MAX, CK_ULONG::MAX / 2, 1 << 60, 257] {
        let rows = [
            ("C_GetAttributeValue", call!(C_GetAttributeValue, s, public, t, max)),
            ("C_SetAttributeValue", call!(C_SetAttributeValue, s, public, t, max)),
            ("C_CreateObject", call!(C_CreateObject, s, t, max, n)),
            ("C_FindObjectsInit", call!(C_FindObjectsInit, s, t, max)),
        ];
        check(&rows, CKR_ARGUMENTS_BAD);
    }
    for max in [CK_ULONG::MAX, 1 << 63] {
        assert_eq!(call!(C_DigestInit, s, &mut plain(native::SM3)), CKR_OK);
        let rows = [
            ("C_Digest", call!(C_Digest, s, b, max, b, n)),
            ("C_DigestUpdate", call!(C_DigestUpdate, s, b, max)),
            ("C_GenerateRandom", call!(C_GenerateRandom, s, b, max)),
        ];
        check(&rows, CKR_ARGUMENTS_BAD);
        assert_eq!(call!(C_DigestInit, s, null_mut()), CKR_OK);
    }
    // Of what can only be wrong no more is read than shows it.
    assert_eq!(call!(C_Logout, s), CKR_OK);
    for max in [CK_ULONG::MAX, 65] {
        assert_eq!(call!(C_Login, s, CKU_USER, b, max), CKR_PIN_INCORRECT);
    }
    let mut pin = *b"1234";
    assert_eq!(call!(C_Login, s, CKU_USER, pin.as_mut_ptr(), 4), CKR_OK);
    let long = call!(C_SetPIN, s, pin.as_mut_ptr(), 4, b, CK_ULONG::MAX);
    assert_eq!(long, CKR_PIN_LEN_RANGE);
    let long = call!(C_UnwrapKey, s, aes, 1, b, CK_ULONG::MAX, null_mut(), 0, n);
    assert_eq!(long, CKR_WRAPPED_KEY_LEN_RANGE);
    attributes[0] = CK_ATTRIBUTE { type_: CKA_ID, pValue: b.cast(), ulValueLen: CK_ULONG::MAX };
    let t = attributes.as_mut_ptr();
    let long = call!(C_SetAttributeValue, s, public, t, 1);
    assert_eq!(long, CKR_ATTRIBUTE_VALUE_INVALID);
}

#[test]
fn misaligned_pointers_are_refused() {
    let client = Client::new();
    let [public, private] = client.pair();
    let s = client.session;
    let (mut number, mut bytes) = ([64, 64], [0; 64]);
    let (n, b) = (beside(number.as_mut_ptr()), bytes.as_mut_ptr());
    let mut mechanisms = [plain(native::SM2); 2];
    let m = beside(mechanisms.as_mut_ptr());
    let mut attributes = [CK_ATTRIBUTE { type_: CKA_ID, pValue: null_mut(), ulValueLen: 0 }; 3];
    let t = beside(attributes.as_mut_ptr());
    let mut infos = [CK_SESSION_INFO { slotID: 0, state: 0, flags: 0, ulDeviceError: 0 }; 2];
    let rows = [
        ("C_SignInit", call!(C_SignInit, s, m, private)),
        ("C_DigestInit", call!(C_DigestInit, s, m)),
        ("C_Digest", call!(C_Digest, s, b, 1, b, n)),
        ("C_GetAttributeValue", call!(C_GetAttributeValue, s, public, t, 1)),
        ("C_FindObjectsInit", call!(C_FindObjectsInit, s, t, 1)),
        ("C_CreateObject", call!(C_CreateObject, s, null_mut(), 0, n)),
        ("C_GetObjectSize", call!(C_GetObjectSize, s, public, n)),
        ("C_GetSlotList", call!(C_GetSlotList, 0, null_mut(), n)),
        ("C_OpenSession", call!(C_OpenSession, 0, 4, null_mut(), None, n)),
        ("C_GetSessionInfo", call!(C_GetSessionInfo, s, beside(infos.as_mut_ptr()))),
        ("C_Initialize", call!(C_Initialize, beside(number.as_mut_ptr()).cast())),
    ];
    check(&rows, CKR_ARGUMENTS_BAD);
}

/// PKCS#11 2.40 5.2: input and output may be the same memory.
#[test]
fn bytes_are_encrypted_where_they_lie() {
    let client = Client::new();
    let s = client.session;
    let mut yes = CK_TRUE;
    let mut uses = [CKA_ENCRYPT, CKA_DECRYPT].map(|type_| CK_ATTRIBUTE {
        type_,
        pValue: (&raw mut yes).cast(),
        ulValueLen: 1,
    });
    let (mut key, generate) = (0, &mut plain(native::SM4_KEY_GEN));
    assert_eq!(call!(C_GenerateKey, s, generate, uses.as_mut_ptr(), 2, &raw mut key), CKR_OK);
    let mut vector = [3; 16];
    let pad: *mut CK_MECHANISM = &mut CK_MECHANISM {
        mechanism: native::SM4_CBC_PAD,
        pParameter: vector.as_mut_ptr().cast(),
        ulParameterLen: 16,
    };
    let mut place = [7; 48];
    let (at, mut length) = (place.as_mut_ptr(), 48);
    assert_eq!(call!(C_EncryptInit, s, pad, key), CKR_OK);
    assert_eq!(call!(C_Encrypt, s, at, 40, at, &raw mut length), CKR_OK);
    assert_eq!(length, 48);
    assert_ne!(place[..40], [7; 40]);
    assert_eq!(call!(C_DecryptInit, s, pad, key), CKR_OK);
    assert_eq!(call!(C_Decrypt, s, at, 48, at, &raw mut length), CKR_OK);
    assert_eq!((length, &place[..40]), (40, &[7; 40][..]));
}

/// PKCS#11 3.0 5.8.1: an operation is ended by beginning none.
#[test]
fn operations_are_ended_by_beginning_none() {
    let client = Client::new();
    let [public, private] = client.pair();
    let s = client.session;
    let sm2: *mut CK_MECHANISM = &mut plain(native::SM2);
    for _ in 0..2 {
        assert_eq!(call!(C_SignInit, s, sm2, private), CKR_OK);
        assert_eq!(call!(C_VerifyInit, s, sm2, public), CKR_OK);
        assert_eq!(call!(C_SignInit, s, null_mut(), 0), CKR_OK);
        assert_eq!(call!(C_SignInit, s, null_mut(), 0), CKR_ARGUMENTS_BAD);
        assert_eq!(call!(C_VerifyInit, s, null_mut(), 0), CKR_OK);
        assert_eq!(call!(C_DigestInit, s, &mut plain(native::SM3)), CKR_OK);
        assert_eq!(call!(C_DigestInit, s, null_mut()), CKR_OK);
    }
}

#[test]
fn what_is_not_supported_is_not_initialised_first() {
    let client = Client::new();
    assert_eq!(call!(C_Finalize, null_mut()), CKR_OK);
    let (s, b) = (client.session, null_mut());
    let rows = [
        ("C_GetOperationState", call!(C_GetOperationState, s, b, null_mut())),
        ("C_SignRecover", call!(C_SignRecover, s, b, 0, b, null_mut())),
        ("C_DeriveKey", call!(C_DeriveKey, s, null_mut(), 1, null_mut(), 0, null_mut())),
    ];
    check(&rows, CKR_CRYPTOKI_NOT_INITIALIZED);
    // SAFETY: a name that is said to have a length and is not looked at.
    let named = unsafe { sessions::login_user(s, CKU_USER, b, 0, null_mut(), 1) };
    assert_eq!(named, CKR_CRYPTOKI_NOT_INITIALIZED);
}

#[test]
fn sizes_of_keys_have_their_units() {
    let _client = Client::new();
    let sizes = |code| {
        let mut info = CK_MECHANISM_INFO { ulMinKeySize: 0, ulMaxKeySize: 0, flags: 0 };
        assert_eq!(call!(C_GetMechanismInfo, 0, code, &raw mut info), CKR_OK);
        (info.ulMinKeySize, info.ulMaxKeySize)
    };
    // Bits of pairs and generic secrets, bytes of AES and SM4.
    assert_eq!(sizes(CKM_EC_KEY_PAIR_GEN), (256, 256));
    assert_eq!(sizes(CKM_GENERIC_SECRET_KEY_GEN), (8, 4_096));
    assert_eq!(sizes(CKM_AES_KEY_GEN), (16, 32));
    assert_eq!(sizes(native::SM4_KEY_GEN), (16, 16));
}

/// PKCS#11 2.40 5.4, C_Finalize: who waits for an event is told, even if all begins again at once.
#[test]
fn who_waits_for_an_event_is_told_of_the_end() {
    let client = Client::new();
    let waits = || {
        let mut slot = 7;
        (call!(C_WaitForSlotEvent, 0, &raw mut slot, null_mut()), slot)
    };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(waits);
        // Once more if it had not come to wait yet.
        while !waiting.is_finished() {
            assert_eq!(call!(C_Finalize, null_mut()), CKR_OK);
            start(config(&client.folder)).unwrap();
            crate::faults::sleep_micros(1_000);
        }
        assert_eq!(waiting.join().unwrap(), (CKR_CRYPTOKI_NOT_INITIALIZED, 7));
        let faults = crate::faults::Faults::open(client.folder.path(), 0).unwrap();
        let waiting = scope.spawn(waits);
        faults.set(crate::faults::Fault::Removed { millis: 60_000 });
        assert_eq!(waiting.join().unwrap(), (CKR_OK, 0));
        faults.clear();
    });
}
