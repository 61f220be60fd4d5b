//! Several lines of the machines file for one machine.

use drover_testkit::Suite;

use crate::{Lab, assert_code, stderr};

/// The lines share the machine's slots and its connection.
#[test]
fn two_lines_for_one_machine_share_its_slots() {
    let lab = Lab::new("lines", Suite::Forky, Suite::Forky);
    let drv = lab.client.instantiate(&[("shape", "wide"), ("n", "6"), ("sleep", "0.5")]).unwrap();
    let arch = std::env::consts::ARCH;
    let machines =
        format!("ssh-ng://b1 {arch}-linux - 1; ssh-ng://b1 {arch}-linux,i686-linux - 2 1 kvm");
    let built = lab.drover(&["build", "--no-link", "-v", "-j0", "--builders", &machines, &drv]);
    assert_code(&built, 0);
    let said = stderr(&built);
    assert!(!said.contains("(line 2)"), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("connecting to")).count(), 1, "{said}");
}
