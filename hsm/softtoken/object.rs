//! Objects: their attributes, who may read and change them, and what keeps a sensitive key in.
//!
//! ```text
//! Template --born--> Object --read--> client     sensitive values never
//!                     '----changed--> Object     one way only where PKCS#11 says so, and stricter
//! ```
//!
//! Beyond PKCS#11, against the known ways to get at a sensitive key through attributes (Bortolozzo,
//! Centenaro, Focardi, Steel: "Attacking and Fixing PKCS#11 Security Tokens", 2010): a sensitive
//! symmetric key is one for keys or one for data; its usages are only ever taken away; what is
//! unwrapped is sensitive, and leaves again under trusted keys only.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use cryptoki_sys::*;
use zeroize::Zeroize;

use crate::answer::Answer;
use crate::attributes::{Form, Occasion, Template, flags_of, number, rule_of, total};
use crate::imitations::Dialect;
use crate::keys::{Prepared, prepare};

/// A value of each attribute the object has, in our own codes and forms.
type Attributes = BTreeMap<CK_ATTRIBUTE_TYPE, Vec<u8>>;

/// One object. Never changed: a change makes another, so that an operation goes on with the key it
/// began with.
pub(crate) struct Object {
    attributes: Attributes,
    prepared: OnceLock<Answer<Arc<Prepared>>>,
}

impl Drop for Object {
    fn drop(&mut self) {
        self.attributes.values_mut().for_each(Zeroize::zeroize);
    }
}

/// Usages that a sensitive key never gains.
const USAGES: [CK_ATTRIBUTE_TYPE; 8] = [
    CKA_ENCRYPT,
    CKA_DECRYPT,
    CKA_SIGN,
    CKA_SIGN_RECOVER,
    CKA_VERIFY,
    CKA_WRAP,
    CKA_UNWRAP,
    CKA_DERIVE,
];

impl Object {
    /// The object with these attributes, which were checked before.
    pub(crate) const fn new(attributes: Attributes) -> Self {
        Self { attributes, prepared: OnceLock::new() }
    }

    /// A new object from a client's template, with everything it leaves out.
    ///
    /// # Errors
    /// What is wrong with the template.
    pub(crate) fn born(
        template: &Template,
        class: CK_OBJECT_CLASS,
        occasion: Occasion,
    ) -> Answer<Self> {
        template.check(class, occasion)?;
        let mut object = Self::new(Attributes::new());
        for attribute in flags_of(class) {
            object.set_flag(attribute, flag_by_default(class, attribute));
        }
        for empty in [CKA_LABEL, CKA_ID, CKA_SUBJECT, CKA_START_DATE, CKA_END_DATE] {
            if rule_of(class, empty).is_some() {
                object.set(empty, &[]);
            }
        }
        object.set(CKA_CLASS, &class.to_ne_bytes());
        for (attribute, value) in template.iter() {
            if attribute == CKA_CLASS && number(value) != Some(class) {
                return Err(CKR_TEMPLATE_INCONSISTENT);
            }
            object.set(attribute, value);
        }
        if matches!(class, CKO_PRIVATE_KEY | CKO_SECRET_KEY | CKO_PUBLIC_KEY) {
            let made_here = occasion == Occasion::Generate;
            object.set_flag(CKA_LOCAL, made_here);
            let mechanism = CK_UNAVAILABLE_INFORMATION;
            object.set(CKA_KEY_GEN_MECHANISM, &mechanism.to_ne_bytes());
        }
        if matches!(class, CKO_PRIVATE_KEY | CKO_SECRET_KEY) {
            // Unwrapped keys are sensitive, and leave under trusted keys only: else whoever has a
            // wrapped key unwraps it to read it, or to wrap it with a key that he knows.
            let stays = !object.flag(CKA_EXTRACTABLE) || object.flag(CKA_WRAP_WITH_TRUSTED);
            if occasion == Occasion::Unwrap && !(object.flag(CKA_SENSITIVE) && stays) {
                return Err(CKR_TEMPLATE_INCONSISTENT);
            }
            let made_here = occasion == Occasion::Generate;
            object.set_flag(CKA_ALWAYS_SENSITIVE, made_here && object.flag(CKA_SENSITIVE));
            object.set_flag(CKA_NEVER_EXTRACTABLE, made_here && !object.flag(CKA_EXTRACTABLE));
        }
        object.check_together()?;
        Ok(object)
    }

    /// What may not go together.
    fn check_together(&self) -> Answer<()> {
        let any = |flags: &[_]| flags.iter().any(|flag| self.flag(*flag));
        // With both, a key tells others: it decrypts what it or its like has wrapped, encrypts what
        // then comes in as a key, or makes, as a MAC of one block, the stream a key was wrapped in.
        let both = any(&[CKA_WRAP, CKA_UNWRAP]) && any(&[CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN]);
        let closed = any(&[CKA_SENSITIVE, CKA_TRUSTED]) && self.class() == CKO_SECRET_KEY;
        // PKCS#11 2.40 4.9: only private keys that are private want a PIN for each use.
        let shown = self.flag(CKA_ALWAYS_AUTHENTICATE) && !self.flag(CKA_PRIVATE);
        if closed && both || shown { Err(CKR_TEMPLATE_INCONSISTENT) } else { Ok(()) }
    }

    /// Sets an attribute while the object is being made.
    pub(crate) fn set(&mut self, attribute: CK_ATTRIBUTE_TYPE, value: &[u8]) {
        if let Some(mut before) = self.attributes.insert(attribute, value.to_vec()) {
            before.zeroize();
        }
    }

    /// Sets a flag while the object is being made.
    pub(crate) fn set_flag(&mut self, attribute: CK_ATTRIBUTE_TYPE, value: bool) {
        self.set(attribute, &[u8::from(value)]);
    }

    /// A copy with the attributes of a template changed (`C_CopyObject`, `C_SetAttributeValue`).
    ///
    /// # Errors
    /// What may not be changed, or not in this direction.
    pub(crate) fn changed(
        &self,
        template: &Template,
        occasion: Occasion,
        is_so: bool,
    ) -> Answer<Self> {
        template.check(self.class(), occasion)?;
        let allowed = match occasion {
            Occasion::Copy => CKA_COPYABLE,
            _ => CKA_MODIFIABLE,
        };
        if !self.flag(allowed) {
            return Err(CKR_ACTION_PROHIBITED);
        }
        let mut changed = Self::new(self.attributes.clone());
        for (attribute, value) in template.iter() {
            self.check_direction(attribute, value, is_so)?;
            changed.set(attribute, value);
        }
        changed.check_together()?;
        Ok(changed)
    }

    fn check_direction(&self, attribute: CK_ATTRIBUTE_TYPE, value: &[u8], so: bool) -> Answer<()> {
        let to = value == [CK_TRUE];
        let from = self.flag(attribute);
        let sensitive = self.flag(CKA_SENSITIVE);
        match attribute {
            CKA_SENSITIVE | CKA_WRAP_WITH_TRUSTED if from && !to => Err(CKR_ATTRIBUTE_READ_ONLY),
            CKA_EXTRACTABLE | CKA_COPYABLE if !from && to => Err(CKR_ATTRIBUTE_READ_ONLY),
            // A private object may not become one that everybody sees.
            CKA_PRIVATE if from && !to && sensitive => Err(CKR_TEMPLATE_INCONSISTENT),
            CKA_TRUSTED if to && !so => Err(CKR_ATTRIBUTE_READ_ONLY),
            usage if USAGES.contains(&usage) && sensitive && !from && to => {
                Err(CKR_ATTRIBUTE_READ_ONLY)
            }
            _ => Ok(()),
        }
    }

    /// Whether it needs a login to be read from the disk: it is private, or holds a secret.
    pub(crate) fn is_closed(&self) -> bool {
        self.flag(CKA_PRIVATE) || matches!(self.class(), CKO_PRIVATE_KEY | CKO_SECRET_KEY)
    }

    /// A value as it is stored.
    pub(crate) fn get(&self, attribute: CK_ATTRIBUTE_TYPE) -> Option<&[u8]> {
        self.attributes.get(&attribute).map(Vec::as_slice)
    }

    /// A number as it is stored.
    pub(crate) fn get_number(&self, attribute: CK_ATTRIBUTE_TYPE) -> Option<CK_ULONG> {
        self.get(attribute).and_then(number)
    }

    /// Whether the flag is there and true.
    pub(crate) fn flag(&self, attribute: CK_ATTRIBUTE_TYPE) -> bool {
        self.get(attribute) == Some(&[CK_TRUE])
    }

    /// `CKA_CLASS`.
    pub(crate) fn class(&self) -> CK_OBJECT_CLASS {
        self.get_number(CKA_CLASS).unwrap_or(CK_OBJECT_CLASS::MAX)
    }

    /// `CKA_KEY_TYPE`, in our own code.
    pub(crate) fn key_type(&self) -> CK_KEY_TYPE {
        self.get_number(CKA_KEY_TYPE).unwrap_or(CK_KEY_TYPE::MAX)
    }

    /// The key, ready to compute with; made when it is first asked for.
    ///
    /// # Errors
    /// If the object is no key, or its value is none.
    pub(crate) fn prepared(&self) -> Answer<Arc<Prepared>> {
        self.prepared.get_or_init(|| prepare(self).map(Arc::new)).clone()
    }

    /// A value as a client of this vendor's library sees it.
    ///
    /// # Errors
    /// `CKR_ATTRIBUTE_TYPE_INVALID`, `CKR_ATTRIBUTE_SENSITIVE`.
    pub(crate) fn read(&self, attribute: CK_ATTRIBUTE_TYPE, dialect: &Dialect) -> Answer<Vec<u8>> {
        let class = self.class();
        rule_of(class, attribute).ok_or(CKR_ATTRIBUTE_TYPE_INVALID)?;
        let closed = matches!(class, CKO_PRIVATE_KEY | CKO_SECRET_KEY)
            && (self.flag(CKA_SENSITIVE) || !self.flag(CKA_EXTRACTABLE));
        if attribute == CKA_VALUE && closed {
            return Err(CKR_ATTRIBUTE_SENSITIVE);
        }
        if attribute == CKA_EC_POINT && class == CKO_PRIVATE_KEY && !dialect.private_has_point {
            return Err(CKR_ATTRIBUTE_TYPE_INVALID);
        }
        let value = self.get(attribute).ok_or(CKR_ATTRIBUTE_TYPE_INVALID)?;
        Ok(match attribute {
            CKA_KEY_TYPE => dialect.key_type_out(self.key_type()).to_ne_bytes().to_vec(),
            CKA_EC_POINT if self.key_type() == crate::imitations::native::KEY_SM2 => {
                dialect.point_out(value).to_vec()
            }
            _ => value.to_vec(),
        })
    }

    /// Whether every attribute of the template is one of this object, with this value. What may not
    /// be read matches nothing.
    pub(crate) fn matches(&self, template: &Template, dialect: &Dialect) -> bool {
        template.iter().all(|(attribute, wanted)| {
            self.read(attribute, dialect).is_ok_and(|found| found == wanted)
        })
    }

    /// Bytes it takes, more or less, as PKCS#11 asks.
    pub(crate) fn total(&self) -> CK_ULONG {
        total(self.attributes.values())
    }

    /// As it is stored: type, length and value of each attribute, little-endian.
    pub(crate) fn to_bytes(&self) -> zeroize::Zeroizing<Vec<u8>> {
        let size = self.attributes.values().map(|value| value.len() + 16).sum();
        // No byte of it is left behind by growth.
        let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(size));
        for (attribute, value) in &self.attributes {
            bytes.extend_from_slice(&attribute.to_le_bytes());
            bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
            bytes.extend_from_slice(value);
        }
        bytes
    }

    /// Reads what [`Object::to_bytes`] wrote; `None` for anything else.
    pub(crate) fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let mut object = Self::new(Attributes::new());
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at_checked(16)?;
            let (attribute, length) = head.split_at(8);
            let attribute = u64::from_le_bytes(attribute.try_into().ok()?);
            let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
            let (value, rest) = rest.split_at_checked(length)?;
            object.set(attribute, value);
            bytes = rest;
        }
        let class = object.class();
        let known = |(attribute, value): (&CK_ATTRIBUTE_TYPE, &Vec<u8>)| {
            rule_of(class, *attribute).is_some_and(|rule| rule.check_form(value).is_ok())
        };
        object.attributes.iter().all(known).then_some(object)
    }
}

/// What a flag is if the template does not say. Keys are private, sensitive and stay in;
/// uses are asked for.
fn flag_by_default(class: CK_OBJECT_CLASS, attribute: CK_ATTRIBUTE_TYPE) -> bool {
    debug_assert!(rule_of(class, attribute).is_some_and(|rule| rule.form == Form::Flag));
    match attribute {
        CKA_MODIFIABLE | CKA_COPYABLE | CKA_DESTROYABLE | CKA_SENSITIVE => true,
        CKA_PRIVATE => matches!(class, CKO_PRIVATE_KEY | CKO_SECRET_KEY),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imitations::by_name;

    fn secret(template: Template) -> Answer<Object> {
        let template =
            template.number(CKA_KEY_TYPE, CKK_GENERIC_SECRET).bytes(CKA_VALUE, b"0123456789abcdef");
        Object::born(&template, CKO_SECRET_KEY, Occasion::Create)
    }

    #[test]
    fn a_sensitive_value_is_not_read_and_not_found() {
        let native = by_name("native").unwrap();
        let value = Template::default().bytes(CKA_VALUE, b"0123456789abcdef");
        for (sensitive, extractable) in [(true, true), (true, false), (false, false)] {
            let template = Template::default()
                .flag(CKA_SENSITIVE, sensitive)
                .flag(CKA_EXTRACTABLE, extractable);
            let object = secret(template).unwrap();
            assert_eq!(object.read(CKA_VALUE, native), Err(CKR_ATTRIBUTE_SENSITIVE));
            assert!(!object.matches(&value, native));
        }
        let open = Template::default().flag(CKA_SENSITIVE, false).flag(CKA_EXTRACTABLE, true);
        let open = secret(open).unwrap();
        assert_eq!(open.read(CKA_VALUE, native).unwrap(), b"0123456789abcdef");
        assert!(open.matches(&value, native));
    }

    #[test]
    fn attributes_go_one_way() {
        let closed = secret(Template::default()).unwrap();
        let refused = [
            (CKA_SENSITIVE, false, CKR_ATTRIBUTE_READ_ONLY),
            (CKA_EXTRACTABLE, true, CKR_ATTRIBUTE_READ_ONLY),
            (CKA_DECRYPT, true, CKR_ATTRIBUTE_READ_ONLY),
            (CKA_WRAP, true, CKR_ATTRIBUTE_READ_ONLY),
            (CKA_TRUSTED, true, CKR_ATTRIBUTE_READ_ONLY),
            (CKA_LOCAL, true, CKR_ATTRIBUTE_READ_ONLY),
        ];
        for occasion in [Occasion::Set, Occasion::Copy] {
            for (attribute, value, wanted) in refused {
                let template = Template::default().flag(attribute, value);
                let found = closed.changed(&template, occasion, false).err();
                assert_eq!(found, Some(wanted), "{attribute:#x} on {occasion:?}");
            }
        }
        let trusted = Template::default().flag(CKA_TRUSTED, true);
        assert!(closed.changed(&trusted, Occasion::Set, true).unwrap().flag(CKA_TRUSTED));
        let open = Template::default().flag(CKA_SENSITIVE, false).flag(CKA_EXTRACTABLE, true);
        let open = secret(open).unwrap();
        let close = Template::default().flag(CKA_SENSITIVE, true).flag(CKA_EXTRACTABLE, false);
        let closed = open.changed(&close, Occasion::Set, false).unwrap();
        assert!(closed.flag(CKA_SENSITIVE) && !closed.flag(CKA_EXTRACTABLE));
        assert!(!closed.flag(CKA_ALWAYS_SENSITIVE) && !closed.flag(CKA_NEVER_EXTRACTABLE));
    }

    #[test]
    fn no_key_tells_another() {
        for (one, other) in [(CKA_WRAP, CKA_DECRYPT), (CKA_UNWRAP, CKA_DECRYPT)] {
            let both = Template::default().flag(one, true).flag(other, true);
            assert_eq!(secret(both).err(), Some(CKR_TEMPLATE_INCONSISTENT));
        }
        let pair = Template::default().flag(CKA_WRAP, true).flag(CKA_UNWRAP, true);
        assert!(secret(pair).is_ok());
        let clear = Template::default().flag(CKA_SENSITIVE, false);
        let refused = Object::born(&clear, CKO_SECRET_KEY, Occasion::Unwrap).err();
        assert_eq!(refused, Some(CKR_TEMPLATE_INCONSISTENT));
    }

    #[test]
    fn what_is_locked_stays() {
        let fixed = secret(Template::default().flag(CKA_MODIFIABLE, false)).unwrap();
        let label = Template::default().bytes(CKA_LABEL, b"x");
        let refused = fixed.changed(&label, Occasion::Set, false).err();
        assert_eq!(refused, Some(CKR_ACTION_PROHIBITED));
        assert!(fixed.changed(&label, Occasion::Copy, false).is_ok());
        let single = secret(Template::default().flag(CKA_COPYABLE, false)).unwrap();
        assert_eq!(
            single.changed(&label, Occasion::Copy, false).err(),
            Some(CKR_ACTION_PROHIBITED)
        );
        assert!(single.changed(&label, Occasion::Set, false).is_ok());
    }

    #[test]
    fn bytes_and_back() {
        let object = secret(Template::default().bytes(CKA_LABEL, b"name")).unwrap();
        let bytes = object.to_bytes();
        let read = Object::from_bytes(&bytes).unwrap();
        assert_eq!(read.attributes, object.attributes);
        for cut in [1, 15, 17, bytes.len() - 1] {
            assert!(Object::from_bytes(&bytes[..cut]).is_none(), "{cut}");
        }
        let mut strange = bytes.to_vec();
        strange[1] = 0x77;
        assert!(Object::from_bytes(&strange).is_none());
    }
}
