//! Bytes in the files of an export: lower case hexadecimal digits, one encoding for each value.

/// As digits.
pub(super) fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Of digits; `None` for anything that [`encode`] would not write.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    bytes.collect::<Option<Vec<u8>>>().filter(|_| rest.is_empty())
}

/// Of digits, exactly so many bytes.
pub(super) fn decode_exactly<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    decode(text)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_one_text() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)).unwrap(), all);
        assert_eq!(decode_exactly::<2>("0aff"), Some([10, 255]));
        for bad in ["0", "0A", "0g", " 00", "0x00", "é"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
        assert_eq!(decode_exactly::<1>("0aff"), None);
    }
}
