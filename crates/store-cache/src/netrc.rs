//! Users and passwords of servers, from a netrc file.
//!
//! The format is that of `ftp` and `curl`: words between spaces, `machine NAME login USER password
//! WORD`, and `default` for all other machines. Macros are passed over.

use std::io;
use std::path::Path;

use std::fmt;

/// Who to say that one is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, …)", self.user)
    }
}

/// The entries of a file, in order. Nothing for the machine means all others.
#[derive(Debug, Default)]
pub(crate) struct Netrc(Vec<(Option<String>, Credentials)>);

impl Netrc {
    /// Reads a file, if there is one that this user may read.
    pub(crate) fn read(path: Option<&Path>) -> Result<Netrc, String> {
        let Some(path) = path else { return Ok(Netrc::default()) };
        match fs_err::read_to_string(path) {
            Ok(text) => Ok(Netrc::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Netrc::default()),
            // one that is for others holds no passwords of this user's
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::info!("the netrc-file is left out: {error}");
                Ok(Netrc::default())
            }
            Err(error) => Err(format!("the netrc-file can't be read: {error}")),
        }
    }

    /// Reads a file. What isn't understood is passed over, as by `curl`.
    pub(crate) fn parse(text: &str) -> Netrc {
        let mut entries: Vec<(Option<String>, Credentials)> = Vec::new();
        let mut words = Words { rest: text };
        while let Some(word) = words.next() {
            let empty = || Credentials { user: String::new(), password: String::new() };
            match word.as_str() {
                "machine" => entries.extend(words.next().map(|name| (Some(name), empty()))),
                "default" => entries.push((None, empty())),
                "login" => {
                    if let (Some(user), Some((_, entry))) = (words.next(), entries.last_mut()) {
                        entry.user = user;
                    }
                }
                "password" => {
                    if let (Some(password), Some((_, entry))) = (words.next(), entries.last_mut()) {
                        entry.password = password;
                    }
                }
                "account" => drop(words.next()),
                "macdef" => words.skip_macro(),
                _ => {}
            }
        }
        Netrc(entries)
    }

    /// Returns what is to be said to a host.
    pub(crate) fn of(&self, host: &str) -> Option<&Credentials> {
        let is_it = |name: &Option<String>| match name {
            Some(name) => name.eq_ignore_ascii_case(host),
            None => true,
        };
        self.0.iter().find(|(name, _)| is_it(name)).map(|(_, credentials)| credentials)
    }
}

struct Words<'a> {
    rest: &'a str,
}

impl Words<'_> {
    /// Returns the next word. In double quotes it may have spaces, and `\` before a character.
    fn next(&mut self) -> Option<String> {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with('#') {
                break;
            }
            self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
        }
        if self.rest.is_empty() {
            return None;
        }
        let Some(quoted) = self.rest.strip_prefix('"') else {
            let end = self.rest.find(char::is_whitespace).unwrap_or(self.rest.len());
            let (word, rest) = self.rest.split_at(end);
            self.rest = rest;
            return Some(word.to_owned());
        };
        let mut word = String::new();
        let mut characters = quoted.chars();
        while let Some(character) = characters.next().filter(|character| *character != '"') {
            word.push(match character {
                '\\' => characters.next().unwrap_or('\\'),
                other => other,
            });
        }
        self.rest = characters.as_str();
        Some(word)
    }

    /// A macro goes to the next empty line.
    fn skip_macro(&mut self) {
        self.rest = self.rest.split_once("\n\n").map_or("", |(_, rest)| rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_curl_reads() {
        let text = "# a comment\nmachine a.org login me password secret\n\
            macdef m\nmachine c.org login x\n\nmachine b.org\n\tpassword \"two \\\"words\\\"\"\n\
            login you\ndefault login anonymous password p\nmachine late.org login l";
        let netrc = Netrc::parse(text);
        let said = |host| netrc.of(host).map(|c| (c.user.as_str(), c.password.as_str()));
        assert_eq!(said("A.org"), Some(("me", "secret")));
        assert_eq!(said("b.org"), Some(("you", "two \"words\"")));
        assert_eq!(said("c.org"), Some(("anonymous", "p")));
        assert_eq!(said("late.org"), Some(("anonymous", "p")));
        assert_eq!(Netrc::parse("machine").of("a"), None);
        assert_eq!(Netrc::parse("login x password").of("a"), None);
        assert!(!format!("{netrc:?}").contains("secret"));
    }
}
