#!/bin/sh
# Makes the goldens of this directory from corpus.nix with real Nix, one version after the other:
#
#   NIX=2.8 ./make.sh      # the .drv files of every Nix, and show-2.8.json
#   NIX=2.26 ./make.sh     # checks that this Nix makes the same files, and show-2.26.json
#   NIX=2.34 ./make.sh     # the same, the derivations that 2.8 doesn't know, and show-2.34*.json
#
# `$NIX` only names the files; the `nix` and `nix-instantiate` on PATH must be of that version
# (checked). Needs no network, builds nothing, writes only here and in a temporary store.
# other/ holds the same derivations of a store in /other/store, made by 2.8.
set -eu

cd "$(dirname "$0")"
nix --version | grep -qF " $NIX." || { echo "nix is not $NIX but $(nix --version)" >&2; exit 1; }
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
export HOME="$work" NIX_PATH=

features="nix-command ca-derivations impure-derivations"
recent=false
show="derivation show"
case "$NIX" in
2.8) show=show-derivation ;;
*) recent=true features="$features dynamic-derivations git-hashing" ;;
esac

# instantiate ROOT EXPRESSION: prints the paths of the derivations.
instantiate() {
    nix-instantiate --option experimental-features "$features" --store "local?root=$1" \
        --expr "$2" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
}

# keep FROM TO: copies derivations; one that is there already must be the same.
keep() {
    for drv in "$1"/*.drv; do
        if [ -e "$2/$(basename "$drv")" ]; then
            cmp "$drv" "$2/$(basename "$drv")"
        else
            install -m 644 "$drv" "$2/"
        fi
    done
}

instantiate "$work/main" "import ./corpus.nix { recent = $recent; }" >"$work/paths"
keep "$work/main/nix/store" .

# Strings that are not UTF-8 have no JSON form: every Nix but 2.8 fails.
sed -e "s/!.*//" "$work/paths" | grep -v -e "-bytes.drv" -e "-dynamic.drv" >"$work/shown"
nix_show() {
    # shellcheck disable=SC2046,SC2086
    nix --option experimental-features "$features" --store "local?root=$work/main" \
        $show "$@" $(cat "$work/shown")
}
nix_show >"show-$NIX.json"

case "$NIX" in
2.8)
    mkdir -p other
    NIX_STORE_DIR=/other/store NIX_STATE_DIR="$work/state" NIX_LOG_DIR="$work/log.d" \
        instantiate "$work/other" "import ./corpus.nix { recent = false; }" >/dev/null
    keep "$work/other/nix/store" other
    ;;
2.34) nix_show --pretty >"show-$NIX-pretty.json" ;;
esac
