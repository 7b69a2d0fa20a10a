//! One line of `sm2-verify --jsonl`: strict JSON, strict fields; an error names the field.

use std::fmt;

use hufu_crypto::{
    Digest, IDENTITY_DEFAULT, PublicKey, Signature, der, identity_digest, message_digest,
};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::super::files::{unhex, unhex_exactly};
use super::super::keys::IDENTITY_BYTES_MAX;
use super::Signed;

/// What a line holds, or what is wrong with it.
pub(super) type Entry = Result<Signed, String>;

/// The fields a line may have, in the order of [`Fields`].
const NAMES: [&str; 8] = ["px", "py", "e", "id", "msg", "r", "s", "sig"];

/// The texts of the fields, and the first fault met while reading them.
#[derive(Default)]
struct Fields {
    texts: [Option<String>; NAMES.len()],
    fault: Option<String>,
}

/// Characters of a fault at most. It may quote the line, which may have megabytes, and thousands of
/// faults wait for their turn.
const FAULT_CHARS_MAX: usize = 200;

/// Reads a line.
pub(super) fn parse(line: &[u8]) -> Entry {
    read(line).map_err(shortened)
}

/// A fault of bounded length.
fn shortened(fault: String) -> String {
    match fault.char_indices().nth(FAULT_CHARS_MAX) {
        // A text cut short keeps the memory of all of it.
        Some((end, _)) => format!("{}...", &fault[..end]),
        None => fault,
    }
}

fn read(line: &[u8]) -> Entry {
    let fields: Fields = serde_json::from_slice(line).map_err(|error| {
        let text = error.to_string();
        let what = text.split(" at line ").next().unwrap_or_default();
        format!("not a JSON object with fields: {what} (column {})", error.column())
    })?;
    match fields.fault {
        Some(fault) => Err(fault),
        None => fields.signed(),
    }
}

impl Fields {
    fn get(&self, name: &str) -> Option<&str> {
        let place = NAMES.iter().position(|known| *known == name)?;
        self.texts[place].as_deref()
    }

    fn bytes<const SIZE: usize>(&self, name: &str) -> Result<[u8; SIZE], String> {
        let text = self.get(name).ok_or_else(|| format!("{name}: missing"))?;
        unhex_exactly(name, text)
    }

    fn signed(&self) -> Entry {
        let mut key = PublicKey([0; 64]);
        key.0[..32].copy_from_slice(&self.bytes::<32>("px")?);
        key.0[32..].copy_from_slice(&self.bytes::<32>("py")?);
        let digest = self.digest(&key)?;
        let signature = self.signature()?;
        Ok(Signed { key, digest, signature })
    }

    fn digest(&self, key: &PublicKey) -> Result<Digest, String> {
        let message = match (self.get("e"), self.get("msg")) {
            (Some(_), Some(_)) => return Err("e, msg: one of them, not both".to_owned()),
            (None, None) => return Err("e: missing, and msg is not there either".to_owned()),
            (Some(_), None) if self.get("id").is_some() => {
                return Err("id: belongs to msg, e has it inside".to_owned());
            }
            (Some(_), None) => return self.bytes("e").map(Digest),
            (None, Some(message)) => unhex("msg", message)?,
        };
        let za = match self.get("id") {
            None => identity_digest(IDENTITY_DEFAULT, key),
            Some(text) => {
                let identity = unhex("id", text)?;
                if identity.len() > IDENTITY_BYTES_MAX {
                    let size = identity.len();
                    return Err(format!("id: {size} bytes, at most {IDENTITY_BYTES_MAX}"));
                }
                identity_digest(&identity, key)
            }
        };
        Ok(message_digest(&za, &message))
    }

    fn signature(&self) -> Result<Signature, String> {
        let Some(text) = self.get("sig") else {
            let mut signature = Signature([0; 64]);
            signature.0[..32].copy_from_slice(&self.bytes::<32>("r")?);
            signature.0[32..].copy_from_slice(&self.bytes::<32>("s")?);
            return Ok(signature);
        };
        if self.get("r").is_some() || self.get("s").is_some() {
            return Err("sig: stands for r and s, which are there too".to_owned());
        }
        der::read_signature(&unhex("sig", text)?).map_err(|fault| format!("sig: {fault}"))
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    /// Reads to the end of the object whatever is wrong inside, so that broken JSON is told from
    /// broken fields.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<String>()? {
            let place = NAMES.iter().position(|known| *known == name);
            let fault = match place {
                None => {
                    map.next_value::<IgnoredAny>()?;
                    Some(format!("{name:?}: no field of this name, there are {}", NAMES.join(", ")))
                }
                Some(place) => match map.next_value::<Value>()? {
                    Value::String(text) => {
                        let before = fields.texts[place].replace(text);
                        before.map(|_| format!("{name}: there twice"))
                    }
                    _ => Some(format!("{name}: not a text of hexadecimal digits")),
                },
            };
            fields.fault = fields.fault.or(fault);
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "\"px\":\"09F9DF311E5421A150DD7D161E4BC5C672179FAD1833FC076BB08FF356F35020\",\
        \"py\":\"CCEA490CE26775A52DC6EA718CC1AA600AED05FBF35E084A6632F6072DA9AD13\"";
    const E: &str = "\"e\":\"F0B43E94BA45ACCAACE692ED534382EB17E6AB5A19CE7B31F4486FDFC0D28640\"";
    const MESSAGE: &str = "\"msg\":\"6d65737361676520646967657374\"";
    const RS: &str = "\"r\":\"F5A03B0648D2C4630EEAC513E1BB81A15944DA3827D5B74143AC7EACEEE720B3\",\
        \"s\":\"B1B6AA29DF212FD8763182BC0D421CA1BB9038FD1F7F42D4840B69C485BBC1AA\"";
    const SIG: &str = "\"sig\":\"3046022100F5A03B0648D2C4630EEAC513E1BB81A15944DA3827D5B74143AC7EACEE\
        E720B3022100B1B6AA29DF212FD8763182BC0D421CA1BB9038FD1F7F42D4840B69C485BBC1AA\"";

    fn line(parts: &[&str]) -> String {
        format!("{{{}}}", parts.join(","))
    }

    /// All four forms of the example of GB/T 32918.5-2017 A.2 are the same signature.
    #[test]
    fn every_form_of_a_line_is_read() {
        let id = "\"id\":\"31323334353637383132333435363738\"";
        let forms: [&[&str]; 6] = [
            &[KEY, E, RS],
            &[KEY, E, SIG],
            &[KEY, MESSAGE, RS],
            &[KEY, MESSAGE, SIG],
            &[KEY, id, MESSAGE, RS],
            &[RS, MESSAGE, KEY],
        ];
        for form in forms {
            let signed = parse(line(form).as_bytes()).unwrap();
            let e = "f0b43e94ba45accaace692ed534382eb17e6ab5a19ce7b31f4486fdfc0d28640";
            assert_eq!(signed.digest.to_string(), e);
            assert!(signed.signature.to_string().starts_with("f5a03b06"));
            assert!(signed.key.to_string().ends_with("2da9ad13"));
        }
        let empty = parse(line(&[KEY, "\"id\":\"\",\"msg\":\"\"", RS]).as_bytes());
        assert!(empty.is_ok(), "an empty message by an empty identity");
        let spaced = format!(" {} \r", line(&[KEY, E, RS]));
        assert!(parse(spaced.as_bytes()).is_ok());
    }

    /// Whatever is quoted, a fault stays short: thousands of them wait in a batch.
    #[test]
    fn a_fault_is_short_however_long_the_line() {
        let long = "\u{1}é".repeat(1 << 16);
        let name = serde_json::to_string(&long).unwrap();
        let lines = [
            format!("{{{name}:1}}"),
            name.clone(),
            format!("[{name}]"),
            format!("{{\"px\":{name}}}"),
            format!("{{\"id\":{name},\"msg\":\"\",{KEY},{RS}}}"),
            format!("{{\"px\":{}", "[".repeat(1 << 16)),
        ];
        for line in lines {
            let fault = parse(line.as_bytes()).err().unwrap();
            assert!(fault.chars().count() <= FAULT_CHARS_MAX + 3, "{} bytes", fault.len());
            assert!(fault.capacity() < 2_048, "{} bytes are held", fault.capacity());
        }
    }

    #[test]
    fn a_fault_names_its_field() {
        let long = format!("\"id\":\"{}\",{MESSAGE}", "00".repeat(IDENTITY_BYTES_MAX + 1));
        let cases: [(&[&str], &str); 16] = [
            (&[E, RS], "px: missing"),
            (&[&KEY[..71], E, RS], "py: missing"),
            (&[KEY, RS], "e: missing"),
            (&[KEY, E, MESSAGE, RS], "e, msg: one of them"),
            (&[KEY, E, "\"id\":\"31\"", RS], "id: belongs to msg"),
            (&[KEY, E], "r: missing"),
            (&[KEY, E, RS, SIG], "sig: stands for"),
            (&[KEY, E, "\"r\":\"00\",\"s\":\"00\""], "r: 1 bytes, expected 32"),
            (&[KEY, "\"e\":\"abc\"", RS], "e: 3 hexadecimal digits, an odd number"),
            (&[KEY, "\"e\":\"zz\"", RS], "e: character 1 is no"),
            (&[KEY, "\"e\":5", RS], "e: not a text"),
            (&[KEY, "\"e\":null", RS], "e: not a text"),
            (&[KEY, E, E, RS], "e: there twice"),
            (&[KEY, E, RS, "\"E\":\"00\""], "\"E\": no field"),
            (&[KEY, E, "\"sig\":\"3006020101020180\""], "sig: s: integer is negative"),
            (&[KEY, &long, RS], "id: 8192 bytes"),
        ];
        for (parts, wanted) in cases {
            let fault = parse(line(parts).as_bytes()).err().unwrap();
            assert!(fault.starts_with(wanted), "{fault}");
        }
    }

    #[test]
    fn what_is_no_object_is_said_to_be_none() {
        let whole = line(&[KEY, E, RS]);
        let cut = &whole[..whole.len() - 1];
        let twice = format!("{whole}{whole}");
        let invalid: &[u8] = b"{\"px\":\"\xff\"}";
        let texts: [&[u8]; 8] =
            [b"", b" ", b"[]", b"5", b"{", cut.as_bytes(), twice.as_bytes(), invalid];
        for text in texts {
            let fault = parse(text).err().unwrap();
            assert!(fault.starts_with("not a JSON object"), "{fault}");
            assert!(!fault.contains("at line"), "{fault}");
        }
    }

    /// What a line is changed to: pieces of JSON, and digits.
    const PIECES: [&str; 16] = [
        "{",
        "}",
        "[",
        "]",
        "\"",
        ":",
        ",",
        "\\",
        "\\u00",
        "null",
        "1e9",
        " ",
        "0",
        "f",
        "\"e\":\"\"",
        "\u{0}",
    ];

    /// Lines of the corpus with edits: none panics, and one that is taken is JSON whose texts are
    /// what was understood. `make fuzz` tries more.
    #[test]
    fn fuzz_lines_of_signatures() {
        let lines: Vec<&str> =
            include_str!("../../../../../tests/corpus/signature_lines.jsonl").lines().collect();
        let factor: u64 =
            std::env::var("HUFU_CASES_FACTOR").map_or(1, |text| text.parse().unwrap());
        let mut state = match std::env::var("HUFU_SEED") {
            Err(_) => 1,
            Ok(text) if text == "random" => {
                let mut bytes = [0; 8];
                hufu_crypto::entropy::fill(&mut bytes).unwrap();
                u64::from_le_bytes(bytes)
            }
            Ok(text) => text.parse().unwrap(),
        };
        eprintln!("repeat with HUFU_SEED={state}");
        let mut below = |end: usize| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            usize::try_from(state >> 33).unwrap() % end
        };
        let mut taken = 0;
        for _ in 0..10_000 * factor {
            let mut line = lines[below(lines.len())].as_bytes().to_vec();
            for _ in 0..below(3) {
                let at = below(line.len() + 1);
                let end = (at + below(20)).min(line.len());
                match below(3) {
                    0 => drop(line.drain(at..end)),
                    1 => drop(line.splice(at..at, PIECES[below(PIECES.len())].bytes())),
                    _ => drop(line.splice(at..end, PIECES[below(PIECES.len())].bytes())),
                }
            }
            let Ok(signed) = parse(&line) else { continue };
            taken += 1;
            let value: Value = serde_json::from_slice(&line).unwrap();
            let text = |name: &str| value[name].as_str().unwrap_or_default().to_lowercase();
            assert_eq!(signed.key.to_string(), text("px") + &text("py"));
            if value.get("e").is_some() {
                assert_eq!(signed.digest.to_string(), text("e"));
            }
            if value.get("sig").is_none() {
                assert_eq!(signed.signature.to_string(), text("r") + &text("s"));
            }
        }
        assert!(taken > 1_000, "{taken} were taken");
    }
}
