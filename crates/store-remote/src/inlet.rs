//! What arrives from a peer, as it is said: packed or not.

use std::io;

use bytes::BytesMut;
use drover_codec::{PackedError, Unpacked, unpack};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes that are read at once at the most.
const READ_SIZE: usize = 256 * 1024;

/// Bytes that are read at once where few come.
const SMALL_READ: usize = 8 * 1024;

/// Where bytes come from.
pub(crate) struct Inlet<R> {
    from: R,
    /// What has arrived and isn't read yet.
    pub(crate) buffer: BytesMut,
    /// Bytes that there is room for at the next read: more after one that took all there was room
    /// for, so that a stream comes in large pieces and an answer takes little memory.
    room: usize,
    /// What has arrived packed, once the peer packs.
    packed: Option<BytesMut>,
}

/// Why nothing more comes.
pub(crate) enum InletError {
    Read(io::Error),
    Packed(PackedError),
}

impl<R: AsyncRead + Unpin + Send> Inlet<R> {
    pub(crate) fn new(from: R) -> Inlet<R> {
        Inlet { from, buffer: BytesMut::new(), room: SMALL_READ, packed: None }
    }

    /// Takes what isn't read yet, and all that follows, for packed.
    pub(crate) fn unpack(&mut self) {
        self.packed = Some(std::mem::take(&mut self.buffer));
    }

    /// Waits for more bytes, none of which may be for the reader yet; `false` at the end. Can be dropped
    /// and called again.
    pub(crate) async fn more(&mut self) -> Result<bool, InletError> {
        let Inlet { from, buffer, packed, .. } = self;
        let into = match packed {
            None => buffer,
            Some(arrived) => {
                if unpack(arrived, buffer).map_err(InletError::Packed)? == Unpacked::Chunk {
                    return Ok(true);
                }
                arrived
            }
        };
        into.reserve(self.room);
        let room = into.capacity() - into.len();
        let read = from.read_buf(into).await.map_err(InletError::Read)?;
        self.room = match read {
            read if read == room => (self.room * 2).min(READ_SIZE),
            read if read <= self.room / 4 => (self.room / 2).max(SMALL_READ),
            _ => self.room,
        };
        Ok(read > 0)
    }
}
