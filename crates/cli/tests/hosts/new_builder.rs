//! Machines that `drover builder` adds: what is written works, for drover and for stock Nix.

use drover_testkit::{Host, Suite};

use crate::failures::until;
use crate::{LIMIT, Lab, assert_code, stderr, stdout};

const MACHINES: &str = "/etc/nix/machines";

fn machines(lab: &Lab) -> String {
    String::from_utf8(lab.client.read(MACHINES).unwrap()).unwrap()
}

/// Builds a chain on the machines that are listed, by drover and by stock Nix.
#[track_caller]
fn assert_builds(client: &Host) {
    for command in [["drover", "build", "--no-link", "-j0"].as_slice(), &["nix-store", "-j0", "-r"]]
    {
        let drv = client.instantiate(&[("shape", "chain"), ("d", "2")]).unwrap();
        client.run_ok(&[command, &[drv.as_str()]].concat()).unwrap();
    }
}

#[test]
fn a_machine_is_tried_and_written() {
    let lab = Lab::new("add", Suite::Trixie, Suite::Forky);
    lab.client.write(MACHINES, "# ours").unwrap();
    let added = lab.drover(&["builder", "add", "root@b1", "--yes", "-j", "3"]);
    assert_code(&added, 0);
    let said = stderr(&added);
    assert!(said.contains("root@b1 shows ssh-ed25519 SHA256:"), "{said}");
    assert!(said.contains("that is the key in known_hosts"), "{said}");
    let text = machines(&lab);
    let [comment, line] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert_eq!(comment, "# ours");
    let columns: Vec<&str> = line.split(' ').collect();
    let arch = std::env::consts::ARCH;
    assert!(columns[1].split(',').any(|system| system == format!("{arch}-linux")), "{line}");
    assert_eq!((columns[0], columns[2], columns[3]), ("ssh-ng://root@b1", "-", "3"));
    assert!(columns[5].contains("big-parallel"), "{line}");
    // the key is written whole, and counts
    lab.client.sh("rm /etc/ssh/ssh_known_hosts").unwrap();
    assert_builds(&lab.client);
    // once is enough, by whichever protocol
    for again in ["root@b1", "ssh://root@b1"] {
        let output = lab.drover(&["builder", "add", again, "--yes"]);
        assert_code(&output, 1);
        assert!(stderr(&output).contains("is listed already, on line 2"), "{}", stderr(&output));
    }
    assert_eq!(machines(&lab), text);
}

/// Whoever changes the machines meanwhile is waited for, and what it has written stays.
#[test]
fn machines_that_are_added_at_once_are_all_listed() {
    let lab = Lab::new("add-two", Suite::Forky, Suite::Trixie);
    lab.client.write(MACHINES, "# ours\n").unwrap();
    let other = "mkdir -p /w; exec flock /etc/nix sh -c 'touch /w/held; old=$(cat /etc/nix/machines); \
                 while ! [ -e /w/go ]; do sleep 0.1; done; \
                 printf \"%s\\nssh://other\\n\" \"$old\" > /etc/nix/machines'";
    let other = lab.client.spawn(&["sh", "-c", other]).unwrap();
    until("somebody changes the file", || lab.client.sh("test -e /w/held").is_ok());
    let adding = ["root@b1", "root@b2"]
        .map(|machine| lab.client.spawn(&["drover", "builder", "add", machine, "--yes"]).unwrap());
    let at_it = "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c ' /etc/nix$'";
    until("both wait for their turns", || {
        let count = lab.client.sh(at_it).unwrap_or_default();
        // the other one has it open as flock and as its shell
        count.trim().parse().is_ok_and(|count: usize| count >= 4)
    });
    assert_eq!(machines(&lab), "# ours\n");
    lab.client.sh("touch /w/go").unwrap();
    assert_code(&other.wait(LIMIT).unwrap(), 0);
    for adding in adding {
        assert_code(&adding.wait(LIMIT).unwrap(), 0);
    }
    let text = machines(&lab);
    for line in ["# ours", "ssh://other", "ssh-ng://root@b1 ", "ssh-ng://root@b2 "] {
        assert_eq!(text.matches(line).count(), 1, "{text}");
    }
}

#[test]
fn a_host_that_is_not_known_is_not_believed() {
    let lab = Lab::new("add-key", Suite::Forky, Suite::Forky);
    lab.client.sh("rm /etc/ssh/ssh_known_hosts").unwrap();
    // nobody is there to be asked
    let output = lab.drover(&["builder", "add", "b1"]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("--fingerprint"), "{}", stderr(&output));
    let output = lab.drover(&["builder", "add", "b1", "--yes", "--fingerprint", "SHA256:wrong"]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("but SHA256:wrong is expected"), "{}", stderr(&output));
    // a machine that can't be built on isn't written
    lab.b2.sh("mv /usr/bin/nix-daemon /usr/bin/nix-store /opt/").unwrap();
    let output = lab.drover(&["builder", "add", "b2", "--yes"]);
    assert_code(&output, 1);
    assert!(stdout(&output).contains("wrong   program"), "{}", stdout(&output));
    assert!(lab.client.read(MACHINES).is_err(), "nothing is written");
    // the machine's own words
    let print = lab.b1.sh("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key | cut -d' ' -f2").unwrap();
    let output = lab.drover(&["builder", "add", "b1", "--yes", "--fingerprint", &print]);
    assert_code(&output, 0);
    assert_builds(&lab.client);
    // another key later is noticed
    lab.b1.sh("rm /etc/ssh/ssh_host_ed25519_key*; ssh-keygen -qt ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key").unwrap();
    lab.b1.kill_sshd();
    lab.b1.start_sshd().unwrap();
    let output = lab.drover(&["doctor"]);
    assert_code(&output, 1);
    assert!(stdout(&output).contains("which is not the key in column 8"), "{}", stdout(&output));
}

/// No Nix, no `/nix`, no root: a minute later it builds, for stock Nix, too.
#[test]
fn a_bare_machine_becomes_a_builder() {
    let lab = Lab::new("bootstrap", Suite::Forky, Suite::Forky);
    lab.b1.sh("pkill -x nix-daemon; busybox umount -l /nix; rmdir /nix; rm -rf /usr/bin/nix* /etc/nix").unwrap();
    let output = lab.drover(&["builder", "bootstrap", "alice@b1", "--yes"]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("give a static program by --program"), "{}", stderr(&output));
    lab.client.write("/w/script", "no program").unwrap();
    let output =
        lab.drover(&["builder", "bootstrap", "alice@b1", "--yes", "--program", "/w/script"]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("the program does not run there"), "{}", stderr(&output));
    assert_eq!(lab.b1.sh("ls -A /home/alice/.local/bin").unwrap(), "", "nothing is left");
    let line = ["builder", "bootstrap", "alice@b1", "--yes", "--program", "/usr/local/bin/drover"];
    assert_code(&lab.drover(&line), 0);
    let text = machines(&lab);
    let uri = "ssh-ng://alice@b1?remote-program=/home/alice/.local/lib/drover/bin/nix-daemon ";
    assert!(text.starts_with(uri), "{text}");
    assert_builds(&lab.client);
    // it says itself what it has
    let text = stdout(&lab.drover(&["doctor"]));
    assert!(text.contains("ok      system        builds for "), "{text}");
    assert!(text.contains("ok      substituters"), "{text}");
}
