//! What a derivation says about how and where it wants to be built.
//!
//! Follows `src/libstore/derivation-options.cc` and `parsed-derivations.cc` of Nix.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::{BasicDerivation, DerivationError, DerivationKind, DerivationProblem, Environment};

/// The variable that holds the structured attributes.
const JSON: &str = "__json";

/// Bytes that structured attributes may have at the most: 16 MiB.
///
/// Nix has no limit; those of nixpkgs are below 1 MiB, and parsed they take ten times as much.
const MAX_JSON_SIZE: usize = 16 << 20;

/// What a derivation says about how and where it wants to be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildOptions {
    /// What a machine must have: `requiredSystemFeatures`, and `ca-derivations` where the paths of
    /// the outputs are not known before the build.
    pub required_system_features: BTreeSet<String>,
    /// Whether it is not worth the way to another machine (`preferLocalBuild`).
    pub prefer_local_build: bool,
    /// Whether outputs may come from a cache (`allowSubstitutes`; true unless it says otherwise).
    pub allow_substitutes: bool,
    /// Variables that the build gets as files (`passAsFile`).
    pub pass_as_file: BTreeSet<String>,
    /// Variables that a fixed-output build gets from the machine (`impureEnvVars`).
    pub impure_variables: BTreeSet<String>,
    /// Whether it wants to be built outside of the sandbox (`__noChroot`).
    pub no_chroot: bool,
}

/// The structured attributes of a derivation (`__structuredAttrs`): a JSON object.
#[derive(Clone, Debug, PartialEq)]
pub struct StructuredAttributes(pub Map<String, Value>);

impl BasicDerivation {
    /// Returns the structured attributes, where there are any; they are parsed anew each time.
    ///
    /// # Errors
    ///
    /// A text that is no JSON object, has more than 16 MiB, or is nested more than 127 deep.
    pub fn structured_attributes(&self) -> Result<Option<StructuredAttributes>, DerivationError> {
        let refuse = |message| {
            let problem = DerivationProblem::StructuredAttributes { message };
            DerivationError::new(&self.name, problem)
        };
        let json = self.environment.get(JSON);
        match json.filter(|json| json.len() <= MAX_JSON_SIZE).map(serde_json::from_slice) {
            None => match json {
                Some(json) => {
                    Err(refuse(format!("{} bytes, more than {MAX_JSON_SIZE}", json.len())))
                }
                None => Ok(None),
            },
            Some(Ok(Value::Object(attributes))) => Ok(Some(StructuredAttributes(attributes))),
            Some(Ok(_)) => Err(refuse("not a JSON object".to_owned())),
            Some(Err(error)) => Err(refuse(error.to_string())),
        }
    }

    /// Returns what it says about how and where it wants to be built.
    ///
    /// # Errors
    ///
    /// Structured attributes that are no JSON object or have values of the wrong type, features
    /// that are not UTF-8, and the errors of [`BasicDerivation::kind`].
    pub fn options(&self) -> Result<BuildOptions, DerivationError> {
        let refuse = |problem| DerivationError::new(&self.name, problem);
        let structured = self.structured_attributes()?;
        let attributes = match &structured {
            Some(structured) => Attributes::Structured(structured),
            None => Attributes::Plain(&self.environment),
        };
        let set = |name| attributes.set(name).map_err(refuse);
        let flag = |name, default| attributes.flag(name, default).map_err(refuse);
        let mut required_system_features = set("requiredSystemFeatures")?;
        if !matches!(self.kind()?, DerivationKind::InputAddressed | DerivationKind::Fixed) {
            required_system_features.insert("ca-derivations".to_owned());
        }
        Ok(BuildOptions {
            required_system_features,
            prefer_local_build: flag("preferLocalBuild", false)?,
            allow_substitutes: flag("allowSubstitutes", true)?,
            pass_as_file: match structured {
                Some(_) => BTreeSet::new(),
                None => set("passAsFile")?,
            },
            impure_variables: set("impureEnvVars")?,
            no_chroot: flag("__noChroot", false)?,
        })
    }

    /// Returns the features that a machine must have; see [`BuildOptions`].
    ///
    /// # Errors
    ///
    /// Those of [`BasicDerivation::options`].
    pub fn required_system_features(&self) -> Result<BTreeSet<String>, DerivationError> {
        Ok(self.options()?.required_system_features)
    }

    /// Whether it is not worth the way to another machine.
    ///
    /// # Errors
    ///
    /// Those of [`BasicDerivation::options`].
    pub fn prefer_local_build(&self) -> Result<bool, DerivationError> {
        Ok(self.options()?.prefer_local_build)
    }

    /// Whether outputs may come from a cache.
    ///
    /// # Errors
    ///
    /// Those of [`BasicDerivation::options`].
    pub fn allow_substitutes(&self) -> Result<bool, DerivationError> {
        Ok(self.options()?.allow_substitutes)
    }
}

/// Where the attributes of a derivation are.
enum Attributes<'a> {
    Plain(&'a Environment),
    Structured(&'a StructuredAttributes),
}

impl Attributes<'_> {
    fn flag(&self, name: &'static str, default: bool) -> Result<bool, DerivationProblem> {
        match self {
            Attributes::Plain(environment) => {
                Ok(environment.get(name).map_or(default, |value| value == b"1"))
            }
            Attributes::Structured(StructuredAttributes(attributes)) => {
                match attributes.get(name) {
                    None => Ok(default),
                    Some(Value::Bool(value)) => Ok(*value),
                    Some(_) => {
                        Err(DerivationProblem::AttributeType { name, expected: "true or false" })
                    }
                }
            }
        }
    }

    fn set(&self, name: &'static str) -> Result<BTreeSet<String>, DerivationProblem> {
        match self {
            Attributes::Plain(environment) => words(environment.get(name).unwrap_or_default())
                .map_err(|()| DerivationProblem::AttributeType { name, expected: "UTF-8" }),
            Attributes::Structured(StructuredAttributes(attributes)) => {
                let expected = "a list of strings";
                let refused = || DerivationProblem::AttributeType { name, expected };
                let Some(value) = attributes.get(name) else { return Ok(BTreeSet::new()) };
                let items = value.as_array().ok_or_else(refused)?.iter();
                items.map(|item| item.as_str().map(str::to_owned).ok_or_else(refused)).collect()
            }
        }
    }
}

fn words(bytes: &[u8]) -> Result<BTreeSet<String>, ()> {
    let text = std::str::from_utf8(bytes).map_err(|_| ())?;
    let words = text.split([' ', '\t', '\n', '\r']);
    Ok(words.filter(|word| !word.is_empty()).map(str::to_owned).collect())
}
