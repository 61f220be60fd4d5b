//! What is to be done, as it's sent to where it's done.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::time::Duration;

use drover_core::with_causes;
use drover_download::{Certificates, Netrc, Proxies, Retries, Settings};
use serde::{Deserialize, Serialize};

use crate::attributes::Attributes;
use crate::{Builtin, BuiltinError, environment, fetch, unpack};

/// One build by a builder that is part of Nix.
#[derive(Clone, Serialize, Deserialize)]
pub struct Task {
    /// Which builder.
    pub builtin: Builtin,
    /// The environment that the derivation gives it, with the outputs' paths in it as the build sees
    /// them.
    pub environment: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Where `out` is to be made, as the build sees it.
    pub out: Vec<u8>,
    /// What is configured of downloads.
    pub fetching: Fetching,
}

/// What is configured of downloads. What is in files of the machine is read before, as the build can't
/// see them.
#[derive(Clone, Serialize, Deserialize)]
pub struct Fetching {
    /// The text of the file with certificates (`ssl-cert-file`).
    pub certificates: Vec<u8>,
    /// The text of `netrc-file`. It's held in memory only, and is never anywhere that a build could
    /// leave it.
    pub netrc: String,
    /// Where files may be found by their hashes (`hashed-mirrors`).
    pub hashed_mirrors: Vec<String>,
    /// The hash that a file must have, where it's a hash of the file itself.
    pub hash: Option<FlatHash>,
    /// The variables that name proxies.
    pub proxies: BTreeMap<String, String>,
    /// What is added to who servers are told that asks (`user-agent-suffix`).
    pub user_agent_suffix: String,
    /// Seconds until there must be a connection (`connect-timeout`); 0 for any.
    pub connect_timeout: u64,
    /// Seconds in which something must come (`stalled-download-timeout`); 0 for any.
    pub stalled_timeout: u64,
    /// How often it's tried (`download-attempts`).
    pub attempts: u32,
    /// Milliseconds until it's tried again first (`filetransfer-retry-delay`).
    pub pause_ms: u64,
    /// The same where the server is busy (`filetransfer-retry-delay-rate-limited`).
    pub pause_when_busy_ms: u64,
    /// The longest of these times (`filetransfer-retry-max-delay`).
    pub longest_pause_ms: u64,
}

/// A hash of a file, as hashed mirrors name files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlatHash {
    /// Such as `sha256`.
    pub algorithm: String,
    /// The digits, base 16.
    pub digits: String,
}

impl Task {
    /// Returns the bytes that [`run`] takes.
    ///
    /// # Errors
    ///
    /// None that is known of: the form has a place for everything.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BuiltinError> {
        postcard::to_stdvec(self).map_err(BuiltinError::Encoding)
    }

    /// Does it.
    ///
    /// # Errors
    ///
    /// What a user is told of why it failed. Something may be at its output by then.
    pub fn carry_out(&self) -> Result<(), BuiltinError> {
        let attributes = Attributes(&self.environment);
        match self.builtin {
            Builtin::Fetchurl => fetch::fetch(attributes, &self.out, &self.fetching),
            Builtin::Buildenv => environment::build(attributes, &self.out),
            Builtin::UnpackChannel => unpack::unpack(attributes, &self.out),
        }
    }
}

/// Does what a task's bytes say, and returns the status to end with, after saying what went wrong on
/// stderr, which is the build's log. For a process of its own.
pub fn run(task: &[u8]) -> u8 {
    let task = postcard::from_bytes::<Task>(task).map_err(BuiltinError::Encoding);
    match task.and_then(|task| task.carry_out()) {
        Ok(()) => 0,
        Err(error) => {
            say(&format!("error: {}", with_causes(&error)));
            1
        }
    }
}

/// Says something to who reads the log. If nobody does, nobody misses it.
pub(crate) fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap_or_default();
}

impl Default for Fetching {
    /// What Nix 2.34 does where nothing is configured, without certificates.
    fn default() -> Fetching {
        let Settings { connect_timeout, stalled_timeout, retries, .. } = Settings::default();
        let seconds = |limit: Option<Duration>| limit.unwrap_or_default().as_secs();
        let milliseconds = |pause: Duration| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        Fetching {
            certificates: Vec::new(),
            netrc: String::new(),
            hashed_mirrors: Vec::new(),
            hash: None,
            proxies: BTreeMap::new(),
            user_agent_suffix: String::new(),
            connect_timeout: seconds(connect_timeout),
            stalled_timeout: seconds(stalled_timeout),
            attempts: retries.attempts,
            pause_ms: milliseconds(retries.pause),
            pause_when_busy_ms: milliseconds(retries.pause_when_busy),
            longest_pause_ms: milliseconds(retries.longest_pause),
        }
    }
}

impl fmt::Debug for Fetching {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // there are passwords in it
        out.debug_struct("Fetching").field("attempts", &self.attempts).finish_non_exhaustive()
    }
}

impl Fetching {
    /// The variables that name proxies.
    pub const PROXY_VARIABLES: [&str; 7] = Proxies::VARIABLES;

    pub(crate) fn settings(&self) -> Settings {
        let seconds = |number: u64| (number != 0).then(|| Duration::from_secs(number));
        let usual = Settings::default();
        Settings {
            user_agent: [usual.user_agent.as_str(), self.user_agent_suffix.as_str()]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join(" "),
            certificates: Certificates(self.certificates.clone()),
            netrc: Netrc::parse(&self.netrc),
            proxies: Proxies::of_variables(|name| self.proxies.get(name).cloned()),
            connect_timeout: seconds(self.connect_timeout),
            stalled_timeout: seconds(self.stalled_timeout),
            retries: Retries {
                attempts: self.attempts,
                pause: Duration::from_millis(self.pause_ms),
                pause_when_busy: Duration::from_millis(self.pause_when_busy_ms),
                longest_pause: Duration::from_millis(self.longest_pause_ms),
            },
        }
    }
}
