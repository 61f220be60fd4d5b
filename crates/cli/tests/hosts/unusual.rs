//! Builders whose Nix is in an unusual place, as guides set them up where there is no root: behind a
//! forced command, in a namespace or under PRoot, by `remote-program`, in another store.

use drover_testkit::{Host, Suite};

use crate::{Lab, assert_code, stderr, stdout};

/// Takes `/nix` away, and gives alice a store of her own for her Nix, which nothing finds by itself.
const MOVE: &str = r#"
pkill -x nix-daemon
busybox umount -l /nix; rmdir /nix
mkdir -p /home/alice/nix/store /home/alice/nix/var/nix /opt/programs; mv /usr/bin/nix* /opt/programs/
chown -R alice: /home/alice/nix
"#;

/// Enters a root like this one with alice's `/nix` in it, in a user namespace: what nix-user-chroot
/// does.
const CHROOT: &str = r#"#!/bin/sh
exec unshare --user --map-current-user --keep-caps --mount sh -euc '
r=/home/alice/root
mkdir -p $r
busybox mount -t tmpfs root $r
for it in dev etc home opt proc run sys tmp usr var; do
  mkdir $r/$it; busybox mount -o rbind /$it $r/$it
done
for it in bin lib lib64 sbin; do ln -s usr/$it $r/$it; done
mkdir $r/nix; busybox mount -o bind /home/alice/nix $r/nix
PATH=/opt/programs:$PATH
exec /usr/sbin/chroot $r sh -c "$1"' sh "${SSH_ORIGINAL_COMMAND:-$*}"
"#;

/// The page that shows how it's done by ptrace, for systems without user namespaces.
const PAGE: &str = include_str!("../../../../docs/builders.md");

/// Returns the script that the page shows.
fn shown_script() -> &'static str {
    let (_, script) = PAGE.split_once("```sh\n").unwrap();
    script.split_once("```").unwrap().0
}

/// Asserts that it was built in alice's own store.
#[track_caller]
fn assert_is_in_alices_store(host: &Host) {
    host.sh("ls -d /home/alice/nix/store/*-drover-doctor").unwrap();
}

fn put_script(host: &Host, path: &str, text: &str) {
    host.write(path, text).unwrap();
    host.sh(&format!("chmod 755 {path}")).unwrap();
}

/// Has alice's key run a program whatever is asked for.
fn force(host: &Host, command: &str) {
    let keys = "/home/alice/.ssh/authorized_keys";
    host.sh(&format!("sed -i 's|^|command=\"{command}\" |' {keys}")).unwrap();
}

/// Puts PRoot of this machine into a host, which has none.
fn put_proot(host: &Host) {
    host.put("/usr/bin/proot", "/usr/bin/proot").expect("scripts/install-needs test");
    let listed = std::process::Command::new("ldd").arg("/usr/bin/proot").output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let library = listed.lines().find_map(|line| line.split_once("libtalloc.so.2 => "));
    let library = library.and_then(|(_, rest)| rest.split(' ').next()).unwrap();
    host.put(library, "/usr/lib/libtalloc.so.2").unwrap();
    host.sh("ldconfig").unwrap();
}

/// Asserts that a machine is well, that drover builds on it, and stock Nix, too.
#[track_caller]
fn assert_is_builder(lab: &Lab, uri: &str, trust: &str) {
    let arch = std::env::consts::ARCH;
    let line = format!("{uri} {arch}-linux - 2 1 big-parallel");
    let output = lab.drover(&["doctor", "--builders", &line]);
    assert_code(&output, 0);
    let text = stdout(&output);
    assert!(text.contains(&format!("  ok      build         a build for {arch}-linux")), "{text}");
    assert!(text.contains(trust), "{text}");
    for command in [["drover", "build", "--no-link", "-j0"].as_slice(), &["nix-store", "-j0", "-r"]]
    {
        let drv = lab.client.instantiate(&[("shape", "chain"), ("d", "2")]).unwrap();
        let output =
            lab.client.run(&[command, &["--builders", &line, drv.as_str()]].concat()).unwrap();
        assert_code(&output, 0);
        assert!(
            lab.client.run_ok(&["nix-store", "-q", "--outputs", &drv]).is_ok(),
            "{}",
            stderr(&output)
        );
    }
}

/// A forced command gets what is asked for in `SSH_ORIGINAL_COMMAND`: both protocols go through it.
#[test]
fn a_namespace_behind_a_forced_command() {
    let lab = Lab::new("userns", Suite::Forky, Suite::Forky);
    lab.b1.sh(MOVE).unwrap();
    put_script(&lab.b1, "/opt/enter", CHROOT);
    force(&lab.b1, "/opt/enter");
    assert_is_builder(&lab, "ssh-ng://alice@b1", "ok      trust         alice is trusted");
    assert_is_builder(&lab, "ssh://alice@b1", "ok      program       nix-store of Nix 2.34");
    assert_is_in_alices_store(&lab.b1);
}

#[test]
fn proot_behind_a_forced_command() {
    let lab = Lab::new("proot", Suite::Trixie, Suite::Forky);
    lab.b1.sh(MOVE).unwrap();
    put_proot(&lab.b1);
    assert!(PAGE.contains("command=\"/opt/enter\" ssh-ed25519"), "the page shows another command");
    put_script(&lab.b1, "/opt/enter", shown_script());
    lab.b1.sh("mkdir -p /opt/nix; ln -s ../programs /opt/nix/bin").unwrap();
    force(&lab.b1, "/opt/enter");
    assert_is_builder(&lab, "ssh-ng://alice@b1", "ok      program       nix-daemon of Nix 2.26");
    assert_is_builder(&lab, "ssh://alice@b1", "ok      disk");
    assert_is_in_alices_store(&lab.b1);
}

/// A forced command that runs one program whatever is asked for: builds go there, and what can't be
/// asked is not held against it.
#[test]
fn a_forced_command_that_runs_nothing_else() {
    let lab = Lab::new("forced", Suite::Forky, Suite::Forky);
    force(&lab.b1, "nix-daemon --stdio");
    assert_is_builder(
        &lab,
        "ssh-ng://alice@b1",
        "unknown program       no version of 'nix-daemon' was told",
    );
}

#[test]
fn a_program_that_enters_by_itself() {
    let lab = Lab::new("program", Suite::Forky, Suite::Forky);
    lab.b1.sh(MOVE).unwrap();
    put_script(&lab.b1, "/opt/enter", CHROOT);
    put_script(&lab.b1, "/opt/my-daemon", "#!/bin/sh\nexec /opt/enter nix-daemon \"$@\"\n");
    let uri = "ssh-ng://alice@b1?remote-program=/opt/my-daemon";
    assert_is_builder(&lab, uri, "ok      program       /opt/my-daemon of Nix 2.34");
    assert_is_in_alices_store(&lab.b1);
    // and without it
    let output = lab.drover(&["doctor", "ssh-ng://alice@b1"]);
    assert_code(&output, 1);
    assert!(stdout(&output).contains("'nix-daemon' is not found there"), "{}", stdout(&output));
}

#[test]
fn another_store_at_the_other_end() {
    let lab = Lab::new("elsewhere", Suite::Forky, Suite::Trixie);
    for host in ["b1", "b2"] {
        let uri = format!("ssh-ng://{host}?remote-store=/w/elsewhere");
        assert_is_builder(&lab, &uri, "ok      trust         root is trusted");
    }
    for host in [&lab.b1, &lab.b2] {
        // that is where it was built
        host.sh("ls /w/elsewhere/nix/store/*-drover-doctor").unwrap();
    }
}
