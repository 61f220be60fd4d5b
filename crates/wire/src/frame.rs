//! Framed data: chunks with their length in front, ended by an empty one (1.23 and newer).
//!
//! Follows `FramedSink` and `FramedSource` in `src/libutil/serialise.hh` of Nix. Frames are neither
//! padded nor aligned.

use crate::codec::Decoder;
use crate::error::DecodeError;

/// Bytes that a frame may have.
pub const MAX_FRAME: u64 = 64 * 1024 * 1024;

/// Returns what stands before a frame of `len` bytes.
pub fn frame_header(len: usize) -> [u8; 8] {
    (len as u64).to_le_bytes()
}

/// What ends framed data.
pub const FRAME_END: [u8; 8] = [0; 8];

/// Reads a frame's length; 0 ends the data.
///
/// # Errors
///
/// More than [`MAX_FRAME`] bytes.
pub fn read_frame_header(from: &mut Decoder<'_>) -> Result<u64, DecodeError> {
    from.number_up_to("frame length", MAX_FRAME)
}
