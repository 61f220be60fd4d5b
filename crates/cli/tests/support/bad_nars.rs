//! NARs that are none, and what is said of each (the table of bad input, B1 to B9).

/// Appends a string as NARs have them: length, bytes, zeros up to a multiple of 8.
fn put(nar: &mut Vec<u8>, bytes: &[u8]) {
    nar.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    nar.extend_from_slice(bytes);
    nar.resize(nar.len().next_multiple_of(8), 0);
}

fn nar(words: &[&[u8]]) -> Vec<u8> {
    let mut nar = Vec::new();
    put(&mut nar, b"nix-archive-1");
    words.iter().for_each(|word| put(&mut nar, word));
    nar
}

/// The NAR of a file.
pub(crate) fn file(contents: &[u8]) -> Vec<u8> {
    nar(&[b"(", b"type", b"regular", b"contents", contents, b")"])
}

/// The NAR of a folder with empty files.
fn folder(names: &[&[u8]]) -> Vec<u8> {
    let mut words: Vec<&[u8]> = vec![b"(", b"type", b"directory"];
    for name in names {
        words.extend([b"entry" as &[u8], b"(", b"name", name, b"node", b"(", b"type", b"regular"]);
        words.extend([b"contents" as &[u8], b"", b")", b")"]);
    }
    words.push(b")");
    nar(&words)
}

/// The NAR of a symbolic link.
pub(crate) fn link(target: &[u8]) -> Vec<u8> {
    nar(&[b"(", b"type", b"symlink", b"target", target, b")"])
}

/// A folder in a folder in a folder …
fn nested(depth: usize) -> Vec<u8> {
    let mut words: Vec<&[u8]> = Vec::new();
    for _ in 0..depth {
        words.extend([
            b"(" as &[u8],
            b"type",
            b"directory",
            b"entry",
            b"(",
            b"name",
            b"a",
            b"node",
        ]);
    }
    words.extend([b"(" as &[u8], b"type", b"regular", b"contents", b"", b")"]);
    words.extend(std::iter::repeat_n(b")" as &[u8], 2 * depth));
    nar(&words)
}

/// Replaces the only such piece.
fn with(mut nar: Vec<u8>, old: &[u8], new: &[u8]) -> Vec<u8> {
    let places = nar.windows(old.len()).enumerate().filter(|(_, piece)| *piece == old);
    let [(at, _)] = places.collect::<Vec<_>>()[..] else { panic!("there is one") };
    nar.splice(at..at + old.len(), new.iter().copied());
    nar
}

/// Bad ones, each with words of what is said of it.
pub(crate) fn all() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let long = [b'x'; 256];
    let good = file(b"words");
    let number = |number: u64| number.to_le_bytes();
    let length = [&number(5)[..], b"words"].concat();
    let huge = |length: u64| [&number(length)[..], b"words"].concat();
    vec![
        ("magic", with(good.clone(), b"nix-archive-1", b"nix-archive-2"), "not a NAR: bad magic"),
        ("unsorted", folder(&[b"b", b"a"]), "is not sorted: "),
        ("duplicate", folder(&[b"a", b"a"]), "duplicate entry"),
        ("no name", folder(&[b""]), "invalid entry name"),
        ("itself", folder(&[b"."]), "invalid entry name"),
        ("parent", folder(&[b".."]), "invalid entry name"),
        ("slash", folder(&[b"a/b"]), "invalid entry name"),
        ("zero", folder(&[b"a\0b"]), "invalid entry name"),
        ("long", folder(&[&long]), "string length 256 exceeds"),
        ("no target", link(b""), "invalid symlink target"),
        ("zero in target", link(b"a\0b"), "invalid symlink target"),
        (
            "string",
            with(folder(&[b"aa"]), b"\x02\0\0\0\0\0\0\0aa", &huge(1 << 63)),
            "string length 9223372036854775808 exceeds",
        ),
        (
            "wrapping string",
            with(folder(&[b"aa"]), b"\x02\0\0\0\0\0\0\0aa", &huge(u64::MAX - 7)),
            "string length 18446744073709551608 exceeds",
        ),
        ("file", with(good.clone(), &length, &huge(u64::MAX)), "exceeds declared NAR size"),
        ("larger file", with(good.clone(), &length, &huge(1 << 40)), "NAR"),
        ("depth", nested(65), "NAR nesting exceeds 64"),
        ("great depth", nested(100_000), "NAR nesting exceeds 64"),
        ("padding", with(good.clone(), b"words\0\0\0", b"words\0\0\x01"), "expected zero padding"),
        ("type", with(good.clone(), b"regular", b"regulor"), "bad archive: expected"),
        (
            "value",
            nar(&[b"(", b"type", b"regular", b"executable", b"x", b"contents", b"", b")"]),
            "bad archive: expected",
        ),
        (
            "order",
            nar(&[b"(", b"type", b"regular", b"contents", b"", b"executable", b"", b")"]),
            "bad archive: expected",
        ),
        (
            "again",
            nar(&[b"(", b"type", b"regular", b"contents", b"", b"contents", b"", b")"]),
            "bad archive: expected",
        ),
    ]
}
