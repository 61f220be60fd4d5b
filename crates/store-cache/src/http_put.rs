//! Files on their way to a server.
//!
//! Which answers are good follows `HttpBinaryCacheStore::upload` of Nix
//! (`src/libstore/http-binary-cache-store.cc`): whatever is a success.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Body, Response, StatusCode};

use crate::error::TransferError;
use crate::http::HttpTransport;
use crate::retry;

/// Bytes that are read at once.
const PIECE: usize = 128 * 1024;
/// How long what a server says of a refusal is waited for.
const WORDS_COME: Duration = Duration::from_secs(5);

/// Characters of what a server says that are repeated.
const WORDS: usize = 300;

/// What is sent.
pub(crate) enum Upload {
    /// Something small.
    Bytes(Bytes),
    /// A file with its size. It was just written, so that reading it waits for no disk.
    File(Arc<File>, u64),
}

impl Upload {
    fn size(&self) -> u64 {
        match self {
            Upload::Bytes(bytes) => bytes.len() as u64,
            Upload::File(_, size) => *size,
        }
    }

    fn body(&self, progress: &Arc<AtomicU64>) -> Body {
        match self {
            Upload::Bytes(bytes) => Body::from(bytes.clone()),
            Upload::File(file, size) => {
                let (file, progress) = (Arc::clone(file), Arc::clone(progress));
                Body::wrap(FileBody { file, at: 0, size: *size, progress })
            }
        }
    }
}

struct FileBody {
    file: Arc<File>,
    at: u64,
    size: u64,
    progress: Arc<AtomicU64>,
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let left = usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX);
        if left == 0 {
            return Poll::Ready(None);
        }
        let mut piece = vec![0; left.min(PIECE)];
        if let Err(error) = self.file.read_exact_at(&mut piece, self.at) {
            return Poll::Ready(Some(Err(error)));
        }
        self.at += piece.len() as u64;
        self.progress.store(self.at, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(piece)))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.size.saturating_sub(self.at))
    }
}

impl HttpTransport {
    /// Puts a file under a name. Tries again what may pass.
    pub(crate) async fn put(
        &self,
        name: &str,
        content_type: &'static str,
        upload: &Upload,
    ) -> Result<(), TransferError> {
        let mut attempts = self.attempts();
        loop {
            match self.put_once(name, content_type, upload).await {
                Ok(()) => return Ok(()),
                Err(error) => attempts.after(error).await?,
            }
        }
    }

    async fn put_once(
        &self,
        name: &str,
        content_type: &'static str,
        upload: &Upload,
    ) -> Result<(), TransferError> {
        let progress = Arc::new(AtomicU64::new(0));
        let request = self.put_request(name)?;
        let request = request
            .header(CONTENT_TYPE, content_type)
            .header(CONTENT_LENGTH, upload.size())
            .body(upload.body(&progress));
        let limit = self.stalled_after();
        let mut sending = pin!(request.send());
        let mut seen = 0;
        let answer = loop {
            match tokio::time::timeout(limit, &mut sending).await {
                Ok(answer) => break answer,
                Err(_) => {
                    let now = progress.load(Ordering::Relaxed);
                    if now == seen {
                        return Err(self.takes_nothing(name, limit));
                    }
                    seen = now;
                }
            }
        };
        let response = answer.map_err(|error| self.failed(name, &error))?;
        self.judge(name, response, limit).await
    }

    fn takes_nothing(&self, name: &str, limit: Duration) -> TransferError {
        TransferError::Untaken { url: self.url_of(name), seconds: limit.as_secs() }
    }

    async fn judge(
        &self,
        name: &str,
        mut response: Response,
        limit: Duration,
    ) -> Result<(), TransferError> {
        let (url, status) = (self.url_of(name), response.status());
        if status.is_success() {
            return Ok(());
        }
        let code = status.as_u16();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(TransferError::Denied { url, status: code })
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Err(again(url, &mut response, limit).await)
            }
            status if status.is_client_error() || status == StatusCode::INSUFFICIENT_STORAGE => {
                let words = words(&mut response, limit).await;
                Err(TransferError::Refused { url, status: code, words })
            }
            _ => Err(again(url, &mut response, limit).await),
        }
    }
}

/// Returns an answer that may be another one later.
async fn again(url: String, response: &mut Response, limit: Duration) -> TransferError {
    let again_in = retry::again_in(response.headers().get(RETRY_AFTER));
    let status = response.status().as_u16();
    let words = match words(response, limit).await {
        none if none.is_empty() => none,
        some => format!(": {some}"),
    };
    TransferError::Status { url, status, words, again_in }
}

/// Returns what a server says first, as far as it's text that a terminal doesn't obey.
async fn words(response: &mut Response, limit: Duration) -> String {
    let first = tokio::time::timeout(limit.min(WORDS_COME), response.chunk()).await;
    let first = first.ok().and_then(Result::ok).flatten().unwrap_or_default();
    let words = String::from_utf8_lossy(&first);
    let words: String = words.trim().chars().take(WORDS).collect();
    words.escape_default().to_string()
}
