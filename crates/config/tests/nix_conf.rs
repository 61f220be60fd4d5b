//! Places, origins, includes and errors of `nix.conf`.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use drover_config::{
    Base, ConfigError, Environment, LocalSystem, MaxJobs, NixConf, Override, Settings, User,
};
use rstest::rstest;

type Texts = BTreeMap<PathBuf, String>;

fn texts(files: &[(&str, &str)]) -> Texts {
    files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect()
}

fn environment() -> Environment {
    Environment {
        home: Some("/home/me".to_owned()),
        xdg_config_dirs: Some(String::new()),
        current_dir: PathBuf::from("/somewhere"),
        ..Environment::default()
    }
}

fn load(files: &[(&str, &str)]) -> Result<NixConf, ConfigError> {
    NixConf::load(&environment(), &texts(files), &[])
}

fn settings(conf: &NixConf) -> Settings {
    let system = LocalSystem::new("x86_64-linux", User::Other);
    Settings::new(conf, &environment(), &system).unwrap()
}

#[test]
fn later_places_win_and_are_remembered() {
    let files = texts(&[
        ("/etc/nix/nix.conf", "\n\ncores = 1\ntimeout = 1\nmax-jobs = 1\nlog-lines = 1\n"),
        ("/home/me/.config/nix/nix.conf", "timeout = 2\nmax-jobs = 2\nlog-lines = 2"),
    ]);
    let environment = Environment {
        nix_config: Some("# x\nlog-lines = 3\nmax-jobs = 3".to_owned()),
        ..environment()
    };
    let overrides = [Override::flag("max-jobs", "auto"), Override::option("nonsense", "1")];
    let conf = NixConf::load(&environment, &files, &overrides).unwrap();
    let origin = |name| conf.origin(name).to_string();
    assert_eq!(origin("cores"), "/etc/nix/nix.conf:3");
    assert_eq!(origin("timeout"), "/home/me/.config/nix/nix.conf:1");
    assert_eq!(origin("log-lines"), "NIX_CONFIG:2");
    assert_eq!(origin("max-jobs"), "--max-jobs");
    assert_eq!(origin("build-max-jobs"), "--max-jobs");
    assert_eq!(origin("nonsense"), "--option nonsense");
    assert_eq!(origin("keep-going"), "default");
    let settings = settings(&conf);
    assert_eq!((settings.cores, settings.log_lines), (1, 3));
    assert_eq!(settings.max_jobs, MaxJobs::Auto);
    assert_eq!(settings.max_jobs.resolve(8.try_into().unwrap()), 8);
    assert_eq!(MaxJobs::Count(0).resolve(8.try_into().unwrap()), 0);
}

#[test]
fn appending_keeps_every_origin() {
    let conf = load(&[
        ("/etc/nix/nix.conf", "extra-substituters = https://a"),
        ("/home/me/.config/nix/nix.conf", "extra-binary-caches = https://b https://c"),
    ])
    .unwrap();
    let raw = conf.raw("substituters").unwrap();
    assert_eq!(raw.base(), Base::Default);
    assert_eq!(raw.text(), "https://a https://b https://c");
    let origins: Vec<String> = raw.origins().map(ToString::to_string).collect();
    assert_eq!(origins, ["/etc/nix/nix.conf:1", "/home/me/.config/nix/nix.conf:1"]);
    let substituters: Vec<String> =
        settings(&conf).substituters.iter().map(ToString::to_string).collect();
    assert_eq!(substituters, ["https://cache.nixos.org/", "https://a", "https://b", "https://c"]);
}

#[test]
fn extra_of_what_is_not_a_list_is_another_setting() {
    let conf = load(&[("/etc/nix/nix.conf", "extra-cores = 5\nextra-mine = x")]).unwrap();
    assert_eq!(settings(&conf).cores, 0);
    let names: Vec<&str> = conf.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["extra-cores", "extra-mine"]);
}

#[test]
fn obsolete_variables_set_defaults() {
    let environment = Environment {
        nix_remote: Some("daemon".to_owned()),
        nix_remote_systems: Some("/a:/b".to_owned()),
        ..environment()
    };
    let conf = NixConf::load(&environment, &Texts::new(), &[]).unwrap();
    let system = LocalSystem::new("aarch64-linux", User::Root);
    let settings = Settings::new(&conf, &environment, &system).unwrap();
    assert_eq!(settings.builders, "@/a\n@/b\n");
    assert_eq!(settings.store.to_string(), "daemon");
    assert!(settings.extra_platforms.is_empty());
}

#[test]
fn includes_start_from_their_file_and_variables_from_the_working_directory() {
    let files = texts(&[
        ("/etc/nix/nix.conf", "include a/b.conf\n!include gone.conf"),
        ("/etc/nix/a/b.conf", "include ../c.conf"),
        ("/etc/nix/c.conf", "\ncores = 3"),
        ("/somewhere/d.conf", "timeout = 4"),
    ]);
    let environment =
        Environment { nix_config: Some("include d.conf".to_owned()), ..environment() };
    let conf = NixConf::load(&environment, &files, &[]).unwrap();
    assert_eq!(conf.origin("cores").to_string(), "/etc/nix/c.conf:2");
    assert_eq!(conf.origin("timeout").to_string(), "/somewhere/d.conf:1");
}

#[test]
fn unreadable_files_are_skipped_with_a_note() {
    let files = |path: &Path| match path.to_str() {
        Some("/etc/nix/nix.conf") => Ok(Some("!include secret.conf\ncores = 2".to_owned())),
        Some("/etc/nix/secret.conf" | "/home/me/.config/nix/nix.conf") => {
            Err(io::Error::from(io::ErrorKind::PermissionDenied))
        }
        _ => Ok(None),
    };
    let conf = NixConf::load(&environment(), &files, &[]).unwrap();
    assert_eq!(settings(&conf).cores, 2);
    let notes: Vec<String> = conf.notes().iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [
            "/etc/nix/nix.conf:1: skipped '/etc/nix/secret.conf', which cannot be read: permission denied",
            "/home/me/.config/nix/nix.conf:1: skipped '/home/me/.config/nix/nix.conf', which cannot be read: permission denied",
        ]
    );
    let remedy = &conf.notes()[0].remedy;
    assert!(remedy.ends_with("ls -lL '/etc/nix/secret.conf' shows who may"), "{remedy}");
}

#[rstest]
#[case::one_word("cores", "syntax error in 'cores', expected 'name = value' or 'include path'")]
#[case::no_spaces(
    "cores=1",
    "syntax error in 'cores=1', expected 'name = value' or 'include path'"
)]
#[case::no_equals(
    "cores 1",
    "syntax error in 'cores 1', expected 'name = value' or 'include path'"
)]
#[case::include_alone(
    "include",
    "syntax error in 'include', expected 'name = value' or 'include path'"
)]
#[case::include_two(
    "include a b",
    "syntax error in 'include a b', expected 'name = value' or 'include path'"
)]
#[case::missing(
    "include a.conf",
    "included file '/etc/nix/a.conf' not found ('!include' would not mind)"
)]
#[case::switch(
    "keep-going = maybe",
    "setting 'keep-going' has invalid value 'maybe', expected 'true', 'yes', '1', 'false', 'no' or '0'"
)]
#[case::empty_switch(
    "keep-going =",
    "setting 'keep-going' has invalid value '', expected 'true', 'yes', '1', 'false', 'no' or '0'"
)]
#[case::jobs(
    "build-max-jobs = 2K",
    "setting 'max-jobs' has invalid value '2K', expected 'auto' or a whole number"
)]
#[case::number(
    "timeout = 1h",
    "setting 'timeout' has invalid value '1h', expected a whole number, perhaps followed by K, M, G or T"
)]
#[case::two_numbers(
    "timeout = 1 2",
    "setting 'timeout' has invalid value '1 2', expected a whole number, perhaps followed by K, M, G or T"
)]
#[case::large(
    "cores = 4G",
    "setting 'cores' has invalid value '4G', expected a whole number, perhaps followed by K, M, G or T, of at most 4294967295"
)]
#[case::sandbox(
    "sandbox = yes",
    "setting 'sandbox' has invalid value 'yes', expected 'true', 'relaxed' or 'false'"
)]
fn errors_begin_with_the_place(#[case] line: &str, #[case] message: &str) {
    // Even if the value would have been replaced.
    let text = format!(
        "\n{line} # comment\ncores = 1\nkeep-going = no\ntimeout = 1\nsandbox = true\nmax-jobs = 1"
    );
    let error = load(&[("/etc/nix/nix.conf", &text)]).unwrap_err();
    assert_eq!(error.to_string(), format!("/etc/nix/nix.conf:2: {message}"));
}

#[test]
fn what_is_no_store_is_left_out_of_substituters_and_says_why() {
    let text = "substituters = https://a ssh://-oProxyCommand=x https://b";
    let settings = settings(&load(&[("/etc/nix/nix.conf", text)]).unwrap());
    let substituters: Vec<String> = settings.substituters.iter().map(ToString::to_string).collect();
    assert_eq!(substituters, ["https://a", "https://b"]);
    let [why] = settings.unusable_substituters.as_slice() else { panic!() };
    assert_eq!(
        why.to_string(),
        "'ssh://-oProxyCommand=x' is not a store: neither host nor user may begin with '-'"
    );
}

#[test]
fn loops_and_floods_of_includes_end() {
    let error =
        load(&[("/etc/nix/nix.conf", "include a"), ("/etc/nix/a", "\ninclude ./../nix/nix.conf")])
            .unwrap_err();
    assert_eq!(error.to_string(), "/etc/nix/a:2: file '/etc/nix/nix.conf' includes itself");

    let chain: Vec<(String, String)> =
        (0..40).map(|n| (format!("/etc/nix/{n}"), format!("include {}", n + 1))).collect();
    let mut files: Vec<(&str, &str)> =
        chain.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    files.push(("/etc/nix/nix.conf", "include 0"));
    assert!(matches!(load(&files), Err(ConfigError::IncludesTooDeep { limit: 32, .. })));

    // Every file includes the next one twice: 2^20 files without a limit.
    let doubling: Vec<(String, String)> = (0..20)
        .map(|n| (format!("/etc/nix/{n}"), format!("!include {0}\n!include {0}", n + 1)))
        .collect();
    let mut files: Vec<(&str, &str)> =
        doubling.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    files.push(("/etc/nix/nix.conf", "include 0"));
    assert!(matches!(load(&files), Err(ConfigError::TooManyIncludes { limit: 1024, .. })));
}
