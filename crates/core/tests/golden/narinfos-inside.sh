# What make-narinfos.sh runs inside of the root.
set -eu
export HOME=/tmp NIX_PATH= NIX_REMOTE=local NIX_CONFIG="sandbox = false
build-users-group =
substituters =
experimental-features = nix-command"
cd /tmp
for key in one-1 two-1; do
    nix-store --generate-binary-cache-key $key $key.secret $key.public
    cat $key.public
    echo
done >out/keys
mkdir tree
printf 'hello\n' >tree/hello
source=$(nix-store --add tree)
flat=$(nix-store --add-fixed sha1 tree/hello)
nix-instantiate --eval --read-write-mode --expr '
    let a = builtins.toFile "a.txt" "a"; in builtins.toFile "text" "${a}"' >text
text=$(tr -d '"' <text)
built=$(nix-build --no-out-link --expr 'derivation {
    name = "built+_?=.-1"; system = builtins.currentSystem; builder = "/bin/sh";
    args = [ "-c" "echo $out ${builtins.toFile "input" "input"} > $out" ];
}')
for key in one-1 two-1; do nix store sign -k $key.secret "$built"; done
for compression in xz zstd none bzip2 gzip br; do
    nix copy --to "file:///tmp/$compression?compression=$compression" \
        "$source" "$flat" "$text" "$built"
    for path in "$source" "$flat" "$text" "$built"; do
        hash=${path#/nix/store/}
        name=${hash#*-}
        cp "/tmp/$compression/${hash%%-*}.narinfo" "out/$compression-$name.narinfo"
    done
done
cp xz/nix-cache-info out/nix-cache-info
# A cache that compresses its narinfos and signs what it takes.
nix copy --to "file:///tmp/signing?compression=zstd&secret-key=/tmp/one-1.secret" "$text"
hash=${text#/nix/store/}
cp "/tmp/signing/${hash%%-*}.narinfo" out/signing-text.narinfo
