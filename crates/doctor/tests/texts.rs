//! The verdicts on what real `ssh` and real Nix have said, word for word.

#![allow(clippy::unwrap_used, reason = "a test shows what went wrong by failing")]

use std::collections::BTreeSet;
use std::time::Duration;

use drover_config::{Builders, Machine, Origin, parse_machines};
use drover_doctor::checks::{
    build, clock, disk, host_key, login, name, overdue, port, program, protocol, quiet,
    substituters, system, trust,
};
use drover_doctor::{Grade, MachineSettings, Route, Target, Verdict};
use proptest::prelude::*;
use rstest::rstest;

fn route() -> Route {
    Route { host: "b1".to_owned(), port: 22, user: "alice".to_owned(), ..Route::default() }
}

fn target() -> Target {
    Target { destination: "alice@b1".to_owned(), arguments: Vec::new() }
}

/// Asserts grade, text and remedy.
#[track_caller]
fn assert_says(verdict: &Verdict, grade: Grade, text: &str, remedy: Option<&str>) {
    assert_eq!((verdict.grade, verdict.text.as_str()), (grade, text));
    match remedy {
        Some(remedy) => {
            let said = verdict.remedy.as_deref().unwrap_or_default();
            assert!(said.contains(remedy), "{said}");
        }
        None => assert_eq!(verdict.remedy, None),
    }
}

#[test]
fn names() {
    let address = ["10.0.0.2".parse().unwrap()];
    assert_says(&name::judge("b1", &route(), Ok(&address)), Grade::Good, "b1 is 10.0.0.2", None);
    assert_says(
        &name::judge("big", &route(), Ok(&address)),
        Grade::Good,
        "big is b1 in ssh's configuration; b1 is 10.0.0.2",
        None,
    );
    assert_says(
        &name::judge("b1", &route(), Err("Name or service not known")),
        Grade::Wrong,
        "b1 is no name that this machine knows: Name or service not known",
        Some("getent hosts b1"),
    );
    let via = Route { via: Some("ProxyJump gate".to_owned()), ..route() };
    assert_says(
        &name::judge("b1", &via, Err("never asked")),
        Grade::Good,
        "b1 is looked up at the other end of ProxyJump gate",
        None,
    );
}

#[rstest]
#[case::ssh(
    port::Answer::Words("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_owned()),
    Grade::Good,
    "SSH 2.0-OpenSSH_9.2p1 Debian-2 at port 22",
    None
)]
#[case::other(
    port::Answer::Words("220 mail ESMTP".to_owned()),
    Grade::Wrong,
    "port 22 answers, but not as an SSH server: '220 mail ESMTP'",
    Some("'Port N'")
)]
#[case::shut_out(
    port::Answer::Words("Not allowed at this time\r\n".to_owned()),
    Grade::Wrong,
    "the SSH server at port 22 of b1 shuts this machine out for a while, as it has come often without logging in \
     (PerSourcePenalties): 'Not allowed at this time'",
    Some("PerSourcePenaltyExemptList")
)]
#[case::refused(
    port::Answer::Refused,
    Grade::Wrong,
    "nobody listens at port 22 of b1",
    Some("systemctl enable --now sshd")
)]
#[case::nothing(
    port::Answer::Nothing { after: Duration::from_secs(10) },
    Grade::Wrong,
    "b1 doesn't answer at port 22 within 10 s",
    Some("ping b1")
)]
fn ports(
    #[case] answer: port::Answer,
    #[case] grade: Grade,
    #[case] text: &str,
    #[case] remedy: Option<&str>,
) {
    assert_says(&port::judge(&route(), &answer), grade, text, remedy);
}

const SHOWN: &str = "debug1: Server host key: ssh-ed25519 SHA256:abc\n";

#[rstest]
#[case::known(
    "debug1: Host 'b1' is known and matches the ED25519 host key.\nalice@b1: Permission denied (publickey).\n",
    host_key::Expected::KnownHosts,
    Grade::Good,
    "ssh-ed25519 SHA256:abc is the one that is known",
    None
)]
#[case::unknown(
    "No ED25519 host key is known for b1 and you have requested strict checking.\nHost key verification failed.\n",
    host_key::Expected::KnownHosts,
    Grade::Wrong,
    "b1 shows ssh-ed25519 SHA256:abc, and no key of it is known",
    Some("ssh-keyscan -p 22 b1 >> ~/.ssh/known_hosts")
)]
#[case::changed(
    "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed.\n",
    host_key::Expected::KnownHosts,
    Grade::Wrong,
    "b1 shows ssh-ed25519 SHA256:abc, which is another key than the one that is known",
    Some("ssh-keygen -R b1")
)]
#[case::pinned(
    "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed.\n",
    host_key::Expected::Line,
    Grade::Wrong,
    "b1 shows ssh-ed25519 SHA256:abc, which is not the key in column 8 of its line",
    Some("base64 -w0")
)]
#[case::closed(
    "kex_exchange_identification: Connection closed by remote host\n",
    host_key::Expected::KnownHosts,
    Grade::Wrong,
    "ssh can't connect: kex_exchange_identification: Connection closed by remote host",
    Some("ssh alice@b1 -v true")
)]
fn host_keys(
    #[case] said: &str,
    #[case] expected: host_key::Expected,
    #[case] grade: Grade,
    #[case] text: &str,
    #[case] remedy: Option<&str>,
) {
    let said = format!("{SHOWN}{said}");
    assert_says(&host_key::judge(&said, expected, &route(), &target()), grade, text, remedy);
}

#[rstest]
#[case::let_in(Ok(()), Grade::Good, "alice is let in", None)]
#[case::no_key(
    Err("alice@b1: Permission denied (publickey)."),
    Grade::Wrong,
    "alice is not let in with any key, and questions aren't asked: alice@b1: Permission denied (publickey).",
    Some("ssh-copy-id alice@b1")
)]
#[case::loose_key(
    Err(
        "@ WARNING: UNPROTECTED PRIVATE KEY FILE! @\nPermissions 0644 for '/k' are too open.\nPermission denied"
    ),
    Grade::Wrong,
    "alice is not let in: ssh passes over the private key, which others may read",
    Some("chmod 600")
)]
#[case::many_keys(
    Err("Received disconnect from 10.0.0.2 port 22:2: Too many authentication failures"),
    Grade::Wrong,
    "alice is not let in: the agent has offered too many keys",
    Some("IdentitiesOnly yes")
)]
fn logins(
    #[case] outcome: Result<(), &str>,
    #[case] grade: Grade,
    #[case] text: &str,
    #[case] remedy: Option<&str>,
) {
    assert_says(&login::judge(outcome, &route(), &target()), grade, text, remedy);
}

#[rstest]
#[case::there("nix-daemon (Nix) 2.34.1\n", "", &[], Grade::Good, "nix-daemon of Nix 2.34.1", None)]
#[case::behind_a_banner("Welcome!\nnix-store (Nix) 2.8.0\n", "", &[], Grade::Good, "nix-daemon of Nix 2.8.0", None)]
#[case::missing(
    "",
    "bash: line 1: nix-daemon: command not found\n",
    &["/opt/nix/bin/nix-daemon"],
    Grade::Wrong,
    "'nix-daemon' is not found there: bash: line 1: nix-daemon: command not found; there is /opt/nix/bin/nix-daemon",
    Some("ssh-ng://alice@b1?remote-program=/opt/nix/bin/nix-daemon")
)]
#[case::nowhere(
    "",
    "sh: 1: nix-daemon: not found\n",
    &[],
    Grade::Wrong,
    "'nix-daemon' is not found there: sh: 1: nix-daemon: not found",
    Some("drover builder bootstrap alice@b1")
)]
#[case::something_else(
    "",
    "sh: 11: exec: chroot: not found\n",
    &[],
    Grade::Wrong,
    "'nix-daemon' can't be run there: sh: 11: exec: chroot: not found",
    Some("ssh alice@b1 nix-daemon --version")
)]
#[case::forced(
    "",
    "",
    &[],
    Grade::Unknown,
    "no version of 'nix-daemon' was told: it printed nothing; a forced command may stand before it",
    None
)]
fn programs(
    #[case] stdout: &str,
    #[case] stderr: &str,
    #[case] elsewhere: &[&str],
    #[case] grade: Grade,
    #[case] text: &str,
    #[case] remedy: Option<&str>,
) {
    let elsewhere: Vec<String> = elsewhere.iter().map(|&place| place.to_owned()).collect();
    let asked = program::Asked { command: "nix-daemon", stdout, stderr, elsewhere: &elsewhere };
    assert_says(&program::judge(&asked, "ssh-ng", &target()), grade, text, remedy);
}

#[test]
fn what_is_printed_first() {
    let judge = |printed: &[u8], spoken| quiet::judge(printed, spoken, &target());
    let quiet = judge(b"", quiet::Spoken::Yes);
    assert_says(&quiet, Grade::Good, "nothing is printed before the protocol", None);
    let noisy = judge(b"Welcome to b1\n", quiet::Spoken::No);
    let text = r#""Welcome to b1\n" is printed before the protocol"#;
    assert_says(&noisy, Grade::Wrong, text, Some("ssh alice@b1 true | head"));
    let passed = judge(b"x", quiet::Spoken::Yes);
    assert_says(&passed, Grade::Odd, r#"commands there print "x" first"#, Some("/etc/profile"));
}

#[test]
fn greetings() {
    let greeter = protocol::Greeter::Command("nix-daemon");
    let good = protocol::judge(Ok(("worker protocol 1.38", Some("2.34.1"))), greeter);
    assert_says(&good, Grade::Good, "worker protocol 1.38, Nix 2.34.1", None);
    let bad = protocol::judge(Err("'nix-daemon --stdio' ended at once"), greeter);
    assert_says(
        &bad,
        Grade::Wrong,
        "'nix-daemon --stdio' ended at once",
        Some("$SSH_ORIGINAL_COMMAND"),
    );
    // there is no command, and so none that is forced
    let absent = protocol::judge(Err("cannot connect to '/x'"), protocol::Greeter::Socket);
    assert_says(&absent, Grade::Wrong, "cannot connect to '/x'", Some("start the daemon"));
}

#[test]
fn a_resolver_that_does_not_answer_is_not_the_host() {
    let verdict = name::overdue(Duration::from_secs(10), "b1");
    let text = "no name server has answered for b1 within 10 s";
    assert_says(&verdict, Grade::Wrong, text, Some("getent hosts b1"));
}

#[test]
fn trust_is_said() {
    assert_eq!(trust::judge(trust::Trusted::Yes, "alice").grade, Grade::Good);
    assert_eq!(trust::judge(trust::Trusted::NotSaid, "alice").grade, Grade::Unknown);
    assert_says(
        &trust::judge(trust::Trusted::No, "alice"),
        Grade::Odd,
        "alice is not trusted: inputs must be signed by a key that it knows, or it builds them itself",
        Some("extra-trusted-users = alice"),
    );
}

fn machine(line: &str) -> Machine {
    let builders = Builders {
        text: line,
        origin: &Origin::Default,
        default_system: "x86_64-linux",
        dir: "/".as_ref(),
    };
    let files = std::collections::BTreeMap::<std::path::PathBuf, String>::new();
    parse_machines(&builders, &files).unwrap().machines.remove(0)
}

#[rstest]
#[case::as_listed(
    "ssh://a x86_64-linux - 1 1 kvm,big",
    Grade::Good,
    "builds for i686-linux,x86_64-linux",
    None
)]
#[case::spare(
    "ssh://a x86_64-linux - 1 1 big",
    Grade::Good,
    "builds for i686-linux,x86_64-linux; it also has kvm, which its line doesn't say",
    None
)]
#[case::system(
    "ssh://a aarch64-linux",
    Grade::Wrong,
    "its Nix builds for i686-linux,x86_64-linux, not for aarch64-linux",
    Some("extra-platforms = aarch64-linux")
)]
#[case::one_system_of_two(
    "ssh://a aarch64-linux,x86_64-linux",
    Grade::Odd,
    "its Nix builds for i686-linux,x86_64-linux, not for aarch64-linux",
    Some("take aarch64-linux out")
)]
#[case::feature(
    "ssh://a x86_64-linux - 1 1 kvm,gpu",
    Grade::Odd,
    "its line says gpu, but its Nix refuses what asks for gpu",
    Some("extra-system-features = gpu")
)]
fn systems(
    #[case] line: &str,
    #[case] grade: Grade,
    #[case] text: &str,
    #[case] remedy: Option<&str>,
) {
    let set = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<BTreeSet<_>>();
    let own = MachineSettings {
        systems: set(&["x86_64-linux", "i686-linux"]),
        features: set(&["kvm", "big", "uid-range"]),
        substituters: Vec::new(),
    };
    assert_says(&system::judge(&machine(line), Some(&own)), grade, text, remedy);
}

#[test]
fn disks() {
    let df = "Welcome!\n==store /home/me/store\nFilesystem 1024-blocks Used Available Capacity Mounted on\n/dev/sda1 100 50 2097152 50% /\n";
    let free = |bytes| Some(disk::Free { folder: "/home/me/store".to_owned(), bytes });
    assert_eq!(disk::free(df), free(2 << 30));
    assert_says(
        &disk::judge(free(2 << 30), "/nix/store"),
        Grade::Good,
        "2.0 GiB free in /home/me/store",
        None,
    );
    let little = disk::judge(free(500 << 20), "/nix/store");
    assert_says(&little, Grade::Odd, "0.4 GiB free in /home/me/store", Some("nix-collect-garbage"));
    assert_eq!(disk::judge(free(1000), "/nix/store").grade, Grade::Wrong);
    assert_eq!(disk::judge(disk::free("df: not found"), "/nix/store").grade, Grade::Unknown);
}

#[rstest]
#[case::right(1000, Grade::Good, "its clock is right")]
#[case::little(1010, Grade::Good, "its clock is 8 s ahead")]
#[case::behind(
    100,
    Grade::Odd,
    "its clock is 900 s behind: certificates and file times will look wrong"
)]
fn clocks(#[case] there: u64, #[case] grade: Grade, #[case] text: &str) {
    let (before, after) = (Duration::from_secs(1000), Duration::from_secs(1002));
    let verdict = clock::judge(before, Some(there), after);
    assert_eq!((verdict.grade, verdict.text.as_str()), (grade, text));
    assert_eq!(clock::seconds("Welcome\n1700000000\n"), Some(1_700_000_000));
}

#[test]
fn fetching() {
    let none = MachineSettings::default();
    let judge = |own, fetching| substituters::judge(own, fetching).grade;
    assert_eq!(judge(Some(&none), substituters::Fetching::ByMachines), Grade::Odd);
    assert_eq!(judge(Some(&none), substituters::Fetching::FromHere), Grade::Good);
    assert_eq!(judge(None, substituters::Fetching::FromHere), Grade::Unknown);
}

#[test]
fn builds() {
    let back = build::judge("x86_64-linux", &build::Came::Back);
    assert_says(
        &back,
        Grade::Good,
        "a build for x86_64-linux went there, and its output came back",
        None,
    );
    let without = build::Came::BackWithoutShell("executing '/bin/sh': No such file".to_owned());
    let without = build::judge("x86_64-linux", &without);
    let text = "a build for x86_64-linux went there, and its output came back; but one whose builder is \
                /bin/sh, as the examples of guides have it, fails there: executing '/bin/sh': No such file";
    assert_says(&without, Grade::Odd, text, Some("sandbox-paths = /bin/sh="));
    let failed = build::judge("x86_64-linux", &build::Came::Failed("no space".to_owned()));
    let text = "a build for x86_64-linux that does nothing fails there: no space";
    assert_says(&failed, Grade::Wrong, text, Some("nix-build -E"));
}

#[test]
fn what_takes_too_long_is_said() {
    let verdict = overdue(Duration::from_secs(10), "b1");
    assert_says(&verdict, Grade::Wrong, "no answer after 10 s", Some("connect-timeout"));
}

proptest! {
    /// Whatever a machine prints, there is a verdict.
    #[test]
    fn never_panics(words in "\\PC*", bytes: Vec<u8>) {
        let (route, target) = (route(), target());
        Route::parse(&words);
        MachineSettings::parse(&words);
        disk::free(&words);
        clock::seconds(&words);
        login::judge(Err(&words), &route, &target);
        host_key::judge(&words, host_key::Expected::Line, &route, &target);
        port::judge(&route, &port::Answer::Words(words.clone()));
        let asked = program::Asked { command: "nix", stdout: &words, stderr: &words, elsewhere: &[] };
        program::judge(&asked, "ssh", &target);
        let said = quiet::judge(&bytes, quiet::Spoken::No, &target);
        prop_assert!(said.text.len() < 1000);
    }
}
