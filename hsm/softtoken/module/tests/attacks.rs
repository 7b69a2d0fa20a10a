//! Ways known from the literature to get at keys that must stay in (Clulow 2003; Bortolozzo,
//! Centenaro, Focardi, Steel 2010; Bardou and others 2012): none of them works.

use super::*;
use crate::imitations::{Block, Mode};

fn sm4(card: &Card, session: CK_SESSION_HANDLE, template: &Template) -> CK_OBJECT_HANDLE {
    card.module.generate_key(session, &card.call(native::SM4_KEY_GEN), template).unwrap()
}

fn wrapping(card: &Card, session: CK_SESSION_HANDLE) -> CK_OBJECT_HANDLE {
    sm4(card, session, &new().flag(CKA_WRAP, true).flag(CKA_UNWRAP, true))
}

/// A card with a user, a key that wraps, and a key that may be wrapped.
struct Scene {
    card: Card,
    session: CK_SESSION_HANDLE,
    outer: CK_OBJECT_HANDLE,
    inner: CK_OBJECT_HANDLE,
}

impl Scene {
    fn new() -> Self {
        let card = Card::new("native");
        let session = card.user();
        let outer = wrapping(&card, session);
        let inner = sm4(&card, session, &new().flag(CKA_EXTRACTABLE, true));
        Self { card, session, outer, inner }
    }

    /// The one under the other.
    fn wrapped(&self, call: &Call) -> Vec<u8> {
        wrap(&self.card, self.session, call, [self.outer, self.inner]).unwrap()
    }
}

fn secret(key_type: CK_KEY_TYPE) -> Template {
    new().number(CKA_CLASS, CKO_SECRET_KEY).number(CKA_KEY_TYPE, key_type)
}

fn cbc(card: &Card, code: CK_MECHANISM_TYPE) -> Call {
    card.module.call(code, Parameter::Bytes(vec![1; 16])).unwrap()
}

fn wrap(
    card: &Card,
    session: CK_SESSION_HANDLE,
    call: &Call,
    [wrapping, key]: [CK_OBJECT_HANDLE; 2],
) -> Answer<Vec<u8>> {
    match card.module.wrap(session, call, wrapping, key, Some(512))? {
        Given::Bytes(wrapped) => Ok(wrapped),
        other => panic!("{other:?}"),
    }
}

/// A wrapped key taken in byte by byte, as a secret so short that it can be guessed.
#[test]
fn no_piece_of_a_wrapped_key_comes_in() {
    let Scene { card, session, outer, inner } = Scene::new();
    for code in [native::SM4_CBC_PAD, native::SM4_CBC] {
        let call = cbc(&card, code);
        let wrapped = wrap(&card, session, &call, [outer, inner]).unwrap();
        for size in [1, 8, 15, 17] {
            let piece = secret(CKK_GENERIC_SECRET).number(CKA_VALUE_LEN, size).flag(CKA_SIGN, true);
            let refused = card.module.unwrap(session, &call, outer, &wrapped, &piece);
            assert!(
                matches!(refused, Err(CKR_WRAPPED_KEY_LEN_RANGE | CKR_WRAPPED_KEY_INVALID)),
                "{code:#x} {size}: {refused:x?}"
            );
        }
        let whole = secret(native::KEY_SM4).number(CKA_VALUE_LEN, 16);
        assert!(card.module.unwrap(session, &call, outer, &wrapped, &whole).is_ok());
    }
}

/// What the modes without padding fill up with is zeros, and nothing else is cut off.
#[test]
fn fillings_are_zeros() {
    let card = Card::new("native");
    let session = card.user();
    let uses = new().flag(CKA_WRAP, true).flag(CKA_UNWRAP, true).number(CKA_VALUE_LEN, 16);
    let outer = card.module.generate_key(session, &card.call(CKM_AES_KEY_GEN), &uses).unwrap();
    let value: Vec<u8> = (1..=24).collect();
    let inner = secret(CKK_AES)
        .bytes(CKA_VALUE, &value)
        .flag(CKA_EXTRACTABLE, true)
        .flag(CKA_ENCRYPT, true);
    let inner = card.module.create_object(session, &inner).unwrap();
    for call in [card.call(CKM_AES_ECB), cbc(&card, CKM_AES_CBC)] {
        let wrapped = wrap(&card, session, &call, [outer, inner]).unwrap();
        assert_eq!(wrapped.len(), 32);
        let unwrap = |size| {
            let template = secret(CKK_GENERIC_SECRET).number(CKA_VALUE_LEN, size);
            card.module.unwrap(session, &call, outer, &wrapped, &template)
        };
        assert!(unwrap(24).is_ok());
        assert_eq!(unwrap(23), Err(CKR_WRAPPED_KEY_INVALID), "a byte of the key is cut off");
        assert_eq!(unwrap(16), Err(CKR_WRAPPED_KEY_LEN_RANGE), "more than a filling is cut off");
        assert_eq!(unwrap(33), Err(CKR_WRAPPED_KEY_LEN_RANGE));
    }
}

/// A stream can be cut and flipped at will: keys do not travel in one.
#[test]
fn counters_wrap_nothing() {
    let Scene { card, session, outer, inner } = Scene::new();
    let counter = Parameter::Bytes([&128_u64.to_ne_bytes()[..], &[0; 16]].concat());
    let code = card.code(Algorithm::Block(Block::Sm4, Mode::Ctr)).unwrap();
    let call = card.module.call(code, counter).unwrap();
    let refused = wrap(&card, session, &call, [outer, inner]);
    assert_eq!(refused, Err(CKR_MECHANISM_INVALID));
    let template = secret(native::KEY_SM4);
    let refused = card.module.unwrap(session, &call, outer, &[0; 16], &template);
    assert_eq!(refused, Err(CKR_MECHANISM_INVALID));
}

/// Unwrapped with a weaker template, a key would leave again under a key that the attacker knows.
#[test]
fn what_comes_in_wrapped_leaves_under_trusted_keys_only() {
    let scene = Scene::new();
    let call = cbc(&scene.card, native::SM4_CBC_PAD);
    let wrapped = scene.wrapped(&call);
    let Scene { card, session, outer, .. } = scene;
    let weak = secret(native::KEY_SM4).flag(CKA_EXTRACTABLE, true);
    let unwrap =
        |template: &Template| card.module.unwrap(session, &call, outer, &wrapped, template);
    assert_eq!(unwrap(&weak), Err(CKR_TEMPLATE_INCONSISTENT));
    let clone = unwrap(&weak.flag(CKA_WRAP_WITH_TRUSTED, true)).unwrap();
    let known = secret(native::KEY_SM4).bytes(CKA_VALUE, &[7; 16]).flag(CKA_WRAP, true);
    let known = card.module.create_object(session, &known).unwrap();
    let refused = wrap(&card, session, &call, [known, clone]);
    assert_eq!(refused, Err(CKR_KEY_NOT_WRAPPABLE));
    let untrusting = new().flag(CKA_WRAP_WITH_TRUSTED, false);
    for refused in [
        card.module.change_object(session, clone, &untrusting),
        card.module.copy_object(session, clone, &untrusting).map(drop),
    ] {
        assert_eq!(refused, Err(CKR_ATTRIBUTE_READ_ONLY));
    }
}

/// A sensitive symmetric key is one for keys or one for data, whichever way it is made or changed.
#[test]
fn keys_are_for_keys_or_for_data() {
    let scene = Scene::new();
    let call = cbc(&scene.card, native::SM4_CBC_PAD);
    let wrapped = scene.wrapped(&call);
    let Scene { card, session, outer, .. } = scene;
    for (one, other) in [
        (CKA_WRAP, CKA_DECRYPT),
        (CKA_UNWRAP, CKA_DECRYPT),
        (CKA_WRAP, CKA_ENCRYPT),
        (CKA_UNWRAP, CKA_ENCRYPT),
        // A MAC of one block is that block encrypted: the stream of a key that left in GCM.
        (CKA_WRAP, CKA_SIGN),
        (CKA_UNWRAP, CKA_SIGN),
    ] {
        let both = |template: Template| template.flag(one, true).flag(other, true);
        let generate = card.call(native::SM4_KEY_GEN);
        let answers = [
            card.module.generate_key(session, &generate, &both(new())),
            card.module
                .create_object(session, &both(secret(native::KEY_SM4).bytes(CKA_VALUE, &[1; 16]))),
            card.module.unwrap(session, &call, outer, &wrapped, &both(secret(native::KEY_SM4))),
        ];
        assert_eq!(answers, [Err(CKR_TEMPLATE_INCONSISTENT); 3], "{one:#x} {other:#x}");
        let single = sm4(&card, session, &new().flag(one, true));
        let gain = new().flag(other, true);
        let change = card.module.change_object(session, single, &gain);
        assert_eq!(change, Err(CKR_ATTRIBUTE_READ_ONLY));
        let copy = card.module.copy_object(session, single, &gain);
        assert_eq!(copy, Err(CKR_ATTRIBUTE_READ_ONLY));
        let open = both(new()).flag(CKA_SENSITIVE, false).flag(CKA_EXTRACTABLE, true);
        let open = sm4(&card, session, &open);
        let close = new().flag(CKA_SENSITIVE, true);
        let change = card.module.change_object(session, open, &close);
        assert_eq!(change, Err(CKR_TEMPLATE_INCONSISTENT));
    }
}

/// Whether padding was right and the length wrong, or padding wrong, is not told.
#[test]
fn unwrapping_tells_no_padding() {
    let card = Card::new("native");
    let session = card.user();
    let outer = wrapping(&card, session);
    let inner = secret(CKK_GENERIC_SECRET).bytes(CKA_VALUE, &[5; 20]).flag(CKA_EXTRACTABLE, true);
    let inner = card.module.create_object(session, &inner).unwrap();
    let call = cbc(&card, native::SM4_CBC_PAD);
    let wrapped = wrap(&card, session, &call, [outer, inner]).unwrap();
    let template = secret(native::KEY_SM4);
    let mut answers = std::collections::BTreeSet::new();
    for byte in 0..=255 {
        let mut changed = wrapped.clone();
        changed[15] ^= byte;
        answers.insert(card.module.unwrap(session, &call, outer, &changed, &template));
    }
    assert_eq!(answers, [Err(CKR_WRAPPED_KEY_INVALID)].into());
}

/// A private key travels in modes that say where it ends.
#[test]
fn private_keys_are_not_filled_up() {
    let card = Card::new("native");
    let session = card.user();
    let outer = wrapping(&card, session);
    let call = card.call(native::SM2_KEY_PAIR_GEN);
    let private = new().flag(CKA_EXTRACTABLE, true);
    let [_, private] = card.module.generate_pair(session, &call, &new(), &private).unwrap();
    for call in [card.call(native::SM4_ECB), cbc(&card, native::SM4_CBC)] {
        let refused = wrap(&card, session, &call, [outer, private]);
        assert_eq!(refused, Err(CKR_KEY_NOT_WRAPPABLE));
    }
    assert!(wrap(&card, session, &cbc(&card, native::SM4_CBC_PAD), [outer, private]).is_ok());
}

/// PKCS#11 2.40 4.9: what wants a PIN for each use is private, and stays so.
#[test]
fn what_wants_a_pin_each_time_is_private() {
    let card = Card::new("native");
    let session = card.user();
    let call = card.call(native::SM2_KEY_PAIR_GEN);
    let always = new().flag(CKA_SIGN, true).flag(CKA_ALWAYS_AUTHENTICATE, true);
    let shown = always.clone().flag(CKA_PRIVATE, false);
    let refused = card.module.generate_pair(session, &call, &new(), &shown);
    assert_eq!(refused, Err(CKR_TEMPLATE_INCONSISTENT));
    let open = always.flag(CKA_SENSITIVE, false).flag(CKA_EXTRACTABLE, true);
    let [_, open] = card.module.generate_pair(session, &call, &new(), &open).unwrap();
    let show = new().flag(CKA_PRIVATE, false);
    let refused = card.module.copy_object(session, open, &show);
    assert_eq!(refused, Err(CKR_TEMPLATE_INCONSISTENT));
}
