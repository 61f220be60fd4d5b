//! Binary caches, on a builder and on this machine.

use drover_testkit::{Host, Suite};

use crate::own::become_the_daemon;
use crate::{Lab, assert_code, builders, stderr, stdout};

/// Bytes of a path that had better not travel.
const LARGE: u64 = 30_000_000;

/// Adds a file of `LARGE` bytes, the same on each host; prints its path.
fn add_large(host: &Host) -> String {
    let script =
        format!("mkdir -p /w; yes drover | head -c {LARGE} > /w/large; nix-store --add /w/large");
    host.sh(&script).unwrap().trim().to_owned()
}

#[test]
fn a_builder_fetches_inputs_from_its_own_cache() {
    let lab = Lab::new("caches", Suite::Forky, Suite::Bookworm);
    let large = add_large(&lab.client);
    for host in [&lab.b1, &lab.b2] {
        assert_eq!(add_large(host), large);
        let script = format!(
            "nix copy --to file:///w/cache {large}; nix-store --delete {large}; \
             echo 'substituters = file:///w/cache?trusted=true' >> /etc/nix/nix.conf"
        );
        host.sh(&script).unwrap();
    }
    // what is in no cache is sent
    lab.client
        .sh("cat > /w/uses.nix <<'E'
{ n }: let bb = builtins.path { path = /w/bb; name = \"busybox\"; }; in derivation {
  name = \"uses-${n}\"; system = builtins.currentSystem; builder = \"${bb}/bin/sh\";
  PATH = \"${bb}/bin\"; large = builtins.storePath (builtins.readFile /w/path);
  args = [ \"-c\" \"wc -c < $large > $out\" ]; }
E
             mkdir -p /w/bb/bin; cp /bin/busybox /w/bb/bin/
             for a in sh wc; do ln -s busybox /w/bb/bin/$a; done")
        .unwrap();
    lab.client.write("/w/path", &large).unwrap();
    for (scheme, host) in [("ssh-ng", "b1"), ("ssh", "b2")] {
        let machines = builders(scheme, &[host], 1);
        let built = lab.drover(&[
            "build",
            "--no-link",
            "-v",
            "-j0",
            "--builders",
            &machines,
            "--option",
            "builders-use-substitutes",
            "true",
            "--print-out-paths",
            "-f",
            "/w/uses.nix",
            "--argstr",
            "n",
            host,
        ]);
        assert_code(&built, 0);
        let said = stderr(&built);
        assert!(said.contains(&format!("from its substituters to {host}")), "{said}");
        let row = said.lines().rfind(|line| line.starts_with(&format!("{host} ")));
        let row = row.unwrap_or_else(|| panic!("{said}"));
        // the tools are in no cache, and take no more than two of these
        let mut sent = row.split_whitespace().skip(3);
        let (amount, unit) = (sent.next().unwrap(), sent.next().unwrap());
        let amount: f64 = amount.parse().unwrap();
        assert!(unit == "KiB" || unit == "MiB" && amount < 10.0, "{row}");
        let result = lab.client.read(&stdout(&built)).unwrap();
        assert_eq!(String::from_utf8_lossy(&result).trim(), LARGE.to_string());
    }
}

/// A derivation whose output is in this machine's cache, as `damage` leaves it.
fn cached(lab: &Lab, damage: &str) -> String {
    let client = &lab.client;
    let drv = client.instantiate(&[("shape", "wide"), ("n", "1")]).unwrap();
    let script = format!(
        "set -e; out=$(nix-store -r {drv} --option substitute false 2>/dev/null); \
         nix copy --to file:///w/cache $out; nix-store --delete $out >/dev/null; {damage}"
    );
    client.sh(&script).unwrap();
    drv
}

const SUBSTITUTERS: [&str; 3] = ["--option", "substituters", "file:///w/cache?trusted=true"];

#[test]
fn what_a_cache_promises_and_does_not_give_is_built_only_with_fallback() {
    let lab = Lab::new("fallback", Suite::Forky, Suite::Forky);
    let drv = cached(&lab, "for nar in /w/cache/nar/*; do echo no archive > $nar; done");
    // as stock Nix does
    let stock =
        [&["nix-store", "-r", &drv, "--option", "max-jobs", "0"][..], &SUBSTITUTERS].concat();
    let refused = lab.client.run(&stock).unwrap();
    assert_code(&refused, 1);
    assert!(stderr(&refused).contains("--fallback"), "{}", stderr(&refused));
    let machines = builders("ssh-ng", &["b1"], 1);
    let ours = ["build", "--no-link", "-j0", "--builders", &machines, &drv];
    let ours = [&ours[..], &SUBSTITUTERS].concat();
    let failed = lab.drover(&ours);
    assert_code(&failed, 1);
    let said = stderr(&failed);
    assert!(said.contains("could not be fetched") && said.contains("--fallback"), "{said}");
    assert!(said.contains("error:"), "the cache's own words: {said}");
    let built = lab.drover(&[&ours[..], &["--fallback"]].concat());
    assert_code(&built, 0);
    assert!(stderr(&built).contains("1 build"), "{}", stderr(&built));
}

#[test]
fn what_has_vanished_from_a_cache_is_built() {
    let lab = Lab::new("vanished", Suite::Forky, Suite::Forky);
    let drv = cached(&lab, "rm /w/cache/nar/*");
    // as stock Nix does
    let stock = [&["nix-store", "-r", &drv][..], &SUBSTITUTERS].concat();
    assert_code(&lab.client.run(&stock).unwrap(), 0);
    lab.client.sh(&format!("nix-store --delete $(nix-store -q --outputs {drv})")).unwrap();
    let machines = builders("ssh-ng", &["b1"], 1);
    let ours = ["build", "--no-link", "-j0", "--builders", &machines, &drv];
    let built = lab.drover(&[&ours[..], &SUBSTITUTERS].concat());
    assert_code(&built, 0);
    assert!(stderr(&built).contains("1 build"), "{}", stderr(&built));
}

/// What the local store fetches from its substituters is shown.
#[test]
fn what_is_fetched_is_told() {
    let lab = Lab::new("caches", Suite::Forky, Suite::Forky);
    let client = &lab.client;
    let graph = [("shape", "chain"), ("d", "2"), ("size", "3000000"), ("salt", "cached")];
    let drv = client.instantiate(&graph).unwrap();
    client
        .sh(&format!(
            "out=$(nix-store -r {drv} 2>/dev/null); nix copy --to file:///w/cache $out; \
             nix-store --delete $(nix-store -qR $out | grep -E 'graph|link') >/dev/null 2>&1; \
             printf 'substituters = file:///w/cache\\nrequire-sigs = false\\n' >> /etc/nix/nix.conf"
        ))
        .unwrap();
    client.restart_daemon().unwrap();
    let machines = builders("ssh-ng", &["b1", "b2"], 2);
    let built = lab.drover(&["build", "--no-link", "-j0", "--builders", &machines, &drv]);
    assert_code(&built, 0);
    let said = stderr(&built);
    assert!(said.contains("fetching graph-chain from file:///w/cache\n"), "{said}");
    assert!(!said.contains("building "), "{said}");
}

/// What drover's daemon does for clients where a cache promises and doesn't give, beside stock Nix's
/// own.
#[test]
fn the_daemon_builds_what_a_cache_does_not_give_only_with_fallback() {
    let lab = Lab::new("daemon-fallback", Suite::Forky, Suite::Forky);
    let client = &lab.client;
    let drv = cached(&lab, "for nar in /w/cache/nar/*; do echo no archive > $nar; done");
    let ask = |fallback: &str| {
        let options = SUBSTITUTERS.join(" ");
        let line = format!("NIX_REMOTE=daemon nix-store -r {drv} {options} {fallback}");
        client.run(&["sh", "-c", &line]).unwrap()
    };
    client.restart_daemon().unwrap();
    let stock = ask("");
    assert!(!stock.status.success() && stderr(&stock).contains("--fallback"), "{}", stderr(&stock));
    become_the_daemon(client, &builders("ssh-ng", &["b1"], 1));
    let ours = ask("");
    assert_eq!(ours.status.code(), stock.status.code(), "{}\n{}", stderr(&ours), stderr(&stock));
    assert!(stderr(&ours).contains("--fallback"), "{}", stderr(&ours));
    assert_code(&ask("--fallback"), 0);
}
