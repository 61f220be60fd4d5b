//! `drover key`: pairs of keys that paths are signed with.
//!
//! What is printed is what `nix key` prints, and files are those that `nix-store
//! --generate-binary-cache-key` writes, but that no secret is written over another.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use drover_core::{PublicKey, SecretKey};

use crate::exit::ExitStatus;
use crate::manual;
use crate::terminal::Terminal;

/// The arguments of `drover key`.
#[derive(Debug, Args)]
pub(crate) struct KeyArguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a pair of keys, as nix key generate-secret does, or files of both, as nix-store makes them
    Generate {
        /// What they are called, such as cache.example.org-1
        name: String,
        /// Where the secret one is written, for its owner alone; printed where this is left out
        #[arg(value_name = "SECRET-FILE")]
        secret: Option<PathBuf>,
        /// Where the public one is written; printed where only this is left out
        #[arg(value_name = "PUBLIC-FILE")]
        public: Option<PathBuf>,
    },
    /// Read a secret key, and print the public one of the pair, as nix key convert-secret-to-public does
    ConvertSecretToPublic,
}

/// Makes or reads keys.
///
/// # Errors
///
/// A name that no key can have, a text that is no key, and files that can't be written.
pub(crate) async fn run(command: KeyCommand, terminal: &Terminal) -> anyhow::Result<ExitStatus> {
    match command {
        KeyCommand::Generate { name, secret: None, .. } => {
            let key = SecretKey::generate(&name)?;
            manual::print(key.to_text().as_bytes())
        }
        KeyCommand::Generate { name, secret: Some(secret), public } => {
            let key = SecretKey::generate(&name)?;
            let public_there = public.as_deref().filter(|public| public.exists());
            if let Some(there) = public_there.filter(|_| !secret.exists()) {
                anyhow::bail!("'{}' is there already, and is not written over", there.display());
            }
            write_new(&secret, key.to_text().as_bytes())?;
            tell_public(&key.public_key(), public.as_deref(), terminal)
        }
        KeyCommand::ConvertSecretToPublic => {
            let words = ["key", "convert-secret-to-public"].map(Into::into);
            Ok(crate::names::run_own(words.into(), terminal).await)
        }
    }
}

/// Writes what nobody else may read into a file that isn't there yet.
fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let written = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    written().with_context(|| format!("cannot write the secret key to '{}'", path.display()))
}

fn tell_public(
    key: &PublicKey,
    file: Option<&Path>,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    match file {
        // the same file may have been named for both
        Some(file) => {
            let mut options = fs_err::OpenOptions::new();
            let mut file = options.write(true).create_new(true).open(file)?;
            file.write_all(key.to_string().as_bytes())?;
        }
        None => terminal.print(&key.to_string())?,
    }
    Ok(ExitStatus::SUCCESS)
}
