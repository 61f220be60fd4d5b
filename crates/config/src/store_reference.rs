//! Naming a store: `auto`, `daemon`, `ssh-ng://user@host?param=value`, `/path`…
//!
//! Follows `StoreReference::parse` of C++ Nix
//! (`src/libstore/store-reference.cc`). Narrower than Nix in that a path must
//! be absolute, and what an SSH store refuses later is refused here.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::authority::{Authority, Host};
use crate::paths::absolute;
use crate::percent::{decode, encode};

/// Which kind of store a [`StoreReference`] is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// `auto`: the local store if it can be written, else the daemon.
    Auto,
    /// `daemon`: the daemon at its usual socket.
    Daemon,
    /// `local`, `local://`, or a path: a store in the file system.
    Local,
    /// `unix://`: a daemon at a socket.
    Unix,
    /// `ssh://`: the serve protocol through SSH.
    Ssh,
    /// `ssh-ng://`: the worker protocol through SSH.
    SshNg,
    /// `file://`: a binary cache in a directory.
    File,
    /// `http://`: a binary cache.
    Http,
    /// `https://`: a binary cache.
    Https,
    /// `s3://`: a binary cache in a bucket.
    S3,
    /// Any other scheme.
    Other(String),
}

/// Parameters of stores of any kind.
const OF_ANY: &[&str] =
    &["store", "path-info-cache-size", "trusted", "priority", "want-mass-query", "system-features"];

/// Parameters of both kinds of stores that are reached by SSH.
const OF_SSH: &[&str] = &[
    "ssh-key",
    "base64-ssh-public-host-key",
    "compress",
    "remote-store",
    "remote-program",
    "max-connections",
];

impl Scheme {
    /// Returns the scheme as it is written.
    pub fn as_str(&self) -> &str {
        match self {
            Scheme::Auto => "auto",
            Scheme::Daemon => "daemon",
            Scheme::Local => "local",
            Scheme::Unix => "unix",
            Scheme::Ssh => "ssh",
            Scheme::SshNg => "ssh-ng",
            Scheme::File => "file",
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::S3 => "s3",
            Scheme::Other(scheme) => scheme,
        }
    }

    /// Whether stores of this kind are reached through SSH.
    pub fn is_ssh(&self) -> bool {
        matches!(self, Scheme::Ssh | Scheme::SshNg)
    }

    /// Whether a word can be a scheme.
    pub(crate) fn is_one(word: &str) -> bool {
        let mut bytes = word.bytes();
        bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    }

    fn parse(text: &str) -> Result<Scheme, StoreRule> {
        match text {
            // `auto` and `daemon` are words, not schemes.
            "auto" | "daemon" => Err(StoreRule::Word),
            _ if !Scheme::is_one(text) => Err(StoreRule::Scheme),
            "local" => Ok(Scheme::Local),
            "unix" => Ok(Scheme::Unix),
            "ssh" => Ok(Scheme::Ssh),
            "ssh-ng" => Ok(Scheme::SshNg),
            "file" => Ok(Scheme::File),
            "http" => Ok(Scheme::Http),
            "https" => Ok(Scheme::Https),
            "s3" => Ok(Scheme::S3),
            other => Ok(Scheme::Other(other.to_owned())),
        }
    }

    /// Checks that there is a host where there must be one, and none elsewhere.
    fn check(&self, authority: Option<&Authority>) -> Result<(), StoreRule> {
        match (self, authority) {
            (Scheme::Local | Scheme::Unix | Scheme::File, Some(_)) => Err(StoreRule::Host),
            (Scheme::Ssh | Scheme::SshNg | Scheme::Http | Scheme::Https | Scheme::S3, None) => {
                Err(StoreRule::NoHost)
            }
            (scheme, Some(authority)) => {
                let name = match &authority.host {
                    Host::Name(name) => name.as_str(),
                    Host::Ipv6 { .. } => "ipv6",
                };
                let user = authority.user.as_deref();
                if name.is_empty() {
                    Err(StoreRule::NoHost)
                } else if scheme.is_ssh() && user == Some("") {
                    Err(StoreRule::NoUser)
                } else if scheme.is_ssh() && [Some(name), user].into_iter().flatten().any(is_flag) {
                    Err(StoreRule::LeadingDash)
                } else {
                    Ok(())
                }
            }
            (_, None) => Ok(()),
        }
    }
}

/// Whether `ssh` would take an argument for a flag.
fn is_flag(argument: &str) -> bool {
    argument.starts_with('-')
}

/// The name of a store, with its parameters.
///
/// Displays as Nix renders it, so that equal stores look equal: parameters
/// are sorted and encoded anew. A password is displayed, too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreReference {
    scheme: Scheme,
    authority: Option<Authority>,
    path: String,
    params: BTreeMap<String, String>,
}

impl StoreReference {
    /// Returns the kind of store.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Returns user, host and port, of schemes that have them.
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// Returns the path, decoded: empty, or beginning with a slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the parameters after `?`, decoded.
    pub fn params(&self) -> &BTreeMap<String, String> {
        &self.params
    }

    /// Returns one parameter, decoded.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.get(name).map(String::as_str)
    }

    /// Returns the parameters that mean nothing for a store of this kind, if it's one of those that are
    /// reached by a connection.
    pub fn unknown_params(&self) -> impl Iterator<Item = &str> {
        let known: &[&[&str]] = match self.scheme {
            Scheme::Ssh => &[OF_ANY, OF_SSH, &["log-fd"]],
            Scheme::SshNg => &[OF_ANY, OF_SSH, &["max-connection-age"]],
            Scheme::Unix | Scheme::Daemon => &[
                OF_ANY,
                &["root", "state", "log", "real", "max-connections", "max-connection-age"],
            ],
            _ => &[],
        };
        let is_known =
            |name: &str| known.is_empty() || known.iter().any(|names| names.contains(&name));
        self.params.keys().map(String::as_str).filter(move |name| !is_known(name))
    }

    /// Returns the same store with one parameter set.
    #[must_use]
    pub fn with_param(mut self, name: &str, value: &str) -> StoreReference {
        self.params.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Whether this is `ssh://localhost` or `ssh-ng://localhost`, exactly: Nix
    /// then starts the program directly and leaves SSH out. A user or a port
    /// brings SSH back.
    pub fn is_without_ssh(&self) -> bool {
        let localhost = |authority: &Authority| {
            authority.user.is_none()
                && authority.port.is_none()
                && authority.host == Host::Name("localhost".to_owned())
        };
        self.scheme.is_ssh() && self.authority.as_ref().is_some_and(localhost)
    }

    fn parse(text: &str) -> Result<StoreReference, StoreRule> {
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let word = |scheme, query: &str| {
            Ok(StoreReference {
                scheme,
                authority: None,
                path: String::new(),
                params: parse_params(query)?,
            })
        };
        match base {
            "" | "auto" => word(Scheme::Auto, query),
            "daemon" if query.is_empty() => word(Scheme::Daemon, query),
            "daemon" => word(Scheme::Unix, query),
            "local" => word(Scheme::Local, query),
            _ if base.starts_with('/') => {
                let path = absolute(Path::new(base), Path::new("/"));
                let path = path.to_str().ok_or(StoreRule::PercentEncoding)?.to_owned();
                Ok(StoreReference { path, ..word(Scheme::Local, query)? })
            }
            _ => match base.split_once(':') {
                Some((scheme, rest)) if rest.starts_with('/') => {
                    // A fragment means nothing to a store.
                    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
                    let query = query.split_once('#').map_or(query, |(before, _)| before);
                    StoreReference::parse_url(Scheme::parse(scheme)?, rest, query)
                }
                _ if base.contains('/') => Err(StoreRule::RelativePath),
                _ => Err(StoreRule::Word),
            },
        }
    }

    fn parse_url(scheme: Scheme, rest: &str, query: &str) -> Result<StoreReference, StoreRule> {
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
        let authority = Authority::parse(authority)?;
        scheme.check(authority.as_ref())?;
        // Decoded, either of these would become another path.
        let lower = path.to_ascii_lowercase();
        if lower.contains("%2f") || lower.contains("%00") {
            return Err(StoreRule::EncodedSlash);
        }
        if let Some(found) = path.chars().find(|c| *c == ' ' || c.is_control()) {
            return Err(StoreRule::PathCharacter { found });
        }
        let path = decode(path).ok_or(StoreRule::PercentEncoding)?;
        Ok(StoreReference { scheme, authority, path, params: parse_params(query)? })
    }
}

/// Reads `name=value&…`. The first of several values wins, and a part without
/// `=` is left out, both as in Nix.
fn parse_params(query: &str) -> Result<BTreeMap<String, String>, StoreRule> {
    let mut params = BTreeMap::new();
    for (name, value) in query.split('&').filter_map(|part| part.split_once('=')) {
        let name = decode(name).ok_or(StoreRule::PercentEncoding)?;
        let value = decode(value).ok_or(StoreRule::PercentEncoding)?;
        params.entry(name).or_insert(value);
    }
    Ok(params)
}

impl FromStr for StoreReference {
    type Err = StoreReferenceError;

    fn from_str(text: &str) -> Result<StoreReference, StoreReferenceError> {
        StoreReference::parse(text)
            .map_err(|rule| StoreReferenceError { uri: without_password(text), rule })
    }
}

impl fmt::Display for StoreReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scheme.as_str())?;
        let bare = self.path.is_empty() && self.params.is_empty();
        let is_word = match self.scheme {
            Scheme::Auto | Scheme::Daemon => true,
            Scheme::Local => bare,
            _ => false,
        };
        if !is_word {
            f.write_str("://")?;
            if let Some(authority) = &self.authority {
                write!(f, "{authority}")?;
            }
            f.write_str(&encode(&self.path, ":@/"))?;
        }
        for (index, (name, value)) in self.params.iter().enumerate() {
            let separator = if index == 0 { '?' } else { '&' };
            write!(f, "{separator}{}={}", encode(name, ":@/?"), encode(value, ":@/?"))?;
        }
        Ok(())
    }
}

/// Text that does not name a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{uri}' is not a store: {rule}")]
pub struct StoreReferenceError {
    /// The text, without a password.
    pub uri: String,
    /// The rule it breaks.
    pub rule: StoreRule,
}

/// A rule for names of stores that was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreRule {
    /// It is a word that means nothing.
    #[error("expected auto, daemon, local, an absolute path, or a URL such as ssh-ng://host")]
    Word,
    /// It is a path whose meaning would depend on the working directory.
    #[error("a path must be absolute, and an SSH host with a '/' be written ssh://host…")]
    RelativePath,
    /// What is before `://` cannot be a scheme.
    #[error("the scheme may have only letters, digits, '+', '-' and '.'")]
    Scheme,
    /// There is no host, but the scheme is of stores elsewhere.
    #[error("the host is missing")]
    NoHost,
    /// There is an `@` with no user before it.
    #[error("the user before '@' is missing")]
    NoUser,
    /// There is a host, but the scheme is of stores on this machine.
    #[error("a host is given, but stores of this kind are local (a path needs three slashes)")]
    Host,
    /// The host has a character that hosts cannot have.
    #[error("the host contains {found:?}")]
    HostCharacter {
        /// The character.
        found: char,
    },
    /// Host or user would be taken for a flag by `ssh`.
    #[error("neither host nor user may begin with '-'")]
    LeadingDash,
    /// The port is not a number from 0 to 65535.
    #[error("'{port}' is not a port")]
    Port {
        /// The port.
        port: String,
    },
    /// What looks like an IPv6 address is none.
    #[error("the host is not an IPv6 address (with a port, write [address]:port)")]
    Ipv6,
    /// A `%` is not followed by two digits, or what is encoded is not UTF-8.
    #[error("'%' must begin the encoding of UTF-8 in two hexadecimal digits per byte")]
    PercentEncoding,
    /// The path has a slash or NUL that is encoded.
    #[error("the path contains an encoded slash or NUL")]
    EncodedSlash,
    /// The path has a character that must be encoded.
    #[error("the path contains {found:?}, which must be percent-encoded")]
    PathCharacter {
        /// The character.
        found: char,
    },
}

/// Returns `uri` with a password replaced by dots.
pub fn without_password(uri: &str) -> String {
    let password = || {
        let start = uri.find("://")? + 3;
        let authority = uri.get(start..)?.split('/').next()?;
        let (user, _) = authority.rsplit_once('@')?;
        let (before, password) = user.split_once(':')?;
        let start = start + before.len() + 1;
        Some((start, start + password.len()))
    };
    match password().and_then(|(start, end)| Some((uri.get(..start)?, uri.get(end..)?))) {
        Some((before, after)) => format!("{before}…{after}"),
        None => uri.to_owned(),
    }
}
