//! T24 and T25: somebody who swaps directories and files for links, over and over, while a tree is
//! removed, put in order or read.
//!
//! `DROVER_TEST_ROUNDS` says how often each is done; the long run asks for 100,000.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use drover_store_files::{LinkCheck, Links, Owners, Packer, Tree, canonicalise, remove_tree};
use rstest::rstest;
use rustix::fs::RenameFlags;

use crate::place::{Place, name};

/// Sets a flag when it goes.
struct WhenDropped<'a>(&'a AtomicBool);

impl Drop for WhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The user whose trees these are, where it matters.
const BUILDER: u32 = 30_001;

fn rounds(usual: usize) -> usize {
    let given = std::env::var("DROVER_TEST_ROUNDS").ok();
    given.map_or(usual, |rounds| rounds.parse().unwrap())
}

/// A directory that nobody has any business with.
fn with_sentinel() -> Place {
    let place = Place::new();
    fs::create_dir(place.path("sentinel")).unwrap();
    for file in 0..10 {
        place.write(&format!("sentinel/{file}"), "stays");
        place.mode(&format!("sentinel/{file}"), 0o640);
    }
    place
}

/// Waits until so much was exchanged: where cores are few, who attacks has to be let.
fn let_attack(swaps: &AtomicU64, least: u64) {
    let until = Instant::now() + Duration::from_secs(60);
    while swaps.load(Ordering::Relaxed) < least && Instant::now() < until {
        std::thread::yield_now();
    }
}

/// Exchanges what has two paths.
fn exchange(one: &Path, other: &Path) -> bool {
    let cwd = rustix::fs::CWD;
    rustix::fs::renameat_with(cwd, one, cwd, other, RenameFlags::EXCHANGE).is_ok()
}

/// Runs `victim` again and again on a tree in which `swapped` is a directory and a link to a
/// directory outside by turns, and asserts that what is there is as it was.
fn under_attack(usual: usize, victim: fn(&Place)) {
    let rounds = rounds(usual);
    let place = with_sentinel();
    let before = fs::metadata(place.path("sentinel")).unwrap();
    let over = AtomicBool::new(false);
    let swaps = AtomicU64::new(0);
    std::thread::scope(|scope| {
        // Also if an assertion fails; the scope would wait for ever.
        let _over = WhenDropped(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if exchange(&place.path("x/a/swapped"), &place.path("x/a/other")) {
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for round in 0..rounds {
            fs::create_dir_all(place.path("x/a/swapped/deep")).unwrap();
            for file in 0..10 {
                place.write(&format!("x/a/swapped/{file}"), "goes");
            }
            symlink(place.path("sentinel"), place.path("x/a/other")).unwrap();
            let_attack(&swaps, round as u64 + 1);
            victim(&place);
            // A removal that was led astray is an error; what it left goes in the next.
            while remove_tree(place.dir(), &name("x")).is_err() {}
            assert_eq!(place.names(), ["sentinel"]);
        }
    });
    let after = fs::metadata(place.path("sentinel")).unwrap();
    assert_eq!(after.modified().unwrap(), before.modified().unwrap());
    assert_untouched(&place);
    // Otherwise nothing was attacked.
    assert!(rounds as u64 / 4 < swaps.load(Ordering::Relaxed), "{swaps:?} swaps");
}

fn assert_untouched(place: &Place) {
    for file in 0..10 {
        let path = place.path(&format!("sentinel/{file}"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "stays");
        let (mode, _, owner, _) = crate::place::state(&path);
        assert_eq!((mode, owner), (0o640, 0));
    }
}

/// Runs `victim` again and again on a tree in which a file is its builder's and, by turns, another name of
/// somebody else's: at once, or by a link.
fn files_under_attack(usual: usize, bait: fn(&Path, &Path), victim: fn(&Place)) {
    let rounds = rounds(usual);
    let place = with_sentinel();
    let over = AtomicBool::new(false);
    let swaps = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let _over = WhenDropped(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for file in 0..10 {
                    let [inside, outside] = ["x/dir", "baits"].map(|it| format!("{it}/{file}"));
                    let swapped = exchange(&place.path(&inside), &place.path(&outside));
                    swaps.fetch_add(u64::from(swapped), Ordering::Relaxed);
                }
            }
        });
        for round in 0..rounds {
            // made elsewhere, so that what is swapped is there at once
            for folder in ["new", "new/dir", "new-baits"] {
                fs::create_dir(place.path(folder)).unwrap();
                chown(place.path(folder), Some(BUILDER), None).unwrap();
            }
            for file in 0..10 {
                let own = format!("new/dir/{file}");
                place.write(&own, "own");
                chown(place.path(&own), Some(BUILDER), None).unwrap();
                let sentinel = place.path(&format!("sentinel/{file}"));
                bait(&sentinel, &place.path(&format!("new-baits/{file}")));
            }
            fs::rename(place.path("new"), place.path("x")).unwrap();
            fs::rename(place.path("new-baits"), place.path("baits")).unwrap();
            let_attack(&swaps, 2 * (round as u64 + 1));
            victim(&place);
            for left in ["x", "baits"] {
                while remove_tree(place.dir(), &name(left)).is_err() {}
            }
        }
    });
    assert_untouched(&place);
    assert!(swaps.load(Ordering::Relaxed) > rounds as u64, "{swaps:?} swaps");
}

#[test]
fn removing_stays_inside() {
    under_attack(400, |_| ());
}

#[test]
fn what_is_removed_itself_is_not_followed() {
    let place = with_sentinel();
    let over = AtomicBool::new(false);
    let swaps = AtomicU64::new(0);
    let rounds = rounds(300);
    std::thread::scope(|scope| {
        let _over = WhenDropped(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let swapped = exchange(&place.path("x"), &place.path("bait"));
                swaps.fetch_add(u64::from(swapped), Ordering::Relaxed);
            }
        });
        for round in 0..rounds {
            fs::create_dir_all(place.path("x/deep")).unwrap();
            (0..10).for_each(|file| place.write(&format!("x/{file}"), "goes"));
            symlink(place.path("sentinel"), place.path("bait")).unwrap();
            let_attack(&swaps, round as u64 + 1);
            for left in ["x", "bait"] {
                while remove_tree(place.dir(), &name(left)).is_err() {}
            }
        }
    });
    assert_eq!(place.names(), ["sentinel"]);
    assert_untouched(&place);
    assert!(rounds as u64 / 4 < swaps.load(Ordering::Relaxed), "{swaps:?} swaps");
}

#[test]
fn putting_in_order_stays_inside() {
    under_attack(200, |place| {
        // It may be refused or not; that depends on what it sees.
        let tree = Tree { dir: place.dir(), name: &name("x") };
        canonicalise(&[tree], &Owners::Anybody, &[]).ok();
    });
}

/// T25: a file that is somebody else's, under another name or behind a link, keeps its owner and mode.
#[rstest]
#[case::hard_links(|sentinel: &Path, bait: &Path| fs::hard_link(sentinel, bait).unwrap())]
#[case::symbolic_links(|sentinel: &Path, bait: &Path| symlink(sentinel, bait).unwrap())]
fn nobody_elses_file_is_taken_over(#[case] bait: fn(&Path, &Path)) {
    files_under_attack(100, bait, |place| {
        let tree = Tree { dir: place.dir(), name: &name("x") };
        canonicalise(&[tree], &Owners::Users(BUILDER..=BUILDER), &[]).ok();
    });
}

#[test]
fn packing_stays_inside() {
    under_attack(200, |place| {
        let mut packer = Packer::new(place.dir(), &name("x")).unwrap();
        while let Ok(Some(block)) = packer.next_block() {
            assert!(!block.windows(5).any(|bytes| bytes == b"stays"));
        }
    });
}

/// A garbage collector takes each name in the store directory that is no path's; that which a link has
/// until it is where it belongs is one.
#[test]
fn linking_goes_on_beside_a_collector() {
    const FILES: u32 = 200;
    let place = Place::new();
    let over = AtomicBool::new(false);
    let swept = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let _over = WhenDropped(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for name in place.names().iter().filter(|name| name.starts_with(".tmp-link-")) {
                    let gone = fs::remove_file(place.path(name)).is_ok();
                    swept.fetch_add(u64::from(gone), Ordering::Relaxed);
                }
            }
        });
        let mut links = Links::open(place.dir()).unwrap();
        for round in 0..rounds(30) {
            let tree = format!("tree-{round}");
            fs::create_dir(place.path(&tree)).unwrap();
            for file in 0..FILES {
                place.write(&format!("{tree}/{file}"), "same");
                place.mode(&format!("{tree}/{file}"), 0o444);
            }
            links.optimise(&name(&tree), LinkCheck::Size).unwrap();
            for file in 0..FILES {
                let contents = fs::read_to_string(place.path(&format!("{tree}/{file}"))).unwrap();
                assert_eq!(contents, "same");
            }
            fs::remove_dir_all(place.path(&tree)).unwrap();
        }
    });
    assert!(0 < swept.load(Ordering::Relaxed), "nothing was swept");
}
