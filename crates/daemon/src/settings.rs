//! The settings of one connection, and which of them a client may change.
//!
//! Follows `ClientSettings::apply` in `src/libstore/daemon.cc` of Nix.

use std::time::Duration;

use drover_core::TrustedKeys;
use drover_store::{
    AfterFailure, BuildMode, BuildSettings, Optimise, OwnSetting, RealiseSettings,
    SignedRealisations, Substitute,
};
use drover_wire::ClientOptions;

use crate::observer::BuildLines;
use crate::policy::Policy;
use crate::server::ClientTrust;

/// Takes what a client is to be warned of.
pub(crate) type Warn<'a> = &'a dyn Fn(&str);

/// More cores, or builds at once, are not asked for in earnest.
const MAX_COUNT: u64 = 65_536;

/// The settings of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) lines: BuildLines,
    pub(crate) after_failure: AfterFailure,
    pub(crate) substitute: Substitute,
    pub(crate) build: BuildSettings,
    /// What the store does otherwise for this connection.
    pub(crate) store: Vec<OwnSetting>,
}

impl Settings {
    /// Returns those of a client that has not said anything yet.
    pub(crate) fn of(policy: &Policy) -> Settings {
        Settings {
            lines: BuildLines::Told,
            after_failure: policy.after_failure,
            substitute: policy.substitute,
            build: policy.build.clone(),
            store: Vec::new(),
        }
    }

    pub(crate) fn realise(&self, mode: BuildMode) -> RealiseSettings {
        RealiseSettings {
            mode,
            after_failure: self.after_failure,
            substitute: self.substitute,
            build: self.build.clone(),
            client: None,
        }
    }

    /// Takes over what a client says, as far as it may say it.
    pub(crate) fn apply(
        &mut self,
        options: &ClientOptions,
        trust: ClientTrust,
        policy: &Policy,
        warn: Warn<'_>,
    ) {
        *self = Settings::of(policy);
        self.lines = if options.verbose_build { BuildLines::Shown } else { BuildLines::Told };
        self.after_failure =
            if options.keep_going { AfterFailure::KeepGoing } else { AfterFailure::Stop };
        self.substitute = if options.use_substitutes { Substitute::Yes } else { Substitute::No };
        self.build.keep_failed = options.keep_failed;
        self.build.max_silent_time = seconds(options.max_silent_time);
        self.build.cores = u32::try_from(options.cores.min(MAX_COUNT)).ok();
        self.set("max-jobs", &options.max_jobs.min(MAX_COUNT).to_string());
        if options.fallback {
            self.set("fallback", "true");
        }
        for (name, value) in &options.overrides {
            self.apply_override(name, value, trust, policy, warn);
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        self.build.overrides.insert(name.to_owned(), value.to_owned());
    }

    fn apply_override(
        &mut self,
        name: &str,
        value: &str,
        trust: ClientTrust,
        policy: &Policy,
        warn: Warn<'_>,
    ) {
        let trusted = trust == ClientTrust::Trusted;
        match name {
            // one is obsolete, the other is the evaluator's business
            "ssh-auth-sock" | "experimental-features" => {}
            "plugin-files" => warn("Ignoring the client-specified plugin-files."),
            "timeout" | "build-timeout" if trusted || name == "timeout" => {
                if let Some(number) = number(name, value, warn) {
                    self.build.timeout = seconds(number);
                }
            }
            "max-silent-time" | "build-max-silent-time" if trusted || name == "max-silent-time" => {
                if let Some(number) = number(name, value, warn) {
                    self.build.max_silent_time = seconds(number);
                }
            }
            "build-poll-interval" | "connect-timeout" => {
                if number(name, value, warn).is_some() {
                    self.set(name, value);
                }
            }
            "builders" if trusted || value.is_empty() => self.set(name, value),
            _ if trusted => {
                self.store.extend(own_setting(name, value, warn));
                self.set(name, value);
            }
            "substituters" | "binary-caches" | "extra-substituters" => {
                let allowed: Vec<&str> =
                    value.split_whitespace().filter(|url| is_trusted(url, policy, warn)).collect();
                let allowed = allowed.join(" ");
                self.store.extend(own_setting(name, &allowed, warn));
                self.set(name, &allowed);
            }
            _ => warn(&format!(
                "ignoring the client-specified setting '{name}', because it is a restricted \
                 setting and you are not a trusted user"
            )),
        }
    }
}

/// Whether a substituter is one of those that everybody may use, with or without a slash at its end.
fn is_trusted(url: &str, policy: &Policy, warn: Warn<'_>) -> bool {
    let plain = |url: &str| url.trim_end_matches('/').to_owned();
    let known = policy.substituters.iter().chain(&policy.trusted_substituters);
    let found = known.into_iter().any(|known| plain(known) == plain(url));
    if !found {
        warn(&format!(
            "ignoring untrusted substituter '{url}', you are not a trusted user.\nRun `man \
             nix.conf` for more information on the `substituters` configuration option."
        ));
    }
    found
}

fn seconds(number: u64) -> Option<Duration> {
    (number > 0).then(|| Duration::from_secs(number))
}

/// Returns what a setting changes in the store, if anything.
fn own_setting(name: &str, value: &str, warn: Warn<'_>) -> Option<OwnSetting> {
    match name {
        "keep-outputs" | "gc-keep-outputs" => {
            switch(name, value, warn).map(OwnSetting::KeepOutputs)
        }
        "keep-derivations" | "gc-keep-derivations" => {
            switch(name, value, warn).map(OwnSetting::KeepDerivations)
        }
        "auto-optimise-store" => switch(name, value, warn).map(|on| {
            OwnSetting::Optimise(match on {
                true => Optimise::OnImport,
                false => Optimise::OnDemand,
            })
        }),
        "require-sigs" => switch(name, value, warn).map(|on| {
            OwnSetting::SignedRealisations(match on {
                true => SignedRealisations::AsPaths,
                false => SignedRealisations::Unneeded,
            })
        }),
        "trusted-public-keys" | "binary-cache-public-keys" => {
            keys(name, value, warn).map(OwnSetting::TrustedKeys)
        }
        "extra-trusted-public-keys" | "extra-binary-cache-public-keys" => {
            keys(name, value, warn).map(OwnSetting::MoreTrustedKeys)
        }
        "substituters" | "binary-caches" => Some(OwnSetting::Substituters(value.to_owned())),
        "extra-substituters" | "extra-binary-caches" => {
            Some(OwnSetting::MoreSubstituters(value.to_owned()))
        }
        _ => None,
    }
}

fn keys(name: &str, value: &str, warn: Warn<'_>) -> Option<TrustedKeys> {
    match TrustedKeys::parse(value.split_whitespace()) {
        Ok(keys) => Some(keys),
        Err(error) => {
            warn(&format!("setting '{name}' can't be used: {error}"));
            None
        }
    }
}

fn switch(name: &str, value: &str, warn: Warn<'_>) -> Option<bool> {
    let on = drover_config::parse_switch(value);
    if on.is_none() {
        warn(&format!("Boolean setting '{name}' has invalid value '{value}'"));
    }
    on
}

fn number(name: &str, value: &str, warn: Warn<'_>) -> Option<u64> {
    let number = value.parse().ok();
    if number.is_none() {
        warn(&format!("setting '{name}' has invalid value '{value}'"));
    }
    number
}
