#!/bin/sh
# Makes the archives in this directory with the `nix-store` that is installed.
#
#     sh crates/nar/tests/golden/make.sh
#
# `nix-store --version` when they were last made: 2.8.0.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export LC_ALL=C

: >empty
printf 'hello\n' >file
printf '12345678' >aligned
printf '#!/bin/sh\n' >program
chmod +x program
ln -s /nix/store/somewhere/else link
mkdir empty-directory

mkdir -p tree/a/b/c tree/empty "tree/with space"
printf 'b' >tree/B
printf 'a' >tree/a.txt
: >tree/a/b/c/nothing
printf 'dot' >tree/.hidden
printf 'below' >"tree/with space/x y"
printf '#!/bin/sh\n' >tree/a/run
chmod 0700 tree/a/run
ln -s ../B tree/a/link
printf 'umlaut' >"tree/$(printf '\303\244')"
printf 'latin1' >"tree/$(printf '\344')"
printf 'newline' >"tree/$(printf 'new\nline')"
: >"tree/$(printf '%0255d' 0)"
ln -s "$(printf '%04095d' 0)" tree/far

# Depth 64, the deepest that is allowed: 63 directories and a file.
mkdir deep
(
    cd deep
    for _ in $(seq 62); do mkdir d; cd d; done
    printf 'bottom' >f
)

for sample in empty file aligned program link empty-directory tree deep; do
    nix-store --dump "$sample" >"$here/$sample.nar"
done
