//! Stock Nix, each release, and drover on the files of one store: one after the other, and both at
//! once.

use std::time::Duration;

use drover_testkit::Suite;
use rstest::rstest;

use crate::{Lab, assert_code};

/// How long it may take until all that is imported has become valid beside collectors, and is checked.
const WHILE: Duration = Duration::from_secs(900);

/// A store that each writes, and that the other checks, uses and collects.
const IN_TURNS: &str = r#"
export NIX_REMOTE=local
ours=/w/names/nix-store; stock=/usr/bin/nix-store
check() { $ours --verify --check-contents && $stock --verify --check-contents; }
out=$($stock -r DRV 2>/dev/null)
check
for q in --requisites --referrers-closure --hash --size --deriver --outputs; do
  for path in $out DRV; do
    [ "$($ours -q $q $path 2>&1)" = "$($stock -q $q $path 2>&1)" ] || { echo "-q $q $path"; exit 1; } >&2
  done
done
[ "$($ours --read-log DRV)" = "$($stock --read-log DRV)" ]
$ours --export $($ours -qR $out) > /w/export
[ "$($ours --gc --print-dead 2>/dev/null | sort)" = "$($stock --gc --print-dead 2>/dev/null | sort)" ]
$ours --gc >/dev/null
! $stock --check-validity $out 2>/dev/null || exit 1
! [ -e $out ] || exit 1
check
# and the other way round
$ours --import < /w/export >/dev/null
[ "$($stock --export $($stock -qR $out) | sha256sum)" = "$(sha256sum < /w/export)" ]
$ours --optimise; $stock --optimise
check
$ours --add-root /w/root --indirect -r $out >/dev/null
$stock --gc >/dev/null 2>&1
$stock --check-validity $out
rm /w/root
$stock --gc >/dev/null 2>&1
! $ours --check-validity $out 2>/dev/null || exit 1
check
"#;

/// Each of IMPORTERS imports a thousand paths, in ten parts, while both add garbage and COLLECTORS
/// collect once for each part. Who imports holds what it has imported until its input ends, which
/// it does once all is valid and no collector runs; from then on links hold it.
const AT_ONCE: &str = r#"
export NIX_REMOTE=local
ours=/w/names/nix-store; stock=/usr/bin/nix-store
rm -rf /w/load /w/export-* /w/*.paths /w/*.part-* /w/round-* /w/enough
mkdir -p /nix/var/nix/gcroots/load
for who in IMPORTERS; do
  mkdir -p /w/load/$who
  for i in $(seq 1000); do echo "$who $i beside COLLECTORS" > /w/load/$who/$who-$i; done
  $ours --store 'local?root=/w/scratch' --add /w/load/$who/* > /w/$who.paths
  split -l 100 -d /w/$who.paths /w/$who.part-
  for part in /w/$who.part-*; do
    $ours --store 'local?root=/w/scratch' --export $(cat $part) | head -c -8 > /w/export-${part#/w/}
  done
  while read path; do ln -s $path /nix/var/nix/gcroots/load/${path#/nix/store/}; done < /w/$who.paths
done
wait_for() { until [ -e $1 ]; do sleep 0.02; done; }
feed() {
  for round in $(seq 0 9); do wait_for /w/round-$round; cat /w/export-$1.part-0$round; done
  wait_for /w/enough; head -c 8 /dev/zero
}
program() { eval echo \$$1; }
importing=
for who in IMPORTERS; do
  feed $who | $(program $who) --import >/dev/null 2>/w/$who.err & importing="$importing $!"
done
rounds=0
missing() { cat /w/*.paths | xargs $ours --check-validity --print-invalid; }
end=$(($(date +%s) + 600))
while [ $rounds -lt 10 ] || [ -n "$(missing)" ]; do
  touch /w/round-$rounds
  for each in $ours $stock; do
    for i in $(seq 20); do echo "$each $rounds $i" > /w/garbage-$i; done
    $each --add /w/garbage-* >/dev/null
  done
  for who in COLLECTORS; do
    $(program $who) --gc >/dev/null 2>/w/gc.err || { cat /w/gc.err; exit 1; } >&2
  done
  rounds=$((rounds + 1))
  kill -0 $importing && [ $(date +%s) -lt $end ] || {
    echo "after $rounds rounds not valid:"; missing | tail -5; cat /w/*.err; ps axf -o pid,stat,comm
    exit 1
  } >&2
done
touch /w/enough
for each in $importing; do wait $each || { cat /w/*.err; exit 1; } >&2; done
for each in $ours $stock; do
  $each --gc >/dev/null 2>&1
  lost=$(cat /w/*.paths | xargs $each --check-validity --print-invalid)
  [ -z "$lost" ] || { echo "lost: $lost"; exit 1; } >&2
  [ "$($each --gc --print-dead 2>/dev/null | wc -l)" = 0 ]
  $each --verify --check-contents
done
"#;

/// Who imports and who collects at once.
///
/// Not Nix 2.8 with itself: before 2.20, who adds a root while a collector has taken its lock and
/// not made its socket yet takes the root for acknowledged, and every later one as well, so that
/// Nix's own collector takes away what Nix is importing. (Drover's socket is never missing.)
fn at_once(suite: Suite) -> &'static [(&'static str, &'static str)] {
    match suite {
        Suite::Bookworm => &[("stock ours", "ours"), ("ours", "ours stock")],
        _ => &[("stock ours", "ours stock")],
    }
}

#[rstest]
#[case::forky(Suite::Forky)]
#[case::trixie(Suite::Trixie)]
#[case::bookworm(Suite::Bookworm)]
fn each_release_shares_a_store(#[case] suite: Suite) {
    let lab = Lab::new("neighbours", suite, suite);
    let host = &lab.b1;
    host.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
    host.sh("drover compat install /w/names; pkill -x nix-daemon || :").unwrap();
    let graph = [("shape", "layers"), ("n", "2"), ("d", "2"), ("k", "1")];
    let drv = host.instantiate(&graph).unwrap();
    host.sh(&IN_TURNS.replace("DRV", &drv)).unwrap();
    for (importers, collectors) in at_once(suite) {
        let script = AT_ONCE.replace("IMPORTERS", importers).replace("COLLECTORS", collectors);
        assert_code(&host.run_within(WHILE, &["sh", "-euc", &script]).unwrap(), 0);
    }
}
