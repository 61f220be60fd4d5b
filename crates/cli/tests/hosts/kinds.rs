//! Names of stores as they are typed, and of kinds that only the real Nix keeps, given to the names of its
//! programs; and what a trusted client asks of all that is built for it.

use drover_testkit::Suite;

use crate::own::{assert_sound, become_the_daemon};
use crate::{Lab, assert_code, stderr, stdout};

/// `real` is stock Nix's program, what has no prefix is drover.
const NAMES: &str = r#"
mkdir -p /w; drover compat install /w/names >/dev/null; export PATH=/w/names:$PATH NIX_REMOTE=local
real() { program=$1; shift; /usr/bin/$program "$@"; }
same() { [ "$("$@")" = "$(real "$@")" ] && [ -n "$("$@")" ] || { echo "differs: $*"; exit 1; } >&2; }
cd /w; echo some contents > file; path=$(nix-store --add file)
"#;

#[test]
fn what_is_kept_by_the_real_one_alone_is_asked_of_it() {
    let lab = Lab::new("kinds", Suite::Forky, Suite::Forky);
    let script = r#"
        nix copy --to file:///w/cache $path
        same nix path-info --store file:///w/cache --json --json-format 2 $path
        same nix path-info --store file:///w/cache --all
        nix store verify --store file:///w/cache --no-trust --all 2>verified
        grep -q "checking '$path'" verified
        NIX_REMOTE=file:///w/cache same nix-store -q --hash $path
        # what is evaluated in another store than it's built in
        echo 'derivation { name = "x"; system = builtins.currentSystem; builder = "/bin/sh";
                           args = [ "-c" "echo made > $out" ]; }' > x.nix
        out=$(nix-build --no-out-link --eval-store /w/eval x.nix)
        [ "$(cat $out)" = made ]
        [ "$(drover path-info --store file:///w/cache $path)" = $path ]
    "#;
    lab.client.sh(&[NAMES, script].concat()).unwrap();
}

#[test]
fn a_path_to_a_store_begins_where_one_is() {
    let lab = Lab::new("whole", Suite::Forky, Suite::Forky);
    let script = r#"
        mkdir a; cd a
        [ "$(nix-store --store ./x --add ../file)" = $path ] && [ -e /w/a/x$path ]
        [ "$(nix-store --store ../b/y --add ../file)" = $path ] && [ -e /w/b/y$path ]
        nix copy --to ./z $path && [ -e /w/a/z$path ]
        same nix-store --store ./z -q --hash $path
    "#;
    lab.client.sh(&[NAMES, script].concat()).unwrap();
}

/// The address of a store may say what builds in it are offered, and whether it takes what nobody signed.
#[test]
fn an_address_has_settings() {
    let lab = Lab::new("offers", Suite::Forky, Suite::Forky);
    let script = r#"
        mkdir bb; cp /bin/busybox bb/
        echo 'derivation { name = "x"; system = builtins.currentSystem; builder = "${./bb}/busybox"; PATH = "";
                           args = [ "sh" "-c" "echo made > $out" ]; requiredSystemFeatures = [ "special" ]; }' > x.nix
        for store in '/w/r?system-features=special%20other' 'local?root=/w/r&system-features=special'; do
            drv=$(nix-instantiate --store "$store" x.nix 2>/dev/null)
            ! nix-store --store /w/r -r $drv 2>err || exit 1
            grep -q 'special' err
            out=$(nix-store --store "$store" -r $drv 2>/dev/null)
            [ "$(cat /w/r$out)" = made ]
            ! nix copy --from /w/r --to /w/q $out 2>err || exit 1
            grep -q 'lacks a signature' err
            ! nix copy --from /w/r --to '/w/q?require-sigs=perhaps' $out 2>err || exit 1
            grep -q 'must be true or false' err
            nix copy --from /w/r --to '/w/q?require-sigs=false' $out
            # who has it from there hasn't built it
            nix path-info --store /w/r --json $out | grep -q '"ultimate":true'
            nix path-info --store /w/q --json $out | grep -q '"ultimate":false'
            nix-store --store /w/r --delete $out 2>/dev/null
            nix-store --store /w/q --delete $out 2>/dev/null
        done
    "#;
    lab.client.sh(&[NAMES, script].concat()).unwrap();
}

/// Whether logs are compressed is a trusted client's to say, by either name of the setting; as with Nix's own
/// daemon, which is asked first.
#[test]
fn a_trusted_client_says_how_logs_are_kept() {
    let lab = Lab::new("log-form", Suite::Forky, Suite::Forky);
    let client = &lab.client;
    client
        .sh("printf '%s\\n' 'trusted-users = root' >> /etc/nix/nix.conf; mkdir -p /w; chmod 755 /w; useradd -m plain
             echo '{ n }: derivation { name = n; system = builtins.currentSystem; builder = \"/bin/sh\";
                 args = [ \"-c\" \"echo words; echo > $out\" ]; }' > /w/said.nix")
        .unwrap();
    client.restart_daemon().unwrap();
    let forms = |by: &str| {
        let mut forms = String::new();
        for (user, option) in [
            ("root", ""),
            ("root", "--option compress-build-log false"),
            ("root", "--option build-compress-log 0"),
            ("root", "--option compress-build-log true"),
            ("plain", "--option compress-build-log false"),
        ] {
            let name = format!("{by}-{user}-{}", option.replace(' ', ""));
            let line = format!(
                "NIX_REMOTE=daemon nix-build --no-out-link /w/said.nix --argstr n {name} {option} && \
                 find /nix/var/log/nix/drvs -name '*{name}*' -printf '%f\\n' | sed 's/.*[.]drv/log/'"
            );
            let built = client.run(&["su", user, "-c", &line]).unwrap();
            assert_code(&built, 0);
            let form = stdout(&built).lines().last().unwrap_or_default().to_owned();
            let warned = u8::from(
                stderr(&built).contains("'compress-build-log', because it is a restricted"),
            );
            forms.push_str(&format!("{user} {option}: {form} {warned}\n"));
        }
        forms
    };
    let stock = forms("stock");
    assert!(stock.contains("root --option compress-build-log false: log 0"), "{stock}");
    assert!(stock.contains("plain --option compress-build-log false: log.bz2 1"), "{stock}");
    become_the_daemon(client, "");
    assert_eq!(forms("ours"), stock);
}

/// What a trusted client of the daemon's asks for counts for all that is built for it, not only for what it
/// has named: its keys sign, and equal files become one.
#[test]
fn a_client_signs_and_optimises_all_that_is_built_for_it() {
    let lab = Lab::new("deep", Suite::Forky, Suite::Forky);
    let client = &lab.client;
    let drv = client.instantiate(&[("shape", "chain"), ("d", "3")]).unwrap();
    become_the_daemon(client, "");
    let script = r#"
        export NIX_REMOTE=daemon; cd /w
        nix='nix --extra-experimental-features nix-command'
        $nix key generate-secret --key-name client-1 > key
        nix-store -r DRV --option secret-key-files /w/key >/dev/null 2>&1
        outputs=$(for drv in $(nix-store -qR DRV | grep '[.]drv$'); do nix-store -q --outputs $drv; done)
        [ $(echo "$outputs" | wc -l) -ge 3 ]
        for out in $outputs; do
            $nix path-info --sigs $out | grep -q ' client-1:' || { echo "$out is not signed"; exit 1; } >&2
        done
        echo '{ n, low ? "" }: derivation { name = "same-${n}"; system = builtins.currentSystem; builder = "/bin/sh";
            inherit low; args = [ "-c" "echo a text that is long enough to count > $out" ]; }' > same.nix
        echo 'let same = import ./same.nix; in same { n = "b"; low = same { n = "a"; }; }' > both.nix
        out=$(nix-build --no-out-link both.nix --option auto-optimise-store true 2>/dev/null)
        low=$(nix-store -q --outputs $(nix-store -qR $(nix-store -q --deriver $out) | grep 'same-a.drv'))
        [ $(stat -c %i $out) = $(stat -c %i $low) ]
        # who asks for nothing gets what is configured
        echo 'import ./same.nix { n = "c"; }' > c.nix
        other=$(nix-build --no-out-link c.nix 2>/dev/null)
        [ $(stat -c %i $out) != $(stat -c %i $other) ]
    "#;
    client.sh(&script.replace("DRV", &drv)).unwrap();
    assert_sound(client);
}
