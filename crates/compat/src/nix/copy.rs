//! `nix copy`.
//!
//! Follows `src/nix/copy.cc` of Nix.

use std::os::unix::ffi::OsStrExt as _;

use drover_config::{Scheme, StoreReference, whole_store_name};
use serde_json::json;

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
        let mut realised = Vec::new();
        let infos = match request.paths {
            Selection::All => {
                let keeper = self.host.keeper(from.as_ref(), self.options).await?;
                let paths = keeper.all_valid().await?.into_iter().collect();
                infos_to_copy(&*source, paths, Reach::Paths).await?
            }
            Selection::Derivations(arguments, reach) => {
                let paths = self.derivations(&*source, &arguments, Reach::Paths).await?;
                infos_to_copy(&*source, paths.into_iter().collect(), reach).await?
            }
            Selection::Named(arguments, reach) => {
                let mut paths = Vec::with_capacity(arguments.len());
                for argument in &arguments {
                    if !argument.as_bytes().contains(&b'^') {
                        paths.push(self.follow(&*source, argument)?);
                        continue;
                    }
                    let outputs = self.outputs(from.as_ref(), argument).await?;
                    paths.extend(outputs.paths);
                    realised.extend(outputs.realised);
                }
                infos_to_copy(&*source, paths, reach).await?
            }
        };
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
        target.take_realised(&realised).await?;
        if request.layout != Layout::Text {
            let paths: Vec<String> = copied.iter().map(|path| store_dir.display(path)).collect();
            self.tell(request.layout, json!({ "copied": paths })).await?;
        }
        Ok(())
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
