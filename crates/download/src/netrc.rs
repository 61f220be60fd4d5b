//! Who one is on which machine, as `~/.netrc` says it.
//!
//! Follows the format as curl reads it (`lib/netrc.c`): words, where those with spaces stand in double
//! quotes, and macros, which go to the next empty line.

use std::fmt;

/// Names and passwords of machines.
#[derive(Clone, Default)]
pub struct Netrc {
    entries: Vec<Entry>,
}

impl fmt::Debug for Netrc {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Netrc({})", self.entries.len())
    }
}

#[derive(Clone, Default)]
struct Entry {
    /// Absent for all machines that aren't named.
    machine: Option<String>,
    login: String,
    password: String,
}

impl Netrc {
    /// Reads a file's text. What isn't understood is passed over, as there is nobody to tell.
    pub fn parse(text: &str) -> Netrc {
        let mut entries: Vec<Entry> = Vec::new();
        let mut is_macro = false;
        for line in text.lines() {
            if is_macro {
                is_macro = !line.trim().is_empty();
                continue;
            }
            if line.trim_start().starts_with('#') {
                continue;
            }
            let mut words = Words(line);
            while let Some(word) = words.next() {
                match word.as_str() {
                    "machine" => {
                        entries.push(Entry { machine: words.next(), ..Entry::default() });
                    }
                    "default" => entries.push(Entry::default()),
                    "login" | "password" | "account" => {
                        // the value may stand on the next line, which nobody writes
                        let (Some(value), Some(entry)) = (words.next(), entries.last_mut()) else {
                            continue;
                        };
                        match word.as_str() {
                            "login" => entry.login = value,
                            "password" => entry.password = value,
                            _ => {}
                        }
                    }
                    "macdef" => {
                        is_macro = true;
                        break;
                    }
                    _ => {}
                }
            }
        }
        Netrc { entries }
    }

    /// Returns name and password for a host.
    pub(crate) fn of_host(&self, host: &str) -> Option<(&str, &str)> {
        let is_for = |entry: &&Entry| match &entry.machine {
            Some(machine) => machine.eq_ignore_ascii_case(host),
            None => true,
        };
        self.entries
            .iter()
            .find(is_for)
            .map(|entry| (entry.login.as_str(), entry.password.as_str()))
    }
}

/// The words of one line.
struct Words<'a>(&'a str);

impl Iterator for Words<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let rest = self.0.trim_start();
        let Some(quoted) = rest.strip_prefix('"') else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let (word, rest) = rest.split_at(end);
            self.0 = rest;
            return (!word.is_empty()).then(|| word.to_owned());
        };
        let mut word = String::new();
        let mut letters = quoted.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    self.0 = quoted.get(at + 1..).unwrap_or_default();
                    return Some(word);
                }
                '\\' => match letters.next() {
                    Some((_, 'n')) => word.push('\n'),
                    Some((_, 'r')) => word.push('\r'),
                    Some((_, 't')) => word.push('\t'),
                    Some((_, other)) => word.push(other),
                    None => {}
                },
                _ => word.push(letter),
            }
        }
        self.0 = "";
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const TEXT: &str = r#"
# a comment
machine one.example login alice password "with \"quotes\" and spaces"
machine two.example
  login bob
  password secret
macdef init
machine none.example login x password y

machine TOKEN.example password only
default login anonymous password guest
"#;

    #[rstest]
    #[case::one("one.example", ("alice", "with \"quotes\" and spaces"))]
    #[case::case("ONE.example", ("alice", "with \"quotes\" and spaces"))]
    #[case::lines("two.example", ("bob", "secret"))]
    #[case::in_a_macro("none.example", ("anonymous", "guest"))]
    #[case::no_login("token.example", ("", "only"))]
    #[case::other("other.example", ("anonymous", "guest"))]
    fn hosts_are_found(#[case] host: &str, #[case] expected: (&str, &str)) {
        assert_eq!(Netrc::parse(TEXT).of_host(host), Some(expected));
    }

    #[rstest]
    #[case::empty("")]
    #[case::nothing_of_machines("login x password y")]
    #[case::cut("machine")]
    #[case::open_quote("machine \"a")]
    fn others_have_nothing(#[case] text: &str) {
        let netrc = Netrc::parse(text);
        assert!(netrc.entries.iter().all(|it| it.machine.is_none() || it.login.is_empty()));
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(format!("{:?}", Netrc::parse(TEXT)), "Netrc(4)");
    }
}
