//! The NixOS module and the flake, evaluated by the Nix of this machine over a module system that is
//! just large enough (`nix/tests`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use drover_config::{Builders, Machine, Origin, parse_machines};
use rstest::rstest;
use serde_json::{Value, json};

use crate::units::section;
use crate::{DROVER, repository, run_ok};

fn evaluate(attribute: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let json = run_ok(
        Command::new("nix-instantiate")
            .args(["--eval", "--strict", "--json", "-A", attribute])
            .arg(repository("nix/tests"))
            .env("NIX_REMOTE", format!("local?root={}", folder.path().display()))
            .env("NIX_CONF_DIR", folder.path()),
    );
    serde_json::from_str(&json).unwrap()
}

fn case(name: &str) -> Value {
    evaluate(&format!("cases.{name}"))
}

fn service(case: &Value, name: &str) -> Value {
    case["systemd"]["services"][name]["serviceConfig"].clone()
}

/// What NixOS itself writes for `nix/tests/machines.nix`.
const MACHINES: &str = "\
ssh://plain x86_64-linux - 1 1 - - -
ssh-ng://builder@big.example.org x86_64-linux,i686-linux /root/.ssh/id_builder 16 3 kvm,big-parallel,benchmark benchmark c3NoLWVkMjU1MTkgQUFBQUMzTnphQzFsWkRJMU5URTVBQUFBSU9YeEJPQlJ2UTdrZ3ZHbFpmRG9lQktrcUpoZHZhL3ltM1l1NXNyYVJudDQgcm9vdEBiaWcK
ssh://both aarch64-linux - 0 1 nixos-test nixos-test -
localhost builtin - 1 1 - - -
";

#[test]
fn machines_are_written_as_nixos_writes_them() {
    assert_eq!(case("daemon")["environment"]["etc"]["drover/machines"]["text"], MACHINES);
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Returns the machines that drover reads from what the module writes.
fn machines_read_back() -> Vec<Machine> {
    let text = case("daemon")["environment"]["etc"]["drover/machines"]["text"].clone();
    let file = (PathBuf::from("/etc/drover/machines"), text.as_str().unwrap().to_owned());
    let builders = Builders {
        text: "@/etc/drover/machines",
        origin: &Origin::CommandLine { flag: "--option builders".into() },
        default_system: "riscv64-linux",
        dir: Path::new("/"),
    };
    let read = parse_machines(&builders, &BTreeMap::from([file])).unwrap();
    assert!(read.rejected.is_empty() && read.notes.is_empty(), "{read:?}");
    read.machines
}

#[test]
fn drover_reads_machines_as_they_were_meant() {
    let machines = machines_read_back();
    let [plain, big, both, localhost] = machines.as_slice() else { panic!("{machines:?}") };
    assert_eq!(plain.store_uri.to_string(), "ssh://plain");
    assert_eq!((plain.max_jobs, plain.ssh_key.clone()), (1, None));
    assert_eq!(plain.supported_features, set(&[]));

    assert_eq!(big.store_uri.to_string(), "ssh-ng://builder@big.example.org");
    assert_eq!(big.systems, set(&["x86_64-linux", "i686-linux"]));
    assert_eq!(big.ssh_key.as_deref(), Some(Path::new("/root/.ssh/id_builder")));
    assert_eq!((big.max_jobs, big.speed_factor.get()), (16, 3.0));
    assert_eq!(big.supported_features, set(&["kvm", "big-parallel", "benchmark"]));
    assert_eq!(big.mandatory_features, set(&["benchmark"]));
    assert!(big.public_host_key.is_some());

    assert_eq!(both.systems, set(&["aarch64-linux"]));
    assert_eq!(both.max_jobs, 0);
    assert!(both.accepts_features(&set(&["nixos-test"])) && !both.accepts_features(&set(&[])));

    assert_eq!(localhost.store_uri.to_string(), "ssh://localhost");
    assert!(machines.iter().all(|machine| machine.extra_columns.is_empty()));
}

/// Machines that are not to be used are not used.
#[test]
fn without_distributed_builds_there_are_no_machines() {
    let case = case("undistributed");
    assert_eq!(case["environment"]["etc"]["drover/machines"]["text"], "");
    let warnings = case["warnings"].to_string();
    assert!(warnings.contains("nix.distributedBuilds is false"), "{warnings}");
}

#[test]
fn the_command_alone_changes_nothing_else() {
    let case = case("command");
    assert_eq!(case["environment"], json!({ "etc": {}, "systemPackages": ["/drover"] }));
    assert_eq!(case["systemd"]["services"], json!({}));
    assert_eq!((&case["nix"]["settings"], &case["broken"]), (&json!({}), &json!([])));
}

#[test]
fn what_is_off_changes_nothing() {
    let case = case("off");
    assert_eq!(case["environment"], json!({ "etc": {}, "systemPackages": [] }));
    assert_eq!(case["systemd"]["services"], json!({}));
}

#[test]
fn the_daemon_takes_the_place_of_nix_s() {
    let case = case("daemon");
    let started = &service(&case, "nix-daemon")["ExecStart"];
    let line = "/drover/bin/drover daemon --option builders @/etc/drover/machines";
    assert_eq!(*started, json!(["", line]));
    assert_eq!(case["broken"], json!([]));
    assert_eq!(case["warnings"], json!([]));
    // what changes is read anew, without an end of what is built
    let unit = &case["systemd"]["services"]["nix-daemon"];
    assert_eq!(unit["reloadTriggers"], json!([MACHINES, "/etc/static/nix.conf"]));
    assert_eq!(unit["restartTriggers"], json!([]));
    // and drover understands it
    let words = line.split(' ').skip(1).chain(["--store", "no such store"]);
    let output = crate::run(Command::new(DROVER).args(words));
    let said = crate::text(&output.stderr);
    assert!(said.contains("no such store"), "{said}");
}

#[test]
fn the_hook_is_nix_s_build_hook() {
    let case = case("hook");
    assert_eq!(case["nix"]["settings"], json!({ "build-hook": "/drover/bin/drover hook" }));
    assert_eq!(case["systemd"]["services"], json!({}));
}

/// Where the option may have no effect that is said.
#[rstest]
#[case::old("oldHook", true)]
#[case::new("newHook", false)]
#[case::unknown("hook", false)]
fn a_nix_that_may_pass_over_its_hook_is_warned_of(#[case] name: &str, #[case] warned: bool) {
    let warnings = case(name)["warnings"].to_string();
    assert_eq!(warnings.contains("2.33.3 may pass over 'build-hook'"), warned, "{warnings}");
}

#[test]
fn a_head_lets_its_clients_in() {
    let case = case("head");
    assert_eq!(case["services"]["openssh"]["enable"], true);
    let user = &case["users"]["users"]["drover"];
    let named = r#"restrict,command="/coreutils/bin/env DROVER_CLIENT=alice /drover/bin/drover daemon --stdio" ssh-ed25519 AAAA alice"#;
    let other = r#"restrict,command="/drover/bin/drover daemon --stdio" ssh-ed25519 BBBB ci"#;
    assert_eq!(user["openssh"]["authorizedKeys"]["keys"], json!([named, other]));
    let broken = self::case("misnamed")["broken"].to_string();
    assert!(broken.contains("the names in head.clients must be"), "{broken}");
    let trusted = case["nix"]["settings"]["trusted-users"].as_array().unwrap();
    assert!(trusted.contains(&json!("drover")) && trusted.contains(&json!("root")), "{trusted:?}");
    assert_ne!(service(&case, "nix-daemon"), Value::Null);
    let untrusted = self::case("untrusted");
    assert_eq!(untrusted["nix"]["settings"], json!({}));
    // without trust, names would be passed over
    let line = service(&untrusted, "nix-daemon")["ExecStart"][1].clone();
    assert!(line.as_str().unwrap().ends_with(" --option extra-naming-users drover"), "{line}");
    let line = service(&case, "nix-daemon")["ExecStart"][1].clone();
    assert!(!line.as_str().unwrap().contains("naming-users"), "{line}");
}

#[test]
fn a_cache_is_served() {
    let case = case("cache");
    let settings = service(&case, "drover-cache");
    let line =
        "/drover/bin/drover cache serve --listen [::]:8080 --priority 30 --sign-key-file %d/key";
    assert_eq!(settings["ExecStart"], line);
    assert_eq!(settings["LoadCredential"], json!(["key:/etc/nix/key.sec"]));
    assert_eq!(case["networking"]["firewall"]["allowedTCPPorts"], json!([8080]));
    let plain = self::case("plainCache");
    assert_eq!(service(&plain, "drover-cache")["LoadCredential"], json!([]));
    assert_eq!(plain["networking"]["firewall"]["allowedTCPPorts"], json!([]));
}

#[rstest]
#[case::both("both", "Choose one of them")]
#[case::without_nix("withoutNix", "Set nix.enable = true")]
fn what_cannot_be_is_refused(#[case] name: &str, #[case] words: &str) {
    let broken = case(name)["broken"].to_string();
    assert!(broken.contains(words), "{broken}");
}

#[test]
fn mistakes_in_options_are_refused() {
    assert_eq!(evaluate("refused"), json!({ "unknown": false, "port": false }));
}

/// What NixOS sets and what the units of other systems have is the same.
#[rstest]
#[case::daemon("daemon", "nix-daemon", "drover.service", &["ExecStart", "ExecReload", "LimitNOFILE", "Environment"])]
#[case::cache("cache", "drover-cache", "drover-cache@.service", &["ExecStart", "LoadCredential", "Environment", "EnvironmentFile"])]
fn module_and_units_agree(
    #[case] name: &str,
    #[case] service_name: &str,
    #[case] unit: &str,
    #[case] apart: &[&str],
) {
    let case = case(name);
    let Value::Object(module) = service(&case, service_name) else { panic!("no service") };
    let unit = section(unit, "Service");
    let names: BTreeSet<_> = module.keys().chain(unit.keys()).collect();
    for name in names.into_iter().filter(|name| !apart.contains(&name.as_str())) {
        let in_module = module.get(name).map(written);
        assert_eq!(in_module.as_ref(), unit.get(name), "{name}");
    }
}

/// Returns the values as a unit has them.
fn written(value: &Value) -> Vec<String> {
    match value {
        Value::Bool(true) => vec!["yes".to_owned()],
        Value::Bool(false) => vec!["no".to_owned()],
        Value::Array(values) => values.iter().flat_map(written).collect(),
        Value::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    }
}

#[test]
fn the_flake_has_package_overlay_and_module() {
    let package = evaluate("package");
    let manifest = fs_err::read_to_string(repository("Cargo.toml")).unwrap();
    let version = format!("version = \"{}\"", package["version"].as_str().unwrap());
    assert!(manifest.contains(&version), "{version}");
    let install = package["postInstall"].as_str().unwrap();
    assert!(install.contains("man-pages") && install.contains("packaging/systemd"), "{install}");
    let modules = evaluate("modules");
    assert!(modules["default"].as_str().unwrap().ends_with("module.nix"));
    assert!(evaluate("overlay")["drover"].as_str().unwrap().ends_with("nix/package.nix"));
    let check = evaluate("checks");
    let compared = "diff -u /written/by/nixos /written/by/the/module";
    assert!(check.as_str().unwrap().contains(compared), "{check}");
}
