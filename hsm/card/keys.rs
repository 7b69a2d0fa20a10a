//! Keys on a token: finding them, judging them, making them.

use cryptoki_sys as ck;
use hufu_crypto::PublicKey;

use crate::pkcs11::{Attribute, AttributeValue, Mechanism, Session};
use crate::profile::{Curve, KeyNaming, Profile};
use crate::{Error, KeyReference, Usage};

/// Objects of one name that are looked at; more is an ambiguous name anyway.
const SAME_NAME_MAX: usize = 4;

/// How a key may leave its card; decided when it is made (facts: certification group E).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyClass {
    /// Never. There is no backup: a lost card is a new key.
    SingleCard,
    /// Only wrapped by a key that the token's officer marked as trusted.
    Cloned,
}

/// A key that was found fit for its use.
#[derive(Clone, Copy, Debug)]
pub struct FoundKey {
    /// Handle of the private or secret key, in this generation of the library.
    pub object: u64,
    /// The public key of a pair, a point of the curve.
    pub public: Option<PublicKey>,
    /// `CKA_ALWAYS_AUTHENTICATE`: the PIN is asked for at each use.
    pub wants_pin: bool,
}

/// Finds the one key of this name and checks that it is fit for `usage`.
///
/// # Errors
/// [`Error::KeyMissing`], [`Error::KeyAmbiguous`], [`Error::KeyUnsuitable`], or the library's.
pub fn find(
    session: &Session,
    profile: &Profile,
    key: &KeyReference,
    usage: Usage,
) -> Result<FoundKey, Error> {
    let class = match usage {
        Usage::Sign | Usage::Decrypt => ck::CKO_PRIVATE_KEY,
        Usage::Wrap => ck::CKO_SECRET_KEY,
    };
    let object = find_one(session, profile, key, class)?;
    let wants_pin = judge(session, profile, key, usage, object)?;
    let public = match usage {
        Usage::Sign | Usage::Decrypt => Some(public_key(session, profile, key, object)?),
        Usage::Wrap => None,
    };
    Ok(FoundKey { object, public, wants_pin })
}

/// The attribute by which this card's keys are told apart.
fn name_attribute(profile: &Profile, key: &KeyReference) -> Result<Attribute, Error> {
    let unsuitable = |reason: &str| Error::KeyUnsuitable {
        key: key.clone(),
        reason: format!("profile {} tells keys apart {reason}", profile.name),
    };
    match (profile.quirks.key_naming, key) {
        (KeyNaming::Attributes, KeyReference::Label(label)) => {
            Ok(Attribute::text(ck::CKA_LABEL, label))
        }
        (KeyNaming::Attributes, KeyReference::Id(id)) => Ok(Attribute::bytes(ck::CKA_ID, id)),
        (KeyNaming::IndexLittleEndian, KeyReference::Index(index)) => {
            Ok(Attribute::bytes(ck::CKA_ID, &index.to_le_bytes()))
        }
        (KeyNaming::IndexBigEndian, KeyReference::Index(index)) => {
            Ok(Attribute::bytes(ck::CKA_ID, &index.to_be_bytes()))
        }
        (KeyNaming::IndexText, KeyReference::Index(index)) => {
            Ok(Attribute::text(ck::CKA_LABEL, &index.to_string()))
        }
        (KeyNaming::Attributes, KeyReference::Index(_)) => Err(unsuitable("by label or id")),
        (_, KeyReference::Label(_) | KeyReference::Id(_)) => Err(unsuitable("by index")),
    }
}

fn find_one(
    session: &Session,
    profile: &Profile,
    key: &KeyReference,
    class: u64,
) -> Result<u64, Error> {
    let template = [
        Attribute::number(ck::CKA_CLASS, class),
        Attribute::bool(ck::CKA_TOKEN, true),
        name_attribute(profile, key)?,
    ];
    match session.find(&template, SAME_NAME_MAX)?.as_slice() {
        [object] => Ok(*object),
        [] => Err(Error::KeyMissing { key: key.clone() }),
        several => Err(Error::KeyAmbiguous { key: key.clone(), count: several.len() }),
    }
}

/// Whether the key is of the right kind, may do what it is for, and cannot be carried off. What a
/// token does not tell is not held against it. True if the key asks for the PIN at each use.
fn judge(
    session: &Session,
    profile: &Profile,
    key: &KeyReference,
    usage: Usage,
    object: u64,
) -> Result<bool, Error> {
    let unsuitable = |reason: String| Error::KeyUnsuitable { key: key.clone(), reason };
    let (key_type, uses): (u64, &[(u64, &str)]) = match usage {
        Usage::Sign => (profile.sm2.key_type, &[(ck::CKA_SIGN, "CKA_SIGN")]),
        Usage::Decrypt => (profile.sm2.key_type, &[(ck::CKA_DECRYPT, "CKA_DECRYPT")]),
        Usage::Wrap => {
            let sm4 = profile
                .sm4
                .as_ref()
                .ok_or_else(|| unsuitable(format!("profile {} has no SM4", profile.name)))?;
            (sm4.key_type, &[(ck::CKA_ENCRYPT, "CKA_ENCRYPT"), (ck::CKA_DECRYPT, "CKA_DECRYPT")])
        }
    };
    let kinds = [
        ck::CKA_KEY_TYPE,
        ck::CKA_SENSITIVE,
        ck::CKA_EXTRACTABLE,
        ck::CKA_WRAP_WITH_TRUSTED,
        ck::CKA_ALWAYS_AUTHENTICATE,
    ];
    let values = session.attributes(object, &kinds)?;
    let [found_type, sensitive, extractable, trusted, always] = values.as_slice() else {
        return Err(Error::AnswerMalformed { what: "attributes", reason: "too few".to_owned() });
    };
    if let Some(found) = found_type.number()
        && found != key_type
    {
        return Err(unsuitable(format!("its CKA_KEY_TYPE is {found:#x}, expected {key_type:#x}")));
    }
    if sensitive.bool() == Some(false) {
        return Err(unsuitable("it is not sensitive: anybody logged in may read it".to_owned()));
    }
    if extractable.bool() == Some(true) && trusted.bool() != Some(true) {
        let reason = "it is extractable: any wrapping key carries it off (CKA_WRAP_WITH_TRUSTED \
                      is not set)";
        return Err(unsuitable(reason.to_owned()));
    }
    for (kind, name) in uses {
        if session.attributes(object, &[*kind])?.first().and_then(AttributeValue::bool)
            == Some(false)
        {
            return Err(unsuitable(format!("its {name} is false")));
        }
    }
    Ok(always.bool() == Some(true))
}

/// The public key of the pair whose private key is `private`: from the private key if the card
/// keeps it there, else from the public key of the same name.
fn public_key(
    session: &Session,
    profile: &Profile,
    key: &KeyReference,
    private: u64,
) -> Result<PublicKey, Error> {
    let object = if profile.sm2.private_key_has_point {
        private
    } else {
        find_one(session, profile, key, ck::CKO_PUBLIC_KEY)?
    };
    read_point(session, profile, object)
}

fn read_point(session: &Session, profile: &Profile, object: u64) -> Result<PublicKey, Error> {
    let sm2 = &profile.sm2;
    let kinds: Vec<u64> = std::iter::once(sm2.point_attribute.unwrap_or(ck::CKA_EC_POINT))
        .chain(sm2.point_y_attribute)
        .collect();
    let mut point = Vec::with_capacity(128);
    for (kind, value) in kinds.iter().zip(session.attributes(object, &kinds)?) {
        let Some(bytes) = value.bytes() else {
            let reason = format!("attribute {kind:#x} is not told");
            return Err(Error::AnswerMalformed { what: "public key", reason });
        };
        point.extend_from_slice(bytes);
    }
    sm2.point_form.read(&point)
}

/// Makes an SM2 pair that stays on the token, named `label` and `id`, for one use, and checks what
/// the card made of it. A pair that is not as asked for is destroyed.
///
/// # Errors
/// [`Error::KeyUnsuitable`] if the card made another key than asked for, or `usage` has no pair, or
/// the library's.
pub fn generate_pair(
    session: &Session,
    profile: &Profile,
    mechanism: u64,
    name: &KeyName<'_>,
    usage: Usage,
    class: KeyClass,
) -> Result<FoundKey, Error> {
    let (uses, checks) = match usage {
        Usage::Sign => (ck::CKA_SIGN, ck::CKA_VERIFY),
        Usage::Decrypt => (ck::CKA_DECRYPT, ck::CKA_ENCRYPT),
        Usage::Wrap => {
            let reason = "a wrapping key is no pair".to_owned();
            return Err(Error::KeyUnsuitable { key: name.reference(), reason });
        }
    };
    let mut public = name.common(ck::CKO_PUBLIC_KEY, profile.sm2.key_type);
    public.push(Attribute::bool(checks, true));
    if profile.sm2.curve == Curve::Oid {
        public.push(Attribute::bytes(ck::CKA_EC_PARAMS, &Curve::OID_DER));
    }
    let mut private = name.common(ck::CKO_PRIVATE_KEY, profile.sm2.key_type);
    private.push(Attribute::bool(uses, true));
    private.extend(guarded(class));
    let (public, private) =
        session.generate_key_pair(&Mechanism::bare(mechanism), &public, &private)?;
    let made = check_made(session, name, private, class).and_then(|()| {
        let point = if profile.sm2.private_key_has_point { private } else { public };
        read_point(session, profile, point)
    });
    match made {
        Ok(public) => Ok(FoundKey { object: private, public: Some(public), wants_pin: false }),
        Err(error) => {
            // The first error is the one to tell; a key that cannot be destroyed stays unused.
            session.destroy_object(private).ok();
            session.destroy_object(public).ok();
            Err(error)
        }
    }
}

/// Makes an SM4 key that wraps data keys and never leaves the token.
///
/// # Errors
/// As [`generate_pair`], and [`Error::KeyUnsuitable`] without SM4 in the profile.
pub fn generate_wrapping_key(
    session: &Session,
    profile: &Profile,
    name: &KeyName<'_>,
    class: KeyClass,
) -> Result<FoundKey, Error> {
    let Some(sm4) = profile.sm4.as_ref() else {
        let reason = format!("profile {} has no SM4", profile.name);
        return Err(Error::KeyUnsuitable { key: name.reference(), reason });
    };
    let mut template = name.common(ck::CKO_SECRET_KEY, sm4.key_type);
    template.push(Attribute::bool(ck::CKA_ENCRYPT, true));
    template.push(Attribute::bool(ck::CKA_DECRYPT, true));
    template.extend(guarded(class));
    if sm4.generate_with_length {
        template.push(Attribute::number(ck::CKA_VALUE_LEN, 16));
    }
    let object = session.generate_key(&Mechanism::bare(sm4.generate), &template)?;
    if let Err(error) = check_made(session, name, object, class) {
        session.destroy_object(object).ok();
        return Err(error);
    }
    Ok(FoundKey { object, public: None, wants_pin: false })
}

/// Label and id under which a new key will be found by `reference` on this profile's cards.
///
/// # Errors
/// [`Error::KeyUnsuitable`] if they tell keys apart in another way.
pub fn name_of(profile: &Profile, reference: &KeyReference) -> Result<(String, Vec<u8>), Error> {
    let unsuitable = |way: &str| {
        let reason = format!("profile {} tells keys apart {way}", profile.name);
        Err(Error::KeyUnsuitable { key: reference.clone(), reason })
    };
    match (profile.quirks.key_naming, reference) {
        (KeyNaming::Attributes, KeyReference::Label(label)) => {
            Ok((label.clone(), label.as_bytes().to_vec()))
        }
        (KeyNaming::Attributes, KeyReference::Id(id)) => {
            Ok((id.iter().map(|byte| format!("{byte:02x}")).collect(), id.clone()))
        }
        (KeyNaming::Attributes, KeyReference::Index(_)) => unsuitable("by object or id"),
        (KeyNaming::IndexBigEndian, KeyReference::Index(index)) => {
            Ok((index.to_string(), index.to_be_bytes().to_vec()))
        }
        (_, KeyReference::Index(index)) => Ok((index.to_string(), index.to_le_bytes().to_vec())),
        (_, _) => unsuitable("by x-index"),
    }
}

/// What an SM2 pair or a wrapping key that comes in wrapped is to be.
///
/// # Errors
/// [`Error::KeyUnsuitable`] without SM4 in the profile.
pub(crate) fn template_of_unwrapped(
    profile: &Profile,
    name: &KeyName<'_>,
    usage: Usage,
    class: KeyClass,
) -> Result<Vec<Attribute>, Error> {
    let (object_class, key_type, uses): (u64, u64, &[u64]) = match usage {
        Usage::Sign => (ck::CKO_PRIVATE_KEY, profile.sm2.key_type, &[ck::CKA_SIGN]),
        Usage::Decrypt => (ck::CKO_PRIVATE_KEY, profile.sm2.key_type, &[ck::CKA_DECRYPT]),
        Usage::Wrap => {
            let reason = format!("profile {} has no SM4", profile.name);
            let none = Error::KeyUnsuitable { key: name.reference(), reason };
            let key_type = profile.sm4.as_ref().ok_or(none)?.key_type;
            (ck::CKO_SECRET_KEY, key_type, &[ck::CKA_ENCRYPT, ck::CKA_DECRYPT])
        }
    };
    let mut template = name.common(object_class, key_type);
    template.extend(uses.iter().map(|usage| Attribute::bool(*usage, true)));
    template.extend(guarded(class));
    Ok(template)
}

/// What the public half of a pair that comes in is.
pub(crate) fn template_of_public(
    profile: &Profile,
    name: &KeyName<'_>,
    usage: Usage,
    public: &PublicKey,
) -> Vec<Attribute> {
    let sm2 = &profile.sm2;
    let checks = if usage == Usage::Sign { ck::CKA_VERIFY } else { ck::CKA_ENCRYPT };
    let mut template = name.common(ck::CKO_PUBLIC_KEY, sm2.key_type);
    template.push(Attribute::bool(checks, true));
    if sm2.curve == Curve::Oid {
        template.push(Attribute::bytes(ck::CKA_EC_PARAMS, &Curve::OID_DER));
    }
    let point = sm2.point_form.write(public);
    let kind = sm2.point_attribute.unwrap_or(ck::CKA_EC_POINT);
    match (sm2.point_y_attribute, point.split_at_checked(point.len() / 2)) {
        (Some(y_kind), Some((x, y))) => {
            template.extend([Attribute::bytes(kind, x), Attribute::bytes(y_kind, y)]);
        }
        _ => template.push(Attribute::bytes(kind, &point)),
    }
    template
}

/// What a new key is called.
#[derive(Clone, Copy, Debug)]
pub struct KeyName<'a> {
    /// `CKA_LABEL`.
    pub label: &'a str,
    /// `CKA_ID`.
    pub id: &'a [u8],
    /// Whether it is kept on the token; else it goes with the session.
    pub is_kept: bool,
}

impl KeyName<'_> {
    /// What every key begins with.
    fn common(&self, class: u64, key_type: u64) -> Vec<Attribute> {
        vec![
            Attribute::number(ck::CKA_CLASS, class),
            Attribute::number(ck::CKA_KEY_TYPE, key_type),
            Attribute::bool(ck::CKA_TOKEN, self.is_kept),
            Attribute::text(ck::CKA_LABEL, self.label),
            Attribute::bytes(ck::CKA_ID, self.id),
        ]
    }

    fn reference(&self) -> KeyReference {
        KeyReference::Label(self.label.to_owned())
    }
}

/// Attributes that keep a secret where it is.
fn guarded(class: KeyClass) -> Vec<Attribute> {
    let mut attributes =
        vec![Attribute::bool(ck::CKA_PRIVATE, true), Attribute::bool(ck::CKA_SENSITIVE, true)];
    match class {
        KeyClass::SingleCard => attributes.push(Attribute::bool(ck::CKA_EXTRACTABLE, false)),
        KeyClass::Cloned => attributes.extend([
            Attribute::bool(ck::CKA_EXTRACTABLE, true),
            Attribute::bool(ck::CKA_WRAP_WITH_TRUSTED, true),
        ]),
    }
    attributes
}

/// Whether the card made the key as asked: on the card, sensitive since, and as unable to leave.
fn check_made(
    session: &Session,
    name: &KeyName<'_>,
    object: u64,
    class: KeyClass,
) -> Result<(), Error> {
    let mut wanted = vec![
        (ck::CKA_LOCAL, "CKA_LOCAL", true),
        (ck::CKA_SENSITIVE, "CKA_SENSITIVE", true),
        (ck::CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", true),
        (ck::CKA_PRIVATE, "CKA_PRIVATE", true),
    ];
    match class {
        KeyClass::SingleCard => wanted.extend([
            (ck::CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false),
            (ck::CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", true),
        ]),
        KeyClass::Cloned => {
            wanted.push((ck::CKA_WRAP_WITH_TRUSTED, "CKA_WRAP_WITH_TRUSTED", true));
        }
    }
    for (kind, attribute, value) in wanted {
        let found = session.attributes(object, &[kind])?;
        if found.first().and_then(AttributeValue::bool) == Some(!value) {
            let reason = format!("the card made it with {attribute} = {}", !value);
            return Err(Error::KeyUnsuitable { key: name.reference(), reason });
        }
    }
    Ok(())
}
