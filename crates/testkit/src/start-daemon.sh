#!/bin/sh
# Starts the stock nix-daemon and waits until it listens.
socket=/nix/var/nix/daemon-socket/socket
rm -f $socket
setsid nix-daemon >>/var/log/nix-daemon.log 2>&1 </dev/null 3<&- &
# A socket that is there may not be listened at yet; older releases bind it from within its folder, and drover
# under another name, which the kernel goes on to tell.
listens() {
  [ -S $socket ] && grep -q -e " 00010000 .* $socket\$" -e " 00010000 .* \./socket\$" \
    -e " 00010000 .* ${socket%/*}/\.s[0-9]*\$" /proc/net/unix
}
while ! listens; do
  kill -0 $! 2>/dev/null || { cat /var/log/nix-daemon.log >&2; exit 1; }
  sleep 0.01
done
