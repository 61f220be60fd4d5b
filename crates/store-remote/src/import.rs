//! Paths sent to a server, in the form that its version takes.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::PathInfo;
use drover_store::{PathStream, SilentLog, StoreError};
use drover_wire::{
    Dialect, Encoder, FRAME_END, Request, ServeDialect, ServeRequest, SignatureCheck,
    encode_keyed_path_info, frame_header,
};
use tokio::sync::oneshot;

use crate::reply::{Awaiting, LastSent, Patience, answer};
use crate::session::{Language, Session, TRANSFER_LIMIT};
use crate::writer::{Body, Framing, Outgoing};

/// Queues the import of paths: one request where the server takes many, else one for each path,
/// all of them sent without waiting for answers.
///
/// The error of the source comes before that of the server, which only sees that data ended early.
pub(crate) fn import(
    session: &Session,
    paths: Box<dyn PathStream>,
) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
    let count = paths.count();
    let (source_failed, source_error) = oneshot::channel();
    let sent = Arc::new(LastSent::now());
    let source = Source { paths, failed: Some(source_failed), sent: Arc::clone(&sent) };
    let (request, framing, body, answers, numbers): (_, _, Box<dyn Body>, _, _) =
        match &session.language {
            Language::Worker(dialect) if dialect.since(32) => {
                let body = Together { source, dialect: dialect.clone(), state: State::Count(count) };
                let request = Request::AddMultipleToStore(SignatureCheck::Skip).encode(dialect);
                (request, Framing::Framed, Box::new(body), 1, Numbers::None)
            }
            Language::Worker(dialect) => {
                let form = Form::Worker(dialect.clone());
                let body = OneByOne { source, form, ready: VecDeque::new(), state: Each::Next };
                (Vec::new(), Framing::Bare, Box::new(body), count, Numbers::None)
            }
            Language::Serve(dialect) => {
                let form = Form::Serve(dialect.clone());
                let body = OneByOne { source, form, ready: VecDeque::new(), state: Each::Next };
                (Vec::new(), Framing::Bare, Box::new(body), count, Numbers::One)
            }
        };
    let (answer, arrives) = answer(move |from| match numbers {
        Numbers::None => Ok(()),
        Numbers::One => from.number().map(drop),
    });
    session.channel.submit(
        Outgoing { request, body: Some((framing, body)) },
        Awaiting {
            preamble: session.language.preamble(),
            answers,
            answer,
            nar: None,
            log: Arc::new(SilentLog),
            patience: Patience::AfterData(TRANSFER_LIMIT, sent, "adding paths"),
        },
    );
    let arrival = session.arrival(arrives);
    async move {
        match (arrival.await, source_error.await) {
            (Ok(()), _) => Ok(()),
            (Err(_), Ok(error)) => Err(error),
            (Err(error), Err(_)) => Err(error),
        }
    }
}

/// What the server answers when a path was added.
#[derive(Clone, Copy)]
enum Numbers {
    None,
    One,
}

/// The paths, and where their failing is told.
struct Source {
    paths: Box<dyn PathStream>,
    failed: Option<oneshot::Sender<StoreError>>,
    /// Noted whenever something more is asked for, as what came before was sent then.
    sent: Arc<LastSent>,
}

impl Source {
    fn note<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let (Err(error), Some(failed)) = (&result, self.failed.take_if(|_| result.is_err())) {
            drop(failed.send(error.clone()));
        }
        result
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        self.sent.waits_for_source();
        let next = self.paths.next_path().await;
        self.sent.note();
        self.note(next)
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.sent.waits_for_source();
        let chunk = self.paths.chunk().await;
        self.sent.note();
        self.note(chunk)
    }
}

/// The data of `AddMultipleToStore`: a count, then infos and NARs.
struct Together {
    source: Source,
    dialect: Dialect,
    state: State,
}

enum State {
    Count(usize),
    Path,
    Nar,
}

#[async_trait]
impl Body for Together {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            match self.state {
                State::Count(count) => {
                    self.state = State::Path;
                    return Ok(Some(Bytes::copy_from_slice(&(count as u64).to_le_bytes())));
                }
                State::Path => {
                    let Some(info) = self.source.next_path().await? else { return Ok(None) };
                    self.state = State::Nar;
                    let mut out = Encoder::new();
                    encode_keyed_path_info(&mut out, &self.dialect.store_dir, &info);
                    return Ok(Some(out.into_bytes().into()));
                }
                State::Nar => match self.source.chunk().await? {
                    Some(chunk) => return Ok(Some(chunk)),
                    None => self.state = State::Path,
                },
            }
        }
    }
}

/// Requests one by one, each with its NAR behind it.
struct OneByOne {
    source: Source,
    form: Form,
    ready: VecDeque<Bytes>,
    state: Each,
}

enum Form {
    /// The NAR in frames.
    Worker(Dialect),
    /// The bare NAR.
    Serve(ServeDialect),
}

#[derive(Clone, Copy)]
enum Each {
    Next,
    Nar,
}

#[async_trait]
impl Body for OneByOne {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Ok(Some(ready));
            }
            match self.state {
                Each::Next => {
                    let Some(info) = self.source.next_path().await? else { return Ok(None) };
                    self.state = Each::Nar;
                    self.ready.push_back(match &self.form {
                        Form::Worker(dialect) => {
                            Request::AddToStoreNar(info, SignatureCheck::Skip).encode(dialect).into()
                        }
                        Form::Serve(dialect) => {
                            ServeRequest::AddToStoreNar(info).encode(dialect).into()
                        }
                    });
                }
                Each::Nar => {
                    let chunk = self.source.chunk().await?;
                    let framed = matches!(self.form, Form::Worker(_));
                    if let (Some(chunk), true) = (&chunk, framed) {
                        self.ready.push_back(Bytes::copy_from_slice(&frame_header(chunk.len())));
                    }
                    match chunk {
                        Some(chunk) => self.ready.push_back(chunk),
                        None => {
                            self.state = Each::Next;
                            if framed {
                                self.ready.push_back(Bytes::from_static(&FRAME_END));
                            }
                        }
                    }
                }
            }
        }
    }
}
