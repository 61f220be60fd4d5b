//! The corpus of derivations: what drover makes of each, and what today's Nix does.

use std::fmt::Write as _;

use drover_testkit::Suite;

use crate::Lab;

/// Derivations that show what a build is given and what is made of what it leaves.
pub(crate) const CORPUS: &str = include_str!("../../../build-local/tests/suite/corpus.nix");

/// Those that go well.
const GOOD: &[&str] = &[
    "plain",
    "folder",
    "refers",
    "chain",
    "outputs",
    "environment",
    "asFile",
    "structured",
    "structuredGraph",
    "structuredShell",
    "graph",
    "graphOfDerivation",
    "structuredGraphOfDerivation",
    "i686",
    "mixedModes",
    "flat",
    "recursive",
    "sha1",
    "impure",
    "floating",
    "floatingFlat",
    "floatingSelf",
    "floatingOutputs",
    "floatingOutputsSelf",
    "floatingSha512",
    "afterFloating",
    "deferred",
    "allowed",
    "requisites",
    "sizes",
    "outputsChecked",
    "discards",
    "floatingDiscards",
    "large",
    "silentSuccess",
    "whoami",
    "forks",
    "emptyFolder",
    "manyFiles",
    "deepFolder",
    "oddNames",
    "compressedReference",
    "splitOutputs",
    "symlinkOut",
    "executableOut",
    "requiresFeature",
    "longLog",
    "linksOwn",
];

/// Those that fail, with the exit status of Nix and of drover. Failures of the build are told from
/// outputs that are rejected, for which there is no status of their own.
const BAD: &[(&str, i32)] = &[
    ("exits", 100),
    ("noProgram", 100),
    ("someOutputs", 100),
    ("signalled", 100),
    ("wrongHash", 102),
    ("wrongHashRecursive", 102),
    ("absent", 1),
    ("notFlat", 1),
    ("cycle", 1),
    ("disallowed", 1),
    ("disallowedDeep", 1),
    ("disallowedSelf", 1),
    ("tooLarge", 1),
    ("closureTooLarge", 1),
    ("fifo", 1),
    ("writable", 1),
    ("fixedRefers", 1),
    ("wrongHashRefers", 102),
    ("wrongHashRefersFlat", 1),
    ("oddGraph", 1),
];

const SETUP: &str = r#"
export NIX_CONFIG='extra-experimental-features = ca-derivations nix-command
sandbox = true
cores = 3
'
export outside='a variable from outside'
stock() { NIX_REMOTE='local?root=/w/stock' "$@"; }
ours() { NIX_REMOTE='local?root=/w/ours' "$@"; }
instantiate() { nix-instantiate --quiet /w/corpus.nix -A $1 --arg tools /opt/graph/bb 2>/dev/null | sed 's/!.*//'; }
"#;

const COMPARE: &str = r#"
drv=$(ours instantiate ATTRIBUTE); [ "$drv" ] && [ "$drv" = "$(stock instantiate ATTRIBUTE)" ]
theirs=0; stock nix-store -r $drv >/w/theirs.out 2>/w/theirs.err || theirs=$?
ours=0; ours drover build $drv --no-link --print-out-paths >/w/ours.out 2>/w/ours.err || ours=$?
if [ $theirs:$ours != STATUS:STATUS ]; then
  echo "Nix $theirs: $(tail -4 /w/theirs.err), drover $ours: $(cat /w/ours.err)"
fi
[ $theirs = 0 ] || exit 0
sort -u /w/theirs.out > /w/theirs.paths; sort -u /w/ours.out > /w/ours.paths
cmp -s /w/theirs.paths /w/ours.paths ||
  { echo "Nix $(cat /w/theirs.paths), drover $(cat /w/ours.paths)"; exit 0; }
for path in $(cat /w/ours.paths); do
  stock nix-store --dump-db $path >/w/theirs.db; ours nix-store --dump-db $path >/w/ours.db
  diff /w/theirs.db /w/ours.db || diff -r /w/stock$path /w/ours$path || true
done
"#;

/// Same paths, hashes, references and derivers; same exit status where it fails.
#[test]
fn the_same_is_built_as_by_nix_of_today() {
    let lab = Lab::new("corpus", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    host.sh("mkdir -p /w").unwrap();
    host.write("/w/corpus.nix", CORPUS).unwrap();
    let mut differences = String::new();
    let good = GOOD.iter().map(|attribute| (*attribute, 0));
    for (attribute, status) in good.chain(BAD.iter().copied()) {
        let compare = COMPARE.replace("ATTRIBUTE", attribute);
        let compare = compare.replace("STATUS", &status.to_string());
        let script = format!("{SETUP}{compare}");
        let said = match host.sh(&script) {
            Ok(said) => said,
            Err(error) => {
                let text = format!("{error:#}");
                text.split_once("--- stdout").map(|(_, said)| said.to_owned()).unwrap_or(text)
            }
        };
        if !said.trim().is_empty() {
            writeln!(differences, "{attribute}: {said}").unwrap();
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
    host.sh("NIX_REMOTE='local?root=/w/ours' nix-store --verify --check-contents").unwrap();
}
