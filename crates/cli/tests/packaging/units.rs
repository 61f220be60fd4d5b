//! The units are what systemd understands, and leave builds what they need.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use rstest::rstest;

use crate::{DROVER, repository, run, run_ok, text};

/// The units as they are installed, and how one of the template is called.
const UNITS: [(&str, &str); 3] = [
    ("drover.socket", "drover.socket"),
    ("drover.service", "drover.service"),
    ("drover-cache@.service", "drover-cache@5000.service"),
];

fn unit(name: &str) -> String {
    fs_err::read_to_string(repository("packaging/systemd").join(name)).unwrap()
}

/// Returns the settings of a section: several values where there are several lines.
pub(crate) fn section(unit_name: &str, section: &str) -> BTreeMap<String, Vec<String>> {
    let text = unit(unit_name);
    let header = format!("[{section}]");
    let lines = text.lines().skip_while(|line| *line != header).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    let mut settings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once('=')) {
        if !name.starts_with('#') {
            settings.entry(name.to_owned()).or_default().push(value.to_owned());
        }
    }
    settings
}

/// Puts the units into a folder, with the program where it really is, and has systemd look at them.
fn verify(change: impl Fn(String) -> String) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: String| fs_err::write(folder.path().join(name), text).unwrap();
    for (name, _) in UNITS {
        put(name, change(unit(name).replace("/usr/bin/drover", DROVER)));
    }
    let files = UNITS.map(|(_, name)| Path::new("./").join(name));
    run(Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(files)
        .current_dir(folder.path()))
}

#[test]
fn systemd_has_nothing_to_say_of_the_units() {
    let output = verify(|text| text);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
}

/// What the test above would not see is no test.
#[rstest]
#[case::setting(("RestartSec=1", "RestartSeconds=1"), "RestartSeconds")]
#[case::program((DROVER, "/no/such/program"), "/no/such/program")]
#[case::section(("[Service]", "[Services]"), "Services")]
fn systemd_would_tell(#[case] (from, to): (&str, &str), #[case] expected: &str) {
    let output = verify(|text| text.replace(from, to));
    let said = text(&output.stderr);
    assert!(said.contains(expected), "{said}");
}

/// These hold for the builds as well, and each takes something that builds or their sandbox need.
#[test]
fn the_daemon_is_not_confined_more_than_builds_can_bear() {
    let settings = section("drover.service", "Service");
    assert_eq!(settings["Type"], ["notify"]);
    let forbidden = [
        "LockPersonality",
        "MemoryDenyWriteExecute",
        "NoNewPrivileges",
        "PrivateDevices",
        "PrivateNetwork",
        "PrivateUsers",
        "ProtectControlGroups",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "RestrictAddressFamilies",
        "RestrictNamespaces",
        "SystemCallFilter",
    ];
    for name in forbidden {
        assert!(!settings.contains_key(name), "{name} is set");
    }
}

/// Of ten points of exposure, the cache has hardly any: `systemd-analyze security` counts them.
#[test]
fn the_cache_is_confined() {
    let folder = tempfile::tempdir().unwrap();
    let name = "drover-cache@.service";
    fs_err::write(folder.path().join(name), unit(name)).unwrap();
    run_ok(
        Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=20", "--no-pager"])
            .arg(format!("./{name}"))
            .current_dir(folder.path()),
    );
}

#[test]
fn the_pages_that_units_name_are_there() {
    let pages = tempfile::tempdir().unwrap();
    run_ok(Command::new(DROVER).arg("man-pages").arg(pages.path()));
    for (name, _) in UNITS {
        let unit = section(name, "Unit");
        for page in &unit["Documentation"] {
            let file = page.trim_start_matches("man:").replace('(', ".").replace(')', "");
            assert!(
                pages.path().join(&file).exists(),
                "{name} names {page}, and there is no {file}"
            );
        }
    }
}

/// The commands that units start are understood; those that aren't there yet would be usage errors.
#[test]
fn the_daemon_takes_what_its_unit_gives_it() {
    let line = &section("drover.service", "Service")["ExecStart"][0];
    let words: Vec<_> = line.split(' ').skip(1).collect();
    let output = run(Command::new(DROVER).args(words).args(["--store", "no such store"]));
    let said = text(&output.stderr);
    assert!(said.contains("no such store"), "{said}");
}
