//! A cache behind `http://` or `https://`.
//!
//! Which answers may pass follows `src/libstore/filetransfer.cc` of Nix: a missing or forbidden file
//! isn't there; trouble with the connection and answers 408, 429 and 5xx are tried again.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use drover_codec::decoder;
use drover_core::Compression;
use reqwest::header::{CONTENT_ENCODING, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::error::TransferError;
use crate::file::blocking;
use crate::marks::Marks;
use crate::netrc::{Credentials, Netrc};
use crate::piece_reader::PieceReader;
use crate::redirect::{self, Refused};
use crate::retry::{self, Attempts};
use crate::settings::{CacheSettings, ProxyUse};
use crate::tls;
use crate::transport::{Body, Transport};

/// A server that sends less than this while it may stall has stalled.
const LEAST: u64 = 4096;
/// Bytes of a file that may be on their way over HTTP/2 while nobody reads them.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// The same for all files of a connection. It must never be what they wait for: files that are fetched
/// ahead would keep the one that is awaited from coming. How many there are is bounded elsewhere.
const CONNECTION_WINDOW: u32 = 1 << 30;
/// Pieces of a body that wait to be read.
const PIECES: usize = 8;

/// A cache behind a URL.
pub(crate) struct HttpTransport {
    /// Ends with a slash; without user, password and query.
    base: Url,
    /// What the address itself says.
    credentials: Option<Credentials>,
    settings: CacheSettings,
    client: Mutex<Option<(Marks, Arc<Connected>)>>,
}

/// A client, and the file of authorities that it trusts.
pub(crate) struct Made {
    pub(crate) client: Client,
    ca_file: Option<PathBuf>,
}

/// How a server is spoken to that may lead to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// With TLS from the start.
    Always,
    /// With TLS only where a server leads to one that has it.
    Perhaps,
}

impl Encryption {
    /// Returns that of a URL.
    pub(crate) fn of(url: &str) -> Encryption {
        match url.starts_with("http://") {
            true => Encryption::Perhaps,
            false => Encryption::Always,
        }
    }
}

/// Makes a client as it's set.
pub(crate) fn client_of(settings: &CacheSettings, to: Encryption) -> Result<Made, String> {
    let ca_file: Option<PathBuf> = settings.ca_file.clone().or_else(tls::find_ca_file);
    let config = match (tls::client_config(ca_file.as_deref(), settings.identity.as_ref()), to) {
        (Err(reason), Encryption::Perhaps) => {
            match settings.identity {
                Some(_) => tracing::warn!("{reason}"),
                None => tracing::debug!("no server is trusted that another leads to: {reason}"),
            }
            tls::client_config(ca_file.as_deref(), None)
                .or_else(|_| tls::client_config(None, None))?
        }
        (config, _) => config?,
    };
    let mut agent = format!("drover/{}", env!("CARGO_PKG_VERSION"));
    if !settings.user_agent_suffix.is_empty() {
        agent.push(' ');
        agent.push_str(&settings.user_agent_suffix);
    }
    let mut builder = Client::builder()
        .tls_backend_preconfigured(config)
        .user_agent(agent)
        .referer(false)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .pool_max_idle_per_host(settings.connections())
        .redirect(redirect::policy());
    if settings.proxies == ProxyUse::Never {
        builder = builder.no_proxy();
    }
    if let Some(limit) = settings.connect_timeout {
        builder = builder.connect_timeout(limit);
    }
    let client = builder.build().map_err(|error| describe(&error))?;
    Ok(Made { client, ca_file })
}

struct Connected {
    client: Client,
    credentials: Option<Credentials>,
    authorities: String,
}

impl HttpTransport {
    pub(crate) fn new(
        base: Url,
        credentials: Option<Credentials>,
        settings: CacheSettings,
    ) -> HttpTransport {
        HttpTransport { base, credentials, settings, client: Mutex::default() }
    }

    /// Returns the client, which is made when it is needed first, and anew when one of the files has
    /// changed that it was made of: processes that live long see what is changed meanwhile.
    fn client(&self) -> Result<Arc<Connected>, TransferError> {
        let marks = Marks::of(&self.settings);
        let mut made = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, connected)) = made.as_ref().filter(|(of, _)| *of == marks) {
            return Ok(Arc::clone(connected));
        }
        let connected = self
            .make_client()
            .map(Arc::new)
            .map_err(|reason| TransferError::Settings { url: self.base.to_string(), reason })?;
        *made = Some((marks, Arc::clone(&connected)));
        Ok(connected)
    }

    fn make_client(&self) -> Result<Connected, String> {
        let Made { client, ca_file } =
            client_of(&self.settings, Encryption::of(self.base.as_str()))?;
        let host = self.base.host_str().unwrap_or_default();
        let credentials = match &self.credentials {
            Some(credentials) => Some(credentials.clone()),
            None => Netrc::read(self.settings.netrc_file.as_deref())?.of(host).cloned(),
        };
        let none = || "no file".to_owned();
        let authorities = ca_file.map_or_else(none, |path| path.display().to_string());
        Ok(Connected { client, credentials, authorities })
    }

    /// Begins a request that puts a file.
    pub(crate) fn put_request(&self, name: &str) -> Result<RequestBuilder, TransferError> {
        let connected = self.client()?;
        let request = connected.client.put(self.url_of(name));
        Ok(match &connected.credentials {
            Some(Credentials { user, password }) => request.basic_auth(user, Some(password)),
            None => request,
        })
    }

    /// Returns the whole URL of a file, without a password.
    pub(crate) fn url_of(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }

    /// Returns how long a server may do next to nothing.
    pub(crate) fn stalled_after(&self) -> Duration {
        self.settings.stalled_download_timeout
    }

    /// Says why a request didn't come through.
    pub(crate) fn failed(&self, name: &str, error: &reqwest::Error) -> TransferError {
        let connected = self.client().ok();
        let authorities = connected.as_ref().map_or("", |connected| &connected.authorities);
        self.explain(self.url_of(name), error, authorities)
    }

    pub(crate) fn attempts(&self) -> Attempts {
        Attempts::new(self.settings.download_attempts, self.settings.pauses)
    }

    /// Asks once. Nothing where the server has no such file.
    async fn get(&self, name: &str) -> Result<Option<Response>, TransferError> {
        let url = self.url_of(name);
        let connected = self.client()?;
        let mut request = connected.client.get(&url);
        if let Some(Credentials { user, password }) = &connected.credentials {
            request = request.basic_auth(user, Some(password));
        }
        let limit = self.settings.stalled_download_timeout;
        let answer = tokio::time::timeout(limit, request.send()).await;
        let stalled =
            |_| TransferError::Stalled { url: url.clone(), bytes: 0, seconds: limit.as_secs() };
        let response = match answer.map_err(stalled)? {
            Ok(response) => response,
            Err(error) => return Err(self.explain(url, &error, &connected.authorities)),
        };
        match response.status() {
            StatusCode::OK => Ok(Some(response)),
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => Ok(None),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED) => {
                Err(TransferError::Denied { url, status: status.as_u16() })
            }
            status => {
                let again_in = retry::again_in(response.headers().get(RETRY_AFTER));
                let words = String::new();
                Err(TransferError::Status { url, status: status.as_u16(), words, again_in })
            }
        }
    }

    fn explain(&self, url: String, error: &reqwest::Error, authorities: &str) -> TransferError {
        if let Some(Refused { to, rule }) = cause(error) {
            return TransferError::Redirect { url, to: to.clone(), rule };
        }
        let reason = describe(error);
        match cause::<rustls::Error>(error) {
            Some(rustls::Error::InvalidCertificate(_)) => {
                TransferError::Certificate { url, reason, authorities: authorities.to_owned() }
            }
            _ => TransferError::Unreachable { url, reason },
        }
    }

    async fn read_once(&self, name: &str, limit: u64) -> Result<Option<Bytes>, TransferError> {
        let Some(response) = self.get(name).await? else { return Ok(None) };
        let url = self.url_of(name);
        let encoding = encoding(&url, &response)?;
        let mut arriving = Arriving::new(url.clone(), response, &self.settings);
        let mut whole = Vec::new();
        while let Some(piece) = arriving.next().await? {
            if (whole.len() + piece.len()) as u64 > limit {
                return Err(TransferError::TooLarge { url, limit });
            }
            whole.extend_from_slice(&piece);
        }
        if encoding == Compression::None {
            return Ok(Some(whole.into()));
        }
        blocking(move || decode_small(url, whole, encoding, limit)).await.map(Some)
    }
}

/// Decompresses a small answer.
fn decode_small(
    url: String,
    whole: Vec<u8>,
    encoding: Compression,
    limit: u64,
) -> Result<Bytes, TransferError> {
    let bad = |error: io::Error| {
        let reason = error.to_string();
        TransferError::Decode { url: url.clone(), compression: encoding, reason }
    };
    let mut plain = Vec::new();
    let longest = limit.saturating_add(1);
    let decoder = decoder(io::Cursor::new(whole), encoding).map_err(bad)?;
    decoder.take(longest).read_to_end(&mut plain).map_err(bad)?;
    if plain.len() as u64 > limit {
        return Err(TransferError::TooLarge { url, limit });
    }
    Ok(plain.into())
}

#[async_trait]
impl Transport for HttpTransport {
    fn url(&self, name: &str) -> String {
        self.url_of(name)
    }

    async fn read(&self, name: &str, limit: u64) -> Result<Option<Bytes>, TransferError> {
        let mut attempts = self.attempts();
        loop {
            match self.read_once(name, limit).await {
                Ok(read) => return Ok(read),
                Err(error) => attempts.after(error).await?,
            }
        }
    }

    async fn open(&self, name: &str) -> Result<Option<Body>, TransferError> {
        let Some(response) = self.get(name).await? else { return Ok(None) };
        let url = self.url_of(name);
        let encoding = encoding(&url, &response)?;
        let mut arriving = Arriving::new(url, response, &self.settings);
        let (sender, receiver) = mpsc::channel(PIECES);
        let pump = async move {
            loop {
                let next = arriving.next().await;
                let failed = next.as_ref().err().cloned();
                let Some(next) = next.transpose() else { return Ok(()) };
                // Who has heard enough has gone.
                if sender.send(next.map_err(drop)).await.is_err() {
                    return Ok(());
                }
                if let Some(error) = failed {
                    return Err(error);
                }
            }
        };
        let reader = Box::new(PieceReader::new(receiver));
        Ok(Some(Body { reader, pump: Box::pin(pump), encoding }))
    }
}

/// An answer as it arrives, with an eye on the time. Time in which nobody wants it doesn't count.
struct Arriving {
    url: String,
    response: Response,
    limit: Duration,
    waited: Duration,
    bytes: u64,
}

impl Arriving {
    fn new(url: String, response: Response, settings: &CacheSettings) -> Arriving {
        let limit = settings.stalled_download_timeout;
        Arriving { url, response, limit, waited: Duration::ZERO, bytes: 0 }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, TransferError> {
        let since = Instant::now();
        let rest = self.limit.saturating_sub(self.waited);
        let next = tokio::time::timeout(rest, self.response.chunk()).await;
        let url = || self.url.clone();
        let Ok(next) = next else {
            let (bytes, seconds) = (self.bytes, self.limit.as_secs());
            return Err(TransferError::Stalled { url: url(), bytes, seconds });
        };
        let cut = |error| TransferError::Cut { url: url(), reason: describe(&error) };
        let piece = next.map_err(cut)?;
        self.waited += since.elapsed();
        self.bytes += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        if self.bytes >= LEAST {
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
        Ok(piece)
    }
}

/// Returns how the server compressed its answer, though nobody asked it to.
fn encoding(url: &str, response: &Response) -> Result<Compression, TransferError> {
    let Some(value) = response.headers().get(CONTENT_ENCODING) else {
        return Ok(Compression::None);
    };
    let name = value.to_str().unwrap_or_default().trim();
    let known = match name {
        "" | "identity" => Some(Compression::None),
        "x-gzip" => Some(Compression::Gzip),
        name => name.parse().ok(),
    };
    known.ok_or_else(|| {
        let name: String = name.chars().take(100).collect();
        let reason = format!("its content-encoding '{}' is not known", name.escape_default());
        TransferError::Settings { url: url.to_owned(), reason }
    })
}

/// Finds a cause of an error.
fn cause<'a, T: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        // What an I/O error is made of is not its source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Says what is behind an error, without the URL, which may have a password.
fn describe(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    if text.is_empty() { "it failed".to_owned() } else { text }
}
