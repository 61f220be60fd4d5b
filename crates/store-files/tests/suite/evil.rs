//! Archives that must be refused, through both unpackers: nothing may appear outside of the tree.

use std::fs;

use bytes::Bytes;
use drover_nar::Limits;
use drover_store_files::{FilesError, HashingUnpacker, Unpacker};
use rstest::rstest;

use crate::place::{Place, name};

/// Encodes strings one after the other, whatever they are.
fn strings(texts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in texts {
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes
}

const FILE: &[&[u8]] = &[b"(", b"type", b"regular", b"contents", b"evil", b")"];
const LINK: &[&[u8]] = &[b"(", b"type", b"symlink", b"target", b"../sentinel", b")"];
const EMPTY: &[&[u8]] = &[b"(", b"type", b"directory", b")"];

fn node(texts: &[&[u8]]) -> Vec<u8> {
    strings(&[&[b"nix-archive-1".as_slice()], texts].concat())
}

/// An archive of one directory with these entries.
fn directory(entries: &[(&[u8], &[&[u8]])]) -> Vec<u8> {
    let mut texts: Vec<&[u8]> = vec![b"(", b"type", b"directory"];
    for (name, node) in entries {
        texts.extend([b"entry".as_slice(), b"(", b"name", name, b"node"]);
        texts.extend_from_slice(node);
        texts.push(b")");
    }
    texts.push(b")");
    node(&texts)
}

fn nested(depth: usize) -> Vec<u8> {
    let mut nar = strings(&[b"nix-archive-1"]);
    for _ in 1..depth {
        nar.extend(strings(&[b"(", b"type", b"directory", b"entry", b"(", b"name", b"d", b"node"]));
    }
    nar.extend(strings(FILE));
    (1..depth).for_each(|_| nar.extend(strings(&[b")", b")"])));
    nar
}

fn followed_by(nar: Vec<u8>, number: u64) -> Vec<u8> {
    [nar, number.to_le_bytes().to_vec()].concat()
}

fn bad_padding() -> Vec<u8> {
    let mut nar = node(FILE);
    let at = nar.len() - 17;
    nar[at] = 1;
    nar
}

fn with_plain(dir: &Place, nar: &[u8], limits: Limits) -> Result<(), FilesError> {
    let mut unpacker = Unpacker::new(dir.dir(), &name("x"), limits)?;
    unpacker.push(nar)?;
    unpacker.finish()
}

fn with_hashing(dir: &Place, nar: &[u8], limits: Limits) -> Result<(), FilesError> {
    let mut unpacker = HashingUnpacker::new(dir.dir(), &name("x"), limits)?;
    unpacker.push(&Bytes::copy_from_slice(nar))?;
    unpacker.finish().map(drop)
}

/// Behind a file of 2 MiB, so that another thread is at it when the evil comes.
fn behind_a_large_file(nar: &[u8]) -> Vec<u8> {
    let large = vec![b'x'; 2 << 20];
    let begin: &[&[u8]] = &[b"(", b"type", b"directory", b"entry", b"(", b"name", b"A", b"node"];
    let file: &[&[u8]] = &[b"(", b"type", b"regular", b"contents", &large, b")", b")"];
    let then: &[&[u8]] = &[b"entry", b"(", b"name", b"B", b"node"];
    let tail = nar.strip_prefix(node(&[]).as_slice()).unwrap_or(nar);
    [node(&[begin, file, then].concat()).as_slice(), tail].concat()
}

#[rstest]
#[case::magic(b"This account is currently not available.\n".to_vec(), "not a NAR: bad magic")]
#[case::unsorted(directory(&[(b"c", FILE), (b"b", FILE)]), "bad archive: NAR directory is not sorted: \"b\" after \"c\"")]
#[case::through_a_link(directory(&[(b"a", LINK), (b"a", FILE)]), "bad archive: NAR directory is not sorted: duplicate entry \"a\"")]
#[case::link_then_directory(directory(&[(b"a", LINK), (b"a", EMPTY)]), "bad archive: NAR directory is not sorted: duplicate entry \"a\"")]
#[case::case_hack(directory(&[(b"a", LINK), (b"a~nix~case~hack~1", FILE)]), "invalid entry name")]
#[case::empty_name(directory(&[(b"", FILE)]), "invalid entry name \"\": it is empty")]
#[case::dot(directory(&[(b".", FILE)]), "invalid entry name \".\"")]
#[case::dot_dot(directory(&[(b"..", FILE)]), "invalid entry name \"..\"")]
#[case::slash(directory(&[(b"../sentinel", FILE)]), "invalid entry name \"../sentinel\"")]
#[case::absolute(directory(&[(b"/tmp/evil", FILE)]), "invalid entry name \"/tmp/evil\"")]
#[case::nul(directory(&[(b"a\0", FILE)]), "invalid entry name \"a\\x00\"")]
#[case::long_name(directory(&[(&[b'x'; 256], FILE)]), "string length 256 exceeds limit 255")]
#[case::empty_target(node(&[b"(", b"type", b"symlink", b"target", b"", b")"]), "invalid symlink target")]
#[case::nul_target(node(&[b"(", b"type", b"symlink", b"target", b"a\0", b")"]), "invalid symlink target")]
#[case::huge_string(followed_by(node(&[b"("]), u64::MAX - 7), "string length 18446744073709551608 exceeds limit 32")]
#[case::huge_file(
    followed_by(node(&[b"(", b"type", b"regular", b"contents"]), u64::MAX),
    "file size 18446744073709551615 exceeds declared NAR size"
)]
#[case::deep(nested(65), "NAR nesting exceeds 64")]
#[case::padding(bad_padding(), "bad archive: expected zero padding")]
#[case::second_contents(
    node(&[b"(", b"type", b"regular", b"contents", b"x", b"contents"]),
    "bad archive: expected \")\", got \"contents\""
)]
#[case::truncated(node(&[b"(", b"type", b"directory", b"entry"]), "unexpected end of NAR after")]
fn is_refused(
    #[case] nar: Vec<u8>,
    #[case] message: &str,
    #[values(with_plain, with_hashing)] unpack: fn(&Place, &[u8], Limits) -> Result<(), FilesError>,
) {
    for nar in [nar.clone(), behind_a_large_file(&nar)] {
        let place = Place::new();
        place.write("sentinel", "sentinel");
        let error = unpack(&place, &nar, Limits::default()).unwrap_err().to_string();
        // What is no archive at all is a wrong word in the middle of one.
        let word = error.starts_with("bad archive") || error.contains("exceeds limit 32 (keyword)");
        assert!(error.starts_with(message) || message.starts_with("not a NAR") && word, "{error}");
        assert!(place.names().iter().all(|name| name == "sentinel" || name == "x"));
        assert_eq!(fs::read_to_string(place.path("sentinel")).unwrap(), "sentinel");
        place.remove("x");
        assert_eq!(place.names(), ["sentinel"]);
    }
}

#[rstest]
#[case::file(behind_a_large_file(&node(FILE)))]
#[case::files(crate::tree::many(100, 20).nar())]
fn no_more_is_made_than_was_announced(#[case] nar: Vec<u8>) {
    for size in [0, 100, 5000, nar.len() as u64 / 2, nar.len() as u64 - 1] {
        let place = Place::new();
        let error = with_hashing(&place, &nar, Limits::of_size(size)).unwrap_err().to_string();
        assert!(error.contains("declared"), "{error}");
        let made =
            std::process::Command::new("du").arg("-sb").arg(place.path("")).output().unwrap();
        let made = String::from_utf8(made.stdout).unwrap();
        let made: u64 = made.split('\t').next().unwrap().parse().unwrap();
        // Directories count for a page each.
        assert!(made <= size + 102 * 4096, "{made} of {size}");
    }
}
