//! Several lines of the machines file for one machine.

use drover_testkit::Suite;

use crate::failures::script_drv;
use crate::{LIMIT, Lab, assert_code, builders, stderr};

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

/// A server does one thing after another, whatever is queued there.
#[test]
fn what_waits_behind_another_is_not_being_built() {
    let lab = Lab::new("chain", Suite::Forky, Suite::Forky);
    let chain = [("shape", "chain"), ("d", "4"), ("sleep", "4")];
    let drv = lab.client.instantiate(&chain).unwrap();
    let machines = builders("ssh", &["b1"], 1);
    let built = lab.drover(&["build", "--no-link", "-j0", "--builders", &machines, &drv]);
    assert_code(&built, 0);
    let said = stderr(&built);
    let until_built = said.split("\nbuilt ").next().unwrap();
    let building = until_built.lines().filter(|line| line.starts_with("building ")).count();
    // the next one may have begun before the end of the first is told
    assert!((1..=2).contains(&building), "{said}");
}

/// What stock Nix 2.34 does about a line, beside one that is good.
enum Stock {
    /// It goes on with the good one.
    GoesOn,
    /// Nothing is built at all, and it says this.
    Gives(&'static str),
}

/// A bad line costs its machine only; with stock Nix it often costs the build. The table is what Nix
/// 2.34 really does, so that it shows where drover is deliberately different, and that both take what
/// is good for the same.
#[test]
fn bad_lines_beside_stock_nix() {
    let lab = Lab::new("badlines", Suite::Forky, Suite::Forky);
    let arch = format!("{}-linux", std::env::consts::ARCH);
    let table = [
        // the mistakes
        (
            "ssh-ng://b1 ARCH - four",
            Stock::Gives("failed to convert column #3"),
            "column 4 (max jobs) is 'four'",
        ),
        (
            "ssh-ng://b1 ARCH - -1",
            Stock::Gives("failed to convert column #3"),
            "column 4 (max jobs) is '-1'",
        ),
        (
            "ssh-ng://b1 ARCH - 1 fast",
            Stock::Gives("failed to convert column #4"),
            "column 5 (speed factor) is 'fast'",
        ),
        (
            "ssh-ng://b1 ARCH - 1 -2",
            Stock::Gives("speed factor must be >= 0"),
            "column 5 (speed factor) is '-2'",
        ),
        (
            "ssh-ng://b1 ARCH - 1 1 - - a_b",
            Stock::Gives("invalid character in Base64 string"),
            "column 8 (public host key)",
        ),
        ("ssh-ng://b1:port ARCH", Stock::Gives("port"), "'port' is not a port"),
        ("nonsense://b1 ARCH", Stock::GoesOn, "'nonsense://b1'"),
        ("ssh-ng://b1?compress=maybe ARCH", Stock::GoesOn, "parameter 'compress' can't be 'maybe'"),
        // no mistakes to either, or none that are found out before the machine is needed
        ("ssh-ng://nowhere ARCH", Stock::GoesOn, "nowhere is down"),
        ("ssh-ng://b1 ARCH /no/such/key", Stock::GoesOn, "SSH key '/no/such/key' can't be read"),
        ("ssh-ng://b1 ARCH - 1 1 no-such-feature", Stock::GoesOn, ""),
        ("ssh-ng://b1 ARCH - 1 1 - no-such-feature", Stock::GoesOn, ""),
        ("ssh-ng://b1 no-such-system", Stock::GoesOn, ""),
        ("ssh-ng://b1 ARCH - 1 1 - - - further columns", Stock::GoesOn, ""),
        ("ssh-ng://b1 ARCH - 0", Stock::GoesOn, ""),
        ("@/etc/nix/no-such-file", Stock::GoesOn, ""),
        ("# ssh-ng://b1 ARCH - four", Stock::GoesOn, ""),
    ];
    let mut differences = Vec::new();
    for (number, (line, stock, words)) in table.into_iter().enumerate() {
        let line = line.replace("ARCH", &arch);
        let machines = format!("{line}\nssh-ng://b2 {arch} - 1 2\n");
        lab.client.write("/etc/nix/machines", machines).unwrap();
        let drv = |who: &str| {
            let name = format!("line-{number}-{who}");
            script_drv(&lab.client, &name, "echo done > $out", "")
        };
        let theirs = lab.client.run_within(LIMIT, &["nix-store", "-r", "-j0", &drv("theirs")]);
        let theirs = theirs.unwrap();
        let said = stderr(&theirs);
        let as_told = match stock {
            Stock::GoesOn => theirs.status.success(),
            Stock::Gives(words) => !theirs.status.success() && said.contains(words),
        };
        if !as_told {
            differences.push(format!("{line}: stock Nix: {}: {said}", theirs.status));
        }
        let ours = lab.drover(&["build", "--no-link", "-j0", &drv("ours")]);
        if !ours.status.success() || !stderr(&ours).contains(words) {
            differences.push(format!("{line}: drover: {}: {}", ours.status, stderr(&ours)));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What is good means the same to both: which of two machines takes a job. Where both may, drover's
/// answer is whichever is up first.
#[test]
fn good_lines_beside_stock_nix() {
    let lab = Lab::new("goodlines", Suite::Forky, Suite::Forky);
    let arch = format!("{}-linux", std::env::consts::ARCH);
    lab.client.write("/etc/nix/more", format!("ssh-ng://b2 {arch}\n")).unwrap();
    // the lines, what the derivation requires, and the machine that builds it
    let table = [
        ("ssh-ng://b1 ARCH", "", Some("b1")),
        ("ssh-ng://b1", "", Some("b1")),
        ("b1 ARCH", "", Some("b1")),
        ("  ssh-ng://b1\t ARCH  -  1 ; ", "", Some("b1")),
        ("ssh-ng://b1 i686-linux,ARCH # and a remark", "", Some("b1")),
        ("ssh-ng://b1 i686-linux; ssh-ng://b2 ARCH", "", Some("b2")),
        (
            "ssh-ng://b1 ARCH - 1 1 kvm; ssh-ng://b2 ARCH - 1 1 benchmark,other",
            "benchmark",
            Some("b2"),
        ),
        ("ssh-ng://b1 ARCH - 1 1 - benchmark; ssh-ng://b2 ARCH", "benchmark", Some("b1")),
        ("ssh-ng://b1 ARCH - 1 1 - benchmark; ssh-ng://b2 ARCH", "", Some("b2")),
        ("ssh-ng://b1 ARCH - 1 1 benchmark benchmark", "", None),
        ("ssh-ng://b1 ARCH - 0; ssh-ng://b2 ARCH - 1", "", Some("b2")),
        (
            "ssh-ng://b1 ARCH - 1 1.5 other; ssh-ng://b2 ARCH - 1 2.5 benchmark",
            "benchmark",
            Some("b2"),
        ),
        ("@/etc/nix/more", "", Some("b2")),
        ("ssh-ng://b1 aarch64-linux; @/etc/nix/more", "", Some("b2")),
    ];
    let mut differences = Vec::new();
    for (number, (lines, feature, builder)) in table.into_iter().enumerate() {
        let machines = format!("{}\n", lines.replace("ARCH", &arch));
        lab.client.write("/etc/nix/machines", &machines).unwrap();
        let required = format!(
            "requiredSystemFeatures = [ {} ];",
            match feature {
                "" => String::new(),
                feature => format!("\"{feature}\""),
            }
        );
        for who in ["theirs", "ours"] {
            let name = format!("good-{number}-{who}");
            let drv = script_drv(&lab.client, &name, "echo done > $out", &required);
            let ran = match who {
                "theirs" => {
                    lab.client.run_within(LIMIT, &["nix-store", "-r", "-j0", &drv]).unwrap()
                }
                _ => lab.drover(&["build", "--no-link", "-j0", &drv]),
            };
            let has = |host: &drover_testkit::Host| {
                let found = host.sh(&format!("ls /nix/store | grep -c -- '-{name}$' || true"));
                found.unwrap().trim() != "0"
            };
            let on = match (has(&lab.b1), has(&lab.b2)) {
                (true, false) => Some("b1"),
                (false, true) => Some("b2"),
                (false, false) => None,
                (true, true) => Some("both"),
            };
            if on != builder || ran.status.success() != builder.is_some() {
                differences.push(format!("{machines}: {who} on {on:?}: {}", stderr(&ran)));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
