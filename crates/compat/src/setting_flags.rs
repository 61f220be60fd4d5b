//! Settings as flags: `--keep-going`, `--no-keep-going`, `--substituters URLS`,
//! `--extra-substituters URLS`.
//!
//! The names are those of Nix 2.34, and of 2.8 where it had others; how they become flags follows
//! `BaseSetting::convertToArg` (`src/libutil/configuration.cc`). A setting that drover doesn't read
//! must be known all the same, as its flag may have a value after it.

/// A setting given as a flag.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SettingFlag<'a> {
    /// The flag says all.
    Fixed {
        /// The setting.
        name: &'a str,
        /// Its value.
        value: &'static str,
    },
    /// The value is the next argument.
    Valued {
        /// The setting, perhaps with `extra-` in front.
        name: String,
    },
}

/// Returns what a flag, given without its dashes, says of a setting.
pub(crate) fn setting_flag(flag: &str) -> Option<SettingFlag<'_>> {
    for (prefix, value) in [("", "true"), ("no-", "false"), ("relaxed-", "relaxed")] {
        let Some(name) = flag.strip_prefix(prefix) else { continue };
        let is_sandbox = SANDBOX.contains(&name);
        if is_sandbox || (value != "relaxed" && names(SWITCHES).any(|known| known == name)) {
            return Some(SettingFlag::Fixed { name, value });
        }
    }
    let is_extra =
        flag.strip_prefix("extra-").is_some_and(|name| names(LISTS).any(|known| known == name));
    let is_valued = is_extra || names(VALUED).any(|known| known == flag);
    is_valued.then(|| SettingFlag::Valued { name: flag.to_owned() })
}

fn names(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split_ascii_whitespace()
}

const SANDBOX: [&str; 3] = ["build-use-chroot", "build-use-sandbox", "sandbox"];

/// Settings that are on or off.
const SWITCHES: &str = "\
    abort-on-warn accept-flake-config allow-dirty allow-dirty-locks allow-import-from-derivation \
    allow-new-privileges allow-symlinked-store allow-unsafe-native-code-during-evaluation \
    always-allow-substitutes auto-allocate-uids auto-optimise-store build-compress-log \
    build-fallback build-impersonate-linux-26 build-keep-log build-use-substitutes \
    builders-use-substitutes compress-build-log debugger-on-trace debugger-on-warn \
    enforce-determinism env-keep-derivations eval-cache fallback filter-syscalls fsync-metadata \
    fsync-store-paths gc-keep-derivations gc-keep-outputs http2 ignore-try impersonate-linux-26 \
    keep-build-log keep-derivations keep-env-derivations keep-failed keep-going keep-outputs \
    nix-shell-always-looks-for-shell-nix nix-shell-shebang-arguments-relative-to-script \
    preallocate-contents print-missing pure-eval require-drop-supplementary-groups require-sigs \
    restrict-eval run-diff-hook sandbox-fallback show-trace substitute sync-before-registering \
    trace-function-calls trace-import-from-derivation trace-verbose \
    trust-tarballs-from-git-forges use-case-hack use-cgroups use-registries use-sqlite-wal \
    use-xdg-base-directories warn-dirty warn-short-path-literals";

/// Settings with a value.
const VALUED: &str = "\
    access-tokens allowed-impure-host-deps allowed-uris allowed-users bash-prompt \
    bash-prompt-prefix bash-prompt-suffix binary-cache-public-keys binary-caches \
    binary-caches-parallel-connections build-chroot-dirs build-cores build-dir build-hook \
    build-max-jobs build-max-log-size build-max-silent-time build-poll-interval build-repeat \
    build-sandbox-paths build-timeout build-users-group builders commit-lock-file-summary \
    commit-lockfile-summary connect-timeout cores diff-hook download-attempts \
    download-buffer-size download-speed eval-attrset-update-layer-rhs-threshold \
    eval-profile-file eval-profiler eval-profiler-frequency eval-system experimental-features \
    external-builders extra-platforms filetransfer-retry-attempts flake-registry \
    gc-reserved-space hashed-mirrors http-connections id-count ignored-acls impure-env \
    json-log-path lint-absolute-path-literals lint-short-path-literals lint-url-literals \
    log-lines max-build-log-size max-call-depth max-free max-jobs max-silent-time \
    max-substitution-jobs min-free min-free-check-interval nar-buffer-size \
    narinfo-cache-meta-ttl narinfo-cache-negative-ttl narinfo-cache-positive-ttl netrc-file \
    nix-path plugin-files post-build-hook pre-build-hook repeat sandbox-build-dir \
    sandbox-dev-shm-size sandbox-paths secret-key-files ssl-cert-file stalled-download-timeout \
    start-id store substituters substitution-max-jobs system system-features tarball-ttl timeout \
    trusted-binary-caches trusted-public-keys trusted-substituters trusted-users \
    upgrade-nix-store-path-url user-agent-suffix warn-large-path-threshold";

/// Those that `extra-` appends to.
const LISTS: &str = "\
    access-tokens allowed-impure-host-deps allowed-uris allowed-users binary-cache-public-keys \
    binary-caches build-chroot-dirs build-hook build-sandbox-paths experimental-features \
    external-builders extra-platforms hashed-mirrors ignored-acls impure-env nix-path \
    plugin-files sandbox-paths secret-key-files substituters system-features \
    trusted-binary-caches trusted-public-keys trusted-substituters trusted-users";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_setting_is_of_two_kinds() {
        let is_valued = |name: &str| names(VALUED).any(|known| known == name);
        assert_eq!(names(SWITCHES).find(|name| is_valued(name)), None);
        assert_eq!(names(LISTS).find(|name| !is_valued(name)), None);
    }

    #[test]
    fn unknown_names_are_no_settings() {
        for name in ["", "no-", "extra-", "extra-cores", "relaxed-fallback", "dry-run"] {
            assert_eq!(setting_flag(name), None, "{name}");
        }
    }
}
