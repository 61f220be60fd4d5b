//! The ways to a machine: keys, host keys, parameters, and machines that don't answer.

use std::process::Output;
use std::time::{Duration, Instant};

use drover_testkit::{Host, Signal, Suite};

use crate::{LIMIT, Lab, assert_code, builders, stderr, stdout};

/// Returns a public host key as it stands in an address or a machines file.
fn base64(host: &Host, key: &str) -> String {
    host.sh(&format!("printf '%s\\n' '{key} root@somewhere' | base64 -w0")).unwrap()
}

fn ping(lab: &Lab, store: &str) -> Output {
    lab.drover(&["store", "ping", "--store", store])
}

#[track_caller]
fn assert_refused(output: &Output, words: &[&str]) {
    assert_code(output, 1);
    for word in words {
        assert!(stderr(output).contains(word), "no {word:?} in {}", stderr(output));
    }
}

/// The client has no key of its own by default, and knows nobody's.
#[test]
fn keys_are_taken_from_where_they_are_given() {
    let lab = Lab::new("keys", Suite::Forky, Suite::Trixie);
    let client = &lab.client;
    client.sh("mkdir /w; mv /root/.ssh/id_ed25519 /w/key; rm /etc/ssh/ssh_known_hosts").unwrap();
    let right = base64(client, lab.b1.host_key());
    let wrong = base64(client, lab.b2.host_key());
    pinned_in_the_address(&lab, &right, &wrong);
    pinned_in_the_machines_file(&lab, &right, &wrong);
}

fn pinned_in_the_address(lab: &Lab, right: &str, wrong: &str) {
    let encoded = |key: &str| key.replace('=', "%3D").replace('+', "%2B");
    let store = |scheme: &str, key: &str| {
        format!("{scheme}://b1?ssh-key=/w/key&base64-ssh-public-host-key={}", encoded(key))
    };
    for scheme in ["ssh-ng", "ssh"] {
        assert_code(&ping(lab, &store(scheme, right)), 0);
        let said = ping(lab, &store(scheme, wrong));
        assert_refused(&said, &["b1", "not the one that is given", "eighth column"]);
        // ssh's own advice is about a file that is gone
        assert!(!stderr(&said).contains("@@@") && !stderr(&said).contains("ssh-keygen -f"));
    }
    // padding is nobody's business
    assert_code(&ping(lab, &store("ssh-ng", right.trim_end_matches('='))), 0);
    assert_code(&ping(lab, &format!("{}&compress=true", store("ssh-ng", right))), 0);
    assert_refused(&ping(lab, "ssh-ng://b1?ssh-key=/w/key"), &["b1", "the host's key is not"]);
    let without_key = format!("ssh-ng://b1?base64-ssh-public-host-key={}", encoded(right));
    assert_refused(&ping(lab, &without_key), &["b1", "ssh -oBatchMode=yes b1"]);
}

fn pinned_in_the_machines_file(lab: &Lab, right: &str, wrong: &str) {
    let client = &lab.client;
    // an alias has the key of the host behind it
    let alias = format!("Host shed\\n  HostName {}\\n", lab.b1.address());
    client.sh(&format!("printf '{alias}' >> /root/.ssh/config")).unwrap();
    let arch = std::env::consts::ARCH;
    let line =
        |host: &str, key: &str| format!("ssh-ng://{host} {arch}-linux /w/key 2 1 - - {key}\n");
    client.write("/etc/nix/machines", line("shed", right) + &line("b2", right)).unwrap();
    let drv = client.instantiate(&[("shape", "wide"), ("n", "4"), ("sleep", "0.2")]).unwrap();
    let built = lab.drover(&["build", "--no-link", "-j0", &drv]);
    assert_code(&built, 0);
    let said = stderr(&built);
    assert!(said.contains(" on shed in ") && !said.contains(" on b2 in "), "{said}");
    client.write("/etc/nix/machines", line("b1", wrong)).unwrap();
    let drv = client.instantiate(&[("shape", "wide"), ("n", "1")]).unwrap();
    let said = lab.drover(&["build", "--no-link", "-j0", &drv]);
    assert_refused(&said, &["no machine could build", "b1: ", "the host's key is not the one"]);
}

/// Has a host swallow everything. A client knows the way to it, so nobody says that there is none.
pub(crate) fn swallow_everything(host: &Host, client: &Host) {
    let place = host.sh("cat /sys/class/net/eth0/address").unwrap();
    let known = format!("ip neigh replace {} lladdr {place} dev eth0", host.address());
    client.sh(&format!("{known} nud permanent")).unwrap();
    host.mute().unwrap();
}

/// The end comes with the connect timeout, and says of each machine what is wrong.
#[test]
fn machines_that_swallow_everything_are_named() {
    let lab = Lab::new("holes", Suite::Forky, Suite::Forky);
    let drv = lab.client.instantiate(&[("shape", "wide"), ("n", "2")]).unwrap();
    for host in [&lab.b1, &lab.b2] {
        swallow_everything(host, &lab.client);
    }
    let machines = builders("ssh-ng", &["b1", "b2"], 2);
    for (limit, options) in [(10, vec![]), (3, vec!["--option", "connect-timeout", "3"])] {
        let mut arguments = vec!["build", "--no-link", "-j0", "--builders", &machines, &drv];
        arguments.extend(options);
        let began = Instant::now();
        let failed = lab.drover(&arguments);
        let took = began.elapsed();
        assert_code(&failed, 1);
        let said = stderr(&failed);
        let reasons = said.split_once("error: ").unwrap_or_default().1;
        assert!(reasons.starts_with("no machine could build "), "{said}");
        for host in ["b1", "b2"] {
            let reason = reasons.lines().find(|line| line.contains(&format!(" {host}: ")));
            assert!(reason.is_some_and(|line| line.contains("timed out")), "{host}: {said}");
        }
        assert!(Duration::from_secs(limit) <= took, "{took:?}: {said}");
        // a bit for a machine that is busy with other tests
        assert!(took < Duration::from_secs(limit + 20), "{took:?} for {limit} s: {said}");
    }
}

/// Two signals at once: drover is gone, and so is all that it had made.
#[test]
fn leaving_at_once_leaves_nothing() {
    let lab = Lab::new("twice", Suite::Forky, Suite::Forky);
    let graph = [("shape", "wide"), ("n", "6"), ("sleep", "60")];
    let drv = lab.client.instantiate(&graph).unwrap();
    let machines = builders("ssh-ng", &["b1", "b2"], 2);
    let line = ["drover", "build", "--no-link", "-j0", "--builders", &machines, &drv];
    let mut build = lab.client.spawn(&line).unwrap();
    build.wait_for("building ", LIMIT).unwrap();
    let folders = lab.client.run(&["sh", "-c", "ls -d /tmp/drover-*"]).unwrap();
    assert_ne!(stdout(&folders), "", "where has the folder gone?");
    build.signal(Signal::Interrupt);
    build.signal(Signal::Terminate);
    assert_code(&build.wait(LIMIT).unwrap(), 130);
    assert_eq!(lab.client.sh("ls /tmp").unwrap(), "");
    let began = Instant::now();
    let remains = |(_, line): &(i32, String)| line.contains("ssh -") || line.contains("sleep 60");
    for host in [&lab.client, &lab.b1, &lab.b2] {
        while host.processes().iter().any(remains) {
            assert!(began.elapsed() < LIMIT, "{:?}", host.processes());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
