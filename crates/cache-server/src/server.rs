//! Questions and their answers.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use drover_core::{DrvOutput, StorePath, ToldRealisation};
use drover_store::Keeper;
use futures::stream;
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
    IF_NONE_MATCH,
};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::body::{self, Answer, Body, CutShort};
use crate::catalogue::{Catalogue, Entry};
use crate::compressed::Frames;
use crate::conditions::{asked_part, matches, unchanged, unsatisfiable};
use crate::kept::Kept;
use crate::listings::Listings;
use crate::metrics::{self, Kind, Metrics};
use crate::nar_out::{NarOut, Source};
use crate::range::Part;
use crate::refusal::Refusal;
use crate::request::{Asked, HashPart, KnownNar, NarName, NotAsked};
use crate::settings::{NarForm, Settings};
use crate::turns::{Turn, Turns};
use crate::upload::Uploader;

/// How long the store may take to say that it is well.
const HEALTH: Duration = Duration::from_secs(5);
/// Parts that are looked for at once whose beginning is further in than [`NEAR`].
const FAR_PARTS: usize = 2;
/// Bytes that are read and passed over for a part without a turn.
const NEAR: u64 = 4 * 1024 * 1024;
/// How long a client waits for its turn.
const PATIENCE: Duration = Duration::from_secs(30);
/// What never changes may be kept by whoever wants to.
const FOREVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// A store behind HTTP. Cheap to clone.
#[derive(Clone)]
pub struct CacheServer {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Keeper>,
    source: Source,
    settings: Settings,
    catalogue: Catalogue,
    frames: Arc<Frames>,
    metrics: Arc<Metrics>,
    kept: Kept,
    listings: Listings,
    far_parts: Turns,
    uploader: Option<Uploader>,
}

impl CacheServer {
    /// Returns the server of a store. Nothing is asked of it yet.
    pub fn new(store: Arc<dyn Keeper>, mut settings: Settings) -> CacheServer {
        let signers = std::mem::take(&mut settings.signers);
        let catalogue = Catalogue::new(Arc::clone(&store), signers, settings.form);
        let metrics = Arc::new(Metrics::default());
        let uploads = settings.uploads.take();
        let uploader = uploads.map(|it| Uploader::new(Arc::clone(&store), it, settings.idle));
        let frames = Arc::new(Frames::new(settings.level));
        let source = Source {
            store: Arc::clone(&store),
            checked: Arc::default(),
            metrics: Arc::clone(&metrics),
        };
        let shared = Shared {
            store,
            source,
            catalogue,
            frames,
            metrics,
            kept: Kept::new(settings.memory),
            listings: Listings::new(PATIENCE),
            far_parts: Turns::new(FAR_PARTS, PATIENCE),
            uploader,
            settings,
        };
        CacheServer { shared: Arc::new(shared) }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Lets go of uploads that nobody has named in time, as long as this is polled.
    pub(crate) async fn clear(&self) {
        match &self.shared.uploader {
            Some(uploader) => uploader.clear().await,
            None => std::future::pending().await,
        }
    }

    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let method = metrics::Method::of(request.method());
        let uri = request.uri();
        let asked = Asked::parse(uri.path(), uri.query());
        let kind = asked.as_ref().map_or(Kind::None, kind_of);
        let answer = match asked {
            Ok(asked) => self.shared.respond(asked, request).await,
            Err(NotAsked::Malformed) => Err(Refusal::bad("400: no cache has such a name")),
            Err(NotAsked::Unknown) => Err(Refusal::absent()),
        };
        let answer = answer.unwrap_or_else(|refusal| body::refused(&refusal));
        self.shared.metrics.answered(kind, method, answer.status().as_u16());
        answer
    }
}

fn kind_of(asked: &Asked) -> Kind {
    match asked {
        Asked::Front => Kind::Front,
        Asked::CacheInfo => Kind::CacheInfo,
        Asked::NarInfo(_) => Kind::NarInfo,
        Asked::Listing(_) => Kind::Listing,
        Asked::Nar(_) => Kind::Nar,
        Asked::Log(_) => Kind::Log,
        Asked::Realisation(_) => Kind::Realisation,
        Asked::Health => Kind::Health,
        Asked::Metrics => Kind::Metrics,
    }
}

impl Shared {
    async fn respond(&self, asked: Asked, request: Request<Incoming>) -> Result<Answer, Refusal> {
        match *request.method() {
            Method::GET | Method::HEAD => {
                let (head, _) = request.into_parts();
                self.give(asked, &head.method, &head.headers).await
            }
            Method::PUT => {
                let Some(uploader) = &self.uploader else { return Ok(self.not_allowed()) };
                uploader.take(asked, request, &self.catalogue, &self.metrics).await
            }
            _ => Ok(self.not_allowed()),
        }
    }

    fn not_allowed(&self) -> Answer {
        let mut answer = body::status(StatusCode::METHOD_NOT_ALLOWED, "this cache is only read\n");
        let methods = match self.uploader {
            Some(_) => HeaderValue::from_static("GET, HEAD, PUT"),
            None => HeaderValue::from_static("GET, HEAD"),
        };
        answer.headers_mut().insert(ALLOW, methods);
        answer
    }

    async fn give(
        &self,
        asked: Asked,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Answer, Refusal> {
        match asked {
            Asked::Front => Ok(body::whole("text/plain; charset=utf-8", self.front())),
            Asked::CacheInfo => Ok(body::whole("text/x-nix-cache-info", self.cache_info())),
            Asked::NarInfo(hash_part) => {
                let entry = self.find(&hash_part).await?;
                if matches(headers, IF_NONE_MATCH, &entry.etag) {
                    return Ok(unchanged(entry.etag.clone()));
                }
                let mut answer = body::whole("text/x-nix-narinfo", entry.text.clone());
                answer.headers_mut().insert(ETAG, entry.etag.clone());
                Ok(answer)
            }
            Asked::Listing(hash_part) => self.listing(&hash_part).await,
            Asked::Nar(NarName { known: Some(known), .. }) => {
                self.nar(known, method, headers).await
            }
            Asked::Nar(NarName { url, known: None }) => match &self.uploader {
                // whoever uploads it asks whether it has come; nobody has checked it yet
                Some(uploader) if *method == Method::HEAD && uploader.has(&url) => {
                    Ok(body::status(StatusCode::OK, ""))
                }
                _ => Err(Refusal::absent()),
            },
            Asked::Log(derivation) => self.log(&derivation).await,
            Asked::Realisation(id) => self.realisation(&id).await,
            Asked::Health => Ok(self.health().await),
            Asked::Metrics => {
                Ok(body::whole("text/plain; version=0.0.4; charset=utf-8", self.metrics.to_text()))
            }
        }
    }

    fn front(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let mut text = format!("A binary cache for Nix, served by drover {version}.\n");
        for key in self.catalogue.signers().public_keys() {
            text.push_str(&format!("trusted-public-keys = {key}\n"));
        }
        text
    }

    fn cache_info(&self) -> String {
        let Settings { mass_query, priority, .. } = &self.settings;
        let store_dir = self.store.store_dir();
        let mass_query = u8::from(*mass_query);
        format!("StoreDir: {store_dir}\nWantMassQuery: {mass_query}\nPriority: {priority}\n")
    }

    async fn find(&self, hash_part: &HashPart) -> Result<Arc<Entry>, Refusal> {
        let found = self.catalogue.find(hash_part).await;
        let found = found.map_err(|error| Refusal::failed("looking a path up", &error))?;
        found.ok_or_else(Refusal::absent)
    }

    /// Returns the refusal of a path that can't be read: it may be one no more, since it was looked up.
    async fn unread(&self, path: &StorePath, reason: &(dyn Display + Sync)) -> Refusal {
        match self.store.valid(&[path.clone()].into()).await {
            Ok(valid) if valid.is_empty() => Refusal::absent(),
            _ => Refusal::failed("reading a path", reason),
        }
    }

    async fn open(&self, entry: &Entry) -> Result<NarOut, Refusal> {
        let (hash, size) = (entry.info.nar_hash, entry.info.nar_size.0);
        if let Some(pieces) = self.kept.find(hash) {
            return Ok(NarOut::Kept(pieces, 0));
        }
        let turn = self.kept.wants(hash, size);
        let opened = NarOut::open(self.source.clone(), entry.info.clone()).await;
        let live = match opened {
            Ok(live) => live,
            Err(error) => return Err(self.unread(&entry.info.path, &error).await),
        };
        if turn.is_none() {
            return Ok(live);
        }
        let pieces = match live.whole().await {
            Ok(pieces) => pieces,
            Err(cut) => return Err(self.unread(&entry.info.path, &cut).await),
        };
        self.kept.keep(hash, size, Arc::clone(&pieces));
        Ok(NarOut::Kept(pieces, 0))
    }

    async fn nar(
        &self,
        known: KnownNar,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Answer, Refusal> {
        let entry = self.find(&known.hash_part).await?;
        if entry.info.nar_hash != known.nar_hash {
            return Err(Refusal::absent());
        }
        let size = entry.info.nar_size.0;
        let digits = drover_core::encode_base32(&known.nar_hash.0);
        // frames may be cut otherwise the next time
        let (etag, content_type) = match known.form {
            NarForm::Plain => (format!("\"{digits}\""), "application/x-nix-nar"),
            NarForm::Zstd => (format!("W/\"{digits}-zstd\""), "application/zstd"),
        };
        let etag =
            HeaderValue::try_from(etag).map_err(|error| Refusal::failed("naming a NAR", &error))?;
        if matches(headers, IF_NONE_MATCH, &etag) {
            return Ok(unchanged(etag));
        }
        let part = match known.form {
            NarForm::Plain => asked_part(headers, &etag, size),
            NarForm::Zstd => Part::Whole,
        };
        if part == Part::Unsatisfiable {
            return Ok(unsatisfiable(size));
        }
        let body = match *method {
            Method::HEAD => empty(known.form, part, size, &self.metrics),
            _ => self.nar_body(&entry, known.form, part).await?,
        };
        let mut answer = http::Response::new(body);
        if let Part::Bytes { from, to } = part {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {from}-{}/{size}", to.saturating_sub(1));
            if let Ok(range) = HeaderValue::try_from(range) {
                answer.headers_mut().insert(CONTENT_RANGE, range);
            }
        }
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(ETAG, etag);
        headers.insert(CACHE_CONTROL, FOREVER);
        headers.insert(ACCEPT_RANGES, accepted_ranges(known.form));
        Ok(answer)
    }

    async fn nar_body(&self, entry: &Entry, form: NarForm, part: Part) -> Result<Body, Refusal> {
        let size = entry.info.nar_size.0;
        let turn = self.turn_for(entry, part).await?;
        let nar = self.open(entry).await?;
        let metrics = Arc::clone(&self.metrics);
        Ok(match (form, part) {
            (NarForm::Zstd, _) => {
                Body::Pieces { pieces: self.frames.compress(nar), left: None, metrics }
            }
            (NarForm::Plain, Part::Bytes { from, to }) => {
                let left = Some(to.saturating_sub(from));
                Body::Pieces { pieces: nar.part(from, to, turn), left, metrics }
            }
            (NarForm::Plain, _) => {
                Body::Pieces { pieces: nar.part(0, size, None), left: Some(size), metrics }
            }
        })
    }

    /// Waits for a turn at what must be read and passed over, where that is much and not in memory.
    async fn turn_for(&self, entry: &Entry, part: Part) -> Result<Option<Turn>, Refusal> {
        match part {
            Part::Bytes { from, .. } if from > NEAR => {
                let kept = self.kept.find(entry.info.nar_hash).is_some();
                if kept { Ok(None) } else { self.far_parts.take().await.map(Some) }
            }
            _ => Ok(None),
        }
    }

    async fn listing(&self, hash_part: &HashPart) -> Result<Answer, Refusal> {
        let entry = self.find(hash_part).await?;
        let turn = self.listings.turn().await?;
        let nar = self.open(&entry).await?;
        Ok(body::whole("application/json", self.listings.of(nar, turn).await?))
    }

    async fn log(&self, derivation: &StorePath) -> Result<Answer, Refusal> {
        let log = self.store.build_log(derivation).await;
        let log = log.map_err(|error| Refusal::failed("reading a log", &error))?;
        let log = log.ok_or_else(Refusal::absent)?;
        let pieces = stream::try_unfold(log, |mut log| async move {
            match log.chunk().await {
                Ok(piece) => Ok(piece.map(|piece| (piece, log))),
                Err(error) => {
                    tracing::error!("a log is cut short: {error}");
                    Err(CutShort)
                }
            }
        });
        let metrics = Arc::clone(&self.metrics);
        let body = Body::Pieces { pieces: Box::pin(pieces), left: None, metrics };
        let mut answer = http::Response::new(body);
        let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
        answer.headers_mut().insert(CONTENT_TYPE, content_type);
        Ok(answer)
    }

    async fn realisation(&self, id: &DrvOutput) -> Result<Answer, Refusal> {
        let found = self.store.realisation(id).await;
        let found = found.map_err(|error| Refusal::failed("looking an output up", &error))?;
        let mut found = found.ok_or_else(Refusal::absent)?;
        self.catalogue.signers().sign_realisation(&mut found);
        Ok(body::whole("application/json", ToldRealisation::from(found).to_file()))
    }

    async fn health(&self) -> Answer {
        match timeout(HEALTH, self.store.connect()).await {
            Ok(Ok(_)) => body::status(StatusCode::OK, "ok\n"),
            Ok(Err(error)) => {
                tracing::error!("the store is not well: {error}");
                body::status(StatusCode::SERVICE_UNAVAILABLE, "the store can't be read\n")
            }
            Err(_) => body::status(StatusCode::SERVICE_UNAVAILABLE, "the store is silent\n"),
        }
    }
}

fn accepted_ranges(form: NarForm) -> HeaderValue {
    HeaderValue::from_static(match form {
        NarForm::Plain => "bytes",
        NarForm::Zstd => "none",
    })
}

/// Returns a body that is only told of.
fn empty(form: NarForm, part: Part, size: u64, metrics: &Arc<Metrics>) -> Body {
    let left = match (form, part) {
        (NarForm::Zstd, _) => None,
        (NarForm::Plain, Part::Bytes { from, to }) => Some(to.saturating_sub(from)),
        (NarForm::Plain, _) => Some(size),
    };
    Body::Pieces { pieces: Box::pin(stream::empty()), left, metrics: Arc::clone(metrics) }
}
