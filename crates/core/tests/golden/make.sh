#!/bin/sh
# Makes the goldens of this directory with real Nix, 2.8 at least (names.txt has its
# own script):
#
#   hashes.txt   ALGORITHM BASE16 BASE32 BASE64 SRI, of the files below
#   paths.txt    STORE-DIRECTORY CONTENT-ADDRESS PATH [REFERENCE…], of what Nix added to stores
#
# Needs python3 with sqlite3 to read Nix's database. Builds one derivation with /bin/sh and without
# sandbox; all stores are in /tmp/drover-golden-core, which it removes.
set -eu

cd "$(dirname "$0")"
here=$PWD
root=/tmp/drover-golden-core
trap 'chmod -R u+w "$root"; rm -rf "$root"' EXIT
mkdir "$root"
cd "$root"
export HOME="$root" NIX_PATH= NIX_REMOTE=local NIX_CONFIG="sandbox = false
build-users-group =
substituters =
experimental-features = nix-command ca-derivations"

printf '' >empty
printf abc >abc
seq 1 5000 >numbers
mkdir tree
printf 'hello\n' >tree/hello
ln -s hello tree/link
mkdir tree/sub
printf '#!/bin/sh\n' >tree/sub/script
chmod +x tree/sub/script

for algorithm in md5 sha1 sha256 sha512; do
    for file in empty abc numbers; do
        nix_hash() { nix hash file --type "$algorithm" "--$1" "$file"; }
        echo "$algorithm $(nix_hash base16) $(nix_hash base32) $(nix_hash base64) $(nix_hash sri)"
    done
done >"$here/hashes.txt"

: >"$here/paths.txt"
for store in store other/gnu; do
    export NIX_STORE_DIR="$root/$store" NIX_STATE_DIR="$root/$store.var" NIX_LOG_DIR="$root/log"
    mkdir -p "$NIX_STORE_DIR"
    for algorithm in md5 sha1 sha256 sha512; do
        nix-store --add-fixed "$algorithm" abc
        nix-store --add-fixed --recursive "$algorithm" tree
    done >/dev/null
    nix-store --add abc tree >/dev/null
    nix-instantiate --eval --read-write-mode --expr '
        let a = builtins.toFile "a.txt" "a"; b = builtins.toFile "b.txt" "b ${a}"; in
        builtins.toFile "c+_?=.-1" "${b} ${a}"' >/dev/null
    self=$(nix-build --no-out-link --expr 'derivation {
        name = "self"; system = builtins.currentSystem; builder = "/bin/sh";
        input = builtins.toFile "input" "input";
        args = [ "-c" "echo $out $input > $out" ];
    }' 2>/dev/null)
    nix store make-content-addressed "$self" >/dev/null
    python3 -c '
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
for id, path, ca in sorted(db.execute("select id, path, ca from ValidPaths where ca is not null"),
                           key=lambda row: row[1]):
    refs = db.execute("select path from Refs join ValidPaths v on v.id = reference "
                      "where referrer = ? order by path", (id,))
    print(sys.argv[2], ca, path, *(ref for ref, in refs))
' "$NIX_STATE_DIR/db/db.sqlite" "$NIX_STORE_DIR" >>"$here/paths.txt"
done
