//! The Debian package, as far as it can be looked at where `cargo-deb` isn't: what it is made of is there, and makes a
//! package that dpkg installs and takes away again.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{DROVER, repository, run_ok};

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

/// Returns where the files of an asset are, of which some are made by `scripts/dist` in a folder.
fn sources(pattern: &str, dist: &Path) -> Vec<PathBuf> {
    match pattern.split_once("target/dist/") {
        Some((_, made)) => files(dist.join(made).to_str().unwrap()),
        None if pattern.starts_with("target/") => vec![DROVER.into()],
        None => files(pattern),
    }
}

/// Puts what the list names where it says, as `cargo-deb` does; returns all files, from the root of the system.
fn lay_out(package: &Value, dist: &Path, tree: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for asset in package["assets"].as_array().unwrap() {
        let [source, target, mode] = [0, 1, 2].map(|at| asset[at].as_str().unwrap());
        let found = sources(source, dist);
        assert!(!found.is_empty() && (found.len() == 1 || target.ends_with('/')), "{source}");
        for file in found {
            let target = match target.ends_with('/') {
                true => Path::new(target).join(file.file_name().unwrap()),
                false => target.into(),
            };
            assert!(!all.contains(&target), "two files are to be {target:?}");
            let place = format!("-Dm{mode}");
            run_ok(Command::new("install").arg(place).arg(&file).arg(tree.join(&target)));
            all.push(target);
        }
    }
    all
}

fn pack(package: &Value, tree: &Path) -> PathBuf {
    let control = tree.join("DEBIAN");
    fs_err::create_dir(&control).unwrap();
    let architecture = run_ok(Command::new("dpkg").arg("--print-architecture"));
    let fields = format!(
        "Package: {}\nVersion: 0\nArchitecture: {}\nMaintainer: {}\nDescription: builds\n",
        package["name"].as_str().unwrap(),
        architecture.trim(),
        package["maintainer"].as_str().unwrap(),
    );
    fs_err::write(control.join("control"), fields).unwrap();
    let kept: Vec<_> =
        package["conf-files"].as_array().unwrap().iter().map(Value::as_str).collect();
    let kept: String = kept.into_iter().flatten().map(|file| format!("{file}\n")).collect();
    fs_err::write(control.join("conffiles"), kept).unwrap();
    let scripts = package["maintainer-scripts"].as_str().unwrap();
    for script in files(&format!("{scripts}/*")) {
        let target = control.join(script.file_name().unwrap());
        run_ok(Command::new("install").arg("-m755").arg(&script).arg(target));
    }
    let file = tree.with_extension("deb");
    let mut pack = Command::new("dpkg-deb");
    run_ok(pack.args(["--root-owner-group", "-Znone", "--build"]).arg(tree).arg(&file));
    file
}

/// Not the very package: `cargo-deb` takes minutes to be had. But its files, by the same list.
#[test]
fn dpkg_installs_what_is_listed_and_takes_it_away() {
    let folder = tempfile::tempdir().unwrap();
    let [dist, tree, root] = ["dist", "tree", "root"].map(|name| folder.path().join(name));
    let mut pages = Command::new(repository("scripts/dist"));
    run_ok(pages.env("DIST_DIR", &dist).env("DROVER", DROVER).arg("here"));
    let package = package();
    let listed = lay_out(&package, &dist, &tree);
    let deb = pack(&package, &tree);
    for name in ["info", "updates", "triggers"] {
        fs_err::create_dir_all(root.join("var/lib/dpkg").join(name)).unwrap();
    }
    fs_err::write(root.join("var/lib/dpkg/status"), "").unwrap();
    // the scripts are not to reach this machine's systemd
    let bin = folder.path().join("bin");
    fs_err::create_dir(&bin).unwrap();
    fs_err::os::unix::fs::symlink("/bin/true", bin.join("systemctl")).unwrap();
    let path =
        format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
    let dpkg = || {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg(format!("--root={}", root.display())).args(["--log=/dev/null", "--no-triggers"]);
        dpkg.args(["--force-not-root", "--force-script-chrootless"]).env("PATH", &path);
        dpkg
    };
    run_ok(dpkg().arg("--install").arg(&deb));
    for file in &listed {
        assert!(root.join(file).is_file(), "{file:?} is not installed");
    }
    run_ok(dpkg().args(["--remove", "drover"]));
    let left: Vec<_> = listed.iter().filter(|file| root.join(file).exists()).collect();
    assert_eq!(left, [Path::new("etc/drover/cache.conf")], "settings stay");
    run_ok(dpkg().args(["--purge", "drover"]));
    assert!(!listed.iter().any(|file| root.join(file).exists()));
    assert!(!root.join("usr").exists() && !root.join("etc/drover").exists());
}
