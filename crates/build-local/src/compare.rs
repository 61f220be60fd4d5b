//! What was built once more beside what is valid: whether it's the same, and what is done where it isn't.
//!
//! Follows the checking half of `DerivationBuilderImpl::registerOutputs` and `handleDiffHook` of Nix 2.34
//! (`src/libstore/unix/build/derivation-builder.cc`). There a floating output that comes out differently
//! is compared with nothing, as its path is another one; here it differs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use drover_core::{OutputName, PathInfo};
use drover_derivation::DerivationKind;
use drover_store::{BuildFailure, FailureCause, LogEvent, Store as _};
use drover_store_local::{Product, Workshop};

use crate::failure::{Trouble, failed, of_bug};
use crate::hook::{Hook, Said};
use crate::job::{Job, Subject};
use crate::left::Left;
use crate::users::BuildUser;

/// A build whose outputs are to be compared.
pub(crate) struct Comparison<'a> {
    pub(crate) subject: &'a Subject,
    pub(crate) workshop: &'a Arc<Workshop>,
    pub(crate) user: &'a BuildUser,
    pub(crate) made: &'a Left,
}

/// Returns what is said of outputs that aren't what was there.
fn of_difference(message: String) -> BuildFailure {
    BuildFailure { cause: FailureCause::NotDeterministic, message }
}

/// Returns what is said where there is nothing to compare with, in the words of Nix.
pub(crate) fn nothing_to_compare(derivation: &str) -> BuildFailure {
    failed(format!(
        "some outputs of '{derivation}' are not valid, so checking is not possible\nHint: --rebuild and \
         --check error if the derivation was not previously built and cannot be substituted.\n      \
         Remove it to perform a fresh build, or use --repair to rewrite missing or corrupted builds in \
         the store."
    ))
}

impl Job<'_> {
    /// Compares what was built with these outputs. Where they differ, what was built is put beside what
    /// is valid, if somebody is to look at it: who wants failed builds kept, or the hook for that.
    pub(crate) async fn compare(
        &self,
        comparison: &Comparison<'_>,
        products: &BTreeMap<OutputName, Product>,
        valid: &[(OutputName, PathInfo)],
    ) -> Result<(), Trouble> {
        let Comparison { subject, workshop, .. } = comparison;
        // an impure one may differ
        if subject.kind == DerivationKind::Impure {
            return Ok(());
        }
        for (name, old) in valid {
            let Some(Product { info: new, entry }) = products.get(name) else { continue };
            if (&new.path, &new.nar_hash) == (&old.path, &old.nar_hash) {
                continue;
            }
            let real = self.store.layout().real_path(&old.path);
            let differs = format!(
                "derivation '{}' may not be deterministic: output \"{}\" differs",
                subject.shown,
                real.display()
            );
            let hook = self.settings.diff_hook.as_deref();
            if hook.is_none() && !self.keeps_failed() {
                return Err(of_difference(differs).into());
            }
            let (workshop, entry, old) = (Arc::clone(workshop), entry.clone(), old.path.clone());
            let kept = {
                let old = old.clone();
                tokio::task::spawn_blocking(move || workshop.keep_beside(&entry, &old)).await
            };
            let kept = match kept.map_err(|error| of_bug(&subject.shown, &error))? {
                Ok(kept) => kept,
                // whatever keeps it from being shown, it differs
                Err(error) => {
                    self.log.event(LogEvent::Message(format!("it can't be kept: {error}")));
                    return Err(of_difference(differs).into());
                }
            };
            if let Some(hook) = hook {
                let valid = self.store.store_dir().display(&old);
                self.show_difference(comparison, hook, &valid, &kept).await?;
            }
            let message = format!("{differs} from \"{}\"", kept.display());
            return Err(of_difference(message).into());
        }
        Ok(())
    }

    /// Has the hook show what differs, as the build's user. Whatever comes of that, they differ.
    async fn show_difference(
        &self,
        Comparison { subject, user, made, .. }: &Comparison<'_>,
        program: &Path,
        valid: &str,
        kept: &Path,
    ) -> Result<(), Trouble> {
        let arguments =
            vec![valid.into(), kept.into(), subject.shown.clone().into(), made.build().into()];
        let hook = Hook { program, arguments, user: user.identity_of_one() };
        let said = match hook.run(&self.launcher, self.cancel).await {
            Err(Trouble::Cancelled) => return Err(Trouble::Cancelled),
            Err(_) => Said { text: String::new(), ended: Err("can't be run".to_owned()) },
            Ok(said) => said,
        };
        let Said { text, ended } = said;
        if !text.is_empty() {
            self.log.event(LogEvent::Message(text));
        }
        if let Err(why) = ended {
            let text = format!("error: diff hook execution failed: diff-hook program {why}");
            self.log.event(LogEvent::Message(text));
        }
        Ok(())
    }
}
