#!/bin/sh
# Makes resolved/ from resolve.nix with Nix 2.8: the derivations as they are evaluated and as Nix
# resolves them when it builds them, and what became of them:
#
#   resolved.txt       DERIVATION RESOLVED-DERIVATION
#   outputs.txt        DERIVATION OUTPUT PATH
#   realisations.txt   HASH!OUTPUT PATH
#
# Builds with /bin/sh and without sandbox, in a store in /tmp/drover-golden, which it removes.
# Needs python3 with sqlite3, because `nix realisation info` shows no output but the first.
set -eu

cd "$(dirname "$0")"
nix --version | grep -qF " 2.8." || { echo "nix is not 2.8 but $(nix --version)" >&2; exit 1; }
root=/tmp/drover-golden
trap 'chmod -R u+w "$root"; rm -rf "$root"' EXIT
mkdir "$root"
export HOME="$root" NIX_PATH= NIX_REMOTE=local
export NIX_STORE_DIR="$root/store" NIX_STATE_DIR="$root/var" NIX_LOG_DIR="$root/log"
export NIX_CONFIG="sandbox = false
build-users-group =
substituters =
experimental-features = nix-command ca-derivations"

paths=$(nix-instantiate resolve.nix 2>/dev/null | sed 's/!.*//')
# shellcheck disable=SC2086
nix-store --realise $paths >/dev/null 2>"$root/messages"

rm -rf resolved
mkdir resolved
install -m 644 "$NIX_STORE_DIR"/*.drv resolved/
sed -n "s|^resolved derivation: '.*/\(.*\)' -> '.*/\(.*\)'...|\1 \2|p" "$root/messages" |
    sort >resolved/resolved.txt
for drv in $paths; do
    for output in out dev; do
        path=$(nix-store --realise "$drv!$output" 2>/dev/null) || continue
        echo "${drv##*/} $output ${path##*/}"
    done
done >resolved/outputs.txt
python3 -c '
import sqlite3, sys
paths = "select drvPath, outputName, path from Realisations join ValidPaths v on v.id = outputPath"
for row in sorted(sqlite3.connect(sys.argv[1]).execute(paths)):
    print("{}!{} {}".format(row[0], row[1], row[2].split("/")[-1]))
' "$NIX_STATE_DIR/db/db.sqlite" >resolved/realisations.txt
