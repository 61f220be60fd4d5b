//! The reading half of a channel: answers in the order of the requests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use drover_nar::{Limits, Parser, Progress as Parsed};
use drover_store::{LogEvent, StoreError};
use drover_wire::{DecodeError, Decoder, LogMessage};
use tokio::io::AsyncRead;

use crate::error::Peer;
use crate::inlet::{Inlet, InletError};
use crate::ledger::{Ledger, Progress};
use crate::log::Listener;
use crate::reply::{Awaiting, Hope, NarSink, Onwards, Patience, Preamble, Pull, StandardError};
use crate::watch::Watch;

/// Returns when a server gives no sign of life any more.
async fn until_it_hangs(watch: Option<&Watch>) -> StoreError {
    match watch {
        Some(watch) => watch.until_it_hangs().await,
        None => std::future::pending().await,
    }
}

/// Bytes that a message may have.
const MAX_MESSAGE: usize = 512 * 1024 * 1024;

/// Reads messages and NARs.
pub(crate) struct Reader<R> {
    inlet: Inlet<R>,
    peer: Peer,
    /// How the writing half gets on.
    progress: Arc<Progress>,
    watch: Option<Arc<Watch>>,
}

impl<R: AsyncRead + Unpin + Send> Reader<R> {
    pub(crate) fn new(from: R, peer: Peer) -> Reader<R> {
        let progress = Arc::new(Progress::new());
        Reader { inlet: Inlet::new(from), peer, progress, watch: None }
    }

    /// Has the server watched while it's silent for long.
    pub(crate) fn watched_by(&mut self, watch: &Arc<Watch>) {
        self.watch = Some(Arc::clone(watch));
    }

    pub(crate) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Returns what has arrived and isn't read yet.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.inlet.buffer
    }

    /// Waits for more bytes. At the end of the stream it is an error.
    pub(crate) async fn fill(&mut self, patience: Patience) -> Result<(), StoreError> {
        let read = match patience {
            Patience::Idle => self.inlet.more().await,
            Patience::Watched | Patience::Beginning(_) | Patience::Begun(_) => {
                let watch = self.watch.clone();
                let (hangs, stands_still) =
                    (until_it_hangs(watch.as_deref()), self.stands_still(patience));
                tokio::select! {
                    biased;
                    read = self.inlet.more() => read,
                    error = hangs => return Err(error),
                    error = stands_still => return Err(error),
                }
            }
            Patience::Limited(limit, doing) => {
                let limit = self.watch.as_ref().map_or(limit, |watch| watch.limit(limit));
                let mut wait = limit;
                loop {
                    match tokio::time::timeout(wait, self.inlet.more()).await {
                        Ok(read) => break read,
                        Err(_) => match self.progress.patience_left(limit) {
                            Some(left) => wait = left,
                            None => return Err(self.silent(limit, doing)),
                        },
                    }
                }
            }
        };
        match read {
            Ok(true) => Ok(()),
            Ok(false) => {
                // its last words may still be on their way
                self.peer.stderr.ended().await;
                Err(self.peer.ended())
            }
            Err(InletError::Read(error)) => Err(self.peer.lost(error.to_string())),
            Err(InletError::Packed(error)) => Err(StoreError::Protocol {
                store: self.peer.name.clone(),
                reason: error.to_string(),
            }),
        }
    }

    /// Waits until the peer closes the connection while nothing is owed, or says something that
    /// nobody asked for.
    pub(crate) async fn unasked(&mut self) -> StoreError {
        if self.inlet.buffer.is_empty()
            && let Err(error) = self.fill(Patience::Idle).await
        {
            return error;
        }
        let shown: Vec<u8> = self.inlet.buffer.iter().copied().take(40).collect();
        let reason = format!("it said \"{}\" without being asked", shown.escape_ascii());
        StoreError::Protocol { store: self.peer.name.clone(), reason }
    }

    /// Returns when a build has been silent for longer than it may be, though its machine lives.
    fn stands_still(&self, patience: Patience) -> impl Future<Output = StoreError> + Send + use<R> {
        let grace = self.watch.as_ref().map(|watch| watch.beginning());
        let limit = match patience {
            Patience::Beginning(_) => grace.map(|grace| (grace, "beginning a build")),
            Patience::Begun(silence) => {
                let limit = silence.zip(grace).map(|(silence, grace)| silence + grace);
                limit.map(|limit| (limit, "building beyond its limits"))
            }
            Patience::Watched | Patience::Limited(..) | Patience::Idle => None,
        };
        let error = limit.map(|(limit, doing)| (limit, self.silent(limit, doing)));
        async move {
            match error {
                Some((limit, error)) => {
                    tokio::time::sleep(limit).await;
                    error
                }
                None => std::future::pending().await,
            }
        }
    }

    fn silent(&self, limit: Duration, doing: &'static str) -> StoreError {
        StoreError::Silent { store: self.peer.name.clone(), seconds: limit.as_secs(), doing }
    }

    /// Reads one message with `decode`, waiting for the bytes that it takes.
    pub(crate) async fn message<T>(
        &mut self,
        patience: Patience,
        mut decode: impl FnMut(&mut Decoder<'_>) -> Result<T, DecodeError>,
    ) -> Result<T, StoreError> {
        let mut wanted = 0;
        loop {
            if self.inlet.buffer.len() >= wanted {
                let mut decoder = Decoder::new(&self.inlet.buffer);
                match decode(&mut decoder) {
                    Ok(value) => {
                        let consumed = decoder.consumed();
                        drop(self.inlet.buffer.split_to(consumed));
                        return Ok(value);
                    }
                    Err(DecodeError::Incomplete { missing }) => {
                        wanted = self.inlet.buffer.len() + missing;
                        if wanted > MAX_MESSAGE {
                            let error =
                                DecodeError::TooLong { len: wanted as u64, max: MAX_MESSAGE };
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
    pub(crate) async fn serve(
        &mut self,
        mut awaiting: Awaiting,
        ledger: &Ledger,
    ) -> Result<(), StoreError> {
        if let (StandardError::BuildLog, Listener::Build(log)) = (awaiting.stderr, &awaiting.log) {
            self.peer.stderr.follow(Arc::clone(log));
            // nobody tells, but the server does one thing after another
            log.event(LogEvent::Started);
        }
        let mut refused = None;
        for _ in 0..awaiting.answers {
            match self.one_answer(&mut awaiting).await {
                Ok(None) => {}
                Ok(Some(error)) => refused = refused.or(Some(error)),
                Err(error) => {
                    let error = self.unless_guessed(awaiting.hope, error);
                    ledger.close(error.clone());
                    awaiting.fail(error.clone());
                    return Err(error);
                }
            }
        }
        if let Some(error) = refused {
            if awaiting.then == Onwards::Packed {
                // what was sent behind it can't be understood
                ledger.close(error.clone());
                awaiting.fail(error.clone());
                return Err(error);
            }
            ledger.pay();
            awaiting.fail(error);
            return Ok(());
        }
        if awaiting.then == Onwards::Packed {
            self.inlet.unpack();
        }
        match awaiting.nar {
            None => {
                ledger.pay();
                awaiting.answer.finish(Ok(()));
                Ok(())
            }
            Some(nar) => {
                awaiting.answer.finish(Ok(()));
                self.nar(awaiting.patience, awaiting.hope, nar, ledger).await
            }
        }
    }

    /// Returns why the connection ends, which is nobody's fault if it ends on a wrong guess.
    fn unless_guessed(&self, hope: Hope, error: StoreError) -> StoreError {
        match hope {
            Hope::Sure => error,
            Hope::Guess => StoreError::LaneEnded { store: self.peer.name.clone() },
        }
    }

    /// Reads messages and one answer. `Some` is the server's own error.
    async fn one_answer(
        &mut self,
        awaiting: &mut Awaiting,
    ) -> Result<Option<StoreError>, StoreError> {
        let refused = match awaiting.preamble {
            Preamble::Messages { minor } => self.messages(awaiting, minor).await?,
            Preamble::None => None,
        };
        let patience = awaiting.patience;
        if refused.is_none() {
            self.message(patience, |from| awaiting.answer.decode(from)).await?;
        }
        if let Some(pulls) = &awaiting.pulls {
            pulls.send(Pull::Done).ok();
        }
        Ok(refused)
    }

    /// Reads messages up to the last one.
    async fn messages(
        &mut self,
        awaiting: &mut Awaiting,
        minor: u8,
    ) -> Result<Option<StoreError>, StoreError> {
        loop {
            let message = self.message(awaiting.patience, |from| LogMessage::decode(from, minor));
            let message = message.await?;
            awaiting.patience = awaiting.patience.begun();
            match (message, &awaiting.pulls) {
                (LogMessage::Last, _) => return Ok(None),
                (LogMessage::Error(error), _) => {
                    let message = drover_core::plain_text(&error.message);
                    return Ok(Some(StoreError::said(&self.peer.name, message)));
                }
                (LogMessage::Read(len), Some(pulls)) => {
                    pulls.send(Pull::Bytes(len)).unwrap_or_default()
                }
                (LogMessage::Read(_) | LogMessage::Write(_), _) => {
                    let reason = "it transfers data where there is none".to_owned();
                    return Err(StoreError::Protocol { store: self.peer.name.clone(), reason });
                }
                (message, _) => awaiting.log.hear(message),
            }
        }
    }

    /// Passes a NAR on, and finds its end.
    async fn nar(
        &mut self,
        patience: Patience,
        hope: Hope,
        mut sink: NarSink,
        ledger: &Ledger,
    ) -> Result<(), StoreError> {
        let mut parser = Parser::new(Limits::of_size(sink.max_size));
        let error = loop {
            let (len, whole) = match parser.feed(&self.inlet.buffer, &mut ()) {
                Ok(Parsed::More) => (self.inlet.buffer.len(), false),
                Ok(Parsed::Done { consumed }) => (consumed, true),
                Err(source) => {
                    let (store, path) = (self.peer.name.clone(), sink.path.clone());
                    break StoreError::Nar { store, path, source };
                }
            };
            let chunk: Bytes = self.inlet.buffer.split_to(len).freeze();
            if !chunk.is_empty() && sink.take(chunk).await.is_err() {
                break self.peer.lost("a transfer was given up");
            }
            if whole {
                ledger.pay();
                let unwanted = |_| self.peer.lost("a transfer was given up");
                return sink.end().await.map_err(unwanted);
            }
            if let Err(error) = self.fill(patience).await {
                break error;
            }
        };
        let error = self.unless_guessed(hope, error);
        ledger.close(error.clone());
        sink.fail(error.clone());
        Err(error)
    }
}
