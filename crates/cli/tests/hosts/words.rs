//! What a client hears when something goes wrong: the same from drover's daemon as from Nix's, on the
//! same store, by exit status, output, and the lines that scripts look for.

use std::fmt::Write as _;

use drover_testkit::{Host, Suite};

use crate::{Lab, builders};

/// Where Nix's daemon and drover's listen.
const SOCKETS: [&str; 2] = ["/nix/var/nix/daemon-socket/socket", "/w/drover.sock"];

/// What both are asked: by whom, and what. Variables name a path that is kept, a derivation, one that
/// is absent, one that nobody signed, in another store, and so on.
const SITUATIONS: &[(&str, &str)] = &[
    ("root", "nix-store -q --references $absent"),
    ("root", "nix-store -q --hash $absent"),
    ("root", "nix-store -q --deriver $absent"),
    ("root", "nix-store -q --references /etc/passwd"),
    ("root", "nix-store -q --references /nix/store/short-x"),
    ("root", "nix-store --check-validity $absent"),
    ("root", "nix-store --check-validity --print-invalid $absent $kept"),
    ("root", "nix-store --dump-db $absent"),
    ("root", "nix-store --verify-path $absent"),
    ("root", "nix-store --export $absent"),
    ("root", "nix-store -r $absent"),
    ("root", "nix-store -r $drv!nothere"),
    ("root", "nix-store --delete $kept"),
    ("root", "nix-store --delete $absent"),
    ("root", "nix store delete $absent"),
    ("root", "nix-store --gc --print-dead | grep -c $kept"),
    ("root", "nix-store --import < /w/zeros"),
    ("root", "nix-store --import < /w/cut"),
    ("root", "nix-store --add /w/nothere"),
    ("root", "nix-store --add-root /w/nowhere/x -r $absent"),
    ("root", "nix path-info $absent"),
    ("root", "nix store ls $absent"),
    ("root", "nix store cat $kept/nothere"),
    ("root", "nix log $absent"),
    ("root", "nix-store --read-log $absent"),
    ("root", "nix-store -r $kept --option nosuchsetting 1"),
    ("root", "nix-store -r $fails"),
    ("root", "nix-store -r $wrong"),
    ("alice", "nix copy --from file:///w/cache $unsigned"),
    ("alice", "nix copy --no-check-sigs --from file:///w/cache $unsigned"),
    ("alice", "nix-store --import < /w/unsigned"),
    ("alice", "nix-store --verify --repair"),
    ("alice", "nix-store --delete $kept"),
    ("alice", "nix-store --delete --ignore-liveness $kept"),
    ("alice", "nix-store -q --hash $kept --option trusted-public-keys x"),
    ("alice", "nix-store -r $kept --option build-users-group x"),
    ("alice", "nix-store -r $kept --option substituters http://127.0.0.1:1/"),
    ("alice", "nix-store -r $kept --builders ssh://x"),
    ("alice", "nix store info --json | sed 's/\"url\":\"[^\"]*\",//'"),
];

const SETUP: &str = r#"
export NIX_REMOTE=local
echo words > /w/words; kept=$(nix-store --add /w/words); ln -s $kept /nix/var/nix/gcroots/kept
drv=$(nix-instantiate --quiet -E 'derivation { name = "some"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo $name > $out" ]; }')
ln -s $drv /nix/var/nix/gcroots/drv
fails=$(nix-instantiate --quiet -E 'derivation { name = "fails"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo some words; exit 3" ]; }')
wrong=$(nix-instantiate --quiet -E 'derivation { name = "wrong"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo other > $out" ]; outputHash = "0000000000000000000000000000000000000000000000000000"; outputHashAlgo = "sha256"; outputHashMode = "flat"; }')
unsigned=$(nix-store -r $drv 2>/dev/null)
nix copy --to file:///w/cache $unsigned; nix-store --export $unsigned > /w/unsigned; nix-store --delete $unsigned 2>/dev/null >&2
nix-store --export $kept | head -c 60 > /w/cut; head -c 100 /dev/zero > /w/zeros
chmod -R a+rX /w
cat > /w/names.sh <<END
kept=$kept drv=$drv fails=$fails wrong=$wrong unsigned=$unsigned absent=/nix/store/00000000000000000000000000000000-x
END
"#;

/// Exit status, output, and what was said that scripts look for.
type Heard = (Option<i32>, String, Vec<String>);

fn ask(host: &Host, socket: &str, user: &str, command: &str) -> Heard {
    let script = format!(". /w/names.sh; export NIX_REMOTE=unix://{socket}; {command}");
    let output = host.run(&["su", user, "-s", "/bin/sh", "-c", &script]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), told, said.lines().filter_map(grave).collect())
}

/// Returns a line that says what is wrong, as text alone; progress is nobody's to rely on.
fn grave(line: &str) -> Option<String> {
    let progress = [
        "finding garbage",
        "removing stale",
        "deleting ",
        "determining live",
        "note: ",
        "copying ",
        "building ",
        "waiting for ",
        "checking ",
        "reading ",
        "this derivation will be built",
        "  /nix/store/",
        "some words",
    ];
    if progress.iter().any(|words| line.starts_with(words)) {
        return None;
    }
    let line = line.trim();
    // why a path is kept is said by drover alone, behind what Nix says
    let reason = ["the root ", "needs ", "it is needed by ", "a process has begun"];
    (!line.is_empty() && !reason.iter().any(|words| line.starts_with(words)))
        .then(|| line.to_owned())
}

#[test]
fn clients_hear_what_they_would_from_nix() {
    let lab = Lab::new("words", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    // Nix's daemon builds by itself
    host.write("/w/machines", builders("ssh-ng", &["b1"], 2)).unwrap();
    host.sh("mkdir -p /w && chmod 1777 /w").unwrap();
    host.sh(SETUP).unwrap();
    host.sh(
        "NIX_CONFIG='builders = @/w/machines' NIX_DAEMON_SOCKET_PATH=/w/drover.sock setsid drover daemon >/w/daemon.log 2>&1 </dev/null & \
         for i in $(seq 1200); do [ -S /w/drover.sock ] && exit 0; sleep 0.1; done; \
         cat /w/daemon.log >&2; exit 1",
    )
    .unwrap();
    let mut differences = String::new();
    for (user, command) in SITUATIONS {
        let [nix, ours] = SOCKETS.map(|socket| ask(host, socket, user, command));
        if nix != ours {
            writeln!(differences, "{user}: {command}\n  Nix:    {nix:?}\n  drover: {ours:?}")
                .unwrap();
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}
