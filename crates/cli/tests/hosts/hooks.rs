//! Programs that run before and after builds, beside what today's Nix does with them.

use drover_testkit::Suite;

use crate::corpus::CORPUS;
use crate::own::become_the_daemon;
use crate::{Lab, builders};

const SETUP: &str = r#"
mkdir -p /w; cd /w
cat > after <<'END'
#!/bin/sh
echo "$DRV_PATH: $OUT_PATHS" >> $log; echo "$NIX_CONFIG" > $log.config; echo heard; exit ${status:-0}
END
cat > before <<'END'
#!/bin/sh
echo $# $1 >> $log; echo extra-sandbox-paths; echo /bin/hello=/bin/busybox; echo
END
chmod +x after before
instantiate() { nix-instantiate --quiet /w/corpus.nix -A $1 --arg tools /opt/graph/bb 2>/dev/null | sed 's/!.*//'; }
stock() { log=/w/stock.log NIX_REMOTE='local?root=/w/stock' "$@"; }
ours() { log=/w/ours.log NIX_REMOTE='local?root=/w/ours' "$@"; }
export log status NIX_CONFIG
"#;

/// It runs for the same, with the same, for what is built here and elsewhere. Where all that was built
/// elsewhere is brought here, that is for all of it, and otherwise for what is.
#[test]
fn the_hook_after_builds_runs_as_by_nix() {
    let lab = Lab::new("after", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    host.write("/w/corpus.nix", CORPUS).unwrap();
    host.sh(SETUP).unwrap();
    // each has one of its own, or the second would find all built there
    let [b1, b2] = ["b1", "b2"].map(|host| builders("ssh-ng", &[host], 2));
    let script = format!(
        "{SETUP}
        NIX_CONFIG='sandbox = true
post-build-hook = /w/after'
        for name in chain outputs; do drv=$(ours instantiate $name)
          [ $drv = $(stock instantiate $name) ]
          stock nix-store -r $drv >/dev/null 2>stock.err
          ours drover build $drv --no-link 2>ours.err; grep -c 'post-build-hook: heard' ours.err
        done; sort stock.log > stock.here; sort ours.log > ours.here; cmp stock.here ours.here; wc -l < ours.here
        grep -c 'post-build-hook = /w/after' ours.log.config
        for root in stock ours; do chmod -R u+w /w/$root; rm -rf /w/$root /w/$root.log; done
        drv=$(ours instantiate chain); stock instantiate chain >/dev/null
        NIX_CONFIG=\"$NIX_CONFIG
max-jobs = 0
builders = {b1}\"
        stock nix-store -r $drv >/dev/null 2>stock.err
        ours drover build $drv --no-link --copy-all-outputs --builders '{b2}' 2>ours.err
        sort stock.log > stock.there; sort ours.log > ours.there; diff stock.there ours.there; wc -l < ours.there"
    );
    assert_eq!(host.sh(&script).unwrap(), "3\n1\n4\n1\n3");
}

/// Where it fails, what was built is valid, and what depends on it isn't built.
#[test]
fn a_hook_that_fails_ends_the_build() {
    let lab = Lab::new("afterfail", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    host.write("/w/corpus.nix", CORPUS).unwrap();
    host.sh(SETUP).unwrap();
    let script = format!(
        "{SETUP}
        NIX_CONFIG='sandbox = true
post-build-hook = /w/after' status=3
        drv=$(ours instantiate chain); stock instantiate chain >/dev/null
        stock nix-store -r $drv >/dev/null 2>stock.err && exit 1 || echo $?
        ours drover build $drv --no-link 2>ours.err && exit 1 || echo $?
        cmp stock.log ours.log; wc -l < ours.log
        for who in stock ours; do grep -c 'program \"/w/after\" failed with exit code 3' $who.err; done
        ours nix-store --check-validity $(sed 's/.*: //' ours.log)"
    );
    assert_eq!(host.sh(&script).unwrap(), "1\n1\n1\n1\n1");
}

/// All that is built here is signed, to the same signature as by Nix, which takes it for one.
#[test]
fn what_is_built_is_signed_as_by_nix() {
    let lab = Lab::new("signed", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    host.write("/w/corpus.nix", CORPUS).unwrap();
    host.sh(SETUP).unwrap();
    let script = format!(
        "{SETUP}
        nix key generate-secret --key-name here-1 --extra-experimental-features nix-command > key
        nix key convert-secret-to-public --extra-experimental-features nix-command < key > key.pub
        NIX_CONFIG='sandbox = true
extra-experimental-features = ca-derivations nix-command
secret-key-files = /w/key'
        for name in chain outputs floating flat; do
          drv=$(ours instantiate $name); [ $drv = $(stock instantiate $name) ]
          stock nix-store -r $drv >/dev/null 2>stock.err
          ours drover build $drv --no-link 2>ours.err || {{ cat ours.err; exit 1; }}
        done
        for who in stock ours; do
          $who nix path-info --all --sigs | grep -v -e 'drv' -e '-tools' | sed 's/.ultimate//' | sort > $who.signed
        done
        diff stock.signed ours.signed; grep -c here-1: ours.signed
        ours nix store verify --no-contents --trusted-public-keys \"$(cat key.pub)\" --sigs-needed 1 \
          $(grep -o '^[^ ]*' ours.signed) && echo verified"
    );
    assert_eq!(host.sh(&script).unwrap(), "8\nverified");
}

#[test]
fn the_hook_before_builds_shows_more_as_by_nix() {
    let lab = Lab::new("before", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    host.write("/w/corpus.nix", CORPUS).unwrap();
    host.sh(SETUP).unwrap();
    let script = format!(
        "{SETUP}
        NIX_CONFIG='sandbox = true
pre-build-hook = /w/before'
        drv=$(ours instantiate seesHello); stock instantiate seesHello >/dev/null
        stock nix-store -r $drv >stock.out 2>stock.err || {{ cat stock.err; exit 1; }}
        ours drover build $drv --no-link --print-out-paths >ours.out 2>ours.err || {{ cat ours.err; exit 1; }}
        cmp stock.out ours.out; cmp stock.log ours.log; cat /w/ours$(cat ours.out)"
    );
    assert_eq!(host.sh(&script).unwrap(), "seen");
}

/// A client who is trusted has a hook of its own run in the place of the daemon's, or none; another one is
/// told that it may not.
#[test]
fn a_clients_own_hook_runs_as_by_nix() {
    let lab = Lab::new("ownhook", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    host.write("/w/corpus.nix", CORPUS).unwrap();
    host.sh(SETUP).unwrap();
    host.sh("cd /w; for who in usual own; do printf '#!/bin/sh\\necho '$who' $DRV_PATH >> /w/log\\n' > $who; done
        chmod +x usual own; echo 'post-build-hook = /w/usual' >> /etc/nix/nix.conf; chmod 777 /w; id alice >/dev/null")
        .unwrap();
    let script = "cd /w; rm -f log; touch log; chmod 666 log; export NIX_REMOTE=daemon
        build() { name=$1; shift
          drv=$(nix-instantiate --quiet corpus.nix -A $name --arg tools /opt/graph/bb)
          nix-store -r $drv \"$@\" >/dev/null 2>err || { cat err; exit 1; }; }
        build silentSuccess; build emptyFolder --option post-build-hook /w/own
        build executableOut --option post-build-hook ''
        chmod 644 corpus.nix; drv=$(nix-instantiate --quiet corpus.nix -A oddNames --arg tools /opt/graph/bb)
        su alice -s /bin/sh -c \"NIX_REMOTE=daemon nix-store -r $drv --option post-build-hook /w/own >/dev/null 2>&1\"
        cat log; for path in $(sed 's/.* //' log); do nix-store --delete $(nix-store -q --outputs $path) >/dev/null 2>&1; done";
    host.restart_daemon().unwrap();
    let theirs = host.sh(script).unwrap();
    become_the_daemon(host, "");
    let ours = host.sh(script).unwrap();
    assert_eq!(ours, theirs);
    let ran: Vec<&str> = ours.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(ran, ["usual", "own", "usual"]);
}

/// A client who is trusted says how its builds are shut in and what they see; another one is told that it
/// may not.
#[test]
fn a_clients_own_sandbox_is_as_by_nix() {
    let lab = Lab::new("ownsandbox", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    let see = r#"
        { n }: derivation { name = "see-${n}"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" ''
          seen=none; [ ! -e /probe ] || read seen < /probe
          where=shut; [ ! -e /w ] || where=open
          echo $seen $where > $out'' ]; }"#;
    host.write("/w/see.nix", see).unwrap();
    host.write("/w/probe", "probe\n").unwrap();
    host.sh(
        "printf '%s\n' 'sandbox = true' 'sandbox-paths = /bin/sh=/bin/busybox' >> /etc/nix/nix.conf
         chmod 755 /w; chmod 644 /w/*; id alice >/dev/null",
    )
    .unwrap();
    let script = r#"export NIX_REMOTE=daemon; cd /w
        see() { cat $(nix-build --no-out-link see.nix --argstr n "$@"); }
        see usual; see more --option extra-sandbox-paths /probe=/w/probe
        see only --option sandbox-paths '/bin/sh=/bin/busybox /probe=/w/probe'
        see open --option sandbox false; see relaxed --option sandbox relaxed
        cp see.nix /tmp; cd /tmp; su alice -s /bin/sh -c "NIX_REMOTE=daemon nix-build --no-out-link see.nix             --argstr n alice --option extra-sandbox-paths /probe=/w/probe --option sandbox false" > path; cat $(cat path)
        nix-store --delete /nix/store/*-see-* >/dev/null"#;
    host.restart_daemon().unwrap();
    let theirs = host.sh(script).unwrap();
    become_the_daemon(host, "");
    let ours = host.sh(script).unwrap();
    assert_eq!(ours, theirs);
    let seen: Vec<&str> = ours.lines().collect();
    let expected = ["none shut", "probe shut", "probe shut", "none open", "none shut", "none shut"];
    assert_eq!(seen, expected);
}
