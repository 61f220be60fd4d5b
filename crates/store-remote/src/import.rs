//! Paths sent to a server, in the form that its version takes.

use std::collections::VecDeque;
use std::future::Future;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{NarSize, PathInfo, StorePath};
use drover_store::{PathStream, Repair, SignatureCheck, StoreError};
use drover_wire::{
    Dialect, Encoder, FRAME_END, Request, ServeDialect, ServeRequest, encode_keyed_path_info,
    frame_header,
};
use tokio::sync::{mpsc, oneshot};

use crate::pull::Pulled;
use crate::reply::{Awaiting, Patience, Pull, answer};
use crate::session::{Language, Session, TRANSFER_LIMIT};
use crate::writer::{Body, Outgoing, Payload};

/// The version from which on many paths are sent as one request. The request is as old as 1.32, but
/// before Nix 2.18 (1.35) a server loses its place in the data when a path is there already.
const TAKES_MANY: u8 = 36;

/// How paths are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addition {
    pub(crate) check: SignatureCheck,
    pub(crate) repair: Repair,
}

impl Addition {
    /// What is sent is taken at our word, and what is there already stays.
    pub(crate) const PLAIN: Addition = Addition { check: SignatureCheck::Skip, repair: Repair::No };

    fn many(self) -> Request {
        match self.repair {
            Repair::No => Request::AddMultipleToStore(self.check),
            Repair::Yes => Request::RepairMultipleToStore(self.check),
        }
    }

    pub(crate) fn one(self, info: PathInfo) -> Request {
        match self.repair {
            Repair::No => Request::AddToStoreNar(info, self.check),
            Repair::Yes => Request::RepairToStoreNar(info, self.check),
        }
    }
}

/// Queues the import of paths: one request where the server takes many, else one for each path,
/// all of them sent without waiting for answers.
///
/// The error of the source comes before that of the server, which only sees that data ended early.
pub(crate) fn import(
    session: &Session,
    paths: Box<dyn PathStream>,
    addition: Addition,
) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
    let count = paths.count();
    let (source_failed, mut source_error) = oneshot::channel();
    let store = session.channel.peer().name.clone();
    let source = Source { paths, failed: Some(source_failed), store, current: None };
    let Plan { request, payload, answers, numbers, pulls } =
        plan(&session.language, source, count, addition);
    let (answer, arrives) = answer(move |from| match numbers {
        Numbers::None => Ok(()),
        Numbers::One => from.number().map(drop),
    });
    if answers == 0 {
        return futures::future::Either::Left(std::future::ready(Ok(())));
    }
    session.pack();
    let patience = Patience::Limited(TRANSFER_LIMIT, "adding paths");
    session.channel.submit(
        Outgoing { request, payload },
        Awaiting { answers, pulls, ..Awaiting::one(session.language.preamble(), answer, patience) },
    );
    let arrival = session.arrival(arrives);
    futures::future::Either::Right(async move {
        // a source that fails says so before the server can notice
        arrival.await.map_err(|error| source_error.try_recv().unwrap_or(error))
    })
}

/// How paths are sent in a dialect.
struct Plan {
    request: Vec<u8>,
    payload: Payload,
    answers: usize,
    numbers: Numbers,
    pulls: Option<mpsc::UnboundedSender<Pull>>,
}

fn plan(language: &Language, source: Source, count: usize, addition: Addition) -> Plan {
    let one_by_one = |source, form| {
        Box::new(OneByOne { source, form, ready: VecDeque::new(), state: Each::Next })
    };
    let (request, numbers) = (Vec::new(), Numbers::None);
    match language {
        Language::Worker(dialect) if dialect.since(TAKES_MANY) => {
            let body = Together { source, dialect: dialect.clone(), state: State::Count(count) };
            let request = addition.many().encode(dialect);
            let payload = Payload::Framed(Box::new(body));
            Plan { request, payload, answers: 1, numbers, pulls: None }
        }
        Language::Worker(dialect) if dialect.since(23) => {
            let payload =
                Payload::Bare(one_by_one(source, Form::Worker(dialect.clone(), addition)));
            Plan { request, payload, answers: count, numbers, pulls: None }
        }
        Language::Worker(dialect) => {
            let (demands, pulls) = mpsc::unbounded_channel();
            let pulled = Pulled { source, dialect: dialect.clone(), addition, pulls };
            let payload = Payload::Pulled(Box::new(pulled));
            Plan { request, payload, answers: count, numbers, pulls: Some(demands) }
        }
        Language::Serve(dialect) => {
            let payload = Payload::Bare(one_by_one(source, Form::Serve(dialect.clone())));
            Plan { request, payload, answers: count, numbers: Numbers::One, pulls: None }
        }
    }
}

/// What the server answers when a path was added.
#[derive(Clone, Copy)]
enum Numbers {
    None,
    One,
}

/// The paths, and where their failing is told. A NAR that hasn't the size announced ends the
/// transfer: the server would take what follows for the rest of it.
pub(crate) struct Source {
    paths: Box<dyn PathStream>,
    failed: Option<oneshot::Sender<StoreError>>,
    /// Who it goes to.
    store: String,
    /// The path whose NAR is passing, and how much of it has.
    current: Option<(StorePath, NarSize, NarSize)>,
}

impl Source {
    fn note<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let (Err(error), Some(failed)) = (&result, self.failed.take_if(|_| result.is_err())) {
            drop(failed.send(error.clone()));
        }
        result
    }

    pub(crate) async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        let next = self.paths.next_path().await;
        if let Ok(Some(info)) = &next {
            self.current = Some((info.path.clone(), info.nar_size, NarSize(0)));
        }
        self.note(next)
    }

    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let chunk = self.paths.chunk().await;
        let counted = chunk.and_then(|chunk| self.count(chunk));
        self.note(counted)
    }

    fn count(&mut self, chunk: Option<Bytes>) -> Result<Option<Bytes>, StoreError> {
        let Some((path, expected, passed)) = &mut self.current else { return Ok(chunk) };
        passed.0 = passed.0.saturating_add(chunk.as_ref().map_or(0, |chunk| chunk.len() as u64));
        let fits = match &chunk {
            Some(_) => *passed <= *expected,
            None => passed == expected,
        };
        if fits {
            return Ok(chunk);
        }
        let (store, path) = (self.store.clone(), path.clone());
        Err(StoreError::SizeMismatch { store, path, expected: *expected, actual: *passed })
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
    Worker(Dialect, Addition),
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
                        Form::Worker(dialect, addition) => {
                            addition.one(info).encode(dialect).into()
                        }
                        Form::Serve(dialect) => {
                            ServeRequest::AddToStoreNar(info).encode(dialect).into()
                        }
                    });
                }
                Each::Nar => {
                    let chunk = self.source.chunk().await?;
                    let framed = matches!(self.form, Form::Worker(..));
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
