//! Configuration as the real Nix reads it (see `golden/make.sh`).

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use drover_config::{
    ConfigError, Environment, LocalSystem, MaxJobs, NixConf, Sandbox, Settings, StoreReference,
    User,
};
use rstest::rstest;
use serde_json::{Value, json};

fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What `make.sh` gives to Nix.
fn environment(case: &Path) -> Environment {
    let mut users: Vec<String> = fs::read_dir(case)
        .unwrap()
        .map(|entry| entry.unwrap().path().display().to_string())
        .filter(|path| path.contains("/user-"))
        .collect();
    users.sort();
    Environment {
        nix_conf_dir: Some(case.join("system").display().to_string()),
        nix_user_conf_files: Some(users.join(":")),
        nix_config: read(&case.join("environment.conf")).unwrap(),
        current_dir: case.to_owned(),
        ..Environment::default()
    }
}

/// The settings in the form of `nix show-config --json`.
fn to_json(settings: &Settings, conf: &NixConf) -> Value {
    let stores = |stores: &[StoreReference]| -> Value {
        stores.iter().map(ToString::to_string).collect::<Vec<_>>().into()
    };
    let raw = |name: &str| {
        conf.iter().find(|(known, _)| *known == name).map(|(_, setting)| setting.text())
    };
    json!({
        "build-users-group": settings.build_users_group,
        "builders": settings.builders,
        "compress-build-log": settings.compress_build_log,
        "cores": settings.cores,
        "extra-platforms": settings.extra_platforms,
        "fallback": settings.fallback,
        "keep-build-log": settings.keep_build_log,
        "keep-failed": settings.keep_failed,
        "keep-going": settings.keep_going,
        "log-lines": settings.log_lines,
        "max-build-log-size": settings.max_log_size,
        "max-jobs": match settings.max_jobs { MaxJobs::Count(jobs) => json!(jobs), MaxJobs::Auto => json!("auto") },
        "max-silent-time": settings.max_silent_time.map(|time| time.as_secs()),
        "require-sigs": settings.require_sigs,
        "sandbox": match settings.sandbox {
            Sandbox::Enabled => json!(true),
            Sandbox::Relaxed => json!("relaxed"),
            Sandbox::Disabled => json!(false),
        },
        "secret-key-files": settings.secret_key_files,
        "store": settings.store.path(),
        "substitute": settings.substitute,
        "substituters": stores(&settings.substituters),
        "system-features": settings.system_features,
        "timeout": settings.timeout.map(|time| time.as_secs()),
        "trusted-public-keys": settings.trusted_public_keys,
        "trusted-substituters": stores(&settings.trusted_substituters),
        "trusted-users": settings.trusted_users,
        // Not read by drover, but kept.
        "keep-derivations": raw("keep-derivations").as_deref() == Some("true"),
        "keep-env-derivations": raw("keep-env-derivations").as_deref() == Some("true"),
        "keep-outputs": raw("keep-outputs").as_deref() == Some("true"),
        "post-build-hook": raw("post-build-hook"),
    })
}

#[rstest]
fn is_read_as_nix_reads_it(
    #[files("tests/golden/fixtures/*")]
    #[dirs]
    case: PathBuf,
) {
    let expected: Value =
        serde_json::from_str(&fs::read_to_string(case.join("expected.json")).unwrap()).unwrap();
    let environment = environment(&case);
    let outcome = NixConf::load(&environment, &read, &[]);
    if expected.get("error").is_some() {
        let error = outcome.unwrap_err();
        let place = format!("{}/system/nix.conf:1: ", case.display());
        assert!(error.to_string().starts_with(&place), "{error}");
        return;
    }
    let conf = outcome.unwrap();
    assert_eq!(conf.notes(), []);
    let system = LocalSystem::new("x86_64-linux", User::Root);
    let settings = Settings::new(&conf, &environment, &system).unwrap();
    let ours = to_json(&settings, &conf);
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&ours[name], value, "{name}");
    }
}

#[test]
fn defaults_are_those_of_nix() {
    let environment = Environment::default();
    let conf = NixConf::load(&environment, &|_: &Path| Ok(None), &[]).unwrap();
    let system = LocalSystem::new("x86_64-linux", User::Root);
    let settings = Settings::new(&conf, &environment, &system).unwrap();
    let ours = to_json(&settings, &conf);
    let expected = json!({
        "build-users-group": "nixbld",
        "builders": "@/etc/nix/machines",
        "cores": 0,
        "extra-platforms": ["i686-linux"],
        "fallback": false,
        "keep-failed": false,
        "keep-going": false,
        "log-lines": 25,
        "max-build-log-size": null,
        "max-jobs": 1,
        "max-silent-time": null,
        "require-sigs": true,
        "sandbox": true,
        "secret-key-files": [],
        "substitute": true,
        "substituters": ["https://cache.nixos.org/"],
        "system-features": ["benchmark", "big-parallel", "nixos-test", "uid-range"],
        "timeout": null,
        "trusted-public-keys": ["cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="],
        "trusted-substituters": [],
        "trusted-users": ["root"],
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&ours[name], value, "{name}");
    }
    assert_eq!(settings.store.to_string(), "auto");
    assert_eq!(settings.connect_timeout.unwrap().as_secs(), 15);
    assert!(!settings.builders_use_substitutes);
    assert_eq!(settings.allowed_users, ["*"]);
}

#[test]
fn a_store_in_nix_remote_is_checked() {
    let environment =
        Environment { nix_remote: Some("nonsense".to_owned()), ..Environment::default() };
    let conf = NixConf::load(&environment, &|_: &Path| Ok(None), &[]).unwrap();
    let system = LocalSystem::new("x86_64-linux", User::Other);
    let error = Settings::new(&conf, &environment, &system).unwrap_err();
    assert!(matches!(error, ConfigError::BadValue { setting: "store", .. }));
    assert!(
        error.to_string().starts_with("NIX_REMOTE:1: setting 'store' has invalid value 'nonsense'")
    );
}
