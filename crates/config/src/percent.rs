//! Percent-encoding as in RFC 3986, section 2.1.

/// Returns `text` with every `%XX` replaced by its byte, or nothing if a `%` is
/// not followed by two hexadecimal digits or the bytes are not UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        // `from_str_radix` would take a sign for a digit.
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// Returns `text` with every byte encoded that is neither unreserved nor in
/// `keep`.
pub(crate) fn encode(text: &str, keep: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-._~".contains(c) || (c.is_ascii() && keep.contains(c)) {
            encoded.push(c);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("a%20b", Some("a b"))]
    #[case("%e2%82%AC", Some("€"))]
    #[case("a+b", Some("a+b"))]
    #[case("%", None)]
    #[case("%2", None)]
    #[case("%+2", None)]
    #[case("%2€", None)]
    #[case("%ff", None)]
    fn decodes(#[case] text: &str, #[case] expected: Option<&str>) {
        assert_eq!(decode(text).as_deref(), expected);
    }

    proptest! {
        #[test]
        fn round_trips(text: String) {
            prop_assert_eq!(decode(&encode(&text, ":@/?")), Some(text));
        }
    }
}
