//! Trees that others have made, put in order or refused.

use std::fs;
use std::os::unix::fs::{chown, symlink};

use drover_store_files::{FilesError, IGNORED_ATTRIBUTES, Owners, Tree, canonicalise, measure};
use rstest::rstest;
use rustix::fs::{FileType, Mode, XattrFlags};

use crate::place::{Place, assert_canonical, name, state};

/// The user that builds in these tests.
const BUILDER: u32 = 30_001;

fn settle(place: &Place, owners: &Owners) -> Result<(), FilesError> {
    settle_all(place, &["x"], owners)
}

fn settle_all(place: &Place, trees: &[&str], owners: &Owners) -> Result<(), FilesError> {
    let names: Vec<_> = trees.iter().map(|tree| name(tree)).collect();
    let trees: Vec<_> = names.iter().map(|name| Tree { dir: place.dir(), name }).collect();
    canonicalise(&trees, owners, &IGNORED_ATTRIBUTES)
}

/// The builder's tree: a directory with one of everything that is allowed.
fn built() -> Place {
    let place = Place::new();
    fs::create_dir_all(place.path("x/dir/empty")).unwrap();
    place.write("x/dir/file", "file");
    symlink("/nowhere", place.path("x/link")).unwrap();
    for path in ["x/dir/empty", "x/dir/file", "x/dir", "x/link", "x"] {
        std::os::unix::fs::lchown(place.path(path), Some(BUILDER), Some(BUILDER)).unwrap();
    }
    place
}

fn add(place: &Place, path: &str, mode: u32) {
    place.write(path, path);
    chown(place.path(path), Some(BUILDER), Some(BUILDER)).unwrap();
    place.mode(path, mode);
}

fn builders() -> Owners {
    Owners::Users(BUILDER..=BUILDER)
}

#[rstest]
#[case::plain(0o644, 0o444)]
#[case::executable(0o755, 0o555)]
#[case::owner_alone(0o700, 0o555)]
#[case::group_alone(0o010, 0o444)]
#[case::nothing(0o000, 0o444)]
#[case::writable(0o666, 0o444)]
#[case::set_user(0o4755, 0o555)]
#[case::set_group(0o2755, 0o555)]
#[case::sticky(0o1644, 0o444)]
#[case::canonical(0o444, 0o444)]
#[case::canonical_executable(0o555, 0o555)]
fn modes_of_files(#[case] mode: u32, #[case] expected: u32) {
    let place = built();
    add(&place, "x/file", mode);
    let before = measure(place.dir(), &name("x")).unwrap();
    settle(&place, &builders()).unwrap();
    let (mode, time, owner, _) = state(&place.path("x/file"));
    assert_eq!((mode, time, owner), (expected, 1_000_000_000, 0));
    assert_canonical(&place.path("x"));
    assert_eq!(measure(place.dir(), &name("x")).unwrap(), before);
}

#[rstest]
#[case::unreadable(0o000)]
#[case::like_a_file(0o444)]
#[case::world_writable(0o777)]
#[case::set_group(0o2755)]
#[case::sticky(0o1777)]
fn modes_of_directories(#[case] mode: u32) {
    let place = built();
    place.mode("x/dir", mode);
    settle(&place, &builders()).unwrap();
    assert_canonical(&place.path("x"));
    assert_eq!(state(&place.path("x/dir")).2, 0);
    assert_eq!(state(&place.path("x/link")).2, 0, "links, too, are the caller's");
}

#[test]
fn a_root_may_be_a_file_or_a_link() {
    let place = Place::new();
    place.write("x", "file");
    settle(&place, &Owners::Anybody).unwrap();
    assert_canonical(&place.path("x"));
    place.remove("x");
    place.write("target", "stays");
    symlink("target", place.path("x")).unwrap();
    let before = state(&place.path("target"));
    settle(&place, &Owners::Anybody).unwrap();
    assert_canonical(&place.path("x"));
    assert_eq!(state(&place.path("target")), before);
}

#[test]
fn attributes_go_but_for_ignored_ones() {
    let place = built();
    // As setfacl writes it: the owner's rights, user 1000's, the group's, the mask, the others'.
    let entries = [(1_u16, 6_u16, u32::MAX), (2, 7, 1000), (4, 4, u32::MAX), (16, 7, u32::MAX)];
    let entry = |(tag, rights, id): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let others = entry((32, 4, u32::MAX));
    let list = [2_u32.to_le_bytes().to_vec(), entries.map(entry).concat(), others].concat();
    let set = |path: &str, attribute: &str| {
        let value = if attribute.starts_with("system") { &list } else { &b"value".to_vec() };
        rustix::fs::lsetxattr(place.path(path), attribute, value, XattrFlags::empty()).unwrap();
    };
    for path in ["x", "x/dir/file", "x/dir"] {
        set(path, "user.test");
        set(path, "trusted.test");
        set(path, "system.posix_acl_access");
    }
    set("x/link", "trusted.test");
    set("x/dir/file", "trusted.ignored");
    let tree = Tree { dir: place.dir(), name: &name("x") };
    canonicalise(&[tree], &builders(), &["trusted.ignored", "security.selinux"]).unwrap();
    for path in ["x", "x/dir", "x/dir/file", "x/link"] {
        let mut names = [0; 1024];
        let len = rustix::fs::llistxattr(place.path(path), &mut names).unwrap();
        let expected: &[u8] = if path == "x/dir/file" { b"trusted.ignored\0" } else { b"" };
        assert_eq!(
            names[..len].escape_ascii().to_string(),
            expected.escape_ascii().to_string(),
            "{path}"
        );
    }
    assert_canonical(&place.path("x"));
}

#[rstest]
#[case::fifo(FileType::Fifo, "fifo")]
#[case::socket(FileType::Socket, "socket")]
#[case::character_device(FileType::CharacterDevice, "character device")]
#[case::block_device(FileType::BlockDevice, "block device")]
fn kinds_that_no_store_holds(#[case] kind: FileType, #[case] called: &str) {
    let place = built();
    let path = place.path("x/dir/node");
    let device = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, Mode::RWXU, device).unwrap();
    chown(&path, Some(BUILDER), None).unwrap();
    let before = state(&place.path("x"));
    assert_eq!(
        settle(&place, &builders()).unwrap_err().to_string(),
        format!(
            "'x/dir/node' is a {called}; a store holds regular files, directories and symbolic links"
        )
    );
    assert_eq!(state(&place.path("x")), before, "nothing was changed");
}

#[rstest]
#[case::file("x/dir/file")]
#[case::directory("x/dir")]
#[case::link("x/link")]
#[case::root("x")]
fn foreign_owners(#[case] path: &str) {
    let place = built();
    std::os::unix::fs::lchown(place.path(path), Some(1000), None).unwrap();
    assert_eq!(
        settle(&place, &builders()).unwrap_err().to_string(),
        format!("'{path}' belongs to user 1000, who may own nothing here")
    );
    assert_eq!(state(&place.path("x/dir/file")).0, 0o644, "nothing was changed");
    settle(&place, &Owners::Anybody).unwrap();
    assert_canonical(&place.path("x"));
}

#[test]
fn links_within_the_trees_are_theirs() {
    let place = built();
    add(&place, "x/one", 0o755);
    fs::create_dir(place.path("y")).unwrap();
    chown(place.path("y"), Some(BUILDER), None).unwrap();
    fs::hard_link(place.path("x/one"), place.path("x/dir/two")).unwrap();
    fs::hard_link(place.path("x/one"), place.path("y/three")).unwrap();
    let error = settle(&place, &Owners::Anybody).unwrap_err().to_string();
    let due = " has 3 links, 2 of them here; to change it would change it elsewhere: \
               copy files from elsewhere instead of linking them";
    // Which of its names comes first depends on the directory.
    assert!(
        ["'x/one'", "'x/dir/two'"].iter().any(|path| error == format!("{path}{due}")),
        "{error}"
    );
    settle_all(&place, &["x", "y"], &Owners::Users(0..=BUILDER)).unwrap();
    for tree in ["x", "y"] {
        assert_canonical(&place.path(tree));
    }
    assert_eq!(state(&place.path("y/three")), (0o555, 1_000_000_000, 0, 3));
}

/// As by `cp -al` from the folder in which a build works.
#[test]
fn what_the_builder_has_linked_from_outside_is_copied() {
    let place = built();
    add(&place, "outside", 0o750);
    symlink("/nowhere", place.path("outside-link")).unwrap();
    std::os::unix::fs::lchown(place.path("outside-link"), Some(BUILDER), None).unwrap();
    for at in ["x/one", "x/dir/two"] {
        fs::hard_link(place.path("outside"), place.path(at)).unwrap();
    }
    fs::hard_link(place.path("outside-link"), place.path("x/dir/three")).unwrap();
    add(&place, "x/.drover-copy-0", 0o644);
    place.mode("x/dir", 0o555);
    settle(&place, &builders()).unwrap();
    assert_canonical(&place.path("x"));
    for at in ["x/one", "x/dir/two"] {
        assert_eq!(fs::read_to_string(place.path(at)).unwrap(), "outside");
        assert_eq!(state(&place.path(at)).0, 0o555, "{at}");
    }
    assert_eq!(fs::read_link(place.path("x/dir/three")).unwrap(), std::path::Path::new("/nowhere"));
    assert_eq!(fs::read_dir(place.path("x")).unwrap().count(), 4);
    let (mode, _, owner, links) = state(&place.path("outside"));
    assert_eq!((mode, owner, links), (0o750, BUILDER, 1), "it stays as it was");
}

/// What belongs to somebody else is no more the builder's for being linked.
#[test]
fn what_is_linked_of_somebody_elses_is_not_copied() {
    let place = built();
    add(&place, "outside", 0o644);
    fs::hard_link(place.path("outside"), place.path("x/one")).unwrap();
    place.write("secret", "secret");
    fs::hard_link(place.path("secret"), place.path("x/dir/stolen")).unwrap();
    let error = settle(&place, &builders()).unwrap_err();
    assert!(matches!(error, FilesError::ForeignOwner { owner: 0, .. }), "{error}");
    assert_eq!(state(&place.path("outside")).3, 2, "nothing was changed");
}

#[test]
fn links_from_outside_are_refused_unless_nothing_would_change() {
    let place = built();
    place.write("secret", "secret");
    place.mode("secret", 0o600);
    fs::hard_link(place.path("secret"), place.path("x/dir/stolen")).unwrap();
    let error = settle(&place, &builders()).unwrap_err();
    assert!(matches!(error, FilesError::ForeignOwner { owner: 0, .. }), "{error}");
    let error = settle(&place, &Owners::Anybody).unwrap_err();
    assert!(matches!(error, FilesError::LinkedFromOutside { links: 2, inside: 1, .. }), "{error}");
    assert_eq!(state(&place.path("secret")).0, 0o600);

    // As files are that were optimised.
    place.remove("x");
    place.write("pool", "pool");
    settle_all(&place, &["pool"], &Owners::Anybody).unwrap();
    fs::create_dir(place.path("x")).unwrap();
    fs::hard_link(place.path("pool"), place.path("x/linked")).unwrap();
    settle(&place, &Owners::Anybody).unwrap();
    assert_canonical(&place.path("x"));
    // But not if something would have to be taken from it.
    rustix::fs::setxattr(place.path("pool"), "user.test", b"x", XattrFlags::empty()).unwrap();
    let error = settle(&place, &Owners::Anybody).unwrap_err();
    assert!(matches!(error, FilesError::LinkedFromOutside { .. }), "{error}");
}

#[test]
fn doing_it_again_changes_nothing() {
    use std::os::unix::fs::MetadataExt;
    let place = built();
    settle(&place, &builders()).unwrap();
    let changed = |path: &str| {
        let stat = fs::symlink_metadata(place.path(path)).unwrap();
        (stat.ctime(), stat.ctime_nsec())
    };
    let paths = ["x", "x/dir", "x/dir/file", "x/link"];
    let before = paths.map(changed);
    settle(&place, &Owners::Anybody).unwrap();
    assert_eq!(paths.map(changed), before, "not even touched");
}

#[test]
fn too_deep_is_refused() {
    let place = Place::new();
    let deep = std::path::PathBuf::from_iter(std::iter::repeat_n("d", 64));
    fs::create_dir_all(place.path("x").join(&deep)).unwrap();
    let error = settle(&place, &Owners::Anybody).unwrap_err();
    assert!(matches!(error, FilesError::TooDeep { limit: 64, .. }), "{error}");
}
