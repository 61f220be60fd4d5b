//! Archives unpacked and packed again.

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use bytes::Bytes;
use drover_core::{Hash, HashAlgorithm};
use drover_nar::{Executable, Limits, Progress};
use drover_store_files::{
    FilesError, Filled, Form, HashingUnpacker, Packer, Unpacker, hash_tree, measure, rename_into,
    sync_directory, sync_file_system,
};
use proptest::prelude::*;
use rstest::rstest;

use crate::place::{Place, assert_canonical, name, state};
use crate::tree::{Tree, many, trees};

fn pack(place: &Place, what: &str) -> Result<Vec<u8>, FilesError> {
    let mut packer = Packer::new(place.dir(), &name(what))?;
    let mut nar = Vec::new();
    while let Some(block) = packer.next_block()? {
        assert!(!block.is_empty() && block.len() <= 256 << 10);
        nar.extend_from_slice(&block);
    }
    assert_eq!(packer.next_block()?, None);
    Ok(nar)
}

fn sha256(nar: &[u8]) -> Hash {
    Hash::of(HashAlgorithm::Sha256, nar)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn unpacking_and_packing_give_the_same_bytes(tree in trees(), chunk in 1..300_000_usize) {
        let place = Place::new();
        let nar = tree.nar();
        let mut unpacker = Unpacker::new(place.dir(), &name("x"), Limits::of_size(nar.len() as u64))?;
        for piece in nar.chunks(chunk) {
            unpacker.push(piece)?;
        }
        unpacker.finish()?;
        assert_canonical(&place.path("x"));
        prop_assert!(pack(&place, "x")? == nar);

        let mut packer = Packer::new(place.dir(), &name("x"))?;
        let mut block = Vec::with_capacity(chunk);
        let mut filled = Vec::new();
        while packer.fill(&mut block)? == Filled::More {
            filled.extend_from_slice(&block);
        }
        filled.extend_from_slice(&block);
        prop_assert!(filled == nar);

        let measured = measure(place.dir(), &name("x"))?;
        prop_assert_eq!(measured.size.0, nar.len() as u64);
        prop_assert_eq!(measured.hash.to_hash(), sha256(&nar));
    }

    #[test]
    fn a_hashing_unpacker_does_the_same(tree in trees(), chunk in 1..700_000_usize, extra in 0..9_usize) {
        let place = Place::new();
        let nar = tree.nar();
        let mut stream = nar.clone();
        stream.resize(nar.len() + extra, b'x');
        let mut rest = Bytes::from(stream);
        let mut unpacker = HashingUnpacker::new(place.dir(), &name("x"), Limits::default())?;
        let mut used = 0;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(chunk));
            used += match unpacker.push(&piece)? {
                Progress::More => piece.len(),
                Progress::Done { consumed } => consumed,
            };
        }
        prop_assert_eq!(used, nar.len());
        let measured = unpacker.finish()?;
        prop_assert_eq!(measured.size.0, nar.len() as u64);
        prop_assert_eq!(measured.hash.to_hash(), sha256(&nar));
        assert_canonical(&place.path("x"));
        prop_assert!(pack(&place, "x")? == nar);
    }
}

/// Wherever in a block a file's contents end, the block doesn't grow.
#[test]
fn no_block_is_larger_than_said() {
    let place = Place::new();
    let first_two = (32 << 10) + (256 << 10);
    for missing in (0..300).step_by(4) {
        let contents = vec![7; first_two - missing];
        fs::write(place.path("x"), &contents).unwrap();
        let nar = pack(&place, "x").unwrap();
        assert!(nar == Tree::File(Executable::No, contents).nar(), "{missing}");
    }
}

/// Enough for threads of their own to make the files, in many directories and in one.
#[rstest]
#[case::directories(300, 10)]
#[case::one(1, 3000)]
#[case::lonely(900, 1)]
fn many_small_files(#[case] directories: usize, #[case] files: usize) {
    let place = Place::new();
    let nar = many(directories, files).nar();
    place.unpack("x", &nar).unwrap();
    assert_canonical(&place.path("x"));
    assert!(pack(&place, "x").unwrap() == nar);
}

#[test]
fn a_large_file_is_hashed_while_it_is_unpacked_and_read() {
    let place = Place::new();
    let contents: Vec<u8> = (0..5_000_001_u32).map(|n| (n * 7 / 3).to_le_bytes()[1]).collect();
    let nar = Tree::File(Executable::Yes, contents).nar();
    let mut unpacker =
        HashingUnpacker::new(place.dir(), &name("x"), Limits::of_size(nar.len() as u64)).unwrap();
    for piece in nar.chunks(100_000) {
        unpacker.push(&Bytes::copy_from_slice(piece)).unwrap();
    }
    let measured = unpacker.finish().unwrap();
    assert_eq!(measured.hash.to_hash(), sha256(&nar));
    assert_eq!(measure(place.dir(), &name("x")).unwrap(), measured);
    let (sha1, size) = hash_tree(place.dir(), &name("x"), HashAlgorithm::Sha1).unwrap();
    assert_eq!((sha1, size), (Hash::of(HashAlgorithm::Sha1, &nar), measured.size));
    assert_canonical(&place.path("x"));
}

#[test]
fn what_is_there_is_not_touched() {
    let place = Place::new();
    for (there, tree) in [
        ("file", Tree::file("new")),
        ("file", Tree::directory([("x", Tree::file("x"))])),
        ("link", Tree::file("new")),
        ("link", Tree::Symlink(b"other".to_vec())),
        ("directory", Tree::directory([])),
    ] {
        place.write("file", "old");
        fs::create_dir_all(place.path("directory")).unwrap();
        std::os::unix::fs::symlink("file", place.path("link")).unwrap();
        let error = place.unpack(there, &tree.nar()).unwrap_err();
        assert!(matches!(error, FilesError::Exists { .. }), "{error}");
        assert_eq!(error.to_string(), format!("'{there}' exists already"));
        assert_eq!(fs::read_to_string(place.path("link")).unwrap(), "old");
        place.remove("link");
    }
}

#[test]
fn a_personal_tree_is_its_owners() {
    let place = Place::new();
    let mut unpacker =
        Unpacker::with_form(place.dir(), &name("x"), Limits::default(), Form::Personal).unwrap();
    unpacker.push(&many(20, 20).nar()).unwrap();
    unpacker.finish().unwrap();
    fs::create_dir(place.path("dir")).unwrap();
    place.write("plain", "");
    let [dir, plain] = ["dir", "plain"].map(|path| state(&place.path(path)).0);
    for (path, mode) in
        [("x", dir), ("x/d0001", dir), ("x/d0001/0001", plain), ("x/d0019/0015", plain)]
    {
        assert_eq!(state(&place.path(path)).0, mode, "{path}");
        assert!(1_000_000_000 < state(&place.path(path)).1);
    }
    for path in ["x/d0001/0000", "x/d0019/0014"] {
        assert_eq!(state(&place.path(path)).0, plain | 0o111, "{path}");
    }
}

/// The process's mask and lists of rights that are inherited change nothing. The mask is that of the
/// whole process, so the other tests would feel it: the work is done in a process of its own.
#[test]
fn modes_are_exact_whatever_the_mask_and_inherited_rights() {
    if let Some(dir) = std::env::var_os("STORE_FILES_MASKED") {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let dir = OwnedFd::from(fs::File::open(dir).unwrap());
        for (to, tree) in [("tree", many(10, 50)), ("file", Tree::file("x"))] {
            let mut unpacker = Unpacker::new(dir.as_fd(), &name(to), Limits::default()).unwrap();
            unpacker.push(&tree.nar()).unwrap();
            unpacker.finish().unwrap();
        }
        return;
    }
    let own = std::env::current_exe().unwrap();
    for rights in [None, Some("system.posix_acl_default")] {
        let place = Place::new();
        if let Some(attribute) = rights {
            // u::rwx g::rwx o::rwx and user 1000: rwx, mask rwx, as setfacl would say.
            let entry = |tag: u16, rights: u16, id: u32| {
                [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
            };
            let none = u32::MAX;
            let list = [(1, 7, none), (2, 7, 1000), (4, 7, none), (16, 7, none), (32, 7, none)];
            let list = list.map(|(tag, rights, id)| entry(tag, rights, id)).concat();
            let value = [&2_u32.to_le_bytes()[..], &list].concat();
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::fsetxattr(place.dir(), attribute, &value, flags).unwrap();
        }
        let run = std::process::Command::new(&own)
            .args(["--exact", "archives::modes_are_exact_whatever_the_mask_and_inherited_rights"])
            .env("STORE_FILES_MASKED", place.path(""))
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
        for made in ["tree", "file"] {
            assert_canonical(&place.path(made));
        }
        for path in ["tree", "tree/d0000", "tree/d0009/0049", "file"] {
            let mut names = [0; 1024];
            let len = rustix::fs::listxattr(place.path(path), &mut names).unwrap();
            assert_eq!(len, 0, "{path}: {}", names[..len].escape_ascii());
        }
    }
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let place = Place::new();
    place.write("x", &"x".repeat(900_000));
    let mut packer = Packer::new(place.dir(), &name("x")).unwrap();
    let mut block = Vec::with_capacity(20_000);
    assert_eq!(packer.fill(&mut block).unwrap(), Filled::More);
    fs::File::options().write(true).open(place.path("x")).unwrap().set_len(10).unwrap();
    let error = loop {
        match packer.fill(&mut block) {
            Ok(filled) => assert_eq!(filled, Filled::More),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, FilesError::Changed { announced: 900_000, .. }), "{error}");
    assert_eq!(packer.next_block().unwrap(), None, "it is of no use any more");
}

/// As in Nix: a log that is written to meanwhile can be added, and files that are empty by their size
/// are empty.
#[test]
fn of_a_file_that_grows_what_it_had_counts() {
    for len in [0, 1, 19_000, 900_000] {
        let place = Place::new();
        place.write("x", &"x".repeat(len));
        let expected = pack(&place, "x").unwrap();
        let mut packer = Packer::new(place.dir(), &name("x")).unwrap();
        let mut block = Vec::with_capacity(20_000);
        let mut packed = Vec::new();
        let mut file = fs::File::options().append(true).open(place.path("x")).unwrap();
        loop {
            let filled = packer.fill(&mut block).unwrap();
            packed.extend_from_slice(&block);
            file.write_all(&[b'y'; 30_000]).unwrap();
            if filled == Filled::Last {
                break;
            }
        }
        assert!(packed == expected, "{len}");
    }
    let proc = fs::File::open("/proc/self").unwrap();
    let mut packer = Packer::new(proc.as_fd(), &name("status")).unwrap();
    let packed: Vec<u8> = std::iter::from_fn(|| packer.next_block().unwrap()).flatten().collect();
    let place = Place::new();
    place.write("empty", "");
    assert_eq!(packed, pack(&place, "empty").unwrap());
}

/// Thousands of them wait at a time where a graph is read.
#[test]
fn a_small_archive_takes_no_more_memory_than_its_bytes() {
    let place = Place::new();
    place.write("x", "small");
    let mut packer = Packer::new(place.dir(), &name("x")).unwrap();
    let block = packer.next_block().unwrap().unwrap();
    let len = block.len();
    assert_eq!(block.try_into_mut().unwrap().capacity(), len);
}

#[test]
fn only_what_an_archive_may_hold_is_packed() {
    let place = Place::new();
    let deep = |levels: usize| PathBuf::from_iter(std::iter::repeat_n("d", levels));
    fs::create_dir_all(place.path("a").join(deep(63))).unwrap();
    assert!(pack(&place, "a").is_ok());
    fs::write(place.path("a").join(deep(63)).join("x"), "").unwrap();
    let error = pack(&place, "a").unwrap_err().to_string();
    assert!(error.ends_with("is nested deeper than 64, as deep as an archive may be"), "{error}");

    fs::create_dir(place.path("b")).unwrap();
    rustix::fs::mknodat(
        place.dir(),
        "b/pipe",
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    assert_eq!(
        pack(&place, "b").unwrap_err().to_string(),
        "'b/pipe' is a fifo; a store holds regular files, directories and symbolic links"
    );
    fs::create_dir(place.path("c")).unwrap();
    place.write("c/x~nix~case~hack~1", "");
    assert_eq!(
        pack(&place, "c").unwrap_err().to_string(),
        "invalid file name \"x~nix~case~hack~1\": it contains ~nix~case~hack~"
    );
    assert_eq!(pack(&place, "absent").unwrap_err().to_string(), "cannot look at 'absent'");
}

#[test]
fn a_finished_tree_gets_its_place_once() {
    let place = Place::new();
    fs::create_dir(place.path("store")).unwrap();
    let store = fs::File::open(place.path("store")).unwrap();
    let tree = Tree::directory([("x", Tree::file("x"))]);
    for attempt in 0..2 {
        place.unpack("tmp", &tree.nar()).unwrap();
        sync_file_system(place.dir()).unwrap();
        let renamed = rename_into(place.dir(), &name("tmp"), store.as_fd(), &name("path"));
        match (attempt, renamed) {
            (0, Ok(())) => assert_canonical(&place.path("store/path")),
            (1, Err(FilesError::Exists { path })) => assert_eq!(path.as_bytes(), b"path"),
            (_, other) => panic!("{other:?}"),
        }
    }
    sync_directory(store.as_fd()).unwrap();
    assert!(place.path("tmp").exists(), "the second one is where it was");
    // An empty directory could be replaced by one, as far as the system is concerned.
    fs::create_dir(place.path("store/empty")).unwrap();
    let renamed = rename_into(place.dir(), &name("tmp"), store.as_fd(), &name("empty"));
    assert!(matches!(renamed, Err(FilesError::Exists { .. })), "{renamed:?}");
}

/// What is given up half-way stops: nothing appears after the unpacker is gone.
#[test]
fn an_unpacker_that_is_dropped_makes_nothing_more() {
    let nar = Bytes::from(many(200, 50).nar());
    for part in [nar.len() / 3, nar.len() - 100] {
        let place = Place::new();
        let mut unpacker =
            HashingUnpacker::new(place.dir(), &name("x"), Limits::default()).unwrap();
        unpacker.push(&nar.slice(..part)).unwrap();
        drop(unpacker);
        let files = || {
            let directories = fs::read_dir(place.path("x")).into_iter().flatten();
            let entries =
                directories.map(|entry| fs::read_dir(entry.unwrap().path()).unwrap().count());
            entries.sum::<usize>()
        };
        let before = files();
        for _ in 0..1000 {
            std::thread::yield_now();
        }
        assert_eq!(files(), before);
        place.remove("x");
        assert_eq!(place.names(), Vec::<String>::new());
    }
}

/// The first failure is the one that is told, with its place.
#[test]
fn a_failure_of_the_system_names_the_place() {
    let place = Place::new();
    let long = "n".repeat(255);
    let mut unpacker = Unpacker::new(place.dir(), &name("x"), Limits::default()).unwrap();
    let tree = Tree::directory([("a", Tree::directory([(&long, Tree::file("x"))]))]);
    let nar = tree.nar();
    let mut begun = 0;
    while !place.path("x").exists() {
        unpacker.push(&nar[begun..=begun]).unwrap();
        begun += 1;
    }
    fs::create_dir(place.path("x/a")).unwrap();
    let error = unpacker.push(&nar[begun..]).and_then(|_| unpacker.finish()).unwrap_err();
    assert_eq!(error.to_string(), "'x/a' exists already");
}
