//! What the user typed behind `drover builder`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

use crate::arguments::{SettingArguments, VerbosityArguments};

/// The arguments of `drover builder`.
#[derive(Debug, Args)]
pub(crate) struct BuilderArguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: BuilderCommand,
}

/// What to do with a machine.
#[derive(Debug, Subcommand)]
pub(crate) enum BuilderCommand {
    /// Try a machine, and write it into the machines file
    Add(Box<AddArguments>),
    /// Put drover on a machine, without root there, and write it into the machines file
    Bootstrap(Box<BootstrapArguments>),
}

/// The arguments of `drover builder add`.
#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// USER@HOST, an alias of ~/.ssh/config, or an address such as ssh-ng://HOST?remote-program=/bin/nix-daemon
    #[arg(value_name = "HOST")]
    pub(crate) host: String,
    #[command(flatten)]
    pub(crate) line: LineArguments,
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

/// The arguments of `drover builder bootstrap`.
#[derive(Debug, Args)]
pub(crate) struct BootstrapArguments {
    /// USER@HOST, or an alias of ~/.ssh/config
    #[arg(value_name = "HOST")]
    pub(crate) host: String,
    /// The program for that machine; this very one where it needs no libraries
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
    /// Put it there though the machine has a Nix
    #[arg(long)]
    pub(crate) even_with_nix: bool,
    #[command(flatten)]
    pub(crate) line: LineArguments,
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

/// The fingerprint of a host key, as `ssh-keygen -lf` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(pub(crate) String);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a fingerprint such as SHA256: and 43 letters, digits, + and / behind it, which ssh-keygen -lf prints"
)]
pub(crate) struct NoFingerprint;

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Fingerprint, NoFingerprint> {
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
        let hash = text.strip_prefix("SHA256:").filter(|hash| hash.len() == 43);
        match hash.is_some_and(|hash| hash.bytes().all(is_base64)) {
            true => Ok(Fingerprint(text.to_owned())),
            false => Err(NoFingerprint),
        }
    }
}

/// What the line is to say beside what is found out.
#[derive(Debug, Args)]
#[command(next_help_heading = "The line")]
pub(crate) struct LineArguments {
    /// Builds at once; by default as many as the machine has cores
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_jobs: Option<u32>,
    /// Systems, separated by commas; by default those of its Nix
    #[arg(long, value_name = "SYSTEMS", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    pub(crate) systems: Vec<String>,
    /// Features, separated by commas; by default those of its Nix
    #[arg(long, value_name = "FEATURES", value_delimiter = ',')]
    pub(crate) features: Option<Vec<String>>,
    /// The private key to log in with
    #[arg(long, value_name = "FILE")]
    pub(crate) ssh_key: Option<PathBuf>,
    /// The host key that is expected, by its fingerprint (SHA256:…); nothing is asked then
    #[arg(long, value_name = "FINGERPRINT")]
    pub(crate) fingerprint: Option<Fingerprint>,
    /// The file to write; by default the one that 'builders' names
    #[arg(long, value_name = "FILE")]
    pub(crate) machines_file: Option<PathBuf>,
    /// Ask nothing: the key that the host shows is believed
    #[arg(short, long)]
    pub(crate) yes: bool,
}

impl BuilderArguments {
    /// Returns how much is to be said.
    pub(crate) fn verbosity(&self) -> &VerbosityArguments {
        match &self.command {
            BuilderCommand::Add(arguments) => &arguments.verbosity,
            BuilderCommand::Bootstrap(arguments) => &arguments.verbosity,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that is no fingerprint isn't taken for that of somebody who stands between.
    #[test]
    fn what_is_no_fingerprint_is_refused() {
        let good = format!("SHA256:{}", "aZ9+/".repeat(9).get(..43).unwrap());
        assert_eq!(good.parse(), Ok(Fingerprint(good.clone())));
        for bad in ["abc", "MD5:16:27:ac", "SHA256:abc", &format!("{good}="), &good[7..]] {
            assert_eq!(bad.parse::<Fingerprint>(), Err(NoFingerprint), "{bad}");
        }
    }
}
