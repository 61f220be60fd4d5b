//! Trees removed, whatever is in them.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use drover_store_files::{Freed, remove_tree};
use rustix::fs::{FileType, Mode};

use crate::place::{Place, name};
use crate::tree::many;

#[test]
fn nothing_is_nothing_to_do() {
    let place = Place::new();
    assert_eq!(remove_tree(place.dir(), &name("x")).unwrap(), Freed::default());
}

#[test]
fn whatever_is_in_it_goes_and_links_lead_nowhere() {
    let place = Place::new();
    fs::create_dir(place.path("outside")).unwrap();
    place.write("outside/file", "stays");
    place.unpack("x", &many(20, 20).nar()).unwrap();
    place.mode("x", 0o755);
    std::os::unix::fs::symlink(place.path("outside"), place.path("x/link")).unwrap();
    fs::hard_link(place.path("outside/file"), place.path("x/hard")).unwrap();
    for (name, kind) in [("fifo", FileType::Fifo), ("socket", FileType::Socket)] {
        let path = place.path("x").join(name);
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, Mode::RWXU, 0).unwrap();
    }
    place.mode("x", 0o000);
    place.remove("x");
    assert_eq!(place.names(), ["outside"]);
    assert_eq!(fs::read_to_string(place.path("outside/file")).unwrap(), "stays");
}

#[test]
fn what_is_freed_is_what_has_no_name_left() {
    let place = Place::new();
    fs::create_dir_all(place.path("x/y")).unwrap();
    for (file, size) in
        [("x/once", 10_000), ("x/twice", 20_000), ("x/linked", 40_000), ("x/often", 80_000)]
    {
        place.write(file, &"x".repeat(size));
    }
    let link = |from: &str, to: &str| fs::hard_link(place.path(from), place.path(to)).unwrap();
    link("x/twice", "x/y/twice");
    link("x/linked", "linked");
    link("x/often", "often-1");
    link("x/often", "often-2");
    let disk = |path: &str| fs::metadata(place.path(path)).unwrap().blocks() * 512;
    let expected = ["x", "x/y", "x/once", "x/twice"].map(disk).iter().sum();
    let freed = remove_tree(place.dir(), &name("x")).unwrap();
    // As Nix has it, a file that has another name is counted for the one before its last, too.
    assert_eq!(freed, Freed { nominal: 10_000 + 2 * 20_000 + 40_000, disk: expected });
    assert_eq!(place.names(), ["linked", "often-1", "often-2"]);
}

/// Deeper than a process may have files open, longer than any path may be.
#[test]
fn depth_is_no_limit() {
    let place = Place::new();
    let long = "d".repeat(200);
    let mut dir = rustix::io::fcntl_dupfd_cloexec(place.dir(), 0).unwrap();
    for level in 0..3000 {
        rustix::fs::mkdirat(&dir, long.as_str(), Mode::RWXU).unwrap();
        dir = rustix::fs::openat(
            &dir,
            long.as_str(),
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY,
            Mode::empty(),
        )
        .unwrap();
        if level % 100 == 0 {
            // Among them names that are those of what is moved up.
            rustix::fs::mkdirat(&dir, format!(".removed-{}", level / 100), Mode::RWXU).unwrap();
            rustix::fs::symlinkat("/", dir.as_fd(), "link").unwrap();
        }
    }
    drop(dir);
    place.remove(&long);
    assert_eq!(place.names(), Vec::<String>::new());
}

/// A process without root's rights must make directories writable to remove what is in them.
#[test]
fn an_owner_removes_what_nobody_may_change() {
    if let Some(dir) = std::env::var_os("STORE_FILES_NOBODY") {
        let dir = fs::File::open(dir).unwrap();
        let nar = many(30, 5).nar();
        let mut unpacker =
            drover_store_files::Unpacker::new(dir.as_fd(), &name("x"), Default::default()).unwrap();
        unpacker.push(&nar).unwrap();
        unpacker.finish().unwrap();
        let path = std::env::var("STORE_FILES_NOBODY").unwrap();
        let mode = |name: &str, mode: u32| {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(format!("{path}/{name}"), fs::Permissions::from_mode(mode))
                .unwrap();
        };
        mode("x/d0003", 0o000);
        mode("x/d0004", 0o200);
        // Moving a directory that may not be written to takes its permission, too.
        drover_store_files::rename_into(dir.as_fd(), &name("x"), dir.as_fd(), &name("y")).unwrap();
        fs::create_dir(format!("{path}/store")).unwrap();
        let store = fs::File::open(format!("{path}/store")).unwrap();
        drover_store_files::rename_into(dir.as_fd(), &name("y"), store.as_fd(), &name("z"))
            .unwrap();
        assert_eq!(fs::metadata(format!("{path}/store/z")).unwrap().mode() & 0o777, 0o555);
        // also where it may not even be read, which is put in order then
        fs::create_dir(format!("{path}/hidden")).unwrap();
        mode("hidden", 0);
        let hidden = name("hidden");
        drover_store_files::rename_into(dir.as_fd(), &hidden, store.as_fd(), &hidden).unwrap();
        assert_eq!(fs::metadata(format!("{path}/store/hidden")).unwrap().mode() & 0o777, 0);
        remove_tree(store.as_fd(), &hidden).unwrap();
        remove_tree(store.as_fd(), &name("z")).unwrap();
        assert_eq!(fs::read_dir(format!("{path}/store")).unwrap().count(), 0);
        return;
    }
    let place = Place::new();
    place.mode("", 0o777);
    let own = place.path("own");
    fs::copy(std::env::current_exe().unwrap(), &own).unwrap();
    let run = std::os::unix::process::CommandExt::uid(&mut std::process::Command::new(&own), 65534)
        .args(["--exact", "removal::an_owner_removes_what_nobody_may_change"])
        .env("STORE_FILES_NOBODY", place.path(""))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}
