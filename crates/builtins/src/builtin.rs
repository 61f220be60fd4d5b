//! Which ones there are.

use serde::{Deserialize, Serialize};

/// A builder that is part of Nix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Builtin {
    /// Downloads a file.
    Fetchurl,
    /// Puts packages together to one tree of links, as profiles are.
    Buildenv,
    /// Unpacks the archive of a channel.
    UnpackChannel,
}

impl Builtin {
    /// Returns the one that a derivation names as its builder (`builtin:NAME`).
    pub fn of_builder(builder: &[u8]) -> Option<Builtin> {
        match builder.strip_prefix(b"builtin:")? {
            b"fetchurl" => Some(Builtin::Fetchurl),
            b"buildenv" => Some(Builtin::Buildenv),
            b"unpack-channel" => Some(Builtin::UnpackChannel),
            _ => None,
        }
    }
}
