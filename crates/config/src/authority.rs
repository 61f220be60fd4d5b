//! The part of a URL between `//` and the path: user, host and port.
//!
//! Follows `ParsedURL::Authority` of C++ Nix (`src/libutil/url.cc`), and
//! `StoreReference::parse` (`src/libstore/store-reference.cc`) for addresses
//! without brackets, which older releases of Nix took.

use std::fmt;
use std::net::Ipv6Addr;

use crate::percent::{decode, encode};
use crate::store_reference::StoreRule;

/// Who and where in a URL: `user:password@host:port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Authority {
    /// The user, decoded.
    pub user: Option<String>,
    /// The password, decoded.
    pub password: Option<Password>,
    /// The host.
    pub host: Host,
    /// The port.
    pub port: Option<u16>,
}

/// A password, which is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// The host in a URL.
///
/// Displays as a program such as `ssh` takes it, without brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name, an alias of the SSH configuration, or an IPv4 address; decoded.
    Name(String),
    /// An IPv6 address.
    Ipv6 {
        /// The address.
        address: Ipv6Addr,
        /// The interface that a link-local address is seen from.
        zone: Option<String>,
    },
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Ipv6 { address, zone: None } => write!(f, "{address}"),
            Host::Ipv6 { address, zone: Some(zone) } => write!(f, "{address}%{zone}"),
        }
    }
}

impl Authority {
    /// Parses what is between `//` and the path; nothing if that is empty.
    pub(crate) fn parse(text: &str) -> Result<Option<Authority>, StoreRule> {
        if text.is_empty() {
            return Ok(None);
        }
        let (user, host_and_port) = match text.split_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, text),
        };
        let (user, password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
            Some((user, "")) => (Some(decoded(user)?), None),
            Some((user, password)) => (Some(decoded(user)?), Some(Password(decoded(password)?))),
            None => (None, None),
        };
        let (host, port) = split_port(host_and_port)?;
        Ok(Some(Authority { user, password, host, port }))
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            f.write_str(&encode(user, ""))?;
            if let Some(Password(password)) = &self.password {
                write!(f, ":{}", encode(password, ""))?;
            }
            f.write_str("@")?;
        }
        match &self.host {
            Host::Name(name) => f.write_str(&encode(name, ""))?,
            Host::Ipv6 { address, zone: None } => write!(f, "[{address}]")?,
            Host::Ipv6 { address, zone: Some(zone) } => {
                write!(f, "[{address}%25{}]", encode(zone, ""))?;
            }
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Splits host and port; more than one colon outside of brackets can only be
/// an IPv6 address without them, and without a port.
fn split_port(text: &str) -> Result<(Host, Option<u16>), StoreRule> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, rest) = bracketed.split_once(']').ok_or(StoreRule::Ipv6)?;
        let port = match rest.strip_prefix(':') {
            Some(port) => parse_port(port)?,
            None if rest.is_empty() => None,
            None => return Err(StoreRule::Ipv6),
        };
        return Ok((bracketed_ipv6(address)?, port));
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => {
            let (address, zone) = match text.split_once('%') {
                Some((address, zone)) => (address, Some(zone.to_owned())),
                None => (text, None),
            };
            Ok((ipv6(address, zone)?, None))
        }
        Some((name, port)) => Ok((host_name(name)?, parse_port(port)?)),
        None => Ok((host_name(text)?, None)),
    }
}

fn bracketed_ipv6(text: &str) -> Result<Host, StoreRule> {
    let Some((address, zone)) = text.split_once('%') else { return ipv6(text, None) };
    // By the standard the zone follows an encoded percent sign; a bare one is
    // taken too, and then the zone is as it stands.
    let zone = match zone.strip_prefix("25") {
        Some(zone) if !zone.is_empty() => decoded(zone)?,
        _ => zone.to_owned(),
    };
    ipv6(address, Some(zone))
}

fn ipv6(address: &str, zone: Option<String>) -> Result<Host, StoreRule> {
    let plain = |zone: &String| !zone.is_empty() && zone.chars().all(|c| c.is_ascii_graphic());
    match address.parse() {
        Ok(address) if zone.as_ref().is_none_or(plain) => Ok(Host::Ipv6 { address, zone }),
        _ => Err(StoreRule::Ipv6),
    }
}

fn host_name(text: &str) -> Result<Host, StoreRule> {
    let name = decoded(text)?;
    let refused = |c: char| c.is_whitespace() || c.is_control() || "@/?#[]\\<>\"^`{|}".contains(c);
    match name.chars().find(|c| refused(*c)) {
        Some(found) => Err(StoreRule::HostCharacter { found }),
        None => Ok(Host::Name(name)),
    }
}

fn parse_port(text: &str) -> Result<Option<u16>, StoreRule> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        _ if text.is_empty() => Ok(None),
        Ok(port) if digits => Ok(Some(port)),
        _ => Err(StoreRule::Port { port: text.to_owned() }),
    }
}

fn decoded(text: &str) -> Result<String, StoreRule> {
    decode(text).ok_or(StoreRule::PercentEncoding)
}
