//! The client: one download, with all of its attempts.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::Url;
use reqwest::redirect::Policy;

use crate::attempt::{Attempt, Progress};
use crate::{Certificates, DownloadError, Netrc, Proxies, ProxyError, Retries};

/// What is configured of downloads.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What servers are told of who asks.
    pub user_agent: String,
    /// What servers are checked against (`ssl-cert-file`).
    pub certificates: Certificates,
    /// Who one is where (`netrc-file`).
    pub netrc: Netrc,
    /// Which way requests go out.
    pub proxies: Proxies,
    /// How long it may take until there is a connection (`connect-timeout`).
    pub connect_timeout: Option<Duration>,
    /// How long nothing may come (`stalled-download-timeout`).
    pub stalled_timeout: Option<Duration>,
    /// What happens when it goes wrong.
    pub retries: Retries,
}

impl Default for Settings {
    /// Those of Nix 2.34, without any certificate.
    fn default() -> Settings {
        Settings {
            user_agent: concat!("drover/", env!("CARGO_PKG_VERSION")).to_owned(),
            certificates: Certificates::default(),
            netrc: Netrc::default(),
            proxies: Proxies::default(),
            connect_timeout: Some(Duration::from_secs(15)),
            stalled_timeout: Some(Duration::from_secs(300)),
            retries: Retries::default(),
        }
    }
}

/// Who gets what is downloaded.
pub trait Receiver: Send {
    /// Begins anew, with nothing: what came before is to be forgotten.
    ///
    /// # Errors
    ///
    /// The download ends with it.
    fn begin(&mut self) -> io::Result<()>;

    /// Takes the next bytes.
    ///
    /// # Errors
    ///
    /// The download ends with it.
    fn take(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Hears that it's tried again after a pause.
    fn trying_again(&mut self, _after: &DownloadError, _pause: Duration) {}
}

/// Downloads one file after the other, or many at once. Connections are kept for what comes next.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    proxies: Vec<reqwest::Proxy>,
    plain: OnceLock<reqwest::Client>,
    secure: OnceLock<reqwest::Client>,
}

impl Client {
    /// Makes a client. Nothing is set up yet.
    ///
    /// # Errors
    ///
    /// A proxy that can't be one.
    pub fn new(settings: Settings) -> Result<Client, ProxyError> {
        let proxies = settings.proxies.make()?;
        Ok(Client { settings, proxies, plain: OnceLock::new(), secure: OnceLock::new() })
    }

    /// Downloads what is at a URL, to be called within a tokio runtime. Dropping the future ends it.
    ///
    /// Where a connection breaks in the middle and the server can send the rest, only the rest is asked
    /// for.
    ///
    /// # Errors
    ///
    /// That of the last attempt.
    pub async fn download(
        &self,
        url: &str,
        receiver: &mut dyn Receiver,
    ) -> Result<(), DownloadError> {
        let parsed = Url::parse(url).map_err(|error| DownloadError::BadUrl {
            url: without_password(url),
            why: error.to_string(),
        })?;
        let shown = shown(&parsed);
        match parsed.scheme() {
            "http" | "https" => {}
            "file" => return self.read(&parsed, &shown, receiver),
            scheme => {
                return Err(DownloadError::Scheme { url: shown, scheme: scheme.to_owned() });
            }
        }
        let mut progress = Progress::default();
        let mut attempts = 0;
        loop {
            let attempt = Attempt { client: self, settings: &self.settings, url: &parsed };
            let Err(error) = attempt.run(&mut progress, receiver).await else { return Ok(()) };
            attempts += 1;
            let Some(pause) = self.settings.retries.pause_after(attempts, &error) else {
                return Err(error);
            };
            receiver.trying_again(&error, pause);
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads a file of this machine.
    fn read(
        &self,
        url: &Url,
        shown: &str,
        receiver: &mut dyn Receiver,
    ) -> Result<(), DownloadError> {
        /// Bytes that are read at once.
        const PIECE: usize = 256 * 1024;
        let bad_file = |source| DownloadError::File { url: shown.to_owned(), source };
        let bad_receiver = |source| DownloadError::Receiver { url: shown.to_owned(), source };
        let path = url.to_file_path().map_err(|()| DownloadError::BadUrl {
            url: shown.to_owned(),
            why: "it names no file of this machine".to_owned(),
        })?;
        let mut file = std::fs::File::open(path).map_err(bad_file)?;
        receiver.begin().map_err(bad_receiver)?;
        let mut piece = vec![0; PIECE];
        loop {
            let len = io::Read::read(&mut file, &mut piece).map_err(bad_file)?;
            match piece.get(..len) {
                Some(bytes) if !bytes.is_empty() => receiver.take(bytes).map_err(bad_receiver)?,
                _ => return Ok(()),
            }
        }
    }

    /// Returns what sends requests to such a URL.
    pub(crate) fn sender(&self, url: &Url) -> Result<&reqwest::Client, DownloadError> {
        let (kept, certificates) = match url.scheme() {
            "https" => (&self.secure, Some(&self.settings.certificates)),
            _ => (&self.plain, None),
        };
        if let Some(sender) = kept.get() {
            return Ok(sender);
        }
        let config = Certificates::config(certificates)
            .map_err(|why| DownloadError::Certificates { url: shown(url), why })?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .user_agent(&self.settings.user_agent)
            // they are followed one by one, as each host has its own credentials
            .redirect(Policy::none())
            // the variables of the process are not those that count
            .no_proxy();
        for proxy in &self.proxies {
            builder = builder.proxy(proxy.clone());
        }
        if let Some(limit) = self.settings.connect_timeout {
            builder = builder.connect_timeout(limit);
        }
        let sender = builder.build().map_err(DownloadError::Setup)?;
        Ok(kept.get_or_init(|| sender))
    }
}

/// Returns a URL for messages, without a password in it; also one that is none.
pub fn without_password(url: &str) -> String {
    if let Ok(parsed) = Url::parse(url) {
        return shown(&parsed);
    }
    match (url.find("//"), url.rfind('@')) {
        (Some(from), Some(to)) if from < to => {
            let (before, after) = (url.get(..from + 2), url.get(to..));
            format!("{}...{}", before.unwrap_or_default(), after.unwrap_or_default())
        }
        _ => url.to_owned(),
    }
}

/// Returns a URL for messages, without the password that may be in it.
pub(crate) fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    if shown.password().is_some() {
        // there is a host where there is a password, so it can be changed
        shown.set_password(Some("...")).unwrap_or_default();
    }
    shown.into()
}
