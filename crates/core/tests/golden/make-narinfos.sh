#!/bin/sh
# Makes the narinfos of narinfo/ anew, with the Nix 2.34 of a Debian root. Needs root; changes
# nothing outside of this folder. Usage: make-narinfos.sh ROOT
#
#   COMPRESSION-NAME.narinfo   a text with references, a source, and what a derivation built that
#                              refers to itself, copied with each compression; signed by two keys
#   keys                       the public keys
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=${1%/}
rm -rf "${here:?}/narinfo"
mkdir "$here/narinfo"
unshare -m --propagation private sh -eu -c '
    here=$1 root=$2
    over=$(mktemp -d)
    mount -t tmpfs tmpfs "$over"
    new=$over/root
    mkdir "$over/up" "$over/work" "$new"
    mount -t overlay -o "lowerdir=$root,upperdir=$over/up,workdir=$over/work" overlay "$new"
    mkdir -p "$new/nix" "$new/tmp" "$new/proc" "$new/dev"
    mount -t tmpfs tmpfs "$new/nix"
    mount -t tmpfs tmpfs "$new/tmp"
    mount --rbind /proc "$new/proc"
    mount --rbind /dev "$new/dev"
    mkdir "$new/tmp/out"
    mount --bind "$here/narinfo" "$new/tmp/out"
    cp "$here/narinfos-inside.sh" "$new/tmp/inside.sh"
    exec chroot "$new" /bin/sh /tmp/inside.sh </dev/null
' sh "$here" "$root"
