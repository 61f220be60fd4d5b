//! Evaluation, which is Nix's: the `nix-instantiate` and `nix` of this machine turn files,
//! expressions and flakes into derivations in the same store that drover builds in.

mod installed;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, anyhow, bail};
use drover_config::is_own_setting;
use drover_core::{OutputName, StorePath};
use drover_fleet::Target;
use drover_store::{Store, Substitute};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::arguments::{SettingArguments, SourceArguments, pairs};
use crate::installable::{Attribute, Outputs};
use crate::local_store::LocalStore;
use crate::terminal::{Form, Terminal, Verbosity};

/// Runs Nix's evaluators.
pub(crate) struct Evaluator<'a> {
    /// What to evaluate, and with which arguments.
    pub(crate) source: &'a SourceArguments,
    /// The store that derivations go to.
    pub(crate) local: &'a LocalStore,
    /// The same, opened: it keeps what has no link from the garbage collector.
    pub(crate) store: &'a dyn Store,
    /// Arguments for any evaluator: settings and the form of messages.
    pub(crate) common: Vec<String>,
    /// A folder for links that keep derivations from the garbage collector for as long as it is
    /// there.
    pub(crate) roots: &'a Path,
}

/// What a flake's output says of itself, and 128 KiB of nothing. The fallback is for sets without
/// `meta`. Of a string it is what the string refers to.
///
/// The derivation has no root but the temporary one that goes with the evaluator. A pipe holds 64 KiB,
/// so the evaluator can't end before somebody has read the derivation's path and more, and by then it
/// is held here, too.
const DESCRIBE: &str = "d: let of = builtins.getContext d; drv = builtins.head (builtins.attrNames of); in [ \
    (if !builtins.isString d then { drvPath = d.drvPath; \
    outputs = if d.outputSpecified or false then [ d.outputName ] else d.meta.outputsToInstall or [ ]; \
    fallback = d.outputName or \"out\"; } \
    else if builtins.length (builtins.attrNames of) != 1 then \
    throw \"a string that is built must refer to one derivation\" \
    else { drvPath = drv; outputs = of.${drv}.outputs or [ ]; fallback = \"out\"; }) \
    (builtins.concatStringsSep \"\" (builtins.genList (_: \"................................\") 4096)) ]";

/// The file's name that stands for what is read from standard input.
const STANDARD_INPUT: &str = "-";

/// Bytes that the description itself may have.
const MAX_DESCRIPTION: usize = 1024 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    drv_path: String,
    outputs: Vec<String>,
    fallback: String,
}

impl Evaluator<'_> {
    /// Evaluates the file or the expression, all of it where there are no attributes.
    pub(crate) async fn instantiate(
        &self,
        attributes: &[Attribute],
    ) -> anyhow::Result<Vec<Target>> {
        let input = match self.source.file.as_deref() {
            Some(STANDARD_INPUT) => Some(standard_input().await?),
            _ => None,
        };
        let input = input.as_deref();
        if attributes.is_empty() {
            return self.instantiate_group((&[], &Outputs::Default), 0, input).await;
        }
        let alike = |a: &Attribute, b: &Attribute| (&a.outputs, a.named) == (&b.outputs, b.named);
        let groups: Vec<&[Attribute]> = attributes.chunk_by(alike).collect();
        if 1 < groups.len()
            && let Some(targets) = self.instantiate_together(attributes, input).await?
        {
            return Ok(targets);
        }
        let mut targets = Vec::new();
        // one run for all that want the same outputs
        for (group, number) in groups.into_iter().zip(1..) {
            let outputs = group.first().map_or(&Outputs::Default, |first| &first.outputs);
            let mut group_targets = self.instantiate_group((group, outputs), number, input).await?;
            if *outputs == Outputs::Default && group_targets.len() == group.len() {
                self.to_be_installed(group_targets.iter_mut().zip(group).collect(), input).await?;
            }
            targets.extend(group_targets);
        }
        Ok(targets)
    }

    /// Evaluates attributes of which other outputs are wanted each, in one run. Nothing where not each
    /// of them is one derivation: then it can't be told which is whose.
    async fn instantiate_together(
        &self,
        attributes: &[Attribute],
        input: Option<&[u8]>,
    ) -> anyhow::Result<Option<Vec<Target>>> {
        let mut targets = self.instantiate_group((attributes, &Outputs::Default), 0, input).await?;
        if targets.len() != attributes.len() {
            return Ok(None);
        }
        for (target, attribute) in targets.iter_mut().zip(attributes) {
            match &attribute.outputs {
                Outputs::Default => {}
                Outputs::All => target.outputs.clear(),
                Outputs::Named(names) => target.outputs.clone_from(names),
            }
        }
        let with_default = targets.iter_mut().zip(attributes);
        let with_default = with_default.filter(|(_, a)| a.outputs == Outputs::Default).collect();
        self.to_be_installed(with_default, input).await?;
        Ok(Some(targets))
    }

    async fn instantiate_group(
        &self,
        (attributes, outputs): (&[Attribute], &Outputs),
        number: usize,
        input: Option<&[u8]>,
    ) -> anyhow::Result<Vec<Target>> {
        let root = self.roots.join(format!("drv{number}"));
        let mut command = Command::new("nix-instantiate");
        command.arg("--indirect").arg("--add-root").arg(&root).args(&self.common);
        self.add_includes(&mut command);
        self.add_arguments(&mut command);
        for attribute in attributes {
            command.args(["-A", &attribute.path]);
        }
        let what = match (&self.source.expr, &self.source.file) {
            (Some(expression), _) => {
                command.args(["-E", expression]);
                "the expression".to_owned()
            }
            (None, file) => {
                let file = file.as_deref().unwrap_or("default.nix");
                match file {
                    STANDARD_INPUT => command.arg(file),
                    _ => command.arg(not_a_flag(file)),
                };
                format!("'{file}'")
            }
        };
        let printed = run(command, input, "nix-instantiate", &what).await?;
        printed.lines().map(|line| self.instantiated(line, outputs)).collect()
    }

    fn add_arguments(&self, command: &mut Command) {
        for (name, value) in pairs(&self.source.arg) {
            command.args(["--arg", name, value]);
        }
        for (name, value) in pairs(&self.source.argstr) {
            command.args(["--argstr", name, value]);
        }
    }

    /// Reads a line that `nix-instantiate` printed: `PATH` or `PATH!output`.
    fn instantiated(&self, line: &str, wanted: &Outputs) -> anyhow::Result<Target> {
        let (path, output) = line.rsplit_once('!').unwrap_or((line, "out"));
        // a store that isn't on this machine has no roots here, and then it is the path itself
        let path = match fs_err::read_link(path) {
            Ok(target) => self.local.logical(&target),
            Err(_) => PathBuf::from(path),
        };
        let derivation = self.store_path(&path)?;
        target(derivation, wanted, [output.to_owned()])
    }

    /// Evaluates a flake's output.
    pub(crate) async fn flake(&self, reference: &str, outputs: &Outputs) -> anyhow::Result<Target> {
        let mut command = Command::new("nix");
        command.args(["--extra-experimental-features", "nix-command flakes", "eval"]);
        command.args(&self.common);
        self.add_includes(&mut command);
        if self.source.impure {
            command.arg("--impure");
        }
        command.args(["--json", "--apply", DESCRIBE]).arg(not_a_flag(reference));
        let what = format!("'{reference}'");
        command.stdin(Stdio::null());
        let mut child = start(command, "nix", &what)?;
        let unexpected = || format!("'nix eval' said something unexpected of {what}");
        let mut printed = child.stdout.take().with_context(unexpected)?;
        let described = read_described(&mut printed).await.with_context(unexpected);
        let held = match &described {
            Ok(described) => {
                let derivation = self.store_path(Path::new(&described.drv_path))?;
                self.store.hold_valid(&[derivation.clone()].into(), Substitute::No).await?;
                Some(derivation)
            }
            Err(_) => None,
        };
        // now it may end
        tokio::io::copy(&mut printed, &mut tokio::io::sink()).await.with_context(unexpected)?;
        finish(child, "nix", &what).await?;
        let (described, derivation) = (described?, held.with_context(unexpected)?);
        let names = match described.outputs.is_empty() {
            true => vec![described.fallback],
            false => described.outputs,
        };
        target(derivation, outputs, names)
    }

    fn add_includes(&self, command: &mut Command) {
        for place in &self.source.include {
            command.args(["-I", place]);
        }
    }

    fn store_path(&self, path: &Path) -> anyhow::Result<StorePath> {
        let text = path.to_str().ok_or_else(|| anyhow!("'{}' is not UTF-8", path.display()))?;
        self.local.store_dir.parse(text).context(
            "the evaluator uses another store directory; set NIX_STORE_DIR to the same for both",
        )
    }
}

/// Returns the arguments that any evaluator takes; `building` are those about the builds of what an
/// expression imports.
pub(crate) fn common_arguments(
    settings: &SettingArguments,
    building: &[(&str, &str)],
    local: &LocalStore,
    terminal: &Terminal,
) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
    for (name, value) in pairs(&settings.option) {
        if !is_own_setting(name) {
            add(&["--option", name, value]);
        }
    }
    for (flag, value) in building {
        add(&[flag, value]);
    }
    if let Some(store) = &local.argument {
        add(&["--store", store]);
    }
    match terminal.verbosity {
        Verbosity::Errors => add(&["--quiet", "--quiet", "--quiet"]),
        Verbosity::Quiet => add(&["--quiet"]),
        Verbosity::Normal | Verbosity::Verbose | Verbosity::Debug => {}
    }
    if terminal.form == Form::Json {
        add(&["--log-format", "internal-json"]);
    }
    arguments
}

/// Returns what is wanted of a derivation; `default` is what evaluation says.
fn target(
    derivation: StorePath,
    wanted: &Outputs,
    default: impl IntoIterator<Item = String>,
) -> anyhow::Result<Target> {
    let outputs = match wanted {
        Outputs::Default => output_names(default)?,
        Outputs::All => BTreeSet::new(),
        Outputs::Named(names) => names.clone(),
    };
    Ok(Target { derivation, outputs })
}

fn output_names(names: impl IntoIterator<Item = String>) -> anyhow::Result<BTreeSet<OutputName>> {
    let name = |name: String| name.parse().with_context(|| format!("output '{name}'"));
    names.into_iter().map(name).collect()
}

fn not_a_flag(argument: &str) -> String {
    match argument.starts_with('-') {
        true => format!("./{argument}"),
        false => argument.to_owned(),
    }
}

/// Reads what `DESCRIBE` gives, as far as that matters.
async fn read_described(from: &mut (impl AsyncRead + Unpin)) -> anyhow::Result<Described> {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_DESCRIPTION && from.read_buf(&mut bytes).await? > 0 {
        let Some(first) = bytes.strip_prefix(b"[") else { continue };
        let mut values = serde_json::Deserializer::from_slice(first).into_iter();
        match values.next() {
            None => {}
            Some(Err(error)) if error.is_eof() => {}
            Some(described) => return Ok(described?),
        }
    }
    bail!("it is not what was asked for")
}

/// Reads what several evaluators may have to read.
async fn standard_input() -> anyhow::Result<Vec<u8>> {
    let mut input = Vec::new();
    let mut stdin = tokio::io::stdin();
    stdin.read_to_end(&mut input).await.context("cannot read standard input")?;
    Ok(input)
}

/// Runs an evaluator to its end, and returns what it printed.
async fn run(
    mut command: Command,
    input: Option<&[u8]>,
    program: &str,
    what: &str,
) -> anyhow::Result<String> {
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = start(command, program, what)?;
    let to = child.stdin.take();
    let feeding = async {
        if let (Some(mut to), Some(input)) = (to, input) {
            // one that ends early says why itself
            to.write_all(input).await.ok();
        }
    };
    let (printed, ()) = tokio::join!(finish(child, program, what), feeding);
    let printed = printed?;
    String::from_utf8(printed).with_context(|| format!("'{program}' printed no UTF-8"))
}

/// Starts an evaluator, whose messages go to the user directly.
fn start(mut command: Command, program: &str, what: &str) -> anyhow::Result<Child> {
    command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.kill_on_drop(true);
    command.spawn().map_err(|error| cannot_run(program, what, error))
}

/// Waits for the end of an evaluator, and returns what it printed that nobody has read.
async fn finish(child: Child, program: &str, what: &str) -> anyhow::Result<Vec<u8>> {
    let output = child
        .wait_with_output()
        .await
        .with_context(|| format!("cannot read what '{program}' prints"))?;
    if !output.status.success() {
        bail!("'{program}' could not evaluate {what} ({})", output.status);
    }
    Ok(output.stdout)
}

fn cannot_run(program: &str, what: &str, error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::NotFound => anyhow!(
            "'{program}' is not on the PATH, but evaluating {what} takes it; install Nix (Debian \
             and Ubuntu: apt install nix-bin; elsewhere: https://nixos.org/download), or give a \
             PATH.drv, which needs no evaluation"
        ),
        _ => anyhow!(error).context(format!("cannot run '{program}'")),
    }
}

#[cfg(test)]
mod tests {
    use drover_core::StoreDir;
    use drover_store::MemoryStore;
    use drover_store_remote::Address;
    use rstest::rstest;

    use super::*;

    const PATH: &str = "/nix/store/3880j94arxkya3irs3d8nr2x076sp1m8-a.drv";

    fn local() -> LocalStore {
        LocalStore {
            name: "daemon".to_owned(),
            address: Address::Socket("/s".into()),
            connections: None,
            store_dir: StoreDir::default(),
            real_dir: None,
            argument: None,
        }
    }

    #[rstest]
    #[case::main_output("", &["out"])]
    #[case::other_output("!dev", &["dev"])]
    fn reads_what_was_instantiated(#[case] suffix: &str, #[case] outputs: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("drv");
        std::os::unix::fs::symlink(PATH, &link).unwrap();
        let (source, local) = (SourceArguments::default(), local());
        let evaluator = Evaluator {
            source: &source,
            local: &local,
            store: &MemoryStore::default(),
            common: Vec::new(),
            roots: dir.path(),
        };
        for line in [PATH, link.to_str().unwrap()] {
            let line = format!("{line}{suffix}");
            let target = evaluator.instantiated(&line, &Outputs::Default).unwrap();
            assert_eq!(local.store_dir.display(&target.derivation), PATH);
            assert_eq!(target.outputs.iter().map(OutputName::as_str).collect::<Vec<_>>(), outputs);
        }
        let target = evaluator.instantiated(PATH, &Outputs::All).unwrap();
        assert!(target.outputs.is_empty());
    }
}
