//! Which outputs of attributes are to be installed, which `nix-instantiate` doesn't say.

use std::collections::BTreeSet;
use std::path::absolute;

use anyhow::Context as _;
use drover_core::{OutputName, StorePath};
use drover_derivation::{Derivation, derivation_name};
use drover_fleet::Target;
use tokio::process::Command;

use super::{Evaluator, STANDARD_INPUT, not_a_flag, output_names, run};
use crate::installable::{Attribute, Named};

/// Which outputs of a derivation are to be installed; none where it doesn't say.
const INSTALLED: &str = "d: if d.outputSpecified or false then [ d.outputName ] \
    else d.meta.outputsToInstall or [ ]";

impl Evaluator<'_> {
    /// Has all outputs built that are to be installed, of attributes that were named alone: what those
    /// are isn't told by `nix-instantiate`, and is only asked where there is more than one.
    pub(super) async fn to_be_installed(
        &self,
        mut asked: Vec<(&mut Target, &Attribute)>,
        input: Option<&[u8]>,
    ) -> anyhow::Result<()> {
        asked.retain(|(_, attribute)| attribute.named == Named::Alone);
        let paths: Vec<StorePath> =
            asked.iter().map(|(target, _)| target.derivation.clone()).collect();
        let files = self.store.read_files(&paths).await?;
        let mut several = Vec::new();
        for ((target, attribute), file) in asked.into_iter().zip(files) {
            let Some(name) = derivation_name(&target.derivation) else { continue };
            let derivation = Derivation::parse_aterm(&self.local.store_dir, &name, &file)?;
            if derivation.outputs.len() > 1 {
                several.push((target, attribute));
            }
        }
        let attributes: Vec<&Attribute> = several.iter().map(|(_, attribute)| *attribute).collect();
        let at_once = match attributes.len() {
            0 | 1 => None,
            _ => self.outputs_of_all(&attributes).await?,
        };
        let Some(outputs) = at_once else {
            for (target, attribute) in several {
                target.outputs = self.outputs_of(attribute, input).await?;
            }
            return Ok(());
        };
        for ((target, _), outputs) in several.into_iter().zip(outputs) {
            target.outputs = outputs;
        }
        Ok(())
    }

    /// Asks which outputs of several attributes are to be installed, in one run. Nothing where what is
    /// evaluated can't be named in an expression.
    async fn outputs_of_all(
        &self,
        attributes: &[&Attribute],
    ) -> anyhow::Result<Option<Vec<BTreeSet<OutputName>>>> {
        let file = self.source.file.as_deref().unwrap_or("default.nix");
        let paths = attributes.iter().map(|attribute| attribute.path.as_str());
        let Some(expression) = all_installed(self.source.expr.as_deref(), file, paths)? else {
            return Ok(None);
        };
        let mut command = Command::new("nix-instantiate");
        command.args(["--eval", "--strict", "--json"]).args(&self.common);
        self.add_includes(&mut command);
        self.add_arguments(&mut command);
        command.args(["-E", &expression]);
        let what = format!("'{file}'");
        let printed = run(command, None, "nix-instantiate", &what).await?;
        let all: Vec<Vec<String>> = serde_json::from_str(&printed)
            .with_context(|| format!("'nix-instantiate' said something unexpected of {what}"))?;
        all.into_iter().map(output_names).collect::<anyhow::Result<_>>().map(Some)
    }

    /// Asks which outputs of an attribute are to be installed; none for all.
    async fn outputs_of(
        &self,
        attribute: &Attribute,
        input: Option<&[u8]>,
    ) -> anyhow::Result<BTreeSet<OutputName>> {
        let mut command = Command::new("nix");
        command.args(["--extra-experimental-features", "nix-command", "eval"]);
        command.args(&self.common);
        self.add_includes(&mut command);
        self.add_arguments(&mut command);
        match (&self.source.expr, self.source.file.as_deref().unwrap_or("default.nix")) {
            (Some(expression), _) => command.args(["--expr", expression]),
            (None, STANDARD_INPUT) => command.args(["--file", STANDARD_INPUT]),
            (None, file) => command.args(["--file", &not_a_flag(file)]),
        };
        command.args(["--json", "--apply", INSTALLED]).arg(&attribute.path);
        let what = format!("'{}'", attribute.path);
        let printed = run(command, input, "nix", &what).await?;
        let names: Vec<String> = serde_json::from_str(&printed)
            .with_context(|| format!("'nix eval' said something unexpected of {what}"))?;
        output_names(names)
    }
}

/// Finds attributes as Nix does, and says of each which outputs are to be installed. Functions on the way
/// are called with the arguments that are given by name.
const FIND: &str = "\
    call = f: if builtins.isFunction f then f (builtins.intersectAttrs (builtins.functionArgs f) args) \
    else if f ? __functor then call (f.__functor f) else f; \
    step = v: name: let c = call v; in \
    if builtins.isList c then builtins.elemAt c (builtins.fromJSON name) else c.${name}; \
    called = call top; find = path: call (builtins.foldl' step called path);";

/// Returns the expression that says of each attribute which outputs are to be installed; nothing where
/// what they are attributes of can't be written in it.
fn all_installed<'a>(
    expression: Option<&str>,
    file: &str,
    paths: impl Iterator<Item = &'a str>,
) -> anyhow::Result<Option<String>> {
    let top = match (expression, file) {
        (Some(expression), _) => format!("({expression}\n)"),
        (None, STANDARD_INPUT) => return Ok(None),
        (None, file) if file.starts_with('<') => format!("import {file}"),
        // what is fetched from elsewhere
        (None, file) if file.contains(':') => return Ok(None),
        (None, file) => {
            let file = absolute(file).with_context(|| format!("'{file}'"))?;
            let Some(file) = file.to_str() else { return Ok(None) };
            format!("import (/. + {})", string(file))
        }
    };
    let mut lists = String::new();
    for path in paths {
        let Some(names) = names_of(path) else { return Ok(None) };
        let names: Vec<String> = names.iter().map(|name| string(name)).collect();
        lists.push_str(&format!(" [ {} ]", names.join(" ")));
    }
    Ok(Some(format!(
        "{{ ... }}@args: let top = {top}; installed = {INSTALLED}; {FIND} in \
         map (path: installed (find path)) [{lists} ]"
    )))
}

/// Returns the names that a path of attributes consists of, which may be in quotes.
fn names_of(path: &str) -> Option<Vec<String>> {
    let mut names = vec![String::new()];
    let mut is_quoted = false;
    for c in path.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            '.' if !is_quoted => names.push(String::new()),
            c => names.last_mut()?.push(c),
        }
    }
    (!is_quoted && names.iter().all(|name| !name.is_empty())).then_some(names)
}

/// Returns a text as a string of Nix.
fn string(text: &str) -> String {
    let mut string = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '$') {
            string.push('\\');
        }
        string.push(c);
    }
    string.push('"');
    string
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::one("a", Some(&["a"][..]))]
    #[case::several("a.b.0", Some(&["a", "b", "0"][..]))]
    #[case::quoted("a.\"b.c\".d", Some(&["a", "b.c", "d"][..]))]
    #[case::without_end("a.\"b", None)]
    #[case::without_name("a..b", None)]
    fn names_of_paths(#[case] path: &str, #[case] expected: Option<&[&str]>) {
        let expected = expected.map(|names| names.iter().map(ToString::to_string).collect());
        assert_eq!(names_of(path), expected);
    }

    #[rstest]
    #[case::standard_input("-", None)]
    #[case::elsewhere("https://example.org/x.tar.gz", None)]
    #[case::searched("<nixpkgs>", Some("let top = import <nixpkgs>;"))]
    #[case::file("/a/${b}", Some(r#"let top = import (/. + "/a/\${b}");"#))]
    fn what_can_be_written_down(#[case] file: &str, #[case] expected: Option<&str>) {
        let said = all_installed(None, file, ["a", "b.c"].into_iter()).unwrap();
        assert_eq!(said.is_some(), expected.is_some());
        if let (Some(said), Some(expected)) = (said, expected) {
            assert!(said.contains(expected), "{said}");
            assert!(said.ends_with(r#"[ [ "a" ] [ "b" "c" ] ]"#), "{said}");
        }
    }
}
