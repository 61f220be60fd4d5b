//! Outputs that builders have already.

use std::collections::BTreeSet;
use std::time::Duration;

use drover_testkit::{Fleet, Host, Signal, Suite};
use rstest::rstest;

use crate::connections::swallow_everything;
use crate::own::{assert_sound, become_the_daemon};
use crate::{LIMIT, Lab, assert_code, builders, stderr, stdout};

/// Names of derivations in the lines that begin so.
fn told(said: &str, verb: &str) -> BTreeSet<String> {
    let names = said.lines().filter_map(|line| line.strip_prefix(verb)?.split(' ').nth(1));
    names.map(str::to_owned).collect()
}

/// Builds something, is killed half way, and builds it again; returns what both runs said.
fn killed_and_again(lab: &Lab) -> (String, String) {
    let graph = [("shape", "layers"), ("n", "4"), ("d", "4"), ("k", "2"), ("sleep", "1")];
    let drv = lab.client.instantiate(&graph).unwrap();
    let machines = builders("ssh-ng", &["b1", "b2"], 2);
    let line = ["build", "-v", "--no-link", "-j0", "--builders", &machines, &drv];
    let mut build = lab.client.spawn(&[&["drover"], line.as_slice()].concat()).unwrap();
    // some of the second layer are built by then
    build.wait_for("building node-2-", LIMIT).unwrap();
    build.signal(Signal::Kill);
    let first = stderr(&build.wait(LIMIT).unwrap());
    let second = lab.drover(&line);
    assert_code(&second, 0);
    (first, stderr(&second))
}

/// Whether all machines had said what they have before the first build. One that is slow isn't waited for.
fn began_with_all(said: &str) -> bool {
    let began = said.find("building ").unwrap_or(said.len());
    ["b1 is up", "b2 is up"].iter().all(|up| said.find(up).is_some_and(|at| at < began))
}

/// Killed half way and started again, it builds what wasn't built.
#[test]
fn a_run_that_was_killed_goes_on() {
    let lab = Lab::new("killed", Suite::Forky, Suite::Trixie);
    let (mut first, mut said) = killed_and_again(&lab);
    for _ in 0..20 {
        if began_with_all(&said) {
            break;
        }
        for host in [&lab.b1, &lab.b2] {
            host.sh("rm -rf /nix/var/log/nix/drvs/*").unwrap();
        }
        (first, said) = killed_and_again(&lab);
    }
    assert!(began_with_all(&said), "{said}");
    let (before, after) = (told(&first, "built"), told(&said, "built"));
    let found = told(&said, "found");
    assert!(before.len() >= 4, "{first}");
    let again: BTreeSet<_> = before.intersection(&after).collect();
    assert!(again.is_empty(), "{again:?} were built twice: {first}\n{said}");
    assert!(before.iter().all(|name| found.contains(name)), "{first}\n{said}");
    // all are there, each from one of the runs; what ran when it was killed may have been built too
    let all: BTreeSet<_> = [&before, &after, &found].into_iter().flatten().collect();
    assert_eq!(all.len(), 17, "{first}\n{said}");
    // the builders' logs say the same: what was built by then was not built again
    let logs = |host: &drover_testkit::Host| -> BTreeSet<String> {
        let files = "cd /nix/var/log/nix/drvs && ls * | grep drv | sed 's/^[a-z0-9]*-\\(.*\\)\\.drv.*/\\1/'";
        host.sh(&format!("{files} || true")).unwrap().lines().map(str::to_owned).collect()
    };
    let twice: BTreeSet<String> = logs(&lab.b1).intersection(&logs(&lab.b2)).cloned().collect();
    assert!(twice.is_disjoint(&before), "{twice:?}: {first}\n{said}");
}

/// What another client had built is taken from where it is, without its inputs.
#[test]
fn what_somebody_else_built_is_used() {
    let lab = Lab::new("others", Suite::Forky, Suite::Forky);
    let drv = lab.client.instantiate(&[("shape", "chain"), ("d", "5")]).unwrap();
    // the other client: the builder itself, by its own Nix
    let copied = "nix-store --export $(nix-store -qR DRV) > /w/graph".replace("DRV", &drv);
    lab.client.sh(&format!("mkdir -p /w; {copied}")).unwrap();
    let graph = lab.client.read("/w/graph").unwrap();
    lab.b2.write("/w/graph", graph).unwrap();
    lab.b2.sh(&format!("nix-store --import < /w/graph >/dev/null; nix-store -r {drv}")).unwrap();
    // only a machine that is up before this one could build something
    swallow_everything(&lab.b1, &lab.client);
    let machines = builders("ssh-ng", &["b1", "b2"], 2);
    let built = lab.drover(&["build", "--no-link", "-j0", "--builders", &machines, &drv]);
    assert_code(&built, 0);
    let said = stderr(&built);
    assert_eq!(told(&said, "found").len(), 6, "{said}");
    assert!(said.contains("\n0 builds and 6 found built in "), "{said}");
}

/// Has a host build a derivation of the client's by its own Nix.
fn built_by(host: &Host, client: &Host, drv: &str) {
    client.sh(&format!("nix-copy-closure --to {} {drv} 2>&1", host.name())).unwrap();
    host.sh(&format!("nix-store -r {drv} 2>&1; mkdir -p /w; sleep 0.1; touch /w/mark")).unwrap();
}

/// Asserts that a host has built nothing since.
fn assert_idle(host: &Host) {
    let logs = "[ ! -e /w/mark ] && mark=/etc/nix/nix.conf || mark=/w/mark
                find /nix/var/log/nix/drvs -type f -newer $mark 2>/dev/null || :";
    assert_eq!(host.sh(logs).unwrap().trim(), "", "{} has built something", host.name());
}

/// The daemon, too, takes what is there for all of its clients, and nothing below it is built.
#[test]
fn the_daemon_uses_what_somebody_else_built() {
    let lab = Lab::new("shared-found", Suite::Forky, Suite::Trixie);
    let client = &lab.client;
    become_the_daemon(client, &builders("ssh-ng", &["b1", "b2"], 2).replace(';', "\n"));
    for (salt, host) in [("one", &lab.b1), ("two", &lab.b2)] {
        let drv = client.instantiate(&[("shape", "chain"), ("d", "5"), ("salt", salt)]).unwrap();
        built_by(host, client, &drv);
        // the first finds the machines asleep, the second connected
        let script = format!("NIX_REMOTE=daemon nix-store -r {drv} -j0 2>/w/err || cat /w/err >&2");
        let out = client.sh(&script).unwrap();
        client.sh(&format!("nix-store --verify-path $(nix-store -qR {})", out.trim())).unwrap();
        assert_idle(host);
    }
    assert_sound(client);
}

/// Outputs whose paths follow from their contents are found by their realisations.
#[rstest]
#[case::here(false)]
#[case::by_the_daemon(true)]
fn floating_outputs_that_somebody_else_built_are_used(#[case] by_the_daemon: bool) {
    let lab = Lab::new("floating-found", Suite::Forky, Suite::Trixie);
    let client = &lab.client;
    let drv = crate::floating::instantiate(&lab);
    let arch = std::env::consts::ARCH;
    let line = |host: &str| format!("ssh-ng://{host} {arch}-linux - 1 1 ca-derivations");
    if by_the_daemon {
        become_the_daemon(client, &[line("b1"), line("b2")].join("\n"));
    }
    built_by(&lab.b2, client, &drv);
    let out = match by_the_daemon {
        true => {
            let script =
                format!("NIX_REMOTE=daemon nix-store -r {drv} -j0 2>/w/err || cat /w/err >&2");
            client.sh(&script).unwrap().trim().to_owned()
        }
        false => {
            let machines = [line("b1"), line("b2")].join(";");
            // only a machine that is up before the other one could build something
            swallow_everything(&lab.b1, client);
            let flags = ["build", "--no-link", "-j0", "--print-out-paths", "--builders"];
            let built = lab.drover(&[&flags[..], &[&machines, &drv]].concat());
            assert_code(&built, 0);
            let said = stderr(&built);
            assert!(said.contains("\n0 builds and ") && said.contains(" found built"), "{said}");
            stdout(&built)
        }
    };
    assert_eq!(client.read(&format!("{out}/file")).unwrap(), b"low\n");
    assert_idle(&lab.b2);
}

/// Where signatures are asked for, what builders make and have counts only if it has one.
#[test]
fn builders_sign_where_that_is_asked_for() {
    let lab = Lab::new("signed-builds", Suite::Forky, Suite::Trixie);
    let (client, b1) = (&lab.client, &lab.b1);
    let machines = builders("ssh-ng", &["b1"], 1);
    let ask = |salt: &str, more: &[&str]| {
        let drv = client.instantiate(&[("shape", "chain"), ("d", "1"), ("salt", salt)]).unwrap();
        let strict = ["--option", "require-sigs-from-builders", "true"];
        let line = ["build", "--no-link", "-j0", "--print-out-paths", "--builders", &machines];
        lab.drover(&[&line[..], &strict, more, &[&drv]].concat())
    };
    let unsigned = ask("a", &[]);
    assert!(!unsigned.status.success(), "{}", stdout(&unsigned));
    let said = stderr(&unsigned);
    let words = "lacks a signature by a trusted key (saw: none)";
    assert!(said.contains(words) && said.contains("require-sigs-from-builders"), "{said}");
    b1.sh("cd /etc/nix; nix-store --generate-binary-cache-key b1-1 sec pub
           echo 'secret-key-files = /etc/nix/sec' >> nix.conf")
        .unwrap();
    b1.restart_daemon().unwrap();
    let strange = ask("b", &[]);
    assert!(!strange.status.success(), "{}", stdout(&strange));
    assert!(stderr(&strange).contains("(saw: b1-1)"), "{}", stderr(&strange));
    let public = b1.sh("cat /etc/nix/pub").unwrap();
    let trust = ["--option", "trusted-public-keys", public.trim()];
    // what it built then is found now, and one more is built
    for salt in ["b", "c"] {
        let signed = ask(salt, &trust);
        assert_code(&signed, 0);
        client.sh(&format!("nix-store --verify-path {}", stdout(&signed))).unwrap();
    }
}

/// What one of ten machines has of thousands of outputs is found before anything is built.
#[test]
fn thousands_of_outputs_are_asked_of_ten_machines() {
    let fleet = Fleet::new("found-many").unwrap();
    let names = ["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b9"];
    let client = fleet.host("c", Suite::Forky).unwrap();
    client.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
    let hosts = fleet.hosts(names.map(|name| (name, Suite::Forky))).unwrap();
    let drv = client.instantiate(&[("shape", "wide"), ("n", "5000")]).unwrap();
    let out = client.run_ok(&["nix-store", "-q", "--outputs", &drv]).unwrap();
    // as if it had been built there
    let script = format!(
        "nix-store --add /etc/hosts; echo built > {out}
         printf '%s\\n\\n0\\n' {out} | nix-store --register-validity",
        out = out.trim()
    );
    hosts[7].sh(&format!("export NIX_REMOTE=local; {script}")).unwrap();
    client.delay(25).unwrap();
    let machines = builders("ssh-ng", &names, 1);
    let line = ["drover", "build", "--no-link", "-j0", "--builders", &machines, &drv];
    let built = client.run_within(Duration::from_secs(600), &line).unwrap();
    assert_code(&built, 0);
    let said = stderr(&built);
    assert!(said.contains("found graph-wide built on b7"), "{said}");
    let summary = said.lines().find(|line| line.contains(" found built in "));
    let summary = summary.unwrap_or_else(|| panic!("{said}"));
    // a machine that takes longer than it's waited for doesn't keep the others from beginning
    let builds: u32 = summary.split(' ').next().unwrap().parse().unwrap();
    assert!(builds < 2500, "{summary}");
    assert_eq!(client.read(out.trim()).unwrap(), b"built\n");
}
