//! An old client and a new one at the same time on one daemon.

use drover_testkit::Suite;

use crate::own::{assert_sound, become_the_daemon};
use crate::{LIMIT, Lab, assert_code, builders, stderr, stdout};

#[test]
fn an_old_client_and_a_new_one_share_a_build() {
    let lab = Lab::new("together", Suite::Bookworm, Suite::Forky);
    let (server, old, builder) = (&lab.client, &lab.b1, &lab.b2);
    server.sh("drover compat install /usr/local/bin").unwrap();
    server.sh("echo 'max-jobs = 0' >> /etc/nix/nix.conf").unwrap();
    become_the_daemon(server, &builders("ssh-ng", &["b2"], 2));
    // the builder notes each time that it runs, and ends when it is told to
    builder.sh("mkdir -p /w && chmod 1777 /w").unwrap();
    let nix = r#"derivation { name = "shared"; system = builtins.currentSystem; builder = "/bin/sh";
        args = [ "-c" "echo it begins; echo x >> /w/runs; while ! [ -e /w/go ]; do /bin/busybox sleep 0.1; done; echo it ends; echo built > $out" ]; }"#;
    server.write("/w/shared.nix", nix).unwrap();
    let drv = server.run_ok(&["nix-instantiate", "--quiet", "/w/shared.nix"]).unwrap();
    let realise = |store: &str| format!("NIX_REMOTE={store} nix-store -r {drv}");
    let mut first = old.spawn(&["sh", "-c", &realise("ssh-ng://c")]).unwrap();
    first.wait_for("it begins", LIMIT).unwrap();
    let mut second = server.spawn(&["sh", "-c", &realise("daemon")]).unwrap();
    second.wait_for("building", LIMIT).unwrap();
    builder.sh("touch /w/go").unwrap();
    for client in [first, second] {
        let ended = client.wait(LIMIT).unwrap();
        assert_code(&ended, 0);
        assert!(stdout(&ended).ends_with("-shared"), "{}", stdout(&ended));
        assert!(stderr(&ended).contains("it ends"), "{}", stderr(&ended));
    }
    assert_eq!(builder.sh("cat /w/runs").unwrap(), "x", "it was built more than once");
    assert_sound(server);
}
