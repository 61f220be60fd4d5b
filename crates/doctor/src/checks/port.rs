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
            // the whole of what OpenSSH says from 9.8 on to those whom it shuts out
            None if words.trim() == "Not allowed at this time" => Verdict::wrong(
                format!(
                    "the SSH server at port {port} of {host} shuts this machine out for a while, as it has come \
                     often without logging in (PerSourcePenalties): 'Not allowed at this time'"
                ),
                format!(
                    "wait some minutes; or on {host}, in /etc/ssh/sshd_config: PerSourcePenaltyExemptList with the \
                     address of this machine, then: sudo systemctl reload sshd (ssh on Debian)"
                ),
            ),
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
