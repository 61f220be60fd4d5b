//! The environment and the files that a build begins with.
//!
//! Follows `DerivationBuilderImpl::initEnv` and `DesugaredEnv` of Nix 2.34
//! (`src/libstore/unix/build/derivation-builder.cc`, `build/derivation-env-desugar.cc`).

use std::collections::BTreeMap;

use drover_core::{Hash, HashAlgorithm, HashNotation, OutputName, StoreDir};
use drover_derivation::{BasicDerivation, DerivationKind, output_placeholder};
use serde_json::{Map, Value};

use crate::placeholders::Placeholders;
use crate::{RecipeError, shell_declarations};

/// Where a build takes place.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// The directory that store paths are in.
    pub store_dir: &'a StoreDir,
    /// The folder that the build begins in, as the build sees it.
    pub folder: &'a str,
    /// Cores that it may use.
    pub cores: u32,
    /// Returns the value of a variable that a build with access to the network may get from
    /// outside (`impureEnvVars`).
    pub outside: &'a dyn Fn(&str) -> Option<Vec<u8>>,
}

/// A file in the folder that a build begins in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildFile {
    /// Its name there.
    pub name: String,
    /// Its contents.
    pub contents: Vec<u8>,
}

/// What a build begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Its environment.
    pub environment: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Files in its folder.
    pub files: Vec<BuildFile>,
    /// Its arguments, without the program's name.
    pub args: Vec<Vec<u8>>,
}

/// Where builds look for programs that nobody gave them.
const NO_PATH: &str = "/path-not-set";

/// The home that no build has.
const NO_HOME: &str = "/homeless-shelter";

impl Given {
    /// Returns what a derivation's build begins with.
    ///
    /// `structured` are its structured attributes, where it has any, with the graphs that it asks
    /// for in their places; `graphs` are files with graphs that it asks for otherwise.
    ///
    /// # Errors
    ///
    /// Attributes of the wrong type, and files that would have the same name.
    pub fn new(
        derivation: &BasicDerivation,
        placeholders: &Placeholders,
        setting: &Setting<'_>,
        structured: Option<Map<String, Value>>,
        graphs: Vec<BuildFile>,
    ) -> Result<Given, RecipeError> {
        let kind = derivation.kind()?;
        let mut given = Given {
            environment: BTreeMap::new(),
            files: graphs,
            args: derivation.args.iter().map(|arg| placeholders.fill(arg)).collect(),
        };
        given.set("PATH", NO_PATH);
        given.set("HOME", NO_HOME);
        given.set("NIX_STORE", setting.store_dir.as_str());
        given.set("NIX_BUILD_CORES", &setting.cores.to_string());
        match structured {
            Some(attributes) => given.add_structured(derivation, attributes, placeholders, setting),
            None => given.add_variables(derivation, placeholders, setting)?,
        }
        given.set("NIX_BUILD_TOP", setting.folder);
        for name in ["TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"] {
            given.set(name, setting.folder);
        }
        if kind == DerivationKind::Fixed {
            given.set("NIX_OUTPUT_CHECKED", "1");
        }
        if matches!(kind, DerivationKind::Fixed | DerivationKind::Impure) {
            for name in derivation.options()?.impure_variables {
                let value = (setting.outside)(&name).unwrap_or_default();
                given.environment.insert(name.into_bytes(), value);
            }
        }
        given.set("NIX_LOG_FD", "2");
        given.set("TERM", "xterm-256color");
        given.refuse_same_files()?;
        Ok(given)
    }

    fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.into(), value.into());
    }

    fn add_structured(
        &mut self,
        derivation: &BasicDerivation,
        mut attributes: Map<String, Value>,
        placeholders: &Placeholders,
        setting: &Setting<'_>,
    ) {
        attributes.insert("outputs".to_owned(), outputs_for_structured(derivation.outputs.keys()));
        let shell = shell_declarations(&attributes);
        let json = drover_derivation::compact_json(Value::Object(attributes));
        for (name, variable, text) in [
            (".attrs.sh", "NIX_ATTRS_SH_FILE", shell),
            (".attrs.json", "NIX_ATTRS_JSON_FILE", json),
        ] {
            let contents = placeholders.fill(text.as_bytes());
            self.files.push(BuildFile { name: name.to_owned(), contents });
            self.set(variable, &format!("{}/{name}", setting.folder));
        }
    }

    fn add_variables(
        &mut self,
        derivation: &BasicDerivation,
        placeholders: &Placeholders,
        setting: &Setting<'_>,
    ) -> Result<(), RecipeError> {
        let as_files = derivation.options()?.pass_as_file;
        for (name, value) in derivation.environment.iter() {
            let contents = placeholders.fill(value);
            let is_file = std::str::from_utf8(name).is_ok_and(|name| as_files.contains(name));
            if !is_file {
                self.environment.insert(name.to_vec(), contents);
                continue;
            }
            let hash = Hash::of(HashAlgorithm::Sha256, name).digits(HashNotation::Base32);
            let file = format!(".attr-{hash}");
            let variable = [name, b"Path"].concat();
            self.environment.insert(variable, format!("{}/{file}", setting.folder).into());
            self.files.push(BuildFile { name: file, contents });
        }
        Ok(())
    }

    fn refuse_same_files(&self) -> Result<(), RecipeError> {
        let mut names: Vec<&String> = self.files.iter().map(|file| &file.name).collect();
        names.sort();
        match names.windows(2).find(|pair| matches!(pair, [one, other] if one == other)) {
            Some([name, ..]) => Err(RecipeError::SameFile { name: (*name).clone() }),
            _ => Ok(()),
        }
    }
}

/// Returns the attribute `outputs` that builds with structured attributes get.
pub fn outputs_for_structured<'a>(outputs: impl IntoIterator<Item = &'a OutputName>) -> Value {
    let outputs = outputs.into_iter();
    Value::Object(outputs.map(|name| (name.to_string(), output_placeholder(name).into())).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use drover_core::StorePath;
    use drover_derivation::Output;

    use super::*;

    fn derivation(environment: &[(&str, &str)]) -> BasicDerivation {
        let path = StorePath::new([1; 20], &"x".parse().unwrap());
        BasicDerivation {
            name: "x".parse().unwrap(),
            outputs: BTreeMap::from([(OutputName::out(), Output::InputAddressed(path))]),
            input_sources: BTreeSet::new(),
            system: "x86_64-linux".to_owned(),
            builder: "/bin/sh".into(),
            args: vec![output_placeholder(&OutputName::out()).as_str().into()],
            environment: environment.iter().copied().collect(),
        }
    }

    fn given(environment: &[(&str, &str)]) -> Given {
        let store_dir: StoreDir = "/nix/store".parse().unwrap();
        let derivation = derivation(environment);
        let paths = derivation.outputs.iter().map(|(name, output)| (name, output.path().unwrap()));
        let placeholders = Placeholders::of_outputs(&store_dir, paths);
        let setting = Setting {
            store_dir: &store_dir,
            folder: "/build",
            cores: 3,
            outside: &|name| Some(format!("outside {name}").into()),
        };
        let structured = derivation.structured_attributes().unwrap().map(|attributes| attributes.0);
        Given::new(&derivation, &placeholders, &setting, structured, Vec::new()).unwrap()
    }

    fn get<'a>(given: &'a Given, name: &str) -> Option<&'a str> {
        given.environment.get(name.as_bytes()).map(|value| std::str::from_utf8(value).unwrap())
    }

    #[test]
    fn a_derivation_may_set_some_variables_and_not_others() {
        let given = given(&[("HOME", "/mine"), ("PATH", "/p"), ("TMPDIR", "/mine"), ("a", "b")]);
        for (name, value) in [
            ("HOME", "/mine"),
            ("PATH", "/p"),
            ("TMPDIR", "/build"),
            ("PWD", "/build"),
            ("a", "b"),
            ("NIX_BUILD_CORES", "3"),
            ("NIX_LOG_FD", "2"),
        ] {
            assert_eq!(get(&given, name), Some(value), "{name}");
        }
        assert_eq!(get(&given, "NIX_OUTPUT_CHECKED"), None);
        assert!(given.args[0].starts_with(b"/nix/store/"), "placeholders are filled");
    }

    #[test]
    fn large_variables_come_as_files() {
        let given = given(&[("passAsFile", "big other"), ("big", "text"), ("small", "s")]);
        let [file] = given.files.as_slice() else { panic!("{:?}", given.files) };
        assert_eq!(file.contents, b"text");
        assert_eq!(get(&given, "bigPath"), Some(format!("/build/{}", file.name).as_str()));
        assert_eq!((get(&given, "big"), get(&given, "small")), (None, Some("s")));
    }

    #[test]
    fn structured_attributes_come_as_two_files() {
        let given = given(&[("__json", r#"{"b":[1,"x"],"a":{"k":1.0}}"#), ("left", "out")]);
        let names: Vec<&str> = given.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, [".attrs.sh", ".attrs.json"]);
        let json = String::from_utf8(given.files[1].contents.clone()).unwrap();
        assert!(
            json.starts_with(r#"{"a":{"k":1.0},"b":[1,"x"],"outputs":{"out":"/nix/"#),
            "{json}"
        );
        assert_eq!(get(&given, "NIX_ATTRS_SH_FILE"), Some("/build/.attrs.sh"));
        assert_eq!(get(&given, "left"), None);
    }
}
