//! One machine that builds can be sent to, and its line in the machines file.
//!
//! Follows `Machine` and `parseBuilderLine` of C++ Nix
//! (`src/libstore/machines.cc`).

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use crate::host_key::HostKey;
use crate::machines::MachinesError;
use crate::origin::Origin;
use crate::store_reference::{Scheme, StoreReference};
use crate::words::{comma_separated, words};

/// A machine that builds can be sent to.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Its store, with `ssh://` in front of what was only a host. Displayed, it
    /// is also what tells machines apart for Nix: equal stores share slots.
    pub store_uri: StoreReference,
    /// The systems it builds for; exactly these, nothing follows from them.
    pub systems: BTreeSet<String>,
    /// The private key to log in with.
    pub ssh_key: Option<PathBuf>,
    /// Builds at once; 0 is allowed, and then it never builds.
    pub max_jobs: u32,
    /// How fast it is, compared with others.
    pub speed_factor: SpeedFactor,
    /// Features it has.
    pub supported_features: BTreeSet<String>,
    /// Features that a derivation must ask for to be built here. It has them,
    /// too, whether or not they are in `supported_features`.
    pub mandatory_features: BTreeSet<String>,
    /// The host key to expect.
    pub public_host_key: Option<HostKey>,
    /// Where the machine is written.
    pub origin: Origin,
    /// What stands after the last column and means nothing.
    pub extra_columns: Vec<String>,
}

impl Machine {
    /// Whether it builds for `system`. Everything builds for `builtin`.
    pub fn supports_system(&self, system: &str) -> bool {
        system == "builtin" || self.systems.contains(system)
    }

    /// Whether it has all `features`, and they include those it insists on.
    pub fn accepts_features(&self, features: &BTreeSet<String>) -> bool {
        let has = |feature: &String| {
            self.supported_features.contains(feature) || self.mandatory_features.contains(feature)
        };
        features.iter().all(has) && self.mandatory_features.is_subset(features)
    }

    /// Returns the store with the parameters that Nix adds when it connects:
    /// the key and the host key for SSH, the features as `system-features`, and
    /// for `ssh://` also `max-connections=1` and `log-fd=4`.
    pub fn store_uri_with_params(&self) -> StoreReference {
        let mut store = self.store_uri.clone();
        if *store.scheme() == Scheme::Ssh {
            store = store.with_param("max-connections", "1").with_param("log-fd", "4");
        }
        if store.scheme().is_ssh() {
            if let Some(key) = self.ssh_key.as_ref().and_then(|key| key.to_str()) {
                store = store.with_param("ssh-key", key);
            }
            if let Some(key) = &self.public_host_key {
                store = store.with_param("base64-ssh-public-host-key", key.as_base64());
            }
        }
        // Nix appends to what the URI says, and writes a feature of both
        // columns twice.
        let given = store.param("system-features").filter(|given| !given.is_empty());
        let features: Vec<&str> = given
            .into_iter()
            .chain(self.supported_features.iter().map(String::as_str))
            .chain(self.mandatory_features.iter().map(String::as_str))
            .collect();
        let features = features.join(" ");
        store.with_param("system-features", &features)
    }

    /// Parses one line, without comment and `;`.
    pub(crate) fn parse(
        line: &str,
        origin: &Origin,
        default_system: &str,
    ) -> Result<Machine, MachinesError> {
        let mut columns = words(line);
        let mut next = || columns.next().filter(|column| *column != "-");
        let uri = next().ok_or_else(|| MachinesError::NoStore {
            origin: origin.clone(),
            line: line.to_owned(),
        })?;
        let store_uri = with_scheme(uri)
            .parse()
            .map_err(|source| MachinesError::Store { origin: origin.clone(), source })?;
        let bad = |column: Column, value: &str| MachinesError::Column {
            origin: origin.clone(),
            column,
            value: value.to_owned(),
        };
        let set = |column: Option<&str>| -> BTreeSet<String> {
            comma_separated(column.unwrap_or_default()).map(str::to_owned).collect()
        };
        Ok(Machine {
            store_uri,
            systems: set(Some(next().unwrap_or(default_system))),
            ssh_key: next().map(PathBuf::from),
            max_jobs: match next() {
                Some(text) => text.parse().map_err(|_| bad(Column::MaxJobs, text))?,
                None => 1,
            },
            speed_factor: match next() {
                Some(text) => SpeedFactor::parse(text).ok_or_else(|| bad(Column::Speed, text))?,
                None => SpeedFactor::default(),
            },
            supported_features: set(next()),
            mandatory_features: set(next()),
            public_host_key: match next() {
                Some(text) => {
                    Some(HostKey::from_base64(text).ok_or_else(|| bad(Column::HostKey, text))?)
                }
                None => None,
            },
            origin: origin.clone(),
            extra_columns: columns.map(str::to_owned).collect(),
        })
    }
}

/// Puts `ssh://` before what is neither a URL, a path, nor a special word.
fn with_scheme(uri: &str) -> String {
    let base = uri.split_once('?').map_or(uri, |(base, _)| base);
    let special = ["", "auto", "daemon", "local"].contains(&base);
    if special || uri.contains('/') { uri.to_owned() } else { format!("ssh://{uri}") }
}

/// How fast a machine is, compared with others: finite and above zero.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct SpeedFactor(f32);

impl SpeedFactor {
    /// Returns the factor; zero counts as one, as in Nix.
    pub fn new(factor: f32) -> Option<SpeedFactor> {
        match factor {
            0.0 => Some(SpeedFactor(1.0)),
            _ if factor.is_finite() && 0.0 < factor => Some(SpeedFactor(factor)),
            _ => None,
        }
    }

    /// Returns the factor as a number.
    pub fn get(self) -> f32 {
        self.0
    }

    fn parse(text: &str) -> Option<SpeedFactor> {
        SpeedFactor::new(text.parse().ok()?)
    }
}

impl Default for SpeedFactor {
    fn default() -> SpeedFactor {
        SpeedFactor(1.0)
    }
}

/// A column of the machines file that has rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Column {
    /// The fourth: how many builds at once.
    MaxJobs,
    /// The fifth: the speed factor.
    Speed,
    /// The eighth: the public host key.
    HostKey,
}

impl Column {
    /// What the column takes.
    pub(crate) fn accepts(self) -> &'static str {
        match self {
            Column::MaxJobs => "a whole number",
            Column::Speed => "a number that is not negative",
            Column::HostKey => "base64 of a whole public key line",
        }
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Column::MaxJobs => "column 4 (max jobs)",
            Column::Speed => "column 5 (speed factor)",
            Column::HostKey => "column 8 (public host key)",
        })
    }
}
