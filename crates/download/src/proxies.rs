//! Which way requests go out.
//!
//! Follows curl, which Nix leaves it to: `http_proxy` in small letters only, the others in either
//! case, `all_proxy` for what has none of its own, `no_proxy` for hosts that are asked directly.

use std::fmt;

use reqwest::{NoProxy, Proxy};

/// The proxies that requests go through.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Option<String>,
    https: Option<String>,
    exceptions: Option<String>,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // there may be passwords in them
        write!(out, "Proxies(http: {}, https: {})", self.http.is_some(), self.https.is_some())
    }
}

/// A proxy that can't be one.
#[derive(Debug, thiserror::Error)]
#[error("the variable '{variable}' is no address of a proxy")]
pub struct ProxyError {
    /// What says so.
    pub variable: &'static str,
}

impl Proxies {
    /// The variables that say something of proxies.
    pub const VARIABLES: [&str; 7] = [
        "http_proxy",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
        "no_proxy",
        "NO_PROXY",
    ];

    /// Reads the variables that `variable` returns.
    pub fn of_variables(variable: impl Fn(&str) -> Option<String>) -> Proxies {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let all = || set("all_proxy").or_else(|| set("ALL_PROXY"));
        Proxies {
            http: set("http_proxy").or_else(all),
            https: set("https_proxy").or_else(|| set("HTTPS_PROXY")).or_else(all),
            exceptions: set("no_proxy").or_else(|| set("NO_PROXY")),
        }
    }

    /// Returns them as the client wants them.
    pub(crate) fn make(&self) -> Result<Vec<Proxy>, ProxyError> {
        let mut made = Vec::new();
        let exceptions = || self.exceptions.as_deref().and_then(NoProxy::from_string);
        let address = |text: &str| match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}"),
        };
        if let Some(text) = &self.http {
            let proxy = Proxy::http(address(text));
            let proxy = proxy.map_err(|_| ProxyError { variable: "http_proxy" })?;
            made.push(proxy.no_proxy(exceptions()));
        }
        if let Some(text) = &self.https {
            let proxy = Proxy::https(address(text));
            let proxy = proxy.map_err(|_| ProxyError { variable: "https_proxy" })?;
            made.push(proxy.no_proxy(exceptions()));
        }
        Ok(made)
    }
}
