//! `nix-store --import` of what is no good: it's refused in words that name what is wrong, and nothing of it is left.

use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use crate::bad_nars;
use crate::world::{Told, World};

const PATH: &str = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x";
const OTHER: &str = "/nix/store/11bgd045z0d4icpbc2yyz4gx48ak44la-y";

fn number(number: u64) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = [&number(text.len() as u64)[..], text.as_bytes()].concat();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// What goes behind a NAR.
fn behind(path: &str, references: &[&str]) -> Vec<u8> {
    let mut bytes = [number(0x4558_494e), string(path), number(references.len() as u64)].concat();
    references.iter().for_each(|reference| bytes.extend(string(reference)));
    [bytes, string(""), number(0)].concat()
}

/// An export of one path.
fn export(nar: &[u8], path: &str, references: &[&str]) -> Vec<u8> {
    [number(1), nar.to_vec(), behind(path, references), number(0)].concat()
}

impl World {
    fn import(&self, bytes: &[u8]) -> Told {
        fs_err::write(self.path("export"), bytes).unwrap();
        let input = fs_err::File::open(self.path("export")).unwrap().into_parts().0;
        let mut command = self.command(&["--import"]);
        Told::of(command.arg0("nix-store").stdin(Stdio::from(input)).output().unwrap())
    }

    fn stock(&self, arguments: &[&str]) -> Told {
        let mut command = std::process::Command::new("nix-store");
        command
            .args(arguments)
            .env("NIX_REMOTE", self.store())
            .env("NIX_CONF_DIR", self.path("conf"));
        Told::of(command.env("HOME", self.dir.path()).output().unwrap())
    }

    /// Exactly these paths are there, by ours and by stock Nix, and nothing lies beside them.
    fn assert_holds(&self, paths: &[&str], what: &str) {
        let mut names: Vec<String> = Vec::new();
        if let Ok(entries) = fs_err::read_dir(self.path("root/nix/store")) {
            names.extend(entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
        }
        names.retain(|name| name != ".links");
        names.sort();
        let mut expected: Vec<&str> =
            paths.iter().map(|path| &path["/nix/store/".len()..]).collect();
        expected.sort_unstable();
        assert_eq!(names, expected, "{what}");
        let checked = self.stock(&["--verify", "--check-contents"]);
        checked.succeeds();
        let said = &checked.err;
        assert!(
            !said.contains("modified") && !said.contains("disappeared"),
            "{what}: {checked:#?}"
        );
        let valid = self.stock(&["--dump-db"]);
        for path in [PATH, OTHER] {
            let is_there = valid.succeeds().lines().any(|line| line == path);
            assert_eq!(is_there, paths.contains(&path), "{what}: {valid:#?}");
        }
    }
}

#[test]
fn bad_nars_are_refused_and_leave_nothing() {
    let world = World::new();
    for (name, nar, words) in bad_nars::all() {
        let told = world.import(&export(&nar, PATH, &[]));
        assert_eq!(told.status, Some(1), "{name}: {told:#?}");
        assert!(
            told.err.starts_with("error: ") && told.err.lines().count() == 1,
            "{name}: {told:#?}"
        );
        // an export says of no NAR how large it is: what it announces and doesn't have is what's missing
        let words = match name {
            "file" | "larger file" => "",
            _ => words,
        };
        assert!(told.err.contains(words), "{name}: no '{words}' in {told:#?}");
        world.assert_holds(&[], name);
    }
}

#[test]
fn exports_that_are_cut_leave_nothing() {
    let world = World::new();
    let whole = export(&bad_nars::file(&[b'w'; 100]), PATH, &[]);
    // the last word is that no more follows
    for length in (0..whole.len() - 8).step_by(4).chain([whole.len() - 9]) {
        let told = world.import(&whole[..length]);
        told.fails(1, &["error: unexpected end-of-file"]);
        assert_eq!(told.err.lines().count(), 1, "{told:#?}");
        world.assert_holds(&[], &format!("{length} bytes"));
    }
    let told = world.import(&whole[..whole.len() - 1]);
    told.fails(1, &["error: unexpected end-of-file"]);
    world.assert_holds(&[], "cut within the last word");
    // what comes along with what is bad isn't taken either
    let first = &whole[..whole.len() - 8];
    let bad = export(&bad_nars::file(b"cut")[..40], OTHER, &[]);
    world.import(&[first, &bad].concat()).fails(1, &["error: "]);
    world.assert_holds(&[], "a bad one behind a good one");
    assert_eq!(world.import(&whole).succeeds().trim(), PATH);
    world.assert_holds(&[PATH], "the whole of it");
    // what is there already isn't harmed
    world.import(&whole[..whole.len() - 100]).fails(1, &["error: unexpected end-of-file"]);
    world.assert_holds(&[PATH], "cut, and there before");
}

/// Words that are wrong around good NARs.
#[test]
fn what_is_said_of_nars_is_checked() {
    let world = World::new();
    let nar = bad_nars::file(b"words");
    let foreign = "/gnu/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x";
    let letter = PATH.replace("/00b", "/e0b");
    let traversal = "/nix/store/../../etc/00bgd045z0d4icpbc2yyz4gx48ak44la-x";
    let own_derivation = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x.drv";
    let derivation = br#"Derive([("out","/nix/store/q6cz8xnq7m50dva7v6l8ppsb9ifxahz2-a","","")],[],[],"x86_64-linux","/bin/sh",[],[("out","/nix/store/q6cz8xnq7m50dva7v6l8ppsb9ifxahz2-a")])"#;
    let many =
        [number(1), nar.clone(), number(0x4558_494e), string(PATH), number(1 << 40)].concat();
    let long = [number(1), nar.clone(), number(0x4558_494e), number(1 << 40)].concat();
    let cases: [(&str, Vec<u8>, &[&str]); 12] = [
        (
            "no export",
            b"hello, world\n".to_vec(),
            &["doesn't look like something created by 'nix-store --export'"],
        ),
        (
            "magic",
            [number(1), nar.clone(), number(7), behind(PATH, &[])].concat(),
            &["Nix archive cannot be imported; wrong format"],
        ),
        ("foreign", export(&nar, foreign, &[]), &[foreign]),
        ("letter", export(&nar, &letter, &[]), &[&letter]),
        ("traversal", export(&nar, traversal, &[]), &[traversal]),
        ("reference", export(&nar, PATH, &["/etc/passwd"]), &["/etc/passwd"]),
        ("missing reference", export(&nar, PATH, &[OTHER]), &[PATH, OTHER, "is not valid"]),
        ("references", many, &["1099511627776 references", "refused"]),
        ("string", long, &["1099511627776 bytes", "refused"]),
        ("derivation", export(&nar, own_derivation, &[]), &["x.drv"]),
        (
            "derivation elsewhere",
            export(&bad_nars::file(derivation), own_derivation, &[]),
            &["x.drv"],
        ),
        ("link for derivation", export(&bad_nars::link(b"x"), own_derivation, &[]), &["x.drv"]),
    ];
    for (name, bytes, words) in cases {
        let told = world.import(&bytes);
        assert_eq!(told.status, Some(1), "{name}: {told:#?}");
        assert!(
            told.err.starts_with("error: ") && told.err.lines().count() == 1,
            "{name}: {told:#?}"
        );
        for word in words {
            assert!(told.err.contains(word), "{name}: no '{word}' in {told:#?}");
        }
        world.assert_holds(&[], name);
    }
}
