//! Command lines that are left to the real Nix though their name is ours.
//!
//! A binary cache isn't kept but only read and copied to here, and some kinds of stores aren't known at
//! all; the real one has both. It also has the way from a store that is evaluated into to another one
//! that is built in (`--eval-store`).

use std::ffi::OsString;

use drover_config::{Scheme, StoreReference};

use crate::command::{Parsed, Program};
use crate::host::Host;
use crate::options::Options;
use crate::{build, collect_garbage, copy_closure, nix_store};

/// Whether the real program is to carry a command line out.
pub(crate) fn is_foreign(program: Program, arguments: &[OsString], host: &dyn Host) -> bool {
    let evaluates_elsewhere =
        program == Program::NixBuild && arguments.iter().any(|word| word == "--eval-store");
    let options = || match program {
        Program::NixStore => options_of(nix_store::parse(arguments.to_vec())),
        Program::NixCopyClosure => options_of(copy_closure::parse(arguments.to_vec())),
        Program::NixCollectGarbage => options_of(collect_garbage::parse(arguments.to_vec())),
        Program::NixBuild => options_of(build::parse(arguments.to_vec())),
        // they have no store, or say themselves what they can't do
        Program::NixHash | Program::NixDaemon | Program::NixInstantiate | Program::Nix => None,
    };
    evaluates_elsewhere || options().is_some_and(|options| is_in_foreign_store(&options, host))
}

fn options_of<R, E>(parsed: Result<Parsed<R>, E>) -> Option<Options> {
    match parsed {
        Ok(Parsed::Request { options, .. }) => Some(options),
        // what is wrong with it is said when it is carried out
        Ok(Parsed::Information { .. }) | Err(_) => None,
    }
}

/// Whether the store that the command line or `NIX_REMOTE` names is one that isn't kept here.
pub(crate) fn is_in_foreign_store(options: &Options, host: &dyn Host) -> bool {
    let typed = options.overrides.iter().rev().find(|given| given.name == "store");
    let remote = || host.variable("NIX_REMOTE")?.into_string().ok();
    let name = typed.map(|given| given.value.clone()).or_else(remote);
    let store = name.and_then(|name| name.parse::<StoreReference>().ok());
    let is_kept_here = |store: StoreReference| {
        matches!(
            store.scheme(),
            Scheme::Auto
                | Scheme::Daemon
                | Scheme::Local
                | Scheme::Unix
                | Scheme::Ssh
                | Scheme::SshNg
        )
    };
    store.is_some_and(|store| !is_kept_here(store))
}
