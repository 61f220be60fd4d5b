//! Makes the tree that a parser reports.
//!
//! What is made is new (`O_EXCL`, `mkdirat`), in directories that this has made and holds open, and
//! gets its final mode and time through the descriptor that it was made with: nothing is looked up
//! twice, so nothing can be put in its place.

use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use drover_nar::{Executable, Visitor};
use rustix::fs::Advice;

use crate::attributes;
use crate::crew::Crew;
use crate::folder::{Failure, Folder};
use crate::form::{Form, Modes, Step, Style};
use crate::handle;
use crate::{FileName, FilesError, TreePath};

/// Contents that come in smaller pieces are gathered until they are this many bytes.
const GATHERED: usize = 256 << 10;

/// Pieces of contents at least this large are written as they come.
const LARGE: usize = 64 << 10;

/// Files up to this size may be made by a crew.
const SMALL: u64 = 64 << 10;

/// Bytes of a large file that are sent to the disk together.
const SENT: u64 = 4 << 20;

/// Small files after which a crew is worth its threads.
const MANY: u32 = 128;

/// A visitor that makes what it is told of, beneath a directory.
#[derive(Debug)]
pub(crate) struct TreeWriter {
    target: OwnedFd,
    name: FileName,
    /// The directories that are open, from the root on.
    open: Vec<Arc<Folder>>,
    /// The name of the node that is due in the innermost directory.
    due: Vec<u8>,
    file: File,
    gathered: Vec<u8>,
    style: Style,
    small: Small,
    failure: Arc<Failure>,
}

/// The file that contents belong to.
#[derive(Debug)]
enum File {
    None,
    /// Told of, but not made: most come in one piece and are made and written at once.
    Announced {
        executable: Executable,
        size: u64,
    },
    Open {
        executable: Executable,
        file: OwnedFd,
        progress: Progress,
    },
    /// One that the crew makes.
    Handed {
        executable: Executable,
        size: usize,
    },
}

/// How much of a file is written, and how much of that is on its way to the disk.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    written: u64,
    sent: u64,
}

/// Who makes small files.
#[derive(Debug)]
enum Small {
    /// This thread; there have been so many of them.
    Few(u32),
    Crew(Crew),
    /// This thread, since no other was to be had.
    Alone,
}

impl TreeWriter {
    pub(crate) fn new(
        target: BorrowedFd<'_>,
        name: &FileName,
        form: Form,
    ) -> Result<TreeWriter, FilesError> {
        Ok(TreeWriter {
            target: handle::keep(target, name)?,
            name: name.clone(),
            open: Vec::new(),
            due: Vec::new(),
            file: File::None,
            gathered: Vec::new(),
            style: Style { form, modes: Modes::Unknown },
            small: Small::Few(0),
            failure: Arc::default(),
        })
    }

    /// Returns the first error there was; from it on, nothing has been made.
    pub(crate) fn check(&mut self) -> Result<(), FilesError> {
        self.failure.check()
    }

    /// Waits until all is made.
    pub(crate) fn finish(self) -> Result<(), FilesError> {
        let TreeWriter { small, open, failure, .. } = self;
        drop(open);
        if let Small::Crew(crew) = small {
            crew.finish();
        }
        failure.check()
    }

    fn attempt(&mut self, step: impl FnOnce(&mut TreeWriter) -> Result<(), FilesError>) {
        if !self.failure.happened()
            && let Err(error) = step(self)
        {
            self.failure.record(error);
        }
    }

    /// Returns the directory of the node that is due.
    fn parent(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.target.as_fd(), |folder| folder.dir())
    }

    /// Returns the name of the node that is due.
    fn due(&self) -> Result<FileName, FilesError> {
        match self.open.is_empty() {
            true => Ok(self.name.clone()),
            false => FileName::new(&self.due),
        }
    }

    /// Returns where the node that is due is.
    fn path(&self) -> TreePath {
        match self.open.last() {
            Some(folder) => folder.path(Some(&self.due)),
            None => TreePath::of([self.name.as_bytes()]),
        }
    }

    fn at<T>(&self, step: Step<T>) -> Result<T, FilesError> {
        step.map_err(|(action, errno)| FilesError::make(action, self.path(), errno))
    }

    fn begin_directory(&mut self) -> Result<(), FilesError> {
        let name = self.due()?;
        let made = rustix::fs::mkdirat(self.parent(), name.as_c_str(), self.style.directory_mode());
        self.at(made.map_err(|errno| ("make directory", errno)))?;
        let opened = handle::open_dir(self.parent(), name.as_c_str());
        let dir = self.at(opened.map_err(|errno| ("open directory", errno)))?;
        if self.open.is_empty() {
            let style = self.style.with_root(dir.as_fd());
            self.style = self.at(style.map_err(|errno| ("look at directory", errno)))?;
        }
        let around = self.open.last().cloned();
        let folder = Folder::new(dir, name, around, self.style, self.failure.clone());
        self.open.push(Arc::new(folder));
        Ok(())
    }

    fn begin_file(&mut self, executable: Executable, size: u64) {
        self.file = match (&self.small, usize::try_from(size)) {
            (Small::Crew(_), Ok(handed)) if size <= SMALL => {
                File::Handed { executable, size: handed }
            }
            _ => File::Announced { executable, size },
        };
    }

    fn create(&self, executable: Executable) -> Result<OwnedFd, FilesError> {
        let name = self.due()?;
        self.at(self.style.create(self.parent(), name.as_c_str(), executable))
    }

    fn add(&mut self, chunk: &[u8]) -> Result<(), FilesError> {
        match (&self.file, &mut self.small) {
            (File::Handed { .. }, Small::Crew(crew)) => {
                crew.contents(chunk);
                return Ok(());
            }
            (File::Announced { executable, size }, _) => {
                let (executable, size) = (*executable, *size);
                let file = self.create(executable)?;
                self.file = File::Open { executable, file, progress: Progress::default() };
                if chunk.len() as u64 == size {
                    return self.write(chunk);
                }
            }
            _ => {}
        }
        if self.gathered.is_empty() && LARGE <= chunk.len() {
            return self.write(chunk);
        }
        self.gathered.extend_from_slice(chunk);
        if GATHERED <= self.gathered.len() {
            let mut gathered = std::mem::take(&mut self.gathered);
            self.write(&gathered)?;
            gathered.clear();
            self.gathered = gathered;
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), FilesError> {
        let (executable, file) = match std::mem::replace(&mut self.file, File::None) {
            File::None => return Ok(()),
            File::Handed { executable, size } => return self.hand_over(executable, size),
            File::Announced { executable, .. } => (executable, self.create(executable)?),
            File::Open { executable, file, .. } => (executable, file),
        };
        if !self.gathered.is_empty() {
            let written = handle::write_all(file.as_fd(), &self.gathered);
            self.at(written.map_err(|errno| ("write", errno)))?;
            self.gathered.clear();
        }
        if self.open.is_empty() && self.style.form == Form::Store {
            let stripped = attributes::strip_inherited(file.as_fd());
            self.at(stripped.map_err(|errno| ("finish", errno)))?;
        }
        self.at(self.style.finish_file(file.as_fd(), executable))?;
        self.count();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FilesError> {
        let form = self.style.form;
        let File::Open { file, progress, .. } = &mut self.file else { return Ok(()) };
        let written = handle::write_all(file.as_fd(), bytes);
        if written.is_ok() && form == Form::Store {
            progress.advance(file.as_fd(), bytes.len() as u64);
        }
        self.at(written.map_err(|errno| ("write", errno)))
    }

    fn hand_over(&mut self, executable: Executable, size: usize) -> Result<(), FilesError> {
        let name = self.due()?;
        if let (Some(folder), Small::Crew(crew)) = (self.open.last(), &mut self.small) {
            crew.add(folder.clone(), name, executable, size);
        }
        Ok(())
    }

    /// Counts a file that was made here.
    fn count(&mut self) {
        let Small::Few(made) = &mut self.small else { return };
        *made += 1;
        if MANY <= *made && !self.open.is_empty() {
            self.small = match Crew::start(self.style, &self.failure) {
                Some(crew) => Small::Crew(crew),
                None => Small::Alone,
            };
        }
    }

    fn make_symlink(&self, target: &[u8]) -> Result<(), FilesError> {
        let name = self.due()?;
        let made = rustix::fs::symlinkat(target, self.parent(), name.as_c_str());
        self.at(made.map_err(|errno| ("make symbolic link", errno)))?;
        if self.style.form == Form::Personal {
            return Ok(());
        }
        let timed = handle::set_link_time(self.parent(), name.as_c_str());
        self.at(timed.map_err(|errno| ("finish", errno)))
    }
}

impl Progress {
    /// Has what was written go to the disk while the rest is still to come: a store syncs its paths
    /// before they count, and waits for less then. To say that pages aren't needed begins to write
    /// them (`generic_fadvise` of Linux); those that are being written stay in memory.
    fn advance(&mut self, file: BorrowedFd<'_>, bytes: u64) {
        self.written += bytes;
        let Some(len) = NonZeroU64::new(self.written - self.sent).filter(|len| SENT <= len.get())
        else {
            return;
        };
        // It is advice: where it isn't taken the sync takes longer.
        rustix::fs::fadvise(file, self.sent, Some(len), Advice::DontNeed).ok();
        self.sent = self.written;
    }
}

impl Visitor for TreeWriter {
    fn directory(&mut self) {
        self.attempt(TreeWriter::begin_directory);
    }

    fn entry(&mut self, name: &[u8]) {
        self.due.clear();
        self.due.extend_from_slice(name);
    }

    fn directory_end(&mut self) {
        self.attempt(|tree| {
            if let Some(folder) = tree.open.pop() {
                folder.complete();
            }
            Ok(())
        });
    }

    fn regular(&mut self, executable: Executable, size: u64) {
        self.begin_file(executable, size);
    }

    fn contents(&mut self, chunk: &[u8]) {
        self.attempt(|tree| tree.add(chunk));
    }

    fn regular_end(&mut self) {
        self.attempt(TreeWriter::end_file);
    }

    fn symlink(&mut self, target: &[u8]) {
        self.attempt(|tree| tree.make_symlink(target));
    }
}
