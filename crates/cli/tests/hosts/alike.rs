//! What users and scripts see of drover and of stock Nix, side by side: words, exit statuses, and what
//! stock Nix makes of a builder of drover's.

use drover_testkit::Suite;
use rstest::rstest;

use crate::floating::{DELETE, instantiate};
use crate::own::{assert_sound, become_the_daemon};
use crate::{Lab, builders};

/// `real` is stock Nix's program, what has no prefix is drover.
pub(crate) const NAMES: &str = r#"
mkdir -p /w; drover compat install /w/names >/dev/null; export PATH=/w/names:$PATH NIX_REMOTE=local
real() { program=$1; shift; /usr/bin/$program "$@"; }
fail() { echo "$*" >&2; exit 1; }
cd /w
"#;

/// Outputs that can't be taken end `nix-build` with 1, and so do builds that had the network and those whose
/// derivation can't be read; builds that failed or that nothing suits with 100, and what closes its log and goes
/// on is one of these. `drover build` ends as they do.
#[test]
fn failures_have_the_statuses_of_nix() {
    let lab = Lab::new("statuses", Suite::Forky, Suite::Forky);
    let script = r#"
        cat >failing.nix <<'N'
        let make = name: script: more: derivation ({ inherit name; system = builtins.currentSystem; builder = "/bin/sh";
              PATH = "/bin"; outputs = [ "out" "lib" ]; args = [ "-c" script ]; } // more);
            fixed = { outputs = [ "out" ]; outputHashMode = "flat"; outputHashAlgo = "sha256";
                      outputHash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="; };
            dep = builtins.toFile "dep" "x"; in {
          fails = make "fails" "exit 3" { };
          closes = make "closes" "exec >/dev/null 2>&1; sleep 1000" { };
          missing = make "missing" "echo > $out" { };
          cycle = make "cycle" "echo $lib > $out; echo $out > $lib" { };
          refused = make "refused" "echo ${dep} > $out; echo > $lib" { allowedReferences = [ ]; };
          nobody = make "nobody" "echo > $out; echo > $lib" { allowedReferences = [ "dev" ]; };
          other = make "other" "echo > $out" fixed;
          refers = make "refers" "echo ${dep} > $out" fixed;
          flat = make "flat" "busybox mkdir $out" fixed;
          networked = make "networked" "exit 3" fixed;
          fifo = make "fifo" "busybox mkfifo $out; echo > $lib" { };
          foreign = make "foreign" "exit 3" { system = "x-y"; };
          lacking = make "lacking" "exit 3" { requiredSystemFeatures = [ "nope" ]; };
          graph = make "graph" "exit 3" { exportReferencesGraph = [ "alone" ]; };
          loud = make "loud" "echo much; echo more" { };
          open = make "open" "exit 3" { __noChroot = true; };
        }
N
        ends() { # whose, name, expected status, command
            status=0; whose=$1; name=$2; expected=$3; shift 3; "$@" >$whose 2>&1 || status=$?
            [ $status = $expected ] || fail "$whose ends $name with $status, not with $expected: $(cat $whose)"
        }
        for each in fails:100 closes:100 missing:1 cycle:1 refused:1 nobody:1 other:102 refers:1 flat:1 \
            networked:1 fifo:1 foreign:100 lacking:100 graph:1 'open:1:--option sandbox true' \
            'fails:100:-j0' 'loud:1:--option max-build-log-size 1' \
            'fails:1:--option sandbox true --option pre-build-hook /bin/false'; do
            name=${each%%:*}; more=${each#*:}; expected=${more%%:*}; more=${more#$expected}; more=${more#:}
            drv=$(nix-instantiate failing.nix -A $name 2>/dev/null)
            ends said $name $expected real nix-build --no-out-link failing.nix -A $name $more
            ends ours $name $expected nix-build --no-out-link failing.nix -A $name $more
            ends own $name $expected drover build --no-link $drv $more
        done
        real nix-build --no-out-link failing.nix -A nobody 2>&1 | grep '^error:' >said || true
        nix-build --no-out-link failing.nix -A nobody 2>&1 | grep -o 'error:.*' >ours || true
        [ "$(tail -n 1 said | sed 's/.*output check/output check/')" = "$(sed 's/.*output check/output check/' ours)" ] ||
            fail "$(cat said ours)"
    "#;
    lab.client.sh(&[NAMES, script].concat()).unwrap();
    assert_sound(&lab.client);
}

/// NARs that aren't restored, and the version with all that belongs to it, in the words of Nix.
#[test]
fn what_is_refused_and_what_it_is_are_told_in_the_words_of_nix() {
    let lab = Lab::new("words-of-nix", Suite::Forky, Suite::Forky);
    let script = r#"
        mkdir -p tree/aa tree/bb; nix-store --dump tree >tree.nar
        sed 's/bb/aa/' tree.nar >twice.nar; sed 's/aa/cc/' tree.nar >unsorted.nar
        said() { rm -rf at; eval "$2"; status=0; "$3" nix-store --restore at <$1 2>&1 || status=$?; echo "status $status"; }
        ours() { "$@"; }
        for case in 'tree.nar mkdir_at' 'tree.nar touch_at' 'tree.nar link_at' 'twice.nar :' 'unsorted.nar :'; do
            set -- $case
            before=$(echo "$2" | sed 's/_/ /; s/link at/ln -s nowhere at/')
            theirs=$(said $1 "$before" real); mine=$(said $1 "$before" ours)
            for words in 'already exists' 'File exists' 'NAR directory is not sorted' 'status 1'; do
                case "$theirs" in *"$words"*) ;; *) continue ;; esac
                case "$mine" in *"$words"*) ;; *) fail "$case: '$theirs', but '$mine'" ;; esac
            done
        done
        for options in '-v --version' '--verbose --option system s-x --version'; do
            real nix-store $options | grep -v '^Features' >theirs
            nix-store $options | grep -v '^Features' >mine
            cmp theirs mine || fail "$(cat theirs mine)"
        done
        [ $(nix-store --version | wc -l) = 1 ]
        # in a store that is only read what is there already can be added, as nothing is to be done
        echo contents >file; echo others >other; path=$(nix-store --add file)
        [ $(nix-store --store 'local?read-only=true' --add file) = $path ]
        ! nix-store --store 'local?read-only=true' --add other 2>said || exit 1
        grep -q 'read-only' said
    "#;
    lab.client.sh(&[NAMES, script].concat()).unwrap();
}

/// Root of a user namespace with no other user is that user, and builds as that user.
#[test]
fn root_of_a_namespace_for_one_user_builds() {
    let lab = Lab::new("one-user", Suite::Forky, Suite::Forky);
    let script = r#"
        id ann 2>/dev/null || useradd -m ann
        cat >/w/x.nix <<'N'
        derivation { name = "x"; system = builtins.currentSystem; builder = "${/w/bb}/busybox";
                     args = [ "sh" "-c" "${/w/bb}/busybox id -u; echo made > $out" ]; }
N
        mkdir bb; cp /bin/busybox bb/; chmod -R a+rX /w
        cat >/w/build <<'S'
        set -eu; export PATH=/w/names:$PATH HOME=/home/ann NIX_REMOTE= NIX_CONFIG='build-users-group ='; cd /home/ann
        fail() { echo "$*"; cat err; exit 1; } >&2
        ! nix-build --store /home/ann/root --no-out-link /w/x.nix 2>err || fail "built with all groups"
        grep -q 'require-drop-supplementary-groups' err || fail "refused in other words"
        out=$(nix-build --store /home/ann/root --no-out-link /w/x.nix --option require-drop-supplementary-groups false 2>err) ||
            fail "not built"
        grep -qx 1000 err || fail "built as another user"
        [ "$(cat /home/ann/root$out)" = made ]
S
        chmod 755 /w/build
        su ann -c 'unshare --mount --map-root-user sh /w/build'
        [ "$(stat -c %U $(ls -d /home/ann/root/nix/store/*-x))" = ann ]
    "#;
    lab.client.sh(&[NAMES, script].concat()).unwrap();
}

/// The folder of a build that failed on another machine is there, and that is said.
#[test]
fn a_failed_builds_folder_is_kept_where_it_was() {
    let lab = Lab::new("kept-there", Suite::Forky, Suite::Forky);
    let script = r#"
        echo 'derivation { name = "x"; system = builtins.currentSystem; builder = "/bin/sh";
                           args = [ "-c" "echo left > file; exit 1" ]; }' >x.nix
        ! nix-build --keep-failed --no-out-link -j0 --builders 'BUILDERS' x.nix 2>said || exit 1
        grep -q 'warning: The failed build directory was kept on the remote builder due to `--keep-failed`' said ||
            fail "$(cat said)"
        sed -n 's/.*keeping build directory "\(.*\)".*/\1/p' said
    "#;
    let script = script.replace("BUILDERS", &builders("ssh-ng", &["b1"], 1));
    let folder = lab.client.sh(&[NAMES, &script].concat()).unwrap();
    assert_eq!(lab.b1.read(&format!("{}/file", folder.trim())).unwrap(), b"left\n");
}

/// What floating outputs became travels to stock Nix's own hook under the name that it looks for.
#[rstest]
#[case::worker("ssh-ng", "nix-daemon")]
#[case::serve("ssh", "nix-store")]
fn stock_nix_has_floating_outputs_built_by_drover(#[case] scheme: &str, #[case] program: &str) {
    let lab = Lab::new("floating-there", Suite::Forky, Suite::Forky);
    let drv = instantiate(&lab);
    let (client, other) = (&lab.client, &lab.b1);
    other.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
    other.sh("mkdir -p /w; drover compat install /w/names; pkill -x nix-daemon").unwrap();
    let arch = std::env::consts::ARCH;
    let script = format!(
        r#"
        export NIX_REMOTE=local
        machines='{scheme}://b1?remote-program=/w/names/{program} {arch}-linux - 1 1 ca-derivations'
        out=$(nix-store -r {drv} --option max-jobs 0 --option builders "$machines" 2>/w/said) ||
            {{ cat /w/said >&2; exit 1; }}
        [ "$(cat $out/file)" = low ]
        # it knows what became of it
        [ $(nix-store -r {drv} --option max-jobs 0 --option builders '') = $out ]
        "#
    );
    client.sh(&script).unwrap();
    assert_sound(client);
    assert_sound(other);
}

/// Builds that come down to one that was built before need nobody who could build them.
#[test]
fn what_comes_down_to_something_known_is_not_built() {
    let lab = Lab::new("cutoff", Suite::Forky, Suite::Forky);
    instantiate(&lab);
    let client = &lab.client;
    let script = r#"
        cat >/w/seeds.nix <<'N'
        { seed }: let
            mk = name: more: script: derivation ({ inherit name; system = builtins.currentSystem;
              builder = "/bin/sh"; args = [ "-c" script ]; } // more);
            floating = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; }; in rec {
          low = mk "low" (floating // { inherit seed; }) "echo low > $out";
          high = mk "high" floating "read x < ${low}; echo $x > $out";
          top = mk "top" { } "read x < ${high}; echo $x > $out";
        }
N
        cd /w; export NIX_REMOTE=daemon
        build() { nix-build --no-out-link /w/seeds.nix --argstr seed "$@" 2>/w/said || { cat /w/said >&2; exit 1; }; }
        top=$(build 1 -A top)
        build 2 -A low >/dev/null; build 3 -A low >/dev/null
        [ $(build 2 -A top -j0 --option builders '') = $top ]
        export NIX_REMOTE=local
        drv=$(nix-instantiate /w/seeds.nix --argstr seed 3 -A top 2>/dev/null)
        [ "$(drover build --no-link -j0 --print-out-paths $drv)" = $top ]
        # what isn't known is still refused
        ! nix-build --no-out-link /w/seeds.nix --argstr seed 4 -A top -j0 --option builders '' 2>/dev/null || exit 1
    "#;
    become_the_daemon(client, "");
    client.sh(script).unwrap();
    assert_sound(client);
}

/// A trusted client has floating outputs fetched that nobody has signed, where it says so, and gives builds
/// with access to the network variables, where that is configured.
#[test]
fn a_trusted_client_may_say_so() {
    let lab = Lab::new("says-so", Suite::Forky, Suite::Forky);
    let drv = instantiate(&lab);
    let client = &lab.client;
    let script = r#"
        export NIX_REMOTE=daemon; cd /w
        out=$(nix-store -r DRV --option substitute false 2>/dev/null)
        low=$(cat $(cat $out/high)/low)
        low_drv=$(nix-store -qR DRV | grep -e '-low.drv$')
        NIX_REMOTE=local nix copy --to file:///w/cache $low_drv^out
        delete $out $(cat $out/high) $low
        fetch() { nix-store -r $low_drv -j0 --option builders '' "$@"; }
        ! fetch 2>err || exit 1
        # who only has the path fetched hasn't said so for what the output became
        nix-store -r $low -j0 --option require-sigs false >/dev/null 2>err
        ! fetch 2>err || exit 1
        [ $(fetch --option require-sigs false 2>err) = $low ] || { cat err daemon.log >&2; exit 1; }
        cat >variable.nix <<'N'
        derivation { name = "v"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "printf $VARIABLE > $out" ];
                     impureEnvVars = [ "VARIABLE" ]; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = HASH; }
N
        hash=$(printf ours | sha256sum | cut -d' ' -f1); sed -i "s/HASH/\"$hash\"/" variable.nix
        out=$(nix-build --no-out-link variable.nix --option impure-env VARIABLE=ours 2>err) || { cat err; exit 1; } >&2
        [ "$(cat $out)" = ours ]
    "#;
    client
        .sh("echo 'extra-experimental-features = configurable-impure-env' >> /etc/nix/nix.conf
             echo 'substituters = file:///w/cache' >> /etc/nix/nix.conf")
        .unwrap();
    become_the_daemon(client, "");
    client.sh(&[DELETE, &script.replace("DRV", &drv)].concat()).unwrap();
    assert_sound(client);
}

/// What is known by its contents and refers to nothing comes from caches for another store directory, too.
#[test]
fn a_fixed_output_comes_from_a_cache_for_another_directory() {
    let lab = Lab::new("elsewhere", Suite::Forky, Suite::Forky);
    let script = r#"
        cache='file:///w/other?store=/else/store'
        echo contents >file
        real nix --extra-experimental-features nix-command --store "$cache" store add --mode flat file
        grep -qx 'StoreDir: /else/store' other/nix-cache-info
        cat >fixed.nix <<'N'
        { name, hash }: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "exit 1" ];
              outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = hash; }
N
        hash=$(sha256sum file | cut -d' ' -f1); none=$(echo none | sha256sum | cut -d' ' -f1)
        build() { "$@" --no-out-link fixed.nix -j0 --option builders '' --option substituters "$cache"; }
        theirs=$(build real nix-build --store /w/fresh --argstr name file --argstr hash $hash)
        out=$(build nix-build --argstr name file --argstr hash $hash)
        [ $out = $theirs ] && cmp $out file
        # under another name it isn't there, and neither is anything else
        ! build nix-build --argstr name other --argstr hash $hash 2>/dev/null || exit 1
        ! build nix-build --argstr name file --argstr hash $none 2>/dev/null || exit 1
    "#;
    lab.client.sh(&[NAMES, script].concat()).unwrap();
    assert_sound(&lab.client);
}
