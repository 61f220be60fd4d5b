//! What holds for all trees and all bytes.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;

use drover_nar::{Executable, Limits, Parser, Progress, regular_file_of, single_file_nar};
use proptest::prelude::*;
use support::{Calls, Tree, parse_split};

fn tree() -> impl Strategy<Value = Tree> {
    let executable = prop_oneof![Just(Executable::No), Just(Executable::Yes)];
    let contents = prop::collection::vec(any::<u8>(), 0..40);
    let name = prop_oneof![
        "[a-zA-Z0-9._-]{3,9}".prop_map(String::into_bytes),
        any::<[u8; 3]>().prop_map(|bytes| bytes
            .map(|byte| if byte == 0 || byte == b'/' { b'x' } else { byte })
            .into())
    ];
    let target = prop::collection::vec(1_u8.., 1..30);
    let leaf = prop_oneof![
        (executable, contents)
            .prop_map(|(executable, contents)| Tree::Regular(executable, contents)),
        target.prop_map(Tree::Symlink),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop::collection::btree_map(name.clone(), inner, 0..6)
            .prop_map(|entries: BTreeMap<_, _>| Tree::Directory(entries))
    })
}

proptest! {
    #[test]
    fn a_tree_comes_back(tree in tree()) {
        prop_assert_eq!(Tree::from_nar(&tree.to_nar()), Ok(tree));
    }

    #[test]
    fn the_cut_does_not_matter(tree in tree(), cut: prop::sample::Index) {
        let nar = tree.to_nar();
        let at = cut.index(nar.len() + 1);
        let (_, whole) = parse_split(&nar, 0).unwrap();
        let (_, cut) = parse_split(&nar, at).unwrap();
        prop_assert_eq!(cut, whole);
    }

    #[test]
    fn skipping_ends_where_reading_ends(
        tree in tree(),
        at: prop::sample::Index,
        byte: u8,
        size in 1_usize..64,
    ) {
        let mut nar = tree.to_nar();
        let at = at.index(nar.len());
        nar[at] = byte;
        nar.extend_from_slice(b"rest");
        let (mut reader, mut skipper) = (Parser::new(Limits::default()), Parser::new(Limits::default()));
        let mut calls = Calls::default();
        for chunk in nar.chunks(size) {
            let read = reader.feed(chunk, &mut calls);
            prop_assert_eq!(&read, &skipper.feed(chunk, &mut ()));
            if read != Ok(Progress::More) {
                break;
            }
        }
        prop_assert_eq!(reader.received(), skipper.received());
        prop_assert_eq!(reader.finish(), skipper.finish());
    }

    #[test]
    fn what_is_accepted_is_canonical(tree in tree(), at: prop::sample::Index, byte: u8) {
        let mut nar = tree.to_nar();
        let at = at.index(nar.len());
        nar[at] = byte;
        if let Ok(tree) = Tree::from_nar(&nar) {
            prop_assert_eq!(tree.to_nar(), nar);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>, magic: bool) {
        let start: &[u8] = if magic { b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0" } else { b"" };
        let bytes = [start, &bytes].concat();
        prop_assert!(drover_nar::parse(&bytes, Limits::default(), &mut Calls::default()).is_err());
    }

    #[test]
    fn single_files_come_back(contents: Vec<u8>) {
        let nar = single_file_nar(&contents, Executable::No);
        prop_assert_eq!(regular_file_of(&nar), Ok(contents.as_slice()));
        prop_assert_eq!(Tree::Regular(Executable::No, contents).to_nar(), nar);
    }
}
