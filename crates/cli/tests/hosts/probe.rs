//! What a build sees of the machine, and which calls it may make, in both ABIs: drover beside today's Nix.
//!
//! The program that looks is the probe of `drover-sandbox`, as the builder of a derivation that both build.
//! What drover lets it find is compared with a golden file, and each difference from Nix is in another one:
//! with `DROVER_UPDATE_GOLDEN` they are written anew, to be read before they are committed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use drover_testkit::{Host, Suite};
use serde_json::Value;

use crate::Lab;

const DERIVATION: &str = r#"
{ tools, probe }: derivation {
  name = "probed";
  system = builtins.currentSystem;
  builder = "${tools}/bin/sh";
  PATH = "${tools}/bin";
  args = [ "-c" "mkdir $out; ${probe} report > $out/report; ${probe} calls > $out/calls" ];
}"#;

/// The probe is a program of this system's, so it needs its libraries.
const BUILD: &str = r#"
export NIX_CONFIG='sandbox = true
extra-sandbox-paths = /lib /lib64 /usr/lib /usr/lib64?'
cd /w
for who in stock ours; do
  export NIX_REMOTE="local?root=/w/$who"
  drv=$(nix-instantiate --quiet probe.nix --arg tools /opt/graph/bb --arg probe /w/probe 2>/dev/null)
  case $who in
    stock) nix-store -r $drv > $who.out 2> $who.err ;;
    ours) drover build $drv --no-link --print-out-paths > $who.out 2> $who.err ;;
  esac || { cat $who.err; exit 1; }
done
cmp stock.out ours.out; cat ours.out
"#;

/// The probe, which lies where drover does: building all tests builds it.
fn probe() -> PathBuf {
    let probe = Path::new(env!("CARGO_BIN_EXE_drover")).with_file_name("drover-sandbox-probe");
    assert!(
        probe.exists(),
        "'{}' is missing: 'cargo build --workspace --bins' makes it",
        probe.display()
    );
    probe
}

#[test]
fn a_build_finds_what_it_finds_in_nix() {
    let lab = Lab::new("probe", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    host.sh("mkdir -p /w").unwrap();
    host.write("/w/probe.nix", DERIVATION).unwrap();
    host.put(probe(), "/w/probe").unwrap();
    let out = host.sh(BUILD).unwrap();
    let [nix, drover] = ["stock", "ours"].map(|who| found(host, &format!("/w/{who}{out}")));
    assert!(drover.keys().filter(|name| name.starts_with("i386 ")).count() >= 55);
    assert!(drover.keys().filter(|name| name.starts_with("native ")).count() >= 60);

    let text = |found: &BTreeMap<String, String>| {
        found.iter().fold(String::new(), |mut text, (name, value)| {
            writeln!(text, "{name}: {value}").unwrap();
            text
        })
    };
    let mut differences = String::new();
    let names: std::collections::BTreeSet<&String> = nix.keys().chain(drover.keys()).collect();
    // what Nix ignores it has from whoever has started it
    for name in names.into_iter().filter(|name| *name != "SigIgn") {
        let of = |found: &BTreeMap<String, String>| match found.get(name) {
            Some(value) if value.is_empty() => "nothing".to_owned(),
            Some(value) => value.clone(),
            None => "absent".to_owned(),
        };
        let (theirs, ours) = (of(&nix), of(&drover));
        if theirs != ours {
            writeln!(differences, "{name}: Nix {theirs}, drover {ours}").unwrap();
        }
    }
    let golden = [("probe-drover.txt", text(&drover)), ("probe-differences.txt", differences)];
    for (file, found) in golden {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/golden").join(file);
        if std::env::var_os("DROVER_UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap();
        // a kernel that doesn't have a call refuses it to both
        let counts = |line: &&str| {
            let call = line.split_once(": ").map(|(call, _)| call);
            call.and_then(|call| nix.get(call)).is_none_or(|result| result != "ENOSYS")
        };
        let lines = |text: &str| text.lines().filter(counts).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines(&found), lines(&expected), "{file}");
    }
}

/// What the probe has found, a line each, without what differs from machine to machine and from build to
/// build.
fn found(host: &Host, out: &str) -> BTreeMap<String, String> {
    let read = |name: &str| -> Value {
        let bytes = host.read(&format!("{out}/{name}")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    let mut found = BTreeMap::new();
    for (call, result) in read("calls").as_object().unwrap() {
        found.insert(call.clone(), result.as_str().unwrap().to_owned());
    }
    let report = read("report");
    let outside: Value = serde_json::from_str(&host.sh("/w/probe report").unwrap()).unwrap();
    for (name, value) in report.as_object().unwrap() {
        match (name.as_str(), value) {
            // names of the build's files, the machine's own limits, and where builds are put
            ("environment" | "arguments" | "limits" | "cgroup", _) => {}
            ("uid_map" | "gid_map", _) => {
                let mut fields = value.as_str().unwrap().split(' ');
                let (inside, count) = (fields.next().unwrap(), fields.nth(1).unwrap());
                found.insert(name.clone(), format!("{inside}, {count} in all"));
            }
            ("namespaces", Value::Object(namespaces)) => {
                for (kind, inside) in namespaces {
                    let is_own = outside.pointer(&format!("/namespaces/{kind}")) != Some(inside);
                    let whose = if is_own { "its own" } else { "the machine's" };
                    found.insert(format!("namespace {kind}"), whose.to_owned());
                }
            }
            ("mounts", Value::Object(mounts)) => {
                for (at, mount) in mounts {
                    // which file systems a machine has is its own affair; of inputs one is as the other
                    let is_virtual = ["proc ", "devpts ", "tmpfs ", "sysfs ", "mqueue "];
                    let mount = mount.as_str().unwrap();
                    let kind = is_virtual.iter().any(|kind| mount.starts_with(kind));
                    let shown = match kind {
                        true => mount.to_owned(),
                        false => mount.split_once(' ').unwrap().1.to_owned(),
                    };
                    let place = match at.starts_with("/nix/store/") {
                        true => "an input".to_owned(),
                        false => at.clone(),
                    };
                    found.insert(format!("mount {place}"), shown);
                }
            }
            ("fds", Value::Object(fds)) => {
                let numbers: Vec<&str> = fds.keys().map(String::as_str).collect();
                found.insert("open files".to_owned(), numbers.join(" "));
            }
            (_, Value::Array(items)) => {
                let items: Vec<&str> = items.iter().map(|item| item.as_str().unwrap()).collect();
                found.insert(name.clone(), items.join(" "));
            }
            (_, value) => {
                found.insert(name.clone(), value.as_str().unwrap().to_owned());
            }
        }
    }
    found
}
