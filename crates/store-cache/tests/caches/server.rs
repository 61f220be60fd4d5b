//! A small HTTP server on loopback that serves a folder, takes files into it, and misbehaves where it is
//! told to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What is done instead of serving a file.
#[derive(Clone, Debug)]
pub enum Mischief {
    /// Another status, with this body, and these headers; what is sent is read before.
    Status(u16, &'static str, Vec<(&'static str, String)>),
    /// This body instead.
    Body(Vec<u8>),
    /// This body, with a `Content-Encoding`.
    Encoded(&'static str, Vec<u8>),
    /// The file's first bytes, and then the end of the connection. Of what is sent no more is read.
    Cut(usize),
    /// The file's first bytes, and then nothing. Of what is sent no more is read.
    Stall(usize),
    /// Bytes without end.
    Endless,
    /// Not a byte in answer.
    Silence,
    /// Words that are no HTTP.
    Garbage,
}

/// A request as it came: what is done to which path, and the header lines in lower case.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<String>,
}

#[derive(Default)]
struct State {
    folder: PathBuf,
    /// For which method and path, what, and how many times.
    mischief: HashMap<(String, String), (Mischief, usize)>,
    requests: Vec<Request>,
    /// Requests that were open at once at the most.
    open: usize,
    most_open: usize,
    /// How long each answer is held back.
    delay: Duration,
}

/// The server. It ends when it is dropped.
pub struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub async fn start(folder: PathBuf) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { folder, ..State::default() }));
        let mut tasks = JoinSet::new();
        let shared = state.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                connections.spawn(serve(stream, shared.clone()));
            }
        });
        Server { address, state, _tasks: tasks }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Misbehaves the next `times` times that it is asked for `path`.
    pub fn misbehave(&self, path: &str, mischief: Mischief, times: usize) {
        let key = ("GET".to_owned(), path.to_owned());
        self.state.lock().unwrap().mischief.insert(key, (mischief, times));
    }

    /// Misbehaves the next `times` times that something is put under `path`.
    pub fn misbehave_put(&self, path: &str, mischief: Mischief, times: usize) {
        let key = ("PUT".to_owned(), path.to_owned());
        self.state.lock().unwrap().mischief.insert(key, (mischief, times));
    }

    pub fn delay(&self, delay: Duration) {
        self.state.lock().unwrap().delay = delay;
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    /// How often it was asked for a path.
    pub fn count(&self, path: &str) -> usize {
        let asked = |request: &&Request| request.method != "PUT" && request.path == path;
        self.requests().iter().filter(asked).count()
    }

    /// Under which paths something was put, in that order.
    pub fn puts(&self) -> Vec<String> {
        let puts = self.requests().into_iter().filter(|request| request.method == "PUT");
        puts.map(|request| request.path).collect()
    }

    /// How often something was put under a path.
    pub fn count_puts(&self, path: &str) -> usize {
        self.puts().iter().filter(|put| *put == path).count()
    }

    pub fn most_open(&self) -> usize {
        self.state.lock().unwrap().most_open
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream).await {
        let (file, mischief, delay) = {
            let mut state = state.lock().unwrap();
            state.requests.push(request.clone());
            state.open += 1;
            state.most_open = state.most_open.max(state.open);
            let key = (request.method.clone(), request.path.clone());
            let mischief = match state.mischief.get_mut(&key) {
                Some((mischief, times)) if *times > 0 => {
                    *times -= 1;
                    Some(mischief.clone())
                }
                _ => None,
            };
            let path = request.path.split('?').next().unwrap().trim_start_matches('/').to_owned();
            (state.folder.join(path), mischief, state.delay)
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let served = match request.method.as_str() {
            "PUT" => take(&mut stream, &request, &file, mischief).await,
            _ => answer(stream.get_mut(), std::fs::read(file).ok(), mischief).await,
        };
        state.lock().unwrap().open -= 1;
        if served.is_none() {
            break;
        }
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut words = lines.first()?.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let headers = lines.iter().skip(1).map(|line| line.to_lowercase()).collect();
    Some(Request { method, path, headers })
}

/// Takes what is put. Nothing where the connection is of no more use.
async fn take(
    stream: &mut BufReader<TcpStream>,
    request: &Request,
    file: &Path,
    mischief: Option<Mischief>,
) -> Option<()> {
    let mut lengths =
        request.headers.iter().filter_map(|line| line.strip_prefix("content-length: "));
    let length: usize = lengths.next()?.parse().ok()?;
    let most = match &mischief {
        Some(Mischief::Cut(most) | Mischief::Stall(most)) => length.min(*most),
        _ => length,
    };
    let mut body = vec![0; most];
    stream.read_exact(&mut body).await.ok()?;
    let stream = stream.get_mut();
    match mischief {
        None => {
            std::fs::create_dir_all(file.parent()?).ok()?;
            std::fs::write(file, body).ok()?;
            send(stream, 201, &[], 0, b"").await
        }
        Some(Mischief::Cut(_)) => None,
        Some(Mischief::Stall(_)) => std::future::pending().await,
        mischief => answer(stream, None, mischief).await,
    }
}

/// Answers. Nothing where the connection is of no more use.
async fn answer(
    stream: &mut TcpStream,
    file: Option<Vec<u8>>,
    mischief: Option<Mischief>,
) -> Option<()> {
    let whole = file.clone().unwrap_or_default();
    match (mischief, file) {
        (None, Some(file)) => send(stream, 200, &[], file.len(), &file).await,
        (None, None) => send(stream, 404, &[], 0, b"").await,
        (Some(Mischief::Status(status, body, headers)), _) => {
            send(stream, status, &headers, body.len(), body.as_bytes()).await
        }
        (Some(Mischief::Body(body)), _) => send(stream, 200, &[], body.len(), &body).await,
        (Some(Mischief::Encoded(encoding, body)), _) => {
            let headers = [("Content-Encoding", encoding.to_owned())];
            send(stream, 200, &headers, body.len(), &body).await
        }
        (Some(Mischief::Cut(at)), _) => {
            send(stream, 200, &[], whole.len(), &whole[..at]).await;
            None
        }
        (Some(Mischief::Stall(at)), _) => {
            send(stream, 200, &[], whole.len(), &whole[..at]).await;
            until_closed(stream).await
        }
        (Some(Mischief::Endless), _) => {
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
            stream.write_all(head.as_bytes()).await.ok()?;
            while stream.write_all(&[b'x'; 65536]).await.is_ok() {}
            None
        }
        (Some(Mischief::Silence), _) => until_closed(stream).await,
        (Some(Mischief::Garbage), _) => {
            stream.write_all(b"220 smtp.example.org ESMTP\r\n").await.ok()?;
            None
        }
    }
}

/// Waits until the client has gone.
async fn until_closed(stream: &mut TcpStream) -> Option<()> {
    let mut rest = [0; 64];
    while stream.read(&mut rest).await.ok()? > 0 {}
    None
}

async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    status: u16,
    headers: &[(&'static str, String)],
    length: usize,
    body: &[u8],
) -> Option<()> {
    let mut answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        answer.push_str(&format!("{name}: {value}\r\n"));
    }
    answer.push_str("\r\n");
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.write_all(body).await.ok()?;
    stream.flush().await.ok()
}
