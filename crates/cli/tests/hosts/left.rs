//! That nothing of a build is left behind by commands under Nix's names, and where else they build.

use drover_testkit::Suite;

use crate::{Lab, alike::NAMES};

/// However a command ends, the folders of its builds are gone when it has.
#[test]
fn nothing_is_left_of_builds_that_came_to_nothing() {
    let lab = Lab::new("left", Suite::Forky, Suite::Forky);
    let script = r#"
        cat >ends.nix <<'N'
        let make = name: script: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh";
              PATH = "/bin"; args = [ "-c" "echo begun; echo > $TMPDIR/file; ${script}" ]; }; in {
          silent = make "silent" "exec busybox sleep 1000";
          loud = make "loud" "while :; do echo much; done";
          failing = make "failing" "busybox sleep 2; exit 1";
        }
N
        nothing_left() {
            left=$(ls -A /nix/var/nix/builds; ls -A /nix/store | grep -e -tmp- || true)
            [ -z "$left" ] || fail "$1 leaves $left"
        }
        ends() { # how, status, arguments
            how=$1; expected=$2; shift 2
            status=0; nix-build --no-out-link ends.nix "$@" >said 2>&1 || status=$?
            [ $status = $expected ] || fail "$how: $status: $(tail said)"
            grep -q begun said || fail "$how: nothing began: $(cat said)"
            nothing_left "$how"
        }
        ends timeout 101 -A silent --timeout 5
        ends silence 101 -A silent --max-silent-time 5
        ends 'much said' 1 -A loud --max-build-log-size 10000
        ends failure 100 -j2 -A failing -A silent
        for signal in INT TERM HUP; do
            nix-build --no-out-link ends.nix -A silent >said 2>&1 & command=$!
            until grep -q begun said; do kill -0 $command || fail "ended: $(cat said)"; sleep 0.1; done
            kill -$signal $command; status=0; wait $command || status=$?
            [ $status = 1 ] || fail "SIG$signal: $status: $(cat said)"
            grep -q '^error: interrupted by the user' said || fail "SIG$signal: $(cat said)"
            nothing_left SIG$signal
        done
    "#;
    lab.client.sh(&[NAMES, script].concat()).unwrap();
}

/// A build may tell a terminal no more than colours.
#[test]
fn what_builds_say_does_nothing_to_terminals() {
    let lab = Lab::new("harmless", Suite::Forky, Suite::Forky);
    let script = r#"
        cat >says.nix <<'N'
        derivation { name = "says"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/bin"; args = [ "-c" ''
          printf 'a\033[31mred\033[0m \033]0;title\007 \033[2J \033]52;c;ZXZpbA==\007 x\n'
          printf '@nix {"action":"msg","level":0,"msg":"m\\u001b[31mred\\u001b[2J \\u001b]0;t\\u0007"}\n'
          exit 1'' ]; }
N
        nix-build --no-out-link says.nix >ours 2>&1 || true
        real nix-build --no-out-link says.nix >theirs 2>&1 || true
        for said in ours theirs; do
            ! grep -q "$(printf '[\033\007]')" $said || fail "$said: $(cat -v $said)"
            grep -qx 'ared    x' $said || grep -qx 'ared     x' $said || fail "$said: $(cat -v $said)"
            grep -q 'mred' $said || fail "$said: $(cat -v $said)"
        done
    "#;
    lab.client.sh(&[NAMES, script].concat()).unwrap();
}

/// The paths that the kernel has for open files begin outside of it.
#[test]
fn builds_are_shut_in_within_a_chroot() {
    let lab = Lab::new("chroot", Suite::Forky, Suite::Forky);
    let script = r#"
        cat >/w/x.nix <<'N'
        derivation { name = "x"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo made > $out" ]; }
N
        cat >/w/inside <<'S'
        export PATH=/w/names:$PATH NIX_REMOTE=local; cd /w
        out=$(nix-build --no-out-link x.nix) && [ $(cat $out) = made ]
S
        mkdir /cr /crx
        unshare --mount sh -c 'busybox mount --rbind / /cr && exec busybox chroot /cr sh /w/inside' >said 2>&1 ||
            fail "$(cat said)"
    "#;
    lab.client.sh(&[NAMES, script].concat()).unwrap();
}
