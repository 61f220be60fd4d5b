# First process of a host: builds its file system, enters it, becomes its init.
#
# Environment: HOST_DIR (files of this host), HOST_ROOT (the shared Debian root), HOST_NAME,
# HOST_ADDRESS. Standard input is a pipe from the owner: a first line says that the network is
# plugged in, and its end means that the owner is gone.
set -eu

# /proc is still the outer one here, so this is the process id that the owner knows.
read -r pid _ </proc/self/stat
echo "pid $pid"
read -r _

d=$HOST_DIR
# The upper layer is in memory: it goes with the namespace, and the disk may itself be an overlay.
mount -t tmpfs -o mode=0755 host "$d/top"
mkdir "$d/top/upper" "$d/top/work" "$d/top/root"
r=$d/top/root
mount -t overlay overlay -o "lowerdir=$HOST_ROOT,upperdir=$d/top/upper,workdir=$d/top/work" "$r"
mkdir -p "$r/nix" "$r/.outside"
mount --bind "$d/nix" "$r/nix"
cp -a "$d/seed/." "$r/"

mount -t proc proc "$r/proc"
mount -t sysfs sysfs "$r/sys"
mount -t tmpfs -o mode=1777 tmp "$r/tmp"
mount -t tmpfs -o mode=0755 run "$r/run"
mount -t tmpfs -o mode=0755 dev "$r/dev"
for node in null zero full random urandom tty; do
  : >"$r/dev/$node"
  mount --bind "/dev/$node" "$r/dev/$node"
done
mkdir "$r/run/sshd" "$r/dev/pts" "$r/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$r/dev/pts"
mount -t tmpfs -o mode=1777 shm "$r/dev/shm"
ln -s pts/ptmx "$r/dev/ptmx"
ln -s /proc/self/fd "$r/dev/fd"
ln -s /proc/self/fd/0 "$r/dev/stdin"
ln -s /proc/self/fd/1 "$r/dev/stdout"
ln -s /proc/self/fd/2 "$r/dev/stderr"

hostname "$HOST_NAME"
ip link set lo up
ip addr add "$HOST_ADDRESS/24" dev eth0
ip link set eth0 up

# Not a mere chroot: programs inside may want user namespaces, which a chroot forbids.
cd "$r"
pivot_root . .outside
exec env -i HOME=/root USER=root LANG=C.UTF-8 TERM=dumb \
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  chroot . /bin/sh -c '
    umount -l /.outside
    rmdir /.outside
    cd /
    trap "exit 0" TERM
    exec 3<&0 </dev/null
    (while read -r _ <&3; do :; done; kill -TERM 1) &
    exec 3<&-
    /usr/local/sbin/start-sshd
    /usr/local/sbin/start-daemon
    echo ready
    while :; do wait; done
  '
