//! The machines file: every rule and every trap.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use drover_config::{
    Builders, Files, Machine, Machines, MachinesError, Origin, Severity, StoreReference, lint,
    parse_machines,
};
use rstest::rstest;

/// base64 of `ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA root@b` and a line end.
const HOST_KEY: &str = "c3NoLWVkMjU1MTkgQUFBQUMzTnphQzFsWkRJMU5URTVBQUFBSUEgcm9vdEBiCg==";

fn origin() -> Origin {
    Origin::CommandLine { flag: "--builders".into() }
}

fn parse_with(files: &[(&str, &str)], text: &str) -> Result<Machines, MachinesError> {
    let files: BTreeMap<PathBuf, String> =
        files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
    parse_in(Path::new("/home/ann"), &origin(), text, &files)
}

fn parse_in(
    dir: &Path,
    origin: &Origin,
    text: &str,
    files: &impl Files,
) -> Result<Machines, MachinesError> {
    parse_machines(&Builders { text, origin, default_system: "x86_64-linux", dir }, files)
}

fn parse(text: &str) -> Vec<Machine> {
    parse_with(&[], text).unwrap().machines
}

fn stores(machines: &[Machine]) -> Vec<String> {
    machines.iter().map(|machine| machine.store_uri.to_string()).collect()
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// An error with its causes, as a program would show it.
fn chain(error: &MachinesError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[rstest]
#[case::nothing("", &[])]
#[case::uri_only("nix@scratchy", &["ssh://nix@scratchy"])]
#[case::port("nix@scratchy:2222", &["ssh://nix@scratchy:2222"])]
#[case::newlines("a\nb\r\nc\n", &["ssh://a", "ssh://b", "ssh://c"])]
#[case::semicolons("a;b ; c;;", &["ssh://a", "ssh://b", "ssh://c"])]
#[case::comments("# a ; b\na # ; b\n#\n", &["ssh://a"])]
#[case::comment_inside("ssh-ng://a#b x86_64-linux - 5 ; c", &["ssh-ng://a"])]
#[case::blanks(" \n\t;\n ; ;\n\ta ; b \n\n", &["ssh://a", "ssh://b"])]
#[case::urls("ssh-ng://a\nhttp://b/c\n/d/e\nunix:///f", &["ssh-ng://a", "http://b/c", "local:///d/e", "unix:///f"])]
#[case::words("auto\ndaemon\nlocal\nlocal?root=%2Fx\nauto?a=b\n?a=b", &["auto", "daemon", "local", "local://?root=/x", "auto?a=b", "auto?a=b"])]
#[case::almost_words("automatic\ndaemons?x=y", &["ssh://automatic", "ssh://daemons?x=y"])]
#[case::number("5", &["ssh://5"])]
#[case::params("ssh-ng://a?remote-program=/x/y", &["ssh-ng://a?remote-program=/x/y"])]
#[case::ipv6("ssh://[fe80::1%25eth0]:22", &["ssh://[fe80::1%25eth0]:22"])]
#[case::bare_ipv6("u@fe80::1%eth0", &["ssh://u@[fe80::1%25eth0]"])]
fn entries(#[case] text: &str, #[case] expected: &[&str]) {
    assert_eq!(stores(&parse(text)), expected);
}

#[rstest]
#[case::short("h")]
#[case::dashes("h - - - - - - -")]
fn defaults(#[case] text: &str) {
    let [machine] = &parse(text)[..] else { panic!() };
    assert_eq!(machine.systems, set(&["x86_64-linux"]));
    assert_eq!(machine.ssh_key, None);
    assert_eq!(machine.max_jobs, 1);
    assert_eq!(machine.speed_factor.get(), 1.0);
    assert!(machine.supported_features.is_empty() && machine.mandatory_features.is_empty());
    assert_eq!(machine.public_host_key, None);
    assert_eq!(machine.origin, origin());
}

#[test]
fn all_columns() {
    let text = format!(
        "ssh-ng://h?compress=true\ti686-linux,x86_64-linux /key 8 2.5 kvm,a, b,a {HOST_KEY}"
    );
    let [machine] = &parse(&text)[..] else { panic!() };
    assert_eq!(machine.systems, set(&["i686-linux", "x86_64-linux"]));
    assert_eq!(machine.ssh_key.as_deref(), Some(Path::new("/key")));
    assert_eq!((machine.max_jobs, machine.speed_factor.get()), (8, 2.5));
    assert_eq!(machine.supported_features, set(&["a", "kvm"]));
    assert_eq!(machine.mandatory_features, set(&["a", "b"]));
    let key = machine.public_host_key.as_ref().unwrap();
    assert_eq!(key.line(), Some("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA root@b"));
    assert_eq!(
        machine.store_uri_with_params().to_string(),
        format!(
            "ssh-ng://h?base64-ssh-public-host-key={}&compress=true&ssh-key=/key\
             &system-features=a%20kvm%20a%20b",
            HOST_KEY.replace('=', "%3D")
        )
    );
}

#[rstest]
#[case::ssh("h - /k 1 1 f", "ssh://h?log-fd=4&max-connections=1&ssh-key=/k&system-features=f")]
#[case::ssh_ng("ssh-ng://h", "ssh-ng://h?system-features=")]
#[case::local("/x - /k", "local:///x?system-features=")]
#[case::given("ssh-ng://h?system-features=g - - - - f", "ssh-ng://h?system-features=g%20f")]
fn params_that_nix_adds(#[case] line: &str, #[case] expected: &str) {
    assert_eq!(parse(line)[0].store_uri_with_params().to_string(), expected);
}

#[rstest]
#[case::zero("0", 1.0)]
#[case::minus_zero("-0", 1.0)]
#[case::fraction("0.5", 0.5)]
#[case::exponent("1e3", 1000.0)]
fn speed_factors(#[case] text: &str, #[case] expected: f32) {
    assert_eq!(parse(&format!("h - - 1 {text}"))[0].speed_factor.get(), expected);
}

#[rstest]
#[case::no_store("- x86_64-linux", "the store is missing in '- x86_64-linux'")]
#[case::jobs("h - - eight", "column 4 (max jobs) is 'eight', expected a whole number")]
#[case::negative_jobs("h - - -1", "column 4 (max jobs) is '-1', expected a whole number")]
#[case::fraction_of_a_job("h - - 1.5", "column 4 (max jobs) is '1.5', expected a whole number")]
#[case::many_jobs(
    "h - - 4294967296",
    "column 4 (max jobs) is '4294967296', expected a whole number"
)]
#[case::speed(
    "h - - 8 three",
    "column 5 (speed factor) is 'three', expected a number that is not negative"
)]
#[case::negative_speed(
    "h - - 8 -3",
    "column 5 (speed factor) is '-3', expected a number that is not negative"
)]
#[case::no_speed(
    "h - - 8 nan",
    "column 5 (speed factor) is 'nan', expected a number that is not negative"
)]
#[case::host_key(
    "h - - 8 3 - - BAD_BASE64",
    "column 8 (public host key) is 'BAD_BASE64', expected base64 of a whole public key line"
)]
#[case::store("h:port", "column 1 (store): 'ssh://h:port' is not a store: 'port' is not a port")]
#[case::flag(
    "-oProxyCommand=x",
    "column 1 (store): 'ssh://-oProxyCommand=x' is not a store: neither host nor user may begin with '-'"
)]
#[case::slash_in_params(
    "h?remote-program=/x",
    "column 1 (store): 'h?remote-program=/x' is not a store: \
     expected auto, daemon, local, an absolute path, or a URL such as ssh-ng://host"
)]
fn errors_begin_with_the_place(#[case] line: &str, #[case] message: &str) {
    let error = parse_with(&[], &format!("a;{line};b")).unwrap_err();
    assert_eq!(chain(&error), format!("--builders: {message}"));
    // in a file it is that machine only
    let machines = parse_with(&[("/m", &format!("a\n{line} # x\nb"))], "@/m").unwrap();
    assert_eq!(stores(&machines.machines), ["ssh://a", "ssh://b"]);
    let rejected: Vec<String> = machines.rejected.iter().map(chain).collect();
    assert_eq!(rejected, [format!("/m:2: {message}")]);
}

#[test]
fn files_are_included_where_they_stand() {
    let files = [
        ("/etc/m", "b\n\n@ /etc/n \n@/gone ; e"),
        ("/etc/n", "# x\nc;d"),
        ("/home/ann/rel", "f;@rel"),
        ("/rel", "g"),
    ];
    let machines = parse_with(&files, "a ; @/etc/m ; @./rel").unwrap();
    assert_eq!(
        stores(&machines.machines),
        ["ssh://a", "ssh://b", "ssh://c", "ssh://d", "ssh://e", "ssh://f", "ssh://g"]
    );
    let origins: Vec<String> =
        machines.machines.iter().map(|machine| machine.origin.to_string()).collect();
    assert_eq!(
        origins,
        ["--builders", "/etc/m:1", "/etc/n:2", "/etc/n:2", "/etc/m:4", "/home/ann/rel:1", "/rel:1"]
    );
    let notes: Vec<String> = machines.notes.iter().map(ToString::to_string).collect();
    assert_eq!(notes, ["/etc/m:4: machines file '/gone' does not exist"]);
}

#[rstest]
#[case::written(origin(), Severity::Warning)]
#[case::by_default(Origin::Default, Severity::Hint)]
fn a_file_that_is_not_there_is_told(#[case] origin: Origin, #[case] severity: Severity) {
    let machines =
        parse_in(Path::new("/x"), &origin, "@m", &BTreeMap::<PathBuf, String>::new()).unwrap();
    let [note] = &machines.notes[..] else { panic!() };
    assert_eq!((note.severity, &note.text[..]), (severity, "machines file '/x/m' does not exist"));
    let remedy = match severity {
        Severity::Hint => "drover builder add HOST writes a machine into it",
        Severity::Warning => "list machines in it, a line each, or take '@m' away",
    };
    assert_eq!(note.remedy, remedy);
}

#[test]
fn loops_and_floods_of_files_end() {
    let machines = parse_with(&[("/a", "@/b"), ("/b", "x\n@/./a")], "@/a").unwrap();
    assert_eq!(machines.rejected[0].to_string(), "/b:2: machines file '/a' includes itself");

    let doubling: Vec<(String, String)> =
        (0..20).map(|n| (format!("/{n}"), format!("@/{0};@/{0}", n + 1))).collect();
    let files: Vec<(&str, &str)> =
        doubling.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let rejected = parse_with(&files, "@/0").unwrap().rejected;
    let error = &rejected[0];
    assert!(matches!(error, MachinesError::TooManyIncludes { limit: 1024, .. }), "{error}");
}

#[test]
fn an_unreadable_file_is_an_error() {
    let denied = |_: &Path| Err(io::Error::from(io::ErrorKind::PermissionDenied));
    let error = parse_in(Path::new("/"), &origin(), "@/m", &denied).unwrap_err();
    assert_eq!(chain(&error), "--builders: cannot read machines file '/m': permission denied");
}

#[rstest]
#[case::builtin("builtin", &[], false)]
#[case::mandatory("x86_64-linux", &["must"], true)]
#[case::both("x86_64-linux", &["can", "must"], true)]
#[case::without_mandatory("x86_64-linux", &["can"], false)]
#[case::unknown("x86_64-linux", &["must", "kvm"], false)]
#[case::i686("i686-linux", &["must"], false)]
fn matching(#[case] system: &str, #[case] features: &[&str], #[case] expected: bool) {
    let machine = &parse("h x86_64-linux - 1 1 can must")[0];
    let accepted = machine.supports_system(system) && machine.accepts_features(&set(features));
    assert_eq!(accepted, expected);
    assert!(machine.supports_system("builtin"));
}

#[rstest]
#[case::fine("h x86_64-linux,i686-linux - 4 2 kvm", &[])]
#[case::i686("h x86_64-linux - 4", &["i686-linux does not follow from x86_64-linux here and must be listed, too"])]
#[case::number("5 aarch64-linux", &["'5' is taken for a host; a number of jobs is set by max-jobs"])]
#[case::no_jobs("h aarch64-linux - 0", &["max jobs is 0: Nix postpones for ever what only this machine can build"])]
#[case::extra(
    "h aarch64-linux - 1 1 - - - ssh-ed25519 AAAA",
    &["columns after the eighth are ignored, from 'ssh-ed25519' on"]
)]
#[case::mandatory(
    "h aarch64-linux - 1 1 a b,c",
    &["only derivations whose requiredSystemFeatures include b and c are built here"]
)]
#[case::duplicate(
    "h aarch64-linux;ssh://h i686-linux",
    &["'ssh://h' is also at --builders: Nix lets both share one pool of slots"]
)]
#[case::other_user("h aarch64-linux;u@h aarch64-linux;ssh-ng://h aarch64-linux", &[])]
#[case::key_itself(
    "h aarch64-linux - 1 1 - - AAAAC3NzaC1lZDI1NTE5AAAAIA",
    &["the host key is not base64 of a line such as 'ssh-ed25519 AAAA…'; use the output of \
       base64 -w0 /etc/ssh/ssh_host_ed25519_key.pub"]
)]
#[case::keys_unused("/x aarch64-linux /k", &["'local:///x' is not reached by SSH: its keys go unused"])]
#[case::unix("unix:///s aarch64-linux", &["builds on 'unix:///s' succeed, but Nix cannot fetch their outputs"])]
#[case::shifted("h aarch64-linux - 1 1 i686-linux", &["'i686-linux' looks like a system, but is in a feature column"])]
#[case::no_systems("h ,", &["no systems are listed: nothing is built here"])]
fn traps_are_pointed_out(#[case] text: &str, #[case] expected: &[&str]) {
    let notes = lint(&parse(text));
    let texts: Vec<&str> = notes.iter().map(|note| note.text.as_str()).collect();
    assert_eq!(texts, expected);
    for note in notes {
        assert!(!note.remedy.trim().is_empty() && !note.remedy.contains('\n'), "{note:?}");
    }
}

/// Nix says so as well, and goes on.
#[test]
fn parameters_that_mean_nothing_are_told() {
    let told = |uri: &str| -> Vec<String> {
        let store: StoreReference = uri.parse().unwrap();
        store.unknown_params().map(str::to_owned).collect()
    };
    assert_eq!(told("ssh-ng://b1?foo=bar&remote-program=x&trusted=true"), ["foo"]);
    assert_eq!(told("ssh://b1?remote-progam=x&max-connections=2&compress=true"), ["remote-progam"]);
    assert_eq!(told("unix:///s?root=/r&x=y"), ["x"]);
    // these have settings of their own
    assert_eq!(told("file:///c?compression=xz"), [""; 0]);
}
