//! Why something could not be downloaded.

use std::error::Error as _;
use std::io;
use std::time::Duration;

/// Why something could not be downloaded. What the receiver has by then is not all of it.
///
/// URLs in messages have no passwords in them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// It's no URL.
    #[error("'{url}' is not a URL: {why}")]
    BadUrl {
        /// What it is.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing here knows how to get such a thing.
    #[error("cannot download '{url}': '{scheme}' is none of 'http', 'https' and 'file'")]
    Scheme {
        /// The URL.
        url: String,
        /// How it begins.
        scheme: String,
    },
    /// The server has answered with something else than the file.
    #[error("cannot download '{url}': HTTP status {status}")]
    Status {
        /// The URL, where redirects have led to.
        url: String,
        /// The status.
        status: u16,
        /// How long the server wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// One redirect followed another.
    #[error("cannot download '{url}': it's redirected more than {max} times")]
    Redirects {
        /// The URL that was asked for.
        url: String,
        /// How many are followed.
        max: usize,
    },
    /// A redirect that leads nowhere, or where none may lead.
    #[error("cannot download '{url}': it's redirected to '{to}'")]
    Redirect {
        /// The URL.
        url: String,
        /// Where it leads.
        to: String,
    },
    /// The server's certificate is not to be trusted, or TLS went wrong in another way.
    #[error("cannot download '{url}': {why}")]
    Tls {
        /// The URL.
        url: String,
        /// What is wrong.
        why: rustls::Error,
    },
    /// Something is wrong with the certificates that servers are checked against.
    #[error("cannot download '{url}': {why}")]
    Certificates {
        /// The URL.
        url: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The server said nothing for too long.
    #[error("cannot download '{url}': nothing came for {} seconds", .after.as_secs())]
    Stalled {
        /// The URL.
        url: String,
        /// For how long.
        after: Duration,
    },
    /// The connection could not be made, or broke.
    #[error("cannot download '{url}': {}", innermost(.why))]
    Connection {
        /// The URL.
        url: String,
        /// What is wrong.
        why: reqwest::Error,
    },
    /// A file of this machine can't be read.
    #[error("cannot read '{url}'")]
    File {
        /// Its URL.
        url: String,
        /// What the system said.
        source: io::Error,
    },
    /// Whoever receives it could not take it.
    #[error("cannot keep what is downloaded from '{url}'")]
    Receiver {
        /// The URL.
        url: String,
        /// What it said.
        source: io::Error,
    },
    /// Downloads can't be set up.
    #[error("downloads can't be set up: {0}")]
    Setup(reqwest::Error),
}

impl DownloadError {
    pub(crate) fn of_request(url: &str, error: reqwest::Error) -> DownloadError {
        let url = url.to_owned();
        match tls_error(&error) {
            Some(why) => DownloadError::Tls { url, why: why.clone() },
            None => DownloadError::Connection { url, why: error.without_url() },
        }
    }

    /// Whether the same may go well a little later.
    pub(crate) fn is_transient(&self) -> bool {
        /// What is said in the range of statuses that may pass, and doesn't.
        const LASTING: [u16; 3] = [501, 505, 511];
        match self {
            DownloadError::Status { status, .. } => match status {
                408 | 429 => true,
                400..500 => false,
                _ => !LASTING.contains(status),
            },
            DownloadError::Stalled { .. } => true,
            DownloadError::Connection { why, .. } => !why.is_builder(),
            _ => false,
        }
    }
}

/// Returns what TLS has to say of a failed request.
fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut next = error.source();
    while let Some(current) = next {
        let custom = current.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let inner = custom.and_then(|it| it.downcast_ref::<rustls::Error>());
        if let Some(found) = current.downcast_ref::<rustls::Error>().or(inner) {
            return Some(found);
        }
        next = match custom {
            // an `io::Error` passes what it holds over
            Some(custom) => Some(custom),
            None => current.source(),
        };
    }
    None
}

/// The causes say more than the whole, which is "error sending request".
fn innermost(error: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
