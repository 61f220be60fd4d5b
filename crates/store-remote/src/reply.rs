//! What is awaited from a peer: how an answer is read, and who gets it.

use std::time::Duration;

use bytes::Bytes;
use drover_core::StorePath;
use drover_store::StoreError;
use drover_wire::{DecodeError, Decoder};
use tokio::sync::{mpsc, oneshot};

use crate::log::Listener;

/// Whether the server's messages come before the answer, as in the worker protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preamble {
    /// Messages of protocol version 1.`minor`.
    Messages { minor: u8 },
    /// Nothing.
    None,
}

/// How long a peer may be silent before the connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// So long, while doing what the text says. While it takes what it is sent it isn't silent.
    Limited(Duration, &'static str),
    /// A build may be silent for as long as it runs, if its server gives a sign of life when it's
    /// asked for one on another channel ([`Watch`](crate::watch::Watch)).
    Watched,
    /// The same, of a request whose beginning the server tells at once: it says the first word soon.
    Beginning(Silence),
    /// The same, where it has begun, or where that isn't told.
    Begun(Silence),
    /// Nothing is owed.
    Idle,
}

/// How long a build may be silent, if the user bounds that. The server keeps that bound itself; one
/// that stands still can't, and gets a little longer.
pub(crate) type Silence = Option<Duration>;

impl Patience {
    /// Returns the patience after the first word.
    pub(crate) fn begun(self) -> Patience {
        match self {
            Patience::Beginning(silence) => Patience::Begun(silence),
            other => other,
        }
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
    pub(crate) log: Listener,
    /// What the server's standard error is meanwhile.
    pub(crate) stderr: StandardError,
    /// Gets the server's demands for data, where it fetches what it is sent (before 1.23).
    pub(crate) pulls: Option<mpsc::UnboundedSender<Pull>>,
    /// How long it may take.
    pub(crate) patience: Patience,
    /// Whether it is sure to come.
    pub(crate) hope: Hope,
    /// How all that comes after it comes.
    pub(crate) then: Onwards,
}

impl Awaiting {
    /// Returns what is owed for a request that is answered once, and that nobody follows.
    pub(crate) fn one(preamble: Preamble, answer: Box<dyn Answer>, patience: Patience) -> Awaiting {
        Awaiting {
            preamble,
            answers: 1,
            answer,
            nar: None,
            log: Listener::nobody(),
            stderr: StandardError::LastWords,
            pulls: None,
            patience,
            hope: Hope::Sure,
            then: Onwards::AsBefore,
        }
    }

    /// Says that there will be no answer.
    pub(crate) fn fail(self, error: StoreError) {
        if let Some(nar) = self.nar {
            nar.fail(error.clone());
        }
        self.answer.finish(Err(error));
    }
}

/// In which form bytes come from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Onwards {
    /// As what came before.
    AsBefore,
    /// In packed chunks.
    Packed,
}

/// Whether an answer must come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hope {
    /// If it doesn't, something is wrong with the peer.
    Sure,
    /// It was asked for on a guess. If the guess was wrong the connection ends, and that is nobody's
    /// fault ([`StoreError::LaneEnded`]).
    Guess,
}

/// What a server's standard error is while it works on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StandardError {
    /// Words for people, of which the last are kept.
    LastWords,
    /// The log of the build, as in the serve protocol.
    BuildLog,
}

/// What a server asks of whoever sends it a NAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pull {
    /// Up to so many bytes.
    Bytes(u64),
    /// Nothing more: it has answered.
    Done,
}

/// Takes a NAR of at most `max_size` bytes.
pub(crate) struct NarSink {
    /// The path, for errors.
    pub(crate) path: StorePath,
    /// Bytes that were announced.
    pub(crate) max_size: u64,
    /// How it is handed over.
    pub(crate) to: Delivery,
}

/// How a NAR is handed over.
pub(crate) enum Delivery {
    /// As it comes; the channel waits for who takes it.
    Chunks(mpsc::Sender<Result<NarChunk, StoreError>>),
    /// Whole; the channel waits for nobody.
    Whole(Vec<u8>, oneshot::Sender<Result<Bytes, StoreError>>),
}

impl NarSink {
    /// Takes a piece. It fails where nobody wants the NAR any more, and waits for the rest of it
    /// would be in vain.
    pub(crate) async fn take(&mut self, chunk: Bytes) -> Result<(), Unwanted> {
        match &mut self.to {
            _ if chunk.is_empty() => Ok(()),
            Delivery::Chunks(to) => to.send(Ok(NarChunk::Bytes(chunk))).await.map_err(|_| Unwanted),
            Delivery::Whole(whole, _) => {
                whole.extend_from_slice(&chunk);
                Ok(())
            }
        }
    }

    /// Says that it is whole.
    pub(crate) async fn end(self) -> Result<(), Unwanted> {
        match self.to {
            Delivery::Chunks(to) => to.send(Ok(NarChunk::End)).await.map_err(|_| Unwanted),
            Delivery::Whole(whole, to) => {
                // who has given it up has lost nothing by that
                drop(to.send(Ok(whole.into())));
                Ok(())
            }
        }
    }

    /// Says why it won't come. Whoever has no room for that finds the end of the channel instead.
    pub(crate) fn fail(self, error: StoreError) {
        match self.to {
            Delivery::Chunks(to) => drop(to.try_send(Err(error))),
            Delivery::Whole(_, to) => drop(to.send(Err(error))),
        }
    }
}

/// Nobody wants a NAR any more.
pub(crate) struct Unwanted;

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
