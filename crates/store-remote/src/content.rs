//! Contents and logs sent to a server: bytes that have no announced size.
//!
//! Follows the cases `AddToStore` and `AddBuildLog` of `performOp` in `src/libstore/daemon.cc` of Nix,
//! and for servers before 1.25 `wopAddToStore` in `src/nix-daemon/nix-daemon.cc` of Nix 2.3.

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{IngestionMethod, PathInfo, StorePath};
use drover_nar::{Executable, Limits, Parser, Progress, single_file_nar};
use drover_store::{ByteStream, Content, Repair, StoreError, WhenValid};
use drover_wire::{Dialect, MAX_BYTES, NewContent, Request, Response};
use tokio::sync::oneshot;

use crate::reply::{Awaiting, Patience, answer};
use crate::session::{Session, TRANSFER_LIMIT};
use crate::writer::{Body, Outgoing, Payload};

/// Bytes of a frame. Servers hold a whole one in memory.
const FRAME: usize = 1024 * 1024;

/// Adds contents, and returns what they became.
pub(crate) async fn add(
    session: &Session,
    dialect: &Dialect,
    content: Content,
    bytes: Box<dyn ByteStream>,
    when_valid: WhenValid,
) -> Result<PathInfo, StoreError> {
    let repair = match when_valid {
        WhenValid::Keep => Repair::No,
        WhenValid::Replace => Repair::Yes,
    };
    let old = !dialect.since(25);
    let store = session.channel.peer().name.clone();
    if let (true, Some(what)) = (old, too_new(&content, repair)) {
        return Err(StoreError::Unsupported { store, what });
    }
    match ask(session, dialect, content, bytes, repair).await? {
        Response::Added(info) => Ok(*info),
        Response::Path(path) => {
            let infos = session.path_infos(std::slice::from_ref(&path)).await?;
            let store = session.channel.peer().name.clone();
            infos.into_iter().flatten().next().ok_or(StoreError::NotValid { store, path })
        }
        _ => Err(unexpected(session)),
    }
}

/// Sends contents in the form that the server's version takes.
async fn ask(
    session: &Session,
    dialect: &Dialect,
    content: Content,
    bytes: Box<dyn ByteStream>,
    repair: Repair,
) -> Result<Response, StoreError> {
    let store = session.channel.peer().name.clone();
    let (stream, failed) = Stream::new(bytes);
    let method = content.method;
    let request = Request::AddToStore(NewContent {
        name: content.name.to_string(),
        method,
        algorithm: content.algorithm,
        references: content.references.clone(),
        repair,
    });
    match method {
        _ if dialect.since(25) => {
            send(session, dialect, request, Payload::Whole(stream), failed).await
        }
        IngestionMethod::Text => {
            let text = stream.whole(&store).await?;
            let request =
                Request::AddTextToStore(content.name.to_string(), text, content.references);
            session.ask(dialect, request).await
        }
        IngestionMethod::Nar => {
            let nar =
                OneNar { stream, parser: Some(Parser::new(Limits::of_size(u64::MAX))), store };
            send(session, dialect, request, Payload::Bare(Box::new(nar)), failed).await
        }
        IngestionMethod::Flat | IngestionMethod::Git => {
            let file = single_file_nar(&stream.whole(&store).await?, Executable::No);
            let file = Payload::Bare(Box::new(Once(Some(file.into()))));
            send(session, dialect, request, file, failed).await
        }
    }
}

/// Returns what of an addition servers before 1.25 can't do.
fn too_new(content: &Content, repair: Repair) -> Option<&'static str> {
    match content.method {
        _ if repair == Repair::Yes => Some("replace contents (its Nix is too old)"),
        IngestionMethod::Git => Some("add contents under a git hash (its Nix is too old)"),
        IngestionMethod::Flat | IngestionMethod::Nar if !content.references.is_empty() => {
            Some("add contents with references (its Nix is too old)")
        }
        _ => None,
    }
}

/// Keeps the log of a build.
pub(crate) async fn add_log(
    session: &Session,
    dialect: &Dialect,
    derivation: &StorePath,
    log: Box<dyn ByteStream>,
) -> Result<(), StoreError> {
    let (stream, failed) = Stream::new(log);
    let request = Request::AddBuildLog(derivation.clone());
    send(session, dialect, request, Payload::Whole(stream), failed).await.map(drop)
}

fn unexpected(session: &Session) -> StoreError {
    let reason = "it answered something else than was asked".to_owned();
    StoreError::Protocol { store: session.channel.peer().name.clone(), reason }
}

/// Sends a request with data behind it, and waits for the answer. The channel is of no use any more
/// if that doesn't go well: a server that refuses may take the data for requests.
async fn send(
    session: &Session,
    dialect: &Dialect,
    request: Request,
    payload: Payload,
    mut failed: oneshot::Receiver<StoreError>,
) -> Result<Response, StoreError> {
    session.pack();
    let bytes = request.encode(dialect);
    let expected = dialect.clone();
    let (answer, arrives) = answer(move |from| Response::decode(from, &expected, &request));
    let patience = Patience::Limited(TRANSFER_LIMIT, "adding contents");
    session.channel.submit(
        Outgoing { request: bytes, payload },
        Awaiting::one(session.language.preamble(), answer, patience),
    );
    let arrival = session.arrival(arrives);
    tokio::pin!(arrival);
    let answered = tokio::select! {
        biased;
        Ok(error) = &mut failed => Err(error),
        answered = &mut arrival => answered,
    };
    if let Err(error) = &answered {
        session.channel.condemn(error);
    }
    answered
}

/// Bytes on their way, and where their failing is told.
struct Stream {
    bytes: Box<dyn ByteStream>,
    failed: Option<oneshot::Sender<StoreError>>,
    /// What came in one piece and is sent in several.
    rest: Bytes,
}

impl Stream {
    fn new(bytes: Box<dyn ByteStream>) -> (Box<Stream>, oneshot::Receiver<StoreError>) {
        let (failed, failure) = oneshot::channel();
        (Box::new(Stream { bytes, failed: Some(failed), rest: Bytes::new() }), failure)
    }

    fn fail(&mut self, error: &StoreError) {
        if let Some(failed) = self.failed.take() {
            // who has given it up has no use for the reason
            drop(failed.send(error.clone()));
        }
    }

    /// Reads all of it, up to [`MAX_BYTES`].
    async fn whole(mut self: Box<Self>, store: &str) -> Result<Vec<u8>, StoreError> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.bytes.chunk().await? {
            whole.extend_from_slice(&chunk);
            if whole.len() > MAX_BYTES {
                let what = "take a file over 64 MiB (its Nix is too old)";
                return Err(StoreError::Unsupported { store: store.to_owned(), what });
            }
        }
        Ok(whole)
    }
}

#[async_trait]
impl Body for Stream {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.rest.is_empty() {
            match self.bytes.chunk().await {
                Ok(Some(chunk)) => self.rest = chunk,
                Ok(None) => return Ok(None),
                Err(error) => {
                    self.fail(&error);
                    return Err(error);
                }
            }
        }
        let len = self.rest.len().min(FRAME);
        Ok(Some(self.rest.split_to(len)))
    }
}

/// A NAR that the server finds the end of by itself: what came behind it would be requests.
struct OneNar {
    stream: Box<Stream>,
    /// `None` once the NAR is whole.
    parser: Option<Parser>,
    store: String,
}

impl OneNar {
    fn check(&mut self, chunk: Option<&Bytes>) -> Result<(), &'static str> {
        match (&mut self.parser, chunk) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err("there is more behind the NAR"),
            (Some(_), None) => Err("the NAR ends too early"),
            (Some(parser), Some(chunk)) => match parser.feed(chunk, &mut ()) {
                Ok(Progress::More) => Ok(()),
                Ok(Progress::Done { consumed }) if consumed == chunk.len() => {
                    self.parser = None;
                    Ok(())
                }
                Ok(Progress::Done { .. }) => Err("there is more behind the NAR"),
                Err(_) => Err("it is no NAR"),
            },
        }
    }
}

#[async_trait]
impl Body for OneNar {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let chunk = self.stream.next().await?;
        if let Err(rule) = self.check(chunk.as_ref()) {
            let message = format!("contents can't be added to '{}': {rule}", self.store);
            let error = StoreError::refused(&self.store, message);
            self.stream.fail(&error);
            return Err(error);
        }
        Ok(chunk)
    }
}

/// Bytes that are there already.
struct Once(Option<Bytes>);

#[async_trait]
impl Body for Once {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.take())
    }
}
