//! The names of Nix's programs give what those programs give, byte for byte, on the same store.

use std::fmt::Write as _;

use drover_testkit::Suite;

use crate::Lab;

/// What is asked of both, in `/w`: exit status and output must be the same.
const COMMANDS: &str = r#"
nix-store --version
nix-hash --version
nix-copy-closure --version
nix-collect-garbage --version
nix-daemon --version
nix-store -q $out
nix-store -qR $out
nix-store -qR --include-outputs $drv
nix-store -qR --use-output $drv
nix-store -q --references $out $drv
nix-store -q --referrers $tool
nix-store -q --referrers-closure $tool
nix-store -q --deriver $out $tool
nix-store -q --valid-derivers $out
nix-store -q --outputs $drv
nix-store -q --hash $out $drv
nix-store -q --size $out $drv
nix-store -q --tree $out
nix-store -q --tree $drv
nix-store -q --graph $out
nix-store -q --graph $drv
nix-store -q --graphml $out
nix-store -q --graphml $drv
nix-store -q --resolve result
nix-store -q --roots $tool | grep -v /proc/ | sort
nix-store -q --binding odd $drv
nix-store -q --binding nothere $drv
nix-store --print-env $drv
nix-store --read-log $out
nix-store -l $drv
nix log $drv
nix-store --dump-db
nix-store --dump-db $out
nix-store --gc --print-roots | grep -v /proc/ | sort
nix-store --gc --print-live | sort
nix-store --gc --print-dead | sort
nix-store --check-validity --print-invalid $out /nix/store/00000000000000000000000000000000-x
nix-store --verify-path $out
nix-store --verify --check-contents
nix-store --dump folder | sha256sum
nix-store --export $(nix-store -qR $out) | sha256sum
nix-store --add folder file
nix-store --add-fixed sha256 file
nix-store --add-fixed --recursive sha1 folder
nix-store --add-fixed md5 file
nix-store --print-fixed-path sha256 $(nix-hash --type sha256 --flat file) file
nix-store --print-fixed-path --recursive sha1 $(nix-hash --type sha1 folder) folder
nix-store -r $out
nix-store -r $drv!dev
nix-store -r $drv!nothere
nix-store -r --dry-run $drv
nix-store --realise --add-root gr $drv; ls -l gr* | sed 's/.* gr/gr/'; rm gr*
nix-store --delete $out
nix-store --load-db < /dev/null
nix-store --dump-db $out > db; nix-store --load-db < db; nix-store --dump-db $out
printf '%s\n\n0\n' $out | nix-store --register-validity; nix-store --dump-db $out
nix-store --generate-binary-cache-key
nix-hash file
nix-hash folder file
nix-hash --flat file
nix-hash --base32 folder
nix-hash --base64 folder
nix-hash --sri --type sha256 folder
nix-hash --type sha512 --truncate folder
nix-hash --to-base16 --type sha256 0000000000000000000000000000000000000000000000000000
nix-hash --to-base32 --type sha1 800d59cfcd3c05e900cb4e214be48f6b886a08df
nix-hash --to-base64 --type sha1 800d59cfcd3c05e900cb4e214be48f6b886a08df
nix-hash --to-sri --type sha1 800d59cfcd3c05e900cb4e214be48f6b886a08df
nix hash path folder
nix hash file --base32 file
nix hash to-base16 sha1-gA1Zz808BekAy04hS+SPa4hqCN8=
nix hash convert --hash-algo sha1 --to nix32 800d59cfcd3c05e900cb4e214be48f6b886a08df
nix hash convert --from sri sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0
nix store info --json
nix store ping --json
nix path-info -rSh $out $drv
nix path-info -rs $out
nix path-info --json -Sh $out
nix path-info --json -r $drv
nix path-info --json --json-format 2 $out
nix path-info --json /nix/store/00000000000000000000000000000000-x
nix path-info ./result
nix show-derivation $drv
nix derivation show $drv
nix derivation show -r $out
nix derivation show $tool
nix key convert-secret-to-public < key
nix store sign -k key -r $out; nix path-info --sigs -r $out
nix store verify --sigs-needed 1 --trusted-public-keys "$(cat key.pub)" -r $out
nix store verify --sigs-needed 2 --trusted-public-keys "$(cat key.pub)" $out
nix store verify --all --no-trust
nix copy --to file:///w/cache $out
nix store gc --dry-run
nix-collect-garbage --dry-run
"#;

const SETUP: &str = r#"
export NIX_REMOTE=local
mkdir -p /w/folder/inner; cd /w
echo hello > file; echo x > folder/x; chmod +x folder/x; ln -s x folder/link; printf 'A\0B' > folder/inner/bin
tool=$(nix-store --add /bin/busybox)
cat > odd.nix <<END
derivation { name = "odd"; system = builtins.currentSystem; builder = "/bin/sh"; outputs = [ "out" "dev" ];
  odd = "it's \"quoted\" \$x\nline\ttab"; empty = ""; list = [ "a b" "c" ]; tool = builtins.storePath $tool;
  args = [ "-c" "echo building \$name; echo \$tool > \$out; echo \$out > \$dev" ]; }
END
drv=$(nix-instantiate --quiet odd.nix --add-root /w/drv-root --indirect); drv=$(readlink $drv)
out=$(nix-store -r $drv 2>/dev/null | grep -v dev); ln -s $out result; nix-store --add-root /w/root --indirect -r $out >/dev/null
nix key generate-secret --key-name k-1 > key; nix key convert-secret-to-public < key > key.pub
echo "drv=$drv out=$out tool=$tool" > names.sh
"#;

#[test]
fn each_command_prints_what_nix_prints() {
    let lab = Lab::new("names", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    host.sh("drover compat install /w/names; pkill -x nix-daemon || :").unwrap();
    host.sh(SETUP).unwrap();
    let ask = |path: &str, command: &str| {
        // variables that aren't exported are no roots of running processes
        let script = format!(
            "cd /w; . ./names.sh; PATH={path}; NIX_REMOTE=local; export NIX_REMOTE; {command}"
        );
        let output = host.run(&["sh", "-c", &script]).unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let mut differences = String::new();
    for command in COMMANDS.trim().lines() {
        let nix = ask("/usr/bin:/bin", command);
        let ours = ask("/w/names:/usr/bin:/bin", command);
        if nix != ours {
            writeln!(differences, "{command}\n  Nix:    {nix:?}\n  drover: {ours:?}").unwrap();
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}
