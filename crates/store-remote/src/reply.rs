//! What is awaited from a peer: how an answer is read, and who gets it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use drover_store::{BuildLog, StoreError};
use drover_wire::{DecodeError, Decoder};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Whether the server's messages come before the answer, as in the worker protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preamble {
    /// Messages of protocol version 1.`minor`.
    Messages { minor: u8 },
    /// Nothing.
    None,
}

/// How long a peer may be silent before the connection is given up.
#[derive(Clone, Debug)]
pub(crate) enum Patience {
    /// So long, while doing what the text says.
    Limited(Duration, &'static str),
    /// So long after the last piece of data was sent to it.
    AfterData(Duration, Arc<LastSent>, &'static str),
    /// A build may be silent for as long as it runs; the link is watched by SSH.
    Unlimited,
}

/// When the last piece of a request's data was had from its source. While the source is waited for,
/// it's not the peer who is slow.
#[derive(Debug)]
pub(crate) struct LastSent(Mutex<Option<Instant>>);

impl LastSent {
    pub(crate) fn now() -> LastSent {
        LastSent(Mutex::new(Some(Instant::now())))
    }

    /// Notes that the source is waited for.
    pub(crate) fn waits_for_source(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes that the source gave a piece, or its end.
    pub(crate) fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Returns from when on the peer is waited for.
    pub(crate) fn get(&self) -> Instant {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.unwrap_or_else(Instant::now)
    }
}

/// Reads an answer, and hands it over.
pub(crate) trait Answer: Send {
    /// Reads one answer. Called again from the start after [`DecodeError::Incomplete`].
    fn decode(&mut self, from: &mut Decoder<'_>) -> Result<(), DecodeError>;

    /// Hands over what was read, or the reason why nothing was.
    fn finish(self: Box<Self>, result: Result<(), StoreError>);
}

/// Something that a peer owes.
pub(crate) struct Awaiting {
    /// Whether messages come first.
    pub(crate) preamble: Preamble,
    /// How many answers in a row are owed (an import of many paths may get one each).
    pub(crate) answers: usize,
    /// Reads them.
    pub(crate) answer: Box<dyn Answer>,
    /// Gets the NAR that follows the answer, if one does.
    pub(crate) nar: Option<NarSink>,
    /// Gets the messages.
    pub(crate) log: Arc<dyn BuildLog>,
    /// How long it may take.
    pub(crate) patience: Patience,
}

/// Takes a NAR as it comes; the whole NAR is at most `max_size` bytes.
pub(crate) struct NarSink {
    /// Takes the chunks, and at last the end.
    pub(crate) chunks: mpsc::Sender<Result<NarChunk, StoreError>>,
    /// Bytes that were announced.
    pub(crate) max_size: u64,
}

/// A piece of a NAR.
pub(crate) enum NarChunk {
    /// Some bytes.
    Bytes(Bytes),
    /// It is whole.
    End,
}

/// An answer that a function reads and a oneshot takes.
struct Decoded<T, F> {
    decode: F,
    value: Option<T>,
    to: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Answer for Decoded<T, F>
where
    T: Send,
    F: FnMut(&mut Decoder<'_>) -> Result<T, DecodeError> + Send,
{
    fn decode(&mut self, from: &mut Decoder<'_>) -> Result<(), DecodeError> {
        self.value = Some((self.decode)(from)?);
        Ok(())
    }

    fn finish(self: Box<Self>, result: Result<(), StoreError>) {
        let answer = match (result, self.value) {
            (Err(error), _) => Err(error),
            (Ok(()), Some(value)) => Ok(value),
            (Ok(()), None) => return,
        };
        // nobody may be waiting any more, which is no error
        drop(self.to.send(answer));
    }
}

/// Returns an answer read by `decode`, and where it arrives.
pub(crate) fn answer<T: Send + 'static>(
    decode: impl FnMut(&mut Decoder<'_>) -> Result<T, DecodeError> + Send + 'static,
) -> (Box<dyn Answer>, oneshot::Receiver<Result<T, StoreError>>) {
    let (to, from) = oneshot::channel();
    (Box::new(Decoded { decode, value: None, to }), from)
}
