//! The folders of builds, and what somebody who changes them meanwhile comes to.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rstest::rstest;
use rustix::fs::{CWD, FileType, RenameFlags};

use super::*;

fn at(path: &Path) -> Parent {
    Parent { path: path.to_owned(), sticky: Sticky::Allowed }
}

fn me() -> Ids {
    Ids { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
}

#[test]
fn nobody_else_gets_into_a_build() {
    let home = tempfile::tempdir().unwrap();
    let parent = home.path().canonicalize().unwrap().join("builds");
    // only root has somebody else build
    let owner = if me().uid == 0 { Ids { uid: 30_001, gid: 30_000 } } else { me() };
    let folders = BuildFolders::new(&at(&parent), "x.drv", owner, Entrance::Closed).unwrap();
    folders.add_tmp(owner).unwrap();
    let files = [BuildFile { name: ".attrs.sh".into(), contents: b"x".to_vec() }];
    folders.write(&files, owner).unwrap();
    let outer = fs::metadata(folders.build().parent().unwrap()).unwrap();
    assert_eq!((outer.mode() & 0o7777, outer.uid()), (0o700, me().uid));
    assert_eq!(fs::metadata(folders.build()).unwrap().uid(), owner.uid);
    let attrs = folders.build().join(".attrs.sh");
    assert_eq!(fs::read(&attrs).unwrap(), b"x");
    assert_eq!(fs::metadata(&attrs).unwrap().mode() & 0o7777, 0o644);
    folders.remove().unwrap();
    assert_eq!(fs::read_dir(&parent).unwrap().count(), 0);
}

/// T23: where the build itself goes by the path, its group may go through, and nobody may look or write.
#[test]
fn its_group_alone_goes_through() {
    if me().uid != 0 {
        // who builds as himself doesn't need it
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let parent = at(&home.path().canonicalize().unwrap().join("builds"));
    let owner = Ids { uid: 30_001, gid: 30_000 };
    let folders = BuildFolders::new(&parent, "x.drv", owner, Entrance::OfItsGroup).unwrap();
    let outer = fs::metadata(folders.path()).unwrap();
    assert_eq!((outer.mode() & 0o7777, outer.uid(), outer.gid()), (0o710, 0, owner.gid));
    assert!(!folders.path().join(TMP).exists());
    // there is nothing of that to be removed
    folders.keep().unwrap();
}

/// T23.
#[test]
fn a_folder_that_others_may_write_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().canonicalize().unwrap();
    let open = home.join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let below = open.join("below");
    fs::create_dir(&below).unwrap();
    for parent in [&open, &below] {
        let error = BuildFolders::new(&at(parent), "x", me(), Entrance::Closed).unwrap_err();
        assert!(error.to_string().contains("others may write"), "{error}");
    }
    fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
    BuildFolders::new(&at(&below), "x", me(), Entrance::Closed).unwrap().remove().unwrap();
    let strict = Parent { path: below, sticky: Sticky::Refused };
    let error = BuildFolders::new(&strict, "x", me(), Entrance::Closed).unwrap_err();
    assert!(error.to_string().contains("others may write"), "{error}");
}

/// As Nix leaves it to who wants to look into it.
#[test]
fn a_folder_that_is_kept_can_be_looked_into() {
    let home = tempfile::tempdir().unwrap();
    let parent = at(&home.path().canonicalize().unwrap().join("builds"));
    let folders = BuildFolders::new(&parent, "x", me(), Entrance::Closed).unwrap();
    folders.add_tmp(me()).unwrap();
    fs::write(folders.path().join(TMP).join("left"), "x").unwrap();
    let kept = folders.keep().unwrap();
    for folder in [kept.as_path(), kept.parent().unwrap()] {
        assert_eq!(fs::metadata(folder).unwrap().mode() & 0o7777, 0o755, "{folder:?}");
    }
    // there everybody could write
    assert!(!kept.with_file_name(TMP).exists());
}

/// T28: however a build came by such files, they are no way to be its user.
#[test]
fn what_is_kept_lends_nobody_the_rights_of_its_user() {
    let home = tempfile::tempdir().unwrap();
    let parent = at(&home.path().canonicalize().unwrap().join("builds"));
    let folders = BuildFolders::new(&parent, "x", me(), Entrance::Closed).unwrap();
    let hidden = folders.build().join("a/hidden");
    fs::create_dir_all(&hidden).unwrap();
    let outside = home.path().join("outside");
    fs::write(&outside, "x").unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o4755)).unwrap();
    symlink(&outside, folders.build().join("link")).unwrap();
    let mode = Mode::from_raw_mode(0o4755);
    rustix::fs::mknodat(CWD, folders.build().join("pipe"), FileType::Fifo, mode, 0).unwrap();
    for (name, mode) in [("a/program", 0o6755), ("a/hidden/program", 0o4711)] {
        let file = folders.build().join(name);
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o2311)).unwrap();
    let kept = folders.keep().unwrap();
    for (name, expected) in [("pipe", 0o755), ("a/program", 0o755), ("a/hidden/program", 0o711)] {
        assert_eq!(fs::metadata(kept.join(name)).unwrap().mode() & 0o7777, expected, "{name}");
    }
    // where links lead isn't the build's
    assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o7777, 0o4755);
}

#[test]
fn what_nobody_uses_any_more_is_swept_away() {
    let home = tempfile::tempdir().unwrap();
    let parent = home.path().canonicalize().unwrap().join("builds");
    BuildFolders::sweep(&at(&parent)).unwrap();
    let [used, kept, left] = ["used", "kept", "left"]
        .map(|name| BuildFolders::new(&at(&parent), name, me(), Entrance::Closed).unwrap());
    let folders = [used.build(), kept.keep().unwrap(), left.build()];
    drop(left);
    BuildFolders::sweep(&at(&parent)).unwrap();
    assert_eq!(folders.map(|folder| folder.exists()), [true, true, false]);
    drop(used);
}

/// A link that nobody else can exchange is followed, and what it led to is used from then on.
#[test]
fn a_link_of_ones_own_is_followed_once() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().canonicalize().unwrap();
    fs::create_dir(home.join("real")).unwrap();
    symlink("real/..", home.join("up")).unwrap();
    symlink(home.join("up/real"), home.join("link")).unwrap();
    let parent = at(&home.join("link/new/builds"));
    let folders = BuildFolders::new(&parent, "x", me(), Entrance::Closed).unwrap();
    let expected = home.join("real/new/builds");
    assert_eq!(folders.path().parent().unwrap(), expected);
    assert_eq!(folders.build().parent().unwrap(), folders.path());
    let kept = folders.keep().unwrap();
    assert!(kept.starts_with(&expected), "{kept:?}");
    symlink("loop", home.join("loop")).unwrap();
    BuildFolders::new(&at(&home.join("loop")), "x", me(), Entrance::Closed).unwrap_err();
}

/// T23: neither what a link leads to nor anything on the way there is somebody else's to choose, and
/// nothing is made before that is known.
#[test]
fn a_way_through_what_others_can_exchange_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().canonicalize().unwrap();
    let (real, open, sticky) = (home.join("real"), home.join("open"), home.join("sticky"));
    for (folder, mode) in [(&real, 0o755), (&open, 0o777), (&sticky, 0o1777)] {
        fs::create_dir(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        symlink(&real, folder.join("link")).unwrap();
    }
    // a safe link that leads through such a folder isn't any better
    symlink(open.join("link"), home.join("far")).unwrap();
    for way in [open.join("link"), open.join("link/new/x"), home.join("far"), home.join("far/new")]
    {
        let error = BuildFolders::new(&at(&way), "x", me(), Entrance::Closed).unwrap_err();
        assert!(error.to_string().contains("others may write"), "{error}");
    }
    // only root can give it to somebody else
    if me().uid == 0 {
        std::os::unix::fs::lchown(sticky.join("link"), Some(65_534), Some(65_534)).unwrap();
        for way in [sticky.join("link"), sticky.join("link/new")] {
            let error = BuildFolders::new(&at(&way), "x", me(), Entrance::Closed).unwrap_err();
            assert!(error.to_string().contains("somebody else owns"), "{error}");
        }
        symlink(&real, home.join("link")).unwrap();
        std::os::unix::fs::chown(&real, Some(65_534), Some(65_534)).unwrap();
        for way in [home.join("link"), home.join("link/new")] {
            let error = BuildFolders::new(&at(&way), "x", me(), Entrance::Closed).unwrap_err();
            assert!(error.to_string().contains("somebody else owns"), "{error}");
        }
    }
    assert!(!real.join("new").exists());
}

/// As by a process of the same number in another container, which shares the folder.
#[test]
fn names_that_others_have_are_passed_over() {
    let home = tempfile::tempdir().unwrap();
    let parent = home.path().canonicalize().unwrap().join("builds");
    fs::create_dir(&parent).unwrap();
    let first = BuildFolders::new(&at(&parent), "x", me(), Entrance::Closed).unwrap();
    let own = first.name.split('-').nth(3).unwrap().parse::<u32>().unwrap();
    for taken in own + 1..own + 40 {
        let name = format!("drover-build-{}-{taken}-x", std::process::id());
        fs::create_dir(parent.join(name)).unwrap();
    }
    let second = BuildFolders::new(&at(&parent), "x", me(), Entrance::Closed).unwrap();
    fs::create_dir(parent.join(second.name.replacen(IN_USE, KEPT, 1))).unwrap();
    let expected = format!("{}-2/build", second.name.replacen(IN_USE, KEPT, 1));
    assert_eq!(second.keep().unwrap(), parent.join(expected));
    first.remove().unwrap();
}

/// Files that a build begins with in these tests.
const FILES: usize = 32;

fn file(number: usize) -> String {
    format!("file-{number}")
}

/// Exchanges the build's folder for a link that leads to the sentinel, or the one for the other again.
fn exchange_folders(outer: &Path, sentinel: &Path) -> bool {
    let (build, bait) = (outer.join(BUILD), outer.join("bait"));
    symlink(sentinel, &bait).ok();
    rustix::fs::renameat_with(CWD, build, CWD, bait, RenameFlags::EXCHANGE).is_ok()
}

/// Puts what leads to the sentinel where the build's files will be.
fn plant_links(outer: &Path, sentinel: &Path) -> bool {
    let (file_there, build) = (sentinel.join("file"), outer.join(BUILD));
    let plant = |number: usize| {
        let at = build.join(file(number));
        match number % 2 {
            0 => fs::hard_link(&file_there, at).is_ok(),
            _ => symlink(&file_there, at).is_ok(),
        }
    };
    (0..FILES).rev().filter(|number| plant(*number)).count() > 0
}

/// Names, contents, modes and owners.
fn state(sentinel: &Path) -> Vec<(PathBuf, u32, u32, u32, Vec<u8>)> {
    let entries = fs::read_dir(sentinel).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = entries
        .chain([sentinel.to_owned()])
        .map(|path| {
            let status = fs::symlink_metadata(&path).unwrap();
            let contents = fs::read(&path).unwrap_or_default();
            (path, status.mode(), status.uid(), status.gid(), contents)
        })
        .collect();
    all.sort();
    all
}

/// How often each attack is made; the long run asks for more.
fn rounds() -> u64 {
    let given = std::env::var("DROVER_TEST_ROUNDS").ok();
    given.map_or(80, |rounds| rounds.parse().unwrap())
}

/// How long it may take until what attacks has hit often enough: it may be given little time on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Sets a flag when it goes, also where an assertion fails.
struct WhenDropped<'a>(&'a AtomicBool);

impl Drop for WhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// T25. Somebody who gets into the outer folder, which nobody should, leads neither what is given to the
/// build's user nor what is opened to be kept to anything outside.
#[rstest]
#[case::exchanged_folders(exchange_folders)]
#[case::planted_links(plant_links)]
fn nothing_outside_is_given_away(#[case] attack: fn(&Path, &Path) -> bool) {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().canonicalize().unwrap();
    let (parent, sentinel) = (home.join("builds"), home.join("sentinel"));
    for folder in [&parent, &sentinel] {
        fs::create_dir(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
    fs::write(sentinel.join("file"), "stays").unwrap();
    fs::set_permissions(sentinel.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let before = state(&sentinel);
    // only root can give anything away
    let owner = if me().uid == 0 { Ids { uid: 30_001, gid: 30_000 } } else { me() };
    let build_file = |number| BuildFile { name: file(number), contents: b"written".to_vec() };
    let files: Vec<BuildFile> = (0..FILES).map(build_file).collect();
    let (over, hits) = (AtomicBool::new(false), AtomicU64::new(0));
    let attack_all = || {
        while !over.load(Ordering::Relaxed) {
            for outer in fs::read_dir(&parent).unwrap() {
                let hit = attack(&outer.unwrap().path(), &sentinel);
                hits.fetch_add(u64::from(hit), Ordering::Relaxed);
            }
        }
    };
    let is_enough = || rounds() / 4 < hits.load(Ordering::Relaxed);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let _over = WhenDropped(&over);
        scope.spawn(attack_all);
        for round in 0.. {
            if rounds() <= round && (is_enough() || LIMIT < began.elapsed()) {
                break;
            }
            // each may fail, depending on what it meets
            if let Ok(folders) = BuildFolders::new(&at(&parent), "x", owner, Entrance::Closed) {
                folders.write(&files, owner).ok();
                folders.keep().ok();
            }
            assert_eq!(state(&sentinel), before);
            let around = rustix::fs::openat(CWD, &parent, FOLDER, Mode::empty()).unwrap();
            for left in fs::read_dir(&parent).unwrap() {
                let name = left.unwrap().file_name();
                let name = FileName::new(name.as_encoded_bytes()).unwrap();
                // what is put into it meanwhile goes the next time
                while remove_tree(around.as_fd(), &name).is_err() {}
            }
        }
    });
    assert_eq!(state(&sentinel), before);
    // otherwise nothing was attacked
    assert!(is_enough(), "{hits:?} hits");
}
