//! A head for a team: everybody's Nix has one builder, where drover's daemon spreads the builds over its
//! machines.

use drover_testkit::{Fleet, Host, Suite};

use crate::failures::{LONG, until};
use crate::own::{assert_sound, become_the_daemon};
use crate::{assert_code, builders, stderr};

/// Gives a client a key of its own, which stands for its name on the head.
pub(crate) fn let_in(client: &Host, head: &Host, name: &str) {
    let public = client
        .sh("ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/own && cat /root/.ssh/own.pub")
        .unwrap();
    let forced = "env PATH=/usr/local/bin:/usr/bin:/bin sh -c \\\"$SSH_ORIGINAL_COMMAND\\\"";
    let line = format!("command=\"DROVER_CLIENT={name} {forced}\",restrict {}", public.trim());
    head.write("/w/line", line + "\n").unwrap();
    head.sh("cat /w/line >> /root/.ssh/authorized_keys").unwrap();
    let line = format!("ssh-ng://head {}-linux /root/.ssh/own 8 1 -\n", std::env::consts::ARCH);
    client.write("/etc/nix/machines", line).unwrap();
}

fn build(client: &Host, n: &str, sleep: &str) -> drover_testkit::Running {
    let graph = [("shape", "wide"), ("n", n), ("sleep", sleep)];
    let drv = client.instantiate(&graph).unwrap();
    client.spawn(&["sh", "-c", &format!("NIX_REMOTE=daemon exec nix-store -r {drv} -j0")]).unwrap()
}

/// Builds that run on a machine, by the seconds that they sleep.
fn running(host: &Host, sleep: &str) -> usize {
    let is_it = |command: &str| command.ends_with(&format!("sleep {sleep}"));
    host.processes().iter().filter(|(_, command)| is_it(command)).count()
}

#[test]
fn a_team_shares_the_machines_behind_a_head() {
    let fleet = Fleet::new("head").unwrap();
    let [head, alice, bob, worker] = fleet
        .hosts([
            ("head", Suite::Forky),
            ("alice", Suite::Forky),
            ("bob", Suite::Bookworm),
            ("worker", Suite::Trixie),
        ])
        .unwrap();
    head.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
    head.sh("drover compat install /usr/local/bin; echo 'max-jobs = 0' >> /etc/nix/nix.conf")
        .unwrap();
    become_the_daemon(&head, &builders("ssh-ng", &["worker"], 4));
    let_in(&alice, &head, "alice");
    let_in(&bob, &head, "bob");

    // alice takes all of it, and bob's few builds get their half as soon as slots become free
    let of_alice = build(&alice, "40", "8");
    until("alice's builds run", || running(&worker, "8") == 4);
    let of_bob = build(&bob, "2", "15");
    until("bob has his share", || running(&worker, "15") == 2);
    assert!(running(&worker, "8") + running(&worker, "15") <= 4, "more than there are slots");
    let told = head.sh("drover builds --json").unwrap();
    assert!(told.contains("root/alice") && told.contains("root/bob"), "{told}");
    let ended = of_bob.wait(LONG).unwrap();
    assert_code(&ended, 0);
    assert!(stderr(&ended).contains("wide-1 ends"), "{}", stderr(&ended));

    // who leaves takes what nobody else waits for
    drop(of_alice);
    until("nothing of alice's runs any more", || running(&worker, "8") == 0);
    assert_sound(&head);

    // one whose daemon is down has drover all the same, and says what is wrong
    head.sh("pkill -x drover; sleep 1; rm -f /nix/var/nix/daemon-socket/socket").unwrap();
    alice.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
    let store = "ssh-ng://head?ssh-key=/root/.ssh/own";
    let refused = alice.run(&["drover", "machines", "--store", store]).unwrap();
    assert_code(&refused, 1);
    let told = stderr(&refused);
    assert!(told.contains("no daemon of drover schedules builds here"), "{told}");
    assert!(!told.contains("compat install"), "{told}");
}

/// As `docs/team.md` sets a head up: a user who can only speak to the daemon, whom nobody trusts, and whose clients are
/// told apart all the same.
#[test]
fn a_team_whose_members_are_not_trusted() {
    let fleet = Fleet::new("team").unwrap();
    let [head, alice, worker] = fleet
        .hosts([("head", Suite::Forky), ("alice", Suite::Forky), ("worker", Suite::Trixie)])
        .unwrap();
    for host in [&head, &alice] {
        host.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
    }
    head.sh("printf 'max-jobs = 0\nnaming-users = builds\n' >> /etc/nix/nix.conf").unwrap();
    become_the_daemon(&head, &builders("ssh-ng", &["worker"], 4));
    let key = "ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/head && cat /root/.ssh/head.pub";
    let key = alice.sh(key).unwrap();
    let command = "env DROVER_CLIENT=alice /usr/local/bin/drover daemon --stdio";
    let line = format!("command=\"{command}\",restrict {}\n", key.trim());
    head.write("/w/line", line).unwrap();
    let user = "useradd --system --create-home --shell /bin/sh --password '*' builds
                install -d -o builds -m 700 /home/builds/.ssh
                install -o builds -m 600 /w/line /home/builds/.ssh/authorized_keys";
    head.sh(user).unwrap();
    let arch = std::env::consts::ARCH;
    let line = format!("ssh-ng://builds@head {arch}-linux /root/.ssh/head 64 1 -\n");
    alice.write("/etc/nix/machines", line).unwrap();
    let of_alice = build(&alice, "2", "20");
    until("alice's builds run", || running(&worker, "20") == 2);
    let store = "--store 'ssh-ng://builds@head?ssh-key=/root/.ssh/head'";
    let told = alice.sh(&format!("drover builds --json {store}")).unwrap();
    assert!(told.contains("builds/alice"), "{told}");
    let refused =
        alice.run(&["sh", "-c", &format!("drover machines drain worker {store}")]).unwrap();
    assert_code(&refused, 1);
    assert!(stderr(&refused).contains("may only ask"), "{}", stderr(&refused));
    assert_code(&of_alice.wait(LONG).unwrap(), 0);
    let ran =
        alice.run(&["ssh", "-oBatchMode=yes", "-i/root/.ssh/head", "builds@head", "id"]).unwrap();
    assert!(!String::from_utf8_lossy(&ran.stdout).contains("uid="), "a key runs what it wants");

    // what is said there where the daemon is down is shown
    head.sh("pkill -x drover; sleep 1; rm -f /nix/var/nix/daemon-socket/socket").unwrap();
    let refused = alice.run(&["sh", "-c", &format!("drover machines {store}")]).unwrap();
    assert_code(&refused, 1);
    let told = stderr(&refused);
    assert!(told.contains("there is no Nix daemon at"), "{told}");
    assert!(!told.contains("compat install"), "{told}");
}
