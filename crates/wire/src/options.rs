//! The settings that travel with `SetOptions`.
//!
//! Follows `setOptions` in `src/libstore/remote-store.cc` of Nix.

use std::collections::BTreeMap;

use crate::codec::{Decoder, Encoder};
use crate::error::DecodeError;

/// The settings that a client sends for its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// Keep the folders of failed builds.
    pub keep_failed: bool,
    /// Go on with what doesn't depend on a failure.
    pub keep_going: bool,
    /// Build where substitution fails.
    pub fallback: bool,
    /// Verbosity level, 0 (error) to 7 (vomit).
    pub verbosity: u64,
    /// Builds at once.
    pub max_jobs: u64,
    /// Seconds of silence after which a build is ended, 0 for none.
    pub max_silent_time: u64,
    /// Whether build logs are shown.
    pub verbose_build: bool,
    /// `NIX_BUILD_CORES`, 0 for all.
    pub cores: u64,
    /// Whether substituters are used.
    pub use_substitutes: bool,
    /// Further settings by name.
    pub overrides: BTreeMap<String, String>,
}

impl ClientOptions {
    pub(crate) fn encode(&self, out: &mut Encoder) {
        out.flag(self.keep_failed);
        out.flag(self.keep_going);
        out.flag(self.fallback);
        out.number(self.verbosity);
        out.number(self.max_jobs);
        out.number(self.max_silent_time);
        out.number(1); // obsolete: use the build hook
        out.number(if self.verbose_build { 0 } else { 7 });
        out.number(0); // obsolete: log type
        out.number(0); // obsolete: print the build trace
        out.number(self.cores);
        out.flag(self.use_substitutes);
        out.list(self.overrides.iter(), |out, (name, value)| {
            out.text(name);
            out.text(value);
        });
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<ClientOptions, DecodeError> {
        let mut options = ClientOptions {
            keep_failed: from.flag()?,
            keep_going: from.flag()?,
            fallback: from.flag()?,
            verbosity: from.number_up_to("verbosity", 7)?,
            max_jobs: from.number()?,
            max_silent_time: from.number()?,
            verbose_build: false,
            cores: 0,
            use_substitutes: false,
            overrides: BTreeMap::new(),
        };
        from.number()?;
        options.verbose_build = from.number()? == 0;
        from.number()?;
        from.number()?;
        options.cores = from.number()?;
        options.use_substitutes = from.flag()?;
        let overrides: Vec<(String, String)> =
            from.list(|from| Ok((from.text()?.to_owned(), from.message()?)))?;
        options.overrides = overrides.into_iter().collect();
        Ok(options)
    }
}
