//! The builders that are part of Nix: what drover makes of them, and what today's Nix does.

use std::fmt::Write as _;

use drover_testkit::{Answer, Host, Scheme, Suite, WebServer};
use rstest::rstest;

use crate::own::{assert_sound, become_the_daemon};
use crate::{LIMIT, Lab};

const EXPRESSION: &str = include_str!("builtins.nix");

/// Those that go well.
const GOOD: &[&str] = &[
    "nixFetchurl",
    "nixFetchurlExecutable",
    "flat",
    "sha512",
    "overTls",
    "redirected",
    "halves",
    "secret",
    "mirrored",
    "unpacked",
    "unpackedXz",
    "unpackedExecutable",
    "fromStore",
    "environmentOfOne",
    "environmentOfTwo",
    "environmentByPriority",
    "environmentPropagated",
    "environmentWithFile",
    "environmentOfNone",
    "channelGz",
    "channelXz",
    "channelBz2",
    "channelTar",
];

/// Those that fail: the exit status of Nix and of drover, and what drover says. Where a build had access
/// to the network a failure is one that may pass, and has another status.
const BAD: &[(&str, i32, &[&str])] = &[
    ("wrongHash", 102, &["specified: sha256-AAAA", "got:    sha256-"]),
    ("ofTheMachine", 1, &["cannot read 'file:///etc/shadow': No such file"]),
    ("absent", 1, &["/absent': HTTP status 404"]),
    ("inCircles", 1, &["redirected more than 10 times"]),
    ("toFile", 1, &["redirected to 'file:///etc/passwd'"]),
    ("stalled", 1, &["nothing came for 1 seconds"]),
    ("endless", 101, &["timed out after 3 seconds"]),
    ("broken", 1, &["cannot unpack what is at"]),
    ("noHash", 100, &["must be a fixed-output or impure derivation"]),
    ("conflict", 100, &["-a/bin/a\n", "-same/bin/a\n", "nix-env --set-flag priority"]),
    ("folderConflict", 100, &["is a folder and", "is none"]),
    ("twoFolders", 100, &["2 files at its top"]),
    ("badName", 100, &["'a/b' can't be the name of a folder"]),
    ("outside", 100, &["evil': its path leads upwards"]),
];

/// What the expression takes, in `/w`.
const FILES: &str = r#"
mkdir -p /w/tree/bin /w/made/top/sub; cd /w
printf 'a file that is fetched' > file
cp file tree/file; echo '#!/bin/sh' > tree/bin/run; chmod +x tree/bin/run; ln -s file tree/link
cp file program; chmod +x program
cp -r tree/. made/top; ln made/top/file made/top/sub/same; chmod 600 made/top/sub/same
ln -s /nowhere made/top/out; echo x > made/top/.hidden; chmod 500 made/top/sub
for flag in z:gz J:xz j:bz2; do tar -C made -c${flag%:*}f channel.tar.${flag#*:} top; done
tar -C made -cf channel.tar ./top
tar -C tree -czf two.tar.gz file bin
tar -C made -czPf outside.tar.gz --transform 's,^top/file,top/../../evil,' top
nix-store --dump tree > tree.nar; xz -k tree.nar; nix-store --dump program | xz > program.nar.xz
hash() { nix-hash --type sha256 --base32 "$@"; }
printf mirrored > mirrored
cat > hashes.nix <<END
{ file.sha256 = "$(hash --flat file)"; file.sha512 = "$(nix-hash --type sha512 --base32 --flat file)";
  executable = "$(hash program)"; tree = "$(hash tree)"; mirrored = "$(hash --flat mirrored)"; }
END
nix-hash --type sha256 --flat mirrored
"#;

const SETUP: &str = r#"
cp /w/ca.pem /w/both.pem
export NIX_CONFIG="extra-experimental-features = ca-derivations nix-command
sandbox = true
ssl-cert-file = ${ca:-/w/ca.pem}
netrc-file = /w/netrc
hashed-mirrors = URL/mirror
stalled-download-timeout = ${stalled:-300}
download-attempts = 2
filetransfer-retry-delay = 1
timeout = ${limit:-60}
"
stock() { NIX_REMOTE='local?root=/w/stock' "$@"; }
ours() { NIX_REMOTE='local?root=/w/ours' "$@"; }
instantiate() { nix-instantiate --quiet /w/builtins.nix -A $1 --arg tools /opt/graph/bb --arg hashes 'import /w/hashes.nix' --argstr url URL --argstr secure SECURE 2>/dev/null | sed 's/!.*//'; }
"#;

const COMPARE: &str = r#"
drv=$(ours instantiate ATTRIBUTE); [ "$drv" ] && [ "$drv" = "$(stock instantiate ATTRIBUTE)" ]
theirs=0; stock nix-store -r $drv >/w/theirs.out 2>/w/theirs.err || theirs=$?
ours=0; ours drover build $drv --no-link --print-out-paths >/w/ours.out 2>/w/ours.err || ours=$?
if [ $theirs:$ours != CODES ]; then
  echo "Nix $theirs: $(tail -4 /w/theirs.err), drover $ours: $(cat /w/ours.err)"
fi
[ $theirs = 0 ] || { cat /w/ours.err; exit 0; }
sort -u /w/theirs.out > /w/theirs.paths; sort -u /w/ours.out > /w/ours.paths
cmp -s /w/theirs.paths /w/ours.paths ||
  { echo "Nix $(cat /w/theirs.paths), drover $(cat /w/ours.paths)"; exit 0; }
for path in $(cat /w/ours.paths); do
  stock nix-store --dump-db $path >/w/theirs.db; ours nix-store --dump-db $path >/w/ours.db
  diff /w/theirs.db /w/ours.db || diff -r /w/stock$path /w/ours$path || true
done
"#;

/// A client with the expression, and the servers that it asks.
struct Site {
    lab: Lab,
    plain: WebServer,
    secure: WebServer,
}

impl Site {
    fn new(name: &str) -> Site {
        let lab = Lab::new(name, Suite::Forky, Suite::Forky);
        let host = &lab.client;
        let mirrored = host.sh(FILES).unwrap();
        host.write("/w/builtins.nix", EXPRESSION).unwrap();
        let plain = host.web_server(Scheme::Http).unwrap();
        let secure = host.web_server(Scheme::Https).unwrap();
        host.write("/w/ca.pem", secure.authority()).unwrap();
        host.write("/w/other.pem", plain.authority()).unwrap();
        host.write("/w/netrc", "machine localhost login alice password secret\n").unwrap();
        let read = |name: &str| host.read(&format!("/w/{name}")).unwrap();
        let file = read("file");
        for name in ["tree.nar", "tree.nar.xz", "program.nar.xz"] {
            plain.on(&format!("/{name}"), Answer::Whole(read(name)));
        }
        plain.on("/file", Answer::Whole(file.clone()));
        secure.on("/file", Answer::Whole(file.clone()));
        plain.on("/moved", Answer::Redirect("/moved/again".to_owned()));
        plain.on("/moved/again", Answer::Redirect(plain.url("/file")));
        plain.on("/halves", Answer::Halves(file.clone()));
        plain.on("/secret", Answer::Secret("Basic YWxpY2U6c2VjcmV0".to_owned(), file));
        plain.on(
            &format!("/mirror/sha256/{}", mirrored.trim()),
            Answer::Whole(b"mirrored".to_vec()),
        );
        plain.on("/circle", Answer::Redirect("/circle".to_owned()));
        plain.on("/to-file", Answer::Redirect("file:///etc/passwd".to_owned()));
        plain.on("/stalled", Answer::Stall);
        plain.on("/endless", Answer::Endless);
        Site { lab, plain, secure }
    }

    fn host(&self) -> &Host {
        &self.lab.client
    }

    /// Builds with both, and returns what is to be told of it.
    fn compare(&self, attribute: &str, code: i32, before: &str) -> String {
        let codes = format!("{code}:{code}");
        let compare = COMPARE.replace("ATTRIBUTE", attribute).replace("CODES", &codes);
        let script = format!("{before}\n{SETUP}{compare}");
        let script =
            script.replace("URL", &self.plain.url("")).replace("SECURE", &self.secure.url(""));
        self.host().sh(&script).unwrap_or_else(|error| format!("{error:#}"))
    }
}

/// Same paths, hashes, references and derivers.
#[test]
fn the_same_is_made_as_by_nix_of_today() {
    let site = Site::new("builtin");
    let mut differences = String::new();
    for attribute in GOOD {
        let said = site.compare(attribute, 0, "");
        if !said.trim().is_empty() {
            writeln!(differences, "{attribute}: {said}").unwrap();
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
    site.host().sh("NIX_REMOTE='local?root=/w/ours' nix-store --verify --check-contents").unwrap();
}

/// Same exit status, and words that say what to do.
#[test]
fn the_same_fails_as_with_nix_of_today() {
    let site = Site::new("builtbad");
    let mut differences = String::new();
    for (attribute, code, words) in BAD {
        let before = match *attribute {
            "endless" => "limit=3",
            "stalled" => "stalled=1",
            _ => "",
        };
        let said = site.compare(attribute, *code, before);
        if said.starts_with("Nix ") || words.iter().any(|word| !said.contains(word)) {
            writeln!(differences, "{attribute}: {said}").unwrap();
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
    // what has another hash is kept under its own, and nothing else is left
    let left = |root: &str| {
        let made = "grep -E 'file|endless|stalled|channel' | grep -v -E 'drv$|lock$|channel.tar'";
        site.host().sh(&format!("ls /w/{root}/nix/store | {made} || true")).unwrap()
    };
    assert_eq!(left("ours"), left("stock"));
}

/// T43: though the hash is known beforehand, nobody is asked who isn't who he says.
#[test]
fn who_isnt_trusted_is_asked_for_nothing() {
    let site = Site::new("builttls");
    for before in ["ca=/w/other.pem", "ca=/w/not/there"] {
        let said = site.compare("untrusted", 1, before);
        assert!(said.contains("certificate") && !said.starts_with("Nix "), "{said}");
    }
    assert_eq!(site.secure.asked(), []);
}

/// The commands that users have profiles and channels by, with drover's daemon in the place of Nix's,
/// shut in and not.
#[rstest]
#[case::shut_in("true")]
#[case::not_shut_in("false")]
fn profiles_and_channels_with_drovers_daemon(#[case] sandbox: &str) {
    let site = Site::new("profiles");
    let host = site.host();
    host.sh(&format!("echo 'sandbox = {sandbox}' >> /etc/nix/nix.conf")).unwrap();
    become_the_daemon(host, "");
    host.write(
        "/w/made/top/default.nix",
        r#"let tools = builtins.path { path = /opt/graph/bb; name = "tools"; };
make = name: derivation { inherit name; system = builtins.currentSystem; builder = "${tools}/bin/sh"; PATH = "${tools}/bin";
  args = [ "-ec" "mkdir -p $out/bin; echo ${name} > $out/bin/${name}; echo ${name} > $out/bin/both" ]; };
in { one = make "one-1"; two = make "two-1"; }"#,
    )
    .unwrap();
    host.sh("cd /w; tar -C made -cJf nixexprs.tar.xz top").unwrap();
    let archive = host.read("/w/nixexprs.tar.xz").unwrap();
    // asked for first, for what it's redirected to
    site.plain.on("/chan", Answer::Whole(Vec::new()));
    site.plain.on("/chan/nixexprs.tar.xz", Answer::Whole(archive));
    let url = site.plain.url("/chan");
    let script = format!(
        "export NIX_REMOTE=daemon HOME=/root; cd /root; {{
         nix-channel --add {url} mine; nix-channel --update; ls -R ~/.nix-defexpr/channels/
         nix-env -f ~/.nix-defexpr/channels/mine -i one
         ! nix-env -f ~/.nix-defexpr/channels/mine -i two || exit 1
         nix-env --set-flag priority 4 one
         nix-env -f ~/.nix-defexpr/channels/mine -i two
         }} >/w/log 2>&1 || {{ cat /w/log /w/daemon.log >&2; exit 1; }}
         cat ~/.nix-profile/bin/both ~/.nix-profile/bin/one-1 ~/.nix-profile/bin/two-1; nix-env -q"
    );
    let said = host.sh(&script).unwrap();
    let log = String::from_utf8(host.read("/w/log").unwrap()).unwrap();
    assert_eq!(said, "one-1\none-1\ntwo-1\none-1\ntwo-1", "{log}");
    assert!(log.contains("two packages have the same file"), "{log}");
    assert_sound(host);
}

/// A machine that has drover alone fetches what a build is made of.
#[test]
fn a_users_own_store_fetches_too() {
    let site = Site::new("builtusr");
    let script = r#"export NIX_REMOTE=/home/alice/store
drv=$(nix-instantiate --quiet -E 'import <nix/fetchurl.nix> { url = "URL/file"; inherit ((import /w/hashes.nix).file) sha256; }' | sed 's/!.*//')
cat $(drover build $drv --no-link --print-out-paths | sed 's,^,/home/alice/store,')"#;
    let script = script.replace("URL", &site.plain.url(""));
    site.host().write("/w/script", script).unwrap();
    let made = site.host().run_within(LIMIT, &["su", "alice", "-c", "sh -e /w/script"]).unwrap();
    let (out, err) = (crate::stdout(&made), crate::stderr(&made));
    assert_eq!(out, "a file that is fetched", "{err}");
}
