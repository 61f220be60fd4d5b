//! `nix copy`.
//!
//! Follows `src/nix/copy.cc` of Nix.

use std::os::unix::ffi::OsStrExt as _;

use drover_config::{Scheme, StoreReference, whole_store_name};
use drover_store::Store;
use serde_json::json;

use super::outputs::Outputs;
use super::request::{CopyRequest, Layout, Selection};
use super::run::{Session, Stop};
use crate::copy_closure::{Copy, Reach, Target, infos_to_copy};
use crate::error::CompatError;
use crate::nix_store::Rehearsal;

impl Session<'_> {
    /// Copies paths from one store to another.
    pub(super) async fn copy(&mut self, request: CopyRequest) -> Result<(), Stop> {
        let address = |text: Option<String>| -> Result<Option<StoreReference>, CompatError> {
            let base = self.host.working_dir();
            let parse = |text: String| whole_store_name(&text, &base).parse::<StoreReference>();
            text.map(parse).transpose().map_err(|error| CompatError::usage(error.to_string()))
        };
        let (from, to) = (address(request.from)?, address(request.to)?);
        for (address, role) in [(&from, Role::Source), (&to, Role::Target)] {
            address.iter().try_for_each(|it| of_our_kinds(it, role, &request.paths))?;
        }
        let source = self.host.store(from.as_ref(), self.options).await?;
        let (named, reach) = self.chosen(&*source, from.as_ref(), request.paths).await?;
        let infos = infos_to_copy(&*source, named.paths, reach).await?;
        let target = match to {
            // that protocol has no way to say whether signatures are to be looked at; a cache looks at
            // none, as whoever fetches from it does
            Some(to) if matches!(to.scheme(), Scheme::Ssh) || is_cache(&to) => {
                Target::Store(self.host.store(Some(&to), self.options).await?)
            }
            to => {
                let keeper = self.host.keeper(to.as_ref(), self.options).await?;
                Target::Keeper(keeper.session().await?, request.signatures)
            }
        };
        let store_dir = source.store_dir().clone();
        let copy = Copy { source, infos, substitute: request.substitute };
        let copied = copy.run(&target, Rehearsal::No, &mut self.console).await?;
        target.take_realised(&named.realised).await?;
        if request.layout != Layout::Text {
            let paths: Vec<String> = copied.iter().map(|path| store_dir.display(path)).collect();
            self.tell(request.layout, json!({ "copied": paths })).await?;
        }
        Ok(())
    }

    /// Returns what is to be copied, and how far from there.
    async fn chosen(
        &self,
        source: &dyn Store,
        from: Option<&StoreReference>,
        selection: Selection,
    ) -> Result<(Outputs, Reach), Stop> {
        let mut chosen = Outputs::default();
        let (arguments, reach) = match selection {
            Selection::All => {
                let keeper = self.host.keeper(from, self.options).await?;
                chosen.paths.extend(keeper.all_valid().await?);
                return Ok((chosen, Reach::Paths));
            }
            Selection::Derivations(arguments, reach) => {
                chosen.paths.extend(self.derivations(source, &arguments, Reach::Paths).await?);
                return Ok((chosen, reach));
            }
            Selection::Named(arguments, reach) => (arguments, reach),
        };
        for argument in &arguments {
            if !argument.as_bytes().contains(&b'^') {
                chosen.paths.push(self.follow(source, argument)?);
                continue;
            }
            if from.is_some_and(is_cache) {
                let text =
                    "outputs of derivations can't be asked of a binary cache: name their paths";
                return Err(Stop::ForTheReal(CompatError::failed(text)));
            }
            let outputs = self.outputs(from, argument).await?;
            chosen.paths.extend(outputs.paths);
            chosen.realised.extend(outputs.realised);
        }
        Ok((chosen, reach))
    }
}

/// What a store is in a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Source,
    Target,
}

/// Whether a store is a binary cache.
fn is_cache(address: &StoreReference) -> bool {
    matches!(address.scheme(), Scheme::File | Scheme::Http | Scheme::Https | Scheme::S3)
}

/// Refuses what only the real one can: to list binary caches, and other kinds of stores.
fn of_our_kinds(address: &StoreReference, role: Role, paths: &Selection) -> Result<(), Stop> {
    let is_listed = role == Role::Source && matches!(paths, Selection::All);
    match address.scheme() {
        Scheme::Auto
        | Scheme::Daemon
        | Scheme::Local
        | Scheme::Unix
        | Scheme::Ssh
        | Scheme::SshNg => Ok(()),
        _ if is_cache(address) && !is_listed => Ok(()),
        _ => {
            let message = format!("store '{address}' is of a kind that is not known here");
            Err(Stop::ForTheReal(CompatError::failed(message)))
        }
    }
}
