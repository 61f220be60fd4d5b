//! Builders and stores that don't trust the user.

use drover_testkit::{Host, Suite};
use rstest::rstest;

use crate::failures::script_drv;
use crate::own::become_the_daemon;
use crate::{Lab, assert_code, builders, stderr};

#[rstest]
#[case::new("ssh-ng", Suite::Forky)]
#[case::old("ssh-ng", Suite::Bookworm)]
#[case::new_serve("ssh", Suite::Forky)]
#[case::old_serve("ssh", Suite::Bookworm)]
fn a_builder_that_distrusts_gets_the_derivations(#[case] scheme: &str, #[case] suite: Suite) {
    let lab = Lab::new("distrust", suite, suite);
    let graph = [("shape", "chain"), ("d", "3")];
    let drv = lab.client.instantiate(&graph).unwrap();
    let machines = builders(scheme, &["alice@b1"], 2);
    let built = lab.drover(&["build", "--no-link", "-j0", "--builders", &machines, &drv]);
    assert_code(&built, 0);
    assert!(!stderr(&built).contains("is down"), "{}", stderr(&built));
    lab.client.sh(&format!("nix-store --check-validity $(nix-store -q --outputs {drv})")).unwrap();
    let failing = script_drv(&lab.client, "failing", "echo some words; exit 3", "");
    let failed = lab.drover(&["build", "--no-link", "-j0", "--builders", &machines, &failing]);
    assert_code(&failed, 100);
    assert!(stderr(&failed).contains("some words"), "{}", stderr(&failed));
}

/// A derivation and one that it needs, which is valid on the client already.
struct Pair {
    low: String,
    high: String,
}

fn pair(client: &Host) -> Pair {
    let low = script_drv(client, "low", "echo low > $out", "");
    client.sh(&format!("nix-store -r {low} 2>/dev/null")).unwrap();
    let script = "cat ${import /w/low.nix} > $out";
    Pair { high: script_drv(client, "high", script, ""), low }
}

/// Whether a host built something itself.
fn has_built(host: &Host, drv: &str) -> bool {
    host.run(&["nix-store", "--read-log", drv]).unwrap().status.success()
}

/// What is valid here and unsigned is built there once more.
#[rstest]
#[case::new("ssh-ng", Suite::Forky)]
#[case::old("ssh-ng", Suite::Bookworm)]
#[case::new_serve("ssh", Suite::Forky)]
#[case::old_serve("ssh", Suite::Bookworm)]
fn an_unsigned_input_is_no_obstacle(#[case] scheme: &str, #[case] suite: Suite) {
    let lab = Lab::new("unsigned", suite, suite);
    let Pair { low, high } = pair(&lab.client);
    let machines = builders(scheme, &["alice@b1"], 1);
    let built = lab.drover(&["build", "--no-link", "-j0", "--builders", &machines, &high]);
    assert_code(&built, 0);
    assert!(!stderr(&built).contains("is down"), "{}", stderr(&built));
    assert!(has_built(&lab.b1, &low));
}

/// What is signed with a key that the builder trusts isn't built there once more.
#[rstest]
#[case::new(Suite::Forky)]
#[case::old(Suite::Bookworm)]
fn signed_inputs_are_sent(#[case] suite: Suite) {
    let lab = Lab::new("signed", suite, suite);
    let Pair { low, high } = pair(&lab.client);
    let sign = format!(
        "nix-store --generate-binary-cache-key lab-1 /w/secret /w/public; \
         nix store sign --key-file /w/secret $(nix-store -q --outputs {low}); cat /w/public"
    );
    let key = lab.client.sh(&sign).unwrap();
    // one knows the key and the other doesn't
    lab.b1.sh(&format!("echo 'trusted-public-keys = {key}' >> /etc/nix/nix.conf")).unwrap();
    lab.b1.restart_daemon().unwrap();
    for (host, name, builds) in [(&lab.b2, "alice@b2", true), (&lab.b1, "alice@b1", false)] {
        lab.client
            .sh(&format!("nix-store --delete $(nix-store -q --outputs {high}) || :"))
            .unwrap();
        let machines = builders("ssh-ng", &[name], 1);
        let built = lab.drover(&["build", "--no-link", "-j0", "--builders", &machines, &high]);
        assert_code(&built, 0);
        assert_eq!(has_built(host, &low), builds, "{name}: {}", stderr(&built));
    }
}

#[test]
fn a_local_store_that_distrusts_is_explained() {
    let lab = Lab::new("alice", Suite::Forky, Suite::Forky);
    let drv = lab.client.instantiate(&[("shape", "wide"), ("n", "2")]).unwrap();
    let machines = builders("ssh-ng", &["b1"], 2);
    let line = format!("drover build --no-link -j0 --builders '{machines}' {drv}");
    let failed = lab.client.run(&["su", "alice", "-c", &line]).unwrap();
    assert_code(&failed, 1);
    assert!(stderr(&failed).contains("trusted-users"), "{}", stderr(&failed));
}

/// What another machine has built wasn't built here, whichever way it comes: where signatures are asked for
/// it needs one. What was built here needs none.
#[test]
fn what_others_have_built_was_not_built_here() {
    let lab = Lab::new("ultimate", Suite::Forky, Suite::Forky);
    let (client, machines) = (&lab.client, builders("ssh-ng", &["b1", "b2"], 2));
    client.sh("mkdir -p /w").unwrap();
    let built_here = |drv: &str| {
        let infos =
            "NIX_REMOTE=local nix --extra-experimental-features nix-command path-info --json";
        let outputs = format!("$(nix-store -q --outputs {drv})");
        let told = client.sh(&format!("{infos} {outputs}")).unwrap();
        told.replace(' ', "").contains("\"ultimate\":true")
    };
    let graph =
        |n: &str| client.instantiate(&[("shape", "layers"), ("n", n), ("d", "2"), ("k", "1")]);
    let build = |drv: &str, more: &str| {
        let line = format!("NIX_REMOTE=local drover build --no-link {drv} {more} 2>&1");
        client.sh(&line).unwrap();
    };
    let [run, here, served] = ["2", "3", "4"].map(|n| graph(n).unwrap());
    build(&run, &format!("-j0 --builders '{machines}'"));
    assert!(!built_here(&run), "by drover build");
    build(&here, "-j2 --builders ''");
    assert!(built_here(&here), "what was built here");
    become_the_daemon(client, &machines);
    client.sh(&format!("NIX_REMOTE=daemon nix-store -r {served} -j0 2>&1")).unwrap();
    assert!(!built_here(&served), "by the daemon");
}
