//! Threads that meet: a session is closed, or all are, while another thread is in the middle of a
//! call. Each test stands where that thread would be.

use super::*;
use crate::attributes::Occasion;
use crate::object::Object;
use crate::store::header::User;

fn data() -> Object {
    Object::born(&new(), CKO_DATA, Occasion::Create).unwrap()
}

#[test]
fn nothing_is_made_in_a_session_that_was_closed_meanwhile() {
    let card = Card::new("native");
    let (kept, closing) = (card.user(), card.module.open_session(0, true).unwrap());
    let (held, slot) = card.module.session(closing).unwrap();
    card.module.close_session(closing).unwrap();
    assert_eq!(slot.insert(&held, [data()]), Err(CKR_SESSION_HANDLE_INVALID));
    assert_eq!(card.find(kept, &new()), [], "what nobody would ever take away");
}

#[test]
fn nobody_logs_in_to_a_session_that_was_closed_meanwhile() {
    let card = Card::new("native");
    let session = card.module.open_session(0, true).unwrap();
    let (held, slot) = card.module.session(session).unwrap();
    card.module.close_session(session).unwrap();
    let refused = slot.login(&held, User::Normal, PIN);
    assert_eq!(refused, Err(CKR_SESSION_HANDLE_INVALID));
    let next = card.module.open_session(0, true).unwrap();
    assert_eq!(card.module.session_info(next).unwrap().state, CKS_RW_PUBLIC_SESSION);
}

/// A thread that is still in a call when another one finalises leaves nothing for the next life.
#[test]
fn what_was_under_way_ends_with_the_module() {
    let card = Card::new("native");
    let session = card.module.open_session(0, true).unwrap();
    let (held, slot) = card.module.session(session).unwrap();
    card.module.shut();
    assert_eq!(slot.login(&held, User::Normal, PIN), Err(CKR_CRYPTOKI_NOT_INITIALIZED));
    assert_eq!(slot.open_session(true).err(), Some(CKR_CRYPTOKI_NOT_INITIALIZED));
    card.module.reopen();
    assert_eq!(slot.login(&held, User::Normal, PIN), Err(CKR_SESSION_HANDLE_INVALID));
    assert_eq!(slot.token_info().unwrap().ulSessionCount, 0);
    let next = card.module.open_session(0, true).unwrap();
    assert_eq!(card.module.session_info(next).unwrap().state, CKS_RW_PUBLIC_SESSION);
}

#[test]
fn handles_found_before_a_logout_are_not_told_after_it() {
    let card = Card::new("native");
    let session = card.user();
    let [public, _] = card.pair(session);
    card.module.begin_find(session, &new()).unwrap();
    card.module.slot(0).unwrap().logout().unwrap();
    assert_eq!(card.module.find(session, 10), Ok(vec![public]));
}

/// PKCS#11 2.40 5.6, C_Login: a wrong PIN for one operation that locks it logs the user out; one
/// that no operation waits for is no attempt.
#[test]
fn a_pin_for_one_operation_can_lock() {
    let card = Card::new("native");
    let session = card.user();
    let private = new().flag(CKA_SIGN, true).flag(CKA_ALWAYS_AUTHENTICATE, true);
    let call = card.call(card.code(Algorithm::Sm2Pair).unwrap());
    let [_, private] = card.module.generate_pair(session, &call, &new(), &private).unwrap();
    let login = |pin| card.module.login(session, CKU_CONTEXT_SPECIFIC, pin);
    for _ in 0..5 {
        assert_eq!(login(b"0000"), Err(CKR_OPERATION_NOT_INITIALIZED));
    }
    let flags = || card.module.slot(0).unwrap().token_info().unwrap().flags;
    assert_eq!(flags() & CKF_USER_PIN_COUNT_LOW, 0);
    card.module.begin_signing(session, &card.call(native::SM2), private, Kind::Sign).unwrap();
    assert_eq!(login(b"0000"), Err(CKR_PIN_INCORRECT));
    assert_eq!(login(b"0000"), Err(CKR_PIN_INCORRECT));
    assert_eq!(login(b"0000"), Err(CKR_PIN_LOCKED));
    assert_eq!(card.module.session_info(session).unwrap().state, CKS_RW_PUBLIC_SESSION);
    let ended = card.module.sign(session, Some(&[1; 32]), Some(64));
    assert_eq!(ended, Err(CKR_OPERATION_NOT_INITIALIZED));
}
