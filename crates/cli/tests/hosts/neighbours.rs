//! Stock Nix, each release, and drover on the files of one store: one after the other, and both at
//! once.

use drover_testkit::Suite;
use rstest::rstest;

use crate::Lab;

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
! $stock --check-validity $out 2>/dev/null
! [ -e $out ]
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
! $ours --check-validity $out 2>/dev/null
check
"#;

/// Each imports a thousand paths while both add garbage and both collect. They come in ten parts,
/// one for each round of collections. Who imports holds what it has imported until its input ends,
/// which it does once all is valid and no collector runs; from then on links hold it.
const AT_ONCE: &str = r#"
export NIX_REMOTE=local
ours=/w/names/nix-store; stock=/usr/bin/nix-store
mkdir -p /w/load/stock /w/load/ours /nix/var/nix/gcroots/load
for who in stock ours; do
  for i in $(seq 1000); do echo "$who $i" > /w/load/$who/$who-$i; done
  $ours --store 'local?root=/w/scratch' --add /w/load/$who/* > /w/$who.paths
  split -l 100 -d /w/$who.paths /w/$who.part-
  for part in /w/$who.part-*; do
    $ours --store 'local?root=/w/scratch' --export $(cat $part) | head -c -8 > /w/export-${part#/w/}
  done
done
while read path; do ln -s $path /nix/var/nix/gcroots/load/${path#/nix/store/}; done < /w/stock.paths
while read path; do ln -s $path /nix/var/nix/gcroots/load/${path#/nix/store/}; done < /w/ours.paths
wait_for() { until [ -e $1 ]; do sleep 0.02; done; }
feed() {
  for round in $(seq 0 9); do wait_for /w/round-$round; cat /w/export-$1.part-0$round; done
  wait_for /w/enough; head -c 8 /dev/zero
}
feed stock | $stock --import >/dev/null 2>/w/stock.err & one=$!
feed ours | $ours --import >/dev/null 2>/w/ours.err & two=$!
rounds=0
missing() { cat /w/*.paths | xargs $ours --check-validity --print-invalid; }
end=$(($(date +%s) + 400))
while [ $rounds -lt 10 ] || [ -n "$(missing)" ]; do
  touch /w/round-$rounds
  for each in $ours $stock; do
    for i in $(seq 20); do echo "$each $rounds $i" > /w/garbage-$i; done
    $each --add /w/garbage-* >/dev/null
  done
  for each in $ours $stock; do $each --gc >/dev/null 2>/w/gc.err || { cat /w/gc.err; exit 1; } >&2; done
  rounds=$((rounds + 1))
  [ $(date +%s) -lt $end ] || {
    echo "after $rounds rounds not valid:"; missing | tail -5; cat /w/stock.err /w/ours.err
    ps axf; exit 1
  } >&2
done
touch /w/enough
wait $one || { cat /w/stock.err; exit 1; } >&2
wait $two || { cat /w/ours.err; exit 1; } >&2
for each in $ours $stock; do
  $each --gc >/dev/null 2>&1
  lost=$(cat /w/*.paths | xargs $each --check-validity --print-invalid)
  [ -z "$lost" ] || { echo "lost: $lost"; exit 1; } >&2
  [ "$($each --gc --print-dead 2>/dev/null | wc -l)" = 0 ]
  $each --verify --check-contents
done
"#;

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
    host.sh(AT_ONCE).unwrap();
}
