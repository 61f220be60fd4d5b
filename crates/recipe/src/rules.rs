//! What a derivation allows its outputs to be.
//!
//! Follows `checkOutputs` of Nix (`src/libstore/build/derivation-check.cc`) and
//! `DerivationOptions::OutputChecks`.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{OutputName, PathInfo, StoreDir, StorePath};
use drover_derivation::BasicDerivation;
use serde_json::Value;

use crate::RecipeError;

/// The rules that a derivation sets for its outputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputRules {
    by_output: BTreeMap<OutputName, Rules>,
    discards_references: BTreeSet<OutputName>,
}

/// The rules for one output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rules {
    max_size: Option<u64>,
    max_closure_size: Option<u64>,
    allowed_references: Option<BTreeSet<Specifier>>,
    allowed_requisites: Option<BTreeSet<Specifier>>,
    disallowed_references: BTreeSet<Specifier>,
    disallowed_requisites: BTreeSet<Specifier>,
    itself: Itself,
}

/// Whether an output counts among what it requires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Itself {
    #[default]
    Counts,
    Passes,
}

/// A path that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Specifier {
    Path(StorePath),
    Output(OutputName),
}

/// What is known of a path: its references and the size of its NAR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFacts {
    /// The paths it refers to, itself among them where it does.
    pub references: BTreeSet<StorePath>,
    /// Bytes of its NAR.
    pub nar_size: u64,
}

/// A rule that an output breaks, in Nix's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// It is too large.
    #[error("path '{path}' is too large at {size} bytes; limit is {limit} bytes")]
    Size {
        /// The output's path.
        path: String,
        /// Bytes of its NAR.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// It is too large with all that it needs.
    #[error("closure of path '{path}' is too large at {size} bytes; limit is {limit} bytes")]
    ClosureSize {
        /// The output's path.
        path: String,
        /// Bytes of all NARs.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// It refers to what it may not refer to, itself or by what it refers to.
    #[error("output '{path}' is not allowed to refer to the following paths:{}", list(.paths))]
    References {
        /// The output's path.
        path: String,
        /// What it may not refer to.
        paths: Vec<String>,
    },
}

fn list(paths: &[String]) -> String {
    paths.iter().map(|path| format!("\n  {path}")).collect()
}

impl OutputRules {
    /// Returns the rules of a derivation.
    ///
    /// # Errors
    ///
    /// Values of the wrong type, and specifiers that are neither paths nor outputs. Rules for outputs
    /// that there aren't are passed over, as in Nix.
    pub fn of(
        derivation: &BasicDerivation,
        store_dir: &StoreDir,
    ) -> Result<OutputRules, RecipeError> {
        let reader = Reader { derivation, store_dir };
        match derivation.structured_attributes()? {
            Some(attributes) => Ok(OutputRules {
                by_output: match attributes.0.get("outputChecks") {
                    Some(checks) => reader.structured(checks)?,
                    None => BTreeMap::new(),
                },
                discards_references: match attributes.0.get("unsafeDiscardReferences") {
                    Some(flags) => reader.flags("unsafeDiscardReferences", flags)?,
                    None => BTreeSet::new(),
                },
            }),
            None => {
                let rules = reader.plain()?;
                let names = derivation.outputs.keys().cloned();
                let by_output = names.map(|name| (name, rules.clone())).collect();
                Ok(OutputRules { by_output, discards_references: BTreeSet::new() })
            }
        }
    }

    /// Whether nothing is asked of the outputs.
    pub fn allow_anything(&self) -> bool {
        let nothing = |rules: &Rules| *rules == Rules { itself: rules.itself, ..Rules::default() };
        self.by_output.values().all(nothing)
    }

    /// Whether an output counts as having no references, whatever it mentions
    /// (`unsafeDiscardReferences`).
    pub fn discards_references(&self, output: &OutputName) -> bool {
        self.discards_references.contains(output)
    }

    /// Checks all outputs; `known` tells of paths that are not among them.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    pub fn check(
        &self,
        outputs: &BTreeMap<OutputName, PathInfo>,
        store_dir: &StoreDir,
        known: &dyn Fn(&StorePath) -> Option<OutputFacts>,
    ) -> Result<(), Violation> {
        let check = Check { outputs, store_dir, known };
        for (name, info) in outputs {
            if let Some(rules) = self.by_output.get(name) {
                check.output(info, rules)?;
            }
        }
        Ok(())
    }
}

struct Check<'a> {
    outputs: &'a BTreeMap<OutputName, PathInfo>,
    store_dir: &'a StoreDir,
    known: &'a dyn Fn(&StorePath) -> Option<OutputFacts>,
}

impl Check<'_> {
    fn output(&self, info: &PathInfo, rules: &Rules) -> Result<(), Violation> {
        let path = || self.store_dir.display(&info.path);
        if let Some(limit) = rules.max_size.filter(|limit| *limit < info.nar_size.0) {
            return Err(Violation::Size { path: path(), size: info.nar_size.0, limit });
        }
        if let Some(limit) = rules.max_closure_size {
            let size = self.closure(&info.path).1;
            if limit < size {
                return Err(Violation::ClosureSize { path: path(), size, limit });
            }
        }
        let requisites = || {
            let (mut paths, _) = self.closure(&info.path);
            if rules.itself == Itself::Passes {
                paths.remove(&info.path);
            }
            paths
        };
        if let Some(allowed) = &rules.allowed_references {
            self.only(info, &info.references, allowed)?;
        }
        if let Some(allowed) = &rules.allowed_requisites {
            self.only(info, &requisites(), allowed)?;
        }
        self.none(info, &info.references, &rules.disallowed_references)?;
        if !rules.disallowed_requisites.is_empty() {
            self.none(info, &requisites(), &rules.disallowed_requisites)?;
        }
        Ok(())
    }

    fn only(
        &self,
        info: &PathInfo,
        used: &BTreeSet<StorePath>,
        allowed: &BTreeSet<Specifier>,
    ) -> Result<(), Violation> {
        let allowed = self.paths(allowed);
        self.refuse(info, used.difference(&allowed))
    }

    fn none(
        &self,
        info: &PathInfo,
        used: &BTreeSet<StorePath>,
        disallowed: &BTreeSet<Specifier>,
    ) -> Result<(), Violation> {
        let disallowed = self.paths(disallowed);
        self.refuse(info, used.intersection(&disallowed))
    }

    fn refuse<'a>(
        &self,
        info: &PathInfo,
        bad: impl Iterator<Item = &'a StorePath>,
    ) -> Result<(), Violation> {
        let paths: Vec<String> = bad.map(|path| self.store_dir.display(path)).collect();
        match paths.is_empty() {
            true => Ok(()),
            false => {
                let path = self.store_dir.display(&info.path);
                Err(Violation::References { path, paths })
            }
        }
    }

    fn paths(&self, specifiers: &BTreeSet<Specifier>) -> BTreeSet<StorePath> {
        let path = |specifier: &Specifier| match specifier {
            Specifier::Path(path) => Some(path.clone()),
            Specifier::Output(name) => self.outputs.get(name).map(|info| info.path.clone()),
        };
        specifiers.iter().filter_map(path).collect()
    }

    fn facts(&self, path: &StorePath) -> Option<OutputFacts> {
        let info = self.outputs.values().find(|info| info.path == *path);
        let facts = info.map(|info| OutputFacts {
            references: info.references.clone(),
            nar_size: info.nar_size.0,
        });
        facts.or_else(|| (self.known)(path))
    }

    fn closure(&self, root: &StorePath) -> (BTreeSet<StorePath>, u64) {
        let (mut left, mut paths) = (vec![root.clone()], BTreeSet::from([root.clone()]));
        let mut size = 0_u64;
        while let Some(path) = left.pop() {
            let Some(facts) = self.facts(&path) else { continue };
            size = size.saturating_add(facts.nar_size);
            let new = facts.references.into_iter().filter(|path| paths.insert(path.clone()));
            left.extend(new.collect::<Vec<_>>());
        }
        (paths, size)
    }
}

struct Reader<'a> {
    derivation: &'a BasicDerivation,
    store_dir: &'a StoreDir,
}

impl Reader<'_> {
    /// Returns the rules of a derivation without structured attributes, which are for all outputs.
    fn plain(&self) -> Result<Rules, RecipeError> {
        let outputs = &self.derivation.outputs;
        let first = outputs.keys().next().map(OutputName::to_string).unwrap_or_default();
        let set = |name: &str| -> Result<Option<BTreeSet<Specifier>>, RecipeError> {
            let Some(text) = self.derivation.environment.get(name) else { return Ok(None) };
            let text = String::from_utf8_lossy(text);
            let words = text.split_ascii_whitespace();
            words.map(|word| self.specifier(&first, word)).collect::<Result<_, _>>().map(Some)
        };
        Ok(Rules {
            allowed_references: set("allowedReferences")?,
            allowed_requisites: set("allowedRequisites")?,
            disallowed_references: set("disallowedReferences")?.unwrap_or_default(),
            disallowed_requisites: set("disallowedRequisites")?.unwrap_or_default(),
            itself: Itself::Passes,
            ..Rules::default()
        })
    }

    fn structured(&self, checks: &Value) -> Result<BTreeMap<OutputName, Rules>, RecipeError> {
        let mut by_output = BTreeMap::new();
        for (output, rules) in object("outputChecks", checks)? {
            if let Some(name) = self.output(output) {
                by_output.insert(name, self.of_output(output, rules)?);
            }
        }
        Ok(by_output)
    }

    fn of_output(&self, output: &str, rules: &Value) -> Result<Rules, RecipeError> {
        let named = |name: &str| format!("outputChecks.{output}.{name}");
        let rules = object(&named(""), rules)?;
        let number = |name: &str| -> Result<Option<u64>, RecipeError> {
            let wrong =
                || RecipeError::Type { attribute: named(name), expected: "a size in bytes" };
            rules.get(name).map(|value| value.as_u64().ok_or_else(wrong)).transpose()
        };
        let set = |name: &str| -> Result<Option<BTreeSet<Specifier>>, RecipeError> {
            let wrong = || RecipeError::Type {
                attribute: named(name),
                expected: "a list of store paths and outputs",
            };
            let Some(items) = rules.get(name) else { return Ok(None) };
            let items = items.as_array().ok_or_else(wrong)?.iter();
            let specifier = |item: &Value| self.specifier(output, item.as_str().ok_or_else(wrong)?);
            items.map(specifier).collect::<Result<_, _>>().map(Some)
        };
        Ok(Rules {
            max_size: number("maxSize")?,
            max_closure_size: number("maxClosureSize")?,
            allowed_references: set("allowedReferences")?,
            allowed_requisites: set("allowedRequisites")?,
            disallowed_references: set("disallowedReferences")?.unwrap_or_default(),
            disallowed_requisites: set("disallowedRequisites")?.unwrap_or_default(),
            itself: Itself::Counts,
        })
    }

    /// Returns the outputs for which a flag is set.
    fn flags(&self, name: &str, flags: &Value) -> Result<BTreeSet<OutputName>, RecipeError> {
        let mut set = BTreeSet::new();
        for (output, flag) in object(name, flags)? {
            let wrong =
                || RecipeError::Type { attribute: name.to_owned(), expected: "true or false" };
            if flag.as_bool().ok_or_else(wrong)? {
                set.extend(self.output(output));
            }
        }
        Ok(set)
    }

    fn output(&self, output: &str) -> Option<OutputName> {
        let name = output.parse::<OutputName>().ok();
        name.filter(|name| self.derivation.outputs.contains_key(name))
    }

    /// Reads what a rule for `output` is about.
    fn specifier(&self, output: &str, text: &str) -> Result<Specifier, RecipeError> {
        if let Ok(path) = self.store_dir.parse(text) {
            return Ok(Specifier::Path(path));
        }
        self.output(text).map(Specifier::Output).ok_or_else(|| RecipeError::Specifier {
            output: output.to_owned(),
            text: text.to_owned(),
            valid: self.derivation.outputs.keys().map(OutputName::to_string).collect(),
        })
    }
}

fn object<'a>(
    attribute: &str,
    value: &'a Value,
) -> Result<&'a serde_json::Map<String, Value>, RecipeError> {
    value.as_object().ok_or_else(|| RecipeError::Type {
        attribute: attribute.trim_end_matches('.').to_owned(),
        expected: "an object",
    })
}

#[cfg(test)]
mod tests {
    use drover_core::{NarHash, NarSize};
    use drover_derivation::Output;
    use rstest::rstest;

    use super::*;

    const OUT: &str = "/nix/store/00000000000000000000000000000000-x";
    const DEV: &str = "/nix/store/11111111111111111111111111111111-x-dev";
    const INPUT: &str = "/nix/store/22222222222222222222222222222222-input";
    const DEEP: &str = "/nix/store/33333333333333333333333333333333-deep";

    fn store_dir() -> StoreDir {
        "/nix/store".parse().unwrap()
    }

    fn path(text: &str) -> StorePath {
        store_dir().parse(text).unwrap()
    }

    /// `out` refers to itself and `dev`, `dev` to an input, and that to another.
    fn check(environment: &[(&str, &str)]) -> Result<(), String> {
        let outputs = [("out", OUT), ("dev", DEV)];
        let outputs = outputs.map(|(name, text)| {
            (name.parse::<OutputName>().unwrap(), Output::InputAddressed(path(text)))
        });
        let derivation = BasicDerivation {
            name: "x".parse().unwrap(),
            outputs: BTreeMap::from(outputs),
            input_sources: BTreeSet::new(),
            system: String::new(),
            builder: "/bin/sh".into(),
            args: Vec::new(),
            environment: environment.iter().copied().collect(),
        };
        let info = |text: &str, references: &[&str]| PathInfo {
            path: path(text),
            deriver: None,
            nar_hash: NarHash([0; 32]),
            nar_size: NarSize(100),
            references: references.iter().map(|text| path(text)).collect(),
            registration_time: 0,
            ultimate: true,
            signatures: BTreeSet::new(),
            content_address: None,
        };
        let made = BTreeMap::from([
            (OutputName::out(), info(OUT, &[OUT, DEV])),
            ("dev".parse().unwrap(), info(DEV, &[INPUT])),
        ]);
        let known = |wanted: &StorePath| {
            let references = match wanted {
                wanted if *wanted == path(INPUT) => BTreeSet::from([path(DEEP)]),
                wanted if *wanted == path(DEEP) => BTreeSet::new(),
                _ => return None,
            };
            Some(OutputFacts { references, nar_size: 1000 })
        };
        let rules =
            OutputRules::of(&derivation, &store_dir()).map_err(|error| error.to_string())?;
        rules.check(&made, &store_dir(), &known).map_err(|error| error.to_string())
    }

    #[rstest]
    #[case::nothing(&[])]
    #[case::all_named(&[("allowedReferences", "out dev /nix/store/22222222222222222222222222222222-input")])]
    #[case::requisites_without_itself(&[(
        "allowedRequisites",
        "dev /nix/store/22222222222222222222222222222222-input /nix/store/33333333333333333333333333333333-deep"
    )])]
    #[case::others_are_disallowed(&[("disallowedReferences", DEEP)])]
    #[case::structured(&[("__json", r#"{"outputChecks": {"dev": {"maxSize": 100, "maxClosureSize": 2100}}}"#)])]
    #[case::no_output(&[("__json", r#"{"outputChecks": {"doc": {"maxSize": 0}}, "unsafeDiscardReferences": {"doc": true}}"#)])]
    fn holds(#[case] environment: &[(&str, &str)]) {
        assert_eq!(check(environment), Ok(()));
    }

    #[rstest]
    #[case::reference(&[("allowedReferences", "dev")], "paths:\n  /nix/store/2222")]
    #[case::itself(&[("allowedReferences", "dev /nix/store/22222222222222222222222222222222-input")], OUT)]
    #[case::none(&[("allowedReferences", "")], INPUT)]
    #[case::requisite(&[("disallowedRequisites", DEEP)], DEEP)]
    #[case::output(&[("disallowedReferences", "dev")], DEV)]
    #[case::size(
        &[("__json", r#"{"outputChecks": {"dev": {"maxSize": 99}}}"#)],
        "too large at 100 bytes; limit is 99 bytes"
    )]
    #[case::closure_size(
        &[("__json", r#"{"outputChecks": {"dev": {"maxClosureSize": 2099}}}"#)],
        "too large at 2100 bytes; limit is 2099 bytes"
    )]
    #[case::structured_itself(
        &[("__json", r#"{"outputChecks": {"out": {"disallowedRequisites": ["out"]}}}"#)],
        OUT
    )]
    #[case::specifier(
        &[("allowedReferences", "nobody")],
        "output check for 'dev' contains output name 'nobody', but this is not a valid output of this \
         derivation. (Valid outputs are [dev, out].)"
    )]
    #[case::structured_specifier(
        &[("__json", r#"{"outputChecks": {"out": {"disallowedReferences": ["nobody"]}}}"#)],
        "output check for 'out' contains output name 'nobody'"
    )]
    #[case::wrong_type(&[("__json", r#"{"outputChecks": {"dev": {"maxSize": "x"}}}"#)], "dev.maxSize")]
    fn is_broken_in_words(#[case] environment: &[(&str, &str)], #[case] expected: &str) {
        let said = check(environment).unwrap_err();
        assert!(said.contains(expected), "{said}");
    }
}
