//! What a build is made from: the derivation with all inputs known, and all that these refer to.

use std::collections::BTreeSet;

use drover_core::{PathInfo, StoreDir, StorePath};
use drover_derivation::{BasicDerivation, Derivation, derivation_name};
use drover_recipe::{BuildFile, graph};
use drover_store::{BuildPlan, Keeper as _, Store as _, StoreError};
use drover_store_local::LocalStore;
use serde_json::{Map, Value};

use crate::failure::{Trouble, failed};

/// Returns the derivation to build, with all of its inputs known, and its path, which is another one
/// where these are only known now.
pub(crate) async fn derivation(
    store: &LocalStore,
    path: &StorePath,
    plan: &BuildPlan,
) -> Result<(StorePath, BasicDerivation), Trouble> {
    if let BuildPlan::Derivation(basic) = plan {
        return Ok((path.clone(), (**basic).clone()));
    }
    let store_dir = store.store_dir();
    let derivation = read(store, path).await?;
    let mut known = std::collections::BTreeMap::new();
    for (input, outputs) in &derivation.input_derivations {
        let found = store.output_map(input).await?;
        for output in outputs {
            if let Some(Some(path)) = found.get(output.as_str()) {
                known.insert((input.clone(), output.clone()), path.clone());
            }
        }
    }
    if derivation.must_resolve()? {
        let basic = derivation.resolve(store_dir, |path, output| {
            known.get(&(path.clone(), output.clone())).cloned()
        })?;
        let path = Derivation::from(basic.clone()).derivation_path(store_dir)?;
        return Ok((path, basic));
    }
    Ok((path.clone(), derivation.to_basic(known.into_values())))
}

/// Holds paths, and returns them with all that they refer to.
pub(crate) async fn closure(
    store: &LocalStore,
    roots: &BTreeSet<StorePath>,
) -> Result<BTreeSet<StorePath>, Trouble> {
    let valid = store.hold_valid(roots, drover_store::Substitute::No).await?;
    if let Some(absent) = roots.difference(&valid).next() {
        return Err(not_valid(store, absent).into());
    }
    match store.requisites(roots).await? {
        Some(closure) => Ok(closure.into_iter().collect()),
        None => Err(failed("the closure of its inputs can't be found".to_owned()).into()),
    }
}

/// Adds the outputs of the derivations among these paths, with all that they refer to. They have to be
/// valid, as in Nix, which knows no graph of derivations whose outputs' paths follow from contents.
async fn with_outputs(
    store: &LocalStore,
    mut paths: BTreeSet<StorePath>,
) -> Result<BTreeSet<StorePath>, Trouble> {
    let derivations: Vec<&StorePath> =
        paths.iter().filter(|path| derivation_name(path).is_some()).collect();
    let mut outputs = BTreeSet::new();
    for path in derivations {
        let derivation = read(store, path).await?;
        for output in derivation.outputs.values() {
            outputs.insert(output.path().cloned().ok_or_else(|| {
                let shown = store.store_dir().display(path);
                failed(format!(
                    "cannot export references of the content-addressed derivation '{shown}'"
                ))
            })?);
        }
    }
    if !outputs.is_empty() {
        paths.extend(closure(store, &outputs).await?);
    }
    Ok(paths)
}

/// Reads a derivation in the store.
async fn read(store: &LocalStore, path: &StorePath) -> Result<Derivation, Trouble> {
    let texts = store.read_files(std::slice::from_ref(path)).await?;
    let text = texts.first().map(|text| text.as_ref()).unwrap_or_default();
    let name = derivation_name(path).unwrap_or_else(|| path.store_name());
    Ok(Derivation::parse_aterm(store.store_dir(), &name, text)?)
}

pub(crate) fn not_valid(store: &LocalStore, path: &StorePath) -> StoreError {
    StoreError::NotValid { store: store.name().to_owned(), path: path.clone() }
}

/// Looks paths up that are valid.
pub(crate) async fn infos(
    store: &LocalStore,
    paths: &BTreeSet<StorePath>,
) -> Result<Vec<PathInfo>, Trouble> {
    let paths: Vec<StorePath> = paths.iter().cloned().collect();
    let infos = store.path_infos(&paths).await?;
    paths
        .iter()
        .zip(infos)
        .map(|(path, info)| info.ok_or_else(|| not_valid(store, path).into()))
        .collect()
}

/// The graphs of references that a build asks for, in the form that it asks for them.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Its structured attributes with the graphs in their places, if it has any.
    pub(crate) structured: Option<Map<String, Value>>,
    /// Files with graphs otherwise.
    pub(crate) files: Vec<BuildFile>,
}

/// Returns the graphs that a build asks for.
pub(crate) async fn graphs(
    store: &LocalStore,
    derivation: &BasicDerivation,
    inputs: &BTreeSet<StorePath>,
) -> Result<Asked, Trouble> {
    let store_dir: &StoreDir = store.store_dir();
    let structured = derivation.structured_attributes()?.map(|attributes| attributes.0);
    let mut asked = Asked { structured, files: Vec::new() };
    for (name, roots) in graph::wanted(derivation, store_dir)? {
        if let Some(foreign) = roots.difference(inputs).next() {
            let shown = store_dir.display(foreign);
            let text = format!(
                "cannot export references of path '{shown}' because it is not in the input closure \
                 of the derivation"
            );
            return Err(failed(text).into());
        }
        let closure = with_outputs(store, closure(store, &roots).await?).await?;
        let infos = infos(store, &closure).await?;
        match &mut asked.structured {
            Some(attributes) => {
                attributes.insert(name, graph::as_json(&infos, store_dir));
            }
            None => {
                let contents = graph::as_text(&infos, store_dir).into_bytes();
                asked.files.push(BuildFile { name, contents });
            }
        }
    }
    Ok(asked)
}
