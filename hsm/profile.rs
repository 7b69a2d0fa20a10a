//! Profiles: what a vendor's library calls SM2, SM3 and SM4, as data.
//!
//! ```text
//! profiles/*.toml --parse--> Profile --fits(library, token)?--> probed on the card --> used
//! ```
//!
//! PKCS#11 gives these algorithms no codes; every vendor has its own, and they collide. So a code
//! is never guessed: a profile says for which library and token it is, and what it says is tried
//! on the card (`probe`) before a key of it is used. The shipped profiles are compiled in; an
//! operator's own stand in files, in the same form (`profiles/README.md`).

use serde::{Deserialize, Serialize};

use crate::forms::{CiphertextForm, PointForm, SignInput, SignatureForm};
use crate::keystore::CardIdentity;
use crate::{Error, ErrorClass, Rv};

/// A vendor's ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct Profile {
    /// What a configuration calls it: lower case letters, digits and hyphens.
    pub name: String,
    /// For people.
    pub title: String,
    /// Where this is known from.
    pub source: String,
    /// Whether it was tried with the card it describes.
    pub tested_on_hardware: bool,
    /// Which library and token it is for.
    #[serde(rename = "match")]
    pub matches: Match,
    /// SM2.
    pub sm2: Sm2,
    /// SM4; without it, nothing is wrapped by the card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sm4: Option<Sm4>,
    /// SM3, where the card has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sm3: Option<Sm3>,
    /// Mechanisms by which a cloned key leaves the card and comes back, the best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_wrap: Vec<KeyWrap>,
    /// What else must be minded.
    #[serde(default, skip_serializing_if = "Quirks::is_default")]
    pub quirks: Quirks,
    /// What the vendor's own return values mean, and PKCS#11's where it means another thing.
    #[serde(default, skip_serializing_if = "ReturnValues::is_default")]
    pub return_values: ReturnValues,
}

/// Conditions that must all hold; each is a list of patterns of which one must fit, where `*`
/// stands for anything. What is not named is not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// `CK_INFO.manufacturerID`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub library_manufacturer: Vec<String>,
    /// `CK_TOKEN_INFO.manufacturerID`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub token_manufacturer: Vec<String>,
    /// `CK_TOKEN_INFO.model`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub token_model: Vec<String>,
    /// Lowest `CK_INFO.libraryVersion`, `[major, minor]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library_version_min: Option<(u8, u8)>,
    /// Highest `CK_INFO.libraryVersion`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library_version_max: Option<(u8, u8)>,
}

/// SM2: keys, and what is done with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sm2 {
    /// `CKA_KEY_TYPE`.
    pub key_type: u64,
    /// What stands in `CKA_EC_PARAMS` when a pair is made.
    #[serde(default)]
    pub curve: Curve,
    /// How the public key is told.
    pub point_form: PointForm,
    /// Attribute of the public key; `CKA_EC_POINT` where it is not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point_attribute: Option<u64>,
    /// Attribute of y, where x and y are told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point_y_attribute: Option<u64>,
    /// Whether the private key has the attribute of the public one too.
    #[serde(default)]
    pub private_key_has_point: bool,
    /// Mechanisms that make a pair, the best first.
    pub generate: Vec<u64>,
    /// Mechanisms that sign, the best first.
    pub sign: Vec<Sign>,
    /// Mechanisms that decrypt, the best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decrypt: Vec<Decrypt>,
}

/// What stands in `CKA_EC_PARAMS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Curve {
    /// The DER of OID 1.2.156.10197.1.301 (GM/T 0006-2012).
    #[default]
    Oid,
    /// Nothing: the attribute is not handed over.
    Absent,
}

impl Curve {
    /// DER of OID 1.2.156.10197.1.301.
    pub const OID_DER: [u8; 10] = [0x06, 0x08, 0x2a, 0x81, 0x1c, 0xcf, 0x55, 0x01, 0x82, 0x2d];
}

/// A mechanism that signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sign {
    /// `CK_MECHANISM.mechanism`.
    pub mechanism: u64,
    /// What it takes.
    pub input: SignInput,
    /// What it gives.
    pub output: SignatureForm,
}

/// A mechanism that decrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decrypt {
    /// `CK_MECHANISM.mechanism`.
    pub mechanism: u64,
    /// What it takes.
    pub input: CiphertextForm,
}

/// SM4: keys, and what is done with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sm4 {
    /// `CKA_KEY_TYPE`.
    pub key_type: u64,
    /// Mechanism that makes a key.
    pub generate: u64,
    /// One block after the other, without padding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecb: Option<u64>,
    /// CBC without padding, the first value as the parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cbc: Option<u64>,
    /// GCM with `CK_GCM_PARAMS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcm: Option<u64>,
    /// Whether `CKA_VALUE_LEN` is handed over when a key is made.
    #[serde(default)]
    pub generate_with_length: bool,
}

/// SM3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sm3 {
    /// Mechanism of the digest.
    pub digest: u64,
}

/// A mechanism of `C_WrapKey` and `C_UnwrapKey`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyWrap {
    /// What it does.
    pub form: WrapForm,
    /// `CK_MECHANISM.mechanism`.
    pub mechanism: u64,
}

/// How a key is encrypted by another one. Only forms that take a key of any length: the encoding of
/// a private key is the vendor's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WrapForm {
    /// SM4-CBC with padding, the first value as the parameter.
    Sm4CbcPad,
    /// SM4-GCM with `CK_GCM_PARAMS`, a nonce of 12 bytes and a tag of 16.
    Sm4Gcm,
    /// AES key wrap with padding (RFC 5649, `CKM_AES_KEY_WRAP_KWP`).
    AesKeyWrapPad,
}

/// How a token's keys are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyNaming {
    /// By `CKA_LABEL` or `CKA_ID`.
    #[default]
    Attributes,
    /// By the number of a container, which stands in `CKA_ID` as four little-endian bytes.
    IndexLittleEndian,
    /// The same, big-endian.
    IndexBigEndian,
    /// By the number of a container, which stands in `CKA_LABEL` in decimal digits.
    IndexText,
}

/// Whether the length of an answer is asked for before the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LengthQuery {
    /// Never: one call, into a buffer that is large enough.
    #[default]
    Never,
    /// Always: the library wants a call with NULL first.
    Always,
}

/// What must be minded besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quirks {
    /// How keys are told apart.
    pub key_naming: KeyNaming,
    /// Whether lengths are asked for.
    pub length_query: LengthQuery,
    /// Most sessions that the card serves well, count; 0 for what the token says.
    pub sessions_max: u32,
    /// A session that is idle for so long is used once, so that it lives; 0 for never.
    pub keep_alive_seconds: u32,
    /// Whether the library stays in memory when it is finalised: its own threads outlive that.
    pub keep_mapped: bool,
}

impl Quirks {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Return values by what follows from them; they go before the classes of PKCS#11's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReturnValues {
    /// The session is gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub session: Vec<u64>,
    /// Nobody is logged in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub login: Vec<u64>,
    /// The card is gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub token_lost: Vec<u64>,
    /// The card is busy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub throttled: Vec<u64>,
}

impl ReturnValues {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn by_class(&self) -> [(ErrorClass, &[u64]); 4] {
        [
            (ErrorClass::Session, &self.session),
            (ErrorClass::Login, &self.login),
            (ErrorClass::TokenLost, &self.token_lost),
            (ErrorClass::Throttled, &self.throttled),
        ]
    }
}

/// Keys of a profile whose numbers are counts.
const COUNTS: &[&str] = &["sessions_max", "keep_alive_seconds", "library_version"];

/// A line of a profile with its codes in hexadecimal digits; texts and counts stay as they are.
fn with_hexadecimal_codes(line: &str) -> String {
    let (key, value) = line.split_once(" = ").unwrap_or((line, ""));
    if value.contains('"') || COUNTS.iter().any(|count| key.starts_with(count)) {
        return format!("{line}\n");
    }
    let words = value.split_inclusive([' ', ',', '[', ']']);
    let hexadecimal = |word: &str| {
        let end = word.trim_end_matches([' ', ',', '[', ']']);
        match end.parse::<u64>() {
            Ok(code) => word.replacen(end, &format!("{code:#x}"), 1),
            Err(_) => word.to_owned(),
        }
    };
    let value: String = words.map(hexadecimal).collect();
    let equals = if line.contains(" = ") { " = " } else { "" };
    format!("{key}{equals}{value}\n")
}

/// Bytes of a profile at most.
pub const PROFILE_BYTES_MAX: usize = 64 << 10;

/// The profiles that are compiled in, by file.
const SHIPPED: &[(&str, &str)] = &[
    ("ep11.toml", include_str!("profiles/ep11.toml")),
    ("hufu-softtoken.toml", include_str!("profiles/hufu-softtoken.toml")),
    ("koal.toml", include_str!("profiles/koal.toml")),
    ("luna.toml", include_str!("profiles/luna.toml")),
    ("sansec.toml", include_str!("profiles/sansec.toml")),
    ("tass.toml", include_str!("profiles/tass.toml")),
    ("westone.toml", include_str!("profiles/westone.toml")),
    ("wosign.toml", include_str!("profiles/wosign.toml")),
];

impl Profile {
    /// Reads a profile; `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::ProfileInvalid`] with the place and the reason.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let invalid = |reason: String| Error::ProfileInvalid { name: file.to_owned(), reason };
        if text.len() > PROFILE_BYTES_MAX {
            return Err(invalid(format!("{} bytes, at most {PROFILE_BYTES_MAX}", text.len())));
        }
        let profile: Self =
            toml::from_str(text).map_err(|cause| invalid(cause.to_string().trim().to_owned()))?;
        profile.check().map_err(invalid)?;
        Ok(profile)
    }

    /// All that are compiled in.
    ///
    /// # Errors
    /// Never, as long as the test of the shipped ones passes.
    pub fn shipped() -> Result<Vec<Self>, Error> {
        SHIPPED.iter().map(|(file, text)| Self::parse(file, text)).collect()
    }

    /// As a file of its own, with codes in hexadecimal digits, as vendors write them.
    ///
    /// # Errors
    /// [`Error::ProfileInvalid`] if it cannot be written down.
    pub fn to_toml(&self) -> Result<String, Error> {
        let invalid = |reason: String| Error::ProfileInvalid { name: self.name.clone(), reason };
        let text = toml::to_string(self).map_err(|cause| invalid(cause.to_string()))?;
        Ok(text.lines().map(with_hexadecimal_codes).collect())
    }

    /// The first mechanism that signs e, which every use in hufu needs.
    #[must_use]
    pub fn sign_prehashed(&self) -> Option<&Sign> {
        self.sm2.sign.iter().find(|sign| sign.input == SignInput::PrehashedE)
    }

    /// What follows from a return value on this card.
    #[must_use]
    pub fn class(&self, rv: Rv) -> ErrorClass {
        let own = self.return_values.by_class();
        let own = own.iter().find(|(_, values)| values.contains(&rv.0));
        own.map_or_else(|| rv.class(), |(class, _)| *class)
    }

    /// Whether this profile is for that card.
    ///
    /// # Errors
    /// [`Error::ProfileMismatch`] with the condition that does not hold.
    pub fn fits(&self, card: &CardIdentity) -> Result<(), Error> {
        let wanted = &self.matches;
        let texts = [
            ("library_manufacturer", &wanted.library_manufacturer, &card.library_manufacturer),
            ("token_manufacturer", &wanted.token_manufacturer, &card.token_manufacturer),
            ("token_model", &wanted.token_model, &card.token_model),
        ];
        let mismatch =
            |reason: String| Error::ProfileMismatch { profile: self.name.clone(), reason };
        for (field, patterns, found) in texts {
            if !patterns.is_empty() && !patterns.iter().any(|pattern| is_like(pattern, found)) {
                return Err(mismatch(format!("{field} is {found:?}, expected {patterns:?}")));
            }
        }
        let found = card.library_version;
        let is_old = wanted.library_version_min.is_some_and(|min| found < min);
        let is_new = wanted.library_version_max.is_some_and(|max| found > max);
        if is_old || is_new {
            let (min, max) = (wanted.library_version_min, wanted.library_version_max);
            return Err(mismatch(format!(
                "library_version is {found:?}, expected {min:?} to {max:?}"
            )));
        }
        Ok(())
    }

    /// The one profile for that card among several.
    ///
    /// # Errors
    /// [`Error::ProfileMismatch`] if none fits, or more than one does: codes are never guessed.
    pub fn choose(profiles: &[Self], card: &CardIdentity) -> Result<Self, Error> {
        let fitting: Vec<&Self> =
            profiles.iter().filter(|profile| profile.fits(card).is_ok()).collect();
        match fitting.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(Error::ProfileMismatch {
                profile: "none".to_owned(),
                reason: format!(
                    "no profile is for library {:?}, token {:?}, model {:?}; `hufu hsm probe` \
                     drafts one",
                    card.library_manufacturer, card.token_manufacturer, card.token_model
                ),
            }),
            several => {
                let names: Vec<&str> =
                    several.iter().map(|profile| profile.name.as_str()).collect();
                Err(Error::ProfileMismatch {
                    profile: names.join(", "),
                    reason: "several fit this card: name the one to use".to_owned(),
                })
            }
        }
    }

    /// The one of `profiles` that is for that card. If there is one alone, why it is not.
    ///
    /// # Errors
    /// As [`Profile::choose`] and [`Profile::fits`].
    pub fn choose_or_fit(profiles: &[Self], card: &CardIdentity) -> Result<Self, Error> {
        match profiles {
            [one] => one.fits(card).map(|()| one.clone()),
            several => Self::choose(several, card),
        }
    }

    /// Return values that do not mean what they mean in PKCS#11.
    #[must_use]
    pub fn own_classes(&self) -> Vec<(Rv, ErrorClass)> {
        let by_class = self.return_values.by_class();
        by_class
            .into_iter()
            .flat_map(|(class, values)| values.iter().map(move |value| (Rv(*value), class)))
            .collect()
    }

    /// What the form of the file cannot say.
    fn check(&self) -> Result<(), String> {
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if self.name.is_empty() || !self.name.bytes().all(is_name) {
            return Err(format!("name {:?}: lower case letters, digits, hyphens", self.name));
        }
        if self.matches == Match::default() {
            return Err("match: without any condition it would be for every card".to_owned());
        }
        if self.sm2.generate.is_empty() || self.sm2.sign.is_empty() {
            return Err("sm2.generate and sm2.sign: one mechanism at least".to_owned());
        }
        if (self.sm2.point_form == PointForm::Xy) != self.sm2.point_y_attribute.is_some() {
            return Err("sm2.point_y_attribute: with point_form = \"xy\", and only then".to_owned());
        }
        let sm4 = self.sm4.as_ref();
        if sm4.is_some_and(|sm4| sm4.ecb.is_none() && sm4.cbc.is_none() && sm4.gcm.is_none()) {
            return Err("sm4: ecb, cbc or gcm, or no sm4 at all".to_owned());
        }
        let mut seen: Vec<u64> = Vec::new();
        for (class, values) in self.return_values.by_class() {
            for value in values {
                if *value == 0 || seen.contains(value) {
                    return Err(format!(
                        "return_values.{}: {value:#x} is CKR_OK, or in two \
                        classes",
                        class.name()
                    ));
                }
                // Taken for a lost session, a wrong PIN would be tried until the token locks.
                if Rv(*value).name().is_some_and(|name| name.contains("PIN_")) {
                    return Err(format!(
                        "return_values.{}: {} is never tried again",
                        class.name(),
                        Rv(*value)
                    ));
                }
                seen.push(*value);
            }
        }
        Ok(())
    }
}

/// Whether `text` is of the form of `pattern`, in which `*` stands for any number of characters.
/// Upper and lower case are one: vendors are not of one mind with themselves.
fn is_like(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_lowercase(), text.to_lowercase());
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests;
