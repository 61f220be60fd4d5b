//! A channel and the protocol that is spoken on it: requests with typed answers.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use drover_core::{NarSize, PathInfo, StorePath};
use drover_store::{BuildLog, BuildSettings, StoreError, Substitute};
use drover_wire::{
    BuildResult, ClientOptions, Decoder, Dialect, Request, Response, ServeBuildOptions,
    ServeDialect, ServeRequest, decode_serve_build_result,
};
use tokio::sync::{mpsc, oneshot};

use crate::channel::Channel;
use crate::dial::Way;
use crate::held::First;
use crate::log::Listener;
use crate::reply::{
    Awaiting, Delivery, Hope, NarChunk, NarSink, Onwards, Patience, Preamble, Silence,
    StandardError, answer,
};
use crate::writer::{Outgoing, Payload};

// These are meant for a user of the usual patience; see [`Watch::limit`](crate::watch::Watch::limit).

/// How long a server may take for a question about paths.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(120);
/// How long a server may take to find out what is missing.
const MISSING_LIMIT: Duration = Duration::from_secs(900);
/// How long a server may take between two pieces of data, or to add what it was sent.
pub(crate) const TRANSFER_LIMIT: Duration = Duration::from_secs(300);
/// Chunks of a NAR that wait for who takes them.
const NAR_QUEUE: usize = 4;

/// What is spoken on a channel.
#[derive(Clone, Debug)]
pub(crate) enum Language {
    /// The worker protocol.
    Worker(Dialect),
    /// The serve protocol.
    Serve(ServeDialect),
}

impl Language {
    pub(crate) fn preamble(&self) -> Preamble {
        match self {
            Language::Worker(dialect) => Preamble::Messages { minor: dialect.version.minor },
            Language::Serve(_) => Preamble::None,
        }
    }

    /// Returns name and version.
    pub(crate) fn describe(&self) -> String {
        match self {
            Language::Worker(dialect) => format!("worker protocol {}", dialect.version),
            Language::Serve(dialect) => format!("serve protocol {}", dialect.version),
        }
    }
}

/// A channel, and what is spoken on it.
pub(crate) struct Session {
    pub(crate) channel: Channel,
    pub(crate) language: Language,
    /// How many paths the server holds for this channel; see [`Held`](crate::held::Held).
    roots: AtomicUsize,
    /// The settings that the server was told last; its own hold where it was told none.
    settled: Mutex<Option<BuildSettings>>,
    /// Whether it is worth it to pack what goes over the channel, and not done yet.
    unpacked: AtomicBool,
    /// Requests that went with the greeting. They are not sent again when they are made.
    sent_ahead: Mutex<Vec<u8>>,
}

impl Session {
    /// `sent_ahead` are the bytes of the first requests if those were sent already.
    pub(crate) fn new(
        channel: Channel,
        language: Language,
        way: Way,
        sent_ahead: Vec<u8>,
    ) -> Session {
        let can_be_packed = match &language {
            Language::Worker(dialect) => dialect.can_be_packed(),
            Language::Serve(_) => false,
        };
        Session {
            channel,
            language,
            roots: AtomicUsize::new(0),
            settled: Mutex::default(),
            unpacked: AtomicBool::new(way == Way::Long && can_be_packed),
            sent_ahead: Mutex::new(sent_ahead),
        }
    }

    /// Has all that follows packed, where that is worth it and the server knows how. Only contents of
    /// paths are worth it, so this comes before those.
    pub(crate) fn pack(&self) {
        let Language::Worker(dialect) = &self.language else { return };
        if !self.unpacked.swap(false, Ordering::AcqRel) {
            return;
        }
        let (answer, _) = answer(|_| Ok(()));
        self.channel.submit(
            Outgoing { request: Request::Pack.encode(dialect), payload: Payload::Packing },
            Awaiting {
                then: Onwards::Packed,
                ..Awaiting::one(self.language.preamble(), answer, patience(&Request::Pack))
            },
        );
    }

    /// Has the server know these settings for what follows. A server's own hold otherwise, which is
    /// why nothing is sent where nothing was asked for.
    pub(crate) fn settle(&self, dialect: &Dialect, settings: &BuildSettings) {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = match settled.as_ref() {
            Some(told) => told == settings,
            None => settings.asks_for_nothing(),
        };
        if !is_known {
            // its failing would be the connection's, which the next request finds
            drop(self.ask(dialect, Request::SetOptions(client_options(settings))));
            *settled = Some(settings.clone());
        }
    }

    /// Returns what is still to be sent of a request.
    fn unsent(&self, request: Vec<u8>) -> Vec<u8> {
        let mut ahead = self.sent_ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if ahead.is_empty() {
            return request;
        }
        match ahead.strip_prefix(request.as_slice()).map(<[u8]>::to_vec) {
            Some(rest) => {
                *ahead = rest;
                Vec::new()
            }
            None => {
                // the answers to come are to other questions
                self.channel.condemn(&self.channel.peer().lost("requests were mixed up"));
                request
            }
        }
    }

    /// Whether the server holds any paths for this channel.
    pub(crate) fn holds_roots(&self) -> bool {
        self.roots() != First(0)
    }

    /// Returns what the server holds for this channel.
    pub(crate) fn roots(&self) -> First {
        First(self.roots.load(Ordering::Acquire))
    }

    /// Says that the server was told to hold these for this channel.
    pub(crate) fn mark_roots(&self, roots: First) {
        self.roots.fetch_max(roots.0, Ordering::AcqRel);
    }

    /// Sends a request; the answer can be waited for, or not, while others are sent.
    pub(crate) fn call<T, F>(
        &self,
        request: Vec<u8>,
        patience: Patience,
        log: Listener,
        stderr: StandardError,
        decode: F,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnMut(&mut Decoder<'_>) -> Result<T, drover_wire::DecodeError> + Send + 'static,
    {
        let (answer, arrives) = answer(decode);
        let preamble = self.language.preamble();
        self.channel.submit(
            Outgoing::plain(self.unsent(request)),
            Awaiting { log, stderr, ..Awaiting::one(preamble, answer, patience) },
        );
        self.arrival(arrives)
    }

    /// Waits for an answer; where nobody is left to give it, the channel has ended.
    pub(crate) fn arrival<T: Send + 'static>(
        &self,
        arrives: oneshot::Receiver<Result<T, StoreError>>,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + use<T> {
        let lost = self.channel.peer().lost("the connection broke");
        async move { arrives.await.unwrap_or(Err(lost)) }
    }

    /// Sends a request of the worker protocol.
    pub(crate) fn ask(
        &self,
        dialect: &Dialect,
        request: Request,
    ) -> impl Future<Output = Result<Response, StoreError>> + Send + use<> {
        let patience = patience(&request);
        self.ask_with(dialect, request, patience, Listener::nobody())
    }

    /// Sends a request of the worker protocol whose messages somebody follows.
    pub(crate) fn ask_with(
        &self,
        dialect: &Dialect,
        request: Request,
        patience: Patience,
        log: Listener,
    ) -> impl Future<Output = Result<Response, StoreError>> + Send + use<> {
        let bytes = request.encode(dialect);
        let dialect = dialect.clone();
        // the derivation itself is of no use for reading the answer
        let request = match request {
            Request::BuildDerivation(..) => Expected::BuildResult,
            request => Expected::Of(Box::new(request)),
        };
        self.call(bytes, patience, log, StandardError::LastWords, move |from| match &request {
            Expected::BuildResult => {
                Ok(Response::BuildResult(Box::new(BuildResult::decode(from, &dialect)?)))
            }
            Expected::Of(request) => Response::decode(from, &dialect, request),
        })
    }

    /// Sends a build in the serve protocol, whose log comes by the server's standard error.
    pub(crate) fn serve_build(
        &self,
        dialect: &ServeDialect,
        request: &ServeRequest,
        silence: Silence,
        log: Arc<dyn BuildLog>,
    ) -> impl Future<Output = Result<BuildResult, StoreError>> + Send + use<> {
        let bytes = request.encode(dialect);
        let dialect = dialect.clone();
        let log = Listener::Build(log);
        self.call(bytes, Patience::Begun(silence), log, StandardError::BuildLog, move |from| {
            decode_serve_build_result(from, &dialect)
        })
    }

    /// Sends a build of a `.drv` in the serve protocol, as [`Session::serve_build`]. The answer is
    /// an exit status, and what went wrong.
    pub(crate) fn serve_build_paths(
        &self,
        request: Vec<u8>,
        silence: Silence,
        log: Arc<dyn BuildLog>,
    ) -> impl Future<Output = Result<Option<(u64, String)>, StoreError>> + Send + use<> {
        let log = Listener::Build(log);
        self.call(
            request,
            Patience::Begun(silence),
            log,
            StandardError::BuildLog,
            |from| match from.number()? {
                0 => Ok(None),
                status => Ok(Some((status, from.message()?))),
            },
        )
    }

    /// Sends for a NAR that is taken as it comes.
    pub(crate) fn nar(&self, info: &PathInfo) -> mpsc::Receiver<Result<NarChunk, StoreError>> {
        let (to, chunks) = mpsc::channel(NAR_QUEUE);
        self.send_for_nar(&info.path, info.nar_size, Hope::Sure, Delivery::Chunks(to));
        chunks
    }

    /// Sends for a small NAR, which comes whole.
    pub(crate) fn whole_nar(
        &self,
        info: &PathInfo,
    ) -> impl Future<Output = Result<Bytes, StoreError>> + Send + use<> {
        let (to, arrives) = oneshot::channel();
        self.send_for_nar(&info.path, info.nar_size, Hope::Sure, Delivery::Whole(Vec::new(), to));
        self.arrival(arrives)
    }

    /// Sends for a NAR that may not be there, or be larger; then the channel ends.
    pub(crate) fn hoped_nar(
        &self,
        path: &StorePath,
        at_most: NarSize,
    ) -> impl Future<Output = Result<Bytes, StoreError>> + Send + use<> {
        let (to, arrives) = oneshot::channel();
        self.send_for_nar(path, at_most, Hope::Guess, Delivery::Whole(Vec::new(), to));
        self.arrival(arrives)
    }

    fn send_for_nar(&self, path: &StorePath, max_size: NarSize, hope: Hope, to: Delivery) {
        self.pack();
        let path = path.clone();
        let (answer, _) = answer(|_| Ok(()));
        let patience = Patience::Limited(TRANSFER_LIMIT, "fetching a path");
        let request = match &self.language {
            Language::Worker(dialect) => Request::NarFromPath(path.clone()).encode(dialect),
            Language::Serve(dialect) => ServeRequest::DumpStorePath(path.clone()).encode(dialect),
        };
        self.channel.submit(
            Outgoing::plain(request),
            Awaiting {
                nar: Some(NarSink { path, max_size: max_size.0, to }),
                hope,
                ..Awaiting::one(self.language.preamble(), answer, patience)
            },
        );
    }

    pub(crate) fn store_dir(&self) -> &drover_core::StoreDir {
        match &self.language {
            Language::Worker(dialect) => &dialect.store_dir,
            Language::Serve(dialect) => &dialect.store_dir,
        }
    }
}

/// Returns how long the answer to a request may take.
pub(crate) fn patience(request: &Request) -> Patience {
    match request {
        Request::EnsurePath(_)
        | Request::QueryValidPaths(_, Substitute::Yes)
        | Request::CollectGarbage(_)
        | Request::OptimiseStore
        | Request::VerifyStore(..)
        | Request::BuildDerivation(..)
        | Request::BuildPathsWithResults(..)
        | Request::BuildPaths(..) => Patience::Watched,
        // the server may have to ask its substituters first, one after another
        Request::QueryMissing(_) => Patience::Limited(MISSING_LIMIT, "asking what is missing"),
        Request::QuerySubstitutablePaths(_) => {
            Patience::Limited(MISSING_LIMIT, "asking what substituters have")
        }
        // every process of the machine is looked at
        Request::FindRoots => Patience::Limited(MISSING_LIMIT, "asking for roots"),
        _ => Patience::Limited(ANSWER_LIMIT, "asking about paths"),
    }
}

enum Expected {
    BuildResult,
    Of(Box<Request>),
}

/// Returns settings as they travel.
pub(crate) fn client_options(settings: &BuildSettings) -> ClientOptions {
    let mut overrides = settings.overrides.clone();
    if let Some(timeout) = settings.timeout {
        overrides.insert("timeout".to_owned(), timeout.as_secs().to_string());
    }
    ClientOptions {
        keep_failed: settings.keep_failed,
        keep_going: false,
        fallback: false,
        verbosity: 3,
        max_jobs: 1,
        max_silent_time: settings.max_silent_time.map_or(0, |limit| limit.as_secs()),
        verbose_build: true,
        cores: settings.told_cores().into(),
        use_substitutes: true,
        overrides,
    }
}

/// Returns the options that travel with a build in the serve protocol.
pub(crate) fn serve_options(settings: &BuildSettings) -> ServeBuildOptions {
    let seconds = |limit: Option<Duration>| limit.map_or(0, |limit| limit.as_secs());
    ServeBuildOptions {
        max_silent_time: seconds(settings.max_silent_time),
        timeout: seconds(settings.timeout),
        max_log_size: settings
            .overrides
            .get("max-build-log-size")
            .and_then(|size| size.parse().ok())
            .unwrap_or(0),
        keep_failed: settings.keep_failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of settings can't leave the cores out; Nix says those of this machine.
    #[test]
    fn cores_are_told_as_they_are_here_unless_asked_for() {
        let usual = BuildSettings { usual_cores: 3, ..BuildSettings::default() };
        assert!(usual.asks_for_nothing());
        let limited = BuildSettings { timeout: Some(Duration::from_secs(9)), ..usual.clone() };
        assert!(!limited.asks_for_nothing());
        assert_eq!(client_options(&limited).cores, 3);
        let asked = BuildSettings { cores: Some(0), ..usual };
        assert!(!asked.asks_for_nothing());
        assert_eq!(client_options(&asked).cores, 0);
    }
}
