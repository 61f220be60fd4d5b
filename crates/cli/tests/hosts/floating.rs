//! Outputs whose paths follow from their contents.

use drover_testkit::Suite;
use rstest::rstest;

use crate::own::{assert_sound, become_the_daemon};
use crate::{Lab, assert_code, stderr, stdout};

/// `low` and `high` float; the path of `top` follows from what they become.
const EXPRESSION: &str = r#"
let bb = builtins.path { path = /w/bb; name = "busybox"; };
    mk = name: more: script: derivation ({ inherit name; system = builtins.currentSystem;
      builder = "${bb}/bin/sh"; PATH = "${bb}/bin"; args = [ "-c" script ]; } // more);
    floating = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
    low = mk "low" floating "mkdir $out; echo low > $out/file; ln -s $out/file $out/link";
    high = mk "high" floating "mkdir $out; cat ${low}/link > $out/file; echo ${low} > $out/low";
in mk "top" { } "mkdir $out; cat ${high}/file > $out/file; echo ${high} > $out/high"
"#;

/// Has all hosts take such derivations, and returns that of `top` on the client.
pub(crate) fn instantiate(lab: &Lab) -> String {
    for host in [&lab.client, &lab.b1, &lab.b2] {
        host.sh("echo 'extra-experimental-features = ca-derivations' >> /etc/nix/nix.conf")
            .unwrap();
        host.restart_daemon().unwrap();
    }
    let client = &lab.client;
    client.write("/w/floating.nix", EXPRESSION).unwrap();
    client
        .sh("mkdir -p /w/bb/bin; cp /bin/busybox /w/bb/bin/; \
             for a in sh cat mkdir ln; do ln -s busybox /w/bb/bin/$a; done")
        .unwrap();
    client.sh("nix-instantiate /w/floating.nix 2>/dev/null").unwrap().trim().to_owned()
}

/// drover builds it once, and both it and stock Nix know what became of it.
#[rstest]
#[case::own_store(&[])]
#[case::through_the_daemon(&["--store", "daemon"])]
fn what_floating_outputs_became_is_known_afterwards(#[case] store: &[&str]) {
    let lab = Lab::new("floating", Suite::Forky, Suite::Forky);
    let drv = instantiate(&lab);
    let (client, drv) = (&lab.client, drv.as_str());
    let arch = std::env::consts::ARCH;
    let machines = format!(
        "ssh-ng://b1 {arch}-linux - 1 1 ca-derivations;ssh-ng://b2 {arch}-linux - 1 1 ca-derivations"
    );
    let arguments =
        ["build", "--no-link", "-j0", "--builders", &machines, "--print-out-paths", drv];
    let arguments = [&arguments[..], store].concat();
    let built = lab.drover(&arguments);
    assert_code(&built, 0);
    let out = stdout(&built);
    assert_eq!(client.read(&format!("{out}/file")).unwrap(), b"low\n");
    assert!(stderr(&built).contains("3 builds"), "{}", stderr(&built));
    let again = lab.drover(&arguments);
    assert_code(&again, 0);
    assert_eq!(stdout(&again), out);
    assert!(!stderr(&again).contains("build of"), "{}", stderr(&again));
    assert!(!stderr(&again).contains("1 build"), "built again: {}", stderr(&again));
    let stock = |script: &str| client.sh(script).unwrap().trim().to_owned();
    let nothing = "--option max-jobs 0 --option builders ''";
    assert_eq!(stock(&format!("nix-store --realise {drv} {nothing}")), out);
    assert_eq!(stock(&format!("nix path-info '{drv}^out'")), out);
    assert_eq!(stock(&format!("nix build --no-link --print-out-paths '{drv}^out' {nothing}")), out);
    // what came along as part of the closure is known, too
    let high = stock(&format!("cat {out}/high"));
    let high_drv = stock(&format!("nix-store -q --references {drv} | grep -- '-high.drv$'"));
    assert_eq!(stock(&format!("nix-store --realise {high_drv} {nothing}")), high);
    client.sh("NIX_REMOTE=local nix-store --verify --check-contents").unwrap();
}

/// Builds `top` by stock Nix on the client, which signs what outputs became, and writes all of it into a
/// cache. Returns the output and the key.
fn publish(lab: &Lab, drv: &str) -> (String, String) {
    let client = &lab.client;
    let made = "nix-store --generate-binary-cache-key builder-1 /w/secret /w/public; \
                echo 'secret-key-files = /w/secret' >> /etc/nix/nix.conf; cat /w/public";
    let key = client.sh(made).unwrap().trim().to_owned();
    client.restart_daemon().unwrap();
    let out = client.sh(&format!("nix build --no-link --print-out-paths '{drv}^out'")).unwrap();
    client
        .sh(&format!(
            "for d in $(nix-store -qR {drv} | grep -e '-top.drv$' -e '-high.drv$' -e '-low.drv$'); do \
               nix copy --to 'file:///w/cache?secret-key=/w/secret' $d^out; done; \
             ls /w/cache/realisations"
        ))
        .unwrap();
    (out.trim().to_owned(), key)
}

/// What stock Nix built and wrote into a cache isn't built again, though its paths don't follow from
/// what is asked for.
#[test]
fn floating_outputs_come_from_caches() {
    let lab = Lab::new("floating-cache", Suite::Forky, Suite::Forky);
    let drv = instantiate(&lab);
    let client = &lab.client;
    let (out, key) = publish(&lab, &drv);
    let build = |root: &str, key: &str| {
        let store = format!("local?root=/w/{root}");
        let copied = format!("drover copy --derivation --no-check-sigs --to '{store}' {drv}");
        client.sh(&copied).unwrap();
        let trusted = ["--option", "trusted-public-keys", key];
        let arguments = ["build", "--no-link", "-j0", "--store", &store, "--print-out-paths"];
        let from = ["--option", "substituters", "file:///w/cache"];
        lab.drover(&[&arguments[..], &trusted, &from, &[&drv]].concat())
    };
    let built = build("fresh", &key);
    assert_code(&built, 0);
    assert_eq!(stdout(&built), out);
    assert_eq!(client.read(&format!("/w/fresh/{out}/file")).unwrap(), b"low\n");
    // and stock Nix finds it there, too
    let fresh = "--store 'local?root=/w/fresh' --option max-jobs 0 --option substitute false";
    let again = client.sh(&format!("nix build {fresh} --no-link --print-out-paths '{drv}^out'"));
    assert_eq!(again.unwrap().trim(), out);
    // by somebody who trusts nobody, nothing of it is believed
    let strange =
        client.sh("nix-store --generate-binary-cache-key else /w/s /w/p; cat /w/p").unwrap();
    let refused = build("doubtful", strange.trim());
    assert_code(&refused, 100);
    assert!(stderr(&refused).contains("no trusted key has signed it"), "{}", stderr(&refused));
}

/// The same for clients of the daemon.
#[test]
fn floating_outputs_come_from_caches_for_clients() {
    let lab = Lab::new("floating-daemon", Suite::Forky, Suite::Forky);
    let drv = instantiate(&lab);
    let (client, other) = (&lab.client, &lab.b1);
    let (out, key) = publish(&lab, &drv);
    client
        .sh(&format!(
            "nix copy --no-check-sigs --derivation --to ssh-ng://b1 {drv}; tar c /w/cache | ssh b1 tar x -C /"
        ))
        .unwrap();
    other.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
    let settings = format!(
        "printf 'substituters = file:///w/cache\\ntrusted-public-keys = {key}\\nmax-jobs = 0\\n' \
         >> /etc/nix/nix.conf"
    );
    other.sh(&settings).unwrap();
    become_the_daemon(other, "");
    let planned =
        other.sh(&format!("NIX_REMOTE=daemon nix-store -r --dry-run {drv} 2>&1")).unwrap();
    assert!(planned.contains("will be fetched") && !planned.contains("will be built"), "{planned}");
    let realised = other.sh(&format!("NIX_REMOTE=daemon nix-store -r {drv}")).unwrap();
    assert_eq!(realised.trim(), out);
    let built = format!("NIX_REMOTE=daemon nix build --no-link --print-out-paths '{drv}^out'");
    assert_eq!(other.sh(&built).unwrap().trim(), out);
    assert_sound(other);
}

/// Deletes something that a lane or a server may still hold for a moment, once who has had it built is done.
pub(crate) const DELETE: &str = r#"
delete() {
  for i in $(seq 300); do said=$(nix-store --delete "$@" 2>&1) && return; sleep 0.2; done
  echo "$said" >&2; exit 1
}
"#;

/// A daemon that has built floating outputs here builds them again when they have gone: some of them, or
/// all with the whole database.
#[test]
fn floating_outputs_that_have_gone_are_built_again() {
    let lab = Lab::new("vanish", Suite::Forky, Suite::Forky);
    let drv = instantiate(&lab);
    let client = &lab.client;
    become_the_daemon(client, "");
    let script = format!(
        r#"{DELETE}
        export NIX_REMOTE=daemon
        out=$(nix-store -r {drv} 2>/dev/null)
        high=$(cat $out/high); low=$(cat $high/low)
        again() {{
            [ "$(nix-store -r {drv} 2>/w/err)" = $out ] && [ "$(cat $out/file)" = low ] || {{ cat /w/err; exit 1; }} >&2
            ! grep -q 'cannot use' /w/err || {{ cat /w/err; exit 1; }} >&2
        }}
        delete $out; again
        delete $out $high; again
        delete $out $high $low; again
        nix-store --export $(nix-store -qR {drv}) >/w/drv
        chmod -R u+w /nix/store; rm -rf /nix/store/* /nix/var/nix/db
        nix-store --import </w/drv >/dev/null; again
        "#
    );
    client.sh(&script).unwrap();
    assert_sound(client);
}
