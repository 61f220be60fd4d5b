# Makes a network with this machine and another one, and runs what is given there.
# Everything is in namespaces, and goes with this process.
set -eu
unshare --net sleep 1000 &
far=$!
serving=
trap 'kill "$far" $serving' EXIT
while [ "$(readlink "/proc/$far/ns/net")" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
ip link set lo up
ip link add near type veth peer name far netns "$far"
ip addr add 10.9.0.1/24 dev near
ip addr add fd09::1/64 dev near nodad
ip link set near up
nsenter -t "$far" --net sh -euc '
  ip addr add 10.9.0.2/24 dev far
  ip addr add fd09::2/64 dev far nodad
  ip link set far up
'
if [ "${ROUTE:-}" = usual ]; then
  ip route add default via 10.9.0.2
  ip -6 route add default via fd09::2
fi
printf 'nameserver 127.0.0.53\n' >"$FILES/resolv.conf"
printf '127.0.0.1 localhost\n10.9.0.2 far\n' >"$FILES/hosts"
for file in resolv.conf hosts; do
  mount --bind "$FILES/$file" "$(readlink -f "/etc/$file")"
done
if [ "${DEVICE:-}" = for-all ]; then
  mount -t tmpfs tmpfs /dev/net
  mknod -m 666 /dev/net/tun c 10 200
fi
echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start
SERVING=$FILES nsenter -t "$far" --net "$SUITE" --exact networks::the_far_machine >/dev/null &
serving=$!
while [ ! -e "$FILES/serving" ]; do sleep 0.01; done
FAR=$far "$@"
