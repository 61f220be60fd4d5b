//! The reading half of a channel: answers in the order of the requests.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use drover_nar::{Limits, Parser, Progress};
use drover_store::StoreError;
use drover_wire::{DecodeError, Decoder, LogMessage};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::error::Peer;
use crate::log::pass_on;
use crate::reply::{Awaiting, NarChunk, NarSink, Patience, Preamble};

/// Bytes that are read at once at the most.
const READ_SIZE: usize = 256 * 1024;

/// Bytes that a message may have.
const MAX_MESSAGE: usize = 512 * 1024 * 1024;

/// Reads messages and NARs.
pub(crate) struct Reader<R> {
    from: R,
    peer: Peer,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin + Send> Reader<R> {
    pub(crate) fn new(from: R, peer: Peer) -> Reader<R> {
        Reader { from, peer, buffer: BytesMut::new() }
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Returns what has arrived and isn't read yet.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer
    }

    /// Waits for more bytes. At the end of the stream it is an error.
    pub(crate) async fn fill(&mut self, patience: &Patience) -> Result<(), StoreError> {
        self.buffer.reserve(READ_SIZE.min(self.buffer.len().max(8 * 1024)));
        let read = self.from.read_buf(&mut self.buffer);
        let read = match patience {
            Patience::Unlimited => read.await,
            Patience::Limited(limit, doing) => match tokio::time::timeout(*limit, read).await {
                Ok(read) => read,
                Err(_) => return Err(self.silent(*limit, doing)),
            },
            Patience::AfterData(limit, sent, doing) => {
                tokio::pin!(read);
                loop {
                    let until = sent.get() + *limit;
                    match tokio::time::timeout_at(until, &mut read).await {
                        Ok(read) => break read,
                        Err(_) if sent.get() + *limit > until => {}
                        Err(_) => return Err(self.silent(*limit, doing)),
                    }
                }
            }
        };
        match read {
            Ok(0) => {
                // its last words may still be on their way
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(self.peer.lost("it closed the connection"))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(self.peer.lost(error.to_string())),
        }
    }

    fn silent(&self, limit: Duration, doing: &'static str) -> StoreError {
        StoreError::Silent { store: self.peer.name.clone(), seconds: limit.as_secs(), doing }
    }

    /// Reads one message with `decode`, waiting for the bytes that it takes.
    pub(crate) async fn message<T>(
        &mut self,
        patience: &Patience,
        mut decode: impl FnMut(&mut Decoder<'_>) -> Result<T, DecodeError>,
    ) -> Result<T, StoreError> {
        let mut wanted = 0;
        loop {
            if self.buffer.len() >= wanted {
                let mut decoder = Decoder::new(&self.buffer);
                match decode(&mut decoder) {
                    Ok(value) => {
                        let consumed = decoder.consumed();
                        drop(self.buffer.split_to(consumed));
                        return Ok(value);
                    }
                    Err(DecodeError::Incomplete { missing }) => {
                        wanted = self.buffer.len() + missing;
                        if wanted > MAX_MESSAGE {
                            let error = DecodeError::TooLong { len: wanted as u64, max: MAX_MESSAGE };
                            return Err(self.peer.protocol(&error));
                        }
                    }
                    Err(error) => return Err(self.peer.protocol(&error)),
                }
            }
            self.fill(patience).await?;
        }
    }

    /// Reads what is owed, and hands it over.
    ///
    /// # Errors
    ///
    /// Those after which the connection can't be used any more. An error that the server tells in
    /// the protocol's own words is none of them.
    pub(crate) async fn serve(&mut self, awaiting: Awaiting) -> Result<(), StoreError> {
        let Awaiting { preamble, answers, mut answer, nar, log, patience } = awaiting;
        let mut failure = None;
        for _ in 0..answers {
            match self.one_answer(preamble, &patience, &log, answer.as_mut()).await {
                Ok(None) => {}
                Ok(Some(refused)) => failure = failure.or(Some(refused)),
                Err(error) => {
                    answer.finish(Err(error.clone()));
                    return Err(error);
                }
            }
        }
        match (failure, nar) {
            (Some(error), _) => answer.finish(Err(error)),
            (None, None) => answer.finish(Ok(())),
            (None, Some(nar)) => {
                answer.finish(Ok(()));
                return self.nar(&patience, nar).await;
            }
        }
        Ok(())
    }

    /// Reads messages and one answer. `Some` is the server's own error.
    async fn one_answer(
        &mut self,
        preamble: Preamble,
        patience: &Patience,
        log: &std::sync::Arc<dyn drover_store::BuildLog>,
        answer: &mut dyn crate::reply::Answer,
    ) -> Result<Option<StoreError>, StoreError> {
        if let Preamble::Messages { minor } = preamble {
            loop {
                match self.message(patience, |from| LogMessage::decode(from, minor)).await? {
                    LogMessage::Last => break,
                    LogMessage::Error(error) => {
                        return Ok(Some(StoreError::Refused {
                            store: self.peer.name.clone(),
                            message: crate::log::plain_text(&error.message),
                        }));
                    }
                    message => pass_on(message, log),
                }
            }
        }
        self.message(patience, |from| answer.decode(from)).await?;
        Ok(None)
    }

    /// Passes a NAR on, and finds its end.
    async fn nar(&mut self, patience: &Patience, sink: NarSink) -> Result<(), StoreError> {
        let mut parser = Parser::new(Limits::of_size(sink.max_size));
        loop {
            let progress = match parser.feed(&self.buffer, &mut ()) {
                Ok(progress) => progress,
                Err(error) => {
                    let error = self.peer.lost(format!("bad NAR: {error}"));
                    drop(sink.chunks.send(Err(error.clone())).await);
                    return Err(error);
                }
            };
            let (len, end) = match progress {
                Progress::More => (self.buffer.len(), None),
                Progress::Done { consumed } => (consumed, Some(NarChunk::End)),
            };
            let chunk: Bytes = self.buffer.split_to(len).freeze();
            let unwanted = || self.peer.lost("a transfer was given up");
            if !chunk.is_empty() {
                sink.chunks.send(Ok(NarChunk::Bytes(chunk))).await.map_err(|_| unwanted())?;
            }
            if let Some(end) = end {
                sink.chunks.send(Ok(end)).await.map_err(|_| unwanted())?;
                return Ok(());
            }
            if let Err(error) = self.fill(patience).await {
                drop(sink.chunks.send(Err(error.clone())).await);
                return Err(error);
            }
        }
    }
}
