//! Builds over both protocols on all versions of stock Nix.

use drover_testkit::Suite;
use rstest::rstest;

use crate::{Lab, assert_code, builders, stderr, stdout};

#[rstest]
#[case::new_worker("ssh-ng", Suite::Forky, Suite::Trixie)]
#[case::old_worker("ssh-ng", Suite::Bookworm, Suite::Forky)]
#[case::new_serve("ssh", Suite::Forky, Suite::Trixie)]
#[case::old_serve("ssh", Suite::Bookworm, Suite::Forky)]
fn builds_a_graph_over_two_builders(
    #[case] scheme: &str,
    #[case] first: Suite,
    #[case] second: Suite,
) {
    let lab = Lab::new("versions", first, second);
    let graph = [("shape", "layers"), ("n", "4"), ("d", "3"), ("k", "2"), ("sleep", "0.3")];
    let drv = lab.client.instantiate(&graph).unwrap();
    let machines = builders(scheme, &["b1", "b2"], 2);
    let built = lab.drover(&[
        "build",
        "--no-link",
        "-j0",
        "--builders",
        &machines,
        "--print-out-paths",
        &drv,
    ]);
    assert_code(&built, 0);
    let out = stdout(&built);
    assert_eq!(lab.client.read(&format!("{out}/name")).unwrap(), b"graph-layers\n");
    lab.client.run_ok(&["nix-store", "--verify", "--check-contents"]).unwrap();
    for host in ["b1", "b2"] {
        let said = stderr(&built);
        assert!(said.contains(&format!(" on {host} in ")), "{host} built nothing: {said}");
    }
    // what is valid is not built again
    let again = lab.drover(&["build", "--no-link", "-j0", "--builders", &machines, &drv]);
    assert_code(&again, 0);
}

#[test]
fn only_the_closure_of_what_was_asked_for_comes_back() {
    let lab = Lab::new("closure", Suite::Forky, Suite::Forky);
    let script = r#"
        mkdir -p /w/bb/bin && cp /bin/busybox /w/bb/bin/ && for a in sh cat; do ln -sf busybox /w/bb/bin/$a; done
        cat > /w/needless.nix <<'E'
let bb = builtins.path { path = /w/bb; name = "busybox"; };
    mk = name: deps: script: derivation { inherit name deps; system = builtins.currentSystem; builder = "${bb}/bin/sh"; PATH = "${bb}/bin"; args = [ "-c" script ]; };
    tool = mk "tool" [] "echo tool > $out";
in mk "product" [ tool ] "cat $deps; echo product > $out"
E
        nix-instantiate /w/needless.nix 2>/dev/null"#;
    let drv = lab.client.sh(script).unwrap();
    let machines = builders("ssh-ng", &["b1", "b2"], 1);
    let built = lab.drover(&[
        "build",
        "--no-link",
        "-j0",
        "--builders",
        &machines,
        "--print-out-paths",
        &drv,
    ]);
    assert_code(&built, 0);
    let paths = lab.client.sh("ls /nix/store | grep -v '\\.drv$'").unwrap();
    assert!(paths.contains("-product"), "{paths}");
    assert!(!paths.contains("-tool"), "the tool is no part of the closure: {paths}");
    let everything = lab.drover(&[
        "build",
        "--no-link",
        "-j0",
        "--builders",
        &machines,
        "--copy-all-outputs",
        "-f",
        "/w/needless.nix",
    ]);
    assert_code(&everything, 0);
}

#[test]
fn pings_a_builder() {
    let lab = Lab::new("ping", Suite::Bookworm, Suite::Trixie);
    for (uri, words) in [
        ("ssh-ng://b1", ["2.8.0", "worker protocol 1."]),
        ("ssh-ng://b2", ["2.26", "yes"]),
        ("ssh://b1", ["serve protocol 2.", "b1"]),
    ] {
        let said = lab.drover(&["store", "ping", "--store", uri]);
        assert_code(&said, 0);
        let text = format!("{}{}", stdout(&said), stderr(&said));
        for word in words {
            assert!(text.contains(word), "{uri}: {word:?} is not in {text:?}");
        }
    }
}
