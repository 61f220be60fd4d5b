# First process of a booted machine: builds its file system and control groups, enters them, becomes systemd.
#
# Environment: BOOT_DIR (files of this machine), BOOT_ROOT (a Debian root with systemd), BOOT_GROUP (name of
# its control group, which its owner removes).
set -eu

# The second version's hierarchy belongs to all of the machine: what is made in it goes below one group.
mkdir "$BOOT_DIR/groups"
mount -t cgroup2 none "$BOOT_DIR/groups"
mkdir "$BOOT_DIR/groups/$BOOT_GROUP"
echo 0 >"$BOOT_DIR/groups/$BOOT_GROUP/cgroup.procs"
umount "$BOOT_DIR/groups"
exec unshare --cgroup sh -euc '
d=$BOOT_DIR
mkdir "$d/top"
mount -t tmpfs -o mode=0755 machine "$d/top"
mkdir "$d/top/upper" "$d/top/work" "$d/top/root"
r=$d/top/root
mount -t overlay overlay -o "lowerdir=$BOOT_ROOT,upperdir=$d/top/upper,workdir=$d/top/work" "$r"
mkdir -p "$r/nix" "$r/.outside" "$d/nix"
mount --bind "$d/nix" "$r/nix"
cp -a "$d/seed/." "$r/"
# What a real machine does while it boots would be done to the kernel of this one: settings, modules, devices.
rm -rf "$r"/usr/lib/systemd/system/sysinit.target.wants "$r"/etc/systemd/system/*.wants \
  "$r"/usr/lib/systemd/system/multi-user.target.wants "$r"/usr/lib/systemd/system/sockets.target.wants \
  "$r"/usr/lib/systemd/system/local-fs.target.wants "$r"/usr/lib/systemd/system/timers.target.wants

mount -t proc proc "$r/proc"
mount -t sysfs -o ro sysfs "$r/sys"
mount -t cgroup2 none "$r/sys/fs/cgroup"
mount -t tmpfs -o mode=1777 tmp "$r/tmp"
mount -t tmpfs -o mode=0755 run "$r/run"
mount -t tmpfs -o mode=0755 dev "$r/dev"
# Nodes of its own: systemd changes who may use the console, which must be no node of this machine. There is
# none.
for node in null,3 zero,5 full,7 random,8 urandom,9; do
  mknod -m 666 "$r/dev/${node%,*}" c 1 "${node#*,}"
done
mknod -m 666 "$r/dev/tty" c 5 0
mkdir "$r/dev/pts" "$r/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$r/dev/pts"
mount -t tmpfs -o mode=1777 shm "$r/dev/shm"
ln -s pts/ptmx "$r/dev/ptmx"
ln -s /proc/self/fd "$r/dev/fd"

hostname booted
ip link set lo up
cd "$r"
pivot_root . .outside
exec env -i container=testkit PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /bin/sh -c "
  umount -l /.outside
  rmdir /.outside
  cd /
  exec /usr/lib/systemd/systemd --unit=multi-user.target --log-target=journal --show-status=no
"
'
