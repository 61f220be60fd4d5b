//! The public key that a host is expected to have.
//!
//! Follows `base64Decode` (`src/libutil/base-n.cc`) and `SSHMaster` (`src/libstore/ssh.cc`) of C++
//! Nix.

/// The public key of a host: base64 of a whole line such as `ssh-ed25519 AAAA…`,
/// which is what `base64 -w0 /etc/ssh/ssh_host_ed25519_key.pub` prints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostKey {
    base64: String,
    decoded: Vec<u8>,
}

impl HostKey {
    /// Decodes what Nix would: padding is optional and ends the text, line ends
    /// are passed over. Returns nothing for other characters.
    pub fn from_base64(text: &str) -> Option<HostKey> {
        let mut decoded = Vec::with_capacity(text.len());
        let (mut bits, mut have) = (0_u16, 0_u32);
        let digits = text.bytes().take_while(|byte| *byte != b'=');
        for byte in digits.filter(|byte| *byte != b'\n') {
            let digit = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = (bits << 6) | u16::from(digit);
            have += 6;
            if 8 <= have {
                have -= 8;
                let [_, byte] = (bits >> have).to_be_bytes();
                decoded.push(byte);
            }
        }
        Some(HostKey { base64: text.to_owned(), decoded })
    }

    /// Returns the key as it was written.
    pub fn as_base64(&self) -> &str {
        &self.base64
    }

    /// Returns the line for a `known_hosts` file, to be put after the host;
    /// nothing if the text decodes to something else.
    ///
    /// Of several lines it is the first: Nix puts the host before that one only.
    pub fn line(&self) -> Option<&str> {
        let text = std::str::from_utf8(&self.decoded).ok()?.trim();
        let line = text.lines().next()?.trim_end();
        let mut fields = line.split_ascii_whitespace();
        let (kind, key) = (fields.next()?, fields.next()?);
        let is_key =
            !kind.is_empty() && key.starts_with("AAAA") && !line.contains(char::is_control);
        is_key.then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::padded("c3NoLXJzYSBBQUFBIGI=", Some("ssh-rsa AAAA b"))]
    #[case::unpadded("c3NoLXJzYSBBQUFBIGI", Some("ssh-rsa AAAA b"))]
    #[case::overpadded("c3NoLXJzYSBBQUFBIGI===x", Some("ssh-rsa AAAA b"))]
    #[case::wrapped("c3NoLXJzYS\nBBQUFBIGI=\n", Some("ssh-rsa AAAA b"))]
    #[case::with_line_end("c3NoLXJzYSBBQUFBIGIK", Some("ssh-rsa AAAA b"))]
    // "ssh-rsa AAAA b\nssh-ed25519 AAAA b\n"
    #[case::two_keys("c3NoLXJzYSBBQUFBIGIKc3NoLWVkMjU1MTkgQUFBQSBiCg==", Some("ssh-rsa AAAA b"))]
    #[case::key_alone("QUFBQQ", None)]
    #[case::nothing("", None)]
    fn lines(#[case] text: &str, #[case] expected: Option<&str>) {
        let key = HostKey::from_base64(text).unwrap();
        assert_eq!((key.line(), key.as_base64()), (expected, text));
    }

    #[rstest]
    #[case::blank("c3No LXJz")]
    #[case::url_safe("c3NoLXJzYSBBQUFB_-")]
    #[case::return_character("c3No\r\n")]
    fn refuses(#[case] text: &str) {
        assert_eq!(HostKey::from_base64(text), None);
    }
}
