//! What can be built and how: flakes, files, outputs, links, and the flags of a build.

use std::process::Output;

use drover_testkit::{Host, Suite};
use serde_json::Value;

use crate::{Lab, assert_code, builders, stderr, stdout};

/// A flake and a file of the same derivations: `x` has three outputs, `failing` fails.
const SOURCE: &str = r#"
set -eu
mkdir -p /w/src/bb/bin
cp /bin/busybox /w/src/bb/bin/
for applet in sh mkdir echo sleep cat; do ln -s busybox /w/src/bb/bin/$applet; done
cat > /w/src/default.nix <<'E'
{ salt ? "none", number ? 0 }:
let
  bb = builtins.path { path = ./bb; name = "busybox"; };
  make = name: outputs: script: derivation {
    inherit name outputs salt;
    system = "SYSTEM";
    builder = "${bb}/bin/sh";
    PATH = "${bb}/bin";
    args = [ "-euc" script ];
  };
in rec {
  x = make "x" [ "out" "dev" "doc" ] ''
    echo "x is built"; for o in $out $dev $doc; do echo $o > $o; done'';
  y = make "y" [ "out" ] "echo ${toString number}-$salt > $out";
  tool = make "tool" [ "out" ] "echo tool > $out";
  product = make "product" [ "out" ] "cat ${tool}; echo product > $out";
  cores = make "cores" [ "out" ] "echo $NIX_BUILD_CORES > $out";
  failing = make "failing" [ "out" ] "mkdir kept; echo words > kept/words; exit 1";
}
E
cat > /w/src/flake.nix <<'E'
{ outputs = { self }: let all = import ./. { }; in {
  inherit (all) x y;
  packages.SYSTEM.default = all.x // { meta.outputsToInstall = [ "out" "doc" ]; };
}; }
E
sed -i "s/SYSTEM/$(uname -m)-linux/" /w/src/*.nix
"#;

/// Runs a line in the folder of the flake and the file.
fn run(client: &Host, line: &str) -> Output {
    client.run(&["sh", "-c", &format!("cd /w/src && {line}")]).unwrap()
}

/// Builds with some arguments, which must go well; returns what was printed and what was said.
#[track_caller]
fn build(client: &Host, arguments: &str) -> (String, String) {
    let output = run(client, &format!("drover build {arguments}"));
    assert_code(&output, 0);
    (stdout(&output), stderr(&output))
}

#[test]
fn what_can_be_built_and_how() {
    let lab = Lab::new("sources", Suite::Forky, Suite::Bookworm);
    lab.client.sh(SOURCE).unwrap();
    let remote = format!("-j0 --builders '{}'", builders("ssh-ng", &["b1", "b2"], 2));
    flakes(&lab.client, &remote);
    files_and_arguments(&lab.client, &remote);
    links_are_those_of_nix(&lab.client, &remote);
    settings_reach_the_builder(&lab, &remote);
    what_comes_back(&lab.client, &remote);
    messages(&lab.client, &remote);
}

fn flakes(client: &Host, remote: &str) {
    let print = format!("{remote} --no-link --print-out-paths");
    let (out, err) = build(client, &format!("{print} .#x"));
    assert!(out.ends_with("-x") && err.contains("building x on b"), "{out} {err}");
    let (out, _) = build(client, &format!("{remote} --no-link --json '.#x^out,dev'"));
    let json: Value = serde_json::from_str(&out).unwrap();
    let names: Vec<&String> = json
        .pointer("/0/outputs")
        .and_then(|outputs| outputs.as_object())
        .unwrap()
        .keys()
        .collect();
    assert_eq!(names, ["dev", "out"]);
    // what the flake says is to be installed
    let (out, _) = build(client, &print);
    let names: Vec<&str> = out.lines().map(|path| path.rsplit_once("-x").unwrap().1).collect();
    assert_eq!(names, ["-doc", ""]);
    let said = run(client, &format!("drover build {remote} .#nothing"));
    assert_code(&said, 1);
    assert!(stderr(&said).contains("could not evaluate '.#nothing'"), "{}", stderr(&said));
}

fn files_and_arguments(client: &Host, remote: &str) {
    let print = format!("{remote} --no-link --print-out-paths");
    let arguments = "-f default.nix -A y --argstr salt sea --arg number '40 + 2'";
    let (out, _) = build(client, &format!("{print} {arguments}"));
    assert_eq!(client.read(&out).unwrap(), b"42-sea\n");
    let (out, _) = build(client, &format!("{print} -f . -A x^dev y"));
    let names: Vec<&str> = out.lines().filter_map(|path| path.get(44..)).collect();
    assert_eq!(names, ["x-dev", "y"]);
    let drv = client.sh("nix-instantiate /w/src -A x 2>/dev/null").unwrap();
    for (suffix, expected) in [("", 3), ("^*", 3), ("^doc", 1), ("!out,dev", 2)] {
        let (out, _) = build(client, &format!("{print} '{drv}{suffix}'"));
        assert_eq!(out.lines().count(), expected, "{suffix}");
    }
}

/// The links have the names that `nix build` gives, and keep what they name.
fn links_are_those_of_nix(client: &Host, remote: &str) {
    let wanted = ["-f . 'x^*'", "-f . 'x^out,dev' y", "-f . 'x^dev'", ".#y '.#x^doc'"];
    for (number, what) in wanted.iter().enumerate() {
        let names = |folder: &str| {
            let script = "for link in *; do echo $link $(readlink $link); done";
            client.sh(&format!("cd /w/{folder}{number}; {script}")).unwrap()
        };
        client.sh(&format!("mkdir /w/ours{number} /w/theirs{number}")).unwrap();
        build(client, &format!("{remote} -o /w/ours{number}/link {what}"));
        assert_code(&run(client, &format!("nix build -o /w/theirs{number}/link {what}")), 0);
        assert_eq!(names("ours"), names("theirs"), "{what}");
    }
    client
        .sh("rm -r /w/theirs*; nix-store --gc >/dev/null 2>&1; test -e /w/ours0/link-doc")
        .unwrap();
}

fn settings_reach_the_builder(lab: &Lab, remote: &str) {
    let client = &lab.client;
    let print = format!("{remote} --no-link --print-out-paths");
    let (out, _) = build(client, &format!("{print} --cores 3 -f . cores"));
    assert_eq!(client.read(&out).unwrap(), b"3\n");
    let one = builders("ssh-ng", &["b1"], 1);
    let line = format!("drover build -j0 --builders '{one}' -K --no-link -f . failing");
    assert_code(&run(client, &line), 100);
    lab.b1.sh("grep -rq words /tmp/nix-build-* /nix/var/nix/builds 2>/dev/null").unwrap();
    let (out, err) = build(client, &format!("{print} --policy stock -f . y --argstr salt stock"));
    assert!(err.contains("building y on b"), "{err}");
    assert_eq!(client.read(&out).unwrap(), b"0-stock\n");
}

fn what_comes_back(client: &Host, remote: &str) {
    let is_here = |name: &str, salt: &str| {
        let drv = format!("$(nix-instantiate /w/src -A {name} --argstr salt {salt} 2>/dev/null)");
        let path = client.sh(&format!("nix-store -q --outputs {drv}")).unwrap();
        client.run(&["nix-store", "--check-validity", &path]).unwrap().status.success()
    };
    build(client, &format!("{remote} --no-link -f . product --argstr salt wanted"));
    assert!(is_here("product", "wanted") && !is_here("tool", "wanted"));
    let all = "--copy-all-outputs --no-link -f . product --argstr salt all";
    build(client, &format!("{remote} {all}"));
    assert!(is_here("product", "all") && is_here("tool", "all"));
}

fn messages(client: &Host, remote: &str) {
    let said = |flags: &str, salt: &str| {
        build(client, &format!("{remote} --no-link {flags} -f . x --argstr salt {salt}"))
    };
    let (_, err) = said("", "plain");
    assert!(!err.contains("x> x is built"), "{err}");
    for (flags, salt) in [("-L", "logs"), ("--log-format raw-with-logs", "raw")] {
        let (_, err) = said(flags, salt);
        assert!(err.contains("x> x is built\n"), "{flags}: {err}");
    }
    assert_eq!(said("--quiet", "quiet"), (String::new(), String::new()));
    let (_, err) = said("-v", "loud");
    assert!(err.contains("connecting to b"), "{err}");
}
