//! Trees in memory, for comparing what goes into an archive with what comes out.

// Every test binary compiles this for itself and uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::Write;

use drover_nar::{Executable, Limits, NarError, Parser, Progress, Visitor, WriteError, Writer};

/// A tree as an archive holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    Regular(Executable, Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Tree>),
    Symlink(Vec<u8>),
}

impl Tree {
    pub(crate) fn write<W: Write>(&self, writer: &mut Writer<W>) -> Result<(), WriteError> {
        match self {
            Tree::Regular(executable, contents) => {
                writer.regular(*executable, contents.len() as u64)?;
                contents.chunks(1000).try_for_each(|chunk| writer.contents(chunk))
            }
            Tree::Symlink(target) => writer.symlink(target),
            Tree::Directory(entries) => {
                writer.directory()?;
                for (name, tree) in entries {
                    writer.entry(name)?;
                    tree.write(writer)?;
                }
                writer.directory_end()
            }
        }
    }

    pub(crate) fn to_nar(&self) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        self.write(&mut writer).unwrap();
        writer.finish().unwrap()
    }

    pub(crate) fn from_nar(nar: &[u8]) -> Result<Tree, NarError> {
        let mut calls = Calls::default();
        drover_nar::parse(nar, Limits::default(), &mut calls)?;
        Ok(calls.tree())
    }
}

/// One call to a visitor; contents are joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Directory,
    Entry(Vec<u8>),
    EntryEnd,
    DirectoryEnd,
    Regular(Executable, u64),
    Contents(Vec<u8>),
    RegularEnd,
    Symlink(Vec<u8>),
}

/// A visitor that writes down what it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Calls(pub(crate) Vec<Call>);

impl Visitor for Calls {
    fn directory(&mut self) {
        self.0.push(Call::Directory);
    }

    fn entry(&mut self, name: &[u8]) {
        self.0.push(Call::Entry(name.to_owned()));
    }

    fn entry_end(&mut self) {
        self.0.push(Call::EntryEnd);
    }

    fn directory_end(&mut self) {
        self.0.push(Call::DirectoryEnd);
    }

    fn regular(&mut self, executable: Executable, size: u64) {
        self.0.push(Call::Regular(executable, size));
    }

    fn contents(&mut self, chunk: &[u8]) {
        assert!(!chunk.is_empty());
        match self.0.last_mut() {
            Some(Call::Contents(contents)) => contents.extend_from_slice(chunk),
            _ => self.0.push(Call::Contents(chunk.to_owned())),
        }
    }

    fn regular_end(&mut self) {
        self.0.push(Call::RegularEnd);
    }

    fn symlink(&mut self, target: &[u8]) {
        self.0.push(Call::Symlink(target.to_owned()));
    }
}

impl Calls {
    pub(crate) fn tree(&self) -> Tree {
        let mut calls = self.0.iter();
        let tree = Calls::node(&mut calls);
        assert_eq!(calls.next(), None);
        tree
    }

    fn node<'a>(calls: &mut impl Iterator<Item = &'a Call>) -> Tree {
        match calls.next().unwrap() {
            Call::Symlink(target) => Tree::Symlink(target.clone()),
            Call::Regular(executable, 0) => {
                assert_eq!(calls.next(), Some(&Call::RegularEnd));
                Tree::Regular(*executable, Vec::new())
            }
            Call::Regular(executable, size) => {
                let Some(Call::Contents(contents)) = calls.next() else { panic!("no contents") };
                assert_eq!(contents.len() as u64, *size);
                assert_eq!(calls.next(), Some(&Call::RegularEnd));
                Tree::Regular(*executable, contents.clone())
            }
            Call::Directory => {
                let mut entries = BTreeMap::new();
                loop {
                    match calls.next().unwrap() {
                        Call::Entry(name) => {
                            assert_eq!(entries.insert(name.clone(), Calls::node(calls)), None);
                            assert_eq!(calls.next(), Some(&Call::EntryEnd));
                        }
                        Call::DirectoryEnd => return Tree::Directory(entries),
                        other => panic!("{other:?} in a directory"),
                    }
                }
            }
            other => panic!("{other:?} for a node"),
        }
    }
}

/// Parses `nar` in two pieces.
pub(crate) fn parse_split(nar: &[u8], at: usize) -> Result<(Progress, Calls), NarError> {
    let mut calls = Calls::default();
    let mut parser = Parser::new(Limits::default());
    let (head, tail) = nar.split_at(at);
    parser.feed(head, &mut calls)?;
    let progress = parser.feed(tail, &mut calls)?;
    parser.finish()?;
    Ok((progress, calls))
}

/// Encodes strings one after the other, whatever they are.
pub(crate) fn strings(texts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in texts {
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text);
        bytes.resize(bytes.len() + (8 - text.len() % 8) % 8, 0);
    }
    bytes
}
