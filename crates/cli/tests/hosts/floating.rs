//! Outputs whose paths follow from their contents.

use drover_testkit::Suite;
use rstest::rstest;

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

/// drover builds it once, and both it and stock Nix know what became of it.
#[rstest]
#[case::own_store(&[])]
#[case::through_the_daemon(&["--store", "daemon"])]
fn what_floating_outputs_became_is_known_afterwards(#[case] store: &[&str]) {
    let lab = Lab::new("floating", Suite::Forky, Suite::Forky);
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
    let drv = client.sh("nix-instantiate /w/floating.nix 2>/dev/null").unwrap();
    let drv = drv.trim();
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
