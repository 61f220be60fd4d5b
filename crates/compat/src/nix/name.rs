//! The names of the commands of `nix` that are understood here.

use drover_core::HashNotation;

/// A command, before its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    StoreInfo,
    StoreGc,
    StoreOptimise,
    StoreDelete,
    StoreVerify,
    StoreRepair,
    StoreSign,
    PathInfo,
    Copy,
    KeyGenerate,
    KeyToPublic,
    ShowDerivation,
    Log,
    HashPath,
    HashFile,
    HashConvert,
    HashTo(HashNotation),
    Daemon,
}

impl Name {
    /// Returns the command that words name, if they are all of it.
    pub(super) fn of_words(words: &[&str]) -> Option<Name> {
        Some(match words {
            ["store", "info" | "ping"] | ["ping-store"] => Name::StoreInfo,
            ["store", "gc"] => Name::StoreGc,
            ["store", "optimise"] | ["optimise-store"] => Name::StoreOptimise,
            ["store", "delete"] => Name::StoreDelete,
            ["store", "verify"] | ["verify"] => Name::StoreVerify,
            ["store", "repair"] => Name::StoreRepair,
            ["store", "sign"] | ["sign-paths"] => Name::StoreSign,
            ["path-info"] => Name::PathInfo,
            ["copy"] => Name::Copy,
            ["key", "generate-secret"] => Name::KeyGenerate,
            ["key", "convert-secret-to-public"] => Name::KeyToPublic,
            ["derivation", "show"] | ["show-derivation"] => Name::ShowDerivation,
            ["log"] => Name::Log,
            ["hash", "path"] | ["hash-path"] => Name::HashPath,
            ["hash", "file"] | ["hash-file"] => Name::HashFile,
            ["hash", "convert"] => Name::HashConvert,
            ["hash", "to-base16"] | ["to-base16"] => Name::HashTo(HashNotation::Base16),
            ["hash", "to-base32"] | ["to-base32"] => Name::HashTo(HashNotation::Base32),
            ["hash", "to-base64"] | ["to-base64"] => Name::HashTo(HashNotation::Base64),
            ["hash", "to-sri"] => Name::HashTo(HashNotation::Sri),
            ["daemon"] => Name::Daemon,
            _ => return None,
        })
    }

    /// Whether drover's own word tells what it did as JSON, where `nix` has no form for it.
    pub(super) fn tells_results(self) -> bool {
        matches!(
            self,
            Name::StoreGc
                | Name::StoreOptimise
                | Name::StoreDelete
                | Name::StoreVerify
                | Name::StoreSign
                | Name::Copy
        )
    }
}
