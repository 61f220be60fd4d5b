//! A stream in chunks, each of them compressed where that makes it shorter.
//!
//! This is how two ends of a far connection speed it up, whatever they say on it. A chunk is a header of four
//! bytes, the kind in the first (0 plain, 1 zstd) and the length of the rest behind it in the order of little
//! ends, and the rest: between 1 byte and 256 KiB, which never expand to more than 256 KiB. Chunks know
//! nothing of each other.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io;

use bytes::{Buf as _, BytesMut};

/// Bytes that one chunk stands for at most.
pub const MAX_CHUNK: usize = 256 * 1024;

/// Bytes that are worth a chunk of their own, where they would have to be copied to wait for others.
pub const WORTH_A_CHUNK: usize = 64 * 1024;

/// Bytes that aren't worth a try.
const SMALL: usize = 256;
/// Chunks that go plain after one that did not shrink, before another is tried.
const UNTRIED: u32 = 15;
/// The fastest level that still finds what programs repeat.
const LEVEL: i32 = 1;

const HEADER: usize = 4;
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// Why a stream is none of chunks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackedError {
    /// A kind that there isn't.
    #[error("a packed chunk is of kind {found}; there are 0 and 1")]
    Kind {
        /// The kind.
        found: u8,
    },
    /// A length beyond the limit, or none.
    #[error("a packed chunk has {len} bytes; it can have between 1 and {MAX_CHUNK}")]
    Length {
        /// The length.
        len: usize,
    },
    /// What can't be expanded to between 1 byte and [`MAX_CHUNK`] bytes.
    #[error("a packed chunk can't be expanded: {reason}")]
    Contents {
        /// What the decompressor says.
        reason: String,
    },
}

/// Makes chunks. What that takes in memory is each thread's, not each stream's: there may be thousands.
#[derive(Debug, Default)]
pub struct Packer {
    /// Chunks that go plain without a try.
    untried: u32,
}

impl Packer {
    /// Appends the chunks that stand for these bytes.
    pub fn pack(&mut self, bytes: &[u8], out: &mut BytesMut) {
        for chunk in bytes.chunks(MAX_CHUNK) {
            let (header, rest) = self.chunk(chunk);
            out.reserve(HEADER + rest.len());
            out.extend_from_slice(&header);
            out.extend_from_slice(&rest);
        }
    }

    /// Returns a chunk's header and the rest of it, for one who can send them without putting them
    /// together. It stands for between 1 and [`MAX_CHUNK`] bytes.
    pub fn chunk<'a>(&mut self, bytes: &'a [u8]) -> ([u8; HEADER], Cow<'a, [u8]>) {
        match self.shorter(bytes) {
            Some(shorter) => (header(ZSTD, shorter.len()), Cow::Owned(shorter)),
            None => (header(PLAIN, bytes.len()), Cow::Borrowed(bytes)),
        }
    }

    /// Returns a compressed chunk if that was worth it.
    fn shorter(&mut self, chunk: &[u8]) -> Option<Vec<u8>> {
        if chunk.len() < SMALL {
            return None;
        }
        if self.untried > 0 {
            self.untried -= 1;
            return None;
        }
        // what doesn't get shorter by an eighth doesn't fit, and costs the other side more than it saves
        let room = chunk.len() - chunk.len() / 8;
        let compressed = with_workspace(|workspace| {
            let room = workspace.room.get_mut(..room).unwrap_or_default();
            let len = workspace.compressor.compress_to_buffer(chunk, room)?;
            Ok(room.get(..len).unwrap_or_default().to_vec())
        });
        if compressed.is_err() {
            self.untried = UNTRIED;
        }
        compressed.ok()
    }
}

fn header(kind: u8, len: usize) -> [u8; HEADER] {
    // a chunk's length has three bytes at most
    let len = u32::try_from(len).unwrap_or_default();
    (len << 8 | u32::from(kind)).to_le_bytes()
}

/// What one chunk after another is worked on with.
struct Workspace {
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
    room: Vec<u8>,
}

impl Workspace {
    fn new() -> io::Result<Workspace> {
        Ok(Workspace {
            compressor: zstd::bulk::Compressor::new(LEVEL)?,
            decompressor: zstd::bulk::Decompressor::new()?,
            room: vec![0; MAX_CHUNK],
        })
    }
}

/// Works with the thread's workspace.
fn with_workspace<T>(work: impl FnOnce(&mut Workspace) -> io::Result<T>) -> io::Result<T> {
    thread_local! {
        static WORKSPACE: RefCell<Option<Workspace>> = const { RefCell::new(None) };
    }
    WORKSPACE.with_borrow_mut(|workspace| match workspace {
        Some(workspace) => work(workspace),
        None => work(workspace.insert(Workspace::new()?)),
    })
}

/// Takes one chunk from the front of what has arrived, if it is there to its end, and appends what it
/// stands for. Returns whether it was there.
///
/// # Errors
///
/// What is no chunk.
pub fn unpack(arrived: &mut BytesMut, out: &mut BytesMut) -> Result<Unpacked, PackedError> {
    let Some((header, rest)) = arrived.split_at_checked(HEADER) else {
        return Ok(Unpacked::Incomplete);
    };
    let [kind, len @ ..] = <[u8; HEADER]>::try_from(header).unwrap_or_default();
    let len = len.iter().rev().fold(0, |len, byte| len << 8 | usize::from(*byte));
    if kind > ZSTD {
        return Err(PackedError::Kind { found: kind });
    }
    if len == 0 || len > MAX_CHUNK {
        return Err(PackedError::Length { len });
    }
    if rest.len() < len {
        return Ok(Unpacked::Incomplete);
    }
    arrived.advance(HEADER);
    let chunk = arrived.split_to(len);
    match kind {
        ZSTD => expand(&chunk, out)?,
        // a large one need not be copied
        _ if out.is_empty() => *out = chunk,
        _ => out.extend_from_slice(&chunk),
    }
    Ok(Unpacked::Chunk)
}

fn expand(chunk: &[u8], out: &mut BytesMut) -> Result<(), PackedError> {
    let expanded = with_workspace(|workspace| {
        let room = workspace.room.as_mut_slice();
        let len = workspace.decompressor.decompress_to_buffer(chunk, room)?;
        out.extend_from_slice(room.get(..len).unwrap_or_default());
        Ok(len)
    });
    match expanded {
        Ok(0) => Err(PackedError::Contents { reason: "it is empty".to_owned() }),
        Ok(_) => Ok(()),
        Err(error) => Err(PackedError::Contents { reason: error.to_string() }),
    }
}

/// What came of looking for a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpacked {
    /// One was taken; there may be more.
    Chunk,
    /// More bytes have to arrive.
    Incomplete,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn packed(pieces: &[Vec<u8>]) -> BytesMut {
        let (mut packer, mut out) = (Packer::default(), BytesMut::new());
        pieces.iter().for_each(|piece| packer.pack(piece, &mut out));
        out
    }

    fn unpacked(stream: &[u8], step: usize) -> Result<Vec<u8>, PackedError> {
        let (mut arrived, mut out) = (BytesMut::new(), BytesMut::new());
        for piece in stream.chunks(step.max(1)) {
            arrived.extend_from_slice(piece);
            while unpack(&mut arrived, &mut out)? == Unpacked::Chunk {}
        }
        assert_eq!(arrived.len(), 0);
        Ok(out.to_vec())
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_again(
            pieces in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..600),
                    (any::<u8>(), 0_usize..600_000).prop_map(|(byte, len)| vec![byte; len]),
                ],
                0..6,
            ),
            step in 1_usize..100_000,
        ) {
            prop_assert_eq!(unpacked(&packed(&pieces), step).unwrap(), pieces.concat());
        }

        #[test]
        fn anything_at_all_is_refused_or_taken(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let (mut arrived, mut out) = (BytesMut::from(&bytes[..]), BytesMut::new());
            while unpack(&mut arrived, &mut out) == Ok(Unpacked::Chunk) {}
            prop_assert!(out.len() <= MAX_CHUNK * bytes.len());
        }
    }

    #[test]
    fn what_repeats_gets_shorter_and_noise_hardly_longer() {
        let text = b"a path of the store and another one, ".repeat(30_000);
        assert!(packed(std::slice::from_ref(&text)).len() < text.len() / 50);
        let noise = noise(3_000_000);
        let chunks = noise.len().div_ceil(MAX_CHUNK);
        assert_eq!(packed(std::slice::from_ref(&noise)).len(), noise.len() + chunks * HEADER);
    }

    #[test]
    fn after_noise_what_repeats_is_found_again() {
        let both = [noise(MAX_CHUNK), vec![7; MAX_CHUNK * 40]].concat();
        assert!(packed(&[both]).len() < MAX_CHUNK * 18);
    }

    #[rstest]
    #[case::kind(&[9, 1, 0, 0, 5], PackedError::Kind { found: 9 })]
    #[case::empty(&[0, 0, 0, 0], PackedError::Length { len: 0 })]
    #[case::long(&[0, 1, 0, 4], PackedError::Length { len: MAX_CHUNK + 1 })]
    fn what_is_no_chunk_is_told(#[case] stream: &[u8], #[case] expected: PackedError) {
        assert_eq!(unpacked(stream, 100), Err(expected));
    }

    #[test]
    fn what_expands_beyond_the_limit_is_refused() {
        for len in [0, MAX_CHUNK + 1] {
            let bomb = zstd::bulk::compress(&vec![0; len], 1).unwrap();
            let mut stream = BytesMut::new();
            stream.extend_from_slice(&header(ZSTD, bomb.len()));
            stream.extend_from_slice(&bomb);
            let refused = unpacked(&stream, 100);
            assert!(matches!(refused, Err(PackedError::Contents { .. })), "{refused:?}");
        }
    }
}
