//! Where a server may lead.
//!
//! What it leads to is checked like all else that it sends, so another host will do: storage behind
//! a cache is often elsewhere. But nobody is led away from encryption, nor from outside to what only
//! this machine can reach.

use reqwest::Url;
use reqwest::redirect::{Attempt, Policy};

/// Redirects that are followed, one after another.
const MOST: usize = 5;

/// A redirect that isn't followed.
#[derive(Debug, thiserror::Error)]
#[error("{rule}")]
pub(crate) struct Refused {
    /// Where it led.
    pub(crate) to: String,
    /// Why it isn't followed.
    pub(crate) rule: &'static str,
}

pub(crate) fn policy() -> Policy {
    Policy::custom(|attempt: Attempt<'_>| {
        let broken = broken_rule(attempt.previous(), attempt.url());
        match broken {
            Some(rule) => {
                let to = attempt.url().to_string().chars().take(300).collect();
                attempt.error(Refused { to, rule })
            }
            None => attempt.follow(),
        }
    })
}

/// Returns the rule that a redirect breaks.
fn broken_rule(previous: &[Url], to: &Url) -> Option<&'static str> {
    let from = previous.first()?;
    if previous.len() > MOST {
        return Some("the sixth time in a row");
    }
    if !matches!(to.scheme(), "http" | "https") {
        return Some("which is neither http nor https");
    }
    if previous.iter().any(|url| url.scheme() == "https") && to.scheme() != "https" {
        return Some("which is not encrypted, as the cache is");
    }
    if is_near(to) && !is_near(from) {
        return Some("which only this machine can reach");
    }
    None
}

/// Whether a host is this machine, or is reached without any router.
fn is_near(url: &Url) -> bool {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    if host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost") {
        return true;
    }
    let near_4 = |ip: Ipv4Addr| ip.is_loopback() || ip.is_link_local() || ip.is_unspecified();
    let near_6 = |ip: Ipv6Addr| {
        ip.is_loopback()
            || ip.is_unspecified()
            || ip.segments().first().is_some_and(|part| part & 0xffc0 == 0xfe80)
    };
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => near_4(ip),
        Ok(IpAddr::V6(ip)) => near_6(ip) || ip.to_ipv4_mapped().is_some_and(near_4),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("http://a.org/x", "http://b.org/y", None)]
    #[case("http://a.org/x", "https://b.org/y", None)]
    #[case("https://a.org/x", "https://b.org/y", None)]
    #[case("https://a.org/x", "http://a.org/x", Some("which is not encrypted, as the cache is"))]
    #[case("http://a.org/x", "ftp://a.org/x", Some("which is neither http nor https"))]
    #[case("http://a.org/x", "http://localhost./x", Some("which only this machine can reach"))]
    #[case("http://a.org/x", "http://127.1/x", Some("which only this machine can reach"))]
    #[case("http://a.org/x", "http://169.254.169.254/x", Some("which only this machine can reach"))]
    #[case(
        "http://a.org/x",
        "http://[::ffff:127.0.0.1]/x",
        Some("which only this machine can reach")
    )]
    #[case("http://a.org/x", "http://[fe80::1]/x", Some("which only this machine can reach"))]
    #[case("http://127.0.0.1:80/x", "http://localhost/y", None)]
    fn follows_only_what_is_harmless(
        #[case] from: &str,
        #[case] to: &str,
        #[case] broken: Option<&str>,
    ) {
        let url = |text: &str| Url::parse(text).expect(text);
        assert_eq!(broken_rule(&[url(from)], &url(to)), broken);
    }

    #[test]
    fn follows_no_more_than_five() {
        let url = Url::parse("http://a.org/").expect("a URL");
        let previous = vec![url.clone(); MOST];
        assert_eq!(broken_rule(&previous, &url), None);
        let previous = vec![url.clone(); MOST + 1];
        assert_eq!(broken_rule(&previous, &url), Some("the sixth time in a row"));
    }
}
