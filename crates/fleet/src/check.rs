//! What a builder returns is checked before anything is made of it.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{OutputName, PathInfo, References, StoreDir, StoreName, StorePath};
use drover_derivation::{Derivation, Output, output_path_name};
use drover_schedule::{MachineFault, Place};
use drover_store::Built;

use crate::places::Places;
use crate::shared::Shared;
use crate::vouched::Unsigned;

/// Why a builder's answer can't be right.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lie {
    #[error(transparent)]
    Unsigned(#[from] Unsigned),
    #[error("it did not return output '{name}'")]
    Missing { name: String },
    #[error("it returned output '{name}', which the derivation does not have")]
    Extra { name: String },
    #[error("it returned '{found}' as output '{name}', which should be '{expected}'")]
    OtherPath { name: String, found: StorePath, expected: StorePath },
    #[error("it returned '{found}' as output '{name}', whose name should be '{expected}'")]
    OtherName { name: String, found: StorePath, expected: String },
    #[error(
        "it returned '{found}' as output '{name}', which is not the path of its contents: {rule}"
    )]
    OtherContents { name: String, found: StorePath, rule: String },
    #[error("'{path}' refers to '{reference}', which is no input of the build")]
    Reference { path: StorePath, reference: StorePath },
    #[error("'{path}' mentions '{reference}', which it is said not to refer to")]
    HiddenReference { path: StorePath, reference: StorePath },
}

impl Lie {
    /// Says what it makes of the machine: one that signs nothing will not do so later.
    pub(crate) fn fault(&self) -> MachineFault {
        match self {
            Lie::Unsigned(_) => MachineFault::Refused,
            _ => MachineFault::Misbehaved,
        }
    }
}

/// What a build shall return.
pub(crate) struct Promised {
    /// The derivation's name.
    pub(crate) name: StoreName,
    /// Its outputs, with their paths where these are known.
    pub(crate) outputs: BTreeMap<OutputName, Output>,
}

impl Promised {
    /// Returns the paths that are known before the build.
    pub(crate) fn known(&self) -> BTreeMap<String, StorePath> {
        let outputs = self.outputs.iter();
        outputs
            .filter_map(|(name, output)| Some((name.to_string(), output.path()?.clone())))
            .collect()
    }
}

/// Checks what a machine has made of a derivation from `inputs`, and that it's signed where it has to be.
pub(crate) fn check_made(
    shared: &Shared,
    (place, derivation): (Place, &Derivation),
    promised: &Promised,
    inputs: &[StorePath],
    built: &Built,
) -> Result<(), Lie> {
    check_built(&shared.store_dir, promised, inputs, built, &shared.places)?;
    let trust = shared.output_trust(place);
    Ok(trust.check_all(&shared.store_dir, derivation, &built.outputs)?)
}

/// Checks names, paths and references of what was built from `inputs`.
pub(crate) fn check_built(
    store_dir: &StoreDir,
    promised: &Promised,
    inputs: &[StorePath],
    built: &Built,
    places: &Places,
) -> Result<(), Lie> {
    if let Some(name) =
        promised.outputs.keys().find(|name| !built.outputs.contains_key(name.as_str()))
    {
        return Err(Lie::Missing { name: name.to_string() });
    }
    for (name, info) in &built.outputs {
        let Some((output, expected)) =
            promised.outputs.iter().find(|(output, _)| output.as_str() == name)
        else {
            return Err(Lie::Extra { name: name.clone() });
        };
        if let Some(expected) = expected.path().filter(|expected| **expected != info.path) {
            return Err(Lie::OtherPath {
                name: name.clone(),
                found: info.path.clone(),
                expected: expected.clone(),
            });
        }
        let expected = output_path_name(&promised.name, output).map(|name| name.to_string());
        if let Ok(expected) = expected
            && expected != info.path.name()
        {
            return Err(Lie::OtherName { name: name.clone(), found: info.path.clone(), expected });
        }
        if let Some(output) = promised.outputs.get(name.as_str()) {
            check_address(store_dir, output, info).map_err(|rule| {
                let (name, found) = (name.clone(), info.path.clone());
                Lie::OtherContents { name, found, rule }
            })?;
        }
    }
    check_references(inputs, built, places)
}

/// Checks that the path of an output that isn't known before the build follows from the contents as
/// the builder describes them. Whichever store the contents come to checks that they are these.
fn check_address(store_dir: &StoreDir, output: &Output, info: &PathInfo) -> Result<(), String> {
    let (Output::Floating { method, algorithm } | Output::Impure { method, algorithm }) = output
    else {
        return Ok(());
    };
    let Some(address) = &info.content_address else {
        return Err("it has no content address".to_owned());
    };
    if address.method != *method || address.hash.algorithm() != *algorithm {
        return Err(format!("'{address}' is not what the derivation asks for"));
    }
    let itself = info.references.contains(&info.path);
    let others = info.references.iter().filter(|path| **path != info.path).cloned().collect();
    let name: StoreName = info.path.name().parse().map_err(|error| format!("{error}"))?;
    let references = References { others, itself };
    match store_dir.content_addressed_path(address, &references, &name) {
        Ok(path) if path == info.path => Ok(()),
        Ok(path) => Err(format!("that of '{address}' is '{path}'")),
        Err(error) => Err(error.to_string()),
    }
}

fn check_references(inputs: &[StorePath], built: &Built, places: &Places) -> Result<(), Lie> {
    let own: BTreeSet<&StorePath> = built.outputs.values().map(|info| &info.path).collect();
    for PathInfo { path, references, .. } in built.outputs.values() {
        let foreign: BTreeSet<StorePath> =
            references.iter().filter(|path| !own.contains(path)).cloned().collect();
        if foreign.is_empty() {
            continue;
        }
        if let Some(reference) = places.outside_closure(inputs, &foreign) {
            return Err(Lie::Reference { path: path.clone(), reference });
        }
    }
    Ok(())
}
