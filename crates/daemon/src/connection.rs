//! Both directions of a connection, with buffers that have bounds and waits that have limits.
//!
//! Invariant: every method here can be dropped at any await and called again without losing a byte.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use drover_codec::{MAX_CHUNK, Packer, Unpacked, WORTH_A_CHUNK, unpack};
use drover_wire::{DecodeError, Decoder};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::DaemonError;
use crate::limits::Limits;

/// Bytes that a request may have, without the data behind it.
const MAX_REQUEST: usize = 64 * 1024 * 1024 + 64 * 1024;
/// Bytes asked of the system at once for requests, and for the data behind them.
const SMALL_READ: usize = 8 * 1024;
const LARGE_READ: usize = 256 * 1024;
/// Bytes of later requests that are taken in while one is worked on.
const READ_AHEAD: usize = 64 * 1024;

/// What a client sends.
pub(crate) struct Input {
    source: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    /// What came packed, once the client packs.
    packed: Option<BytesMut>,
    limits: Limits,
    /// How long was waited in this window, and what came.
    waited: Duration,
    received: u64,
}

/// What a client may be in the middle of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// A request or its data: it has to go on.
    Paced,
    /// Nothing: it may take its time.
    Endless,
}

impl Input {
    pub(crate) fn new(source: Box<dyn AsyncRead + Send + Unpin>, limits: Limits) -> Input {
        let buffer = BytesMut::new();
        Input { source, buffer, packed: None, limits, waited: Duration::ZERO, received: 0 }
    }

    /// Takes all that follows for packed.
    pub(crate) fn unpack(&mut self) {
        self.packed = Some(std::mem::take(&mut self.buffer));
    }

    /// Reads some bytes, none of which may be for the reader yet; `0` at the end.
    async fn read(&mut self, size: usize) -> Result<usize, DaemonError> {
        let into = match &mut self.packed {
            None => &mut self.buffer,
            Some(arrived) => {
                // one chunk at a time: what is in many may be much more than what has arrived
                let before = self.buffer.len();
                if unpack(arrived, &mut self.buffer)? == Unpacked::Chunk {
                    return Ok(self.buffer.len() - before);
                }
                arrived
            }
        };
        into.reserve(size);
        let lost = |source| DaemonError::Lost { doing: "reading a request", source };
        self.source.read_buf(into).await.map_err(lost)
    }

    /// Returns what is read from, with what has arrived already.
    pub(crate) fn into_source(self) -> Box<dyn AsyncRead + Send + Unpin> {
        Box::new(AsyncReadExt::chain(std::io::Cursor::new(self.buffer), self.source))
    }

    /// Whether bytes have arrived that nobody has looked at.
    pub(crate) fn has_more(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Gives back what a large transfer needed.
    pub(crate) fn rest(&mut self) {
        (self.waited, self.received) = (Duration::ZERO, 0);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        if let Some(arrived) = self.packed.as_mut().filter(|arrived| arrived.is_empty()) {
            *arrived = BytesMut::new();
        }
    }

    /// Reads some bytes, none of which may be for the reader yet; `false` at the end.
    async fn fill(&mut self, size: usize, waiting: Waiting) -> Result<bool, DaemonError> {
        if waiting == Waiting::Endless {
            return Ok(self.read(size).await? > 0);
        }
        loop {
            let began = Instant::now();
            let left = self.limits.window.saturating_sub(self.waited);
            let read = timeout(left, self.read(size)).await;
            self.waited += began.elapsed();
            if let Ok(Ok(count)) = read {
                self.received = self.received.saturating_add(count as u64);
            }
            if self.waited >= self.limits.window {
                if self.received < self.limits.least {
                    return Err(DaemonError::TooSlow { doing: "sending a request" });
                }
                (self.waited, self.received) = (Duration::ZERO, 0);
            }
            if let Ok(read) = read {
                return Ok(read? > 0);
            }
        }
    }

    /// Waits until the client has closed its side, and takes in a little of what it says before.
    pub(crate) async fn hangup(&mut self) {
        while self.buffer.len() < READ_AHEAD {
            if !matches!(self.fill(SMALL_READ, Waiting::Endless).await, Ok(true)) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Waits for the first byte of the next request; `false` if there is none.
    pub(crate) async fn next(&mut self) -> Result<bool, DaemonError> {
        while !self.has_more() {
            if !self.fill(SMALL_READ, Waiting::Endless).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads one message with `decode`, waiting for the bytes that it takes.
    pub(crate) async fn message<T>(
        &mut self,
        decode: impl FnMut(&mut Decoder<'_>) -> Result<T, DecodeError>,
    ) -> Result<T, DaemonError> {
        let (value, len) = self.arrived(decode).await?;
        self.buffer.advance(len);
        Ok(value)
    }

    /// Reads one message with `decode`, and returns its bytes too.
    pub(crate) async fn message_and_bytes<T>(
        &mut self,
        decode: impl FnMut(&mut Decoder<'_>) -> Result<T, DecodeError>,
    ) -> Result<(T, Bytes), DaemonError> {
        let (value, len) = self.arrived(decode).await?;
        Ok((value, self.buffer.split_to(len).freeze()))
    }

    /// Waits until one message is there; returns it and its length.
    async fn arrived<T>(
        &mut self,
        mut decode: impl FnMut(&mut Decoder<'_>) -> Result<T, DecodeError>,
    ) -> Result<(T, usize), DaemonError> {
        let mut wanted = 0;
        loop {
            if self.buffer.len() >= wanted {
                let mut decoder = Decoder::new(&self.buffer);
                match decode(&mut decoder) {
                    Ok(value) => {
                        return Ok((value, decoder.consumed()));
                    }
                    Err(DecodeError::Incomplete { missing }) => {
                        wanted = self.buffer.len().saturating_add(missing);
                        bounded(wanted)?;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if !self.fill(SMALL_READ, Waiting::Paced).await? {
                return Err(DaemonError::Gone { doing: "sending a request" });
            }
        }
    }

    /// Returns between one and `max` bytes.
    pub(crate) async fn bytes(&mut self, max: u64) -> Result<Bytes, DaemonError> {
        while self.buffer.is_empty() {
            if !self.fill(LARGE_READ, Waiting::Paced).await? {
                return Err(DaemonError::Gone { doing: "sending data" });
            }
        }
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let len = self.buffer.len().min(max);
        Ok(self.buffer.split_to(len).freeze())
    }

    /// Puts back bytes that belong to what comes next. Only what [`Input::bytes`] returned last may
    /// be put back, and before anything else is read.
    pub(crate) fn put_back(&mut self, bytes: &[u8]) {
        let mut whole = BytesMut::with_capacity(bytes.len() + self.buffer.len());
        whole.extend_from_slice(bytes);
        whole.extend_from_slice(&self.buffer);
        self.buffer = whole;
    }
}

/// Refuses messages that are too long.
pub(crate) fn bounded(len: usize) -> Result<(), DecodeError> {
    if len > MAX_REQUEST {
        return Err(DecodeError::TooLong { len: len as u64, max: MAX_REQUEST });
    }
    Ok(())
}

#[derive(Default)]
struct Packing {
    packer: Packer,
    packed: BytesMut,
}

/// What a client is sent.
pub(crate) struct Output {
    sink: Box<dyn AsyncWrite + Send + Unpin>,
    pending: BytesMut,
    /// What packs, once the client takes it, and what is packed of [`Output::pending`].
    packing: Option<Packing>,
    limit: Duration,
    /// When the client is given up unless it takes something before.
    deadline: Option<Instant>,
}

impl Output {
    pub(crate) fn new(sink: Box<dyn AsyncWrite + Send + Unpin>, limits: Limits) -> Output {
        let pending = BytesMut::new();
        Output { sink, pending, packing: None, limit: limits.write, deadline: None }
    }

    /// Packs all that is pushed from now on; nothing waits.
    pub(crate) fn pack(&mut self) {
        self.packing = Some(Packing::default());
    }

    pub(crate) fn is_packed(&self) -> bool {
        self.packing.is_some()
    }

    /// Returns the bytes that are to be sent, packed where they are to be.
    fn outgoing(&mut self) -> &mut BytesMut {
        let Some(Packing { packer, packed }) = &mut self.packing else {
            return &mut self.pending;
        };
        if packed.is_empty() {
            packer.pack(&self.pending, packed);
            self.pending.clear();
        }
        packed
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Sends bytes behind all that waits.
    pub(crate) async fn say(&mut self, bytes: &[u8]) -> Result<(), DaemonError> {
        self.push(bytes);
        self.flush().await
    }

    /// Returns what is written to. Nothing may wait to be sent.
    pub(crate) fn into_sink(self) -> Box<dyn AsyncWrite + Send + Unpin> {
        self.sink
    }

    /// Bytes that wait to be sent.
    pub(crate) fn pending(&self) -> usize {
        let packed = self.packing.as_ref().map_or(0, |packing| packing.packed.len());
        self.pending.len() + packed
    }

    /// Sends all that waits.
    pub(crate) async fn flush(&mut self) -> Result<(), DaemonError> {
        let lost = |source| DaemonError::Lost { doing: "sending an answer", source };
        while !self.outgoing().is_empty() {
            let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + self.limit);
            let bytes = self.packing.as_ref().map_or(&self.pending, |packing| &packing.packed);
            let written = timeout_at(deadline, self.sink.write(bytes)).await;
            let Ok(written) = written else {
                return Err(DaemonError::TooSlow { doing: "taking an answer" });
            };
            match written.map_err(lost)? {
                0 => return Err(lost(std::io::ErrorKind::WriteZero.into())),
                count => self.outgoing().advance(count),
            }
            self.deadline = None;
        }
        if self.pending.capacity() > LARGE_READ {
            self.pending = BytesMut::new();
        }
        if let Some(packing) = &mut self.packing {
            packing.packed = BytesMut::new();
        }
        self.sink.flush().await.map_err(lost)
    }

    /// Sends all that waits, and bytes behind it that needn't be copied; where it's packed, few bytes may
    /// wait for more. To be awaited to its end.
    pub(crate) async fn send(&mut self, bytes: Bytes) -> Result<(), DaemonError> {
        if self.packing.is_some() && bytes.len() < WORTH_A_CHUNK {
            self.push(&bytes);
            return if self.pending.len() < MAX_CHUNK { Ok(()) } else { self.flush().await };
        }
        self.flush().await?;
        let Output { sink, packing, limit, .. } = self;
        let Some(Packing { packer, .. }) = packing else {
            return write_all(sink, &bytes, *limit).await;
        };
        for chunk in bytes.chunks(MAX_CHUNK) {
            let (header, rest) = packer.chunk(chunk);
            write_all(sink, &header, *limit).await?;
            write_all(sink, &rest, *limit).await?;
        }
        Ok(())
    }

    /// Sends all that waits and says that nothing more will come.
    pub(crate) async fn close(&mut self) -> Result<(), DaemonError> {
        self.flush().await?;
        let lost = |source| DaemonError::Lost { doing: "closing", source };
        match timeout(self.limit, self.sink.shutdown()).await {
            Ok(closed) => closed.map_err(lost),
            Err(_) => Err(DaemonError::TooSlow { doing: "taking an answer" }),
        }
    }
}

async fn write_all(
    sink: &mut Box<dyn AsyncWrite + Send + Unpin>,
    mut bytes: &[u8],
    limit: Duration,
) -> Result<(), DaemonError> {
    let lost = |source| DaemonError::Lost { doing: "sending an answer", source };
    while !bytes.is_empty() {
        let Ok(written) = timeout(limit, sink.write(bytes)).await else {
            return Err(DaemonError::TooSlow { doing: "taking an answer" });
        };
        match written.map_err(lost)? {
            0 => return Err(lost(std::io::ErrorKind::WriteZero.into())),
            count => bytes = bytes.get(count..).unwrap_or_default(),
        }
    }
    Ok(())
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.pending.escape_ascii())
    }
}
