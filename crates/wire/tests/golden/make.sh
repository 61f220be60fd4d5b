#!/bin/sh
# Makes the recorded conversations anew. Needs root; changes nothing outside of this folder.
# Usage: make.sh VERSION ROOT ...      e.g. make.sh 2.8 / 2.26 /srv/trixie 2.34 /srv/forky
# ROOT is the root of a Debian system with `nix-bin` of that version.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
while [ $# -gt 1 ]; do
    version=$1 root=$2
    shift 2
    rm -rf "${here:?}/$version"
    mkdir "$here/$version"
    # Everything is done in a mount namespace, over a copy that is forgotten: the system's own files
    # stay as they are. `pivot_root` and not `chroot`, as Nix goes back to its namespace's root
    # before it starts `ssh`.
    unshare -m --propagation private sh -eu -c '
        here=$1 version=$2 root=${3%/}
        over=$(mktemp -d)
        mount -t tmpfs tmpfs "$over"
        new=$over/root
        mkdir "$over/up" "$over/work" "$new"
        mount -t overlay -o "lowerdir=${root:-/},upperdir=$over/up,workdir=$over/work" overlay "$new"
        mkdir -p "$new/nix" "$new/tmp" "$new/proc" "$new/dev" "$new/run/old"
        mount -t tmpfs tmpfs "$new/nix"
        mount -t tmpfs tmpfs "$new/tmp"
        mount --rbind /proc "$new/proc"
        mount --rbind /dev "$new/dev"
        mkdir "$new/tmp/out"
        mount --bind "$here/$version" "$new/tmp/out"
        cp "$here/record.sh" "$new/tmp/record.sh"
        cd "$new"
        pivot_root . run/old
        exec chroot . /bin/sh /tmp/record.sh /tmp/out </dev/null
    ' sh "$here" "$version" "$root"
    rm -f "$here/$version/log" # what the clients printed, of use while the script is changed
done
