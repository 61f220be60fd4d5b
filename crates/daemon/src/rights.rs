//! What clients who aren't trusted may not do, and how they are told.
//!
//! Follows `performOp` in `src/libstore/daemon.cc` of Nix, and is stricter in one place: repairing by
//! adding is for trusted clients only, as repairing by building is.

use std::collections::BTreeSet;

use drover_core::StorePath;
use drover_store::{BuildMode, Repair, SignatureCheck, WhenValid};

use crate::failure::Failure;
use crate::server::ClientTrust;

const CENSORED: &str = "{censored}";

impl ClientTrust {
    /// Refuses what only trusted clients may do.
    pub(crate) fn require(self, refusal: &str) -> Result<(), Failure> {
        match self {
            ClientTrust::Trusted => Ok(()),
            ClientTrust::NotTrusted => Err(Failure::new(refusal)),
        }
    }

    pub(crate) fn may_build(self, mode: BuildMode) -> Result<(), Failure> {
        match mode {
            BuildMode::Repair => {
                self.require("repairing is not allowed because you are not in 'trusted-users'")
            }
            BuildMode::Normal | BuildMode::Check => Ok(()),
        }
    }

    pub(crate) fn when_valid(self, repair: Repair) -> Result<WhenValid, Failure> {
        match repair {
            Repair::No => Ok(WhenValid::Keep),
            Repair::Yes => {
                self.require("you are not privileged to repair paths")?;
                Ok(WhenValid::Replace)
            }
        }
    }

    /// Signatures are looked at whatever a client who isn't trusted asks for.
    pub(crate) fn signatures(self, asked: SignatureCheck) -> SignatureCheck {
        match (self, asked) {
            (ClientTrust::Trusted, SignatureCheck::Skip) => SignatureCheck::Skip,
            _ => SignatureCheck::AsConfigured,
        }
    }

    /// Hides what others have open and what they are working on: links in braces and in `/proc`.
    pub(crate) fn visible_roots(
        self,
        roots: BTreeSet<(String, StorePath)>,
    ) -> BTreeSet<(String, StorePath)> {
        if self == ClientTrust::Trusted {
            return roots;
        }
        let hidden = |link: &str| link.starts_with('{') || link.starts_with("/proc/");
        let censor = |link: String| if hidden(&link) { CENSORED.to_owned() } else { link };
        roots.into_iter().map(|(link, path)| (censor(link), path)).collect()
    }
}
