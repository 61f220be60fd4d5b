//! What is written, by whoever has the token.
//!
//! The way of `nix copy --to http://…`: a NAR's file comes first, then its narinfo, which names it. The
//! file waits in a spool until then and is checked on its way into the store; what is served of it
//! later is what the store has. Follows `BinaryCacheStore::addToStoreCommon` of Nix.

mod spool;
mod take;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use drover_core::{DrvOutput, NarInfo, NarUrl, Signature, StorePath, ToldRealisation};
use drover_store::{ByteStream, Keeper, SignatureCheck, StoreError};
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

use self::spool::{Room, Spool};
use self::take::take_path;
use crate::body::{self, Answer};
use crate::catalogue::Catalogue;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::request::{Asked, HashPart, NarName};
use crate::settings::{UploadTrust, Uploads, WriteToken};

/// Bytes of a listing that is sent.
const MAX_LISTING: u64 = 256 * 1024 * 1024;

/// Signatures that a path has at most, as far as they are uploaded.
const MOST_SIGNATURES: usize = 64;

/// How often it is looked for files that have waited for too long.
const CLEARING: Duration = Duration::from_secs(60);

/// Takes uploads.
pub(crate) struct Uploader {
    store: Arc<dyn Keeper>,
    token: WriteToken,
    check: SignatureCheck,
    largest_file: u64,
    spool: Spool,
    /// How long a client may send nothing.
    idle: Duration,
}

/// Refuses more signatures than a path may have: whoever reads its narinfo must be able to.
fn check_signatures(path: &StorePath, count: usize) -> Result<(), Refusal> {
    if count <= MOST_SIGNATURES {
        return Ok(());
    }
    let says = format!("'{path}' would have more than {MOST_SIGNATURES} signatures");
    Err(Refusal::new(StatusCode::CONFLICT, says))
}

impl Uploader {
    pub(crate) fn new(store: Arc<dyn Keeper>, uploads: Uploads, idle: Duration) -> Uploader {
        let check = match uploads.trust {
            UploadTrust::BySignature => SignatureCheck::AsConfigured,
            UploadTrust::ByToken => SignatureCheck::Skip,
        };
        let largest_file = uploads.largest_file;
        let spool = Spool::new(uploads.folder, uploads.most_waiting, uploads.patience);
        Uploader { store, token: uploads.token, check, largest_file, spool, idle }
    }

    /// Lets go of files that have waited for too long, as long as this is polled.
    pub(crate) async fn clear(&self) {
        loop {
            tokio::time::sleep(CLEARING).await;
            self.spool.clear();
        }
    }

    /// Whether a file waits for its narinfo.
    pub(crate) fn has(&self, url: &NarUrl) -> bool {
        self.spool.find(url).is_some()
    }

    /// Takes what somebody sends, after a look at who that is.
    pub(crate) async fn take(
        &self,
        asked: Asked,
        request: Request<Incoming>,
        catalogue: &Catalogue,
        metrics: &Metrics,
    ) -> Result<Answer, Refusal> {
        if !self.may_write(request.headers()) {
            return Ok(unauthorised());
        }
        let encoding = request.headers().get(CONTENT_ENCODING).map(HeaderValue::as_bytes);
        if !matches!(encoding, None | Some(b"" | b"identity")) {
            let says = "an upload must come without a content-encoding";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, says));
        }
        let limit = match &asked {
            Asked::NarInfo(_) => NarInfo::MAX_SIZE as u64,
            Asked::Realisation(_) => ToldRealisation::MAX_FILE,
            Asked::Listing(_) => MAX_LISTING,
            _ => self.largest_file,
        };
        let arriving = Arriving::new(request, limit, self.idle)?;
        match asked {
            Asked::Nar(NarName { url, .. }) => self.spool.take(url, arriving).await,
            Asked::NarInfo(hash_part) => {
                self.narinfo(&hash_part, arriving, catalogue, metrics).await
            }
            Asked::Listing(_) => self.listing(arriving).await,
            Asked::Log(derivation) => self.log(&derivation, arriving, metrics).await,
            Asked::Realisation(id) => self.realisation(&id, arriving).await,
            Asked::CacheInfo => self.cache_info(arriving).await,
            Asked::Front | Asked::Health | Asked::Metrics => {
                Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "nothing is written here"))
            }
        }
    }

    fn may_write(&self, headers: &HeaderMap) -> bool {
        let said = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some((scheme, said)) = said.and_then(|said| said.split_once(' ')) else { return false };
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.token.is(said.trim());
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return false;
        }
        // the user can be any; a netrc file must name one
        let decoded = BASE64.decode(said.trim().as_bytes()).unwrap_or_default();
        let decoded = String::from_utf8(decoded).unwrap_or_default();
        decoded.split_once(':').is_some_and(|(_, password)| self.token.is(password))
    }

    async fn narinfo(
        &self,
        hash_part: &HashPart,
        arriving: Arriving,
        catalogue: &Catalogue,
        metrics: &Metrics,
    ) -> Result<Answer, Refusal> {
        let text = arriving.whole().await?;
        let narinfo = NarInfo::parse(&text, self.store.store_dir());
        let narinfo = narinfo.map_err(|error| Refusal::bad(error.to_string()))?;
        if narinfo.info.path.hash_part() != hash_part.as_str() {
            return Err(Refusal::bad("narinfo is of another path than its URL"));
        }
        catalogue.forget(hash_part);
        if let Some(there) = catalogue.find(hash_part).await.map_err(|error| failed(&error))? {
            return self.sign(&narinfo, &there.info, catalogue).await;
        }
        let Some(file) = self.spool.find(&narinfo.url) else {
            let url = narinfo.url.as_str();
            let says = format!(
                "narinfo names '{url}', which was not uploaded before it or waited \
                for too long; upload it again"
            );
            return Err(Refusal::new(StatusCode::CONFLICT, says));
        };
        let url = narinfo.url.clone();
        check_signatures(&narinfo.info.path, narinfo.info.signatures.len())?;
        let taken = take_path(&*self.store, narinfo, file, self.check).await;
        taken.map_err(|error| refusal_of(&error))?;
        self.spool.taken(&url);
        metrics.uploaded();
        Ok(body::status(StatusCode::CREATED, ""))
    }

    /// Takes the signatures of a path that is there.
    async fn sign(
        &self,
        narinfo: &NarInfo,
        there: &drover_core::PathInfo,
        catalogue: &Catalogue,
    ) -> Result<Answer, Refusal> {
        let sent = &narinfo.info;
        if sent.path != there.path
            || sent.nar_hash != there.nar_hash
            || sent.references != there.references
        {
            let says = format!("'{}' is there already, with other contents", sent.path);
            return Err(Refusal::new(StatusCode::CONFLICT, says));
        }
        let new: BTreeSet<Signature> =
            sent.signatures.difference(&there.signatures).cloned().collect();
        check_signatures(&sent.path, there.signatures.len() + new.len())?;
        let added = self.store.add_signatures(&sent.path, &new).await;
        added.map_err(|error| failed(&error))?;
        if let Some(hash_part) = HashPart::parse(sent.path.hash_part()) {
            catalogue.forget(&hash_part);
        }
        self.spool.taken(&narinfo.url);
        Ok(body::status(StatusCode::OK, ""))
    }

    /// Reads a listing to its end. It isn't kept: what is served is made from the NAR itself.
    async fn listing(&self, mut arriving: Arriving) -> Result<Answer, Refusal> {
        while arriving.next().await?.is_some() {}
        Ok(body::status(StatusCode::OK, ""))
    }

    /// Takes what a client says that has found no `nix-cache-info`; ours stays.
    async fn cache_info(&self, mut arriving: Arriving) -> Result<Answer, Refusal> {
        while arriving.next().await?.is_some() {}
        Err(Refusal::new(StatusCode::CONFLICT, "nix-cache-info is there already"))
    }

    async fn log(
        &self,
        derivation: &StorePath,
        arriving: Arriving,
        metrics: &Metrics,
    ) -> Result<Answer, Refusal> {
        let refused = Arc::new(Mutex::new(None));
        let log = LogStream { arriving, room: self.spool.room(), refused: Arc::clone(&refused) };
        let kept = self.store.add_build_log(derivation, Box::new(log)).await;
        kept.map_err(|error| {
            let refused = refused.lock().unwrap_or_else(PoisonError::into_inner).take();
            refused.unwrap_or_else(|| refusal_of(&error))
        })?;
        metrics.log_uploaded();
        Ok(body::status(StatusCode::CREATED, ""))
    }

    async fn realisation(&self, id: &DrvOutput, arriving: Arriving) -> Result<Answer, Refusal> {
        let text = arriving.whole().await?;
        let ToldRealisation { realisation, .. } = ToldRealisation::parse_file(&text, id)
            .map_err(|rule| Refusal::bad(format!("realisation: {rule}")))?;
        let there = self.store.realisation(id).await.map_err(|error| failed(&error))?;
        if there.is_some_and(|there| there.out_path != realisation.out_path) {
            let says = format!("'{id}' is known already, as another path");
            return Err(Refusal::new(StatusCode::CONFLICT, says));
        }
        let taken = self.store.register_realisation(&realisation, self.check).await;
        taken.map_err(|error| refusal_of(&error))?;
        Ok(body::status(StatusCode::CREATED, ""))
    }
}

fn unauthorised() -> Answer {
    let says = "writing takes a token: give it as a netrc file's password, or as a bearer token\n";
    let mut answer = body::status(StatusCode::UNAUTHORIZED, says);
    let challenge = HeaderValue::from_static("Basic realm=\"binary cache\"");
    answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    answer
}

fn failed(error: &StoreError) -> Refusal {
    Refusal::failed("an upload", error)
}

/// Tells what is wrong with what was sent; what is wrong here is for the log.
fn refusal_of(error: &StoreError) -> Refusal {
    match error {
        StoreError::NotValid { path, .. } => {
            let says = format!("'{path}' is not there, and must be uploaded before");
            Refusal::new(StatusCode::CONFLICT, says)
        }
        StoreError::HashMismatch { .. }
        | StoreError::SizeMismatch { .. }
        | StoreError::Nar { .. } => Refusal::bad(error.to_string()),
        StoreError::Protocol { reason, .. } => Refusal::bad(reason.clone()),
        StoreError::Refused { message, .. } => {
            tracing::warn!("an upload was refused: {message}");
            let says = "the store does not take it: a path must be signed by a key in its \
                trusted-public-keys or follow from its contents, and be what its narinfo says";
            Refusal::new(StatusCode::FORBIDDEN, says)
        }
        error => failed(error),
    }
}

/// What a client sends, within its limit.
pub(crate) struct Arriving {
    body: Incoming,
    left: u64,
    limit: u64,
    idle: Duration,
}

impl Arriving {
    fn new(request: Request<Incoming>, limit: u64, idle: Duration) -> Result<Arriving, Refusal> {
        let length = request.headers().get(CONTENT_LENGTH).and_then(|it| it.to_str().ok());
        let announced: u64 = length.and_then(|length| length.parse().ok()).unwrap_or_default();
        let arriving = Arriving { body: request.into_body(), left: limit, limit, idle };
        if announced > limit { Err(arriving.too_large()) } else { Ok(arriving) }
    }

    fn too_large(&self) -> Refusal {
        let says = format!("an upload of this kind may have {} bytes at the most", self.limit);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, says)
    }

    /// Returns the next bytes, never none.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let frame = std::future::poll_fn(|context| {
                std::pin::Pin::new(&mut self.body).poll_frame(context)
            });
            let late = |_| {
                let says = "nothing came for too long";
                Refusal::new(StatusCode::REQUEST_TIMEOUT, says)
            };
            let Some(frame) = timeout(self.idle, frame).await.map_err(late)? else {
                return Ok(None);
            };
            let frame = frame.map_err(|_| Refusal::bad("the upload broke off"))?;
            let Ok(bytes) = frame.into_data() else { continue };
            if bytes.is_empty() {
                continue;
            }
            self.left =
                self.left.checked_sub(bytes.len() as u64).ok_or_else(|| self.too_large())?;
            return Ok(Some(bytes));
        }
    }

    /// Reads all of something small.
    async fn whole(mut self) -> Result<Vec<u8>, Refusal> {
        let mut whole = Vec::new();
        while let Some(bytes) = self.next().await? {
            whole.extend_from_slice(&bytes);
        }
        Ok(whole)
    }
}

/// A log on its way into the store.
struct LogStream {
    arriving: Arriving,
    /// What has come of it.
    room: Room,
    /// Why there is no more of it, in the words that its sender is told.
    refused: Arc<Mutex<Option<Refusal>>>,
}

impl LogStream {
    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let piece = self.arriving.next().await?;
        self.room.grow(piece.as_ref().map_or(0, |piece| piece.len() as u64))?;
        Ok(piece)
    }
}

#[async_trait::async_trait]
impl ByteStream for LogStream {
    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.next().await.map_err(|refusal| {
            let reason = refusal.says.clone();
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
            StoreError::Lost { store: "client".to_owned(), reason }
        })
    }
}
