#!/bin/sh
# Makes names.txt with real Nix, 2.34 at least because older Nix takes `.` and `..`: lines of
# `ok` or `bad` and a name in JSON, as `builtins.toFile` takes or refuses it as a name.
set -eu

cd "$(dirname "$0")"
here=$PWD
root=$(mktemp -d)
trap 'chmod -R u+w "$root"; rm -rf "$root"' EXIT
export HOME="$root" NIX_PATH= NIX_REMOTE="local?root=$root"

n211=$(printf '%0211d' 0)
for name in a .a ... ..a a..b a-.-b 1.0 -a - = '?' '+_?=.-' "$n211" "${n211}0" '' . .. .-a ..-a \
    a/b 'a b' 'a!b' a~b 'a*b' 'a\u00e9' 'a@b' 'a,b' 'a\u0000b' 'a\nb' a.drv.x; do
    if nix-instantiate --eval --expr "builtins.toFile (builtins.fromJSON ''\"$name\"'') \"\"" \
        >/dev/null 2>&1
    then printf 'ok "%s"\n' "$name"
    else printf 'bad "%s"\n' "$name"
    fi
done >"$here/names.txt"
