//! What a tree that is unpacked looks like: modes and times.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use drover_nar::Executable;
use rustix::fs::Mode;
use rustix::io::Errno;

use crate::attributes::{self, Found};
use crate::handle::{self, EXECUTABLE, PLAIN};

/// What a tree that is unpacked looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As everything in a store: files 0444 or 0555, directories 0555, last modified at 1 s, without
    /// lists of rights (Nix's `CanonicalisingRestoreHooks`,
    /// `src/libstore/posix-fs-canonicalise.cc`).
    Store,
    /// As somebody's files: writable, as the process's mask allows, and modified now. This is what
    /// `nix-store --restore` makes (`RestoreSink`, `src/libutil/fs-sink.cc`).
    Personal,
}

/// What becomes of the mode with which a file is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Modes {
    /// It is kept, as was seen of the root.
    Kept,
    /// The process's mask or an inherited list of rights may change it.
    Unknown,
}

/// How files and directories are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub(crate) form: Form,
    pub(crate) modes: Modes,
}

/// Which step failed, as a verb.
pub(crate) type Step<T> = Result<T, (&'static str, Errno)>;

impl Style {
    /// Makes an empty file.
    pub(crate) fn create(
        self,
        dir: BorrowedFd<'_>,
        name: &std::ffi::CStr,
        executable: Executable,
    ) -> Step<OwnedFd> {
        let mode = match self.form {
            Form::Store => store_mode(executable),
            Form::Personal => Mode::from_raw_mode(0o666),
        };
        handle::create_file(dir, name, mode).map_err(|errno| ("create", errno))
    }

    /// Gives a file that has all of its contents its mode and time.
    pub(crate) fn finish_file(self, file: BorrowedFd<'_>, executable: Executable) -> Step<()> {
        let finish = || match (self.form, executable) {
            (Form::Store, _) => {
                if self.modes == Modes::Unknown {
                    rustix::fs::fchmod(file, store_mode(executable))?;
                }
                handle::set_store_time(file)
            }
            (Form::Personal, Executable::No) => Ok(()),
            (Form::Personal, Executable::Yes) => {
                let mode = rustix::fs::fstat(file)?.st_mode | 0o111;
                rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
            }
        };
        finish().map_err(|errno| ("finish", errno))
    }

    /// Makes a whole file.
    pub(crate) fn make_file(
        self,
        dir: BorrowedFd<'_>,
        name: &std::ffi::CStr,
        executable: Executable,
        contents: &[u8],
    ) -> Step<()> {
        let file = self.create(dir, name, executable)?;
        handle::write_all(file.as_fd(), contents).map_err(|errno| ("write", errno))?;
        self.finish_file(file.as_fd(), executable)
    }

    /// Returns the mode with which directories are made, in which their owner may make files.
    pub(crate) fn directory_mode(self) -> Mode {
        match self.form {
            Form::Store => EXECUTABLE | Mode::WUSR,
            Form::Personal => Mode::from_raw_mode(0o777),
        }
    }

    /// Gives a directory that has all of its entries its mode and time.
    pub(crate) fn finish_directory(self, dir: BorrowedFd<'_>) -> Result<(), Errno> {
        match self.form {
            Form::Store => {
                rustix::fs::fchmod(dir, EXECUTABLE)?;
                handle::set_store_time(dir)
            }
            Form::Personal => Ok(()),
        }
    }

    /// Takes from a root that was just made what it inherited, so that nothing beneath inherits it.
    /// Looks at what became of its mode; what the process's mask does isn't seen where the root
    /// inherited a list of rights in its place.
    pub(crate) fn with_root(self, root: BorrowedFd<'_>) -> Result<Style, Errno> {
        if self.form == Form::Personal {
            return Ok(self);
        }
        let mode = Mode::from_raw_mode(rustix::fs::fstat(root)?.st_mode);
        let inherited = attributes::strip_inherited(root)?;
        let kept = mode.contains(EXECUTABLE) && inherited == Found::Nothing;
        Ok(Style { modes: if kept { Modes::Kept } else { Modes::Unknown }, ..self })
    }
}

fn store_mode(executable: Executable) -> Mode {
    match executable {
        Executable::Yes => EXECUTABLE,
        Executable::No => PLAIN,
    }
}
