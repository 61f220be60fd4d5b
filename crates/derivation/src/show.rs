//! The JSON forms of derivations that Nix prints.
//!
//! Follows `src/libstore/derivation/json.cc` and `src/nix/derivation-show.cc` of Nix 2.34, and the
//! code of Nix 2.26 and 2.8 in their place. Keys stand in the order in which each Nix writes them:
//! sorted, but for 2.8.

use std::collections::BTreeMap;

use drover_core::{HashNotation, IngestionMethod, OutputName, StoreDir, StorePath};
use serde::Serialize;

use crate::nix_json::{Escapes, Layout, NixValue, print};
use crate::{ByteString, Derivation, DerivationError, DerivationProblem, Output};

/// Which Nix prints the derivations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShowFormat {
    /// `nix show-derivation` of Nix 2.8: whole paths, method and algorithm in one.
    Nix2_8,
    /// `nix derivation show` of Nix 2.26: whole paths.
    Nix2_26,
    /// `nix derivation show` of Nix 2.34, JSON version 4, on one line: base names of paths,
    /// structured attributes as JSON.
    #[default]
    Nix2_34,
    /// The same with line breaks (`--pretty`, and what Nix does on a terminal).
    Nix2_34Pretty,
}

/// Returns what `nix derivation show` prints for derivations and their paths, without the line
/// feed at the end.
///
/// # Errors
///
/// A string that is not UTF-8, which Nix refuses as well (Nix 2.8 prints the bytes), or structured
/// attributes that are no JSON object.
pub fn show_json<'a>(
    store_dir: &StoreDir,
    derivations: impl IntoIterator<Item = (&'a StorePath, &'a Derivation)>,
    format: ShowFormat,
) -> Result<String, DerivationError> {
    let derivations = derivations.into_iter();
    Ok(match format {
        ShowFormat::Nix2_8 => {
            let shown = shown(derivations, store_dir, Names::Whole, Show2_8::new)?;
            print(&shown, Layout::Pretty, Escapes::Nix2_8)
        }
        ShowFormat::Nix2_26 => {
            let shown = shown(derivations, store_dir, Names::Whole, Show2_26::new)?;
            print(&shown, Layout::Pretty, Escapes::Json)
        }
        ShowFormat::Nix2_34 | ShowFormat::Nix2_34Pretty => {
            let layout = match format {
                ShowFormat::Nix2_34Pretty => Layout::Pretty,
                _ => Layout::Compact,
            };
            let derivations = shown(derivations, store_dir, Names::Base, Show2_34::new)?;
            print(&Root2_34 { derivations, version: 4 }, layout, Escapes::Json)
        }
    })
}

/// Whether paths are printed with the store directory.
#[derive(Clone, Copy)]
enum Names {
    Whole,
    Base,
}

fn shown<'a, T>(
    derivations: impl Iterator<Item = (&'a StorePath, &'a Derivation)>,
    store_dir: &StoreDir,
    names: Names,
    show: impl Fn(&StoreDir, &'a Derivation) -> Result<T, DerivationProblem>,
) -> Result<BTreeMap<String, T>, DerivationError> {
    let mut shown = BTreeMap::new();
    for (path, derivation) in derivations {
        let key = match names {
            Names::Whole => store_dir.display(path),
            Names::Base => path.to_string(),
        };
        let refuse = |problem| DerivationError::new(&derivation.name, problem);
        shown.insert(key, show(store_dir, derivation).map_err(refuse)?);
    }
    Ok(shown)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Show2_8<'a> {
    outputs: BTreeMap<&'a str, Output2_8>,
    input_srcs: Vec<String>,
    input_drvs: BTreeMap<String, Vec<&'a str>>,
    system: &'a str,
    builder: &'a str,
    args: Vec<&'a str>,
    env: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Output2_8 {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash_algo: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impure: Option<bool>,
}

impl<'a> Show2_8<'a> {
    fn new(store_dir: &StoreDir, derivation: &'a Derivation) -> Result<Self, DerivationProblem> {
        let outputs = derivation.outputs.iter();
        let inputs = derivation.input_derivations.iter();
        Ok(Show2_8 {
            outputs: outputs
                .map(|(name, output)| (name.as_str(), Output2_8::new(store_dir, output)))
                .collect(),
            input_srcs: paths(store_dir, derivation),
            input_drvs: inputs
                .map(|(path, outputs)| (store_dir.display(path), names(outputs)))
                .collect(),
            system: &derivation.system,
            builder: text("builder", &derivation.builder)?,
            args: args(derivation)?,
            env: environment(derivation)?,
        })
    }
}

impl Output2_8 {
    fn new(store_dir: &StoreDir, output: &Output) -> Output2_8 {
        let columns = output.columns(store_dir);
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let impure = matches!(output, Output::Impure { .. });
        Output2_8 {
            path: some(columns.path),
            hash_algo: some(columns.method_algorithm),
            hash: some(columns.hash).filter(|_| !impure),
            impure: impure.then_some(true),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Show2_26<'a> {
    args: Vec<&'a str>,
    builder: &'a str,
    env: BTreeMap<&'a str, &'a str>,
    input_drvs: BTreeMap<String, InputOutputs<'a>>,
    input_srcs: Vec<String>,
    name: &'a str,
    outputs: BTreeMap<&'a str, OutputJson>,
    system: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InputOutputs<'a> {
    dynamic_outputs: BTreeMap<&'a str, ()>,
    outputs: Vec<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OutputJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash_algo: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impure: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
}

impl<'a> Show2_26<'a> {
    fn new(store_dir: &StoreDir, derivation: &'a Derivation) -> Result<Self, DerivationProblem> {
        let outputs = derivation.outputs.iter();
        let inputs = derivation.input_derivations.iter();
        Ok(Show2_26 {
            args: args(derivation)?,
            builder: text("builder", &derivation.builder)?,
            env: environment(derivation)?,
            input_drvs: inputs
                .map(|(path, outputs)| (store_dir.display(path), InputOutputs::new(outputs)))
                .collect(),
            input_srcs: paths(store_dir, derivation),
            name: derivation.name.as_str(),
            outputs: outputs
                .map(|(name, output)| (name.as_str(), OutputJson::whole(store_dir, output)))
                .collect(),
            system: &derivation.system,
        })
    }
}

impl<'a> InputOutputs<'a> {
    fn new(outputs: impl IntoIterator<Item = &'a OutputName>) -> InputOutputs<'a> {
        InputOutputs { dynamic_outputs: BTreeMap::new(), outputs: names(outputs) }
    }
}

impl OutputJson {
    /// Returns the form of Nix 2.26.
    fn whole(store_dir: &StoreDir, output: &Output) -> OutputJson {
        let path = output.path().map(|path| store_dir.display(path));
        match output {
            Output::Fixed { address, .. } => OutputJson {
                hash: Some(address.hash.digits(HashNotation::Base16)),
                hash_algo: Some(address.hash.algorithm().name()),
                path,
                ..OutputJson::short(output)
            },
            _ => OutputJson { path, ..OutputJson::short(output) },
        }
    }

    /// Returns the form of Nix 2.34.
    fn short(output: &Output) -> OutputJson {
        let mut json =
            OutputJson { hash: None, hash_algo: None, impure: None, method: None, path: None };
        match output {
            Output::InputAddressed(path) => json.path = Some(path.to_string()),
            Output::Fixed { address, .. } => {
                json.hash = Some(address.hash.display(HashNotation::Sri));
                json.method = Some(method_name(address.method));
            }
            Output::Floating { method, algorithm } | Output::Impure { method, algorithm } => {
                json.hash_algo = Some(algorithm.name());
                json.impure = matches!(output, Output::Impure { .. }).then_some(true);
                json.method = Some(method_name(*method));
            }
            Output::Deferred => {}
        }
        json
    }
}

#[derive(Serialize)]
struct Root2_34<'a> {
    derivations: BTreeMap<String, Show2_34<'a>>,
    version: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Show2_34<'a> {
    args: Vec<&'a str>,
    builder: &'a str,
    env: BTreeMap<&'a str, &'a str>,
    inputs: Inputs2_34<'a>,
    name: &'a str,
    outputs: BTreeMap<&'a str, OutputJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    structured_attrs: Option<NixValue>,
    system: &'a str,
    version: u32,
}

#[derive(Serialize)]
struct Inputs2_34<'a> {
    drvs: BTreeMap<&'a str, InputOutputs<'a>>,
    srcs: Vec<&'a str>,
}

impl<'a> Show2_34<'a> {
    fn new(_: &StoreDir, derivation: &'a Derivation) -> Result<Self, DerivationProblem> {
        let outputs = derivation.outputs.iter();
        let inputs = derivation.input_derivations.iter();
        let mut env = environment(derivation)?;
        env.remove("__json");
        let structured = derivation.structured_attributes().map_err(|error| *error.problem)?;
        Ok(Show2_34 {
            args: args(derivation)?,
            builder: text("builder", &derivation.builder)?,
            env,
            inputs: Inputs2_34 {
                drvs: inputs
                    .map(|(path, outputs)| (path.base_name(), InputOutputs::new(outputs)))
                    .collect(),
                srcs: derivation.input_sources.iter().map(StorePath::base_name).collect(),
            },
            name: derivation.name.as_str(),
            outputs: outputs
                .map(|(name, output)| (name.as_str(), OutputJson::short(output)))
                .collect(),
            structured_attrs: structured.map(|attributes| NixValue(attributes.0.into())),
            system: &derivation.system,
            version: 4,
        })
    }
}

fn method_name(method: IngestionMethod) -> &'static str {
    match method {
        IngestionMethod::Flat => "flat",
        IngestionMethod::Nar => "nar",
        IngestionMethod::Git => "git",
        IngestionMethod::Text => "text",
    }
}

fn names<'a>(outputs: impl IntoIterator<Item = &'a OutputName>) -> Vec<&'a str> {
    outputs.into_iter().map(OutputName::as_str).collect()
}

fn paths(store_dir: &StoreDir, derivation: &Derivation) -> Vec<String> {
    derivation.input_sources.iter().map(|path| store_dir.display(path)).collect()
}

fn args(derivation: &Derivation) -> Result<Vec<&str>, DerivationProblem> {
    derivation.args.iter().map(|arg| text("argument", arg)).collect()
}

fn environment(derivation: &Derivation) -> Result<BTreeMap<&str, &str>, DerivationProblem> {
    let variables = derivation.environment.iter();
    variables.map(|(name, value)| Ok((text("variable", name)?, text("value", value)?))).collect()
}

fn text<'a>(what: &'static str, bytes: &'a [u8]) -> Result<&'a str, DerivationProblem> {
    std::str::from_utf8(bytes)
        .map_err(|_| DerivationProblem::JsonNotUtf8 { what, found: ByteString::excerpt(bytes) })
}
