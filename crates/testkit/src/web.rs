//! A web server for tests, which does what it's told, most of which no server should.
//!
//! One thread for each connection, one request on each.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What a server does when it's asked for something.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Sends it.
    Whole(Vec<u8>),
    /// Sends the first half and closes, whoever asks for how much. A request for the rest is answered
    /// with that, if it names what it's the rest of.
    Halves(Vec<u8>),
    /// Sends the first half and closes, once; then all of it.
    HalfAndWhole(Vec<u8>),
    /// Answers with a status and nothing else.
    Status(u16),
    /// Says that it's busy so many times, and then sends it.
    Busy(u32, Vec<u8>),
    /// Says that it's elsewhere.
    Redirect(String),
    /// Begins to send, and goes silent.
    Stall,
    /// Sends for ever.
    Endless,
    /// Sends it to who gives this name and password.
    Secret(String, Vec<u8>),
}

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS, as `localhost`.
    Https,
}

/// A request that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// For what, with the slash.
    pub path: String,
    /// From which byte on, as the client has put it.
    pub range: Option<String>,
    /// Who it said that it was.
    pub authorization: Option<String>,
}

/// A web server. Its threads end with the process; tests are short.
#[derive(Clone, Debug)]
pub struct WebServer {
    scheme: Scheme,
    port: u16,
    authority: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    answers: Mutex<HashMap<String, Answer>>,
    asked: Mutex<Vec<Asked>>,
}

impl WebServer {
    /// Starts a server on this machine's loopback.
    ///
    /// # Errors
    ///
    /// If there is no port to be had.
    pub fn start(scheme: Scheme) -> Result<WebServer> {
        WebServer::start_on(scheme, None)
    }

    /// Starts a server on the loopback of the network namespace that this is open to.
    pub(crate) fn start_in(scheme: Scheme, namespace: File) -> Result<WebServer> {
        WebServer::start_on(scheme, Some(namespace))
    }

    fn start_on(scheme: Scheme, namespace: Option<File>) -> Result<WebServer> {
        let (authority, config) = certificates()?;
        let config = (scheme == Scheme::Https).then_some(config);
        let shared = Arc::new(Shared::default());
        let (tell, told) = std::sync::mpsc::channel();
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            let listener = listen(namespace);
            let listening = listener.as_ref().map_err(|error| format!("{error:#}"));
            let port = listening.and_then(|it| it.local_addr().map_err(|it| it.to_string()));
            tell.send(port).unwrap_or_default();
            let Ok(listener) = listener else { return };
            for connection in listener.incoming() {
                let Ok(connection) = connection else { return };
                let (shared, config) = (Arc::clone(&serving), config.clone());
                // a client that goes away is the client's business
                std::thread::spawn(move || shared.serve(connection, config).unwrap_or_default());
            }
        });
        let port = told.recv().context("the server has not begun")?.map_err(|it| anyhow!(it))?;
        Ok(WebServer { scheme, port: port.port(), authority, shared })
    }

    /// Says what happens when something is asked for, and returns its URL.
    pub fn on(&self, path: &str, answer: Answer) -> String {
        lock(&self.shared.answers).insert(path.to_owned(), answer);
        self.url(path)
    }

    /// Returns the URL of a path.
    pub fn url(&self, path: &str) -> String {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        format!("{scheme}://localhost:{}{path}", self.port)
    }

    /// Returns the certificate, as PEM, that vouches for this server and for no other.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns what was asked for so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }
}

/// Binds in another network namespace; a thread that has gone there stays.
pub(crate) fn listen(namespace: Option<File>) -> Result<TcpListener> {
    if let Some(namespace) = namespace {
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), network)
            .context("cannot enter the host's network")?;
    }
    Ok(TcpListener::bind("127.0.0.1:0")?)
}

fn certificates() -> Result<(String, Arc<ServerConfig>)> {
    let issued = Certificates::for_localhost()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok((issued.authority, Arc::new(config)))
}

/// A certificate for `localhost`, and who has issued it; all of it as PEM.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The certificate that vouches for the other and for nothing else.
    pub authority: String,
    /// The server's certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Certificates {
    /// Issues one.
    ///
    /// # Errors
    ///
    /// If the system gives no random bytes.
    pub fn for_localhost() -> Result<Certificates> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "drover's tests");
        let authority_key = KeyPair::generate()?;
        let certificate = authority.self_signed(&authority_key)?;
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate()?;
        let own = CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &issuer)?;
        let (authority, certificate) = (certificate.pem(), own.pem());
        Ok(Certificates { authority, certificate, key: key.serialize_pem() })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn serve(&self, connection: TcpStream, config: Option<Arc<ServerConfig>>) -> Result<()> {
        match config {
            None => self.answer(connection),
            Some(config) => {
                self.answer(StreamOwned::new(ServerConnection::new(config)?, connection))
            }
        }
    }

    fn answer(&self, mut connection: impl Read + Write) -> Result<()> {
        let asked = request(&mut connection)?;
        lock(&self.asked).push(asked.clone());
        let times = lock(&self.asked).iter().filter(|it| it.path == asked.path).count();
        let answer = lock(&self.answers).get(&asked.path).cloned();
        let out = &mut connection;
        match answer {
            None => head(out, 404, "content-length: 0\r\n")?,
            Some(Answer::Status(status)) => head(out, status, "content-length: 0\r\n")?,
            Some(Answer::Whole(bytes)) => whole(out, &bytes)?,
            Some(Answer::Busy(least, _)) if times <= usize::try_from(least)? => {
                head(out, 500, "content-length: 0\r\n")?;
            }
            Some(Answer::Busy(_, bytes)) => whole(out, &bytes)?,
            Some(Answer::Redirect(to)) => {
                head(out, 302, &format!("location: {to}\r\ncontent-length: 0\r\n"))?;
            }
            Some(Answer::Halves(bytes)) => halves(out, &bytes, asked.range.as_deref())?,
            Some(Answer::HalfAndWhole(bytes)) if times == 1 => {
                let (half, _) = bytes.split_at(bytes.len() / 2);
                head(out, 200, &format!("content-length: {}\r\n", bytes.len()))?;
                out.write_all(half)?;
            }
            Some(Answer::HalfAndWhole(bytes)) => whole(out, &bytes)?,
            Some(Answer::Stall) => {
                head(out, 200, "content-length: 1000\r\n")?;
                out.write_all(b"the beginning")?;
                out.flush()?;
                // until the client goes
                out.read_exact(&mut [0]).unwrap_or_default();
            }
            Some(Answer::Endless) => {
                head(out, 200, "transfer-encoding: chunked\r\n")?;
                loop {
                    out.write_all(b"6\r\nabcde\n\r\n")?;
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            Some(Answer::Secret(wanted, bytes)) => match asked.authorization {
                Some(given) if given == wanted => whole(out, &bytes)?,
                _ => head(out, 401, "content-length: 0\r\n")?,
            },
        }
        out.flush()?;
        Ok(())
    }
}

fn request(connection: impl Read) -> Result<Asked> {
    let mut lines = BufReader::new(connection.take(64 * 1024)).lines();
    let first = lines.next().context("nothing was asked")??;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut asked = Asked { path, range: None, authorization: None };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => asked.range = Some(value.to_owned()),
            "authorization" => asked.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    Ok(asked)
}

fn head(out: &mut impl Write, status: u16, more: &str) -> std::io::Result<()> {
    write!(out, "HTTP/1.1 {status} Whatever\r\nconnection: close\r\n{more}\r\n")
}

fn whole(out: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    head(out, 200, &format!("content-length: {}\r\n", bytes.len()))?;
    out.write_all(bytes)
}

fn halves(out: &mut impl Write, bytes: &[u8], range: Option<&str>) -> std::io::Result<()> {
    const MORE: &str = "accept-ranges: bytes\r\netag: \"one\"\r\n";
    let from = range.and_then(|it| it.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match from {
        None => {
            let (half, _) = bytes.split_at(bytes.len() / 2);
            head(out, 200, &format!("{MORE}content-length: {}\r\n", bytes.len()))?;
            out.write_all(half)
        }
        Some(from) => {
            let rest = bytes.get(from..).unwrap_or_default();
            let (len, all) = (rest.len(), bytes.len());
            let range = format!("content-range: bytes {from}-{}/{all}\r\n", all - 1);
            head(out, 206, &format!("{MORE}{range}content-length: {len}\r\n"))?;
            out.write_all(rest)
        }
    }
}
