//! Builds that outlive who asked for them: held by the daemon, followed, ended, remembered.

use drover_testkit::{Fleet, Host, Running, Signal, Suite};

use crate::failures::until;
use crate::head::let_in;
use crate::own::{assert_sound, become_the_daemon};
use crate::{LIMIT, Lab, assert_code, builders, stderr, stdout};

/// Builds that say that they run, end when they are told to, and fail if they are told that.
const NIX: &str = r#"{ name, needs ? "", script ? "/bin/busybox sleep 1234 >/dev/null 2>&1 & echo it begins; while ! [ -e /w/go ]; do /bin/busybox sleep 0.1; done; echo built > $out" }:
  let make = name: script: derivation { inherit name script; system = builtins.currentSystem;
    builder = "/bin/sh"; args = [ "-c" script ]; };
  in if needs == "" then make name script
  else make name "echo ${make needs script} > $out""#;

/// Runs something as a user, to its end.
fn run_as(host: &Host, user: &str, script: &str) -> std::process::Output {
    host.run_within(LIMIT, &["su", user, "-s", "/bin/sh", "-c", script]).unwrap()
}

fn start_as(host: &Host, user: &str, script: &str) -> Running {
    // no shell in between that takes signals for itself
    let script = format!("export HOME=~{user}; exec {script}");
    let user = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "sh", "-c", &script];
    host.spawn(&user).unwrap()
}

/// What builds of [`NIX`] have started beside and left running.
fn left_running(host: &Host) -> usize {
    host.processes().iter().filter(|(_, command)| command.ends_with("sleep 1234")).count()
}

/// Hands a build over, and returns the name that it has.
fn detach(host: &Host, user: &str, arguments: &str) -> String {
    let handed = run_as(host, user, &format!("drover build --detach {arguments}"));
    assert_code(&handed, 0);
    let id = stdout(&handed);
    assert!(stderr(&handed).contains(&format!("drover builds attach {id}")), "{}", stderr(&handed));
    id
}

/// Builds of [`NIX`] that wait on a machine to be told to end. One counts twice while it starts something.
fn waiting(host: &Host) -> usize {
    let is_it = |command: &str| command.contains("echo it begins");
    host.processes().iter().filter(|(_, command)| is_it(command)).count()
}

fn users(host: &Host) {
    host.sh("mkdir -p /w; for user in ann bob; do id $user 2>/dev/null || useradd -m $user; done")
        .unwrap();
    host.write("/w/x.nix", NIX).unwrap();
    host.sh("echo 'max-jobs = 0' >> /etc/nix/nix.conf").unwrap();
}

#[test]
fn a_detached_build_goes_on_and_is_remembered() {
    let lab = Lab::new("detach", Suite::Forky, Suite::Bookworm);
    let (head, b1) = (&lab.client, &lab.b1);
    users(head);
    b1.sh("mkdir -p /w && chmod 1777 /w").unwrap();
    // Nix's own daemon holds nothing
    let refused = run_as(head, "ann", "drover build --detach -f /w/x.nix --argstr name one");
    assert_code(&refused, 1);
    assert!(stderr(&refused).contains("a daemon of drover holds them"), "{}", stderr(&refused));
    become_the_daemon(head, &builders("ssh-ng", &["b1"], 4));

    let id = detach(head, "ann", "-f /w/x.nix --argstr name one");
    until("it runs, and nobody waits for it here", || waiting(b1) == 1);
    let told = head.sh("drover builds").unwrap();
    assert!(told.contains(&format!("{id}  one         running for ")), "{told}");
    assert!(told.contains("ann"), "{told}");

    // who has looked at it may go, and it is nobody else's
    let mut attached = start_as(head, "ann", &format!("drover builds attach {id}"));
    attached.wait_for("one> it begins", LIMIT).unwrap();
    attached.signal(Signal::Interrupt);
    let ended = attached.wait(LIMIT).unwrap();
    assert_code(&ended, 130);
    assert!(stderr(&ended).contains(&format!("{id} goes on")), "{}", stderr(&ended));
    for word in ["attach", "cancel"] {
        let refused = run_as(head, "bob", &format!("drover builds {word} {id}"));
        assert_code(&refused, 1);
        assert!(stderr(&refused).contains("is 'ann''s"), "{}", stderr(&refused));
    }
    until("it still runs", || waiting(b1) == 1);

    // its end, for who sees it and for who comes later
    let attached = start_as(head, "ann", &format!("drover builds attach {id}"));
    b1.sh("touch /w/go").unwrap();
    let ended = attached.wait(LIMIT).unwrap();
    assert_code(&ended, 0);
    let path = stdout(&ended);
    assert!(path.ends_with("-one"), "{path}");
    // stock Nix's collector finds it kept
    // (it looks at what all processes have open, and gives up where one of other tests is in its way)
    let collect = "for i in $(seq 20); do nix-store --gc && exit 0; sleep 0.2; done; exit 1";
    head.sh(&format!("NIX_REMOTE=local sh -c '{collect}'; grep -qx built {path}")).unwrap();
    for user in ["ann", "root"] {
        let again = run_as(head, user, &format!("drover builds attach {id}"));
        assert_code(&again, 0);
        assert_eq!(stdout(&again), path);
        assert!(
            stderr(&again).contains("building one on b1\none> it begins"),
            "{}",
            stderr(&again)
        );
    }
    let over = run_as(head, "ann", &format!("drover builds cancel {id}"));
    assert!(stderr(&over).contains("is over already"), "{}", stderr(&over));

    // a build that fails, a build whose dependency does
    for (arguments, words) in [
        ("", "exit code 3"),
        // be it sent ahead and called back, or not
        ("--argstr needs worse", "1 dependency failed"),
    ] {
        let script = "--argstr script 'echo oops; exit 3'";
        let arguments = format!("-f /w/x.nix --argstr name bad {script} {arguments}");
        let id = detach(head, "bob", &arguments);
        let failed = run_as(head, "bob", &format!("drover builds attach {id}"));
        assert_code(&failed, 100);
        assert!(stderr(&failed).contains("> oops"), "{}", stderr(&failed));
        let said = stderr(&failed);
        assert!(said.contains("build of bad failed"), "{said}");
        assert!(said.contains(words), "{said}");
    }
    let told = head.sh("drover builds --json").unwrap();
    let builds: serde_json::Value = serde_json::from_str(&told).unwrap();
    let states: Vec<&str> = builds["detached"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["succeeded", "failed", "failed"], "{told}");

    // a daemon that is started anew knows nothing of it, and says so
    head.sh("pkill -x drover").unwrap();
    until("the daemon has ended", || head.sh("pgrep -x drover").is_err());
    become_the_daemon(head, &builders("ssh-ng", &["b1"], 4));
    let unknown = run_as(head, "ann", &format!("drover builds attach {id}"));
    assert_code(&unknown, 1);
    assert!(stderr(&unknown).contains("which was started"), "{}", stderr(&unknown));
    assert_sound(head);
}

#[test]
fn a_detached_build_is_ended_by_its_owner_and_others_with_their_clients() {
    let lab = Lab::new("cancel", Suite::Forky, Suite::Trixie);
    let (head, b1) = (&lab.client, &lab.b1);
    users(head);
    b1.sh("mkdir -p /w && chmod 1777 /w").unwrap();
    become_the_daemon(head, &builders("ssh-ng", &["b1"], 4));

    let id = detach(head, "ann", "-f /w/x.nix --argstr name one");
    let of_bob = detach(head, "bob", "-f /w/x.nix --argstr name two");
    let drv = head
        .sh("NIX_REMOTE=local nix-instantiate --quiet /w/x.nix --argstr name three 2>/dev/null")
        .unwrap();
    let script = format!("NIX_REMOTE=daemon exec nix-store -r {}", drv.trim());
    let realising = start_as(head, "ann", &format!("sh -c '{script}'"));
    until("all of them run", || waiting(b1) == 3);

    // a client that isn't detached takes its build along
    drop(realising);
    until("two are left", || waiting(b1) == 2);
    let mut attached = start_as(head, "ann", &format!("drover builds attach {id}"));
    attached.wait_for("one> it begins", LIMIT).unwrap();
    assert_code(&run_as(head, "ann", &format!("drover builds cancel {id}")), 0);
    until("one is left, with all that it has started", || {
        waiting(b1) == 1 && left_running(b1) == 1
    });
    let ended = attached.wait(LIMIT).unwrap();
    assert_code(&ended, 1);
    assert!(stderr(&ended).contains("it was cancelled by 'ann'"), "{}", stderr(&ended));

    // trusted users end others' builds, too; and what is shared goes on for those who are left
    let shared = detach(head, "ann", "-f /w/x.nix --argstr name two");
    assert_code(&run_as(head, "root", &format!("drover builds cancel {of_bob}")), 0);
    let told = head.sh("drover builds").unwrap();
    assert!(told.contains("cancelled "), "{told}");
    until("it still runs, as ann waits for it", || waiting(b1) == 1);
    assert_code(&run_as(head, "ann", &format!("drover builds cancel {shared}")), 0);
    until("nothing runs any more", || waiting(b1) == 0 && left_running(b1) == 0);

    // a daemon that is asked to end when it's done waits for what it holds
    let last = detach(head, "ann", "-f /w/x.nix --argstr name four");
    until("it runs", || waiting(b1) == 1);
    head.sh("pkill -USR1 -x drover").unwrap();
    let mut attached = start_as(head, "ann", &format!("drover builds attach {last}"));
    attached.wait_for("four> it begins", LIMIT).unwrap();
    b1.sh("touch /w/go").unwrap();
    let ended = attached.wait(LIMIT).unwrap();
    assert_code(&ended, 0);
    until("the daemon has ended", || head.sh("pgrep -x drover").is_err());
    head.sh(&format!("grep -qx built {}", stdout(&ended))).unwrap();
    assert_sound(head);
}

#[test]
fn attach_goes_on_after_its_terminal_was_stopped() {
    let lab = Lab::new("stopped", Suite::Forky, Suite::Trixie);
    let (head, b1) = (&lab.client, &lab.b1);
    users(head);
    b1.sh("mkdir -p /w && chmod 1777 /w").unwrap();
    become_the_daemon(head, &builders("ssh-ng", &["b1"], 4));
    let id = detach(head, "ann", "-f /w/x.nix --argstr name one");
    let mut attached = start_as(head, "ann", &format!("drover builds attach {id}"));
    attached.wait_for("one> it begins", LIMIT).unwrap();
    let asks = || {
        let script = "grep -c ' 0001 03 .*/[.]c[0-9]*$' /proc/net/unix || true";
        head.sh(script).unwrap().trim().to_owned()
    };
    assert_eq!(asks(), "1", "it asks the daemon");

    attached.signal(Signal::Stop);
    until("the daemon waits for it no longer", || asks() == "0");
    b1.sh("touch /w/go").unwrap();
    until("it is over", || head.sh("drover builds").unwrap().contains("succeeded"));
    attached.signal(Signal::Continue);
    let ended = attached.wait(LIMIT).unwrap();
    assert_code(&ended, 0);
    assert!(stdout(&ended).ends_with("-one"), "{}", stdout(&ended));
    assert_eq!(stderr(&ended).matches("it begins").count(), 1, "{}", stderr(&ended));

    // where nobody is left to ask, it says what to do
    b1.sh("rm /w/go").unwrap();
    let id = detach(head, "ann", "-f /w/x.nix --argstr name two");
    let mut attached = start_as(head, "ann", &format!("drover builds attach {id}"));
    attached.wait_for("two> it begins", LIMIT).unwrap();
    head.sh("pkill -KILL -x drover -u root").unwrap();
    let ended = attached.wait(LIMIT).unwrap();
    assert_code(&ended, 1);
    assert!(stderr(&ended).contains("can't be followed any more"), "{}", stderr(&ended));
}

#[test]
fn a_detached_build_ends_with_the_code_that_it_has_in_the_foreground() {
    let lab = Lab::new("codes", Suite::Forky, Suite::Trixie);
    let head = &lab.client;
    users(head);
    let machines = builders("ssh-ng", &["b1"], 4);
    become_the_daemon(head, &machines);
    let slow = "--timeout 1 --argstr script '/bin/busybox sleep 1234'";
    let bad = "--argstr script 'exit 3'";
    for (what, arguments, machines, code) in [
        ("a build that takes too long", slow.to_owned(), &*machines, 101),
        (
            "a dependency that takes too long",
            format!("{slow} --argstr needs dependency"),
            &*machines,
            101,
        ),
        ("a build that fails", bad.to_owned(), &*machines, 100),
        ("a build that makes nothing", "--argstr script true".to_owned(), &*machines, 1),
        ("a dependency that fails", format!("{bad} --argstr needs dependency"), &*machines, 100),
        ("a dependency without a machine", format!("{bad} --argstr needs x"), "", 100),
    ] {
        let arguments =
            format!("-j0 --builders '{machines}' -f /w/x.nix --argstr name one {arguments}");
        let foreground = run_as(head, "root", &format!("drover build --no-link {arguments}"));
        let id = detach(head, "root", &arguments);
        let attached = run_as(head, "root", &format!("drover builds attach {id}"));
        let (front, back) = (foreground.status.code(), attached.status.code());
        assert_eq!((front, back), (Some(code), Some(code)), "{what}: {}", stderr(&attached));
    }
}

#[test]
fn a_head_holds_builds_for_those_whose_key_it_knows() {
    let fleet = Fleet::new("dhead").unwrap();
    let [head, alice, bob, worker] = fleet
        .hosts([
            ("head", Suite::Forky),
            ("alice", Suite::Forky),
            ("bob", Suite::Forky),
            ("worker", Suite::Trixie),
        ])
        .unwrap();
    for host in [&head, &alice, &bob] {
        host.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
        host.sh("mkdir -p /w").unwrap();
    }
    head.sh("drover compat install /usr/local/bin; echo 'max-jobs = 0' >> /etc/nix/nix.conf")
        .unwrap();
    worker.sh("mkdir -p /w && chmod 1777 /w").unwrap();
    become_the_daemon(&head, &builders("ssh-ng", &["worker"], 4));
    let_in(&alice, &head, "alice");
    let_in(&bob, &head, "bob");
    alice.write("/w/x.nix", NIX).unwrap();
    let store = "--store 'ssh-ng://head?ssh-key=/root/.ssh/own'";

    let id = detach(&alice, "root", &format!("{store} -f /w/x.nix --argstr name one"));
    until("it runs", || waiting(&worker) == 1);
    let told = run_as(&bob, "root", &format!("drover builds {store}"));
    assert_code(&told, 0);
    assert!(stdout(&told).contains("root/alice"), "{}", stdout(&told));
    for word in ["attach", "cancel"] {
        let refused = run_as(&bob, "root", &format!("drover builds {word} {id} {store}"));
        assert_code(&refused, 1);
        assert!(stderr(&refused).contains("is 'root/alice''s"), "{}", stderr(&refused));
    }
    let machines = run_as(&bob, "root", &format!("drover machines {store}"));
    assert_code(&machines, 0);
    assert!(stdout(&machines).contains("worker"), "{}", stdout(&machines));
    let refused = run_as(&bob, "root", &format!("drover machines drain worker {store}"));
    assert!(stderr(&refused).contains("'root/bob' may only ask"), "{}", stderr(&refused));

    let mut attached = start_as(&alice, "root", &format!("drover builds attach {id} {store}"));
    attached.wait_for("one> it begins", LIMIT).unwrap();
    drop(attached);
    until("it still runs", || waiting(&worker) == 1);
    worker.sh("touch /w/go").unwrap();
    let ended = run_as(&alice, "root", &format!("drover builds attach {id} {store}"));
    assert_code(&ended, 0);
    head.sh(&format!("grep -qx built {}", stdout(&ended))).unwrap();

    // a connection that breaks is made anew, and what was shown isn't shown again
    worker.sh("rm /w/go").unwrap();
    let id = detach(&alice, "root", &format!("{store} -f /w/x.nix --argstr name two"));
    let mut attached = start_as(&alice, "root", &format!("drover builds attach {id} {store}"));
    attached.wait_for("two> it begins", LIMIT).unwrap();
    head.sh("pkill -KILL -f '[n]ix-daemon --stdio'").unwrap();
    worker.sh("touch /w/go").unwrap();
    let ended = attached.wait(LIMIT).unwrap();
    assert_code(&ended, 0);
    assert_eq!(stderr(&ended).matches("it begins").count(), 1, "{}", stderr(&ended));

    // derivations that only the client's own store has go along, of what is in the foreground, too
    let only_here = |name: &str| {
        let script = format!(
            "NIX_REMOTE=local nix-instantiate --quiet /w/x.nix --argstr name {name} --argstr needs of-{name} 2>/dev/null"
        );
        alice.sh(&script).unwrap().trim().to_owned()
    };
    let drv = only_here("three");
    let id = detach(&alice, "root", &format!("{store} {drv}"));
    let ended = run_as(&alice, "root", &format!("drover builds attach {id} {store}"));
    assert_code(&ended, 0);
    head.sh(&format!("grep -q of-three {}", stdout(&ended))).unwrap();
    let drv = only_here("four");
    let built = format!("drover build -j0 --print-out-paths {store} {drv}");
    let built = run_as(&alice, "root", &built);
    assert_code(&built, 0);
    assert!(stderr(&built).contains("copying 2 paths of derivations to"), "{}", stderr(&built));
    head.sh(&format!("grep -q of-four {}", stdout(&built))).unwrap();
    // … which is the one that nix.conf names
    let own = "NIX_CONFIG='store = local?root=/w/own'";
    let script = format!("{own} nix-instantiate --quiet /w/x.nix --argstr name five 2>/dev/null");
    let drv = alice.sh(&script).unwrap().trim().to_owned();
    let built = format!("{own} drover build -j0 --print-out-paths {store} {drv}");
    let built = run_as(&alice, "root", &built);
    assert_code(&built, 0);
    head.sh(&format!("grep -qx built {}", stdout(&built))).unwrap();
    let nowhere = "/nix/store/3880j94arxkya3irs3d8nr2x076sp1m8-a.drv";
    let refused = run_as(&alice, "root", &format!("drover build --detach {store} {nowhere}"));
    assert_code(&refused, 1);
    assert!(stderr(&refused).contains("is not in the store of the daemon"), "{}", stderr(&refused));

    // where Nix's own daemon is at the other end
    let refused = run_as(&alice, "root", "drover builds --store ssh-ng://worker");
    assert_code(&refused, 1);
    assert!(stderr(&refused).contains("this needs a daemon of drover"), "{}", stderr(&refused));
    assert_sound(&head);
}
