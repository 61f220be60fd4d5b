//! Settings that nobody knows: most are misspelt.

use crate::keys::{self, KEYS};
use crate::nix_conf::NixConf;
use crate::origin::Origin;

/// A setting that neither drover nor Nix knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownSetting<'a> {
    /// Where it was written last.
    pub origin: &'a Origin,
    /// Its name, as it was written.
    pub name: &'a str,
    /// The setting that is called most like it, if one is much like it.
    pub nearest: Option<&'static str>,
}

/// Settings that Nix has or had between 2.8 and 2.36 and that mean nothing to drover (`nix config show --json` of
/// 2.8, 2.26 and 2.34; the last line: those of Nix on macOS, and of its forks).
#[rustfmt::skip]
const OTHERS: &[&str] = &[
    "abort-on-warn", "accept-flake-config", "allow-dirty", "allow-dirty-locks", "allow-import-from-derivation",
    "allow-unsafe-native-code-during-evaluation", "bash-prompt", "bash-prompt-prefix", "bash-prompt-suffix",
    "commit-lock-file-summary", "commit-lockfile-summary", "debugger-on-trace", "debugger-on-warn",
    "download-buffer-size", "download-speed", "enforce-determinism", "eval-attrset-update-layer-rhs-threshold",
    "eval-cache", "eval-profile-file", "eval-profiler", "eval-profiler-frequency", "eval-system", "external-builders",
    "flake-registry", "http2", "ignore-try", "json-log-path", "lint-absolute-path-literals",
    "lint-short-path-literals", "lint-url-literals", "max-call-depth", "nar-buffer-size", "narinfo-cache-meta-ttl",
    "nix-shell-always-looks-for-shell-nix", "nix-shell-shebang-arguments-relative-to-script", "preallocate-contents",
    "pure-eval", "restrict-eval", "show-trace", "tarball-ttl", "trace-function-calls",
    "trace-import-from-derivation", "trace-verbose", "trust-tarballs-from-git-forges", "upgrade-nix-store-path-url",
    "use-case-hack", "use-registries", "use-sqlite-wal", "warn-dirty", "warn-large-path-threshold",
    "warn-short-path-literals",
    "darwin-log-sandbox-violations", "eval-cores", "lazy-trees", "repl-overlays",
];

impl NixConf {
    /// Returns what has been set that neither drover nor Nix knows, by name.
    pub fn unknown(&self) -> impl Iterator<Item = UnknownSetting<'_>> {
        let unknown = self.iter().filter(|(name, _)| !is_known(name));
        unknown.map(|(name, setting)| UnknownSetting {
            origin: setting.origin(),
            name,
            nearest: nearest(name),
        })
    }
}

fn is_known(name: &str) -> bool {
    keys::find(name).is_some() || OTHERS.contains(&name)
}

/// Returns the name that is reached by the fewest changes of a letter, if they are few for its length.
fn nearest(name: &str) -> Option<&'static str> {
    let names = KEYS.iter().map(|key| key.name).chain(OTHERS.iter().copied());
    let near = names.map(|known| (changes(name, known), known));
    let (changes, known) = near.min_by_key(|(changes, _)| *changes)?;
    (changes * 3 <= name.chars().count().min(12)).then_some(known)
}

/// Returns how many letters have to be added, taken away or replaced to make one text of another.
fn changes(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut next = vec![at + 1];
        for (to, (wanted, above)) in other.iter().zip(row.windows(2)).enumerate() {
            let [diagonal, up] = above else { continue };
            let left = next.get(to).copied().unwrap_or_default();
            let replaced = diagonal + usize::from(letter != *wanted);
            next.push(replaced.min(up + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;
    use crate::environment::Environment;

    fn unknown(text: &str) -> Vec<(String, String, Option<&'static str>)> {
        let files = BTreeMap::from([(PathBuf::from("/etc/nix/nix.conf"), text.to_owned())]);
        let conf = NixConf::load(&Environment::default(), &files, &[]).unwrap();
        let told =
            |one: UnknownSetting<'_>| (one.origin.to_string(), one.name.to_owned(), one.nearest);
        conf.unknown().map(told).collect()
    }

    #[test]
    fn what_is_misspelt_is_told_with_what_is_meant() {
        let at = |line: usize| format!("/etc/nix/nix.conf:{line}");
        assert_eq!(
            unknown(
                "builder-use-substitutes = true\nmax-job = 3\nsubstitutors = a\nentirely-else = 1\nextra-max-jobs = 2\n"
            ),
            [
                (at(1), "builder-use-substitutes".to_owned(), Some("builders-use-substitutes")),
                (at(4), "entirely-else".to_owned(), None),
                (at(5), "extra-max-jobs".to_owned(), None),
                (at(2), "max-job".to_owned(), Some("max-jobs")),
                (at(3), "substitutors".to_owned(), Some("substituters")),
            ]
        );
    }

    #[test]
    fn what_nix_or_drover_knows_is_not_told() {
        let none: Vec<(String, String, Option<&'static str>)> = Vec::new();
        assert_eq!(
            unknown(
                "warn-dirty = false\nbuild-max-jobs = 2\nextra-substituters = a\nlocal-speed-factor = 2\n\
                 extra-platforms = x\nextra-experimental-features = flakes\n"
            ),
            none
        );
    }

    #[test]
    fn no_setting_is_listed_twice() {
        for name in OTHERS {
            assert!(keys::find(name).is_none(), "{name} is known otherwise");
        }
    }
}
