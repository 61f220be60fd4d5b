#!/bin/sh
# Records conversations between stock Nix and stock Nix: one folder each with the client's bytes and
# the server's. Called by make.sh as root of a namespace where /nix and /tmp are empty.
# Usage: record.sh OUT
set -eu
out=$1
work=/tmp/record
mkdir -p "$work" "$out" /nix/store /nix/var/nix/db /etc/nix
export HOME=$work NIX_CONF_DIR=$work
unset NIX_REMOTE
cat > "$work/nix.conf" <<CONF
experimental-features = nix-command
sandbox = false
substituters =
build-users-group =
cores = 1
max-jobs = 2
CONF

# The server: its own store, both directions kept.
cat > "$work/shim" <<'SHIM'
#!/bin/sh
export HOME=/tmp/record/server NIX_CONF_DIR=/tmp/record
mkdir -p $HOME
n=0
while ! mkdir "/tmp/record/now/$n" 2>/dev/null; do n=$((n + 1)); done
to=/tmp/record/now/$n
case ${0##*/} in
    worker) set -- nix-daemon --stdio ;;
    serve) set -- nix-store --serve --write ;;
esac
export NIX_REMOTE="$REMOTE"
tee "$to/client" | "$@" 2>"$to/stderr" | tee "$to/server"
SHIM
chmod +x "$work/shim"
ln -sf shim "$work/worker"
ln -sf shim "$work/serve"

# The builders run without a sandbox, so the other store needs the same directory: it has its own
# state and its own physical directory by a bind mount.
mkdir -p "$work/other/nix/store" "$work/other/nix/var"
cat > "$work/in-other" <<'IN'
#!/bin/sh
exec unshare -m sh -c 'busybox mount -o bind /tmp/record/other/nix /nix && exec "$@"' sh "$@"
IN
chmod +x "$work/in-other"
sed -i 's|"\$@" 2>|/tmp/record/in-other "$@" 2>|' "$work/shim"
export REMOTE=local

cat > "$work/g.nix" <<'NIX'
let
  sh = name: attrs: script: derivation ({
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ];
    PATH = "/bin:/usr/bin";
  } // attrs);
in rec {
  good = sh "good" { outputs = [ "out" "dev" ]; } "echo line 1; echo a line; mkdir $out $dev; echo hello > $out/file; ln -s $out $dev/link";
  fresh-worker = sh "fresh-worker" { outputs = [ "out" "dev" ]; inherit good; } "echo line; echo $good > $out; echo $out > $dev";
  fresh-serve = sh "fresh-serve" { outputs = [ "out" "dev" ]; inherit good; } "echo line; echo $good > $out; echo $out > $dev";
  user = sh "user" { inherit good; } "echo $good > $out";
  fails = sh "fails" { } "echo going; echo wrong >&2; exit 3";
  mismatch = sh "mismatch" { outputHash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="; outputHashAlgo = null; outputHashMode = "flat"; } "echo other > $out";
  sleeper = sh "sleeper" { } "echo begin; sleep 100";
  noout = sh "noout" { } "exit 0";
  feature = sh "feature" { requiredSystemFeatures = [ "rocket" ]; } "exit 0";
  full = sh "full" { } "echo x > /dev/full";
}
NIX

# keep NAME: what was said goes to OUT/NAME, OUT/NAME.2, …
keep() {
    i=
    for from in "$work"/now/*; do
        [ -e "$from/client" ] || continue
        mkdir -p "$out/$1$i"
        cp "$from/client" "$from/server" "$out/$1$i/"
        [ -s "$from/stderr" ] && cp "$from/stderr" "$out/$1$i/stderr"
        i=.$((${i#.} + 2))
    done
    rm -rf "$work/now"
    mkdir "$work/now"
}
# say NAME COMMAND…: runs it, whatever comes of it, and keeps what was said
say() {
    name=$1
    shift
    echo "--- $name: $*" >> "$out/log"
    timeout 60 "$@" >> "$out/log" 2>&1 || true
    keep "$name"
}
# hook NAME ATTRIBUTE OPTIONS…: builds through the stock build hook
hook() {
    name=$1 attribute=$2
    shift 2
    say "$name" nix-build "$work/g.nix" -A "$attribute" --no-out-link -j0 \
        --builders "$protocol://localhost?remote-program=$work/$program - - 1 1 rocket" "$@"
}
rm -rf "$work/now"
mkdir -p "$work/now"

nix-build "$work/g.nix" -A user --no-out-link > "$work/user" 2>> "$out/log"
nix-store --generate-binary-cache-key test-1 "$work/key" "$work/key.pub"
user=$(cat "$work/user")
good=$(nix-build "$work/g.nix" -A good --no-out-link 2>> "$out/log")
for pair in ssh-ng:worker ssh:serve; do
    protocol=${pair%:*} program=${pair#*:}
    there="$protocol://localhost?remote-program=$work/$program"
    rm -rf "$work"/other/nix/*
    mkdir -p "$work/other/nix/store" "$work/other/nix/var"
    say "$program-copy-to" nix copy --no-check-sigs --to "$there" "$user"
    say "$program-path-info" nix path-info --store "$there" -r "$user"
    say "$program-path-info-absent" nix path-info --store "$there" "$(nix-instantiate "$work/g.nix" -A fails 2>/dev/null)"
    say "$program-copy-from" nix copy --no-check-sigs --from "$there" --to "$work/third" "$user"
    if [ $program = worker ]; then
        say "$program-referrers" nix-store --store "$there" -q --referrers "$good"
        say "$program-derivers" nix-store --store "$there" -q --deriver "$good"
        say "$program-sign" nix store sign --store "$there" -k "$work/key" "$good"
        nix copy --no-check-sigs --derivation --to "$there" "$(nix-instantiate "$work/g.nix" -A fails)" >> "$out/log" 2>&1 || true
        rm -rf "$work"/now/*
        say "$program-realise-fails" nix-store --store "$there" --realise "$(nix-instantiate "$work/g.nix" -A fails)"
        say "$program-dry-run" nix-store --store "$there" --realise --dry-run "$(nix-instantiate "$work/g.nix" -A fails)"
    fi
    hook "$program-hook-good" "fresh-$program"
    hook "$program-hook-fails" fails
    hook "$program-hook-noout" noout
    hook "$program-hook-mismatch" mismatch
    hook "$program-hook-full" full
    hook "$program-hook-feature" feature
    echo "max-silent-time = 1" >> "$work/nix.conf"
    hook "$program-hook-silent" sleeper --max-silent-time 1
    sed -i '$d' "$work/nix.conf"
    echo "timeout = 1" >> "$work/nix.conf"
    hook "$program-hook-timeout" sleeper --timeout 1
    sed -i '$d' "$work/nix.conf"
done
