# What a fresh root still needs; runs inside of it. No single quotes here: it travels in a pair.
groupadd -g 30000 nixbld
for i in 1 2 3 4 5 6 7 8; do
  useradd -u $((30000 + i)) -g nixbld -G nixbld -d /var/empty -s /usr/sbin/nologin nixbld$i
done
# Not the locked password that useradd gives: sshd lets nobody in with that.
useradd -m -u 1000 -s /bin/bash -p "*" alice
rm -f /etc/ssh/ssh_host_* /etc/motd
mkdir -p /nix /opt/graph/bb/bin
cp /bin/busybox /opt/graph/bb/bin/busybox
for applet in sh basename cat chmod cp cut date dd env expr false grep head ln ls mkdir mv printf rm \
  sed seq sleep sort tail test touch tr true uname wc; do
  ln -s busybox /opt/graph/bb/bin/$applet
done
