//! The Debian package, as far as it can be looked at where `cargo-deb` isn't: what it is made of is there.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{repository, run_ok};

fn package() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let metadata = run_ok(
        Command::new(cargo)
            .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
            .current_dir(repository("")),
    );
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let cli = packages.iter().find(|package| package["name"] == "drover-cli").unwrap();
    cli["metadata"]["deb"].clone()
}

/// Returns the files that a pattern of the list stands for, from the crate's folder.
fn files(pattern: &str) -> Vec<PathBuf> {
    let path = repository("crates/cli").join(pattern);
    let (folder, name) = (path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap());
    let Some((begin, end)) = name.split_once('*') else {
        return path.is_file().then_some(path).into_iter().collect();
    };
    let entries = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let fits = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(begin) && name.ends_with(end)
    };
    entries.filter(fits).collect()
}

#[test]
fn all_that_is_packed_is_there() {
    let package = package();
    let assets = package["assets"].as_array().unwrap();
    let made = |source: &str| source.starts_with("target/") || source.contains("/target/dist/");
    let sources = assets.iter().map(|asset| asset[0].as_str().unwrap());
    for source in sources.filter(|source| !made(source)) {
        assert_ne!(files(source), Vec::<PathBuf>::new(), "there is no {source}");
    }
    // both licences, as the program may be had under either
    for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
        let is_it = |asset: &Value| asset[0].as_str().unwrap().ends_with(licence);
        assert!(assets.iter().any(is_it), "{licence} isn't packed");
    }
    // what scripts/dist makes beforehand it makes by these names
    let dist = fs_err::read_to_string(repository("scripts/dist")).unwrap();
    for asset in assets.iter().filter(|asset| made(asset[0].as_str().unwrap())) {
        let name = Path::new(asset[0].as_str().unwrap()).file_name().unwrap().to_str().unwrap();
        assert!(name.contains('*') || dist.contains(name), "scripts/dist doesn't make {name}");
    }
    assert_eq!(files(package["license-file"][0].as_str().unwrap()).len(), 1);
}

#[test]
fn systemd_is_told_of_the_units() {
    let package = package();
    let scripts = package["maintainer-scripts"].as_str().unwrap();
    for name in ["postinst", "postrm"] {
        let [script] = &files(&format!("{scripts}/{name}"))[..] else { panic!("no {name}") };
        run_ok(Command::new("sh").arg("-n").arg(script));
        let text = fs_err::read_to_string(script).unwrap();
        assert!(text.contains("daemon-reload") && text.contains("#DEBHELPER#"), "{text}");
        assert!(!text.contains("enable --now"), "nothing is started: {text}");
    }
}
