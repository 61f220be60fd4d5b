//! Machines as substituters, as the guides set them up: keys, signatures, `ssh-ng://`.

use drover_testkit::{Host, Suite};
use rstest::rstest;

use crate::own::assert_sound;
use crate::{Lab, assert_code, builders, stderr, stdout};

const GRAPH: [(&str, &str); 4] = [("shape", "layers"), ("n", "3"), ("d", "2"), ("k", "2")];

/// Makes a key and signs all that a host has, in the words of the guides.
fn sign_all(host: &Host, key: &str) -> String {
    let script = format!(
        "cd /etc/nix; nix-store --generate-binary-cache-key {key} {key}.sec {key}.pub
         nix --extra-experimental-features nix-command sign-paths --all -k /etc/nix/{key}.sec \
           2>/dev/null ||
         nix --extra-experimental-features nix-command store sign --all -k /etc/nix/{key}.sec
         cat {key}.pub"
    );
    host.sh(&script).unwrap().trim().to_owned()
}

/// Makes a derivation on one host and has it built on others, without the first knowing of it.
fn built_elsewhere(host: &Host, others: &[&Host]) -> String {
    let drv = host.instantiate(&GRAPH).unwrap();
    for other in others {
        host.sh(&format!("nix-copy-closure --to {} {drv} 2>&1", other.name())).unwrap();
        build(other, &drv);
    }
    drv
}

fn build(host: &Host, drv: &str) {
    host.sh(&format!("nix-store -r {drv} -j4 2>&1")).unwrap();
}

/// Step by step: build on the builder, make a key, sign, name the builder as a substituter, trust
/// the key. Nothing is built and no machine is needed.
#[rstest]
#[case::forky(Suite::Forky, "ssh-ng")]
#[case::trixie(Suite::Trixie, "ssh-ng")]
#[case::bookworm(Suite::Bookworm, "ssh-ng")]
#[case::serve(Suite::Forky, "ssh")]
fn a_builder_is_a_substituter(#[case] suite: Suite, #[case] scheme: &str) {
    let lab = Lab::new("builder-substitutes", suite, Suite::Trixie);
    let (client, b1) = (&lab.client, &lab.b1);
    let drv = built_elsewhere(client, &[b1]);
    let public = sign_all(b1, "b1-1");
    let substituters = format!("{scheme}://b1");
    let line = ["build", "--no-link", "-j0", "--builders", "", "--print-out-paths", &drv];
    let from = ["--option", "substituters", &substituters];
    let (ask, trust) = (["--dry-run"], ["--option", "trusted-public-keys", &public]);

    // without the key it is refused, in words that name it
    let refused = lab.drover(&[&line[..], &from].concat());
    assert_code(&refused, 100);
    let said = stderr(&refused);
    assert!(said.contains("signed by 'b1-1'") && said.contains("trusted-public-keys"), "{said}");

    let told = lab.drover(&[&line[..], &from, &trust, &ask].concat());
    assert_code(&told, 0);
    assert!(stderr(&told).contains("fetch"), "{}", stderr(&told));
    let fetched = lab.drover(&[&line[..], &from, &trust].concat());
    assert_code(&fetched, 0);
    let (out, said) = (stdout(&fetched), stderr(&fetched));
    assert!(!said.contains("building"), "{said}");
    client.sh(&format!("nix-store --verify-path $(nix-store -qR {out})")).unwrap();
    let signed =
        client.sh(&format!("nix --extra-experimental-features nix-command path-info --sigs {out}"));
    assert!(signed.unwrap().contains("b1-1:"));
    // a builder that is trusted as it is needs no key
    client.sh(&format!("nix-store --delete {out} >/dev/null")).unwrap();
    let trusted = format!("{scheme}://b1?trusted=true");
    let fetched = lab.drover(&[&line[..], &["--option", "substituters", &trusted]].concat());
    assert_code(&fetched, 0);
}

/// One is down, one has lost what it registered: the third gives it, and the user is told.
#[test]
fn trouble_with_one_is_the_next_ones_turn() {
    let lab = Lab::new("next-substituter", Suite::Forky, Suite::Trixie);
    let drv = built_elsewhere(&lab.client, &[&lab.b1, &lab.b2]);
    lab.b1.sh(&format!("rm -rf $(nix-store -q --outputs {drv})")).unwrap();
    let all = "ssh-ng://nowhere?trusted=true ssh-ng://b1?trusted=true ssh-ng://b2?trusted=true";
    let options = ["--option", "substituters", all, "--option", "connect-timeout", "10"];
    let line = ["build", "--no-link", "-j0", "--builders", "", "--print-out-paths", &drv];
    let fetched = lab.drover(&[&line[..], &options].concat());
    assert_code(&fetched, 0);
    let said = stderr(&fetched);
    assert!(said.contains("ssh-ng://nowhere") && said.contains("ssh-ng://b1"), "{said}");
    let out = stdout(&fetched);
    lab.client.sh(&format!("nix-store --verify-path $(nix-store -qR {out})")).unwrap();
}

/// The daemon fetches for its clients, whom it lets choose as Nix does.
#[test]
fn the_daemon_substitutes() {
    let lab = Lab::new("daemon-substitutes", Suite::Forky, Suite::Forky);
    let (client, b1) = (&lab.client, &lab.b1);
    let drv = built_elsewhere(client, &[b1]);
    let public = sign_all(b1, "b1-1");
    let script = format!(
        "pkill -x nix-daemon || :; rm -f /nix/var/nix/daemon-socket/socket
         printf '%s\\n' 'substituters =' 'trusted-substituters = ssh-ng://b1' \
           'trusted-public-keys = {public}' 'trusted-users = root' >> /etc/nix/nix.conf
         drover compat install /w/names
         (setsid /w/names/nix-daemon >/w/daemon.log 2>&1 &)
         until [ -S /nix/var/nix/daemon-socket/socket ]; do sleep 0.1; done
         useradd -m plain"
    );
    client.sh(&script).unwrap();
    let realise = |options: &str| {
        let line = format!("NIX_REMOTE=daemon nix-store -r {drv} -j0 --builders '' {options}");
        client.run(&["su", "plain", "-c", &line]).unwrap()
    };
    let refused = realise("");
    assert!(!refused.status.success(), "{}", stdout(&refused));
    // one that nobody has allowed
    let ignored = realise("--option substituters ssh-ng://b2");
    assert!(stderr(&ignored).contains("ignoring untrusted substituter"), "{}", stderr(&ignored));
    let fetched = realise("--option substituters ssh-ng://b1");
    assert_code(&fetched, 0);
    let out = stdout(&fetched);
    client.sh(&format!("nix-store --verify-path $(nix-store -qR {out})")).unwrap();
    assert_sound(client);
}

/// What must not be substituted is built of what is; and one output is fetched though another is
/// nowhere.
#[test]
fn only_what_must_be_is_built() {
    let lab = Lab::new("in-part", Suite::Forky, Suite::Trixie);
    let (client, b1) = (&lab.client, &lab.b1);
    client
        .sh("mkdir -p /w/bb/bin; cp /bin/busybox /w/bb/bin/
             for a in sh cat; do ln -s busybox /w/bb/bin/$a; done
             cat > /w/parts.nix <<'E'
let
  bb = builtins.path { path = /w/bb; name = \"busybox\"; };
  make = extra: derivation ({ system = builtins.currentSystem; builder = \"${bb}/bin/sh\";
    PATH = \"${bb}/bin\"; } // extra);
in rec {
  below = make { name = \"below\"; args = [ \"-c\" \"echo below > $out\" ]; };
  top = make { name = \"top\"; allowSubstitutes = false;
    args = [ \"-c\" \"cat ${below} > $out\" ]; };
  two = make { name = \"two\"; outputs = [ \"out\" \"doc\" ];
    args = [ \"-c\" \"echo out > $out; echo doc > $doc\" ]; };
}
E")
        .unwrap();
    let drv = |name: &str| {
        let line = format!("nix-instantiate /w/parts.nix -A {name} 2>/dev/null");
        let drv = client.sh(&line).unwrap().trim().to_owned();
        client.sh(&format!("nix-copy-closure --to b1 {drv} 2>&1")).unwrap();
        build(b1, &drv);
        drv
    };
    let (top, two) = (drv("top"), drv("two"));
    b1.sh(&format!("nix-store --delete $(nix-store -q --outputs {two} | grep doc$)")).unwrap();
    let from = ["--no-link", "-j0", "--option", "substituters", "ssh-ng://b1?trusted=true"];
    let machines = builders("ssh-ng", &["b2"], 1);
    let built = lab.drover(&[&["build", &top, "--builders", &machines], &from[..]].concat());
    assert_code(&built, 0);
    let said = stderr(&built);
    assert!(said.contains("building top on b2") && !said.contains("building below"), "{said}");
    let out = format!("{two}^out");
    let fetched = lab.drover(&[&["build", &out, "--builders", ""], &from[..]].concat());
    assert_code(&fetched, 0);
}

/// The other way round: drover keeps the store of the builder, signs what it builds, and stock Nix is
/// the client that takes it for a substituter.
#[rstest]
#[case::forky(Suite::Forky)]
#[case::bookworm(Suite::Bookworm)]
fn stock_nix_takes_drover_for_a_substituter(#[case] suite: Suite) {
    let lab = Lab::new("drover-substitutes", suite, Suite::Trixie);
    let (b1, b2) = (&lab.b1, &lab.b2);
    b2.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
    b2.sh(
        "pkill -x nix-daemon || :; rm -f /nix/var/nix/daemon-socket/socket
         drover compat install /usr/local/bin
         cd /etc/nix; nix-store --generate-binary-cache-key b2-1 sec pub; [ $(stat -c %a sec) = 600 ]
         echo 'secret-key-files = /etc/nix/sec' >> nix.conf",
    )
    .unwrap();
    let drv = built_elsewhere(b1, &[b2]);
    let public = b2.sh("cat /etc/nix/pub").unwrap();
    let line = format!(
        "nix-store -r {drv} -j0 --builders '' --option substituters ssh-ng://b2 \
         --option trusted-public-keys '{public}'"
    );
    let fetched = b1.run(&["sh", "-c", &line]).unwrap();
    assert_code(&fetched, 0);
    let out = stdout(&fetched);
    b1.sh(&format!("nix-store --verify-path $(nix-store -qR {out})")).unwrap();
}

/// Folders with binary caches are written, and fetched from, as stock Nix does.
#[test]
fn a_folder_is_a_cache() {
    let lab = Lab::new("folder-cache", Suite::Forky, Suite::Trixie);
    let (client, b1) = (&lab.client, &lab.b1);
    let drv = built_elsewhere(client, &[b1]);
    let public = sign_all(b1, "b1-1");
    let out = b1.sh(&format!("nix-store -q --outputs {drv}")).unwrap().trim().to_owned();
    // stock Nix writes one, drover fetches from it and writes another, from which stock Nix fetches
    b1.sh(&format!("nix --extra-experimental-features nix-command copy --to file:///w/one {out}"))
        .unwrap();
    client.sh("mkdir -p /w; ssh b1 tar -C /w -cf - one | tar -C /w -xf -").unwrap();
    let trust = ["--option", "trusted-public-keys", &public];
    let from = ["--option", "substituters", "file:///w/one", "-j0", "--builders", ""];
    let fetched = lab.drover(&[&["build", "--no-link", &drv], &from[..], &trust].concat());
    assert_code(&fetched, 0);
    assert!(!stderr(&fetched).contains("building"), "{}", stderr(&fetched));
    assert_code(&lab.drover(&["copy", "--to", "file:///w/two", &out]), 0);
    let script = format!(
        "nix-store --delete $(nix-store -qR {out} | grep -v busybox) >/dev/null
         nix-store -r {out} --option substituters file:///w/two \
           --option trusted-public-keys '{public}' 2>&1
         nix-store --verify-path $(nix-store -qR {out})"
    );
    client.sh(&script).unwrap();
}

/// Step by step the other way round: drover keeps the builder's store and signs what is there, and an
/// untrusted user of stock Nix takes it by way of a substituter that is allowed.
#[rstest]
#[case::forky(Suite::Forky)]
#[case::trixie(Suite::Trixie)]
#[case::bookworm(Suite::Bookworm)]
fn stock_nix_takes_what_drover_has_signed(#[case] suite: Suite) {
    let lab = Lab::new("drover-signs", suite, Suite::Trixie);
    let (b1, b2) = (&lab.b1, &lab.b2);
    b2.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
    b2.sh("pkill -x nix-daemon || :; rm -f /nix/var/nix/daemon-socket/socket
           drover compat install /usr/local/bin
           cd /etc/nix; nix-store --generate-binary-cache-key b2-1 sec pub")
        .unwrap();
    let drv = built_elsewhere(b1, &[b2]);
    let public = b2.sh("cat /etc/nix/pub").unwrap();
    let public = public.trim();
    let out = b2.sh(&format!("nix-store -q --outputs {drv}")).unwrap().trim().to_owned();
    let verify = |flags: &str| {
        let line = format!(
            "drover store verify --sigs-needed 1 {flags} {out} --option trusted-public-keys '{public}'"
        );
        b2.run(&["sh", "-c", &line]).unwrap()
    };
    assert!(!verify("-r --no-contents").status.success(), "nobody has signed it");
    b2.sh(&format!("drover store sign -k /etc/nix/sec {out}")).unwrap();
    assert_code(&verify("--no-contents"), 0);
    b2.sh(&format!("drover store sign -r -k /etc/nix/sec {out}")).unwrap();
    assert_code(&verify("-r"), 0);
    b2.sh("nix sign-paths --all -k /etc/nix/sec").unwrap();
    b1.sh(&format!(
        "printf '%s\\n' 'substituters =' 'trusted-substituters = ssh-ng://b2' \
           'trusted-public-keys = {public}' 'trusted-users = root' >> /etc/nix/nix.conf
         useradd -m plain"
    ))
    .unwrap();
    b1.restart_daemon().unwrap();
    let realise = |options: &str| {
        let line = format!("NIX_REMOTE=daemon nix-store -r {drv} -j0 --builders '' {options}");
        b1.run(&["su", "plain", "-c", &line]).unwrap()
    };
    assert!(!realise("").status.success());
    let fetched = realise("--option substituters ssh-ng://b2");
    assert_code(&fetched, 0);
    b1.sh(&format!("nix-store --verify-path $(nix-store -qR {out})")).unwrap();
}
