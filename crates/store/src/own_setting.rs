//! Settings of a store that one of its clients has for itself.

use drover_core::TrustedKeys;

/// A setting of a store that one of its clients has for itself, other than the store is configured.
///
/// These are settings which Nix's local store looks up when it needs them, so that what a trusted
/// client says counts there, too (`gcKeepOutputs` and `gcKeepDerivations` in
/// `src/libstore/gc.cc`, `autoOptimiseStore` and `getPublicKeys` in `src/libstore/local-store.cc`, `compressLog` where a build's
/// log is opened). It
/// reads others, such as `require-sigs`, when it is opened.
#[derive(Clone, Debug)]
pub enum OwnSetting {
    /// `keep-outputs`: whether outputs of live derivations live.
    KeepOutputs(bool),
    /// `keep-derivations`: whether derivations of live outputs live.
    KeepDerivations(bool),
    /// `auto-optimise-store`.
    Optimise(Optimise),
    /// `compress-build-log`.
    Logs(LogForm),
    /// `trusted-public-keys`, where signatures are required at all.
    TrustedKeys(TrustedKeys),
    /// `extra-trusted-public-keys`: beside those that are trusted.
    MoreTrustedKeys(TrustedKeys),
    /// `require-sigs`, as far as it's about what substituters say that floating outputs became. Nix's
    /// daemon believes that from all substituters, signed or not.
    SignedRealisations(SignedRealisations),
    /// `substituters`: addresses, divided by spaces.
    Substituters(String),
    /// `extra-substituters`: beside those that are configured.
    MoreSubstituters(String),
}

/// Whether what substituters say that floating outputs became must be signed by a trusted key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedRealisations {
    /// It must, where paths must.
    AsPaths,
    /// It needn't.
    Unneeded,
}

/// Whether equal files become hard links when they are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Optimise {
    /// They do.
    OnImport,
    /// Only when asked for.
    OnDemand,
}

/// How build logs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogForm {
    /// As bzip2.
    Compressed,
    /// As they are.
    Plain,
}
