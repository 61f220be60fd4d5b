//! drover as client of the daemons of stock Nix, each release.

use drover_testkit::Suite;
use rstest::rstest;

use crate::own::assert_sound;
use crate::{Lab, assert_code, stdout};

/// What drover's names do at the socket of a stock daemon.
const SCRIPT: &str = r#"
export NIX_REMOTE=daemon
PATH=/w/names:$PATH
out=$(nix-store -r DRV)
[ "$(cat $out/name)" = graph-layers ]
for q in --requisites --references --referrers --hash --size --deriver --tree; do
  [ "$(nix-store -q $q $out)" = "$(/usr/bin/nix-store -q $q $out)" ] || { echo "-q $q"; exit 1; } >&2
done
nix-store --read-log DRV | grep -q 'graph-layers ends'
echo words > /w/words; file=$(nix-store --add /w/words)
[ $file = "$(/usr/bin/nix-store --add /w/words)" ]
[ "$(nix-store --add-fixed sha256 /w/words)" = "$(/usr/bin/nix-store --add-fixed sha256 /w/words)" ]
nix-store --export $(nix-store -qR $out) > /w/export
nix-store --delete $file
! nix-store --check-validity $file 2>/dev/null || exit 1
nix-store --add-root /w/root --indirect -r $out >/dev/null
nix-store --gc >/dev/null
nix-store --check-validity $out
! nix-store --delete $out 2>/dev/null || exit 1
rm /w/root; nix-store --gc >/dev/null
! nix-store --check-validity $out 2>/dev/null || exit 1
nix-store --import < /w/export >/dev/null
nix-store --check-validity $out
nix-store --verify --check-contents
"#;

#[rstest]
#[case::forky(Suite::Forky)]
#[case::trixie(Suite::Trixie)]
#[case::bookworm(Suite::Bookworm)]
fn drover_is_a_client_of_each_release(#[case] suite: Suite) {
    let lab = Lab::new("servers", suite, suite);
    let (client, server) = (&lab.client, &lab.b1);
    server.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
    server.sh("drover compat install /w/names").unwrap();
    let graph = [("shape", "layers"), ("n", "2"), ("d", "2"), ("k", "1")];
    let drv = server.instantiate(&graph).unwrap();
    server.sh(&SCRIPT.replace("DRV", &drv)).unwrap();
    let info = "NIX_REMOTE=daemon PATH=/w/names:$PATH nix store info --json";
    let info = server.sh(info).unwrap();
    // daemons say whether they trust a client from protocol 1.35 on
    let says = !matches!(suite, Suite::Bookworm);
    assert_eq!(info.contains(r#""trusted":true"#), says, "{info}");
    assert_sound(server);
    // from another machine, by both protocols
    for scheme in ["ssh-ng", "ssh"] {
        let (drv, store) = (client.instantiate(&graph).unwrap(), format!("{scheme}://b1"));
        let copied = lab.drover(&["copy", "--derivation", "--no-check-sigs", "--to", &store, &drv]);
        assert_code(&copied, 0);
        server.sh(&format!("nix-store --check-validity {drv}")).unwrap();
        let arch = std::env::consts::ARCH;
        let machine = format!("{store} {arch}-linux - 2 1");
        let line = ["build", "-j0", "--no-link", "--print-out-paths", "--builders", &machine, &drv];
        let built = lab.drover(&line);
        assert_code(&built, 0);
        let out = stdout(&built);
        client.sh(&format!("nix-store --delete {out} >/dev/null 2>&1")).unwrap();
        assert_code(&lab.drover(&["copy", "--no-check-sigs", "--from", &store, &out]), 0);
        client.sh(&format!("nix-store --check-validity $(nix-store -qR {out})")).unwrap();
    }
    assert_sound(client);
}
