//! Compressed archives of tar, read within limits.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::path::Path;

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

/// Bytes that may come out of an archive: a hundred times nixpkgs.
pub(crate) const MAX_SIZE: u64 = 32 << 30;

/// Memory that unpacking may take, in KiB.
const XZ_MEMORY: u32 = 512 * 1024;

/// What an archive is compressed by shows in its first bytes.
const GZIP: &[u8] = &[0x1f, 0x8b];
const BZIP2: &[u8] = b"BZh";
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
/// What libarchive unpacks, and thus Nix, and drover doesn't.
const OTHERS: [(&[u8], &str); 4] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "it's compressed by zstd"),
    (&[0x04, 0x22, 0x4d, 0x18], "it's compressed by lz4"),
    (b"LZIP", "it's compressed by lzip"),
    (b"PK\x03\x04", "it's a zip file"),
];

/// Opens an archive, whatever it's compressed by.
pub(crate) fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    let mut file = File::open(path)?;
    let mut first = Vec::new();
    Read::by_ref(&mut file).take(6).read_to_end(&mut first)?;
    file.rewind()?;
    if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| first.starts_with(magic)) {
        let text = format!("{what}; drover reads tar, and that by gzip, bzip2 and xz");
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let file = BufReader::with_capacity(128 * 1024, file);
    Ok(Box::new(Bounded { left: MAX_SIZE, from: decompressed(&first, file) }))
}

fn decompressed(first: &[u8], file: BufReader<File>) -> Box<dyn Read> {
    if first.starts_with(GZIP) {
        Box::new(MultiGzDecoder::new(file))
    } else if first.starts_with(BZIP2) {
        Box::new(MultiBzDecoder::new(file))
    } else if first.starts_with(XZ) {
        Box::new(XzReader::new_mem_limit(file, true, XZ_MEMORY))
    } else {
        Box::new(file)
    }
}

/// Fails where more comes than there may be.
struct Bounded<R> {
    left: u64,
    from: R,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.from.read(into)?;
        match self.left.checked_sub(len as u64) {
            Some(left) => {
                self.left = left;
                Ok(len)
            }
            None => Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "there is more in it than an archive may have",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_may_be_is_refused() {
        let mut bounded = Bounded { left: 1000, from: io::repeat(7) };
        let error = io::copy(&mut bounded, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        let mut exact = Bounded { left: 1000, from: io::repeat(7).take(1000) };
        assert_eq!(io::copy(&mut exact, &mut io::sink()).unwrap(), 1000);
    }
}
