//! The key of a host that is met for the first time.

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};
use drover_doctor::checks::host_key::{Expected, Standing, fingerprint_of, judge, standing};
use drover_doctor::{Route, Target};
use drover_store_remote::Login;

use super::arguments::LineArguments;
use super::known_hosts::is_unheard_of;
use crate::terminal::Terminal;

/// Returns the host's public key, once the user believes it: because `known_hosts` has it, because
/// its fingerprint was given, or because nothing is to be asked. `configuration` is what `ssh -G` says.
///
/// # Errors
///
/// The host shows another key than the one that is known or expected, or shows none.
pub(super) async fn believed(
    login: &Login,
    configuration: &str,
    target: &Target,
    arguments: &LineArguments,
    terminal: &Terminal,
) -> anyhow::Result<String> {
    let key = login.shown_key().await?;
    let print = fingerprint_of(&key).context("the host has shown a key that is none")?;
    let host = &target.destination;
    terminal.info(&format!("{host} shows {print}"));
    if let Some(expected) = &arguments.fingerprint {
        if print.split(' ').next_back() != Some(expected.0.as_str()) {
            bail!("{host} shows {print}, but {expected} is expected: somebody may stand between");
        }
        return Ok(key);
    }
    let (said, standing) = match is_unheard_of(configuration).await {
        true => (String::new(), Standing::Unknown),
        false => {
            let said = login.greeting().await?;
            let standing = standing(&said, &print);
            (said, standing)
        }
    };
    match standing {
        Standing::Known => terminal.info("that is the key in known_hosts"),
        Standing::Changed => {
            let route = Route::parse(configuration).unwrap_or_default();
            let known = judge(&said, Expected::KnownHosts, &route, target);
            bail!(
                "{host} shows another key than the one that is known or that it has shown before: somebody \
                 may stand between; {}",
                known.remedy.unwrap_or_default()
            )
        }
        Standing::Untold => bail!(
            "it could not be found out whether the key of {host} is known, as the connection ended before: \
             try again, or give the fingerprint by --fingerprint"
        ),
        Standing::Unknown if arguments.yes => {
            terminal.info("no key of it was known; it is believed, as --yes says")
        }
        Standing::Unknown => confirm(
            "Is that the machine's own fingerprint (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there)?",
            "give it by --fingerprint, or --yes to have nothing asked",
        )?,
    }
    Ok(key)
}

/// Asks a question that only a person can answer; `otherwise` is what to do where nobody is there.
///
/// # Errors
///
/// The answer is no, or nobody is there.
pub(super) fn confirm(question: &str, otherwise: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody is there to be asked: '{question}'; {otherwise}");
    }
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush())?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was changed"),
    }
}
