//! Compressing, as a stream.

use std::io::{self, Write};

use bzip2::write::BzEncoder;
use drover_core::Compression;
use flate2::write::GzEncoder;
use lzma_rust2::{XzOptions, XzWriter};

/// Something that compresses what is written to it.
pub(crate) enum Encoder<W: Write> {
    Plain(W),
    Xz(Box<XzWriter<W>>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
    Bzip2(BzEncoder<W>),
    Gzip(GzEncoder<W>),
}

/// Returns the level that counts where none is set: zstd's own, and what the programs have.
fn usual_level(compression: Compression) -> i32 {
    match compression {
        Compression::None | Compression::Brotli => 0,
        Compression::Zstd => zstd::DEFAULT_COMPRESSION_LEVEL,
        Compression::Xz | Compression::Gzip => 6,
        Compression::Bzip2 => 9,
    }
}

impl<W: Write> Encoder<W> {
    /// Makes the encoder of `size` bytes.
    ///
    /// # Errors
    ///
    /// A compression that isn't written, or what the library says.
    pub(crate) fn new(
        to: W,
        compression: Compression,
        level: Option<i32>,
        size: u64,
    ) -> io::Result<Encoder<W>> {
        let level = level.unwrap_or_else(|| usual_level(compression));
        let unsigned = u32::try_from(level).unwrap_or_default();
        Ok(match compression {
            Compression::None => Encoder::Plain(to),
            Compression::Xz => {
                let options = XzOptions::with_preset(unsigned);
                Encoder::Xz(Box::new(XzWriter::new(to, options)?))
            }
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(to, level)?;
                // A window no larger than needed, and the size told to whoever decompresses.
                encoder.set_pledged_src_size(Some(size))?;
                encoder.include_checksum(true)?;
                Encoder::Zstd(encoder)
            }
            Compression::Bzip2 => {
                Encoder::Bzip2(BzEncoder::new(to, bzip2::Compression::new(unsigned)))
            }
            Compression::Gzip => {
                Encoder::Gzip(GzEncoder::new(to, flate2::Compression::new(unsigned)))
            }
            Compression::Brotli => return Err(io::Error::other("br is not written")),
        })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Encoder::Plain(to) => to.write_all(bytes),
            Encoder::Xz(to) => to.write_all(bytes),
            Encoder::Zstd(to) => to.write_all(bytes),
            Encoder::Bzip2(to) => to.write_all(bytes),
            Encoder::Gzip(to) => to.write_all(bytes),
        }
    }

    /// Writes the end, and gives back what was written to.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Encoder::Plain(to) => Ok(to),
            Encoder::Xz(to) => to.finish(),
            Encoder::Zstd(to) => to.finish(),
            Encoder::Bzip2(to) => to.finish(),
            Encoder::Gzip(to) => to.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use rstest::rstest;

    use super::*;
    use crate::decode::decoder;

    #[rstest]
    fn is_read_again(
        #[values(
            Compression::None,
            Compression::Xz,
            Compression::Zstd,
            Compression::Bzip2,
            Compression::Gzip
        )]
        compression: Compression,
        #[values(0, 1, 300_000)] size: usize,
    ) {
        let plain: Vec<u8> = (0..=250u8).flat_map(|byte| [byte; 7]).cycle().take(size).collect();
        let mut encoder =
            Encoder::new(Vec::new(), compression, None, size as u64).expect("an encoder");
        for part in plain.chunks(1000) {
            encoder.write(part).expect("it is taken");
        }
        let compressed = encoder.finish().expect("an end");
        let mut again = Vec::new();
        let mut decoder = decoder(io::Cursor::new(compressed), compression).expect("a decoder");
        decoder.read_to_end(&mut again).expect("it is good");
        assert_eq!(again, plain);
    }
}
