//! Decompressing, as a stream and with bounded memory.
//!
//! Nothing is allocated on the word of a header beyond the bounds here; what comes out is cut off by
//! whoever reads it, at the size that was announced.

use std::io::{self, BufRead, Read};

use drover_core::Compression;

/// The largest window of a Zstandard frame, as a power of two: 128 MiB, what the `zstd` program
/// reads without being told to take more.
const ZSTD_WINDOW_LOG: u32 = 27;
/// The most that decompressing XZ may take, in KiB: its largest preset takes 65 MiB.
const XZ_MEMORY: u32 = 256 * 1024;
/// Bytes of a buffer where one is needed.
const BUFFER: usize = 64 * 1024;

/// Returns what `compressed` is decompressed. Members and frames that follow one another are one
/// stream, as in Nix.
///
/// # Errors
///
/// Only where a decompressor can't be made.
pub fn decoder<R: BufRead + Send + 'static>(
    compressed: R,
    compression: Compression,
) -> io::Result<Box<dyn Read + Send>> {
    Ok(match compression {
        Compression::None => Box::new(compressed),
        Compression::Xz => {
            Box::new(lzma_rust2::XzReader::new_mem_limit(compressed, true, XZ_MEMORY))
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(compressed)),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(compressed)),
        Compression::Brotli => Box::new(brotli::Decompressor::new(compressed, BUFFER)),
    })
}

/// Fills `buffer` as far as there is anything. Returns how far.
///
/// # Errors
///
/// What the reader says.
pub fn read_full(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encode::Encoder;

    fn written() -> impl Strategy<Value = Compression> {
        prop::sample::select(vec![
            Compression::None,
            Compression::Xz,
            Compression::Zstd,
            Compression::Bzip2,
            Compression::Gzip,
        ])
    }

    fn compress(plain: &[u8], compression: Compression) -> Vec<u8> {
        let size = plain.len() as u64;
        let mut encoder = Encoder::new(Vec::new(), compression, Some(1), size).expect("an encoder");
        encoder.write(plain).expect("it is taken");
        encoder.finish().expect("an end")
    }

    /// Reads at most a megabyte.
    fn decompress(compressed: Vec<u8>, compression: Compression) -> io::Result<Vec<u8>> {
        let mut plain = vec![0; 1 << 20];
        let mut decoder = decoder(io::Cursor::new(compressed), compression)?;
        let count = read_full(&mut *decoder, &mut plain)?;
        plain.truncate(count);
        Ok(plain)
    }

    proptest! {
        /// What is altered or cut on its way does no harm, in whatever codec it is read.
        #[test]
        fn never_panics(
            real in written(),
            said in prop::sample::select(Compression::ALL.to_vec()),
            same: bool,
            plain in prop::collection::vec(0u8..4, 0..3000),
            at: prop::sample::Index,
            byte: u8,
            cut: prop::sample::Index,
        ) {
            let said = if same { real } else { said };
            let good = compress(&plain, real);
            prop_assert_eq!(decompress(good.clone(), real).expect("it is good"), plain);
            let mut bad = good;
            if !bad.is_empty() {
                let at = at.index(bad.len());
                bad[at] = byte;
            }
            drop(decompress(bad.clone(), said));
            bad.truncate(cut.index(bad.len() + 1));
            drop(decompress(bad, said));
        }

        #[test]
        fn never_panics_on_noise(
            said in prop::sample::select(Compression::ALL.to_vec()),
            noise in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            drop(decompress(noise, said));
        }
    }
}
