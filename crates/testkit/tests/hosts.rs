//! The test hosts themselves: that they start fast, know each other, fail as asked, and vanish.

use std::fs;
use std::time::{Duration, Instant};

use drover_testkit::{Fleet, Host, Signal, Suite};

const SOON: Duration = Duration::from_secs(120);

#[test]
fn stock_nix_distributes_over_them() {
    let fleet = Fleet::new("stock").unwrap();
    let [c, b1, b2] =
        fleet.hosts([("c", Suite::Forky), ("b1", Suite::Trixie), ("b2", Suite::Bookworm)]).unwrap();
    for (host, version) in [(&c, "2.34"), (&b1, "2.26"), (&b2, "2.8")] {
        let said = host.run_ok(&["nix", "--version"]).unwrap();
        assert!(said.contains(&format!(" {version}.")), "{said}");
    }

    for builder in ["b1", "b2"] {
        let drv =
            c.instantiate(&[("shape", "layers"), ("n", "2"), ("d", "2"), ("k", "1")]).unwrap();
        let line = format!("ssh-ng://{builder} {}-linux - 4 1", std::env::consts::ARCH);
        let said = c.run(&["nix-store", "-r", &drv, "-j0", "--builders", &line]).unwrap();
        let log = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{log}");
        assert_eq!(log.matches(&format!("on 'ssh-ng://{builder}'")).count(), 5, "{log}");
        let out = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        assert_eq!(c.read(&format!("{out}/name")).unwrap(), b"graph-layers\n");
        let on_builder = if builder == "b1" { &b1 } else { &b2 };
        on_builder.run_ok(&["nix-store", "--check-validity", &out]).unwrap();
    }
    for host in [&c, &b1, &b2] {
        nothing_left_in(host);
    }
}

/// What a moment is depends on the machine and on what else it does: so it's compared with starting some
/// programs, as a host does.
#[test]
fn a_host_starts_in_a_moment() {
    Suite::Forky.prepare().unwrap();
    let fleet = Fleet::new("speed").unwrap();
    let took = |what: &dyn Fn()| {
        let start = Instant::now();
        what();
        start.elapsed()
    };
    let starts = ["h1", "h2", "h3", "h4", "h5"].map(|name| {
        let host = took(&|| drop(fleet.host(name, Suite::Forky).unwrap()));
        (host, took(&some_programs))
    });
    let is_quick = |(host, programs): &(Duration, Duration)| *host < *programs * 5;
    assert!(starts.iter().any(is_quick), "{starts:?}");
}

/// Starts as many programs as make a host, about.
fn some_programs() {
    for _ in 0..200 {
        assert!(std::process::Command::new("true").status().is_ok_and(|ended| ended.success()));
    }
}

#[test]
fn a_cut_link_heals() {
    let fleet = Fleet::new("cut").unwrap();
    let [c, b] = fleet.hosts([("c", Suite::Forky), ("b", Suite::Forky)]).unwrap();
    c.run_ok(&["ssh", "b", "true"]).unwrap();
    b.cut().unwrap();
    assert!(!c.run(&["ssh", "-oConnectTimeout=1", "b", "true"]).unwrap().status.success());
    b.heal().unwrap();
    c.run_ok(&["ssh", "b", "true"]).unwrap();
}

#[test]
fn a_mute_host_breaks_no_connection_and_answers_none() {
    let fleet = Fleet::new("mute").unwrap();
    let [c, b] = fleet.hosts([("c", Suite::Forky), ("b", Suite::Forky)]).unwrap();
    let script = "echo here; until [ -e /tmp/go ]; do sleep 0.05; done; echo done";
    let mut session = c.spawn(&["ssh", "b", script]).unwrap();
    session.wait_for("here", SOON).unwrap();
    b.mute().unwrap();
    b.write("/tmp/go", "").unwrap();
    let failed = c.run(&["ssh", "-oConnectTimeout=1", "b", "true"]).unwrap();
    assert!(String::from_utf8_lossy(&failed.stderr).contains("timed out"));
    assert!(session.try_wait().unwrap().is_none(), "{}", session.stderr());
    assert!(!session.stdout().contains("done"));
    b.heal().unwrap();
    session.wait_for("done", SOON).unwrap();
    assert!(session.wait(SOON).unwrap().status.success());
}

#[test]
fn delay_adds_round_trips() {
    let fleet = Fleet::new("delay").unwrap();
    let [c, _b] = fleet.hosts([("c", Suite::Forky), ("b", Suite::Forky)]).unwrap();
    let time = || {
        let start = Instant::now();
        c.run_ok(&["ssh", "b", "head -c 3000000 /dev/zero | wc -c"]).unwrap();
        start.elapsed()
    };
    // the best of three: other tests run at the same time
    let best = || [time(), time(), time()].into_iter().min().unwrap();
    let near = best();
    c.delay(300).unwrap();
    let far = time();
    assert!(far > near + Duration::from_millis(900), "{near:?} {far:?}"); // 5 round trips at least
    c.delay(0).unwrap();
    assert!(best() < far);

    // Bytes pass unharmed in both directions.
    c.delay(5).unwrap();
    let sum =
        "head -c 5000000 /dev/urandom >/tmp/x; sha256sum </tmp/x; ssh b cat </tmp/x | sha256sum";
    let said = c.sh(sum).unwrap();
    let (one, two) = said.split_once('\n').unwrap();
    assert_eq!(one, two);
}

#[test]
fn host_keys_are_checked() {
    let fleet = Fleet::new("keys").unwrap();
    let [c, b] = fleet.hosts([("c", Suite::Forky), ("b", Suite::Bookworm)]).unwrap();
    b.run_ok(&["su", "alice", "-c", "ssh c true"]).unwrap();
    assert!(c.host_key().starts_with("ssh-ed25519 "));
    b.sh("cd /etc/ssh; rm ssh_host_ed25519_key*; ssh-keygen -qt ed25519 -N '' -f ssh_host_ed25519_key")
        .unwrap();
    b.kill_sshd();
    let refused = c.run(&["ssh", "b", "true"]).unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Connection refused"));
    b.start_sshd().unwrap();
    let changed = c.run(&["ssh", "b", "true"]).unwrap();
    assert!(String::from_utf8_lossy(&changed.stderr).contains("Host key verification failed"));
}

#[test]
fn services_come_back_and_programs_end() {
    let fleet = Fleet::new("services").unwrap();
    let host = fleet.host("h", Suite::Forky).unwrap();
    host.restart_daemon().unwrap();
    host.run_ok(&["nix", "store", "info", "--store", "daemon"]).unwrap();
    host.kill_sshd();
    host.start_sshd().unwrap();
    nothing_left_in(&host);

    let mut sleeper = host.spawn(&["sh", "-c", "sleep 600 & echo up; wait"]).unwrap();
    sleeper.wait_for("up", SOON).unwrap();
    assert_eq!(host.pids().len(), 2, "{:?}", host.processes());
    drop(sleeper);
    nothing_left_in(&host);

    let trap = "trap 'echo caught; exit 3' INT; echo up; while :; do sleep 0.05; done";
    let mut polite = host.spawn(&["sh", "-c", trap]).unwrap();
    polite.wait_for("up", SOON).unwrap();
    polite.signal(Signal::Interrupt);
    let output = polite.wait(SOON).unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b"up\ncaught\n"[..]));

    let error = host.run_within(Duration::from_millis(200), &["sleep", "600"]).unwrap_err();
    assert!(error.to_string().contains("not done within"), "{error}");
    nothing_left_in(&host);
}

#[test]
fn files_travel() {
    let fleet = Fleet::new("files").unwrap();
    let host = fleet.host("h", Suite::Forky).unwrap();
    host.write("/srv/deep/er/file", "text").unwrap();
    assert_eq!(host.read("/srv/deep/er/file").unwrap(), b"text");
    host.put("/bin/true", "/usr/local/bin/really").unwrap();
    host.run_ok(&["really"]).unwrap();
    let error = host.run_ok(&["sh", "-c", "echo why >&2; exit 7"]).unwrap_err().to_string();
    assert!(error.contains("exit 7") && error.contains("why"), "{error}");
    assert!(fleet.host("h", Suite::Forky).unwrap_err().to_string().contains("already"));
}

#[test]
fn nothing_is_left_after_a_panic() {
    let (folder, pids) = std::thread::spawn(|| {
        let fleet = Fleet::new("panic").unwrap();
        let host = fleet.host("h", Suite::Forky).unwrap();
        let sleeper = host.spawn(&["sleep", "600"]).unwrap();
        while sleeper.pid().is_none() {}
        let seen = (fleet.folder().to_owned(), host.pids());
        assert!(!seen.1.is_empty());
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _owned = (fleet, host, sleeper);
            panic!("on purpose");
        }));
        assert!(result.is_err());
        seen
    })
    .join()
    .unwrap();
    assert!(!folder.exists());
    for pid in pids {
        assert!(!fs::exists(format!("/proc/{pid}")).unwrap(), "{pid} lives");
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(folder.to_str().unwrap()));
}

fn nothing_left_in(host: &Host) {
    let start = Instant::now();
    while !host.pids().is_empty() {
        // Ended SSH sessions take a moment to go.
        assert!(start.elapsed() < SOON, "{}: {:?}", host.name(), host.processes());
        std::thread::yield_now();
    }
}
