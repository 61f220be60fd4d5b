//! An SSH server answers at the port.

use std::time::Duration;

use crate::checks::last_words;
use crate::route::Route;
use crate::step::Verdict;

/// What came of connecting to the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was accepted, and these were the first words.
    Words(String),
    /// Nobody listens.
    Refused,
    /// Nothing came back.
    Nothing {
        /// How long was waited.
        after: Duration,
    },
    /// Another error.
    Failed {
        /// What the system said.
        reason: String,
    },
    /// It can't be tried from here, as a jump host stands between.
    NotTried,
}

/// Judges what came of connecting to the port.
pub fn judge(route: &Route, answer: &Answer) -> Verdict {
    let Route { host, port, via, .. } = route;
    match answer {
        Answer::NotTried => {
            let via = via.as_deref().unwrap_or("another host");
            Verdict::good(format!("port {port} is reached by {via}"))
        }
        Answer::Words(words) => match words.trim().strip_prefix("SSH-") {
            Some(version) => Verdict::good(format!("SSH {} at port {port}", last_words(version))),
            None => Verdict::wrong(
                format!("port {port} answers, but not as an SSH server: '{}'", last_words(words)),
                format!("name the port of its sshd: 'Host {host}' and 'Port N' in ~/.ssh/config"),
            ),
        },
        Answer::Refused => Verdict::wrong(
            format!("nobody listens at port {port} of {host}"),
            format!(
                "on {host}: sudo systemctl enable --now sshd (ssh on Debian); or name its port: 'Port N' in ~/.ssh/config"
            ),
        ),
        Answer::Nothing { after } => Verdict::wrong(
            format!("{host} doesn't answer at port {port} within {} s", after.as_secs()),
            format!(
                "is {host} up, and does a firewall between let port {port} through? ping {host}; nc -vz {host} {port}"
            ),
        ),
        Answer::Failed { reason } => Verdict::wrong(
            format!("port {port} of {host}: {reason}"),
            format!("nc -vz {host} {port}"),
        ),
    }
}
