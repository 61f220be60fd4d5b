//! Servers that take few connections, and clients that may have few.

use drover_testkit::{Host, Suite};
use rstest::rstest;

use crate::{Lab, assert_code, builders, stderr};

/// More builds than sessions fit on one connection.
fn wide(client: &Host) -> String {
    client.instantiate(&[("shape", "wide"), ("n", "12"), ("sleep", "1")]).unwrap()
}

/// A server may refuse another connection of the same user, or the user's configuration has it so: what
/// is built there goes on, and the rest waits for its turn.
#[rstest]
#[case::a_server_that_takes_one("ProxyCommand flock -n /w/one busybox nc %h 22")]
#[case::a_port_that_can_be_forwarded_once(
    "LocalForward 127.0.0.1:5999 127.0.0.1:22\n  ExitOnForwardFailure yes"
)]
fn one_connection_is_enough(#[case] option: &str) {
    let lab = Lab::new("one", Suite::Forky, Suite::Forky);
    // several that open a store which was never opened stumble over each other in stock Nix
    lab.b1.sh("nix-store --init").unwrap();
    lab.client.sh("mkdir -p /w").unwrap();
    lab.client.write("/w/more", format!("Host b1\n  {option}\n")).unwrap();
    lab.client.sh("cat /root/.ssh/config >> /w/more; mv /w/more /root/.ssh/config").unwrap();
    for scheme in ["ssh-ng", "ssh"] {
        let drv = wide(&lab.client);
        let machines = builders(scheme, &["b1"], 12);
        let built = lab.drover(&["build", "--no-link", "-j0", "--builders", &machines, &drv]);
        assert_code(&built, 0);
        assert!(!stderr(&built).contains("is down"), "{}", stderr(&built));
    }
}

/// The usual limit of open files is made for programs that have few.
#[test]
fn a_low_limit_of_open_files_is_raised() {
    let lab = Lab::new("files", Suite::Forky, Suite::Forky);
    let drv = wide(&lab.client);
    let machines = builders("ssh-ng", &["b1", "b2"], 12);
    let line = r#"ulimit -S -n 48; exec drover build --no-link -j0 --builders "$0" "$1""#;
    let built = lab.client.run(&["sh", "-c", line, &machines, &drv]).unwrap();
    assert_code(&built, 0);
    assert!(!stderr(&built).contains("is down"), "{}", stderr(&built));
}
