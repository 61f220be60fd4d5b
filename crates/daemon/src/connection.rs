//! Both directions of a connection, with buffers that have bounds and waits that have limits.
//!
//! Invariant: every method here can be dropped at any await and called again without losing a byte.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use drover_wire::{DecodeError, Decoder};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
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
        Input { source, buffer, limits, waited: Duration::ZERO, received: 0 }
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
    }

    /// Reads some bytes; `false` at the end.
    async fn fill(&mut self, size: usize, waiting: Waiting) -> Result<bool, DaemonError> {
        let lost = |source| DaemonError::Lost { doing: "reading a request", source };
        self.buffer.reserve(size);
        if waiting == Waiting::Endless {
            return Ok(self.source.read_buf(&mut self.buffer).await.map_err(lost)? > 0);
        }
        loop {
            let began = Instant::now();
            let left = self.limits.window.saturating_sub(self.waited);
            let read = timeout(left, self.source.read_buf(&mut self.buffer)).await;
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
                return Ok(read.map_err(lost)? > 0);
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
        Ok(self.has_more() || self.fill(SMALL_READ, Waiting::Endless).await?)
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
        if self.buffer.is_empty() && !self.fill(LARGE_READ, Waiting::Paced).await? {
            return Err(DaemonError::Gone { doing: "sending data" });
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

/// What a client is sent.
pub(crate) struct Output {
    sink: Box<dyn AsyncWrite + Send + Unpin>,
    pending: BytesMut,
    limit: Duration,
    /// When the client is given up unless it takes something before.
    deadline: Option<Instant>,
}

impl Output {
    pub(crate) fn new(sink: Box<dyn AsyncWrite + Send + Unpin>, limits: Limits) -> Output {
        Output { sink, pending: BytesMut::new(), limit: limits.write, deadline: None }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Sends bytes behind all that waits.
    pub(crate) async fn say(&mut self, bytes: &[u8]) -> Result<(), DaemonError> {
        self.push(bytes);
        self.flush().await
    }

    /// Bytes that wait to be sent.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Sends all that waits.
    pub(crate) async fn flush(&mut self) -> Result<(), DaemonError> {
        let lost = |source| DaemonError::Lost { doing: "sending an answer", source };
        while !self.pending.is_empty() {
            let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + self.limit);
            let written = timeout_at(deadline, self.sink.write(&self.pending)).await;
            let Ok(written) = written else {
                return Err(DaemonError::TooSlow { doing: "taking an answer" });
            };
            match written.map_err(lost)? {
                0 => return Err(lost(std::io::ErrorKind::WriteZero.into())),
                count => self.pending.advance(count),
            }
            self.deadline = None;
        }
        if self.pending.capacity() > LARGE_READ {
            self.pending = BytesMut::new();
        }
        self.sink.flush().await.map_err(lost)
    }

    /// Sends all that waits, and bytes behind it that needn't be copied. To be awaited to its end.
    pub(crate) async fn send(&mut self, mut bytes: Bytes) -> Result<(), DaemonError> {
        self.flush().await?;
        let lost = |source| DaemonError::Lost { doing: "sending an answer", source };
        while !bytes.is_empty() {
            let Ok(written) = timeout(self.limit, self.sink.write(&bytes)).await else {
                return Err(DaemonError::TooSlow { doing: "taking an answer" });
            };
            match written.map_err(lost)? {
                0 => return Err(lost(std::io::ErrorKind::WriteZero.into())),
                count => bytes.advance(count),
            }
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

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.pending.escape_ascii())
    }
}
