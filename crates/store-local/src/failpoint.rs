//! Places at which tests kill the program, or do something in between.

/// A place where something may happen in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Point {
    /// A temporary root is held, nothing made.
    AfterRoot,
    /// Unpacked in canonical form, with its hash known.
    AfterUnpack,
    /// Checked against what was announced.
    AfterCheck,
    /// All of a batch is unpacked and checked, nothing locked.
    BeforeLock,
    /// Locked, nothing renamed.
    AfterLock,
    /// In its place, not on the disk yet.
    AfterRename,
    /// On the disk, not registered.
    BeforeTransaction,
    /// Valid, still locked.
    AfterCommit,
    /// What a build has made is valid, its workshop is empty, and its outputs are still locked.
    AfterClearing,
    /// The collector has read the roots of one kind, sessions or links, and not those of the other.
    CollectorHalfway,
    /// The collector has made paths invalid, and their files are in their place.
    CollectorInvalidated,
    /// The collector has moved paths away, and deleted nothing of them.
    CollectorMoved,
    /// The collector has deleted a batch.
    CollectorDeleted,
    /// A check of the store has read one of the two, the database and the folder, and not the other.
    VerifyHalfway,
}

/// Does nothing, except in this crate's own tests.
#[cfg(not(test))]
pub(crate) fn reach(_: Point) {}

/// Ends the process without any cleaning up where the environment names this place, or runs what a
/// test of this thread wants done there.
#[cfg(test)]
pub(crate) fn reach(point: Point) {
    if std::env::var("STORE_LOCAL_FAILPOINT").is_ok_and(|name| name == format!("{point:?}")) {
        std::process::abort();
    }
    let hook = HOOKS.with_borrow_mut(|hooks| hooks.remove(&point));
    if let Some(hook) = hook {
        hook();
    }
}

#[cfg(test)]
type Hooks = std::collections::HashMap<Point, Box<dyn FnOnce()>>;

#[cfg(test)]
thread_local! {
    static HOOKS: std::cell::RefCell<Hooks> = std::cell::RefCell::default();
}

/// Has something done on this thread when it gets to a place for the first time.
#[cfg(test)]
pub(crate) fn at(point: Point, hook: impl FnOnce() + 'static) {
    HOOKS.with_borrow_mut(|hooks| hooks.insert(point, Box::new(hook)));
}
