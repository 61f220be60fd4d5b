//! What is configured of downloads, and of what builds that may download get from outside.
//!
//! Names, meanings and defaults are those of Nix 2.34 (`src/libstore/include/nix/store/`,
//! `filetransfer.hh` and `local-settings.hh`).

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use drover_build_local::{Outside, OwnVariables};
use drover_builtins::Fetching;
use drover_config::NixConf;

use crate::configuration::Configuration;

/// What Nix wants to have said before it takes `impure-env`.
const EXPERIMENT: &str = "configurable-impure-env";

/// Returns what is configured of downloads, apart from what is in files and variables.
///
/// # Errors
///
/// A setting with a value that it can't have.
pub(crate) fn fetching(conf: &NixConf) -> anyhow::Result<Fetching> {
    let usual = Fetching::default();
    let number = |name: &'static str, usual: u64| -> anyhow::Result<u64> {
        Ok(conf.number(name)?.unwrap_or(usual))
    };
    let attempts = number("filetransfer-retry-attempts", usual.attempts.into())?;
    Ok(Fetching {
        hashed_mirrors: words(conf, "hashed-mirrors"),
        user_agent_suffix: words(conf, "user-agent-suffix").join(" "),
        connect_timeout: number("connect-timeout", usual.connect_timeout)?,
        stalled_timeout: number("stalled-download-timeout", usual.stalled_timeout)?,
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        pause_ms: number("filetransfer-retry-delay", usual.pause_ms)?,
        pause_when_busy_ms: number(
            "filetransfer-retry-delay-rate-limited",
            usual.pause_when_busy_ms,
        )?,
        longest_pause_ms: number("filetransfer-retry-max-delay", usual.longest_pause_ms)?,
        ..usual
    })
}

/// Returns the file that says who downloads are for, which need not be there.
pub(crate) fn netrc_file(configuration: &Configuration) -> PathBuf {
    configuration.settings.caches.netrc_file.clone()
}

/// Returns what gives builds with access to the network the variables that they name
/// (`impureEnvVars`): `impure-env` before those of this process.
///
/// # Errors
///
/// `impure-env` without the experiment that it is, or with something that sets no variable.
pub(crate) fn outside(conf: &NixConf) -> anyhow::Result<Outside> {
    let mut set = BTreeMap::new();
    for word in words(conf, "impure-env") {
        let origin = conf.origin("impure-env");
        if own_variables(conf) == OwnVariables::Ignored {
            anyhow::bail!(
                "{origin}: setting 'impure-env' takes the experimental feature '{EXPERIMENT}'"
            );
        }
        let Some((name, value)) = word.split_once('=') else {
            anyhow::bail!("{origin}: '{word}' of setting 'impure-env' is no NAME=VALUE");
        };
        set.insert(name.to_owned(), value.to_owned());
    }
    Ok(Outside(Arc::new(move |name| match set.get(name) {
        Some(value) => Some(value.clone().into_bytes()),
        None => std::env::var_os(name).map(|value| value.into_vec()),
    })))
}

/// Says whether trusted clients may set such variables for what they have built.
pub(crate) fn own_variables(conf: &NixConf) -> OwnVariables {
    match words(conf, "experimental-features").iter().any(|it| it == EXPERIMENT) {
        true => OwnVariables::Taken,
        false => OwnVariables::Ignored,
    }
}

fn words(conf: &NixConf, name: &str) -> Vec<String> {
    let text = conf.raw(name).map(|raw| raw.text()).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}
