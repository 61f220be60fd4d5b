//! One attempt at a download: the request, what it's redirected to, and what comes.

use std::time::Duration;

use reqwest::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_RANGE,
    LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Response, StatusCode, Url};

use crate::client::{Client, Receiver, Settings, shown, without_password};
use crate::error::DownloadError;

/// Redirects that are followed, as in Nix.
const MAX_REDIRECTS: usize = 10;

/// What the attempts before have brought.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Bytes that the receiver has.
    received: u64,
    /// How the server can be asked for the rest of the very same file.
    rest: Option<Rest>,
}

/// What identifies a file whose rest is wanted, which the server has named itself.
#[derive(Debug)]
struct Rest {
    /// Where redirects had led to.
    url: Url,
    etag: String,
}

/// One attempt.
pub(crate) struct Attempt<'a> {
    pub(crate) client: &'a Client,
    pub(crate) settings: &'a Settings,
    pub(crate) url: &'a Url,
}

impl Attempt<'_> {
    pub(crate) async fn run(
        &self,
        progress: &mut Progress,
        receiver: &mut dyn Receiver,
    ) -> Result<(), DownloadError> {
        let (mut response, mut url) = self.ask(progress).await?;
        let is_partial = matches!(
            response.status(),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE
        );
        if is_partial && !continues(response.headers(), progress) && progress.rest.take().is_some()
        {
            // it can't give the rest after all
            (response, url) = self.ask(progress).await?;
        }
        let text = shown(&url);
        let bad_receiver =
            |source: std::io::Error| DownloadError::Receiver { url: text.clone(), source };
        match response.status() {
            StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => {
                progress.received = 0;
                receiver.begin().map_err(bad_receiver)?;
            }
            StatusCode::PARTIAL_CONTENT if continues(response.headers(), progress) => {}
            other => return Err(status(&text, other, response.headers())),
        }
        progress.rest = rest(&url, response.headers());
        while let Some(piece) = self.within(&text, response.chunk()).await? {
            receiver.take(&piece).map_err(bad_receiver)?;
            progress.received += piece.len() as u64;
        }
        Ok(())
    }

    /// Asks for the file, or its rest, wherever it's redirected to.
    async fn ask(&self, progress: &Progress) -> Result<(Response, Url), DownloadError> {
        let mut url = self.url.clone();
        let mut has_lost_tls = false;
        for _ in 0..=MAX_REDIRECTS {
            let text = shown(&url);
            let mut request = self.client.sender(&url)?.get(url.clone());
            if let Some(host) = url.host_str()
                && !has_lost_tls
                && url.username().is_empty()
                && let Some((name, password)) = self.settings.netrc.of_host(host)
            {
                request = request.basic_auth(name, Some(password));
            }
            if let Some(rest) = &progress.rest
                && 0 < progress.received
                && rest.url == url
            {
                request = request
                    .header(RANGE, format!("bytes={}-", progress.received))
                    .header(IF_RANGE, &rest.etag);
            }
            let response = self.within(&text, request.send()).await?;
            if !is_redirect(response.status()) {
                return Ok((response, url));
            }
            let next = target(&url, &text, response.headers())?;
            has_lost_tls |= url.scheme() == "https" && next.scheme() == "http";
            url = next;
        }
        Err(DownloadError::Redirects { url: shown(self.url), max: MAX_REDIRECTS })
    }

    /// Waits for a peer, but not for ever.
    async fn within<T>(
        &self,
        url: &str,
        wanted: impl Future<Output = reqwest::Result<T>>,
    ) -> Result<T, DownloadError> {
        let got = match self.settings.stalled_timeout {
            Some(after) => tokio::time::timeout(after, wanted)
                .await
                .map_err(|_| DownloadError::Stalled { url: url.to_owned(), after })?,
            None => wanted.await,
        };
        got.map_err(|error| DownloadError::of_request(url, error))
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Returns where a redirect leads: to another server, never to a file of this machine.
fn target(url: &Url, text: &str, headers: &HeaderMap) -> Result<Url, DownloadError> {
    let to = header(headers, &LOCATION).unwrap_or_default();
    let bad = || DownloadError::Redirect { url: text.to_owned(), to: without_password(to) };
    let mut next = url.join(to).map_err(|_| bad())?;
    if !matches!(next.scheme(), "http" | "https") {
        return Err(bad());
    }
    // who asked is asked to come again, to the same server
    if next.origin() == url.origin() && next.username().is_empty() {
        let password = url.password();
        next.set_username(url.username())
            .and_then(|()| next.set_password(password))
            .unwrap_or_default();
    }
    // what was said to the first host is not for another to hear
    if next.origin() != url.origin() && next.username() == url.username() {
        next.set_username("").and_then(|()| next.set_password(None)).unwrap_or_default();
    }
    Ok(next)
}

/// Returns how the rest of what comes now can be asked for. Without a strong name that the server gives
/// it, nobody can tell whether it'd be the rest of the same.
fn rest(url: &Url, headers: &HeaderMap) -> Option<Rest> {
    let etag = header(headers, &ETAG).filter(|etag| etag.starts_with('"'))?;
    let by_ranges = header(headers, &ACCEPT_RANGES)
        .is_some_and(|it| it.eq_ignore_ascii_case("bytes"))
        || headers.contains_key(CONTENT_RANGE);
    let plain = header(headers, &CONTENT_ENCODING).is_none_or(|it| it == "identity");
    (by_ranges && plain).then(|| Rest { url: url.clone(), etag: etag.to_owned() })
}

/// Whether what comes begins where it had ended.
fn continues(headers: &HeaderMap, progress: &Progress) -> bool {
    let wanted = format!("bytes {}-", progress.received);
    progress.rest.is_some()
        && header(headers, &CONTENT_RANGE).is_some_and(|range| range.starts_with(&wanted))
}

fn status(url: &str, status: StatusCode, headers: &HeaderMap) -> DownloadError {
    let seconds = header(headers, &RETRY_AFTER).and_then(|it| it.trim().parse().ok());
    DownloadError::Status {
        url: url.to_owned(),
        status: status.as_u16(),
        retry_after: seconds.map(Duration::from_secs),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
