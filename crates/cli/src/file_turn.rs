//! Files that several may be about to change: one after the other does, and each whole or not at all.
//!
//! Whoever changes a file holds a lock on its folder, from reading what is there until what takes its place
//! is on the disk. The folder, as the file itself is another one then.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use drover_core::{raw_bytes, raw_text};
use fs_err::File;
use rustix::fs::{Access, FlockOperation, access, flock};
use rustix::io::Errno;

/// How long others may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How often they are looked for.
const PAUSE: Duration = Duration::from_millis(20);

/// A turn at a file, until this is dropped.
#[derive(Debug)]
pub(crate) struct FileTurn {
    /// The file as it was named.
    file: PathBuf,
    /// What a link leads to.
    target: PathBuf,
    folder: File,
}

impl FileTurn {
    /// Waits until nobody else has a turn at the file, half a minute at most. Its folder is made where it is
    /// missing.
    ///
    /// # Errors
    ///
    /// Somebody else has it for too long, or there can be no such file.
    pub(crate) fn take(file: &Path) -> anyhow::Result<FileTurn> {
        let what = || format!("cannot write '{}'", file.display());
        let target = match fs_err::symlink_metadata(file) {
            Ok(_) => fs_err::canonicalize(file).with_context(what)?,
            Err(_) => file.to_owned(),
        };
        let folder = target.parent().with_context(what)?;
        fs_err::create_dir_all(folder)?;
        let folder = File::open(folder).with_context(what)?;
        let deadline = Instant::now() + LIMIT;
        loop {
            match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(FileTurn { file: file.to_owned(), target, folder }),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                    std::thread::sleep(PAUSE);
                }
                Err(Errno::WOULDBLOCK) => bail!(
                    "'{}' has been about to be changed by another program for {} s (it holds a lock on \
                     the folder); nothing was written",
                    file.display(),
                    LIMIT.as_secs()
                ),
                Err(error) => return Err(error).with_context(what),
            }
        }
    }

    /// Takes a turn at a second file beside that at a first, which may be in the same folder.
    ///
    /// # Errors
    ///
    /// Those of [`FileTurn::take`].
    pub(crate) fn take_beside(first: &FileTurn, file: &Path) -> anyhow::Result<FileTurn> {
        match first.target.parent() == file.parent() && !file.is_symlink() {
            true => Ok(FileTurn {
                file: file.to_owned(),
                target: file.to_owned(),
                folder: first.folder.try_clone()?,
            }),
            false => FileTurn::take(file),
        }
    }

    /// Returns what is in the file, as [`text_of`] does; nothing where it is not there.
    ///
    /// # Errors
    ///
    /// It can't be read.
    pub(crate) fn read(&self) -> anyhow::Result<String> {
        text_of(&self.target)
    }

    /// Puts a file with this text in its place. It has the mode of the one before; what a link leads to is
    /// replaced, not the link. When this returns it is on the disk.
    ///
    /// # Errors
    ///
    /// It can't be written; what was there is there.
    pub(crate) fn replace(&self, text: &str) -> anyhow::Result<()> {
        self.put(text, self.mode().unwrap_or(0o644))
    }

    /// As [`FileTurn::replace`]; where there was no file before, it has the mode of the one that the text is from.
    ///
    /// # Errors
    ///
    /// It can't be written; what was there is there.
    pub(crate) fn replace_from(&self, from: &FileTurn, text: &str) -> anyhow::Result<()> {
        self.put(text, self.mode().or(from.mode()).unwrap_or(0o644))
    }

    fn mode(&self) -> Option<u32> {
        let found = fs_err::metadata(&self.target).ok()?;
        Some(found.permissions().mode() & 0o777)
    }

    fn put(&self, text: &str, mode: u32) -> anyhow::Result<()> {
        let what = || format!("cannot write '{}'", self.file.display());
        let folder = self.target.parent().with_context(what)?;
        let mut draft = tempfile::Builder::new()
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(folder)
            .with_context(what)?;
        draft
            .write_all(&raw_bytes(text))
            .and_then(|()| draft.as_file().sync_all())
            .with_context(what)?;
        draft.persist(&self.target).with_context(what)?;
        self.folder.sync_all().with_context(what)
    }
}

/// Looks whether a file can be replaced, before anything is done that takes a while; `otherwise` says what
/// else there is than to be root.
///
/// # Errors
///
/// Its folder can't be written by this user.
pub(crate) fn check_writable(file: &Path, otherwise: &str) -> anyhow::Result<()> {
    let target = fs_err::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let folder = target.ancestors().skip(1).find(|folder| folder.exists());
    match folder.map(|folder| access(folder, Access::WRITE_OK | Access::EXEC_OK)) {
        None | Some(Ok(())) => Ok(()),
        Some(Err(Errno::ROFS)) => bail!(
            "'{}' is on a read-only file system, which root can't write either: change what makes the file, as on \
             NixOS nix.buildMachines{otherwise}",
            file.display()
        ),
        Some(Err(error)) => bail!(
            "'{}' can't be written by this user ({}): do it as root (sudo){otherwise}",
            file.display(),
            std::io::Error::from(error)
        ),
    }
}

/// Returns what is in a file; nothing where it is not there. Bytes that aren't UTF-8, such as those of a comment in
/// another encoding, stand as characters that nobody uses, from which a [`FileTurn`] makes the same bytes again.
///
/// # Errors
///
/// It can't be read.
pub(crate) fn text_of(file: &Path) -> anyhow::Result<String> {
    match file.exists() {
        true => Ok(raw_text(&fs_err::read(file)?)),
        false => Ok(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("machines");
        let strange = "\u{10fe41}\u{10fe00}".as_bytes();
        let bytes = [b"# f\xfcr dich \xe2\x82\nssh://b1 \xc3\xbc\n\xff", strange].concat();
        fs_err::write(&file, &bytes).unwrap();
        let turn = FileTurn::take(&file).unwrap();
        let text = turn.read().unwrap();
        assert!(text.lines().any(|line| line == "ssh://b1 ü"), "{text:?}");
        turn.replace(&text).unwrap();
        assert_eq!(fs_err::read(&file).unwrap(), bytes);
    }

    fn replace(file: &Path, text: &str) {
        FileTurn::take(file).unwrap().replace(text).unwrap();
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nix/machines");
        assert_eq!(FileTurn::take(&file).unwrap().read().unwrap(), "");
        replace(&file, "one\n");
        replace(&file, "two\n");
        assert_eq!(fs_err::read_to_string(&file).unwrap(), "two\n");
        let mode = || fs_err::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o644);
        // a file's mode stays, and so does a link to it
        fs_err::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let link = folder.path().join("link");
        fs_err::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, "three\n");
        assert!(link.is_symlink());
        assert_eq!((fs_err::read_to_string(&file).unwrap().as_str(), mode()), ("three\n", 0o600));
    }

    /// Addresses and paths of keys that others weren't to read aren't to be read elsewhere.
    #[test]
    fn what_moves_to_another_file_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let [machines, behind] = ["machines", "behind"].map(|name| folder.path().join(name));
        replace(&machines, "ssh://b1\n");
        fs_err::set_permissions(&machines, Permissions::from_mode(0o640)).unwrap();
        let turn = FileTurn::take(&machines).unwrap();
        let mode = || fs_err::metadata(&behind).unwrap().permissions().mode() & 0o777;
        let beside = || FileTurn::take_beside(&turn, &behind).unwrap();
        beside().replace_from(&turn, "ssh://b1\n").unwrap();
        assert_eq!(mode(), 0o640);
        // one that is there has its own
        fs_err::set_permissions(&behind, Permissions::from_mode(0o600)).unwrap();
        beside().replace_from(&turn, "ssh://b2\n").unwrap();
        assert_eq!(mode(), 0o600);
    }

    #[test]
    fn who_comes_second_sees_what_the_first_has_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("machines");
        let turn = FileTurn::take(&file).unwrap();
        let others: Vec<_> = (0..8)
            .map(|n| {
                let file = file.clone();
                std::thread::spawn(move || {
                    let turn = FileTurn::take(&file).unwrap();
                    let before = turn.read().unwrap();
                    turn.replace(&format!("{before}{n}\n")).unwrap();
                })
            })
            .collect();
        turn.replace("first\n").unwrap();
        drop(turn);
        others.into_iter().for_each(|other| other.join().unwrap());
        let text = fs_err::read_to_string(&file).unwrap();
        assert_eq!(text.lines().count(), 9, "{text}");
        assert!(text.starts_with("first\n"));
    }
}
