//! The host's name resolves.

use std::net::IpAddr;
use std::time::Duration;

use crate::route::Route;
use crate::step::Verdict;

/// Returns the verdict where nothing was found out about a name in time.
pub fn overdue(limit: Duration, host: &str) -> Verdict {
    Verdict::wrong(
        format!("no name server has answered for {host} within {} s", limit.as_secs()),
        format!(
            "getent hosts {host}; which servers are asked stands in /etc/resolv.conf (resolvectl status)"
        ),
    )
}

/// Judges the addresses that a name was found to have; `alias` is the host as the line calls it.
pub fn judge(alias: &str, route: &Route, found: Result<&[IpAddr], &str>) -> Verdict {
    let Route { host, via, .. } = route;
    if let Some(via) = via {
        return Verdict::good(format!("{host} is looked up at the other end of {via}"));
    }
    let called = if alias == host {
        String::new()
    } else {
        format!("{alias} is {host} in ssh's configuration; ")
    };
    match found {
        Ok(addresses) if !addresses.is_empty() => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            Verdict::good(format!("{called}{host} is {}", addresses.join(", ")))
        }
        outcome => {
            let why = outcome.err().map_or("it has no address", |why| why);
            Verdict::wrong(
                format!("{called}{host} is no name that this machine knows: {why}"),
                format!(
                    "getent hosts {host}; where it has an address but no name, put 'Host {alias}' and \
                     'HostName ADDRESS' into ~/.ssh/config (root's, for Nix's daemon)"
                ),
            )
        }
    }
}
