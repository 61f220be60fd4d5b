//! The house rules that neither the compiler nor Clippy checks.
//!
//! Each rule has a name; `tidy.toml` at the root of the workspace may waive one for a path, with a
//! reason and, for sizes, another limit. A waiver that nothing needs is an error too.

mod layers;
mod map;
mod reference;
mod rules;
mod source;
mod waivers;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use waivers::Waivers;

/// One breach of one rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// File or crate folder, relative to the workspace.
    path: String,
    /// Line, counted from 1; 0 if the rule is about the whole.
    line: usize,
    rule: Rule,
    message: String,
    /// What was counted, for rules with a limit.
    size: Option<usize>,
}

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    /// A crate depends, outside of its tests, only on crates of lower layers.
    Layer,
    /// A Rust file starts with `//!`.
    ModuleDoc,
    /// A file has at most 400 lines before its tests.
    FileLength,
    /// A function has at most 50 lines.
    FunctionLength,
    /// A crate has at most 3,000 lines without its tests.
    CrateLength,
    /// Nothing is ignored, expected to panic, or left to be done.
    Unfinished,
    /// A module is named after what is in it.
    ModuleName,
    /// No file names a folder of the machine that it was written on.
    ForeignPath,
    /// The reference of messages and variables says what the program says and reads.
    Reference,
    /// What a script expects to fail would be noticed if it didn't.
    Refusal,
    /// The map of the crates is that of the crates.
    Map,
}

impl Rule {
    const ALL: [Rule; 11] = [
        Rule::Layer,
        Rule::ModuleDoc,
        Rule::FileLength,
        Rule::FunctionLength,
        Rule::CrateLength,
        Rule::Unfinished,
        Rule::ModuleName,
        Rule::ForeignPath,
        Rule::Reference,
        Rule::Refusal,
        Rule::Map,
    ];

    fn name(self) -> &'static str {
        match self {
            Rule::Layer => "layer",
            Rule::ModuleDoc => "module-doc",
            Rule::FileLength => "file-length",
            Rule::FunctionLength => "function-length",
            Rule::CrateLength => "crate-length",
            Rule::Unfinished => "unfinished",
            Rule::ModuleName => "module-name",
            Rule::ForeignPath => "foreign-path",
            Rule::Reference => "reference",
            Rule::Refusal => "refusal",
            Rule::Map => "map",
        }
    }

    /// The number that must not be exceeded, for rules that have one.
    fn limit(self) -> Option<usize> {
        match self {
            Rule::FileLength => Some(400),
            Rule::FunctionLength => Some(50),
            Rule::CrateLength => Some(3_000),
            _ => None,
        }
    }
}

/// Checks everything and prints what is wrong.
pub(crate) fn run(workspace: &Path) -> Result<()> {
    let waivers = match fs::read_to_string(workspace.join("tidy.toml")) {
        Ok(text) => Waivers::parse(&text).context("tidy.toml")?,
        Err(_) => Waivers::default(),
    };
    let files = files(workspace)?;
    let crates = layers::read(&manifests(workspace)?)?;
    let mut findings = layers::check(&crates);
    let page = files.iter().find(|(path, _)| path == map::PAGE);
    findings.extend(page.into_iter().flat_map(|(_, page)| map::check(page, &crates)));
    findings.extend(rules::check(&files));
    findings.extend(reference::check(&files));
    let left = waivers.apply(findings);
    for Finding { path, line, rule, message, .. } in &left {
        let place = if *line == 0 { path.clone() } else { format!("{path}:{line}") };
        println!("{place}: {message} [{}]", rule.name());
    }
    match left.len() {
        0 => Ok(()),
        count => bail!("{count} breaches of the house rules"),
    }
}

/// Draws the map of the crates anew.
pub(crate) fn write(workspace: &Path) -> Result<()> {
    let page = workspace.join(map::PAGE);
    let crates = layers::read(&manifests(workspace)?)?;
    let text = map::rewrite(&fs::read_to_string(&page)?, &crates)?;
    Ok(fs::write(page, text)?)
}

/// Returns every text file of the repository: relative path and contents.
fn files(workspace: &Path) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(workspace.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            let name = entry.file_name();
            let kind = entry.file_type()?;
            if kind.is_dir() && ![".git", ".cache", "target"].iter().any(|it| name == *it) {
                folders.push(path);
            } else if kind.is_file() && name != ".git" {
                // What is not text has nothing for us.
                if let Ok(text) = fs::read_to_string(entry.path()) {
                    files.push((path.display().to_string(), text));
                }
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Returns the manifest of every crate: path and contents.
fn manifests(workspace: &Path) -> Result<Vec<(String, String)>> {
    let mut manifests = Vec::new();
    for entry in fs::read_dir(workspace.join("crates"))? {
        let path = Path::new("crates").join(entry?.file_name()).join("Cargo.toml");
        if let Ok(text) = fs::read_to_string(workspace.join(&path)) {
            manifests.push((path.display().to_string(), text));
        }
    }
    manifests.sort();
    Ok(manifests)
}
