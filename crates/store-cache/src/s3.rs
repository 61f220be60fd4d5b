//! A cache in a bucket of Amazon S3, or of a server that speaks as it does.
//!
//! Parameters of the address are those of `src/libstore/s3-binary-cache-store.cc` of Nix. A bucket that
//! is missing, or that isn't to be read by who asks, is an error; a file that isn't there or is
//! forbidden isn't there, as with other caches.

mod credentials;
mod upload;

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use drover_config::StoreReference;
use drover_core::Compression;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{ClientOptions, HttpClient, HttpConnector};
use object_store::path::Path as Key;
use object_store::{BackoffConfig, GetResult, ObjectStore as _, ObjectStoreExt as _, RetryConfig};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::error::{CacheError, TransferError};
use crate::http::{Encryption, client_of};
use crate::piece_reader::PieceReader;
use crate::settings::{Addressing, CacheSettings, Pauses, S3Parameters};
use crate::transport::{Body, Transport};

pub use credentials::{AwsCredentials, AwsFiles, Hidden};
pub(crate) use upload::upload;

/// Pieces of a body that wait to be read.
const PIECES: usize = 8;

/// A bucket.
pub(crate) struct Bucket {
    name: String,
    /// What stands before each file's name; empty, or with a final slash.
    prefix: String,
    parameters: S3Parameters,
    settings: CacheSettings,
    opened: OnceLock<Result<Arc<AmazonS3>, String>>,
}

impl Bucket {
    /// Reads an address; nothing is connected.
    pub(crate) fn new(
        reference: &StoreReference,
        parameters: S3Parameters,
        settings: CacheSettings,
    ) -> Result<Bucket, CacheError> {
        let refuse = |reason: &str| CacheError::Address {
            address: format!("s3://…{}", reference.path()),
            reason: reason.to_owned(),
        };
        let authority = reference.authority().ok_or_else(|| refuse("it names no bucket"))?;
        let drover_config::Host::Name(name) = &authority.host else {
            return Err(refuse("a bucket's name is no address"));
        };
        if authority.port.is_some() || authority.user.is_some() {
            return Err(refuse("a bucket has no user and no port: name the server by 'endpoint'"));
        }
        let prefix = match reference.path().trim_matches('/') {
            "" => String::new(),
            folder => format!("{folder}/"),
        };
        let (name, opened) = (name.clone(), OnceLock::new());
        Ok(Bucket { name, prefix, parameters, settings, opened })
    }

    /// Returns how the cache is called.
    pub(crate) fn url(&self) -> String {
        format!("s3://{}/{}", self.name, self.prefix).trim_end_matches('/').to_owned()
    }

    fn key(&self, name: &str) -> Key {
        Key::from(format!("{}{name}", self.prefix))
    }

    fn url_of(&self, name: &str) -> String {
        format!("{}/{name}", self.url())
    }

    /// Returns the way to the bucket, which is made when it is needed first.
    fn store(&self) -> Result<&Arc<AmazonS3>, TransferError> {
        let made = self.opened.get_or_init(|| self.open().map(Arc::new));
        made.as_ref()
            .map_err(|reason| TransferError::Settings { url: self.url(), reason: reason.clone() })
    }

    fn open(&self) -> Result<AmazonS3, String> {
        let (parameters, settings) = (&self.parameters, &self.settings);
        let attempts = usize::try_from(settings.download_attempts.max(1)).unwrap_or(usize::MAX);
        let Pauses { first, longest, .. } = settings.pauses;
        // what waits for no time at all has no range to choose a pause from
        let first = first.max(Duration::from_millis(1));
        let backoff = BackoffConfig {
            init_backoff: first,
            max_backoff: longest.max(first),
            ..Default::default()
        };
        let retries = RetryConfig {
            backoff,
            max_retries: attempts.saturating_sub(1),
            retry_timeout: settings.stalled_download_timeout.min(Duration::from_secs(180)),
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.name)
            .with_region(&parameters.region)
            .with_retry(retries)
            .with_virtual_hosted_style_request(parameters.addressing == Addressing::Host);
        let mut encryption = Encryption::Always;
        if let Some(url) = self.endpoint() {
            encryption = Encryption::of(&url);
            let is_plain = encryption == Encryption::Perhaps;
            builder = builder.with_endpoint(url).with_allow_http(is_plain);
        }
        builder = builder.with_http_connector(Ours(settings.clone(), encryption));
        builder = match settings.aws.find(parameters.profile.as_deref())? {
            // a bucket may be for everybody
            None => builder.with_skip_signature(true),
            Some(found) => {
                let signed = builder
                    .with_access_key_id(found.access_key_id)
                    .with_secret_access_key(found.secret_access_key.0);
                match found.session_token {
                    Some(token) => signed.with_token(token.0),
                    None => signed,
                }
            }
        };
        builder.build().map_err(|error| describe(&error))
    }

    /// Returns the URL of a server other than Amazon's; with the bucket in the name of its host where it
    /// is to be there.
    fn endpoint(&self) -> Option<String> {
        let S3Parameters { endpoint, scheme, addressing, .. } = &self.parameters;
        let endpoint = endpoint.as_deref()?;
        let (scheme, host) = endpoint.split_once("://").unwrap_or((scheme, endpoint));
        Some(match addressing {
            Addressing::Host => format!("{scheme}://{}.{host}", self.name),
            Addressing::Path => format!("{scheme}://{host}"),
        })
    }

    /// Whether there is nothing in it, so that it's a cache to be, as far as that can be found out.
    pub(crate) async fn is_empty(&self) -> bool {
        let Ok(store) = self.store() else { return false };
        let prefix = (!self.prefix.is_empty()).then(|| Key::from(self.prefix.as_str()));
        let mut files = store.list(prefix.as_ref());
        matches!(timeout(self.silence(), files.next()).await, Ok(None))
    }

    async fn get(&self, name: &str) -> Result<Option<GetResult>, TransferError> {
        let (url, limit) = (self.url_of(name), self.settings.stalled_download_timeout);
        let store = self.store()?;
        let Ok(answer) = timeout(limit, store.get(&self.key(name))).await else {
            return Err(TransferError::Stalled { url, bytes: 0, seconds: limit.as_secs() });
        };
        match answer {
            Ok(found) => Ok(Some(found)),
            Err(object_store::Error::NotFound { source, .. })
                if !format!("{source:?}").contains("NoSuchBucket") =>
            {
                Ok(None)
            }
            Err(object_store::Error::PermissionDenied { source, .. })
                if !format!("{source:?}").contains("InvalidAccessKeyId")
                    && !format!("{source:?}").contains("SignatureDoesNotMatch") =>
            {
                Ok(None)
            }
            Err(error) => Err(TransferError::Bucket { url, reason: describe(&error) }),
        }
    }
}

/// A cache in a bucket, as a place with files.
pub(crate) struct S3Transport(pub(crate) Arc<Bucket>);

#[async_trait]
impl Transport for S3Transport {
    fn url(&self, name: &str) -> String {
        self.0.url_of(name)
    }

    async fn read(&self, name: &str, limit: u64) -> Result<Option<Bytes>, TransferError> {
        let Some(found) = self.0.get(name).await? else { return Ok(None) };
        let url = self.0.url_of(name);
        let mut arriving =
            Arriving { pieces: found.into_stream(), url: url.clone(), limit: self.0.silence() };
        let mut whole = Vec::new();
        while let Some(piece) = arriving.next().await? {
            if (whole.len() + piece.len()) as u64 > limit {
                return Err(TransferError::TooLarge { url, limit });
            }
            whole.extend_from_slice(&piece);
        }
        Ok(Some(whole.into()))
    }

    async fn open(&self, name: &str) -> Result<Option<Body>, TransferError> {
        let Some(found) = self.0.get(name).await? else { return Ok(None) };
        let (url, limit) = (self.0.url_of(name), self.0.silence());
        let mut arriving = Arriving { pieces: found.into_stream(), url, limit };
        let (sender, receiver) = mpsc::channel(PIECES);
        let pump = async move {
            loop {
                match arriving.next().await {
                    Ok(None) => return Ok(()),
                    Ok(Some(piece)) => {
                        // who has heard enough has gone
                        if sender.send(Ok(piece)).await.is_err() {
                            return Ok(());
                        }
                    }
                    Err(error) => {
                        // nobody may be there to hear it
                        sender.send(Err(())).await.ok();
                        return Err(error);
                    }
                }
            }
        };
        let reader = Box::new(PieceReader::new(receiver));
        Ok(Some(Body { reader, pump: Box::pin(pump), encoding: Compression::None }))
    }
}

impl Bucket {
    /// Returns how long a server may say nothing.
    fn silence(&self) -> Duration {
        self.settings.stalled_download_timeout
    }
}

/// A file as it arrives.
struct Arriving {
    pieces: BoxStream<'static, object_store::Result<Bytes>>,
    url: String,
    limit: Duration,
}

impl Arriving {
    async fn next(&mut self) -> Result<Option<Bytes>, TransferError> {
        let url = || self.url.clone();
        match timeout(self.limit, self.pieces.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(piece))) => Ok(Some(piece)),
            Ok(Some(Err(error))) => {
                Err(TransferError::Cut { url: url(), reason: describe(&error) })
            }
            Err(_) => {
                let seconds = self.limit.as_secs();
                Err(TransferError::Stalled { url: url(), bytes: 0, seconds })
            }
        }
    }
}

/// Connects as to all other caches: with the same authorities, proxies and limits.
#[derive(Debug)]
struct Ours(CacheSettings, Encryption);

impl HttpConnector for Ours {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let made = client_of(&self.0, self.1).map_err(|reason| object_store::Error::Generic {
            store: "S3",
            source: Box::new(io::Error::other(reason)),
        });
        Ok(HttpClient::new(made?.client))
    }
}

/// Says what is behind an error.
fn describe(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    // what a server wrote may be long, and is shown to somebody
    text.chars().take(500).flat_map(char::escape_debug).collect()
}
