//! What the parser reports: one call per piece of the tree, in archive order.

/// Whether a regular file may be executed: the only permission a NAR keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Executable {
    /// The file is data (mode 0444 in a store).
    No,
    /// The file is a program (mode 0555 in a store).
    Yes,
}

/// Receives the tree of an archive while it is parsed.
///
/// Every method does nothing unless overridden, so a visitor names only what
/// it is interested in; `()` is the visitor that wants nothing, for finding
/// the end of an archive and checking it.
///
/// The calls follow the grammar `node = directory (entry node entry_end)*
/// directory_end | regular contents* regular_end | symlink`, and the whole
/// archive is one node. A node that has been reported may still be followed by
/// an error: nothing is final before the parser says [`Progress::Done`].
///
/// A visitor whose own work can fail keeps its first error and ignores later
/// calls; its owner looks after every [`Parser::feed`].
///
/// [`Progress::Done`]: crate::Progress::Done
/// [`Parser::feed`]: crate::Parser::feed
pub trait Visitor {
    /// A directory begins.
    fn directory(&mut self) {}

    /// An entry of the innermost open directory begins; its node follows.
    ///
    /// The name has passed [`check_name`](crate::check_name) and is greater
    /// than the one before it in this directory. It need not be UTF-8.
    fn entry(&mut self, name: &[u8]) {
        let _ = name;
    }

    /// The entry begun last and not yet ended is complete.
    fn entry_end(&mut self) {}

    /// The innermost open directory is complete.
    fn directory_end(&mut self) {}

    /// A regular file of `size` bytes begins.
    ///
    /// `size` fits the declared size of the archive but is otherwise the
    /// peer's word: allocate for what arrives in `contents`, not for this.
    fn regular(&mut self, executable: Executable, size: u64) {
        let _ = (executable, size);
    }

    /// The next bytes of the open file: a sub-slice of the input, never empty.
    ///
    /// How contents are cut into chunks depends on how the parser was fed.
    fn contents(&mut self, chunk: &[u8]) {
        let _ = chunk;
    }

    /// The open file is complete: `contents` has delivered exactly `size` bytes.
    fn regular_end(&mut self) {}

    /// A symbolic link. The target has passed [`check_target`](crate::check_target).
    fn symlink(&mut self, target: &[u8]) {
        let _ = target;
    }
}

/// Wants nothing: for finding the end of an archive, and checking it on the way.
impl Visitor for () {}

impl<V: Visitor + ?Sized> Visitor for &mut V {
    fn directory(&mut self) {
        (**self).directory();
    }

    fn entry(&mut self, name: &[u8]) {
        (**self).entry(name);
    }

    fn entry_end(&mut self) {
        (**self).entry_end();
    }

    fn directory_end(&mut self) {
        (**self).directory_end();
    }

    fn regular(&mut self, executable: Executable, size: u64) {
        (**self).regular(executable, size);
    }

    fn contents(&mut self, chunk: &[u8]) {
        (**self).contents(chunk);
    }

    fn regular_end(&mut self) {
        (**self).regular_end();
    }

    fn symlink(&mut self, target: &[u8]) {
        (**self).symlink(target);
    }
}
