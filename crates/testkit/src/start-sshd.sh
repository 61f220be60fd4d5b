#!/bin/sh
# Starts sshd and waits until it listens.
rm -f /run/sshd.pid
setsid /usr/sbin/sshd -D -e >>/var/log/sshd.log 2>&1 </dev/null 3<&- &
while ! [ -s /run/sshd.pid ]; do
  kill -0 $! 2>/dev/null || { cat /var/log/sshd.log >&2; exit 1; }
  sleep 0.01
done
