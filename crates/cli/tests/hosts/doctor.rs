//! What `drover doctor` finds, at real machines with real troubles.

use drover_testkit::{Signal, Suite};
use serde_json::{Value, json};

use crate::connections::swallow_everything;
use crate::failures::until;
use crate::own::become_the_daemon;
use crate::{LIMIT, Lab, assert_code, stderr, stdout};

/// Returns the report on machines, each a line, and asserts the exit code.
#[track_caller]
fn report(lab: &Lab, lines: &[String], code: i32) -> Value {
    lab.client.write("/etc/nix/machines", lines.join("\n")).unwrap();
    let output = lab.drover(&["doctor", "--json"]);
    assert_code(&output, code);
    serde_json::from_str(&stdout(&output)).unwrap()
}

/// Returns what is said of a machine.
#[track_caller]
fn of_machine<'a>(report: &'a Value, machine: usize, what: &str) -> &'a Value {
    report.pointer(&format!("/machines/{machine}/{what}")).unwrap()
}

/// Returns grade, text and remedy of a step at a machine.
fn step<'a>(report: &'a Value, machine: usize, name: &str) -> (&'a str, &'a str, &'a str) {
    let steps = of_machine(report, machine, "steps").as_array().unwrap();
    let step = steps.iter().find(|step| step["name"] == name).unwrap();
    let text = |of: &str| step[of].as_str().unwrap_or_default();
    (text("grade"), text("text"), text("remedy"))
}

/// Asserts that a machine's first step that went wrong is this one, that all before it are well, and
/// that it says this.
#[track_caller]
fn assert_wrong(report: &Value, machine: usize, name: &str, text: &str, remedy: &str) {
    let steps = of_machine(report, machine, "steps").as_array().unwrap();
    let first = steps.iter().find(|step| step["grade"] == "wrong").unwrap_or(&Value::Null);
    assert_eq!(first["name"], name, "{steps:?}");
    let (_, said, mended) = step(report, machine, name);
    assert!(said.contains(text) && mended.contains(remedy), "{said}\n{mended}");
    let behind = steps.iter().skip_while(|step| step["name"] != name).skip(1);
    for step in behind {
        assert_eq!(step["grade"], "not reached", "{step}");
    }
    assert_eq!(of_machine(report, machine, "usable"), false);
}

fn line(uri: &str) -> String {
    format!("{uri} {}-linux - 2 1 big-parallel", std::env::consts::ARCH)
}

/// Both protocols, all ages of stock Nix, trusted or not: each step is taken.
#[test]
fn machines_that_are_well() {
    let lab = Lab::new("doctor-well", Suite::Bookworm, Suite::Trixie);
    let uris = ["ssh-ng://b1", "ssh-ng://b2", "ssh://b1", "ssh://b2", "ssh-ng://alice@b2"];
    let lines: Vec<String> = uris.iter().map(|uri| line(uri)).collect();
    let report = report(&lab, &lines, 0);
    for (at, uri) in uris.iter().enumerate() {
        let machine = &report["machines"][at];
        assert_eq!(
            (machine["usable"].clone(), machine["store"].clone()),
            (true.into(), (*uri).into())
        );
        for name in ["name", "port", "host-key", "login", "program", "quiet", "protocol"] {
            assert_eq!(step(&report, at, name).0, "ok", "{machine}");
        }
        for name in ["system", "disk", "clock", "substituters", "build"] {
            assert_eq!(step(&report, at, name).0, "ok", "{machine}");
        }
    }
    assert_eq!(step(&report, 0, "program").1, "nix-daemon of Nix 2.8.0");
    assert!(step(&report, 1, "protocol").1.contains("2.26"), "{report}");
    assert_eq!(step(&report, 1, "trust").1, "root is trusted");
    let (grade, text, remedy) = step(&report, 4, "trust");
    assert_eq!(grade, "odd");
    assert!(
        text.contains("alice is not trusted") && remedy.contains("extra-trusted-users = alice")
    );
    let text = stdout(&lab.drover(&["doctor", "b1"]));
    assert!(text.contains("ssh-ng://b1 (/etc/nix/machines:1): usable"), "{text}");
    assert!(!text.contains("ssh-ng://b2 ("), "{text}");
    assert!(
        text.contains("odd: /etc/nix/machines:3: 'b1' is also at /etc/nix/machines:1"),
        "{text}"
    );
}

/// Where the sandbox has no shell builds get there all the same, if not those of the guides.
#[test]
fn a_sandbox_without_a_shell_is_odd() {
    let lab = Lab::new("doctor-shell", Suite::Forky, Suite::Trixie);
    let b1 = &lab.b1;
    b1.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
    b1.sh("echo 'sandbox = true\nsandbox-paths =' >> /etc/nix/nix.conf").unwrap();
    become_the_daemon(b1, "");
    let report = report(&lab, &[line("ssh-ng://b1"), line("ssh-ng://b2")], 0);
    let (grade, text, remedy) = step(&report, 0, "build");
    assert_eq!(grade, "odd", "{report}");
    assert!(text.contains("builder is /bin/sh"), "{text}");
    assert!(remedy.contains("sandbox-paths = /bin/sh="), "{remedy}");
    assert_eq!(report["machines"][0]["usable"], true);
    assert_eq!(step(&report, 1, "build").0, "ok");
    // what was built there was built by the shell
    let built = "test \"$(cat /nix/store/*-drover-doctor)\" = built";
    lab.b2.sh(built).unwrap();
}

/// Every trouble is found at its own step, all in one run.
#[test]
fn troubles_are_named() {
    let lab = Lab::new("doctor-ill", Suite::Forky, Suite::Forky);
    lab.client.sh("ssh-keygen -qt ed25519 -N '' -f /root/other; chmod 644 /root/other").unwrap();
    lab.client.sh("printf 'Host unknown\\n  HostName b1\\n  HostKeyAlias nobody-knows\\n' >> /root/.ssh/config").unwrap();
    lab.b1
        .sh("sed -i '1i echo Welcome to b1' /home/alice/.bashrc; useradd -m -p '*' -s /bin/bash bob")
        .unwrap();
    lab.b2.kill_sshd();
    let wrong_key = "c3NoLWVkMjU1MTkgQUFBQUMzTnphQzFsWkRJMU5URTVBQUFBSUVhIGEK";
    let system = std::env::consts::ARCH;
    let lines = [
        line("ssh-ng://no-such-host"),
        line("ssh-ng://b2"),
        line("ssh-ng://unknown"),
        format!("ssh-ng://root@b1 {system}-linux - 2 1 big-parallel - {wrong_key}"),
        line("ssh-ng://bob@b1"),
        line("ssh-ng://b1?remote-program=/opt/nix-daemon"),
        line("ssh-ng://alice@b1"),
        format!("ssh-ng://b1 {system}-linux,riscv64-linux - 2 1 big-parallel,gpu"),
        "ssh-ng://b1?x=1 riscv64-linux - 0".to_owned(),
        format!("ssh://b1 {system}-linux 8"),
        format!("ssh://b1?y=1 {system}-linux /root/other 1"),
    ];
    let report = report(&lab, &lines, 1);
    assert_wrong(&report, 0, "name", "no-such-host is no name that this machine knows", "getent");
    assert_wrong(&report, 1, "port", "nobody listens at port 22 of b2", "systemctl enable --now");
    assert_wrong(&report, 2, "host-key", "no key of it is known", "ssh-keyscan -p 22 b1");
    assert_wrong(&report, 3, "host-key", "not the key in column 8", "base64 -w0");
    assert_wrong(&report, 4, "login", "bob is not let in with any key", "ssh-copy-id bob@b1");
    assert_wrong(
        &report,
        5,
        "program",
        "there is /usr/bin/nix-daemon",
        "?remote-program=/usr/bin/nix-daemon",
    );
    assert_wrong(
        &report,
        6,
        "quiet",
        r#""Welcome to b1\n" is printed before the protocol"#,
        "/etc/profile",
    );
    // this one builds, if not all that its line says
    assert_eq!(report["machines"][7]["usable"], true);
    let (grade, text, _) = step(&report, 7, "system");
    assert_eq!(grade, "odd");
    assert!(text.contains("not for riscv64-linux"), "{text}");
    assert_wrong(&report, 8, "system", "not for riscv64-linux", "extra-platforms = riscv64-linux");
    let findings = report["configuration"]["findings"].to_string();
    for text in [
        "max jobs is 0",
        "'8' stands in column 3 (SSH key), but is a number",
        "i686-linux does not follow from x86_64-linux",
        "Nix takes them for two machines",
        "SSH key '/root/other' has mode 0644",
        "SSH key '8' is not there",
    ] {
        assert!(
            findings.contains(text) || system != "x86_64" && text.contains("i686"),
            "{findings}"
        );
    }
}

/// A machine that says nothing costs its own time only, and the report says so.
#[test]
fn a_machine_that_hangs_is_told_of() {
    let lab = Lab::new("doctor-mute", Suite::Forky, Suite::Forky);
    swallow_everything(&lab.b2, &lab.client);
    lab.client
        .write("/etc/nix/machines", [line("ssh-ng://b1"), line("ssh-ng://b2")].join("\n"))
        .unwrap();
    let output = lab.drover(&["doctor", "--option", "connect-timeout", "10"]);
    assert_code(&output, 1);
    let text = stdout(&output);
    assert!(text.contains("b2 doesn't answer at port 22 within 10 s"), "{text}");
    assert!(text.contains("1 of 2 machines are usable"), "{text}");
}

/// Behind drover's own line are the machines that are examined; derivations say what they need.
#[test]
fn the_machines_behind_the_hook_are_examined() {
    let lab = Lab::new("doctor-hook", Suite::Forky, Suite::Forky);
    lab.client.write("/etc/nix/machines", line("ssh-ng://b1")).unwrap();
    assert_code(&lab.drover(&["hook", "install", "--yes"]), 0);
    let output = lab.drover(&["doctor"]);
    assert_code(&output, 0);
    let text = stdout(&output);
    assert!(text.contains("/etc/nix/drover-machines:1: ssh-ng://b1"), "{text}");
    assert!(text.contains("leads to drover"), "{text}");
    assert!(text.ends_with("the machine is usable"), "{text}");
    let drv = lab.client.run_ok(&[
        "nix-instantiate", "--quiet", "-E",
        "derivation { name = \"x\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; requiredSystemFeatures = [ \"quantum\" ]; }",
    ]).unwrap();
    let text = stdout(&lab.drover(&["doctor", "--for", &drv]));
    assert!(
        text.contains(&format!("odd: {drv}: no machine for x86_64-linux has quantum")),
        "{text}"
    );
    let output = lab.drover(&["doctor", "no/body"]);
    assert_code(&output, 1);
    assert!(
        crate::stderr(&output).contains("no machine is called 'no/body': listed are ssh-ng://b1")
    );
    // a name that isn't listed is a host's
    let output = lab.drover(&["doctor", "alice@b2"]);
    let text = stdout(&output);
    assert!(text.contains("ssh-ng://alice@b2 (not listed): usable"), "{text}");
}

/// Paths of one store are nothing to another one in another folder, and that's what is said.
#[test]
fn a_store_in_another_folder() {
    let lab = Lab::new("doctor-folder", Suite::Forky, Suite::Forky);
    lab.b1.sh("mkdir -p /w/o/store /w/o/state /w/o/log").unwrap();
    let uri = "ssh-ng://b1?remote-store=local%3Fstore=/w/o/store%26state=/w/o/state%26log=/w/o/log";
    let report = report(&lab, &[line(uri)], 1);
    let (grade, text, remedy) = step(&report, 0, "build");
    assert_eq!(grade, "wrong", "{report}");
    assert!(text.contains("is not in the Nix store"), "{text}");
    assert!(remedy.contains("NIX_STORE_DIR"), "{remedy}");
}

/// A clock that is wrong and a disk that is full are seen, and what lies behind a jump host, too.
#[test]
fn a_machine_in_need_behind_a_jump_host() {
    let lab = Lab::new("doctor-jump", Suite::Trixie, Suite::Forky);
    lab.client
        .sh("printf 'Host far\\n  HostName b1\\n  ProxyJump b2\\n' >> /root/.ssh/config")
        .unwrap();
    // what a shell finds first
    lab.b1.sh("printf '#!/bin/sh\\necho 1000000000\\n' > /usr/local/bin/date; chmod 755 /usr/local/bin/date").unwrap();
    lab.b1.sh("printf '#!/bin/sh\\necho / 9000000 8500000 500000 95%% /\\n' > /usr/local/bin/df; chmod 755 /usr/local/bin/df").unwrap();
    let report = report(&lab, &[line("ssh-ng://far")], 0);
    assert!(step(&report, 0, "name").1.contains("at the other end of ProxyJump b2"), "{report}");
    assert!(step(&report, 0, "port").1.contains("by ProxyJump b2"), "{report}");
    assert_eq!(step(&report, 0, "build").0, "ok", "{report}");
    let (grade, text, remedy) = step(&report, 0, "clock");
    assert!(grade == "odd" && text.contains(" s behind") && remedy.contains("set-ntp"), "{report}");
    let (grade, text, remedy) = step(&report, 0, "disk");
    assert!(
        grade == "odd" && text.starts_with("0.4 GiB") && remedy.contains("garbage"),
        "{report}"
    );
}

/// Whoever isn't trusted by the daemon is told that his machines don't count there, and as whom `ssh`
/// runs; a broken line is told of, too, and costs the others nothing here, but all is not well; what
/// decides where builds go is told with its places.
#[test]
fn the_configuration_of_a_user() {
    let lab = Lab::new("doctor-user", Suite::Forky, Suite::Forky);
    let broken = format!("ssh-ng://b2 {}-linux - many", std::env::consts::ARCH);
    lab.client.write("/w/machines", [broken, line("ssh-ng://root@b1")].join("\n")).unwrap();
    let conf = "builders = @/w/machines\nextra-substituters = file:///w/cache\n";
    lab.client.write("/home/alice/.config/nix/nix.conf", conf).unwrap();
    lab.client.sh("chmod -R a+rX /w; chown -R alice: /home/alice/.config").unwrap();
    // root lets alice's key in
    let output = lab.client.run(&["su", "alice", "-c", "drover doctor"]).unwrap();
    assert_code(&output, 1);
    let text = stdout(&output);
    assert!(text.contains("NIX_CONFIG: not set") && !text.contains("max-jobs ="), "{text}");
    for said in [
        "/home/alice/.config/nix/nix.conf: read",
        "builders = @/w/machines (/home/alice/.config/nix/nix.conf:1)",
        "'builders' is ignored by Nix's daemon, which doesn't trust alice",
        "Nix's daemon runs ssh as root",
        "/w/machines:1: column 4 (max jobs) is 'many', expected a whole number",
        "substituters = file:///w/cache (/etc/nix/nix.conf:4, /home/alice/.config/nix/nix.conf:2)",
        "the machine is usable; 1 line of machines can't be read",
    ] {
        assert!(text.contains(said), "{said}\n{text}");
    }
    let line = "NIX_CONFIG='max-jobs = 7' NIX_REMOTE=daemon drover doctor --json";
    let output = lab.client.run(&["su", "alice", "-c", line]).unwrap();
    assert_code(&output, 1);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        (&report["usable"], of_machine(&report, 0, "usable")),
        (&json!(false), &json!(true))
    );
    let configuration = &report["configuration"];
    assert_eq!(configuration["rejectedLines"], 1);
    assert_eq!(configuration["variables"], json!([{ "name": "NIX_CONFIG", "read": true }]));
    let settings = configuration["settings"].as_array().unwrap();
    for (name, value, place) in
        [("max-jobs", json!(7), "NIX_CONFIG:1"), ("store", json!("daemon"), "NIX_REMOTE:1")]
    {
        let expected = json!({ "name": name, "value": value, "origins": [place] });
        assert!(settings.contains(&expected), "{expected}\n{settings:?}");
    }
}

/// A line of nix.conf that is wrong, or misspelt, is told of, and the machines are examined all the same.
#[test]
fn what_is_wrong_with_the_settings_is_told() {
    let lab = Lab::new("doctor-conf", Suite::Forky, Suite::Forky);
    lab.client.write("/etc/nix/machines", line("ssh-ng://b1")).unwrap();
    let conf =
        "max-jobs = many\nthis is no line\nbuilder-use-substitutes = true\nwarn-dirty = false\n";
    lab.client.write("/root/.config/nix/nix.conf", conf).unwrap();
    let output = lab.drover(&["doctor"]);
    assert_code(&output, 1);
    let text = stdout(&output);
    for said in [
        "/root/.config/nix/nix.conf:1: setting 'max-jobs' has invalid value 'many'",
        "/root/.config/nix/nix.conf:2: syntax error in 'this is no line'",
        "unknown setting 'builder-use-substitutes'",
        "is 'builders-use-substitutes' meant?",
        "the machine is usable; 2 lines of settings can't be read",
    ] {
        assert!(text.contains(said), "{said}\n{text}");
    }
    assert!(!text.contains("warn-dirty"), "{text}");
    // what is typed must be right
    let typed = lab.drover(&["doctor", "--option", "max-jobs", "many"]);
    assert!(stderr(&typed).contains("--option max-jobs"), "{}", stderr(&typed));
}

/// A key that nobody knows isn't called known where ssh takes any, and looking notes none.
#[test]
fn a_host_key_that_ssh_would_take_is_odd() {
    let lab = Lab::new("doctor-anykey", Suite::Forky, Suite::Forky);
    lab.client
        .sh("mkdir -p /root/.ssh; printf 'StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n\
             GlobalKnownHostsFile /dev/null\n' > /root/any; cat /root/any /root/.ssh/config > /root/config || \
             cp /root/any /root/config; mv /root/config /root/.ssh/config; chmod 600 /root/.ssh/config")
        .unwrap();
    let report = report(&lab, &[line("ssh-ng://b1")], 0);
    let (grade, text, remedy) = step(&report, 0, "host-key");
    assert_eq!(grade, "odd", "{text}");
    assert!(
        text.contains("no key of it is known") && text.contains("StrictHostKeyChecking is no"),
        "{text}"
    );
    assert!(remedy.contains("ssh-keyscan"), "{remedy}");
}

/// A user who may not read root's key is not told to take it.
#[test]
fn a_key_of_roots_stays_roots() {
    let lab = Lab::new("doctor-rootkey", Suite::Forky, Suite::Forky);
    let line = format!("ssh-ng://b1 {}-linux /root/.ssh/id_ed25519 2", std::env::consts::ARCH);
    lab.client.write("/etc/nix/machines", line).unwrap();
    lab.client.sh("chmod 700 /root /root/.ssh").unwrap();
    let output = lab.client.run(&["su", "alice", "-c", "drover doctor"]).unwrap();
    let text = stdout(&output);
    assert!(text.contains("only root can tell"), "{text}");
    assert!(text.contains("sudo drover doctor") && !text.contains("chown alice"), "{text}");
}

/// Ctrl-C ends it, and nothing stays behind.
#[test]
fn one_that_is_interrupted_leaves_nothing() {
    let lab = Lab::new("doctor-int", Suite::Forky, Suite::Forky);
    swallow_everything(&lab.b2, &lab.client);
    lab.client.write("/etc/nix/machines", line("ssh-ng://b2")).unwrap();
    for signal in [Signal::Interrupt, Signal::Terminate] {
        let limit = ["--option", "connect-timeout", "600"];
        let doctor = lab.client.spawn(&[&["drover", "doctor"][..], &limit].concat()).unwrap();
        let folders = || lab.client.sh("ls -d /tmp/drover-* 2>/dev/null || :").unwrap();
        until("it has begun", || !folders().is_empty());
        doctor.signal(signal);
        assert_code(&doctor.wait(LIMIT).unwrap(), 130);
        assert_eq!(folders(), "");
    }
}
