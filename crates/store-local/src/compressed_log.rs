//! A log that is compressed while it's written, with no more memory than its length asks for.
//!
//! A compressor that takes the largest blocks fills eight megabytes before the first byte, which costs
//! more processor time than a short build takes; and most logs are short, or empty.

use std::fs::File;
use std::io::{self, Write};

use bzip2::Compression;
use bzip2::write::BzEncoder;

use crate::parallel_bzip2::ParallelBzip2;

/// Bytes up to which a log fits into one of the smallest blocks, also where the runs in it are the
/// worst ones; so it's compressed as well as in a large one.
const SHORT: usize = 64 * 1024;

/// What is made of no bytes at all.
const NOTHING: [u8; 14] = *b"BZh9\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00";

/// A file that is written to with `bzip2`.
pub(crate) enum CompressedLog {
    /// All that was written so far, as that was little.
    Short(File, Vec<u8>),
    /// The rest goes there.
    Long(ParallelBzip2),
}

impl CompressedLog {
    pub(crate) fn new(file: File) -> CompressedLog {
        CompressedLog::Short(file, Vec::new())
    }

    /// Writes all that there is, and what ends it.
    pub(crate) fn finish(self) -> io::Result<()> {
        match self {
            CompressedLog::Short(mut file, bytes) if bytes.is_empty() => file.write_all(&NOTHING),
            CompressedLog::Short(file, bytes) => {
                let mut encoder = BzEncoder::new(file, Compression::fast());
                encoder.write_all(&bytes)?;
                encoder.finish().map(drop)
            }
            CompressedLog::Long(encoder) => encoder.finish(),
        }
    }
}

impl Write for CompressedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            CompressedLog::Short(_, held) if held.len() + bytes.len() <= SHORT => {
                held.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            CompressedLog::Short(file, held) => {
                let mut encoder = ParallelBzip2::new(file.try_clone()?);
                encoder.write_all(held)?;
                let written = encoder.write(bytes);
                *self = CompressedLog::Long(encoder);
                written
            }
            CompressedLog::Long(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use bzip2::read::MultiBzDecoder;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::nothing(0)]
    #[case::short(1)]
    #[case::just_short(SHORT)]
    #[case::long(SHORT + 1)]
    #[case::several_blocks(2_000_000)]
    fn comes_back_as_it_was(#[case] size: usize) {
        let text = (0..=250).cycle().zip(1..).step_by(7);
        let text: Vec<u8> =
            text.map(|(byte, at): (u8, usize)| byte ^ at.to_le_bytes()[1]).take(size).collect();
        for piece in [1000, SHORT, SHORT + 1] {
            let home = tempfile::tempdir().unwrap();
            let path = home.path().join("log");
            let mut log = CompressedLog::new(File::create(&path).unwrap());
            text.chunks(piece).for_each(|piece| log.write_all(piece).unwrap());
            log.finish().unwrap();
            let mut back = Vec::new();
            MultiBzDecoder::new(File::open(&path).unwrap()).read_to_end(&mut back).unwrap();
            assert!(back == text, "{size} by {piece}");
        }
    }

    #[test]
    fn nothing_is_what_the_compressor_makes_of_it() {
        let made = BzEncoder::new(Vec::new(), Compression::best()).finish().unwrap();
        assert_eq!(made, NOTHING);
    }

    #[test]
    fn what_is_short_is_one_block_at_the_worst() {
        // four of a kind are written as five bytes
        let text = b"aaaabbbb".repeat(SHORT / 8);
        let mut small = BzEncoder::new(Vec::new(), Compression::fast());
        small.write_all(&text).unwrap();
        let mut large = BzEncoder::new(Vec::new(), Compression::best());
        large.write_all(&text).unwrap();
        let [small, large] = [small, large].map(|encoder| encoder.finish().unwrap());
        assert_eq!(small.get(4..), large.get(4..));
    }
}
