//! Builds on the machine itself, each in a sandbox: `nix-store -r` of fresh graphs, as root, on two slots.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};

use super::rows::Sample;
use super::site::{Ended, Site, empty, settle};
use crate::bench::side::Side;

/// Graphs of builds; all of one has the same seed, so that nothing of it was built before.
const GRAPHS: &str = r#"
{ tools, seed, kind, count ? 1, big ? null }:
let
  run = name: text: more: derivation ({
    inherit name seed;
    system = builtins.currentSystem;
    builder = "${tools}/bin/sh";
    PATH = "${tools}/bin";
    args = [ "-c" text ];
  } // more);
  to = n: builtins.genList builtins.toString n;
  files = map (n: builtins.toFile "input-${n}" "${seed} ${n}") (to 400);
in {
  wide = run "top" "echo ${builtins.toString (map (n: run "wide-${n}" "echo ${n} > $out" { }) (to count))} > $out" { };
  chain = builtins.foldl' (before: n: run "link-${n}" "echo ${before} > $out" { }) "nothing" (to count);
  inputs = run "top" "echo ${builtins.toString (map (n: run "with-inputs-${n}" "echo > $out" { inherit files; }) (to count))} > $out" { };
  log = run "log" "cat ${big}; echo > $out" { };
  copy = run "copy" "cp ${big} $out" { };
  inside = run "inside" "read -r line < /etc/passwd; case $line in *'Nix build user'*) echo > $out;; esac" { };
}.${kind}
"#;

/// Lines as compilers are called, of which hardly any two are the same.
const LOG: &str = r#"
awk 'BEGIN { srand(7); while (bytes < 50000000) {
  line = sprintf("[%5d/48211] g++ -std=c++20 -O2 -g -fPIC -Wall -Wextra -DNDEBUG -I../src/%x/include -I/usr/include/%x -MMD -MF obj/%x/module_%d.d -c ../src/%x/module_%d.cc -o obj/%x/module_%d.o",
    n++, rand() * 4096, rand() * 65536, rand() * 4096, rand() * 9999, rand() * 4096, rand() * 9999, rand() * 4096, rand() * 9999)
  if (rand() < 0.1) line = line "\n../src/core/value.h:" int(rand() * 900) ":" int(rand() * 80) ": warning: unused parameter '"'"'context_" int(rand() * 99) "'"'"' [-Wunused-parameter]"
  print line; bytes += length(line) + 1 } }' > /nix/bench/log.txt
head -c 256000000 /dev/urandom > /nix/bench/random
"#;

/// Stock Nix needs minutes for many builds; what takes longer than this is stopped.
const LIMIT: Duration = Duration::from_secs(120);

/// What all rows are measured with; for who builds in a daemon's place and for the daemon, as with drover
/// the daemon builds where one runs.
const SETTINGS: &str = "sandbox = true
build-users-group = nixbld
max-jobs = 2
cores = 1
substituters =
";

/// Writes down what is built.
pub(super) fn prepare(site: &Site) -> Result<()> {
    empty(&site.near)?;
    site.near.write("/nix/bench/builds.nix", GRAPHS)?;
    site.near.write("/nix/bench/builds.conf", SETTINGS)?;
    site.near.sh("grep -q '^include /nix/bench/builds.conf' /etc/nix/nix.conf ||
         echo 'include /nix/bench/builds.conf' >>/etc/nix/nix.conf")?;
    site.near.restart_daemon()?;
    // fails where it isn't shut in, which would cost less
    once(site, "inside", 1)?;
    // each pays for its cold caches before
    once(site, "wide", 10)?;
    settle(&site.near)
}

/// The same, with large files.
pub(super) fn prepare_large(site: &Site) -> Result<()> {
    prepare(site)?;
    site.near.sh(LOG)?;
    settle(&site.near)
}

/// The same, with logs that aren't compressed. It's who builds that has to know, and that may be a daemon.
pub(super) fn prepare_plain(site: &Site) -> Result<()> {
    prepare_large(site)?;
    let settings = format!("{SETTINGS}compress-build-log = false\n");
    site.near.write("/nix/bench/builds.conf", &settings)?;
    site.near.restart_daemon()
}

pub(super) fn wide_100(site: &Site) -> Result<Sample> {
    once(site, "wide", 100)
}

pub(super) fn wide_400(site: &Site) -> Result<Sample> {
    once(site, "wide", 400)
}

pub(super) fn wide_1600(site: &Site) -> Result<Sample> {
    once(site, "wide", 1600)
}

/// How much memory the program holds at its peak that has 1,600 things built. With drover that is the
/// daemon, and the program that was called counts as well.
pub(super) fn memory_of_1600(site: &Site) -> Result<Sample> {
    site.near.restart_daemon()?;
    let sample = built_by(site, "wide", "--arg count 1600", |drv| {
        format!(
            "nix-store -r {drv} --quiet &
             while grep VmHWM /proc/$!/status 2>/dev/null >/nix/bench/now; do
               mv /nix/bench/now /nix/bench/mark; sleep 0.05
             done; wait $!"
        )
    })?;
    let daemon = match site.side {
        Side::Stock => "",
        Side::Drover => "/proc/$(pidof -s nix-daemon)/status",
    };
    let peaks = site.near.sh(&format!(
        "cat /nix/bench/mark {daemon} | sed -n 's/^VmHWM:[^0-9]*\\([0-9]*\\) kB$/\\1/p'"
    ))?;
    let peaks: Result<Vec<f64>, _> = peaks.split_whitespace().map(str::parse).collect();
    let kibibytes: f64 = peaks.context("no peak of memory was noted")?.iter().sum();
    ensure!(kibibytes != 0.0, "no peak of memory was noted");
    Ok(Sample { value: kibibytes * 1024.0, ..sample })
}

pub(super) fn chain(site: &Site) -> Result<Sample> {
    once(site, "chain", 50)
}

pub(super) fn inputs(site: &Site) -> Result<Sample> {
    once(site, "inputs", 20)
}

pub(super) fn log(site: &Site) -> Result<Sample> {
    once_with(site, "log", "log.txt")
}

pub(super) fn copy(site: &Site) -> Result<Sample> {
    once_with(site, "copy", "random")
}

fn once(site: &Site, kind: &str, count: u32) -> Result<Sample> {
    built(site, kind, &format!("--arg count {count}"))
}

fn once_with(site: &Site, kind: &str, big: &str) -> Result<Sample> {
    built(site, kind, &format!("--arg big /nix/bench/{big}"))
}

/// Builds a fresh graph; that as many paths are valid then as there should be is the proof.
fn built(site: &Site, kind: &str, arguments: &str) -> Result<Sample> {
    built_by(site, kind, arguments, |drv| format!("exec nix-store -r {drv} --quiet"))
}

/// The same, by a script that is given the derivation.
fn built_by(
    site: &Site,
    kind: &str,
    arguments: &str,
    build: impl FnOnce(&str) -> String,
) -> Result<Sample> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let drv = site.near.sh(&format!(
        "/usr/bin/nix-instantiate --quiet /nix/bench/builds.nix --arg tools /opt/graph/bb \
         --argstr seed {now} --argstr kind {kind} {arguments} 2>/dev/null"
    ))?;
    ensure!(drv.ends_with(".drv"), "nothing to build: {drv}");
    let script = format!(
        "export NIX_USER_CONF_FILES=/nix/bench/builds.conf NIX_REMOTE=local\n{}",
        build(&drv)
    );
    let spent = match site.time_within(LIMIT, &script)? {
        Ended::Within(spent) => spent,
        Ended::NotYet => {
            let value = LIMIT.as_secs_f64();
            return Ok(Sample {
                value,
                processor: Duration::ZERO,
                stopped: true,
                proof: String::new(),
            });
        }
    };
    let out = site.near.sh(&format!("nix-store -q --outputs {drv}"))?;
    let proof = site.near.sh(&format!("nix-store -qR {out} | wc -l"))?;
    Ok(Sample::of(spent, proof))
}
