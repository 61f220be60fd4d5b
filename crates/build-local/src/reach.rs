//! How far builds reach: which network one has, and how it finds names there.

use std::net::IpAddr;
use std::{fs, io};

use drover_sandbox::{Availability, Forwarder, Network};
use drover_store::LogEvent;

use crate::harvest::Reach;
use crate::job::{Job, Subject};

/// Returns the network of a build that is shut in.
pub(crate) fn network(job: &Job<'_>, subject: &Subject) -> Network {
    match (subject.reach, &job.settings.forwarder) {
        (Reach::None, _) => Network::Private,
        (Reach::Network, None) => Network::Host,
        (Reach::Network, Some(forwarder)) => match job.support.user_namespaces {
            Availability::Available => Network::Forwarded(forwarder.clone()),
            Availability::Unavailable(_) => {
                let text = "this system has no user namespaces, so this build has the machine's network \
                            ('pasta-path')";
                job.log.event(LogEvent::Message(text.to_owned()));
                Network::Host
            }
        },
    }
}

/// The file that says who knows names.
const RESOLVERS: &str = "/etc/resolv.conf";

/// Returns what the file says to a build whose network is its own; nothing where there is no such file.
pub(crate) fn resolvers() -> io::Result<Option<Vec<u8>>> {
    match fs::read(RESOLVERS) {
        Ok(bytes) => Ok(Some(translated(&String::from_utf8_lossy(&bytes)).into_bytes())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Has those who listen on the machine's loopback asked where the build finds them.
fn translated(text: &str) -> String {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address = match (words.next(), words.next()) {
            (Some("nameserver"), Some(address)) => address.parse::<IpAddr>().ok(),
            _ => None,
        };
        match address {
            Some(IpAddr::V4(address)) if address.is_loopback() => {
                format!("nameserver {}\n", Forwarder::NAME_SERVER)
            }
            Some(IpAddr::V6(address)) if address.is_loopback() => {
                format!("nameserver {}\n", Forwarder::NAME_SERVER_6)
            }
            _ => format!("{line}\n"),
        }
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::elsewhere("search a b\nnameserver 10.0.0.1\n", "search a b\nnameserver 10.0.0.1\n")]
    #[case::resolved(
        "# stub\nnameserver 127.0.0.53\noptions edns0",
        "# stub\nnameserver 192.0.0.1\noptions edns0\n"
    )]
    #[case::both(
        "nameserver ::1\nnameserver\t127.0.0.1 \nnameserver fd00::1\n",
        "nameserver 64:ff9b:1:d0e::1\nnameserver 192.0.0.1\nnameserver fd00::1\n"
    )]
    #[case::odd("nameserver\nnameserver x\n", "nameserver\nnameserver x\n")]
    fn those_on_the_loopback_are_found(#[case] outside: &str, #[case] inside: &str) {
        assert_eq!(translated(outside), inside);
    }
}
