//! The layer rule: dependencies point downwards.
//!
//! A crate states its layer in `[package.metadata]`. What it is built with must be of a lower
//! layer; what only its tests use need not. The test kit is for tests, whatever its layer.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use toml::{Table, Value};

use super::{Finding, Rule};

const TEST_KIT: &str = "drover-testkit";
/// Measures with the test kit's hosts; nothing depends on it.
const CHORES: &str = "drover-xtask";

/// What the layers and the map are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Crate {
    /// Its manifest, relative to the workspace.
    pub(super) path: String,
    pub(super) name: String,
    /// As it states it.
    pub(super) layer: Option<i64>,
    /// The packages that it is built with, on whatever platform.
    pub(super) dependencies: Vec<String>,
}

/// Reads the manifests, given as path and text.
///
/// # Errors
///
/// One isn't TOML, or is of no package.
pub(super) fn read(manifests: &[(String, String)]) -> Result<Vec<Crate>> {
    manifests.iter().map(|(path, text)| read_one(path, text)).collect()
}

fn read_one(path: &str, text: &str) -> Result<Crate> {
    let table: Table = text.parse().with_context(|| path.to_owned())?;
    let package = table.get("package").and_then(Value::as_table);
    let package = package.with_context(|| format!("{path} has no [package]"))?;
    let name = package.get("name").and_then(Value::as_str).unwrap_or_default();
    let layer = package.get("metadata").and_then(|it| it.get("layer"));
    Ok(Crate {
        path: path.to_owned(),
        name: name.to_owned(),
        layer: layer.and_then(Value::as_integer),
        dependencies: dependencies(&table),
    })
}

/// Checks the crates.
pub(super) fn check(crates: &[Crate]) -> Vec<Finding> {
    let layers: BTreeMap<&str, i64> =
        crates.iter().filter_map(|it| Some((it.name.as_str(), it.layer?))).collect();
    let mut findings = Vec::new();
    for Crate { path, name, layer, dependencies } in crates {
        if layer.is_none() {
            findings.push(breach(path, "no layer in [package.metadata]".to_owned()));
        }
        for dependency in dependencies {
            let message = match (layer, layers.get(dependency.as_str())) {
                _ if dependency == TEST_KIT && name != CHORES => {
                    format!("{TEST_KIT} is for [dev-dependencies] only")
                }
                (Some(above), Some(below)) if above <= below => {
                    format!("{name} (layer {above}) depends on {dependency} (layer {below})")
                }
                _ => continue,
            };
            findings.push(breach(path, message));
        }
    }
    findings
}

fn breach(path: &str, message: String) -> Finding {
    Finding { path: path.to_owned(), line: 0, rule: Rule::Layer, message, size: None }
}

/// Returns the packages that the crate is built with, on whatever platform.
fn dependencies(manifest: &Table) -> Vec<String> {
    let mut tables = vec![manifest];
    if let Some(targets) = manifest.get("target").and_then(Value::as_table) {
        tables.extend(targets.values().filter_map(Value::as_table));
    }
    let mut names = Vec::new();
    for table in tables {
        for kind in ["dependencies", "build-dependencies"] {
            let Some(entries) = table.get(kind).and_then(Value::as_table) else { continue };
            for (key, value) in entries {
                // A dependency may go by another name in the code.
                let package = value.get("package").and_then(Value::as_str).unwrap_or(key);
                names.push(package.to_owned());
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn manifest(name: &str, layer: u32, rest: &str) -> (String, String) {
        let text = format!("[package]\nname='{name}'\n[package.metadata]\nlayer={layer}\n{rest}\n");
        (format!("crates/{name}/Cargo.toml"), text)
    }

    #[rstest]
    #[case::lower("[dependencies]\nlow.workspace=true\nserde='1'", 0)]
    #[case::same("[dependencies]\nside.workspace=true", 1)]
    #[case::higher("[dependencies]\nhigh={path='../high'}", 1)]
    #[case::renamed("[dependencies]\nx={package='high',path='../high'}", 1)]
    #[case::build("[build-dependencies]\nhigh.workspace=true", 1)]
    #[case::target("[target.'cfg(unix)'.dependencies]\nhigh.workspace=true", 1)]
    #[case::dev("[dev-dependencies]\nhigh.workspace=true\ndrover-testkit.workspace=true", 0)]
    #[case::test_kit("[dependencies]\ndrover-testkit.workspace=true", 1)]
    fn dependencies_point_downwards(#[case] rest: &str, #[case] breaches: usize) {
        let manifests = [
            manifest("low", 1, ""),
            manifest("side", 2, ""),
            manifest("high", 3, ""),
            manifest(TEST_KIT, 0, ""),
            manifest("me", 2, rest),
        ];
        let findings = check(&read(&manifests).unwrap());
        assert_eq!(findings.len(), breaches, "{findings:?}");
        assert!(findings.iter().all(|finding| finding.path == "crates/me/Cargo.toml"));
    }

    #[test]
    fn a_crate_must_state_its_layer() {
        let manifests = [("crates/a/Cargo.toml".to_owned(), "[package]\nname='a'".to_owned())];
        let findings = check(&read(&manifests).unwrap());
        assert!(findings[0].message.contains("no layer"));
    }
}
