//! What the commands print, against the Nix of this machine, byte for byte.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::TestHost;
use drover_compat::{Captured, ExitStatus, Program};
use rstest::rstest;

/// A graph: `c` refers to `b` and `a`, `b` refers to `a`, which has two outputs.
const GRAPH: &str = r#"
let d = name: more: derivation ({
      inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "it's $out" ];
    } // more);
    a = d "a" { outputs = [ "out" "dev" ]; text = "it's\n\"odd\" $x"; };
    b = d "b" { inherit a; };
    e = d "e-f" { };
in d "c-d" { inherit a b e; src = ./src; }
"#;

/// Runs a program of the Nix of this machine on a store in a folder.
fn stock(folder: &Path, program: &str, arguments: &[OsString], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(["--store", folder.join("root").to_str().unwrap(), "--option", "substituters", ""])
        .args(arguments)
        .current_dir(folder)
        .env("NIX_CONFIG", "experimental-features = nix-command")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {arguments:?}: {said}");
    done.stdout
}

fn words(text: &str) -> Vec<OsString> {
    text.split_whitespace().map(OsString::from).collect()
}

fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8(bytes.to_vec()).unwrap().lines().map(str::to_owned).collect()
}

/// A store of the Nix of this machine, and the same one in memory, come there by `--export` and
/// `--import`.
struct Both {
    folder: tempfile::TempDir,
    host: TestHost,
    /// The derivation that refers to all others.
    top: String,
}

impl Both {
    async fn new() -> Both {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::create_dir(path.join("src")).unwrap();
        std::fs::write(path.join("src/file"), "text").unwrap();
        std::os::unix::fs::symlink("file", path.join("src/link")).unwrap();
        std::fs::write(path.join("graph.nix"), GRAPH).unwrap();
        let top = lines(&stock(path, "nix-instantiate", &words("graph.nix"), b"")).remove(0);
        let all = lines(&stock(path, "nix-store", &words(&format!("-qR {top}")), b""));
        let export = format!("--export {}", all.join(" "));
        let exported = stock(path, "nix-store", &words(&export), b"");
        let mut host = TestHost::new();
        host.folder = path.to_owned();
        let imported = host.run_with(Program::NixStore, vec!["--import".into()], &exported).await;
        assert_eq!(imported.err, "");
        let mut found = lines(&imported.out);
        found.sort();
        let mut sorted = all;
        sorted.sort();
        assert_eq!(found, sorted);
        let again = host.run_with(Program::NixStore, words(&export), b"").await;
        assert!(again.out == exported, "our export differs");
        Both { folder, host, top }
    }

    async fn compare(&self, arguments: &str) {
        let arguments = words(&arguments.replace("TOP", &self.top));
        let expected = stock(self.folder.path(), "nix-store", &arguments, b"");
        let done = self.host.run_with(Program::NixStore, arguments.clone(), b"").await;
        assert_eq!((done.err.as_str(), done.status), ("", 0), "{arguments:?}");
        // the one word that releases after 2.8 print otherwise
        let expected = String::from_utf8_lossy(&expected)
            .replace("attr.name='narSize' attr.type='int'", "attr.name='narSize' attr.type='long'");
        assert_eq!(done.text(), expected, "{arguments:?}");
    }
}

#[tokio::test]
async fn queries() {
    let both = Both::new().await;
    let leaf = both.host.run(Program::NixStore, &["-qR", &both.top]).await.text();
    let leaf = leaf.lines().find(|path| path.ends_with("-a.drv")).unwrap().to_owned();
    for arguments in [
        "-qR TOP",
        "-q --requisites TOP",
        "-q --references TOP",
        "-q --referrers LEAF",
        "-q --referrers-closure LEAF",
        "-q --outputs LEAF TOP",
        "-q LEAF",
        "-q --use-output --resolve LEAF",
        "-qd LEAF",
        "-q --hash TOP LEAF",
        "-q --size TOP LEAF",
        "-q --tree TOP LEAF",
        "-q --graph TOP",
        "-q --graphml TOP",
        "-qb text LEAF",
        "-q --binding name TOP LEAF",
        "-q --include-outputs -R TOP",
        "--dump-db",
        "--dump-db LEAF",
        "--check-validity --print-invalid TOP /nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-x",
        "--export LEAF TOP",
    ] {
        both.compare(&arguments.replace("LEAF", &leaf)).await;
    }
}

#[tokio::test]
async fn environments_are_read_back_by_a_shell() {
    let both = Both::new().await;
    let leaf = both.host.run(Program::NixStore, &["-qR", &both.top]).await.text();
    let leaf = leaf.lines().find(|path| path.ends_with("-a.drv")).unwrap().to_owned();
    let script = both.host.run(Program::NixStore, &["--print-env", &leaf]).await;
    assert_eq!(script.err, "");
    let script = format!("{}printf '%s|%s' \"$text\" \"$_args\"", script.text());
    let shell = Command::new("sh").args(["-c", &script]).output().unwrap();
    let said = String::from_utf8(shell.stdout).unwrap();
    assert_eq!(said, "it's\n\"odd\" $x|-c it's $out");
}

#[tokio::test]
async fn builds_end_in_links_and_paths() {
    let mut both = Both::new().await;
    let all = both.host.run(Program::NixStore, &["-qR", &both.top]).await.text();
    let leaf = all.lines().find(|path| path.ends_with("-a.drv")).unwrap().to_owned();
    // as the real one prints derivations: outputs other than `out` behind `!`
    let output = format!("{}\n{leaf}!dev\n{leaf}\n", both.top).into_bytes();
    both.host.real_says = Captured { status: ExitStatus::SUCCESS, output };
    let done = both.host.run(Program::NixBuild, &["graph.nix", "-o", "x", "-Q"]).await;
    assert_eq!((done.err.as_str(), done.status), ("", 0));
    let out =
        lines(&stock(both.folder.path(), "nix-store", &words(&format!("-q {}", both.top)), b""));
    let dev = lines(&stock(both.folder.path(), "nix-store", &words(&format!("-q {leaf}")), b""));
    let output = |suffix: &str| dev.iter().find(|path| path.ends_with(suffix)).unwrap().as_str();
    let paths = [out[0].as_str(), output("-a-dev"), output("-a")];
    assert_eq!(done.text().lines().collect::<Vec<_>>(), paths);
    let roots = both.host.run(Program::NixStore, &["--gc", "--print-roots"]).await.text();
    let folder = both.folder.path().display();
    let expected = format!(
        "\"{folder}/x\" -> {}\n\"{folder}/x-2\" -> {}\n\"{folder}/x-2-dev\" -> {}\n",
        paths[0], paths[2], paths[1]
    );
    assert_eq!(roots, expected);
}

/// Makes a tree with all that a NAR has.
fn tree(folder: &Path) {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::PermissionsExt;

    let tree = folder.join("tree");
    std::fs::create_dir_all(tree.join("folder/empty")).unwrap();
    std::fs::write(tree.join("a"), vec![7; 700_000]).unwrap();
    std::fs::write(tree.join("program"), "").unwrap();
    std::fs::set_permissions(tree.join("program"), PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("../nowhere", tree.join("link")).unwrap();
    std::fs::write(tree.join("folder").join(std::ffi::OsStr::from_bytes(b"\xff.x")), "x").unwrap();
    std::fs::write(tree.join("folder-x"), "sorted by bytes").unwrap();
}

#[tokio::test]
async fn dump_and_restore() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path());
    let mut host = TestHost::new();
    host.folder = folder.path().to_owned();
    let tree = folder.path().join("tree").into_os_string();
    let expected = stock(folder.path(), "nix-store", &["--dump".into(), tree.clone()], b"");
    let ours = host.run_with(Program::NixStore, vec!["--dump".into(), tree], b"").await;
    assert!(ours.out == expected, "our dump differs: {}", ours.err);
    let restore = vec!["--restore".into(), "copy".into()];
    let done = host.run_with(Program::NixStore, restore.clone(), &expected).await;
    assert_eq!((done.err.as_str(), done.status), ("", 0));
    let copy = folder.path().join("copy").into_os_string();
    let again = stock(folder.path(), "nix-store", &["--dump".into(), copy], b"");
    assert!(again == expected, "our copy differs");
    let over = host.run_with(Program::NixStore, restore.clone(), &expected).await;
    assert_eq!(over.status, 1);
    assert!(over.err.ends_with("' already exists\n"), "{}", over.err);
    let cut = host
        .run_with(Program::NixStore, vec!["--restore".into(), "cut".into()], &expected[..99])
        .await;
    assert_eq!(cut.err, "error: unexpected end-of-file\n");
}

#[rstest]
#[case("tree")]
#[case("--type sha256 tree")]
#[case("--type sha256 --base32 tree")]
#[case("--type sha512 --truncate --base32 tree")]
#[case("--type sha256 --truncate tree")]
#[case("--flat --type sha256 tree/a tree/program")]
#[case("--flat --base32 --type md5 tree/a")]
#[case("--to-base32 --type sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709")]
#[case("--to-base16 --type sha256 0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73")]
#[case("--to-base16 --type sha256 sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")]
#[tokio::test]
async fn hashes(#[case] arguments: &str) {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path());
    let mut host = TestHost::new();
    host.folder = folder.path().to_owned();
    let expected = stock(folder.path(), "nix-hash", &words(arguments), b"");
    let done = host.run_with(Program::NixHash, words(arguments), b"").await;
    assert_eq!(done.err, "");
    assert_eq!(done.text(), String::from_utf8_lossy(&expected));
}

#[rstest]
#[case("--add tree tree/a")]
#[case("--add-fixed sha256 tree/a")]
#[case("--add-fixed --recursive sha256 tree")]
#[case("--add-fixed md5 --recursive tree")]
#[case("--print-fixed-path sha256 0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73 x")]
#[case("--print-fixed-path --recursive sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709 x")]
#[tokio::test]
async fn paths_that_follow_from_contents(#[case] arguments: &str) {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path());
    let mut host = TestHost::new();
    host.folder = folder.path().to_owned();
    // a name that is no file name elsewhere would be refused by both
    std::fs::remove_dir_all(folder.path().join("tree/folder")).unwrap();
    let expected = stock(folder.path(), "nix-store", &words(arguments), b"");
    let done = host.run_with(Program::NixStore, words(arguments), b"").await;
    assert_eq!(done.err, "");
    assert_eq!(done.text(), String::from_utf8_lossy(&expected));
}

#[tokio::test]
async fn keys_are_those_of_nix() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = TestHost::new();
    host.folder = folder.path().to_owned();
    let key = host.run(Program::Nix, &["key", "generate-secret", "--key-name", "a-1"]).await;
    assert_eq!(key.err, "");
    let public = words("key convert-secret-to-public");
    let expected = stock(folder.path(), "nix", &public, &key.out);
    let ours = host.run_with(Program::Nix, public, &key.out).await;
    assert_eq!(ours.text(), String::from_utf8_lossy(&expected));
}

#[rstest]
#[case("hash path tree")]
#[case("hash file --base16 --type sha1 tree/a")]
#[case("hash to-base32 --type sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709")]
#[tokio::test]
async fn hashes_of_the_newer_command(#[case] arguments: &str) {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path());
    let mut host = TestHost::new();
    host.folder = folder.path().to_owned();
    let expected = stock(folder.path(), "nix", &words(arguments), b"");
    let done = host.run_with(Program::Nix, words(arguments), b"").await;
    assert_eq!(done.err, "");
    assert_eq!(done.text(), String::from_utf8_lossy(&expected));
}
