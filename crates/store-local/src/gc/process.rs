//! What running processes use: their programs, folders, open files, libraries and environments.
//!
//! Follows `findRuntimeRootsUnchecked` in Nix's `src/libstore/local-gc.cc`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use drover_core::{StoreDir, StorePath};
use rustix::io::Errno;

use super::error::GcError;
use super::scan::{Scanner, path_in};

/// Programs that the kernel runs by itself.
const KERNEL: [&str; 3] =
    ["/proc/sys/kernel/modprobe", "/proc/sys/kernel/fbsplash", "/proc/sys/kernel/poweroff_cmd"];

/// Returns what looks like a path in use, and where it was found. Much of it may not be valid.
pub(super) fn in_use(store_dir: &StoreDir) -> Result<Vec<(String, StorePath)>, GcError> {
    let mut search = Search { store_dir, scanner: Scanner::new(store_dir), found: Vec::new() };
    let proc = Path::new("/proc");
    match fs::read_dir(proc) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry.map_err(|error| GcError::io("read", proc, error))?;
                if entry.file_name().as_bytes().iter().all(u8::is_ascii_digit) {
                    search.process(&entry.path())?;
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(GcError::io("read", proc, error)),
    }
    for file in KERNEL {
        search.text(Path::new(file))?;
    }
    search.found.sort_unstable();
    search.found.dedup();
    Ok(search.found)
}

struct Search<'a> {
    store_dir: &'a StoreDir,
    scanner: Scanner,
    found: Vec<(String, StorePath)>,
}

impl Search<'_> {
    fn process(&mut self, folder: &Path) -> Result<(), GcError> {
        self.link(&folder.join("exe"))?;
        self.link(&folder.join("cwd"))?;
        let files = folder.join("fd");
        let Some(entries) = unless_gone(&files, fs::read_dir(&files))? else { return Ok(()) };
        for entry in entries {
            let Some(entry) = unless_gone(&files, entry)? else { break };
            self.link(&entry.path())?;
        }
        self.text(&folder.join("maps"))?;
        self.text(&folder.join("environ"))
    }

    fn link(&mut self, link: &Path) -> Result<(), GcError> {
        if let Some(target) = unless_gone(link, fs::read_link(link))? {
            let path = path_in(self.store_dir, target.as_os_str().as_bytes());
            self.found.extend(path.map(|path| (link.display().to_string(), path)));
        }
        Ok(())
    }

    /// Looks through a file of any length.
    fn text(&mut self, file: &Path) -> Result<(), GcError> {
        let Some(mut open) = unless_gone(file, File::open(file))? else { return Ok(()) };
        let Search { scanner, found, .. } = self;
        let mut take = |path| found.push((file.display().to_string(), path));
        let mut bytes = [0; 16 * 1024];
        loop {
            match unless_gone(file, open.read(&mut bytes))? {
                None | Some(0) => break,
                Some(got) => scanner.feed(bytes.get(..got).unwrap_or_default(), &mut take),
            }
        }
        scanner.finish(&mut take);
        Ok(())
    }
}

/// Passes over processes that have ended or that nobody but their owner may look at, and links that
/// are too long to be read, as any user can make them.
fn unless_gone<T>(path: &Path, result: io::Result<T>) -> Result<Option<T>, GcError> {
    let error = match result {
        Ok(value) => return Ok(Some(value)),
        Err(error) => error,
    };
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(
            Errno::NOENT
            | Errno::ACCESS
            | Errno::PERM
            | Errno::SRCH
            | Errno::NOTDIR
            | Errno::NAMETOOLONG,
        ) => Ok(None),
        _ => Err(GcError::io("look at", path, error)),
    }
}
