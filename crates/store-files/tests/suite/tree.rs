//! Trees in memory.

use std::collections::BTreeMap;

use drover_nar::{Executable, Writer};
use proptest::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    File(Executable, Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Tree>),
    Symlink(Vec<u8>),
}

impl Tree {
    pub(crate) fn file(contents: &str) -> Tree {
        Tree::File(Executable::No, contents.into())
    }

    pub(crate) fn directory<const N: usize>(entries: [(&str, Tree); N]) -> Tree {
        Tree::Directory(entries.map(|(name, tree)| (name.into(), tree)).into())
    }

    pub(crate) fn nar(&self) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        self.write(&mut writer);
        writer.finish().unwrap()
    }

    fn write(&self, writer: &mut Writer<Vec<u8>>) {
        match self {
            Tree::File(executable, contents) => {
                writer.regular(*executable, contents.len() as u64).unwrap();
                writer.contents(contents).unwrap();
            }
            Tree::Symlink(target) => writer.symlink(target).unwrap(),
            Tree::Directory(entries) => {
                writer.directory().unwrap();
                for (name, tree) in entries {
                    writer.entry(name).unwrap();
                    tree.write(writer);
                }
                writer.directory_end().unwrap();
            }
        }
    }
}

/// Names, some of which are no text, sort oddly, or begin like those that are made in removing.
fn names() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop::collection::vec(1..=255_u8, 1..12);
    let plain = "[a-c][.-]?[A-C0-9]{0,3}".prop_map(String::into_bytes);
    let given = prop::sample::select(vec![".removed-1", "~", "...", " ", "\n"]);
    prop_oneof![plain, odd, given.prop_map(|name| name.as_bytes().to_vec())]
        .prop_filter("a name", |name| drover_nar::check_name(name).is_ok())
}

pub(crate) fn trees() -> impl Strategy<Value = Tree> {
    let executable = prop_oneof![Just(Executable::No), Just(Executable::Yes)];
    let sizes =
        prop_oneof![20 => 0..40_usize, 1 => 60_000..70_000_usize, 1 => 500_000..600_000_usize];
    let contents = (sizes, any::<u8>()).prop_map(|(size, byte)| vec![byte; size]);
    let target = prop::collection::vec(1..=255_u8, 1..30);
    let leaf = prop_oneof![
        3 => (executable, contents).prop_map(|(executable, contents)| Tree::File(executable, contents)),
        1 => target.prop_map(Tree::Symlink),
    ];
    leaf.prop_recursive(5, 400, 40, |inner| {
        prop::collection::btree_map(names(), inner, 0..40).prop_map(Tree::Directory)
    })
}

/// So many directories of so many small files each, all different, of which some are executable.
pub(crate) fn many(directories: usize, files: usize) -> Tree {
    let file = |directory: usize, file: usize| {
        let executable = if file.is_multiple_of(7) { Executable::Yes } else { Executable::No };
        Tree::File(executable, format!("{directory} {file} ").repeat(file % 50).into_bytes())
    };
    let directory = |at: usize| {
        let files =
            (0..files).map(|number| (format!("{number:04}").into_bytes(), file(at, number)));
        Tree::Directory(files.collect())
    };
    let entries = (0..directories).map(|at| (format!("d{at:04}").into_bytes(), directory(at)));
    Tree::Directory(entries.collect())
}
