//! Archives that are just one regular file, such as those of `.drv` files.

use crate::error::NarError;
use crate::parser::parse;
use crate::rules::Limits;
use crate::token::{self, MAGIC, word};
use crate::visitor::{Executable, Visitor};

/// Returns the archive of one regular file.
pub fn single_file_nar(contents: &[u8], executable: Executable) -> Vec<u8> {
    let mut nar = Vec::with_capacity(contents.len().saturating_add(160));
    nar.extend_from_slice(MAGIC);
    token::append(&mut nar, word::OPEN);
    token::append(&mut nar, word::TYPE);
    token::append(&mut nar, word::REGULAR);
    if executable == Executable::Yes {
        token::append(&mut nar, word::EXECUTABLE);
        token::append(&mut nar, b"");
    }
    token::append(&mut nar, word::CONTENTS);
    token::append(&mut nar, contents);
    token::append(&mut nar, word::CLOSE);
    nar
}

/// Returns the contents of an archive that is one regular file, executable or
/// not.
///
/// # Errors
///
/// Returns [`NarError::NotRegularFile`] if `nar` is something else, or the
/// first rule that it breaks.
pub fn regular_file_of(nar: &[u8]) -> Result<&[u8], NarError> {
    let mut root = Root::None;
    parse(nar, Limits::of_size(nar.len() as u64), &mut root)?;
    let size = match root {
        Root::Regular { size } => size,
        Root::Directory => return Err(NarError::NotRegularFile { found: "directory" }),
        Root::Symlink | Root::None => return Err(NarError::NotRegularFile { found: "symlink" }),
    };
    // The archive is sound, so it ends with contents, padding and `)`.
    let after = token::encoded_len(word::CLOSE.len()) + usize::from(token::padding_len(size));
    let end = nar.len().saturating_sub(after);
    let start = usize::try_from(size).map_or(0, |size| end.saturating_sub(size));
    Ok(nar.get(start..end).unwrap_or_default())
}

/// What the root of an archive is.
enum Root {
    None,
    Regular { size: u64 },
    Directory,
    Symlink,
}

impl Visitor for Root {
    fn directory(&mut self) {
        *self = Root::Directory;
    }

    fn regular(&mut self, _: Executable, size: u64) {
        if let Root::None = self {
            *self = Root::Regular { size };
        }
    }

    fn symlink(&mut self, _: &[u8]) {
        if let Root::None = self {
            *self = Root::Symlink;
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    fn contents_come_back(
        #[values(0, 1, 7, 8, 9, 4096)] len: usize,
        #[values(Executable::No, Executable::Yes)] executable: Executable,
    ) {
        let contents = vec![b'x'; len];
        let nar = single_file_nar(&contents, executable);
        assert_eq!(regular_file_of(&nar), Ok(contents.as_slice()));
    }

    #[test]
    fn other_archives_are_refused() {
        let mut link = Vec::from(MAGIC);
        for text in [b"(".as_slice(), b"type", b"symlink", b"target", b"x", b")"] {
            token::append(&mut link, text);
        }
        assert_eq!(regular_file_of(&link), Err(NarError::NotRegularFile { found: "symlink" }));
        link.push(0);
        assert_eq!(regular_file_of(&link), Err(NarError::Trailing { count: 1 }));
    }
}
