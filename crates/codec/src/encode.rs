//! Compressing, as a stream.

use std::io::{self, Write};

use bzip2::write::BzEncoder;
use drover_core::Compression;
use flate2::write::GzEncoder;
use lzma_rust2::{XzOptions, XzWriter};

/// Something that compresses what is written to it.
pub struct Encoder<W: Write>(Inner<W>);

enum Inner<W: Write> {
    Plain(W),
    Xz(Box<XzWriter<W>>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
    Bzip2(BzEncoder<W>),
    Gzip(GzEncoder<W>),
    Brotli(Box<brotli::CompressorWriter<Noting<W>>>),
}

/// Bytes of a buffer where one is needed.
const BUFFER: usize = 64 * 1024;

/// The window of brotli, as a power of two: the largest that all decompressors take.
const BROTLI_WINDOW_LOG: u32 = 22;

/// Returns the level that counts where none is set: zstd's own, and what the programs have.
pub(crate) fn usual_level(compression: Compression) -> i32 {
    match compression {
        Compression::None => 0,
        // beyond that a little less takes many times longer
        Compression::Brotli => 9,
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
    /// What the library says.
    pub fn new(
        to: W,
        compression: Compression,
        level: Option<i32>,
        size: u64,
    ) -> io::Result<Encoder<W>> {
        let level = level.unwrap_or_else(|| usual_level(compression));
        let unsigned = u32::try_from(level).unwrap_or_default();
        Ok(Encoder(match compression {
            Compression::None => Inner::Plain(to),
            Compression::Xz => {
                let options = XzOptions::with_preset(unsigned);
                Inner::Xz(Box::new(XzWriter::new(to, options)?))
            }
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(to, level)?;
                // A window no larger than needed, and the size told to whoever decompresses.
                encoder.set_pledged_src_size(Some(size))?;
                encoder.include_checksum(true)?;
                Inner::Zstd(encoder)
            }
            Compression::Bzip2 => {
                Inner::Bzip2(BzEncoder::new(to, bzip2::Compression::new(unsigned)))
            }
            Compression::Gzip => {
                Inner::Gzip(GzEncoder::new(to, flate2::Compression::new(unsigned)))
            }
            Compression::Brotli => {
                let to = Noting { to, failure: None };
                let encoder =
                    brotli::CompressorWriter::new(to, BUFFER, unsigned, BROTLI_WINDOW_LOG);
                Inner::Brotli(Box::new(encoder))
            }
        }))
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    ///
    /// What is written to refuses, or the library fails.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Inner::Plain(to) => to.write_all(bytes),
            Inner::Xz(to) => to.write_all(bytes),
            Inner::Zstd(to) => to.write_all(bytes),
            Inner::Bzip2(to) => to.write_all(bytes),
            Inner::Gzip(to) => to.write_all(bytes),
            Inner::Brotli(to) => to.write_all(bytes),
        }
    }

    /// Writes the end, and gives back what was written to.
    ///
    /// # Errors
    ///
    /// As [`Encoder::write`].
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Inner::Plain(to) => Ok(to),
            Inner::Xz(to) => to.finish(),
            Inner::Zstd(to) => to.finish(),
            Inner::Bzip2(to) => to.finish(),
            Inner::Gzip(to) => to.finish(),
            Inner::Brotli(to) => {
                let Noting { to, failure } = to.into_inner();
                failure.map_or(Ok(to), Err)
            }
        }
    }
}

/// Keeps what went wrong with what is written to: the library's encoder has no word for it at its end.
struct Noting<W> {
    to: W,
    failure: Option<io::Error>,
}

impl<W> Noting<W> {
    fn note<T>(&mut self, done: io::Result<T>) -> io::Result<T> {
        done.map_err(|error| {
            let told = io::Error::new(error.kind(), error.to_string());
            self.failure.get_or_insert(error);
            told
        })
    }
}

impl<W: Write> Write for Noting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes);
        match written {
            // it's asked again
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Ok(0) if !bytes.is_empty() => self.note(Err(io::ErrorKind::WriteZero.into())),
            written => self.note(written),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.to.flush();
        self.note(flushed)
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
            Compression::Gzip,
            Compression::Brotli
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

    /// What is written to may be full when only the end is left.
    #[test]
    fn a_failure_at_the_end_is_told() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut encoder = Encoder::new(Full, Compression::Brotli, None, 3).expect("an encoder");
        encoder.write(b"few").expect("it is kept back");
        let ended = encoder.finish().map(drop).expect_err("nothing was written");
        assert_eq!(ended.kind(), io::ErrorKind::StorageFull);
    }
}
