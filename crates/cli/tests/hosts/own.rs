//! drover in the place of Nix's own programs, with stock Nix as client and as neighbour.

use drover_testkit::{Host, Suite};
use rstest::rstest;

use crate::failures::until;
use crate::{Lab, builders};

/// Puts drover in the place of the host's daemon, with machines to build on.
pub(crate) fn become_the_daemon(host: &Host, machines: &str) {
    host.write("/etc/nix/machines", machines).unwrap();
    host.sh(
        "mkdir -p /w; pkill -x nix-daemon || true; sleep 0.5; rm -f /nix/var/nix/daemon-socket/socket; \
         setsid drover daemon >/w/daemon.log 2>&1 </dev/null & \
         for i in $(seq 1200); do [ -S /nix/var/nix/daemon-socket/socket ] && exit 0; sleep 0.1; done; \
         cat /w/daemon.log >&2; exit 1",
    )
    .unwrap();
}

/// Says whether stock Nix, opening the files itself, finds the store sound.
pub(crate) fn assert_sound(host: &Host) {
    host.sh("NIX_REMOTE=local nix-store --verify --check-contents").unwrap();
}

#[rstest]
#[case::forky(Suite::Forky)]
#[case::trixie(Suite::Trixie)]
#[case::bookworm(Suite::Bookworm)]
fn stock_clients_use_the_daemon(#[case] suite: Suite) {
    let lab = Lab::new("daemon", suite, suite);
    let host = &lab.b1;
    host.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
    become_the_daemon(host, "");
    let daemon = |script: &str| {
        host.sh(&format!("mkdir -p /w; export NIX_REMOTE=daemon; {script}")).unwrap()
    };
    let added = daemon("echo some contents > /w/file; nix-store --add /w/file");
    let stock = |script: &str| host.sh(&format!("export NIX_REMOTE=local; {script}")).unwrap();
    let path = added.trim();
    for question in ["--hash", "--size", "--references", "--requisites"] {
        let ours = daemon(&format!("nix-store -q {question} {path}"));
        assert_eq!(ours, stock(&format!("nix-store -q {question} {path}")), "{question}");
    }
    let fixed = daemon("nix-store --add-fixed sha256 /w/file");
    assert_eq!(fixed, stock("nix-store --add-fixed sha256 /w/file"));
    daemon(&format!("nix-store --export {path} > /w/export; nix-store --delete {path}"));
    assert!(host.sh(&format!("test ! -e {path}")).is_ok());
    assert_eq!(daemon("nix-store --import < /w/export").trim(), path);
    daemon(&format!("nix-store --add-root /w/root --indirect -r {path}; nix-store --gc"));
    assert!(host.sh(&format!("test -e {path}")).is_ok(), "a root was collected");
    assert_sound(host);
}

/// Builds that a stock client asks of the daemon go to other machines; two clients at once share
/// them.
#[test]
fn the_daemon_builds_on_other_machines() {
    let lab = Lab::new("dbuild", Suite::Forky, Suite::Forky);
    let client = &lab.client;
    become_the_daemon(client, &builders("ssh-ng", &["b1", "b2"], 2).replace(';', "\n"));
    let graph = [("shape", "layers"), ("n", "4"), ("d", "3"), ("k", "2"), ("sleep", "1")];
    let drv = client.instantiate(&graph).unwrap();
    let script = format!(
        "export NIX_REMOTE=daemon; nix-store -r {drv} >/w/one 2>/w/one.err & one=$!; \
         nix-store -r {drv} >/w/two 2>/w/two.err || {{ cat /w/two.err /w/daemon.log >&2; exit 1; }}; \
         wait $one || {{ cat /w/one.err >&2; exit 1; }}; cmp /w/one /w/two; cat /w/one"
    );
    let out = client.sh(&script).unwrap();
    client.sh(&format!("NIX_REMOTE=local nix-store --check-validity {}", out.trim())).unwrap();
    assert_sound(client);
}

/// What nobody can build is refused in words, not waited for.
#[test]
fn a_build_without_machines_is_refused() {
    let lab = Lab::new("nobody", Suite::Forky, Suite::Forky);
    let client = &lab.client;
    become_the_daemon(client, "");
    let drv = client.instantiate(&[("shape", "wide"), ("n", "1")]).unwrap();
    let ask = format!("NIX_REMOTE=daemon nix-store -r {drv} -j0 2>&1 && exit 1; exit 0");
    let said = client.sh(&ask).unwrap();
    assert!(said.contains("no machine"), "{said}");
}

/// Without other machines the daemon builds by itself, as the users that Nix has for that.
#[rstest]
#[case::shut_in("true")]
#[case::not_shut_in("false")]
fn the_daemon_builds_by_itself(#[case] sandbox: &str) {
    let lab = Lab::new("itself", Suite::Forky, Suite::Forky);
    let client = &lab.client;
    client.sh(&format!("echo 'sandbox = {sandbox}' >> /etc/nix/nix.conf")).unwrap();
    become_the_daemon(client, "");
    let graph = [("shape", "layers"), ("n", "3"), ("d", "3"), ("k", "2")];
    let drv = client.instantiate(&graph).unwrap();
    let ask = format!(
        "NIX_REMOTE=daemon nix-store -r {drv} -j2 2>/w/err || {{ cat /w/err /w/daemon.log >&2; exit 1; }}"
    );
    let out = client.sh(&ask).unwrap();
    client.sh(&format!("NIX_REMOTE=local nix-store --check-validity {}", out.trim())).unwrap();
    assert_sound(client);
    // what a build has left is cleared away when its answer is on its way
    until("nothing is left of the builds", || {
        client.sh("ls /nix/var/nix/builds; ls /nix/store | grep -E 'tmp|lock' || true").unwrap()
            == ""
    });
}

/// Evaluation is the real one's, found behind the links.
#[test]
fn the_names_leave_evaluation_to_the_programs() {
    let lab = Lab::new("names", Suite::Forky, Suite::Forky);
    let client = &lab.client;
    client.sh("drover compat install /w/names").unwrap();
    let value = client.sh("PATH=/w/names:$PATH nix-instantiate --eval -E '1 + 1'").unwrap();
    assert_eq!(value.trim(), "2");
}

/// Closures travel between stock Nix and drover by both protocols, both ways.
#[rstest]
#[case::worker("ssh-ng", "nix-daemon")]
#[case::serve("ssh", "nix-store")]
fn closures_travel(#[case] scheme: &str, #[case] program: &str) {
    let lab = Lab::new("travel", Suite::Forky, Suite::Forky);
    let (client, other) = (&lab.client, &lab.b1);
    other.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
    other.sh("drover compat install /w/names; pkill -x nix-daemon").unwrap();
    let drv = client.instantiate(&[("shape", "chain"), ("d", "3")]).unwrap();
    let theirs = format!("'{scheme}://b1?remote-program=/w/names/{program}'");
    client.sh(&format!("nix copy --no-check-sigs --derivation --to {theirs} {drv}")).unwrap();
    other.sh(&format!("NIX_REMOTE=local nix-store --check-validity {drv}")).unwrap();
    assert_sound(other);
    // and back into an empty store
    client
        .sh(&format!(
            "nix copy --no-check-sigs --derivation --from {theirs} --to 'local?root=/w/other' {drv}; \
             nix-store --store 'local?root=/w/other' --check-validity {drv}"
        ))
        .unwrap();
    // drover as client of the same
    client
        .sh(&format!(
            "drover copy --no-check-sigs --derivation --from {theirs} --to 'local?root=/w/third' {drv}; \
             nix-store --store 'local?root=/w/third' --verify --check-contents; \
             nix-store --store 'local?root=/w/third' --check-validity {drv}"
        ))
        .unwrap();
}

/// A plain user reaches the store through a daemon, stock's or drover's, by the same names.
#[rstest]
#[case::stock(false)]
#[case::ours(true)]
fn a_plain_user_asks_through_the_daemon(#[case] ours: bool) {
    let lab = Lab::new("plain", Suite::Forky, Suite::Forky);
    let client = &lab.client;
    client
        .sh("mkdir -p /w; drover compat install /w/names; id ann 2>/dev/null || useradd -m ann")
        .unwrap();
    if ours {
        become_the_daemon(client, "");
    }
    let drv = client.instantiate(&[("shape", "chain"), ("d", "3")]).unwrap();
    let as_ann = |command: &str| client.sh(&format!("su ann -c '{command}'")).unwrap();
    for arguments in ["-qR", "-q --referrers-closure", "-q --deriver", "-q --hash"] {
        let asked = as_ann(&format!("/w/names/nix-store {arguments} {drv}"));
        let stock = client.sh(&format!("NIX_REMOTE=local nix-store {arguments} {drv}")).unwrap();
        assert_eq!(asked, stock, "nix-store {arguments}");
    }
    let added = as_ann("echo words of ann > /tmp/ann; /w/names/nix-store --add /tmp/ann");
    client.sh(&format!("NIX_REMOTE=local nix-store --check-validity {}", added.trim())).unwrap();
    assert_sound(client);
}
