//! The rules about single files, and the sum of a crate's lines.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Source;
use super::{Finding, Rule};

/// Names that say nothing of what is inside.
const DRAWERS: [&str; 8] =
    ["utils", "util", "common", "types", "helpers", "helper", "misc", "stuff"];

/// A folder that only the machine of the first authors has; in two parts, or this file names it.
const FOREIGN: &str = concat!("/wo", "rk/");

/// Checks all files, given as path and text.
pub(super) fn check(files: &[(String, String)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut crates: BTreeMap<&str, usize> = BTreeMap::new();
    let tests = test_files(files);
    for (path, text) in files {
        for (index, _) in text.lines().enumerate().filter(|(_, line)| line.contains(FOREIGN)) {
            findings
                .push(whole(path, Rule::ForeignPath, format!("names {FOREIGN}…")).at(index + 1));
        }
        check_refusals(path, text, &mut findings);
        if !path.ends_with(".rs") {
            continue;
        }
        let source = Source::new(text);
        check_words(path, text, &source, &mut findings);
        if tests.contains(path.as_str()) {
            continue;
        }
        let lines = source.lines_before_tests();
        let counted = whole(path, Rule::FileLength, format!("{lines} lines before its tests"));
        findings.extend(counted.if_above(lines));
        for function in source.functions().iter().filter(|function| function.line <= lines) {
            let message = format!("fn {} has {} lines", function.name, function.length);
            let counted = whole(path, Rule::FunctionLength, message).at(function.line);
            findings.extend(counted.if_above(function.length));
        }
        if let Some(name) = crate_folder(path) {
            *crates.entry(name).or_default() += lines;
        }
    }
    for (path, lines) in crates {
        let counted = whole(path, Rule::CrateLength, format!("{lines} lines without tests"));
        findings.extend(counted.if_above(lines));
    }
    findings
}

/// Finds commands in scripts that are to fail, and whose success nobody would notice: with `-e`, too, a shell
/// passes over the status of a command with a '!' before it.
fn check_refusals(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let is_script = path.ends_with(".rs") || path.starts_with("scripts/");
    let passes = |line: &str| line.trim_start().starts_with("! ") && !line.contains("||");
    for (index, _) in text.lines().enumerate().filter(|(_, line)| is_script && passes(line)) {
        let message = "a command with '!' needs '|| exit 1' to be noticed".to_owned();
        findings.push(whole(path, Rule::Refusal, message).at(index + 1));
    }
}

/// Checks what a Rust file says, tests or not.
fn check_words(path: &str, text: &str, source: &Source, findings: &mut Vec<Finding>) {
    let starts = |line: &&str| !line.trim().is_empty() && !line.starts_with("#!");
    if !text.lines().find(starts).is_some_and(|line| line.starts_with("//!")) {
        findings.push(whole(path, Rule::ModuleDoc, "does not start with //!".to_owned()));
    }
    for name in ["ignore", "should_panic"] {
        for line in source.attributes(name) {
            findings.push(whole(path, Rule::Unfinished, format!("#[{name}]")).at(line));
        }
    }
    for name in ["todo", "unimplemented"] {
        for line in source.macro_calls(name) {
            findings.push(whole(path, Rule::Unfinished, format!("{name}!")).at(line));
        }
    }
    let fence = |(_, line): &(usize, &str)| line.contains("```ignore");
    for (index, _) in source.comments.lines().enumerate().filter(fence) {
        let message = "an example that is not compiled".to_owned();
        findings.push(whole(path, Rule::Unfinished, message).at(index + 1));
    }
    let mut modules = source.modules();
    let last = path.trim_end_matches("/mod.rs").trim_end_matches(".rs").rsplit('/').next();
    modules.extend(last.map(|name| (0, name.to_owned())));
    for (line, name) in modules {
        if DRAWERS.contains(&name.as_str()) {
            let message = format!("a module named {name} says nothing of what is inside");
            findings.push(whole(path, Rule::ModuleName, message).at(line));
        }
    }
}

/// Returns the files that hold tests only: those that Cargo or a `#[cfg(test)] mod name;` say.
fn test_files(files: &[(String, String)]) -> BTreeSet<&str> {
    let mut tests: BTreeSet<&str> = BTreeSet::new();
    for (path, _) in files {
        let inside = |folder: &str| path.split('/').rev().skip(1).any(|part| part == folder);
        let src = inside("src");
        if path.ends_with("/tests.rs") || inside("tests") || !src && inside("benches") {
            tests.insert(path);
        }
    }
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".rs")) {
        let code = Source::new(text).code;
        for (at, attribute) in code.match_indices("#[cfg(test)]") {
            let after = code.get(at + attribute.len()..).unwrap_or_default();
            let Some((head, _)) = after.split_once(['{', ';']) else { continue };
            let ends = after.get(head.len()..).unwrap_or_default();
            let Some(name) = head.trim().trim_start_matches("pub(crate) ").strip_prefix("mod ")
            else {
                continue;
            };
            if ends.starts_with(';') {
                let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
                let stem = file.trim_end_matches(".rs");
                let folder = match stem {
                    "lib" | "main" | "mod" => folder.to_owned(),
                    stem => format!("{folder}/{stem}"),
                };
                let wanted = [format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")];
                let found = files.iter().filter(|(path, _)| wanted.contains(path));
                tests.extend(found.map(|(path, _)| path.as_str()));
            }
        }
    }
    tests
}

/// Returns the folder of the crate that a file of `src` belongs to.
fn crate_folder(path: &str) -> Option<&str> {
    path.find("/src/").and_then(|at| path.get(..at))
}

fn whole(path: &str, rule: Rule, message: String) -> Finding {
    Finding { path: path.to_owned(), line: 0, rule, message, size: None }
}

impl Finding {
    fn at(self, line: usize) -> Finding {
        Finding { line, ..self }
    }

    /// Returns the finding if `size` is more than its rule allows.
    fn if_above(self, size: usize) -> Option<Finding> {
        let limit = self.rule.limit()?;
        let message = format!("{}, {limit} is the limit", self.message);
        (limit < size).then_some(Finding { size: Some(size), message, ..self })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn rules(files: &[(&str, String)]) -> Vec<(String, usize, Rule)> {
        let owned: Vec<_> =
            files.iter().map(|(path, text)| ((*path).to_owned(), text.clone())).collect();
        check(&owned).into_iter().map(|it| (it.path, it.line, it.rule)).collect()
    }

    #[rstest]
    #[case::clean("//! A file.\nfn a() {}\n", None)]
    #[case::attribute_first("#![allow(x)]\n\n//! A file.\n", None)]
    #[case::no_doc("// A file.\n", Some((0, Rule::ModuleDoc)))]
    #[case::empty("", Some((0, Rule::ModuleDoc)))]
    #[case::ignored("//! A\n#[test]\n#[ignore]\nfn a() {}", Some((3, Rule::Unfinished)))]
    #[case::panic("//! A\n#[should_panic(expected = \"x\")]\nfn a() {}", Some((2, Rule::Unfinished)))]
    #[case::todo("//! A\nfn a() { todo!() }", Some((2, Rule::Unfinished)))]
    #[case::unimplemented("//! A\nfn a() { unimplemented!() }", Some((2, Rule::Unfinished)))]
    #[case::quoted("//! A todo!() in words\nconst A: &str = \"todo!()\";", None)]
    #[case::example("//! A\n//! ```ignore\n//! ```\n", Some((2, Rule::Unfinished)))]
    #[case::drawer("//! A\npub(crate) mod utils {}", Some((2, Rule::ModuleName)))]
    #[case::no_drawer("//! A\nmod types_of_ship {}\nuse a::types::B;", None)]
    fn one_file(#[case] text: &str, #[case] expected: Option<(usize, Rule)>) {
        let found = rules(&[("crates/a/src/b.rs", text.to_owned())]);
        let found: Vec<_> = found.into_iter().map(|(_, line, rule)| (line, rule)).collect();
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_file_named_after_nothing_is_found() {
        for path in ["crates/a/src/types.rs", "crates/a/src/common/mod.rs"] {
            assert_eq!(rules(&[(path, "//! A".into())]), [(path.into(), 0, Rule::ModuleName)]);
        }
    }

    #[test]
    fn foreign_paths_are_found_in_any_file() {
        let text = format!("a\nsee {FOREIGN}main\n");
        assert_eq!(rules(&[("README.md", text)]), [("README.md".into(), 2, Rule::ForeignPath)]);
    }

    #[test]
    fn lengths_leave_out_tests() {
        let lines = |count: usize| format!("//! A\n{}", "a;\n".repeat(count - 1));
        let tests = "#[cfg(test)]\nmod tests {\n".to_owned() + &"a;\n".repeat(500) + "}\n";
        let path = "crates/a/src/b.rs";
        assert_eq!(rules(&[(path, lines(400) + &tests)]), []);
        assert_eq!(rules(&[(path, lines(401) + &tests)]), [(path.into(), 0, Rule::FileLength)]);
        assert_eq!(rules(&[("crates/a/tests/b.rs", lines(900))]), []);
        let parent = "//! A\n#[cfg(test)]\nmod cases;\n".to_owned();
        assert_eq!(rules(&[(path, parent), ("crates/a/src/b/cases.rs", lines(900))]), []);
    }

    #[test]
    fn refusals_in_scripts_are_noticed() {
        let script = |line: &str| format!("//! A\nconst S: &str = r\"\n  {line}\n\";\n");
        let path = "crates/a/tests/b.rs";
        assert_eq!(rules(&[(path, script("! [ -e x ]"))]), [(path.into(), 3, Rule::Refusal)]);
        assert_eq!(rules(&[(path, script("! [ -e x ] || exit 1"))]), []);
    }

    #[test]
    fn functions_and_crates_have_limits() {
        let function = |count: usize| format!("fn a() {{\n{}}}\n", "b;\n".repeat(count - 2));
        let path = "crates/a/src/b.rs";
        assert_eq!(rules(&[(path, "//! A\n".to_owned() + &function(50))]), []);
        let found = rules(&[(path, "//! A\n".to_owned() + &function(51))]);
        assert_eq!(found, [(path.into(), 2, Rule::FunctionLength)]);

        let names: Vec<String> = (0..8).map(|it| format!("crates/a/src/{it}.rs")).collect();
        let file = "//! A\n".to_owned() + &"a;\n".repeat(375);
        let files: Vec<_> = names.iter().map(|name| (name.as_str(), file.clone())).collect();
        assert_eq!(rules(&files), [("crates/a".into(), 0, Rule::CrateLength)]);
    }
}
