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
    let wrong = format!("SHA256:{}", "A".repeat(43));
    let output = lab.drover(&["builder", "add", "b1", "--yes", "--fingerprint", &wrong]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains(&format!("but {wrong} is expected")), "{}", stderr(&output));
    let output = lab.drover(&["builder", "add", "b1", "--yes", "--fingerprint", "MD5:ab:cd"]);
    assert!(stderr(&output).contains("not a fingerprint such as SHA256:"), "{}", stderr(&output));
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
    // what a login prints is no answer
    lab.b1.sh("sed -i '1i echo 99; echo noise >&2' /home/alice/.bashrc").unwrap();
    refused_there(&lab);
    // left by one that was cut off, and by one that is still at it
    lab.b1
        .sh("mkdir -p /home/alice/.local/bin; cd /home/alice/.local/bin; touch .drover.4000001")
        .unwrap();
    lab.b1.sh("sed -i '/echo 99/d' /home/alice/.bashrc").unwrap();
    let line = ["builder", "bootstrap", "alice@b1", "--yes", "--program", "/usr/local/bin/drover"];
    assert_code(&lab.drover(&line), 0);
    assert_eq!(lab.b1.sh("ls -A /home/alice/.local/bin").unwrap().trim(), "drover");
    let text = machines(&lab);
    let uri = "ssh-ng://alice@b1?remote-program=/home/alice/.local/lib/drover/bin/nix-daemon ";
    assert!(text.starts_with(uri), "{text}");
    assert_builds(&lab.client);
    // it says itself what it has
    let text = stdout(&lab.drover(&["doctor"]));
    assert!(text.contains("ok      system        builds for "), "{text}");
    assert!(text.contains("ok      substituters"), "{text}");
    // once more is a newer one, by the line that is there
    let before = machines(&lab);
    let drover = "/home/alice/.local/bin/drover";
    // it may still run
    lab.b1.sh(&format!("echo old > {drover}.old; mv {drover}.old {drover}")).unwrap();
    let output = lab.drover(&line);
    assert_code(&output, 0);
    assert!(stderr(&output).contains("the program is renewed"), "{}", stderr(&output));
    assert!(lab.b1.sh(&format!("{drover} --version")).unwrap().starts_with("drover "));
    assert_eq!(machines(&lab), before);
}

/// Each trouble is told apart, and nothing is left of it.
fn refused_there(lab: &Lab) {
    lab.client.write("/w/script", "#!/bin/sh\necho drover 1").unwrap();
    lab.client.sh("cp /usr/bin/true /w/true; cp /usr/local/bin/drover /w/other; printf '\\267' | dd of=/w/other bs=1 seek=18 conv=notrunc 2>/dev/null").unwrap();
    let refused = |program: &str, words: &str| {
        let line = ["builder", "bootstrap", "alice@b1", "--yes", "--program", program];
        let output = lab.drover(&line);
        assert_code(&output, 1);
        assert!(stderr(&output).contains(words), "{words}: {}", stderr(&output));
        assert!(!stderr(&output).contains("noise"), "{}", stderr(&output));
        let left = lab.b1.sh("ls -A /home/alice/.local/bin 2>/dev/null || :").unwrap();
        assert_eq!(left, "", "nothing is left");
    };
    let drover = "/usr/local/bin/drover";
    refused("/w/script", "is no program of Linux (ELF)");
    refused("/w/other", "is for aarch64, and the machine is x86_64");
    refused("/w/true", "the program that was given is not drover: true (GNU coreutils)");
    lab.b1.sh("rm -r /home/alice/.local; chown root /home/alice; chmod 755 /home/alice").unwrap();
    refused(drover, "can't be made there: mkdir:");
    lab.b1.sh("chown alice /home/alice; mkdir -p /home/alice/.local/bin; chown -R alice /home/alice/.local").unwrap();
    lab.b1.sh("busybox mount -t tmpfs -o size=100k,mode=777 none /home/alice/.local/bin").unwrap();
    refused(drover, "the program can't be written into ~/.local/bin there");
    lab.b1.sh("busybox mount -o remount,size=1g,noexec /home/alice/.local/bin").unwrap();
    refused(drover, "may hold no programs (noexec");
    lab.b1.sh("busybox umount /home/alice/.local/bin; usermod -s /bin/false alice").unwrap();
    refused(drover, "no command can be run there");
    lab.b1.sh("usermod -s /bin/bash alice").unwrap();
}

/// Where there is a Nix it's for the user to say that drover is to stand beside it.
#[test]
fn a_machine_with_a_nix_needs_no_bootstrap() {
    let lab = Lab::new("bootstrap-nix", Suite::Forky, Suite::Forky);
    let line = ["builder", "bootstrap", "alice@b1", "--yes", "--program", "/usr/local/bin/drover"];
    let output = lab.drover(&line);
    assert_code(&output, 1);
    let said = stderr(&output);
    assert!(said.contains("`drover builder add ssh-ng://alice@b1` builds with it"), "{said}");
    assert!(lab.b1.sh("ls /home/alice/.local").is_err(), "nothing is there");
    // a line that leads to that Nix isn't one of bootstrap's
    assert_code(&lab.drover(&["builder", "add", "root@b2", "--yes"]), 0);
    let again = ["builder", "bootstrap", "root@b2", "--yes", "--program", "/usr/local/bin/drover"];
    let output = lab.drover(&again);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("runs no drover that bootstrap"), "{}", stderr(&output));
}

/// Stock Nix asks drover for what its line says only: a machine with more takes another line.
#[test]
fn stock_nix_uses_a_machine_that_is_added_behind_the_hook() {
    let lab = Lab::new("add-hook", Suite::Forky, Suite::Forky);
    assert_code(
        &lab.drover(&["builder", "add", "root@b1", "--yes", "--features", "big-parallel"]),
        0,
    );
    assert_code(&lab.drover(&["hook", "install", "--yes"]), 0);
    let lines = machines(&lab);
    assert_eq!(lines.matches("ssh-ng://localhost").count(), 1, "{lines}");
    // what nobody has written is told
    lab.client.sh("mkdir -p /w; cp /etc/nix/drover-machines /w/; sed 's/big-parallel/odd/' /w/drover-machines >> /etc/nix/drover-machines").unwrap();
    let text = stdout(&lab.drover(&["doctor", "--json"]));
    assert!(text.contains("don't say what the machines behind them are like"), "{text}");
    lab.client.sh("cp /w/drover-machines /etc/nix/").unwrap();
    let text = stdout(&lab.drover(&["doctor"]));
    assert!(!text.contains("don't say what"), "{text}");
    lab.b2.sh("echo 'extra-system-features = special' >> /etc/nix/nix.conf").unwrap();
    lab.b2.restart_daemon().unwrap();
    let output = lab.drover(&["builder", "add", "root@b2", "--yes", "--features", "special"]);
    assert_code(&output, 0);
    assert!(stderr(&output).contains("are renewed"), "{}", stderr(&output));
    assert_eq!(machines(&lab).matches("ssh-ng://localhost").count(), 2, "{}", machines(&lab));
    let system = std::env::consts::ARCH;
    let nix = format!(
        "derivation {{ name = \"x\"; system = \"{system}-linux\"; builder = \"/bin/sh\"; \
         args = [ \"-c\" \"echo > $out\" ]; requiredSystemFeatures = [ \"special\" ]; }}"
    );
    let drv = lab.client.run_ok(&["nix-instantiate", "--quiet", "-E", &nix]).unwrap();
    lab.client.run_ok(&["nix-store", "-j0", "-r", &drv]).unwrap();
    lab.b2.sh("ls -d /nix/store/*-x").unwrap();
    // somebody else's line is in the way
    lab.client
        .sh("echo 'ssh://other - - 1' >> /etc/nix/machines; sed -i '$d' /etc/nix/drover-machines")
        .unwrap();
    let output = lab.drover(&["builder", "add", "root@b2", "--yes", "--features", "odd"]);
    assert_code(&output, 0);
    assert!(
        stderr(&output).contains("until `sudo drover hook install` was run"),
        "{}",
        stderr(&output)
    );
}

/// What can't come to anything is said before anybody connects.
#[test]
fn what_cannot_be_written_is_said_at_once() {
    let lab = Lab::new("add-denied", Suite::Forky, Suite::Forky);
    let as_alice = |arguments: &str| {
        let line = format!("cd /home/alice && exec drover {arguments}");
        lab.client.run(&["su", "alice", "-c", &line]).unwrap()
    };
    let output = as_alice("builder add b1 --yes");
    assert_code(&output, 1);
    let said = stderr(&output);
    assert!(said.contains("--machines-file") && said.contains("sudo"), "{said}");
    assert!(!said.contains("shows ssh-ed25519"), "nobody has connected: {said}");
    let output = as_alice("hook install --yes");
    assert_code(&output, 1);
    assert!(stderr(&output).contains("can't be written by this user"), "{}", stderr(&output));
    let output = as_alice("builder add b1 --yes --ssh-key none");
    assert!(stderr(&output).contains("no private key '/home/alice/none'"), "{}", stderr(&output));
    let output = as_alice("builder add b1 --yes --machines-file m --ssh-key .ssh/id_ed25519");
    assert_code(&output, 0);
    let line = String::from_utf8(lab.client.read("/home/alice/m").unwrap()).unwrap();
    assert_eq!(line.split(' ').nth(2), Some("/home/alice/.ssh/id_ed25519"), "{line}");
    // where it can't be written by anybody it's said what else there is
    let root = |environment: &str| {
        let line = format!("{environment} drover builder add b1 --yes 2>&1 && exit 1; exit 0");
        lab.client.sh(&line).unwrap()
    };
    let said = root("NIX_CONFIG='builders = ssh://other'");
    assert!(said.contains("name the file by --machines-file"), "{said}");
    lab.client
        .sh("mkdir -p /nix/store; touch /nix/store/machines; ln -s /nix/store/machines /etc/nix/machines")
        .unwrap();
    assert!(root("").contains("add the machine to nix.buildMachines there"), "{}", root(""));
    // a name that nobody knows is told in a line, not in twenty
    let output = as_alice("builder add no-such-host --yes --machines-file m");
    assert_code(&output, 1);
    let said = stderr(&output);
    assert!(said.contains("no-such-host") && !said.contains("debug1"), "{said}");
    // behind a command that runs nothing else there's nobody to say what there is
    lab.b2
        .sh("sed -i 's|^|command=\"nix-daemon --stdio\" |' /home/alice/.ssh/authorized_keys")
        .unwrap();
    let output = as_alice("builder add b2 --yes --machines-file m --systems x86_64-linux");
    assert!(stderr(&output).contains("how many cores"), "{}", stderr(&output));
}
