//! What the commands ask of the store, and what they say.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;

use crate::support::{TestHost, TestKeeper};
use drover_compat::{Captured, ExitStatus, Program, ServeAccess};
use drover_core::{NarHash, NarSize, PathInfo, SecretKey, StorePath};
use drover_store::{
    Adoption, CollectAction, FailureCause, Keeper as _, MissingPaths, Realised, SignatureCheck,
    Store as _, Verification,
};
use rstest::rstest;

const A: &str = "/nix/store/00000000000000000000000000000000-a";
const B: &str = "/nix/store/00000000000000000000000000000000-b";
/// What a collection of both tells.
const BOTH: &str = r#"{"bytesFreed":2048,"paths":["/nix/store/00000000000000000000000000000000-a","/nix/store/00000000000000000000000000000000-b"]}"#;
const DRV: &str = "/nix/store/00000000000000000000000000000000-d.drv";

fn path(shown: &str) -> StorePath {
    StorePath::from_base_name(shown.strip_prefix("/nix/store/").unwrap()).unwrap()
}

fn info(shown: &str, references: &[&str]) -> PathInfo {
    PathInfo {
        path: path(shown),
        deriver: Some(path(DRV)),
        nar_hash: NarHash([0; 32]),
        nar_size: NarSize(0),
        references: references.iter().map(|shown| path(shown)).collect(),
        registration_time: 0,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    }
}

/// `b` refers to `a`.
async fn host() -> TestHost {
    let host = TestHost::new();
    host.store.add_file(info(A, &[]), b"a").await;
    host.store.add_file(info(B, &[A]), b"b").await;
    host
}

#[rstest]
#[case(&[], "no operation specified")]
#[case(&["--foo"], "no operation specified")]
#[case(&["-q", "--foo"], "unknown flag '--foo'")]
#[case(&["-r", "-q"], "only one operation may be specified")]
#[case(&["-q", "--hash", "--size"], "query type '--size' conflicts with earlier flag")]
#[case(&["-q", "--binding"], "expected binding name")]
#[case(&["-r", "--foo", "x"], "unknown flag '--foo'")]
#[case(&["--dump"], "only one argument allowed")]
#[case(&["--dump", "a", "b"], "only one argument allowed")]
#[case(&["--restore"], "only one argument allowed")]
#[case(&["--gc", "--foo"], "bad sub-operation '--foo' in GC")]
#[case(&["--gc", "x"], "no arguments expected")]
#[case(&["--gc", "--max-freed", "x"], "invalid unit specifier 'X'")]
#[case(&["--gc", "--max-freed", "1", "--print-dead"], "option --max-freed cannot be combined with --print-live, --print-dead, or --print-roots")]
#[case(&["--max-freed"], "'--max-freed' requires an argument")]
#[case(&["--add-fixed"], "first argument must be hash algorithm")]
#[case(&["--print-fixed-path", "a"], "'--print-fixed-path' requires three arguments")]
#[case(&["--print-env"], "'--print-env' requires one derivation store path")]
#[case(&["--generate-binary-cache-key", "a"], "three arguments expected")]
#[case(&["--import", "x"], "no arguments expected")]
#[case(&["--import", "--foo"], "unknown flag '--foo'")]
#[case(&["--serve", "--foo"], "unknown flag '--foo'")]
#[case(&["--verify", "x"], "no arguments expected")]
#[case(&["--verify-path", "--foo"], "no flags expected")]
#[case(&["--optimise", "x"], "no arguments expected")]
#[case(&["--dump-db", "--foo"], "unknown flag")]
#[case(&["--register-validity", "--foo"], "unknown flag '--foo'")]
#[tokio::test]
async fn wrong_calls(#[case] arguments: &[&str], #[case] expected: &str) {
    let done = TestHost::new().run(Program::NixStore, arguments).await;
    let help = "Try 'nix-store --help' for more information.";
    assert_eq!(done.err, format!("error: {expected}\n{help}\n"));
    assert_eq!((done.status, done.out.len()), (1, 0));
}

#[rstest]
#[case(Program::NixHash, &["--foo"], "unrecognised flag '--foo'")]
#[case(Program::NixHash, &["--type", "foo"], "unknown hash algorithm 'foo', expect 'md5', 'sha1', 'sha256', or 'sha512'")]
#[case(Program::NixCollectGarbage, &["--foo"], "unrecognised flag '--foo'")]
#[case(Program::NixCollectGarbage, &["--delete-older-than", "3"], "invalid number of days specifier '3', expected something like '14d'")]
#[case(Program::NixCollectGarbage, &["--delete-older-than", "0d"], "invalid number of days specifier '0d'")]
#[case(Program::NixCollectGarbage, &["--max-freed", "1", "--dry-run"], "options --max-freed and --dry-run cannot be combined")]
#[case(Program::NixCopyClosure, &[], "no host name specified")]
#[case(Program::NixBuild, &["--foo"], "unrecognised flag '--foo'")]
#[case(Program::NixBuild, &["--log-format", "nope"], "option 'log-format' has an invalid value 'nope'")]
#[tokio::test]
async fn wrong_calls_of_others(
    #[case] program: Program,
    #[case] arguments: &[&str],
    #[case] expected: &str,
) {
    let done = TestHost::new().run(program, arguments).await;
    assert_eq!(done.err.lines().next(), Some(format!("error: {expected}").as_str()));
    assert!(done.err.contains("--help' for more information."), "{}", done.err);
    assert_eq!(done.status, 1);
}

#[rstest]
#[case(&["-q", "--hash", "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-x"], "path '/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-x' is not valid")]
#[case(&["-q", "/tmp"], "path \"/tmp\" is not in the Nix store")]
#[case(&["--check-validity", "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-x"], "path '/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-x' is not valid")]
#[case(&["--read-log", A], "build log of derivation '/nix/store/00000000000000000000000000000000-a' is not available")]
#[case(&["--import"], "unexpected end-of-file")]
#[case(&["--dump", "/nonexistent"], "getting status of '/nonexistent': No such file or directory")]
#[case(&["--add", "/nonexistent"], "getting status of '/nonexistent': No such file or directory")]
#[case(&["--add", "."], "cannot add '/tmp': its name is not valid: name may not be '.' or '..', alone or before a dash")]
#[case(&["--add-fixed", "sha256", "/proc/self/exe"], "path '/proc/self/exe' is a symlink")]
#[tokio::test]
async fn errors(#[case] arguments: &[&str], #[case] expected: &str) {
    let done = host().await.run(Program::NixStore, arguments).await;
    assert_eq!((done.err.as_str(), done.status), (format!("error: {expected}\n").as_str(), 1));
}

/// Programs that read what is said are told of errors in their form, too.
#[tokio::test]
async fn errors_for_programs() {
    let arguments = ["-q", "--hash", "/tmp", "--log-format", "internal-json"];
    let done = host().await.run(Program::NixStore, &arguments).await;
    let expected =
        r#"@nix {"action":"msg","level":0,"msg":"error: path \"/tmp\" is not in the Nix store"}"#;
    assert_eq!((done.err.trim_end(), done.status), (expected, 1));
}

#[rstest]
#[case(Program::NixStore, "nix-store (Nix) 2.34.8\n")]
#[case(Program::NixHash, "nix-hash (Nix) 2.34.8\n")]
#[case(Program::NixDaemon, "nix-daemon (Nix) 2.34.8\n")]
#[case(Program::NixBuild, "nix-build (Nix) 2.34.8\n")]
#[case(Program::NixCopyClosure, "nix-copy-closure (Nix) 2.34.8\n")]
#[case(Program::NixCollectGarbage, "nix-collect-garbage (Nix) 2.34.8\n")]
#[case(Program::Nix, "nix (Nix) 2.34.8\n")]
#[tokio::test]
async fn versions(#[case] program: Program, #[case] expected: &str) {
    let done = TestHost::new().run(program, &["--version"]).await;
    assert_eq!((done.text().as_str(), done.status), (expected, 0));
}

#[rstest]
#[case(Program::NixStore, &["-v", "--version"])]
#[case(Program::NixStore, &["--version", "-v"])]
#[case(Program::NixBuild, &["--verbose", "--version"])]
#[case(Program::Nix, &["-v", "--version"])]
#[tokio::test]
async fn versions_with_all_that_is_known(#[case] program: Program, #[case] arguments: &[&str]) {
    let expected = "System type: x86_64-linux
Additional system types: i686-linux, x86_64-v2-linux
Features: signed-caches
System configuration file: \"/etc/nix/nix.conf\"
User configuration files: /home/a/.config/nix/nix.conf:/etc/xdg/nix/nix.conf
Store directory: /nix/store
State directory: \"/nix/var/nix\"
";
    let done = TestHost::new().run(program, arguments).await;
    let (first, rest) =
        done.text().split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert_eq!((first, done.status), (format!("{} (Nix) 2.34.8", program.name()), 0));
    assert_eq!(rest, expected);
}

#[tokio::test]
async fn bytes_that_are_no_text_are_refused_not_fatal() {
    let host = host().await;
    let odd = OsString::from_vec(b"\xff\xfe".to_vec());
    for program in Program::ALL {
        for flag in ["", "-q", "--store", "--option", "-j", "--type", "--export", "--to", "-A"] {
            let mut arguments = vec![odd.clone(), odd.clone()];
            if !flag.is_empty() {
                arguments.insert(0, flag.into());
            }
            // it comes back, and says something where it was not handed on
            let done = host.run_with(program, arguments, b"").await;
            assert!(done.status == 0 || !done.err.is_empty(), "{program:?} {flag}");
        }
    }
}

#[tokio::test]
async fn realised_paths_are_kept_by_links() {
    let host = host().await;
    let done = host.run(Program::NixStore, &["-r", A, B]).await;
    assert_eq!(done.text(), format!("{A}\n{B}\n"));
    assert_eq!(done.err.matches("you did not specify '--add-root'").count(), 1, "{}", done.err);
    assert!(done.err.contains("a line\n"), "{}", done.err);
    let arguments = ["-r", A, B, "--add-root", "/x/link", "--indirect", "-Q"];
    let done = host.run(Program::NixStore, &arguments).await;
    assert_eq!((done.text().as_str(), done.err.as_str()), ("/x/link\n/x/link-2\n", ""));
    let roots = host.run(Program::NixStore, &["--gc", "--print-roots"]).await;
    assert_eq!(roots.text(), format!("\"/x/link\" -> {A}\n\"/x/link-2\" -> {B}\n"));
    let roots = host.run(Program::NixStore, &["-q", "--roots", A]).await;
    assert_eq!(roots.text(), format!("/x/link -> {A}\n/x/link-2 -> {B}\n"));
    let quiet = ["-r", A, "--no-gc-warning", "--no-output", "-Q"];
    let done = host.run(Program::NixStore, &quiet).await;
    assert_eq!((done.text().as_str(), done.err.as_str()), ("", ""));
}

#[tokio::test]
async fn what_is_missing_is_told() {
    let host = host().await;
    *host.store.missing.lock().unwrap() = MissingPaths {
        build: [path(DRV)].into(),
        substitute: [path(A), path(B)].into(),
        unknown: [path(A)].into(),
        download_size: 2048,
        nar_size: 3 << 20,
    };
    let done = host.run(Program::NixStore, &["-r", DRV, "--dry-run"]).await;
    assert_eq!(
        done.err,
        format!(
            "this derivation will be built:\n  {DRV}\nthese 2 paths will be fetched (2.0 KiB \
             download, 3.0 MiB unpacked):\n  {A}\n  {B}\ndon't know how to build these paths:\n  \
             {A}\n"
        )
    );
    assert_eq!((done.out.len(), done.status), (0, 0));
    let done = host.run(Program::NixStore, &["-r", DRV, "--dry-run", "--no-print-missing"]).await;
    assert_eq!(done.err, "");
    let ignored = host.run(Program::NixStore, &["-r", A, "--ignore-unknown", "-Q"]).await;
    assert_eq!((ignored.text().as_str(), ignored.status), ("", 0));
}

#[tokio::test]
async fn failed_builds() {
    let host = host().await;
    let outcome = Realised::failed(FailureCause::Build, "builder for 'x' failed");
    host.store.outcomes.lock().unwrap().insert(path(A), outcome);
    let done = host.run(Program::NixStore, &["-Qr", A, B]).await;
    assert_eq!((done.err.as_str(), done.status), ("error: builder for 'x' failed\n", 100));
    let outcome = Realised::failed(FailureCause::TimedOut, "too slow");
    host.store.outcomes.lock().unwrap().insert(path(B), outcome);
    let done = host.run(Program::NixStore, &["-Qr", A, B]).await;
    let expected = format!(
        "error: builder for 'x' failed\nerror: too slow\nerror: build of '{A}', '{B}' failed\n"
    );
    assert_eq!((done.err, done.status), (expected, 101));
    let outcome = Realised::failed(FailureCause::NotDeterministic, "it differs");
    host.store.outcomes.lock().unwrap().insert(path(A), outcome);
    let done = host.run(Program::NixStore, &["-Qr", A, "--check"]).await;
    assert_eq!((done.err.as_str(), done.status), ("error: it differs\n", 104));
}

#[tokio::test]
async fn garbage() {
    let host = host().await;
    let done = host.run(Program::NixStore, &["--gc", "--max-freed", "2K"]).await;
    assert_eq!(done.text(), "2 store paths deleted, 2.0 KiB freed\n");
    let asked = host.store.collections.lock().unwrap().pop().unwrap();
    assert_eq!((asked.action, asked.max_freed), (CollectAction::DeleteDead, Some(2048)));
    let done = host.run(Program::NixStore, &["--gc", "--print-dead"]).await;
    assert_eq!(done.text(), format!("{A}\n{B}\n"));
    let done = host.run(Program::NixStore, &["--delete", A]).await;
    assert_eq!(done.text(), "0 store paths deleted, 0.0 KiB freed\n");
    assert!(done.err.ends_with("error: cannot delete path: it is still alive\n"), "{}", done.err);
    assert_eq!(done.status, 1);
    let done = host.run(Program::NixCollectGarbage, &["--dry-run"]).await;
    assert_eq!(done.text(), "2 store paths would be deleted\n");
    let done = host.run(Program::Nix, &["store", "gc", "--max", "5"]).await;
    assert_eq!(done.text(), "2 store paths deleted, 2.0 KiB freed\n");
    assert_eq!(host.store.collections.lock().unwrap().pop().unwrap().max_freed, Some(5));
}

#[tokio::test]
async fn old_generations_go_first() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = host().await;
    host.folder = folder.path().to_owned();
    host.variables.insert("HOME".to_owned(), folder.path().into());
    let profiles = folder.path().join("state/profiles");
    std::fs::create_dir_all(&profiles).unwrap();
    for number in 1..=2 {
        std::os::unix::fs::symlink(A, profiles.join(format!("p-{number}-link"))).unwrap();
    }
    std::os::unix::fs::symlink("p-2-link", profiles.join("p")).unwrap();
    let done = host.run(Program::NixCollectGarbage, &["-d"]).await;
    let shown = profiles.join("p");
    let expected = format!(
        "removing old generations of profile {}\nremoving profile version 1\n",
        shown.display()
    );
    assert!(done.err.starts_with(&expected), "{}", done.err);
    assert!(!profiles.join("p-1-link").is_symlink());
    assert!(profiles.join("p-2-link").is_symlink());
}

/// A user's folder is no place of profiles, whatever lies there.
#[rstest]
#[case::no_link(None, None)]
#[case::a_folder(Some(""), None)]
#[case::a_link(Some("elsewhere/own"), Some("elsewhere"))]
#[tokio::test]
async fn only_profiles_lose_generations(#[case] link: Option<&str>, #[case] there: Option<&str>) {
    let folder = tempfile::tempdir().unwrap();
    let mut host = host().await;
    host.folder = folder.path().join("nix");
    host.variables.insert("HOME".to_owned(), folder.path().into());
    for at in ["", "elsewhere"] {
        let at = folder.path().join(at);
        std::fs::create_dir_all(&at).unwrap();
        std::os::unix::fs::symlink(A, at.join("own-1-link")).unwrap();
        std::os::unix::fs::symlink(A, at.join("own-2-link")).unwrap();
        std::os::unix::fs::symlink("own-2-link", at.join("own")).unwrap();
    }
    let profile = folder.path().join(".nix-profile");
    match link {
        None => {}
        Some("") => std::fs::create_dir(&profile).unwrap(),
        Some(target) => std::os::unix::fs::symlink(target, &profile).unwrap(),
    }
    let done = host.run(Program::NixCollectGarbage, &["-d"]).await;
    assert_eq!(done.status, 0, "{}", done.err);
    for at in ["", "elsewhere"] {
        let is_kept = folder.path().join(at).join("own-1-link").is_symlink();
        assert_eq!(is_kept, there != Some(at), "{at:?}");
    }
    // and who has no folder has none looked through
    host.variables.remove("HOME");
    assert_eq!(host.run(Program::NixCollectGarbage, &["-d"]).await.status, 0);
}

#[tokio::test]
async fn registration() {
    let host = host().await;
    let claims = host.run(Program::NixStore, &["--dump-db"]).await.out;
    let load = vec!["--load-db".into()];
    let done = host.run_with(Program::NixStore, load, &claims).await;
    assert_eq!((done.err.as_str(), done.status), ("", 0));
    let registered: Vec<_> = host.store.registered.lock().unwrap().drain(..).collect();
    let valid = host.store.path_infos(&[path(A), path(B)]).await.unwrap();
    for ((info, adoption), valid) in registered.iter().zip(valid) {
        assert_eq!(*adoption, Adoption::AsGiven);
        assert_eq!(Some(info), valid.as_ref());
    }
    assert_eq!(registered.len(), 2);
    // those that are valid stay as they are
    let input = format!("{A}\n\n0\n{DRV}\n\n1\n{A}\n");
    let register = vec!["--register-validity".into()];
    let done = host.run_with(Program::NixStore, register, input.as_bytes()).await;
    assert_eq!((done.err.as_str(), done.status), ("", 0));
    let registered = host.store.registered.lock().unwrap();
    assert_eq!(registered.len(), 1);
    assert_eq!((&registered[0].0.path, registered[0].1), (&path(DRV), Adoption::Measured));
}

#[tokio::test]
async fn verification() {
    let host = host().await;
    let done = host.run(Program::NixStore, &["--verify-path", A, B]).await;
    assert_eq!((done.err.as_str(), done.status), ("", 0));
    let done = host.run(Program::NixStore, &["--verify"]).await;
    assert_eq!(done.status, 0);
    *host.store.verification.lock().unwrap() = Verification {
        problems: vec!["path 'x' disappeared".to_owned()],
        errors_left: true,
        unmended: Vec::new(),
    };
    let done = host.run(Program::NixStore, &["--verify", "--check-contents"]).await;
    assert!(
        done.err.ends_with("path 'x' disappeared\nwarning: not all store errors were fixed\n"),
        "{}",
        done.err
    );
    assert_eq!(done.status, 1);
}

#[tokio::test]
async fn logs_of_outputs_are_those_of_their_derivations() {
    let host = host().await;
    host.store.logs.lock().unwrap().insert(path(DRV), "a log\n".into());
    for arguments in [["-l", A], ["--read-log", DRV]] {
        assert_eq!(host.run(Program::NixStore, &arguments).await.text(), "a log\n");
    }
    assert_eq!(host.run(Program::Nix, &["log", A]).await.text(), "a log\n");
}

#[tokio::test]
async fn words_from_standard_input() {
    let host = host().await;
    let arguments = vec!["-q".into(), "--resolve".into(), "--stdin".into()];
    let done = host.run_with(Program::NixStore, arguments, format!("{A}\n  {B} ").as_bytes()).await;
    assert_eq!(done.text(), format!("{A}\n{B}\n"));
}

#[tokio::test]
async fn servers_are_the_hosts() {
    let host = host().await;
    assert_eq!(host.run(Program::NixStore, &["--serve", "--write"]).await.status, 0);
    assert_eq!(host.run(Program::NixStore, &["--serve"]).await.status, 0);
    assert_eq!(*host.served.lock().unwrap(), [ServeAccess::Write, ServeAccess::Read]);
    assert_eq!(host.run(Program::NixDaemon, &["--stdio"]).await.status, 0);
    assert_eq!(host.run(Program::Nix, &["daemon", "--stdio"]).await.status, 0);
    let daemons = host.daemons.lock().unwrap();
    assert_eq!(daemons.len(), 2);
    assert_eq!(daemons[0], daemons[1]);
}

#[tokio::test]
async fn closures_are_copied() {
    let mut host = host().await;
    let other: Arc<TestKeeper> = Arc::default();
    other.named.set("ssh://user@host").unwrap();
    host.store.named.set("local").unwrap();
    host.others.insert("ssh://user@host".to_owned(), other.clone());
    let told = |way: &str| {
        let one = |path: &str| format!("copying path '{path}' {way} 'ssh://user@host'...\n");
        format!("copying 2 paths...\n{}{}", one(A), one(B))
    };
    let done = host.run(Program::NixCopyClosure, &["--to", "user@host", B]).await;
    assert_eq!((done.status, &*done.err), (0, &*told("to")));
    let done = host.run(Program::NixCopyClosure, &["--to", "user@host", B]).await;
    assert_eq!((done.status, &*done.err), (0, "copying 0 paths...\n"));
    assert_eq!(other.all_valid().await.unwrap(), [path(A), path(B)].into());
    host.store = Arc::default();
    host.store.named.set("local").unwrap();
    let done = host.run(Program::NixCopyClosure, &["user@host", "--from", B]).await;
    assert_eq!((done.status, &*done.err), (0, &*told("from")));
    assert_eq!(host.store.all_valid().await.unwrap(), [path(A), path(B)].into());
    let third: Arc<TestKeeper> = Arc::default();
    host.others.insert("ssh-ng://x".to_owned(), third.clone());
    let done = host.run(Program::Nix, &["copy", "--to", "ssh-ng://x", "--no-recursive", A]).await;
    assert_eq!(done.status, 0, "{}", done.err);
    assert_eq!(third.all_valid().await.unwrap(), [path(A)].into());
}

/// What a store fetches is told in the words of Nix, and to programs as activities.
#[tokio::test]
async fn what_is_fetched_is_told() {
    let host = host().await;
    host.store.fetches.lock().unwrap().insert(path(A));
    let done = host.run(Program::NixStore, &["-r", A, "--quiet"]).await;
    assert!(!done.err.contains("copying"), "{}", done.err);
    let done = host.run(Program::NixStore, &["-r", A]).await;
    assert!(
        done.err.contains(&format!("copying path '{A}' from 'https://c'...\n")),
        "{}",
        done.err
    );
    let done = host.run(Program::NixStore, &["-r", A, "--log-format", "internal-json"]).await;
    let told: Vec<serde_json::Value> = done
        .err
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("@nix ")?).ok())
        .filter(|value: &serde_json::Value| value["action"] != "msg")
        .collect();
    let kinds: Vec<String> =
        told.iter().map(|value| format!("{} {}", value["action"], value["type"])).collect();
    let expected =
        ["\"start\" 108", "\"start\" 100", "\"result\" 105", "\"stop\" null", "\"stop\" null"];
    assert_eq!(kinds, expected, "{}", done.err);
    assert_eq!(told[1]["fields"], serde_json::json!([A, "https://c", "local"]));
    assert_eq!(told[1]["parent"], told[0]["id"]);
    assert_eq!(told[2]["fields"], serde_json::json!([5, 9, 0, 0]));
}

/// Whether signatures are looked at is the receiving store's business, and it has to be told.
#[rstest]
#[case::here(&["--from", "ssh-ng://x"], SignatureCheck::AsConfigured)]
#[case::there(&["--to", "ssh-ng://x"], SignatureCheck::AsConfigured)]
#[case::local(&["--to", "local?root=/x"], SignatureCheck::AsConfigured)]
#[case::unchecked(&["--to", "ssh-ng://x", "--no-check-sigs"], SignatureCheck::Skip)]
#[tokio::test]
async fn copies_are_checked_unless_told_otherwise(
    #[case] arguments: &[&str],
    #[case] expected: SignatureCheck,
) {
    let mut host = host().await;
    let mut line = vec!["copy", B];
    line.extend(arguments);
    let other = std::mem::take(&mut host.store);
    let (from, to) = match arguments.contains(&"--from") {
        true => (other, Arc::default()),
        false => (Arc::default(), other),
    };
    host.store = to;
    for name in ["ssh-ng://x", "local?root=/x", "local://?root=/x"] {
        host.others.insert(name.to_owned(), from.clone());
    }
    let done = host.run(Program::Nix, &line).await;
    assert_eq!(done.status, 0, "{}", done.err);
    let receiver = if arguments.contains(&"--from") { &host.store } else { &from };
    assert_eq!(*receiver.checks.lock().unwrap(), [expected]);
}

#[rstest]
#[case(&["store", "gc", "--frobnicate"], "unrecognised flag '--frobnicate'")]
#[case(&["copy", "--to", "ssh-ng://x", "--frobnicate", A], "unrecognised flag '--frobnicate'")]
#[case(&["path-info", "--frobnicate"], "unrecognised flag '--frobnicate'")]
#[case(&["path-info"], "give paths, or '--all'")]
#[case(&["copy", A], "you must pass '--from' and/or '--to'")]
#[case(&["store", "sign", A], "flag '--key-file' is required")]
#[case(&["store", "gc", "x"], "unexpected argument 'x'")]
#[case(&["store", "frobnicate"], "'store frobnicate' is not a command")]
#[case(&["store", "query", "--frobnicate"], "unknown flag '--frobnicate'")]
#[case(&["path-info", "nixpkgs#hello"], "nixpkgs#hello")]
#[tokio::test]
async fn own_words_name_what_they_do_not_know(#[case] arguments: &[&str], #[case] words: &str) {
    let host = host().await;
    let done = host.run_own(arguments).await;
    assert_eq!(done.status, 1, "{done:?}");
    assert!(done.err.contains(words), "{done:?}");
    assert!(host.real.lock().unwrap().is_empty(), "another program was asked");
}

#[rstest]
#[case(&["store", "gc", "--json"], BOTH)]
#[case(&["store", "gc", "--dry-run", "--json"], BOTH)]
#[case(&["store", "optimise", "--json"], r#"{"bytesFreed":3145728}"#)]
#[case(
    &["store", "verify", "--json", "--no-contents", A],
    r#"[{"modified":null,"path":"/nix/store/00000000000000000000000000000000-a","trusted":false}]"#
)]
#[case(
    &["copy", "--json", "--no-check-sigs", "--to", "ssh-ng://x", A],
    r#"{"copied":["/nix/store/00000000000000000000000000000000-a"]}"#
)]
#[tokio::test]
async fn own_words_tell_scripts_what_they_did(#[case] arguments: &[&str], #[case] expected: &str) {
    let mut host = host().await;
    host.others.insert("ssh-ng://x".to_owned(), Arc::default());
    let done = host.run_own(arguments).await;
    assert_eq!(done.text().trim_end(), expected, "{done:?}");
    // that is no word of Nix's: its own program is asked, and refuses it
    assert_eq!(host.run(Program::Nix, arguments).await.text(), "");
    assert_eq!(host.real.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn words_of_the_older_commands_print_lists_for_scripts() {
    let host = host().await;
    let path = path(A);
    host.store.roots.lock().unwrap().insert(("/a \"link\"".to_owned(), path));
    let roots = format!(r#"[{{"link":"/a \"link\"","path":"{A}"}}]"#);
    let references = format!(r#"["{A}"]"#);
    for (arguments, expected) in [
        (&["store", "roots", "--json"][..], roots.as_str()),
        (&["store", "query", "--references", "--json", B], &references),
        (&["store", "query", "--json", "--referrers", B], "[]"),
    ] {
        let done = host.run_own(arguments).await;
        assert_eq!(done.text().trim_end(), expected, "{done:?}");
        assert_eq!(done.status, 0);
    }
    // where nothing prints a list, nobody takes the flag for said
    let done = host.run_own(&["store", "dump", "--json", A]).await;
    assert!(done.err.contains("unknown flag"), "{done:?}");
}

#[tokio::test]
async fn words_of_the_older_commands_are_there_too() {
    let host = host().await;
    for (word, flag) in [("query", "--references"), ("query", "-R"), ("query", "--hash")] {
        let ours = host.run_own(&["store", word, flag, B]).await;
        let theirs = host.run(Program::NixStore, &["-q", flag, B]).await;
        assert_eq!((ours.status, ours.text()), (theirs.status, theirs.text()));
    }
    let dumped = host.run_own(&["store", "dump", A]).await;
    assert_eq!(dumped.status, 1, "a path of this store has no files: {dumped:?}");
    assert_eq!(host.run_own(&["store", "roots"]).await.status, 0);
}

#[tokio::test]
async fn paths_are_signed_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = host().await;
    host.folder = folder.path().to_owned();
    let key = SecretKey::generate("key-1").unwrap();
    std::fs::write(folder.path().join("key"), key.to_text().as_bytes()).unwrap();
    let public = key.public_key().to_string();
    let verify = ["store", "verify", "--trusted-public-keys", &public, A];
    assert_eq!(host.run(Program::Nix, &verify).await.status, 2);
    for (name, added) in [("sign-paths", 1), ("sign-paths", 0)] {
        let done = host.run(Program::Nix, &[name, "-k", "key", A]).await;
        assert_eq!(done.err, format!("added {added} signatures\n"));
    }
    let done = host.run(Program::Nix, &verify).await;
    assert_eq!(done.status, 0, "{}", done.err);
}

#[tokio::test]
async fn infos_of_paths() {
    let host = host().await;
    let size = host.store.path_infos(&[path(A)]).await.unwrap()[0].clone().unwrap().nar_size.0;
    let done = host.run(Program::Nix, &["path-info", "-rsS", B]).await;
    let expected = format!("{A}\t{size:>11}\t{size:>11}\n{B}\t{size:>11}\t{:>11}\n", 2 * size);
    assert_eq!(done.text(), expected);
    let done = host.run(Program::Nix, &["path-info", "--json", "--json-format", "1", B]).await;
    let hash = host.store.path_infos(&[path(B)]).await.unwrap()[0].clone().unwrap();
    let hash = hash.nar_hash.to_hash().display(drover_core::HashNotation::Sri);
    let expected = format!(
        "{{\"{B}\":{{\"ca\":null,\"deriver\":\"{DRV}\",\"narHash\":\"{hash}\",\"narSize\":{size},\
         \"references\":[\"{A}\"],\"registrationTime\":null,\"signatures\":[],\
         \"storeDir\":\"/nix/store\",\"ultimate\":false,\"version\":1}}}}\n"
    );
    assert_eq!((done.text(), done.err.as_str()), (expected, ""));
    // what was built stands for its derivation, which isn't here
    let done = host.run(Program::Nix, &["path-info", "--derivation", B]).await;
    assert_eq!(done.err, format!("error: path '{DRV}' is not valid\n"));
    let done = host.run(Program::Nix, &["path-info", "--json", A]).await;
    assert!(done.err.starts_with("warning: '--json' without '--json-format'"), "{}", done.err);
    let absent = "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-x";
    let arguments = ["path-info", "--json", "--json-format", "2", absent];
    assert_eq!(
        host.run(Program::Nix, &arguments).await.text(),
        format!(
            "{{\"info\":{{\"{}\":null}},\"storeDir\":\"/nix/store\",\"version\":2}}\n",
            path(absent)
        )
    );
}

#[tokio::test]
async fn who_is_there() {
    let host = host().await;
    for name in [&["store", "ping"][..], &["store", "info"], &["ping-store"]] {
        let done = host.run(Program::Nix, name).await;
        assert_eq!(done.err, "Store URL: memory\nVersion: 2.34.8\nTrusted: 1\n");
    }
    let done = host.run(Program::Nix, &["store", "info", "--json"]).await;
    let expected = "{\"trusted\":true,\"url\":\"memory\",\"version\":\"2.34.8\"}\n";
    assert_eq!(done.text(), expected);
}

#[rstest]
#[case(&["build", "nixpkgs#hello"])]
#[case(&["path-info", "nixpkgs#hello"])]
#[case(&["path-info"])]
#[case(&["path-info", "--foo", A])]
#[case(&["path-info", "--json-format", "3", A])]
#[case(&["copy", A])]
#[case(&["store", "sign", A])]
#[case(&["store"])]
#[case(&["eval", "--expr", "1"])]
#[case(&["--help"])]
#[case(&["key", "generate-secret"])]
#[case(&[])]
#[tokio::test]
async fn the_rest_is_for_the_real_one(#[case] arguments: &[&str]) {
    let host = host().await;
    let done = host.run(Program::Nix, arguments).await;
    assert_eq!((done.status, done.err.as_str()), (0, ""));
    let mut expected = vec![OsString::from("nix")];
    expected.extend(arguments.iter().map(OsString::from));
    assert_eq!(*host.real.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn instantiation_is_the_real_ones() {
    let host = host().await;
    host.run(Program::NixInstantiate, &["-E", "1"]).await;
    assert_eq!(host.real.lock().unwrap()[0], ["nix-instantiate", "-E", "1"]);
}

#[tokio::test]
async fn builds_of_nothing_and_of_what_does_not_evaluate() {
    let mut host = host().await;
    let done = host.run(Program::NixBuild, &["x.nix", "-j0"]).await;
    assert_eq!((done.text().as_str(), done.status), ("", 0));
    let line = host.real.lock().unwrap().pop().unwrap();
    assert_eq!(line[..4], ["nix-instantiate", "--option", "max-jobs", "0"]);
    assert_eq!(line.last().unwrap(), "x.nix");
    host.real_says = Captured { status: ExitStatus(1), output: Vec::new() };
    let done = host.run(Program::NixBuild, &["x.nix"]).await;
    assert_eq!((done.err.as_str(), done.status), ("", 1));
}
