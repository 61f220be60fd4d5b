//! Archives made by `nix-store --dump` (see `golden/make.sh`), both ways, and
//! archives of ours restored by `nix-store` where that is installed.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use drover_nar::{Executable, Limits, NarError, Parser, Progress};
use rstest::rstest;
use support::{Calls, Tree, parse_split};

const TREE: &[u8] = include_bytes!("golden/tree.nar");
const DEEP: &[u8] = include_bytes!("golden/deep.nar");
const PROGRAM: &[u8] = include_bytes!("golden/program.nar");

#[rstest]
#[case::empty(include_bytes!("golden/empty.nar"))]
#[case::file(include_bytes!("golden/file.nar"))]
#[case::aligned(include_bytes!("golden/aligned.nar"))]
#[case::program(PROGRAM)]
#[case::link(include_bytes!("golden/link.nar"))]
#[case::empty_directory(include_bytes!("golden/empty-directory.nar"))]
#[case::tree(TREE)]
#[case::deep(DEEP)]
fn comes_out_as_it_went_in(#[case] nar: &[u8]) {
    let tree = Tree::from_nar(nar).unwrap();
    assert_eq!(tree.to_nar(), nar);
}

#[test]
fn holds_what_was_put_in() {
    let Tree::Directory(entries) = Tree::from_nar(TREE).unwrap() else { panic!() };
    assert_eq!(entries.len(), 11);
    assert_eq!(entries[b"B".as_slice()], Tree::Regular(Executable::No, b"b".to_vec()));
    assert_eq!(
        entries[b"\xe4".as_slice()],
        Tree::Regular(Executable::No, b"latin1".to_vec()),
        "a name that is not UTF-8"
    );
    assert_eq!(entries[b"far".as_slice()], Tree::Symlink(vec![b'0'; 4095]));
    let Tree::Directory(a) = &entries[b"a".as_slice()] else { panic!() };
    assert!(matches!(a[b"run".as_slice()], Tree::Regular(Executable::Yes, _)));
}

#[rstest]
#[case::tree(TREE)]
#[case::deep(DEEP)]
#[case::program(PROGRAM)]
fn the_cut_does_not_matter(#[case] nar: &[u8]) {
    let (_, whole) = parse_split(nar, 0).unwrap();
    for at in 1..nar.len() {
        let (progress, calls) = parse_split(nar, at).unwrap();
        assert_eq!(progress, Progress::Done { consumed: nar.len() - at });
        assert_eq!(calls, whole, "cut at {at}");
    }
    let mut calls = Calls::default();
    let mut parser = Parser::new(Limits::of_size(nar.len() as u64));
    for byte in nar {
        parser.feed(&[*byte], &mut calls).unwrap();
    }
    assert_eq!(parser.finish(), Ok(()));
    assert_eq!(calls, whole, "byte by byte");
}

#[rstest]
#[case::tree(TREE)]
#[case::program(PROGRAM)]
fn truncation_is_noticed(#[case] nar: &[u8]) {
    for len in 0..nar.len() {
        let error = NarError::Truncated { offset: len as u64 };
        assert_eq!(drover_nar::parse(&nar[..len], Limits::default(), &mut ()), Err(error));
    }
}

#[test]
fn what_follows_is_left_alone() {
    let stream = [PROGRAM, b"next"].concat();
    for at in 0..PROGRAM.len() {
        let mut parser = Parser::new(Limits::of_size(PROGRAM.len() as u64));
        assert_eq!(parser.feed(&stream[..at], &mut ()), Ok(Progress::More));
        let consumed = PROGRAM.len() - at;
        assert_eq!(parser.feed(&stream[at..], &mut ()), Ok(Progress::Done { consumed }));
        assert_eq!(parser.feed(b"more", &mut ()), Ok(Progress::Done { consumed: 0 }));
        assert_eq!(parser.received(), PROGRAM.len() as u64);
    }
}

/// Restores `nar` and dumps it again, or nothing without `nix-store`.
fn through_nix(nar: &[u8]) -> Option<Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x");
    let mut restore = Command::new("nix-store")
        .arg("--restore")
        .arg(&path)
        .stdin(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .ok()?;
    restore.stdin.take().unwrap().write_all(nar).unwrap();
    assert!(restore.wait().unwrap().success());
    let dump = Command::new("nix-store").arg("--dump").arg(&path).output().unwrap();
    Some(dump.stdout)
}

#[rstest]
#[case::tree(TREE)]
#[case::deep(DEEP)]
fn nix_restores_what_we_write(#[case] nar: &[u8]) {
    let ours = Tree::from_nar(nar).unwrap().to_nar();
    if let Some(dumped) = through_nix(&ours) {
        assert_eq!(dumped, nar);
    }
}
