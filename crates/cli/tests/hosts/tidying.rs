//! Collecting garbage and copying closures by Nix's names: what is there afterwards is what Nix
//! leaves, each on a store of its own that was the same before.

use std::fmt::Write as _;

use drover_testkit::{Host, Suite};

use crate::Lab;

/// What is run in a store as `SETUP` leaves it.
const COLLECTING: &str = r#"
nix-collect-garbage
nix-collect-garbage -d
nix-collect-garbage --delete-old
nix-collect-garbage --delete-older-than 30d
nix-collect-garbage --delete-older-than 10d
nix-collect-garbage --delete-older-than 30d --dry-run
nix-collect-garbage -d --dry-run
nix-collect-garbage --dry-run
nix-collect-garbage --max-freed 0
nix-collect-garbage --max-freed 1K
nix-collect-garbage --max-freed 1000000000
nix-collect-garbage --max-freed 1 --dry-run
nix-collect-garbage -d --option keep-outputs true
nix-collect-garbage --option keep-derivations false
nix-collect-garbage --delete-older-than 30
nix-collect-garbage --delete-older-than xd
nix-collect-garbage --delete-older-than
nix-collect-garbage --nonsense
nix-collect-garbage word
nix-store --gc --max-freed 0
nix-store --delete $garbage
nix-store --delete $out
"#;

/// The same, with another machine that has nothing but `$theirs`.
const COPYING: &str = r#"
nix-copy-closure --to b1 $out
nix-copy-closure b1 $out
nix-copy-closure b1 --to $out $garbage
nix-copy-closure --to --gzip b1 $out
nix-copy-closure --to -s b1 $out
nix-copy-closure --to --use-substitutes b1 $out
nix-copy-closure --to b1 $drv
nix-copy-closure --to --include-outputs b1 $out
nix-copy-closure --to root@b1 ./result
nix-copy-closure --from b1 $theirs
nix-copy-closure --from --gzip b1 $theirs
nix-copy-closure --from --include-outputs b1 $theirs
nix-copy-closure --from -s root@b1 $theirs
nix-copy-closure --to b1
nix-copy-closure --to b1 /nix/store/00000000000000000000000000000000-x
nix-copy-closure --from b1 /nix/store/00000000000000000000000000000000-x
nix-copy-closure --to b1 ./file
nix-copy-closure --to
nix-copy-closure
"#;

const SETUP: &str = r#"
export NIX_REMOTE=local
mkdir -p /w; cd /w; echo hello > file; echo 1 > one; echo 2 > two; echo 3 > three
tool=$(nix-store --add /bin/busybox)
cat > made.nix <<END
derivation { name = "made"; system = builtins.currentSystem; builder = "/bin/sh"; tool = builtins.storePath $tool;
  outputs = [ "out" "dev" ]; args = [ "-c" "echo \$tool > \$out; echo \$out > \$dev" ]; }
END
drv=$(readlink $(nix-instantiate --quiet made.nix --add-root /w/drv-root --indirect))
out=$(nix-store -r $drv 2>/dev/null | grep -v dev); ln -s $out result
garbage=$(nix-store --add file)
mkdir -p /nix/var/nix/profiles; cd /nix/var/nix/profiles
for n in one two three; do
  i=$((${i:-0} + 1)); ln -s $(nix-store --add /w/$n) p-$i-link
done
touch -h -d '50 days ago' p-1-link; touch -h -d '40 days ago' p-2-link; touch -h -d '20 days ago' p-3-link
ln -s p-3-link p
echo "drv=$drv out=$out tool=$tool garbage=$garbage" > /w/names.sh
tar -C / -cf /w/nix.tar nix/store nix/var
"#;

/// What the other machine has.
const THEIRS: &str = r#"
pkill -x nix-daemon || :; [ ! -e /nix/store ] || chmod -R u+w /nix/store; rm -rf /nix/store /nix/var
export NIX_REMOTE=local; echo theirs > /root/theirs; nix-store --add /root/theirs
"#;

const RESTORE: &str =
    "chmod -R u+w /nix/store; rm -rf /nix/store /nix/var; tar -C / -xf /w/nix.tar";

/// What a store has: its valid paths, its files, and the generations of its profile. Nix makes the
/// link `default` for root whenever it looks where the user's profile is; that is no result.
const STATE: &str = "NIX_REMOTE=local; export NIX_REMOTE; \
    nix-store --dump-db | grep -a -o '^/nix/store/[^ ]*' | sort -u; \
    nix-store --verify --check-contents; \
    ls -A /nix/store | sort; ls /nix/var/nix/profiles | grep -vx default";

/// Runs a command; returns its status, what it prints, and the first of what it says of errors: both
/// say more below, each what it knows.
fn ask(host: &Host, path: &str, command: &str) -> (Option<i32>, String, String) {
    let script =
        format!("cd /w; . ./names.sh; PATH={path}; NIX_REMOTE=local; export NIX_REMOTE; {command}");
    let output = host.run(&["sh", "-c", &script]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let error = said.lines().find(|line| line.contains("error:")).unwrap_or_default().to_owned();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), out, error)
}

const NIX: &str = "/usr/bin:/bin";
const OURS: &str = "/w/names:/usr/bin:/bin";

#[test]
fn what_is_collected_is_what_nix_collects() {
    let lab = Lab::new("collecting", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    host.sh("drover compat install /w/names; pkill -x nix-daemon || :").unwrap();
    host.sh(SETUP).unwrap();
    let run = |path: &str, command: &str| {
        host.sh(RESTORE).unwrap();
        (ask(host, path, command), host.sh(STATE).unwrap())
    };
    let mut differences = String::new();
    for command in COLLECTING.trim().lines() {
        let (nix, ours) = (run(NIX, command), run(OURS, command));
        if nix != ours {
            writeln!(differences, "{command}\n  Nix:    {nix:?}\n  drover: {ours:?}").unwrap();
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}

#[test]
fn what_is_copied_is_what_nix_copies() {
    let lab = Lab::new("copying", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    host.sh("drover compat install /w/names; pkill -x nix-daemon || :").unwrap();
    host.sh(SETUP).unwrap();
    let run = |path: &str, command: &str| {
        host.sh(RESTORE).unwrap();
        let theirs = lab.b1.sh(THEIRS).unwrap();
        let asked = ask(host, path, &format!("theirs={theirs}; {command}"));
        (asked, host.sh(STATE).unwrap(), lab.b1.sh(STATE).unwrap_or_default())
    };
    let mut differences = String::new();
    for command in COPYING.trim().lines() {
        let (nix, ours) = (run(NIX, command), run(OURS, command));
        if nix != ours {
            writeln!(differences, "{command}\n  Nix:    {nix:?}\n  drover: {ours:?}").unwrap();
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
    // Nix 2.34 takes this flag and does nothing about it; it means what Nix's manual says
    let (asked, _, theirs) = run(OURS, "nix-copy-closure --to --include-outputs b1 $drv");
    assert_eq!(asked.0, Some(0), "{asked:?}");
    for name in ["-made.drv", "-made", "-made-dev", "-busybox"] {
        assert!(theirs.lines().any(|line| line.ends_with(name)), "{name}: {theirs}");
    }
}
