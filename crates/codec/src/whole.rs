//! Compressing what is whole already.

use std::io;

use bytes::Bytes;
use drover_core::Compression;
use zstd::bulk::Compressor;

use crate::encode::{Encoder, usual_level};

/// Compresses one small thing after another. What Zstandard needs for it is made once, which takes
/// longer than a small thing itself.
pub struct WholeEncoder {
    compression: Compression,
    level: Option<i32>,
    zstd: Option<Compressor<'static>>,
}

impl WholeEncoder {
    /// Begins with nothing made.
    pub fn new(compression: Compression, level: Option<i32>) -> WholeEncoder {
        WholeEncoder { compression, level, zstd: None }
    }

    /// Returns these bytes compressed, as an [`Encoder`] would.
    ///
    /// # Errors
    ///
    /// As those of [`Encoder`].
    pub fn encode(&mut self, plain: &[u8]) -> io::Result<Vec<u8>> {
        if self.compression == Compression::Zstd {
            return self.zstd()?.compress(plain);
        }
        let size = plain.len() as u64;
        let mut encoder = Encoder::new(Vec::new(), self.compression, self.level, size)?;
        encoder.write(plain)?;
        encoder.finish()
    }

    fn zstd(&mut self) -> io::Result<&mut Compressor<'static>> {
        match &mut self.zstd {
            Some(zstd) => Ok(zstd),
            none => {
                let level = self.level.unwrap_or_else(|| usual_level(Compression::Zstd));
                let mut zstd = Compressor::new(level)?;
                zstd.include_checksum(true)?;
                Ok(none.insert(zstd))
            }
        }
    }
}

/// Returns what `compressed` is decompressed; it may have no more than `most` bytes. Frames that follow
/// one another are one.
///
/// `None` where this kind of compression can't be undone in one step, for which there is
/// [`decoder`](crate::decoder).
///
/// # Errors
///
/// It isn't of that kind, or longer.
pub fn decode_whole(
    compressed: &Bytes,
    compression: Compression,
    most: usize,
) -> Option<io::Result<Bytes>> {
    match compression {
        Compression::None if compressed.len() <= most => Some(Ok(compressed.clone())),
        Compression::None => Some(Err(io::Error::other("it is longer"))),
        Compression::Zstd => Some(zstd::bulk::decompress(compressed, most).map(Bytes::from)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::decode::decoder;

    #[test]
    fn is_read_again() {
        for compression in [Compression::None, Compression::Zstd, Compression::Gzip] {
            let mut encoder = WholeEncoder::new(compression, Some(3));
            for plain in [&b""[..], b"one", &[7; 100_000]] {
                let compressed = encoder.encode(plain).expect("it is taken");
                let mut again = Vec::new();
                let from = io::Cursor::new(compressed);
                let mut decoder = decoder(from, compression).expect("a decoder");
                decoder.read_to_end(&mut again).expect("it is good");
                assert_eq!(again, plain, "{compression}");
            }
        }
    }

    #[test]
    fn is_decoded_in_one_step_where_that_can_be() {
        let plain = [7; 1000];
        let mut encoder = WholeEncoder::new(Compression::Zstd, None);
        let frame = encoder.encode(&plain).expect("it is taken");
        let two = Bytes::from([frame.clone(), frame].concat());
        let decode = |file: &Bytes, compression, most| {
            decode_whole(file, compression, most).map(|plain| plain.map(|it| it.len()).ok())
        };
        assert_eq!(decode(&two, Compression::Zstd, 2000), Some(Some(2000)));
        assert_eq!(decode(&two, Compression::Zstd, 1999), Some(None));
        assert_eq!(decode(&two.slice(..two.len() - 1), Compression::Zstd, 2000), Some(None));
        let plain = Bytes::from_static(b"plain");
        assert_eq!(decode(&plain, Compression::None, 5), Some(Some(5)));
        assert_eq!(decode(&plain, Compression::None, 4), Some(None));
        assert_eq!(decode(&plain, Compression::Xz, 5), None);
    }

    #[test]
    fn zstd_tells_its_size_and_has_a_checksum() {
        let mut encoder = WholeEncoder::new(Compression::Zstd, Some(3));
        let frame = encoder.encode(&[7; 1000]).expect("it is taken");
        assert!(matches!(zstd::zstd_safe::get_frame_content_size(&frame), Ok(Some(1000))));
        let mut bad = frame;
        if let Some(last) = bad.last_mut() {
            *last ^= 1;
        }
        assert!(zstd::bulk::decompress(&bad, 1000).is_err());
    }
}
