//! Keys made, brought in and taken out.

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::operations::{Given, allows, key_type_of};
use super::{Module, Slot};
use crate::answer::{Answer, size};
use crate::attributes::{Occasion, Template, is_class};
use crate::imitations::native::{KEY_SM2, KEY_SM4};
use crate::imitations::{Algorithm, Mode, Secret};
use crate::keys::{P256_CURVE, SM2_CURVE, complete, from_pkcs8, pkcs8, secret_size_is_right};
use crate::mechanisms::{Call, Parameter, generate, wrap};
use crate::object::Object;
use crate::slot::Found;

const KEY_CLASSES: [CK_OBJECT_CLASS; 3] = [CKO_PUBLIC_KEY, CKO_PRIVATE_KEY, CKO_SECRET_KEY];

/// The class and the key type follow from the mechanism; a template may repeat them.
fn born(
    template: &Template,
    class: CK_OBJECT_CLASS,
    key_type: CK_KEY_TYPE,
    occasion: Occasion,
) -> Answer<Object> {
    let given = template.get_number(CKA_KEY_TYPE)?;
    if given.is_some_and(|given| given != key_type) {
        return Err(CKR_TEMPLATE_INCONSISTENT);
    }
    let mut object = Object::born(template, class, occasion)?;
    object.set(CKA_KEY_TYPE, &key_type.to_ne_bytes());
    Ok(object)
}

fn no_parameter(call: &Call) -> Answer<()> {
    if call.parameter == Parameter::None { Ok(()) } else { Err(CKR_MECHANISM_PARAM_INVALID) }
}

/// How a new key says that it was made here.
fn mark(object: &mut Object, call: &Call) {
    object.set(CKA_KEY_GEN_MECHANISM, &call.code.to_ne_bytes());
}

impl Module {
    /// `C_CreateObject`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn create_object(
        &self,
        session: CK_SESSION_HANDLE,
        template: &Template,
    ) -> Answer<CK_OBJECT_HANDLE> {
        let (session, slot) = self.session(session)?;
        let template = self.localised(template)?;
        let class = template.get_number(CKA_CLASS)?.ok_or(CKR_TEMPLATE_INCOMPLETE)?;
        if !is_class(class) {
            return Err(CKR_ATTRIBUTE_VALUE_INVALID);
        }
        let mut object = Object::born(&template, class, Occasion::Create)?;
        if KEY_CLASSES.contains(&class) {
            template.get(CKA_KEY_TYPE).ok_or(CKR_TEMPLATE_INCOMPLETE)?;
            complete(&mut object)?;
        } else if class == CKO_CERTIFICATE {
            template.get(CKA_CERTIFICATE_TYPE).ok_or(CKR_TEMPLATE_INCOMPLETE)?;
            template.get(CKA_VALUE).ok_or(CKR_TEMPLATE_INCOMPLETE)?;
        }
        let [handle] = slot.insert(&session, [object])?;
        Ok(handle)
    }

    /// `C_CopyObject`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn copy_object(
        &self,
        session: CK_SESSION_HANDLE,
        handle: CK_OBJECT_HANDLE,
        template: &Template,
    ) -> Answer<CK_OBJECT_HANDLE> {
        let (session, slot) = self.session(session)?;
        slot.copy(&session, handle, &self.localised(template)?)
    }

    /// `C_DestroyObject`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn destroy_object(
        &self,
        session: CK_SESSION_HANDLE,
        handle: CK_OBJECT_HANDLE,
    ) -> Answer<()> {
        let (session, slot) = self.session(session)?;
        slot.destroy(&session, handle)
    }

    /// `C_SetAttributeValue`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn change_object(
        &self,
        session: CK_SESSION_HANDLE,
        handle: CK_OBJECT_HANDLE,
        template: &Template,
    ) -> Answer<()> {
        let (session, slot) = self.session(session)?;
        slot.change(&session, handle, &self.localised(template)?)
    }

    /// `C_GenerateKey`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn generate_key(
        &self,
        session: CK_SESSION_HANDLE,
        call: &Call,
        template: &Template,
    ) -> Answer<CK_OBJECT_HANDLE> {
        let (session, slot) = self.session(session)?;
        let Algorithm::Key(kind) = call.algorithm else { return Err(CKR_MECHANISM_INVALID) };
        no_parameter(call)?;
        let template = self.localised(template)?;
        let length = template.get_number(CKA_VALUE_LEN)?.map(size).transpose()?;
        let (key_type, length) = match kind {
            Secret::Aes => (CKK_AES, length),
            Secret::Sm4 => (KEY_SM4, Some(length.unwrap_or(16))),
            Secret::Generic => (CKK_GENERIC_SECRET, length),
        };
        let length = length.ok_or(CKR_TEMPLATE_INCOMPLETE)?;
        if !secret_size_is_right(key_type, length) {
            return Err(CKR_KEY_SIZE_RANGE);
        }
        let mut object = born(&template, CKO_SECRET_KEY, key_type, Occasion::Generate)?;
        slot.check_insert(&session, &object)?;
        self.strain(&session, slot)?;
        object.set(CKA_VALUE, &generate::secret(length)?);
        mark(&mut object, call);
        complete(&mut object)?;
        let [handle] = slot.insert(&session, [object])?;
        Ok(handle)
    }

    /// `C_GenerateKeyPair`: the public key first.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn generate_pair(
        &self,
        session: CK_SESSION_HANDLE,
        call: &Call,
        public: &Template,
        private: &Template,
    ) -> Answer<[CK_OBJECT_HANDLE; 2]> {
        let (session, slot) = self.session(session)?;
        let (key_type, curve, is_sm2) = match call.algorithm {
            Algorithm::Sm2Pair => (KEY_SM2, SM2_CURVE, true),
            Algorithm::EcPair => (CKK_EC, P256_CURVE, false),
            _ => return Err(CKR_MECHANISM_INVALID),
        };
        no_parameter(call)?;
        let (public, private) = (self.localised(public)?, self.localised(private)?);
        // PKCS#11 wants the curve of every pair; vendors want it of SM2 or do not.
        match public.get(CKA_EC_PARAMS) {
            Some(given) if given != curve => return Err(CKR_CURVE_NOT_SUPPORTED),
            None if !is_sm2 => return Err(CKR_TEMPLATE_INCOMPLETE),
            _ => {}
        }
        let mut public = born(&public, CKO_PUBLIC_KEY, key_type, Occasion::Generate)?;
        let mut private = born(&private, CKO_PRIVATE_KEY, key_type, Occasion::Generate)?;
        slot.check_insert(&session, &public)?;
        slot.check_insert(&session, &private)?;
        self.strain(&session, slot)?;
        private.set(CKA_VALUE, &*generate::scalar(is_sm2)?);
        private.set(CKA_EC_PARAMS, curve);
        complete(&mut private)?;
        let point = private.get(CKA_EC_POINT).ok_or(CKR_GENERAL_ERROR)?.to_vec();
        public.set(CKA_EC_POINT, &point);
        public.set(CKA_EC_PARAMS, curve);
        complete(&mut public)?;
        for object in [&mut public, &mut private] {
            mark(object, call);
        }
        slot.insert(&session, [public, private])
    }

    /// A key that wraps or unwraps.
    fn wrapping_key(
        slot: &Slot,
        handle: CK_OBJECT_HANDLE,
        call: &Call,
        usage: CK_ATTRIBUTE_TYPE,
    ) -> Answer<Found> {
        let wraps = usage == CKA_WRAP;
        let either = |wrap, unwrap| if wraps { wrap } else { unwrap };
        let missing = either(CKR_WRAPPING_KEY_HANDLE_INVALID, CKR_UNWRAPPING_KEY_HANDLE_INVALID);
        let wrong =
            either(CKR_WRAPPING_KEY_TYPE_INCONSISTENT, CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT);
        let found = slot.object(handle, missing)?;
        let key_type = key_type_of(call.algorithm).ok_or(CKR_MECHANISM_INVALID)?;
        if found.object.class() != CKO_SECRET_KEY || found.object.key_type() != key_type {
            return Err(wrong);
        }
        if !found.object.flag(usage) {
            return Err(CKR_KEY_FUNCTION_NOT_PERMITTED);
        }
        if !allows(&found.object, call.code) {
            return Err(CKR_MECHANISM_INVALID);
        }
        Ok(found)
    }

    /// `C_WrapKey`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn wrap(
        &self,
        session: CK_SESSION_HANDLE,
        call: &Call,
        wrapping: CK_OBJECT_HANDLE,
        key: CK_OBJECT_HANDLE,
        room: Option<usize>,
    ) -> Answer<Given> {
        let (session, slot) = self.session(session)?;
        let wrapping = Self::wrapping_key(slot, wrapping, call, CKA_WRAP)?.object;
        let key = slot.object(key, CKR_KEY_HANDLE_INVALID)?.object;
        let secret = match key.class() {
            CKO_SECRET_KEY => Zeroizing::new(key.get(CKA_VALUE).unwrap_or_default().to_vec()),
            // What fills up does not say where a PKCS#8 text ends.
            CKO_PRIVATE_KEY if wrap::fills(call.algorithm) => return Err(CKR_KEY_NOT_WRAPPABLE),
            CKO_PRIVATE_KEY => pkcs8(&key)?,
            _ => return Err(CKR_KEY_NOT_WRAPPABLE),
        };
        if !key.flag(CKA_EXTRACTABLE) {
            return Err(CKR_KEY_UNEXTRACTABLE);
        }
        if key.flag(CKA_WRAP_WITH_TRUSTED) && !wrapping.flag(CKA_TRUSTED) {
            return Err(CKR_KEY_NOT_WRAPPABLE);
        }
        self.strain(&session, slot)?;
        let wrapped = wrap::wrap(call, &wrapping.prepared()?, &secret)?;
        self.fitted(wrapped, room)
    }

    /// `C_UnwrapKey`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn unwrap(
        &self,
        session: CK_SESSION_HANDLE,
        call: &Call,
        unwrapping: CK_OBJECT_HANDLE,
        wrapped: &[u8],
        template: &Template,
    ) -> Answer<CK_OBJECT_HANDLE> {
        let (session, slot) = self.session(session)?;
        let template = self.localised(template)?;
        let unwrapping = Self::wrapping_key(slot, unwrapping, call, CKA_UNWRAP)?.object;
        let class = template.get_number(CKA_CLASS)?.ok_or(CKR_TEMPLATE_INCOMPLETE)?;
        let key_type = template.get_number(CKA_KEY_TYPE)?.ok_or(CKR_TEMPLATE_INCOMPLETE)?;
        if !matches!(class, CKO_SECRET_KEY | CKO_PRIVATE_KEY) {
            return Err(CKR_TEMPLATE_INCONSISTENT);
        }
        let mut object = born(&template, class, key_type, Occasion::Unwrap)?;
        slot.check_insert(&session, &object)?;
        self.strain(&session, slot)?;
        let secret = wrap::unwrap(call, &unwrapping.prepared()?, wrapped)?;
        let length = template.get_number(CKA_VALUE_LEN)?.map(size).transpose()?;
        let secret = wrap::without_filling(call.algorithm, &secret, length);
        let taken = secret.and_then(|secret| unwrapped(&mut object, secret));
        // In what has padding every fault has one name, or it tells whether the padding was right.
        let padded = matches!(call.algorithm, Algorithm::Block(_, Mode::CbcPad));
        taken.map_err(|refused| if padded { CKR_WRAPPED_KEY_INVALID } else { refused })?;
        let [handle] = slot.insert(&session, [object])?;
        Ok(handle)
    }

    /// `C_GetObjectSize`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn object_size(
        &self,
        session: CK_SESSION_HANDLE,
        handle: CK_OBJECT_HANDLE,
    ) -> Answer<CK_ULONG> {
        Ok(self.object(session, handle)?.total())
    }
}

/// The value of a key that came in.
fn unwrapped(object: &mut Object, secret: &[u8]) -> Answer<()> {
    if object.class() == CKO_PRIVATE_KEY {
        let (curve, scalar) = from_pkcs8(secret).ok_or(CKR_WRAPPED_KEY_INVALID)?;
        object.set(CKA_EC_PARAMS, curve);
        object.set(CKA_VALUE, scalar);
        return complete(object).map_err(|_| CKR_WRAPPED_KEY_INVALID);
    }
    if !secret_size_is_right(object.key_type(), secret.len()) {
        return Err(CKR_WRAPPED_KEY_LEN_RANGE);
    }
    object.set(CKA_VALUE, secret);
    complete(object)
}
