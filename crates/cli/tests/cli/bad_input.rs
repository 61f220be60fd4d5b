//! What a store or a machine holds or says that it must not.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rstest::rstest;

use crate::world::{Told, World};

/// How long it may take to say no.
const SOON: Duration = Duration::from_secs(60);

impl World {
    /// Puts a derivation into the store and something else in the place of its file, as a broken disk
    /// might. Returns its path; no Nix takes such a thing in any other way.
    fn spoiled(&self, spoil: impl FnOnce(&Path)) -> String {
        fs_err::write(self.path("a.drv"), GOOD).unwrap();
        let file = self.path("a.drv").display().to_string();
        let added = self.command(&["--add", &file]).arg0("nix-store").output().unwrap();
        let path = Told::of(added).succeeds().trim().to_owned();
        let real = self.path("root").join(path.trim_start_matches('/'));
        fs_err::remove_file(&real).unwrap();
        spoil(&real);
        path
    }
}

const GOOD: &str = r#"Derive([("out","/nix/store/q6cz8xnq7m50dva7v6l8ppsb9ifxahz2-a","","")],[],[],"x86_64-linux","/bin/sh",[],[("out","/nix/store/q6cz8xnq7m50dva7v6l8ppsb9ifxahz2-a")])"#;

#[rstest]
#[case::nothing("", "position 0: expected ")]
#[case::text("garbage", "position 0: expected ")]
#[case::bytes("Derive\0", "position 0: expected ")]
#[case::version(r#"DrvWithVersion("x-1",[])"#, "format version \"x-1\" is not known")]
#[case::string(r#"Derive([("out","/nix"#, "the string that begins here does not end")]
#[case::cut(&GOOD[..100], "position ")]
#[case::behind(&format!("{GOOD}\n"), "1 bytes after the end")]
#[case::outside(&GOOD.replace("/nix/store/q6c", "/etc/q6c"), "is not a store path")]
#[case::no_output(r#"Derive([],[],[],"x","/b",[],[])"#, "it has no outputs")]
fn a_derivation_that_is_none(#[case] text: &str, #[case] words: &str) {
    let world = World::new();
    let path = world.spoiled(|file| fs_err::write(file, text).unwrap());
    // with substituters that only Nix may know the store is left to Nix's daemon, which looks into no
    // file by itself
    let build = vec!["build", "-j0", "--option", "substituters", "s3://no-such-cache?scheme=ftp"];
    for command in [build, vec!["derivation", "show"]] {
        let said = world.run(&[command, vec![&path]].concat());
        said.fails(1, &["error: ", "derivation 'a.drv'", words]);
        assert_eq!(said.err.lines().count(), 1, "{said:#?}");
    }
}

/// A derivation's path follows from its text, so that no other output can be claimed by an edit.
#[rstest]
#[case::shorter("garbage")]
#[case::another_system(&GOOD.replace("x86_64", "i686"))]
#[case::another_output(&GOOD.replace("q6c", "r6c"))]
fn a_derivation_that_was_changed_on_disk(#[case] text: &str) {
    let world = World::new();
    let path = world.spoiled(|file| fs_err::write(file, text).unwrap());
    let said = world.run(&["build", "-j0", &path]);
    said.fails(1, &["error: ", &path, "was modified!", "nix-store --repair-path"]);
    assert_eq!(said.err.lines().count(), 1, "{said:#?}");
}

#[rstest]
#[case::folder(|file: &Path| fs_err::create_dir(file).unwrap())]
#[case::link(|file: &Path| std::os::unix::fs::symlink("elsewhere", file).unwrap())]
#[case::nothing(|_: &Path| ())]
fn a_derivation_that_is_no_file(#[case] spoil: fn(&Path)) {
    let world = World::new();
    let path = world.spoiled(spoil);
    let said = world.run(&["build", "-j0", &path]);
    said.fails(1, &["error: ", "-a.drv"]);
    assert_eq!(said.err.lines().count(), 1, "{said:#?}");
}

/// KiB that a run may take in all.
const MOST: u64 = 100 * 1024;

/// A sound derivation of 100 MB, in a store of one's own, in one behind a daemon, and outside.
#[test]
fn a_derivation_that_is_large() {
    let world = World::new();
    fs_err::write(world.path("large"), "x".repeat(100_000_000)).unwrap();
    let expression = r#"derivation { name = "a"; system = "x86_64-linux"; builder = "/bin/sh"; large = builtins.readFile ./large; }"#;
    fs_err::write(world.path("a.nix"), expression).unwrap();
    let added = std::process::Command::new("nix-instantiate")
        .args([world.path("a.nix"), "--store".into(), world.path("root")])
        .env("NIX_CONF_DIR", world.path("conf"))
        .output()
        .unwrap();
    let path = Told::of(added).succeeds().trim().to_owned();
    let real = world.path("root").join(path.trim_start_matches('/'));
    let outside = world.path(path.rsplit('/').next().unwrap());
    fs_err::copy(real, &outside).unwrap();
    let outside = outside.display().to_string();
    // drover itself doesn't add such a thing
    let own = world.command(&["--add", &outside]).arg0("nix-store").output().unwrap();
    Told::of(own).fails(1, &["error: ", "-a.drv'", "67108864", "builtins.toFile"]);
    let daemon = ["--option", "substituters", "s3://no-such-cache"];
    let runs: [&[&str]; 5] = [
        &["build", "-j0", "--no-link", &path],
        &[&["build", "-j0", "--no-link", &path], daemon.as_slice()].concat(),
        &["derivation", "show", &path],
        &["derivation", "show", "-r", &path],
        &["derivation", "show", &outside],
    ];
    for line in runs {
        let (said, peak) = world.run_measured(line);
        // what, the rule, and what can be done
        said.fails(1, &["error: ", "a.drv'", "67108864", "builtins.toFile"]);
        assert!(said.err.len() < 2000, "{said:#?}");
        assert!(peak < MOST, "{peak} KiB: {line:?}");
    }
}

#[test]
fn a_derivation_that_is_not_there() {
    let path = "/nix/store/q6cz8xnq7m50dva7v6l8ppsb9ifxahz2-a.drv";
    World::new().run(&["build", path]).fails(1, &["fxahz2-a.drv' is not valid in 'local://?root="]);
}

/// A machine whose answers are changed on their way. What it built is not taken, and each time the
/// machine, the path and the rule are told.
#[rstest]
#[case::magic("s/nix-archive-1/nix-archive-2/", "not a NAR: bad magic")]
#[case::unsorted(r"s/\x02\0{7}aa/\x02\0\0\0\0\0\0\0zz/", "is not sorted: ")]
#[case::duplicate(r"s/\x02\0{7}aa/\x02\0\0\0\0\0\0\0bb/", "duplicate entry")]
#[case::parent(r"s/\x02\0{7}aa/\x02\0\0\0\0\0\0\0../", "invalid entry name")]
#[case::slash(r"s/\x02\0{7}aa/\x02\0\0\0\0\0\0\0a\//", "invalid entry name")]
#[case::target(r"s/elsewhere/else\0here/", "invalid symlink target")]
#[case::long_name(
    r"s/\x02\0{7}aa/\0\0\0\0\0\0\0\x80aa/",
    "string length 9223372036854775808 exceeds"
)]
#[case::huge(
    r"s/contents\x06\0{7}/contents\xff\xff\xff\xff\xff\xff\xff\xff/",
    "file size 18446744073709551615 exceeds"
)]
#[case::padding(r"s/words\n\0\0/words\n\0\x01/", "expected zero padding")]
#[case::tag("s/regular/regulor/", "bad archive: expected")]
#[case::altered("s/words/sword/", "hash")]
#[case::cut(r"if (s/words.*//s) { syswrite(STDOUT, $_); kill 9, $$ }", "closed")]
fn a_machine_that_sends_a_bad_nar(#[case] change: &str, #[case] words: &str) {
    let world = World::new();
    let machine = world.altered("changes", change);
    let began = Instant::now();
    let expression =
        world.expression("bad", "mkdir $out; echo words > $out/aa; ln -s elsewhere $out/bb");
    let said = world.run(&["build", "--no-link", "-E", &expression, "-j0", "--builders", &machine]);
    said.fails(1, &[words, "localhost", "bad"]);
    assert!(began.elapsed() < SOON, "{:?}: {said:#?}", began.elapsed());
}

/// A folder in a folder in a folder …
#[test]
fn a_machine_that_sends_a_deep_nar() {
    let world = World::new();
    let machine = world.altered("same", "");
    let script = "d=$out; for i in 1 2 3 4 5 6 7 8 9 10; do d=$d/a/b/c/d/e/f/g; done; mkdir -p $d";
    let expression = world.expression("deep", script);
    let said = world.run(&["build", "--no-link", "-E", &expression, "-j0", "--builders", &machine]);
    said.fails(1, &["NAR nesting exceeds 64", "localhost", "deep"]);
}

impl World {
    /// Returns the line of a machine with a store of its own, whose answers go through some Perl.
    fn altered(&self, name: &str, change: &str) -> String {
        let program = format!(
            "open(IN, '-|', 'nix-daemon', '--stdio', '--store', 'local?root={}'); \
             while (sysread(IN, $_, 1 << 20)) {{ {change}; syswrite(STDOUT, $_) }}",
            self.path("other").display(),
        );
        fs_err::write(self.path("filter.pl"), program).unwrap();
        let command = format!("exec perl {}", self.path("filter.pl").display());
        format!("ssh-ng://localhost?remote-program={} x86_64-linux", self.script(name, &command))
    }

    /// Returns a derivation of a shell script.
    fn expression(&self, name: &str, script: &str) -> String {
        let bin = self.path("bb/bin");
        if !bin.exists() {
            fs_err::create_dir_all(&bin).unwrap();
            fs_err::copy("/bin/busybox", bin.join("busybox")).unwrap();
            for applet in ["sh", "mkdir", "ln", "echo"] {
                std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
            }
        }
        format!(
            r#"let bb = builtins.path {{ path = {}; name = "busybox"; }}; in derivation {{ name = "{name}"; system = "x86_64-linux"; builder = "${{bb}}/bin/sh"; PATH = "${{bb}}/bin"; args = [ "-euc" ''{script}'' ]; }}"#,
            self.path("bb").display(),
        )
    }
}

/// A store whose folders are none is refused, and nobody is asked to open it instead.
#[rstest]
#[case("local?root=rel", "'rel' (root) must be an absolute path")]
#[case("local?real=x", "'x' (real) must be an absolute path")]
#[case("local?read-only=maybe", "'read-only=maybe' must be 'true' or 'false'")]
fn a_store_that_is_none(#[case] store: &str, #[case] words: &str) {
    let world = World::new();
    for arguments in [&["nix-store", "--gc", "--print-roots"][..], &["nix-daemon", "--stdio"]] {
        let [name, arguments @ ..] = arguments else { unreachable!("a name comes first") };
        let mut command = world.command(&[arguments, &["--store", store]].concat());
        let said = command.arg0(name).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains(words) && !said.contains("nix-daemon --stdio"), "{said}");
    }
}
