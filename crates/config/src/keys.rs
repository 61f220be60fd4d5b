//! The settings of Nix: their names, older names, and what kind of value each has.
//!
//! Taken from the `Setting<…>` declarations of C++ Nix 2.36 and 2.8
//! (`src/libstore`, `src/libutil`, `src/libexpr`, `src/libfetchers`). Settings
//! that drover does not read are here only if they are lists, which `extra-`
//! appends to, or have older names.

/// A setting of Nix.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) aliases: &'static [&'static str],
}

/// What kind of value a setting has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number of 32 bits, perhaps with a unit.
    Number32,
    /// A whole number of 64 bits, perhaps with a unit.
    Number64,
    /// A number of jobs, or `auto`.
    Jobs,
    /// Whether to sandbox.
    Sandbox,
    /// Any text.
    Text,
    /// One store.
    Store,
    /// Words in order; `extra-` appends.
    Words,
    /// Stores in order; `extra-` appends.
    Stores,
    /// Drover does not read it.
    Other,
    /// Drover does not read it, but `extra-` appends to it.
    OtherWords,
}

impl Kind {
    /// Whether drover reads settings of this kind.
    pub(crate) fn is_read(self) -> bool {
        !matches!(self, Kind::Other | Kind::OtherWords)
    }

    /// Whether `extra-NAME` appends to a setting of this kind.
    pub(crate) fn is_appendable(self) -> bool {
        matches!(self, Kind::Words | Kind::Stores | Kind::OtherWords)
    }
}

/// Settings that Nix doesn't have.
const OWN: [&str; 3] = ["local-speed-factor", "naming-users", "require-sigs-from-builders"];

/// Whether a setting is drover's own: Nix's programs would warn of it.
pub fn is_own_setting(name: &str) -> bool {
    OWN.contains(&name)
}

const fn key(name: &'static str, kind: Kind, aliases: &'static [&'static str]) -> Key {
    Key { name, kind, aliases }
}

/// Every setting that the rest of the crate must know something about.
pub(crate) const KEYS: &[Key] = &[
    key("access-tokens", Kind::OtherWords, &[]),
    key("allow-new-privileges", Kind::Switch, &[]),
    key("allow-symlinked-store", Kind::Switch, &[]),
    key("allowed-impure-host-deps", Kind::OtherWords, &[]),
    key("allowed-uris", Kind::OtherWords, &[]),
    key("allowed-users", Kind::Words, &[]),
    key("always-allow-substitutes", Kind::Switch, &[]),
    key("auto-allocate-uids", Kind::Switch, &[]),
    key("auto-optimise-store", Kind::Switch, &[]),
    key("build-dir", Kind::Text, &[]),
    key("build-hook", Kind::Words, &[]),
    key("build-poll-interval", Kind::Number32, &[]),
    key("build-users-group", Kind::Text, &[]),
    key("builders", Kind::Text, &[]),
    key("builders-use-substitutes", Kind::Switch, &[]),
    key("compress-build-log", Kind::Switch, &["build-compress-log"]),
    key("connect-timeout", Kind::Number64, &[]),
    key("cores", Kind::Number32, &["build-cores"]),
    key("diff-hook", Kind::Text, &[]),
    key("experimental-features", Kind::Words, &[]),
    key("extra-platforms", Kind::Words, &[]),
    key("fallback", Kind::Switch, &["build-fallback"]),
    key("filetransfer-retry-attempts", Kind::Number32, &["download-attempts"]),
    key("filetransfer-retry-delay", Kind::Number64, &[]),
    key("filetransfer-retry-delay-rate-limited", Kind::Number64, &[]),
    key("filetransfer-retry-max-delay", Kind::Number64, &[]),
    key("filter-syscalls", Kind::Switch, &[]),
    key("fsync-metadata", Kind::Switch, &[]),
    key("fsync-store-paths", Kind::Switch, &[]),
    key("gc-reserved-space", Kind::Number64, &[]),
    key("hashed-mirrors", Kind::Words, &[]),
    key("http-connections", Kind::Number32, &["binary-caches-parallel-connections"]),
    key("id-count", Kind::Number32, &[]),
    key("ignored-acls", Kind::OtherWords, &[]),
    key("impersonate-linux-26", Kind::Other, &["build-impersonate-linux-26"]),
    key("impure-env", Kind::Words, &[]),
    key("keep-build-log", Kind::Switch, &["build-keep-log"]),
    key("keep-derivations", Kind::Switch, &["gc-keep-derivations"]),
    key("keep-env-derivations", Kind::Other, &["env-keep-derivations"]),
    key("keep-failed", Kind::Switch, &[]),
    key("keep-going", Kind::Switch, &[]),
    key("keep-outputs", Kind::Switch, &["gc-keep-outputs"]),
    // drover's own
    key("local-speed-factor", Kind::Text, &[]),
    key("log-lines", Kind::Number64, &[]),
    key("max-build-log-size", Kind::Number64, &["build-max-log-size"]),
    key("max-free", Kind::Number64, &[]),
    key("max-jobs", Kind::Jobs, &["build-max-jobs"]),
    key("max-silent-time", Kind::Number64, &["build-max-silent-time"]),
    key("max-substitution-jobs", Kind::Number32, &["substitution-max-jobs"]),
    key("min-free", Kind::Number64, &[]),
    key("min-free-check-interval", Kind::Number64, &[]),
    // drover's own
    key("naming-users", Kind::Words, &[]),
    key("narinfo-cache-negative-ttl", Kind::Number64, &[]),
    key("narinfo-cache-positive-ttl", Kind::Number64, &[]),
    key("netrc-file", Kind::Text, &[]),
    key("nix-path", Kind::OtherWords, &[]),
    // Lix's
    key("pasta-path", Kind::Text, &[]),
    key("plugin-files", Kind::OtherWords, &[]),
    key("post-build-hook", Kind::Text, &[]),
    key("pre-build-hook", Kind::Text, &[]),
    key("print-missing", Kind::Switch, &[]),
    key("repeat", Kind::Other, &["build-repeat"]),
    key("require-drop-supplementary-groups", Kind::Switch, &[]),
    key("require-sigs", Kind::Switch, &[]),
    // drover's own
    key("require-sigs-from-builders", Kind::Switch, &[]),
    key("run-diff-hook", Kind::Switch, &[]),
    key("sandbox", Kind::Sandbox, &["build-use-chroot", "build-use-sandbox"]),
    key("sandbox-build-dir", Kind::Text, &[]),
    key("sandbox-dev-shm-size", Kind::Text, &[]),
    key("sandbox-fallback", Kind::Switch, &[]),
    key("sandbox-paths", Kind::Words, &["build-chroot-dirs", "build-sandbox-paths"]),
    key("secret-key-files", Kind::Words, &[]),
    key("ssl-cert-file", Kind::Text, &[]),
    key("stalled-download-timeout", Kind::Number64, &[]),
    key("start-id", Kind::Number32, &[]),
    key("store", Kind::Store, &[]),
    key("substitute", Kind::Switch, &["build-use-substitutes"]),
    key("substituters", Kind::Stores, &["binary-caches"]),
    key("sync-before-registering", Kind::Switch, &[]),
    key("system", Kind::Text, &[]),
    key("system-features", Kind::Words, &[]),
    key("timeout", Kind::Number64, &["build-timeout"]),
    key("trusted-public-keys", Kind::Words, &["binary-cache-public-keys"]),
    key("trusted-substituters", Kind::Stores, &["trusted-binary-caches"]),
    key("trusted-users", Kind::Words, &[]),
    key("use-cgroups", Kind::Switch, &[]),
    key("use-xdg-base-directories", Kind::Switch, &[]),
    key("user-agent-suffix", Kind::Text, &[]),
];

/// Returns the setting called `name`, now or in the past.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name || key.aliases.contains(&name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The settings that the reference tells of: name, older names, type.
    fn told(page: &str) -> BTreeSet<(String, Vec<String>, String)> {
        let (settings, _) = page.split_once("## Variables of the environment").unwrap();
        let rows = settings.lines().filter_map(|line| line.strip_prefix("| `"));
        let told = rows.map(|row| {
            let cells: Vec<&str> = row.split(" | ").collect();
            let [names, kind, _, _] = cells.as_slice() else { panic!("four columns: {row}") };
            let mut names = names.split('`').step_by(2).map(str::to_owned);
            (
                names.next().unwrap(),
                names.filter(|name| !name.is_empty()).collect(),
                (*kind).to_owned(),
            )
        });
        told.collect()
    }

    #[test]
    fn the_reference_tells_of_every_setting_that_is_read() {
        let page = include_str!("../../../docs/settings.md");
        let kind = |kind| match kind {
            Kind::Switch => "true or false",
            Kind::Number32 | Kind::Number64 => "whole number",
            Kind::Jobs => "number or auto",
            Kind::Sandbox => "true, relaxed or false",
            Kind::Text => "text",
            Kind::Store => "store",
            Kind::Words => "words",
            Kind::Stores => "stores",
            Kind::Other | Kind::OtherWords => "none",
        };
        let read = KEYS.iter().filter(|key| key.kind.is_read()).map(|key| {
            let aliases = key.aliases.iter().map(|&alias| alias.to_owned()).collect();
            (key.name.to_owned(), aliases, kind(key.kind).to_owned())
        });
        assert_eq!(told(page), read.collect(), "docs/settings.md, and what is read");
    }

    #[test]
    fn no_name_stands_for_two_settings() {
        let names = KEYS.iter().flat_map(|key| key.aliases.iter().chain([&key.name]));
        let mut seen = BTreeSet::new();
        assert_eq!(names.filter(|name| !seen.insert(**name)).count(), 0);
    }
}
