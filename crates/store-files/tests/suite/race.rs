//! Somebody who swaps a directory for a link, over and over, while the tree is removed.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use drover_store_files::{Owners, Packer, Tree, canonicalise, remove_tree};
use rustix::fs::RenameFlags;

use crate::place::{Place, name};

/// Sets a flag when it goes.
struct WhenDropped<'a>(&'a AtomicBool);

impl Drop for WhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `victim` again and again on a tree in which `swapped` is a directory and a link to a
/// directory outside by turns, and asserts that what is there is as it was.
fn under_attack(rounds: usize, victim: fn(&Place)) {
    let place = Place::new();
    fs::create_dir(place.path("sentinel")).unwrap();
    for file in 0..10 {
        place.write(&format!("sentinel/{file}"), "stays");
        place.mode(&format!("sentinel/{file}"), 0o640);
    }
    let before = fs::metadata(place.path("sentinel")).unwrap();
    let over = AtomicBool::new(false);
    let swaps = AtomicU64::new(0);
    std::thread::scope(|scope| {
        // Also if an assertion fails; the scope would wait for ever.
        let _over = WhenDropped(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let (from, to) = (place.path("x/a/swapped"), place.path("x/a/other"));
                let cwd = rustix::fs::CWD;
                if rustix::fs::renameat_with(cwd, from, cwd, to, RenameFlags::EXCHANGE).is_ok() {
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for _ in 0..rounds {
            fs::create_dir_all(place.path("x/a/swapped/deep")).unwrap();
            for file in 0..10 {
                place.write(&format!("x/a/swapped/{file}"), "goes");
            }
            let link = place.path("x/a/other");
            std::os::unix::fs::symlink(place.path("sentinel"), link).unwrap();
            victim(&place);
            // A removal that was led astray is an error; what it left goes in the next.
            while remove_tree(place.dir(), &name("x")).is_err() {}
            assert_eq!(place.names(), ["sentinel"]);
        }
    });
    let after = fs::metadata(place.path("sentinel")).unwrap();
    assert_eq!(after.modified().unwrap(), before.modified().unwrap());
    for file in 0..10 {
        let path = place.path(&format!("sentinel/{file}"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "stays");
        assert_eq!(crate::place::state(&path).0, 0o640);
    }
    // Otherwise nothing was attacked.
    assert!(rounds as u64 / 4 < swaps.load(Ordering::Relaxed), "{swaps:?} swaps");
}

#[test]
fn removing_stays_inside() {
    under_attack(1000, |_| ());
}

#[test]
fn putting_in_order_stays_inside() {
    under_attack(500, |place| {
        // It may be refused or not; that depends on what it sees.
        let tree = Tree { dir: place.dir(), name: &name("x") };
        canonicalise(&[tree], &Owners::Anybody, &[]).ok();
    });
}

#[test]
fn packing_stays_inside() {
    under_attack(500, |place| {
        let mut packer = Packer::new(place.dir(), &name("x")).unwrap();
        while let Ok(Some(block)) = packer.next_block() {
            assert!(!block.windows(5).any(|bytes| bytes == b"stays"));
        }
    });
}
