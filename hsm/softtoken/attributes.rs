//! What is known of each attribute: its form, which objects have it, and when a client may give it.
//!
//! PKCS#11 2.40 tables 10 to 35 with their footnotes; footnote numbers stand where they apply.

use cryptoki_sys::*;

use crate::answer::{Answer, ulong};

/// Largest value of one attribute, bytes.
pub(crate) const VALUE_BYTES_MAX: usize = 64 * 1024;

/// The form of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `CK_BBOOL`.
    Flag,
    /// `CK_ULONG`.
    Number,
    /// `CK_DATE` or nothing.
    Date,
    /// Bytes of any count.
    Bytes,
    /// `CK_ULONG`s of any count.
    Numbers,
}

/// On which occasion a template is handed in; one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// `C_CreateObject`.
    Create = 1,
    /// `C_GenerateKey`, `C_GenerateKeyPair`.
    Generate = 2,
    /// `C_UnwrapKey`.
    Unwrap = 4,
    /// `C_CopyObject`.
    Copy = 8,
    /// `C_SetAttributeValue`.
    Set = 16,
}

const CREATE: u8 = Occasion::Create as u8;
const GENERATE: u8 = Occasion::Generate as u8;
const UNWRAP: u8 = Occasion::Unwrap as u8;
const COPY: u8 = Occasion::Copy as u8;
const SET: u8 = Occasion::Set as u8;
/// When an object comes into being.
const BIRTH: u8 = CREATE | GENERATE | UNWRAP;
/// Footnote 8 and most of table 10.
const ALWAYS: u8 = BIRTH | COPY | SET;
const NEVER: u8 = 0;

const DATA: u8 = 1;
const CERTIFICATE: u8 = 2;
const PUBLIC: u8 = 4;
const PRIVATE: u8 = 8;
const SECRET: u8 = 16;
const ALL: u8 = DATA | CERTIFICATE | KEYS;
const KEYS: u8 = PUBLIC | PRIVATE | SECRET;
const PAIR: u8 = PUBLIC | PRIVATE;
const CLOSED: u8 = PRIVATE | SECRET;

/// One attribute of one group of classes.
#[derive(Debug)]
pub(crate) struct Rule {
    attribute: CK_ATTRIBUTE_TYPE,
    pub(crate) form: Form,
    classes: u8,
    given: u8,
}

const fn rule(attribute: CK_ATTRIBUTE_TYPE, form: Form, classes: u8, given: u8) -> Rule {
    Rule { attribute, form, classes, given }
}

const RULES: &[Rule] = &[
    rule(CKA_CLASS, Form::Number, ALL, BIRTH),
    rule(CKA_TOKEN, Form::Flag, ALL, BIRTH | COPY),
    rule(CKA_PRIVATE, Form::Flag, ALL, BIRTH | COPY),
    rule(CKA_MODIFIABLE, Form::Flag, ALL, BIRTH | COPY),
    rule(CKA_COPYABLE, Form::Flag, ALL, BIRTH | COPY | SET),
    rule(CKA_DESTROYABLE, Form::Flag, ALL, BIRTH | COPY),
    rule(CKA_LABEL, Form::Bytes, ALL, ALWAYS),
    rule(CKA_UNIQUE_ID, Form::Bytes, ALL, NEVER),
    rule(CKA_APPLICATION, Form::Bytes, DATA, ALWAYS),
    rule(CKA_OBJECT_ID, Form::Bytes, DATA, ALWAYS),
    rule(CKA_VALUE, Form::Bytes, DATA, ALWAYS),
    rule(CKA_VALUE, Form::Bytes, CERTIFICATE | CLOSED, CREATE),
    rule(CKA_CERTIFICATE_TYPE, Form::Number, CERTIFICATE, CREATE),
    rule(CKA_CERTIFICATE_CATEGORY, Form::Number, CERTIFICATE, CREATE),
    rule(CKA_CHECK_VALUE, Form::Bytes, CERTIFICATE | SECRET, NEVER),
    rule(CKA_ISSUER, Form::Bytes, CERTIFICATE, ALWAYS),
    rule(CKA_SERIAL_NUMBER, Form::Bytes, CERTIFICATE, ALWAYS),
    rule(CKA_URL, Form::Bytes, CERTIFICATE, CREATE),
    rule(CKA_SUBJECT, Form::Bytes, CERTIFICATE | PAIR, ALWAYS),
    rule(CKA_ID, Form::Bytes, CERTIFICATE | KEYS, ALWAYS),
    rule(CKA_START_DATE, Form::Date, CERTIFICATE | KEYS, ALWAYS),
    rule(CKA_END_DATE, Form::Date, CERTIFICATE | KEYS, ALWAYS),
    // Footnote 10: only the SO may set it to true.
    rule(CKA_TRUSTED, Form::Flag, CERTIFICATE | PUBLIC | SECRET, ALWAYS),
    rule(CKA_KEY_TYPE, Form::Number, KEYS, BIRTH),
    rule(CKA_DERIVE, Form::Flag, KEYS, ALWAYS),
    rule(CKA_LOCAL, Form::Flag, KEYS, NEVER),
    rule(CKA_KEY_GEN_MECHANISM, Form::Number, KEYS, NEVER),
    rule(CKA_ALLOWED_MECHANISMS, Form::Numbers, KEYS, BIRTH),
    rule(CKA_ENCRYPT, Form::Flag, PUBLIC | SECRET, ALWAYS),
    rule(CKA_DECRYPT, Form::Flag, CLOSED, ALWAYS),
    rule(CKA_SIGN, Form::Flag, CLOSED, ALWAYS),
    rule(CKA_SIGN_RECOVER, Form::Flag, PRIVATE, ALWAYS),
    rule(CKA_VERIFY, Form::Flag, PUBLIC | SECRET, ALWAYS),
    rule(CKA_VERIFY_RECOVER, Form::Flag, PUBLIC, ALWAYS),
    rule(CKA_WRAP, Form::Flag, PUBLIC | SECRET, ALWAYS),
    rule(CKA_UNWRAP, Form::Flag, CLOSED, ALWAYS),
    // Footnotes 11 and 12: these two, and the one after the next, go one way.
    rule(CKA_SENSITIVE, Form::Flag, CLOSED, ALWAYS),
    rule(CKA_EXTRACTABLE, Form::Flag, CLOSED, ALWAYS),
    rule(CKA_ALWAYS_SENSITIVE, Form::Flag, CLOSED, NEVER),
    rule(CKA_NEVER_EXTRACTABLE, Form::Flag, CLOSED, NEVER),
    rule(CKA_WRAP_WITH_TRUSTED, Form::Flag, CLOSED, ALWAYS),
    rule(CKA_ALWAYS_AUTHENTICATE, Form::Flag, PRIVATE, BIRTH),
    rule(CKA_EC_PARAMS, Form::Bytes, PAIR, CREATE | GENERATE),
    // Of a private key it is taken to check the pair, and shown where the vendor shows it.
    rule(CKA_EC_POINT, Form::Bytes, PAIR, CREATE),
    rule(CKA_VALUE_LEN, Form::Number, SECRET, GENERATE | UNWRAP),
];

const fn class_bit(class: CK_OBJECT_CLASS) -> u8 {
    match class {
        CKO_DATA => DATA,
        CKO_CERTIFICATE => CERTIFICATE,
        CKO_PUBLIC_KEY => PUBLIC,
        CKO_PRIVATE_KEY => PRIVATE,
        CKO_SECRET_KEY => SECRET,
        _ => 0,
    }
}

/// Whether objects of this class can be made at all.
pub(crate) const fn is_class(class: CK_OBJECT_CLASS) -> bool {
    class_bit(class) != 0
}

/// What is known of an attribute of objects of this class; `None` if they have none such.
pub(crate) fn rule_of(
    class: CK_OBJECT_CLASS,
    attribute: CK_ATTRIBUTE_TYPE,
) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.attribute == attribute && rule.classes & class_bit(class) != 0)
}

/// All flags of this class that a template may leave out, which are then false or as
/// [`crate::object`] says.
pub(crate) fn flags_of(class: CK_OBJECT_CLASS) -> impl Iterator<Item = CK_ATTRIBUTE_TYPE> {
    let has = move |rule: &&Rule| rule.form == Form::Flag && rule.classes & class_bit(class) != 0;
    RULES.iter().filter(has).map(|rule| rule.attribute)
}

impl Rule {
    /// Whether a client may give it on this occasion.
    pub(crate) const fn is_given_on(&self, occasion: Occasion) -> bool {
        self.given & occasion as u8 != 0
    }

    /// Whether the bytes have the form.
    ///
    /// # Errors
    /// `CKR_ATTRIBUTE_VALUE_INVALID`.
    pub(crate) fn check_form(&self, value: &[u8]) -> Answer<()> {
        let good = match self.form {
            Form::Flag => matches!(value, [0 | 1]),
            Form::Number => value.len() == size_of::<CK_ULONG>(),
            Form::Date => matches!(value.len(), 0 | 8),
            Form::Numbers => value.len().is_multiple_of(size_of::<CK_ULONG>()),
            Form::Bytes => true,
        };
        if good && value.len() <= VALUE_BYTES_MAX {
            Ok(())
        } else {
            Err(CKR_ATTRIBUTE_VALUE_INVALID)
        }
    }
}

/// Attributes as a client hands them in: each with its bytes, overwritten when dropped.
#[derive(Clone, Default)]
pub(crate) struct Template(Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>);

impl Drop for Template {
    fn drop(&mut self) {
        for (_, value) in &mut self.0 {
            zeroize::Zeroize::zeroize(value);
        }
    }
}

impl Template {
    /// Adds an attribute.
    pub(crate) fn push(&mut self, attribute: CK_ATTRIBUTE_TYPE, value: &[u8]) {
        self.0.push((attribute, value.to_vec()));
    }

    /// With a flag more.
    #[must_use]
    pub(crate) fn flag(mut self, attribute: CK_ATTRIBUTE_TYPE, value: bool) -> Self {
        self.push(attribute, &[u8::from(value)]);
        self
    }

    /// With a number more.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn number(mut self, attribute: CK_ATTRIBUTE_TYPE, value: CK_ULONG) -> Self {
        self.push(attribute, &value.to_ne_bytes());
        self
    }

    /// With bytes more.
    #[must_use]
    pub(crate) fn bytes(mut self, attribute: CK_ATTRIBUTE_TYPE, value: &[u8]) -> Self {
        self.push(attribute, value);
        self
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (CK_ATTRIBUTE_TYPE, &[u8])> {
        self.0.iter().map(|(attribute, value)| (*attribute, value.as_slice()))
    }

    pub(crate) fn get(&self, attribute: CK_ATTRIBUTE_TYPE) -> Option<&[u8]> {
        self.iter().find(|(known, _)| *known == attribute).map(|(_, value)| value)
    }

    /// A number, if it is there.
    ///
    /// # Errors
    /// `CKR_ATTRIBUTE_VALUE_INVALID` if it is there and no number.
    pub(crate) fn get_number(&self, attribute: CK_ATTRIBUTE_TYPE) -> Answer<Option<CK_ULONG>> {
        self.get(attribute)
            .map(|value| number(value).ok_or(CKR_ATTRIBUTE_VALUE_INVALID))
            .transpose()
    }

    /// Every attribute is one of the class, has its form, may be given now, and is given once.
    ///
    /// # Errors
    /// The return value for the first that is not.
    pub(crate) fn check(&self, class: CK_OBJECT_CLASS, occasion: Occasion) -> Answer<()> {
        for (place, (attribute, value)) in self.iter().enumerate() {
            let rule = rule_of(class, attribute).ok_or(CKR_ATTRIBUTE_TYPE_INVALID)?;
            if !rule.is_given_on(occasion) {
                return Err(CKR_ATTRIBUTE_READ_ONLY);
            }
            rule.check_form(value)?;
            if self.iter().take(place).any(|(earlier, _)| earlier == attribute) {
                return Err(CKR_TEMPLATE_INCONSISTENT);
            }
        }
        Ok(())
    }
}

/// The number that bytes are.
pub(crate) fn number(value: &[u8]) -> Option<CK_ULONG> {
    value.try_into().ok().map(CK_ULONG::from_ne_bytes)
}

/// Bytes of all values, for `C_GetObjectSize`.
pub(crate) fn total<'a>(values: impl Iterator<Item = &'a Vec<u8>>) -> CK_ULONG {
    ulong(values.map(|value| value.len() + size_of::<CK_ATTRIBUTE>()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_class_has_two_rules_for_one_attribute() {
        for (place, rule) in RULES.iter().enumerate() {
            let same = |other: &&Rule| other.attribute == rule.attribute;
            let before = RULES[..place].iter().filter(same);
            assert_eq!(before.filter(|other| other.classes & rule.classes != 0).count(), 0);
        }
    }

    #[test]
    fn templates_are_checked() {
        let check = |template: Template, class, occasion| template.check(class, occasion);
        let new = Template::default;
        let label = new().bytes(CKA_LABEL, b"a");
        assert_eq!(check(label.clone(), CKO_SECRET_KEY, Occasion::Create), Ok(()));
        let twice = label.bytes(CKA_LABEL, b"b");
        let refused = check(twice, CKO_SECRET_KEY, Occasion::Create);
        assert_eq!(refused, Err(CKR_TEMPLATE_INCONSISTENT));
        let local = new().flag(CKA_LOCAL, true);
        let refused = check(local, CKO_SECRET_KEY, Occasion::Generate);
        assert_eq!(refused, Err(CKR_ATTRIBUTE_READ_ONLY));
        let strange = new().bytes(CKA_EC_POINT, b"x");
        let refused = check(strange, CKO_SECRET_KEY, Occasion::Create);
        assert_eq!(refused, Err(CKR_ATTRIBUTE_TYPE_INVALID));
        for value in [&[2][..], &[], &[1, 0]] {
            let refused = check(new().bytes(CKA_SIGN, value), CKO_SECRET_KEY, Occasion::Create);
            assert_eq!(refused, Err(CKR_ATTRIBUTE_VALUE_INVALID), "{value:?}");
        }
        let long = vec![0; VALUE_BYTES_MAX + 1];
        let refused = check(new().bytes(CKA_ID, &long), CKO_SECRET_KEY, Occasion::Create);
        assert_eq!(refused, Err(CKR_ATTRIBUTE_VALUE_INVALID));
        let value = new().bytes(CKA_VALUE, b"x");
        let refused = check(value, CKO_SECRET_KEY, Occasion::Generate);
        assert_eq!(refused, Err(CKR_ATTRIBUTE_READ_ONLY));
    }
}
