//! Archives that must be refused, and the words they are refused with.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use drover_nar::{Limits, NarError, Parser, Progress};
use rstest::rstest;
use support::{Calls, strings};

const MAGIC: &[u8] = b"nix-archive-1";

/// An archive of one directory with these (name, node) entries.
fn directory(entries: &[(&[u8], &[&[u8]])]) -> Vec<u8> {
    let mut texts: Vec<&[u8]> = vec![MAGIC, b"(", b"type", b"directory"];
    for (name, node) in entries {
        texts.extend([b"entry".as_slice(), b"(", b"name", name, b"node"]);
        texts.extend_from_slice(node);
        texts.push(b")");
    }
    texts.push(b")");
    strings(&texts)
}

const FILE: &[&[u8]] = &[b"(", b"type", b"regular", b"contents", b"x", b")"];
const LINK: &[&[u8]] = &[b"(", b"type", b"symlink", b"target", b"/etc", b")"];

fn names(names: &[&[u8]]) -> Vec<u8> {
    let entries: Vec<(&[u8], &[&[u8]])> = names.iter().map(|name| (*name, FILE)).collect();
    directory(&entries)
}

fn node(texts: &[&[u8]]) -> Vec<u8> {
    [strings(&[MAGIC]), strings(texts)].concat()
}

/// An archive of one file that says it has `size` bytes.
fn file_of(size: u64) -> Vec<u8> {
    let mut nar = node(&[b"(", b"type", b"regular", b"contents"]);
    nar.extend_from_slice(&size.to_le_bytes());
    nar
}

/// An archive whose next string says it has `len` bytes.
fn text_of(before: &[&[u8]], len: u64) -> Vec<u8> {
    let mut nar = node(before);
    nar.extend_from_slice(&len.to_le_bytes());
    nar
}

/// A directory in a directory in a directory…
fn nested(depth: usize) -> Vec<u8> {
    let mut nar = strings(&[MAGIC]);
    for _ in 1..depth {
        nar.extend(strings(&[b"(", b"type", b"directory", b"entry", b"(", b"name", b"d", b"node"]));
    }
    nar.extend(strings(FILE));
    (1..depth).for_each(|_| nar.extend(strings(&[b")", b")"])));
    nar
}

/// A file of one byte whose padding is not zero at `at` (1 to 7).
fn padded(at: usize) -> Vec<u8> {
    let mut nar = node(FILE);
    let contents = nar.len() - 24;
    nar[contents + at] = 1;
    nar
}

/// Parses whole and byte by byte; both must fail, and alike but for the magic,
/// of which an error shows what has come so far.
fn refusal(nar: &[u8], limits: Limits) -> String {
    let whole = drover_nar::parse(nar, limits, &mut Calls::default()).unwrap_err();
    let mut parser = Parser::new(limits);
    let bytes = nar.iter().try_for_each(|byte| parser.feed(&[*byte], &mut ()).map(drop));
    let bytes = bytes.and_then(|()| parser.finish()).map(|()| None).unwrap_or_else(Some);
    match (&whole, bytes) {
        (NarError::BadMagic { .. }, Some(NarError::BadMagic { .. })) => {}
        (NarError::Padding { .. }, Some(NarError::Padding { .. })) => {}
        (NarError::Trailing { .. }, None) => {}
        (whole, bytes) => assert_eq!(Some(whole), bytes.as_ref()),
    }
    let message = whole.to_string();
    assert!(!message.contains('\n') && message.len() < 400, "{message}");
    message
}

#[rstest]
// B1
#[case::magic(strings(&[b"nix-archive-2"]), r#"not a NAR: bad magic (got "\r\x00\x00\x00\x00\x00\x00\x00nix-archive-2\x00\x00\x00")"#)]
#[case::banner(
    b"This account is currently not available.\n".to_vec(),
    r#"not a NAR: bad magic (got "This account is currently not available.\n")"#
)]
#[case::magic_padding(b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\x01".to_vec(), r#"not a NAR: bad magic (got "\r\x00\x00\x00\x00\x00\x00\x00nix-archive-1\x00\x00\x01")"#)]
// B2
#[case::unsorted(names(&[b"c", b"b"]), r#"bad archive: NAR directory is not sorted: "b" after "c""#)]
#[case::unsorted_bytes(names(&[b"a", b"B"]), r#"bad archive: NAR directory is not sorted: "B" after "a""#)]
#[case::unsorted_high(names(&[b"\xff", b"z"]), r#"bad archive: NAR directory is not sorted: "z" after "\xff""#)]
#[case::duplicate(names(&[b"x", b"x"]), r#"bad archive: NAR directory is not sorted: duplicate entry "x""#)]
#[case::through_a_link(directory(&[(b"x", LINK), (b"x", FILE)]), r#"bad archive: NAR directory is not sorted: duplicate entry "x""#)]
#[case::case_hack(
    names(&[b"x", b"x~nix~case~hack~1"]),
    r#"invalid entry name "x~nix~case~hack~1": it contains ~nix~case~hack~"#
)]
// B3
#[case::empty_name(names(&[b""]), r#"invalid entry name "": it is empty"#)]
#[case::dot(names(&[b"."]), r#"invalid entry name ".": it is reserved"#)]
#[case::dot_dot(names(&[b".."]), r#"invalid entry name "..": it is reserved"#)]
#[case::slash(names(&[b"../x"]), r#"invalid entry name "../x": it contains a slash"#)]
#[case::nul(names(&[b"a\0b"]), r#"invalid entry name "a\x00b": it contains a NUL byte"#)]
#[case::long_name(names(&[&[b'x'; 256]]), "string length 256 exceeds limit 255 (entry name)")]
// B4
#[case::empty_target(
    node(&[b"(", b"type", b"symlink", b"target", b"", b")"]),
    r#"invalid symlink target "": it is empty"#
)]
#[case::nul_target(
    node(&[b"(", b"type", b"symlink", b"target", b"/\0", b")"]),
    r#"invalid symlink target "/\x00": it contains a NUL byte"#
)]
#[case::long_target(
    node(&[b"(", b"type", b"symlink", b"target", &[b'x'; 4096], b")"]),
    "string length 4096 exceeds limit 4095 (symlink target)"
)]
// B5
#[case::huge_word(text_of(&[], 1 << 63), "string length 9223372036854775808 exceeds limit 32 (keyword)")]
#[case::wrapping_word(text_of(&[b"("], u64::MAX - 7), "string length 18446744073709551608 exceeds limit 32 (keyword)")]
#[case::huge_target(
    text_of(&[b"(", b"type", b"symlink", b"target"], u64::MAX),
    "string length 18446744073709551615 exceeds limit 4095 (symlink target)"
)]
#[case::huge_name(
    text_of(&[b"(", b"type", b"directory", b"entry", b"(", b"name"], u64::MAX - 7),
    "string length 18446744073709551608 exceeds limit 255 (entry name)"
)]
// B6
#[case::largest_file(
    file_of(u64::MAX),
    "file size 18446744073709551615 exceeds declared NAR size of 9223372036854775807"
)]
#[case::rounding_file(file_of(u64::MAX - 8), "file size 18446744073709551607 exceeds declared NAR size of 9223372036854775807")]
// B7
#[case::too_deep(nested(65), "NAR nesting exceeds 64")]
#[case::much_too_deep(nested(100_000), "NAR nesting exceeds 64")]
// B8
#[case::padding(
    padded(1),
    r#"bad archive: expected zero padding, got "\x01\x00\x00\x00\x00\x00\x00""#
)]
#[case::last_padding(
    padded(7),
    r#"bad archive: expected zero padding, got "\x00\x00\x00\x00\x00\x00\x01""#
)]
#[case::word_padding(
    [strings(&[MAGIC]), b"\x01\0\0\0\0\0\0\0(\0\0\0\0\0\0!".to_vec()].concat(),
    r#"bad archive: expected zero padding, got "\x00\x00\x00\x00\x00\x00!""#
)]
#[case::kind(
    node(&[b"(", b"type", b"fifo"]),
    r#"bad archive: expected "regular", "directory" or "symlink", got "fifo""#
)]
#[case::executable_value(
    node(&[b"(", b"type", b"regular", b"executable", b"yes"]),
    r#"bad archive: expected "", got "yes""#
)]
#[case::executable_last(
    node(&[b"(", b"type", b"regular", b"contents", b"x", b"executable"]),
    r#"bad archive: expected ")", got "executable""#
)]
#[case::executable_twice(
    node(&[b"(", b"type", b"regular", b"executable", b"", b"executable"]),
    r#"bad archive: expected "contents", got "executable""#
)]
#[case::contents_twice(
    node(&[b"(", b"type", b"regular", b"contents", b"x", b"contents"]),
    r#"bad archive: expected ")", got "contents""#
)]
#[case::no_contents(
    node(&[b"(", b"type", b"regular", b")"]),
    r#"bad archive: expected "executable" or "contents", got ")""#
)]
#[case::node_before_name(
    node(&[b"(", b"type", b"directory", b"entry", b"(", b"node"]),
    r#"bad archive: expected "name", got "node""#
)]
#[case::no_open(node(&[b"type"]), r#"bad archive: expected "(", got "type""#)]
#[case::no_type(node(&[b"(", b"regular"]), r#"bad archive: expected "type", got "regular""#)]
#[case::no_target(
    node(&[b"(", b"type", b"symlink", b"contents"]),
    r#"bad archive: expected "target", got "contents""#
)]
#[case::type_twice(
    node(&[b"(", b"type", b"directory", b"type"]),
    r#"bad archive: expected "entry" or ")", got "type""#
)]
#[case::executable_directory(
    node(&[b"(", b"type", b"directory", b"executable", b""]),
    r#"bad archive: expected "entry" or ")", got "executable""#
)]
#[case::entry_without_end(
    [
        node(&[b"(", b"type", b"directory", b"entry", b"(", b"name", b"a", b"node"]),
        strings(FILE),
        strings(&[b"entry"]),
    ].concat(),
    r#"bad archive: expected ")", got "entry""#
)]
// B9
#[case::trailing([node(FILE), vec![0; 3]].concat(), "3 trailing bytes after NAR")]
#[case::twice([node(FILE), node(FILE)].concat(), "120 trailing bytes after NAR")]
#[case::nothing(Vec::new(), "unexpected end of NAR after 0 bytes")]
fn is_refused(#[case] nar: Vec<u8>, #[case] message: &str) {
    assert_eq!(refusal(&nar, Limits::default()), message);
}

#[test]
fn depth_64_is_accepted() {
    assert_eq!(drover_nar::parse(&nested(64), Limits::default(), &mut ()), Ok(()));
}

#[test]
fn the_declared_size_is_exact() {
    let nar = node(FILE);
    let len = nar.len() as u64;
    assert_eq!(drover_nar::parse(&nar, Limits::of_size(len), &mut ()), Ok(()));
    for size in 0..len {
        let error = drover_nar::parse(&nar, Limits::of_size(size), &mut ()).unwrap_err();
        let message = error.to_string();
        assert!(
            message == format!("NAR exceeds its declared size of {size}")
                || message == format!("file size 1 exceeds declared NAR size of {size}"),
            "{message}"
        );
    }
}

#[test]
fn a_file_larger_than_the_archive_is_refused_at_its_size() {
    let nar = file_of(1000);
    let message = refusal(&nar, Limits::of_size(1000));
    assert_eq!(message, "file size 1000 exceeds declared NAR size of 1000");
}

#[test]
fn entries_are_counted_in_the_whole_archive() {
    let below: Vec<&[u8]> = [b"(".as_slice(), b"type", b"directory", b"entry", b"(", b"name", b"x"]
        .into_iter()
        .chain([b"node".as_slice()])
        .chain(FILE.iter().copied())
        .chain([b")".as_slice(), b")"])
        .collect();
    let nar = directory(&[(b"a", &below), (b"b", FILE)]);
    let limits = |max_entries| Limits { max_entries, ..Limits::default() };
    assert_eq!(drover_nar::parse(&nar, limits(3), &mut ()), Ok(()));
    assert_eq!(refusal(&nar, limits(2)), "NAR has more than 2 entries");
    assert!(Limits::default().max_entries < 10_000_000);
}

#[test]
fn a_failed_parser_stays_failed() {
    let mut parser = Parser::new(Limits::default());
    assert!(parser.feed(b"hello", &mut ()).is_err());
    assert_eq!(parser.feed(&node(FILE), &mut ()), Err(NarError::AlreadyFailed));
    assert_eq!(parser.finish(), Err(NarError::AlreadyFailed));
}

#[test]
fn a_long_file_is_not_buffered() {
    let mut parser = Parser::new(Limits::default());
    assert_eq!(parser.feed(&file_of(u64::MAX >> 2), &mut ()), Ok(Progress::More));
    let chunk = vec![0; 1 << 20];
    for _ in 0..4096 {
        assert_eq!(parser.feed(&chunk, &mut ()), Ok(Progress::More));
    }
    assert!(size_of_val(&parser) < 256);
}
