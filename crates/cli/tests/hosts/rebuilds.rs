//! What is built once more, and compared: drover beside today's Nix, on one store.

use std::fmt::Write as _;

use drover_testkit::Suite;

use crate::Lab;
use crate::corpus::CORPUS;
use crate::own::become_the_daemon;

const SETUP: &str = r#"
export NIX_REMOTE='local?root=/w/s' NIX_CONFIG='extra-experimental-features = ca-derivations nix-command
sandbox = true
log-lines = 5'
instantiate() { nix-instantiate --quiet /w/corpus.nix -A $1 --arg tools /opt/graph/bb 2>/dev/null | sed 's/!.*//'; }
for name in plain outputs floatingSelf flat differs oneDiffers exits chain; do
  eval "$name=$(instantiate $name)"
done
nix-store -r $plain $outputs $floatingSelf $flat $differs $oneDiffers 2>/dev/null >&2
cat > /w/hook <<'END'
#!/bin/sh
echo "the hook has $# arguments: $1 $2 $3"; cd /; pwd; exit $(cat /w/hook-status)
END
chmod +x /w/hook; echo 0 > /w/hook-status
for name in plain outputs floatingSelf flat differs oneDiffers exits chain; do
  eval "echo $name=\$$name"
done > /w/names.sh
"#;

/// What is asked of both: exit status, output, and what is said of what differs must be the same.
const COMMANDS: &str = r#"
nix-store -r --check $plain
nix-store -r --check $outputs
nix-store -r --check $floatingSelf
nix-store -r --check $flat
nix-store -r --check $exits
nix-store -r --check $chain
nix-store -r --check $differs
nix-store -r --check $oneDiffers
nix-store -r --check $differs; ls -d /w/s/nix/store/*.check
nix-store -r --check -K $differs; ls -d /w/s/nix/store/*.check; rm -rf /w/s/nix/store/*.check
nix-store -r --check --option run-diff-hook true --option diff-hook /w/hook $differs; ls -d /w/s/nix/store/*.check; rm -rf /w/s/nix/store/*.check
nix-store -r --check --option run-diff-hook false --option diff-hook /w/hook $differs; ls -d /w/s/nix/store/*.check
echo 3 > /w/hook-status; nix-store -r --check --option run-diff-hook true --option diff-hook /w/hook $differs 2>&1 | grep -v -e 'the hook has' -e '^/$' >&2; rm -rf /w/s/nix/store/*.check
nix-build --check --no-out-link $plain
nix-build --check --no-out-link $differs
"#;

#[test]
fn what_differs_is_told_as_by_nix() {
    let lab = Lab::new("rebuilds", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    host.sh("drover compat install /w/names; pkill -x nix-daemon || :").unwrap();
    host.write("/w/corpus.nix", CORPUS).unwrap();
    host.sh(SETUP).unwrap();
    let ask = |path: &str, command: &str| {
        let script = format!(
            "{}\n. /w/names.sh; PATH={path}; {{ {command}; }} 2>/w/err; status=$?; \
             sed 's/\x1b\\[[0-9;]*m//g' /w/err | grep -e deterministic -e 'the hook' -e 'are not valid' -e '^/$' -e 'hook exec'; \
             exit $status",
            SETUP.lines().take(4).collect::<Vec<_>>().join("\n")
        );
        let output = host.run(&["sh", "-c", &script]).unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let mut differences = String::new();
    for command in COMMANDS.trim().lines() {
        let nix = ask("/usr/bin:/bin", command);
        let ours = ask("/w/names:/usr/bin:/bin", command);
        if nix != ours {
            writeln!(differences, "{command}\n  Nix:    {nix:?}\n  drover: {ours:?}").unwrap();
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
    for (name, status) in [("plain", 0), ("differs", 104), ("chain", 1), ("exits", 1)] {
        let (code, said) = ask(
            "/usr/local/bin:/usr/bin:/bin",
            &format!("drover build --rebuild --no-link ${name}"),
        );
        assert_eq!(code, Some(status), "{name}: {said}");
    }
    host.sh("NIX_REMOTE='local?root=/w/s' nix-store --verify --check-contents").unwrap();
}

/// A stock client asks drover's daemon, which builds here: it hears what Nix's own daemon tells it. By
/// the protocol that knows results, drover hears more of either than stock clients do.
#[test]
fn the_daemon_checks_for_its_clients() {
    let lab = Lab::new("dcheck", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    host.write("/w/corpus.nix", CORPUS).unwrap();
    let script = "set +e; export NIX_REMOTE=daemon; cd /w
        instantiate() { nix-instantiate --quiet corpus.nix -A $1 --arg tools /opt/graph/bb; }
        plain=$(instantiate plain); differs=$(instantiate differs)
        nix-store -r $plain $differs; echo $?
        nix-store -r --check $plain 2>err; echo $?
        nix-store -r --check $differs 2>err; echo $?; grep -c 'may not be deterministic' err
        drover build --rebuild --no-link $differs 2>err; echo $?; grep -c 'may not be deterministic' err";
    let ask = || {
        let said = host.sh(script).unwrap();
        let told = said.lines().filter(|line| !line.starts_with('/')).map(str::to_owned);
        told.collect::<Vec<String>>()
    };
    let theirs = ask();
    become_the_daemon(host, "");
    let ours = ask();
    assert_eq!(ours, theirs);
    assert_eq!(ours, ["0", "0", "1", "1", "104", "1"]);
}

const REPAIRS: &str = r#"
export NIX_CONFIG='sandbox = true'
instantiate() { nix-instantiate --quiet /w/corpus.nix -A $1 --arg tools /opt/graph/bb 2>/dev/null; }
cd /w
for name in plain chain outputs; do eval "$name=$(instantiate $name | sed 's/!.*//')"; done
nix-store -r $plain $chain $outputs >/dev/null 2>&1
plainOut=$(nix-store -q --outputs $plain); chainOut=$(nix-store -q --outputs $chain)
dep=$(nix-store -q --references $chainOut | head -1); dev=$(nix-store -q --outputs $outputs | grep dev)
out=$(nix-store -q --outputs $outputs | grep -v -e dev -e doc); source=$(nix-store -q --references $plain | grep -v drv)
damage() { f=$root$1; chmod -R u+w $f; if [ -d $f ]; then echo damaged > $f/damaged; else echo damaged > $f; fi; }
state() { nix-store --verify-path $1 2>/dev/null && echo sound || echo damaged; }
"#;

/// What is asked of both, each with a store of its own.
const REPAIR_COMMANDS: &str = r#"
damage $plainOut; nix-store -r --repair $plain; echo $?; state $plainOut
damage $dep; nix-store -r --repair $chain; echo $?; state $dep; state $chainOut
damage $plainOut; nix-store --repair-path $plainOut; echo $?; state $plainOut
damage $plainOut; damage $dep; nix-store --verify --check-contents --repair; echo $?; state $plainOut; state $dep
damage $dev; ls -i $root$out > inode; nix-store -r --repair $outputs; state $dev; ls -i $root$out | cmp - inode && echo untouched
rm -rf $root$plainOut; nix-store -r --repair $plain; echo $?; state $plainOut
nix-store -r --repair $plain; echo $?
damage $source; nix-store --repair-path $source; echo $?; state $source
nix-store --verify --check-contents --repair; echo $?; state $source
"#;

/// What is damaged and that nobody else has is built again; what is sound stays as it is.
#[test]
fn what_is_damaged_is_built_again_as_by_nix() {
    let lab = Lab::new("repairs", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    host.sh("mkdir /w; drover compat install /w/names; pkill -x nix-daemon || :").unwrap();
    host.write("/w/corpus.nix", CORPUS).unwrap();
    let ask = |who: &str, path: &str, command: &str| {
        let script = format!(
            "export NIX_REMOTE='local?root=/w/{who}' PATH={path} root=/w/{who}\n{REPAIRS}\n{command}"
        );
        let output = host.run(&["sh", "-c", &script]).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (String::from_utf8_lossy(&output.stdout).into_owned(), errors)
    };
    let mut differences = String::new();
    for command in REPAIR_COMMANDS.trim().lines() {
        let nix = ask("stock", "/usr/bin:/bin", command);
        let ours = ask("ours", "/w/names:/usr/bin:/bin", command);
        if nix.0 != ours.0 {
            writeln!(differences, "{command}\n  Nix:    {nix:?}\n  drover: {ours:?}").unwrap();
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}

/// A client of the daemon who is trusted has it repaired there.
#[test]
fn the_daemon_repairs_for_its_clients() {
    let lab = Lab::new("drepair", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    host.write("/w/corpus.nix", CORPUS).unwrap();
    become_the_daemon(host, "");
    let script = "export NIX_REMOTE=daemon; cd /w
        drv=$(nix-instantiate --quiet corpus.nix -A plain --arg tools /opt/graph/bb)
        out=$(nix-store -r $drv 2>err)
        damage() { chmod u+w $out; echo damaged > $out; }
        damage; nix-store -r --repair $drv >/dev/null 2>err || { cat err; exit 1; }; cat $out
        damage; nix-store --verify --check-contents --repair 2>err || { cat err; exit 1; }; cat $out";
    assert_eq!(host.sh(script).unwrap(), "some text\nsome text");
}

/// Where there's no Nix to do it, it's refused by its name, with the reason, whether the machine claims the
/// feature or not.
#[test]
fn recursive_builds_are_refused_with_the_reason() {
    let lab = Lab::new("recursive", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    host.write("/w/corpus.nix", CORPUS).unwrap();
    let script = "set +e; cd /w; export NIX_REMOTE='local?root=/w/ours'
        drv=$(nix-instantiate --quiet corpus.nix -A recursiveNix --arg tools /opt/graph/bb 2>/dev/null)
        rm /usr/bin/nix*
        NIX_CONFIG='system-features = recursive-nix' drover build --no-link $drv 2>err; echo $?; cat err
        drover build --no-link $drv 2>err; echo $?; cat err";
    let said = host.sh(script).unwrap();
    let reason = "'recursive-nix' is not supported by drover's builder, as it would let a build";
    assert!(said.contains(reason), "{said}");
    // the first would have been a machine for it, which the second isn't
    let codes: Vec<&str> = said.lines().filter(|line| ["1", "100"].contains(line)).collect();
    assert_eq!(codes, ["1", "100"], "{said}");
}
