//! Clients of stock Nix, each release, on drover: at its daemon's socket, and by both protocols
//! through SSH.

use drover_testkit::Suite;
use rstest::rstest;

use crate::hook::{assert_slots, counting};
use crate::own::{assert_sound, become_the_daemon};
use crate::{Lab, builders};

/// What a client does. `c` is the machine with drover, `DRV` a derivation.
const SCRIPT: &str = r#"
export NIX_REMOTE=daemon
nix='nix --extra-experimental-features nix-command'
out=$(nix-store -r DRV 2>/w/build.err) || { cat /w/build.err >&2; exit 1; }
grep -q 'graph-layers ends' /w/build.err || { echo "no log:"; cat /w/build.err; exit 1; } >&2
# the same answers as from the files
for q in --requisites --references --referrers --hash --size --deriver --tree; do
  [ "$(nix-store -q $q $out)" = "$(NIX_REMOTE=local nix-store -q $q $out)" ] || { echo "-q $q"; exit 1; } >&2
done
[ "$(nix-store -q --outputs DRV)" = $out ]
nix-store --export $(nix-store -qR $out) > /w/export
# there and back, by the serve protocol and by the worker protocol
empty() { nix-store --gc >/dev/null 2>&1; ! nix-store --check-validity $out 2>/dev/null; }
nix-copy-closure --to c $out 2>/dev/null
ssh c nix-store --check-validity $out
ssh c nix-store --verify --check-contents
ssh c nix-store --gc >/dev/null 2>&1
! ssh c nix-store --check-validity $out 2>/dev/null || exit 1
$nix copy --no-check-sigs --to ssh-ng://c $out
ssh c nix-store --check-validity $out
empty
nix-copy-closure --from c $out 2>/dev/null
nix-store --check-validity $out
empty
$nix copy --no-check-sigs --from ssh-ng://c $out
nix-store --check-validity $out
empty
nix-store --import < /w/export >/dev/null
nix-store --verify --check-contents
# a root keeps it, and not for longer than it is there
ln -sfn $out /w/root; ln -sfn /w/root /nix/var/nix/gcroots/test
nix-store --gc >/dev/null 2>&1; nix-store --check-validity $out
! nix-store --delete $out 2>/w/refused || exit 1
grep -q 'still alive' /w/refused
rm /nix/var/nix/gcroots/test; nix-store --delete $out 2>/dev/null >&2
! [ -e $out ] || exit 1
"#;

/// drover's machine is one to build on, for a client that opens its store itself.
const REMOTE: &str = r#"
NIX_REMOTE=local nix-store -r DRV -j0 --builders "SCHEME://c ARCH-linux - 2 1" >/w/r.out 2>/w/r.err ||
  { cat /w/r.err >&2; exit 1; }
"#;

#[rstest]
#[case::forky(Suite::Forky, Suite::Bookworm)]
#[case::trixie(Suite::Trixie, Suite::Forky)]
#[case::bookworm(Suite::Bookworm, Suite::Trixie)]
fn each_release_of_nix_is_a_client(#[case] suite: Suite, #[case] builder: Suite) {
    let lab = Lab::new("clients", suite, builder);
    let (server, client) = (&lab.client, &lab.b1);
    server.sh("drover compat install /usr/local/bin").unwrap();
    client.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
    for host in [server, client] {
        become_the_daemon(host, &builders("ssh-ng", &["b2"], 2));
    }
    let graph = [("shape", "layers"), ("n", "2"), ("d", "2"), ("k", "1")];
    client.sh("mkdir -p /w").unwrap();
    client.sh(&SCRIPT.replace("DRV", &client.instantiate(&graph).unwrap())).unwrap();
    for scheme in ["ssh-ng", "ssh"] {
        let script = REMOTE.replace("SCHEME", scheme).replace("ARCH", std::env::consts::ARCH);
        client.sh(&script.replace("DRV", &client.instantiate(&graph).unwrap())).unwrap();
    }
    for host in [server, client] {
        assert_sound(host);
    }
}

/// A client that names the daemon's very machines shares their slots with everybody.
#[test]
fn a_list_of_the_same_machines_shares_their_slots() {
    let lab = Lab::new("samelist", Suite::Forky, Suite::Forky);
    let client = &lab.client;
    become_the_daemon(client, &builders("ssh-ng", &["b1"], 2));
    let [one, two] = ["one", "two"].map(|who| counting(client, &[&lab.b1], who, 5));
    let arch = std::env::consts::ARCH;
    let same = format!("ssh-ng://b1  {arch}-linux - 2 1.0 big-parallel -");
    let script = format!(
        "export NIX_REMOTE=daemon
         nix-store -r {one} -j0 2>/root/one & one=$!
         nix-store -r {two} -j0 --builders '{same}' 2>/root/two & two=$!
         wait $one || {{ cat /root/one; exit 1; }}; wait $two || {{ cat /root/two; exit 1; }}"
    );
    client.sh(&script).unwrap();
    assert_slots(client, &format!("{one} {two}"), 2);
    let told = client.sh("drover machines").unwrap();
    assert!(!told.contains("client's list"), "{told}");
}
