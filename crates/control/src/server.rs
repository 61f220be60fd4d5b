//! The side that answers.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite,
    AsyncWriteExt as _, BufReader,
};
use tokio::net::UnixStream;
use tokio::net::unix::UCred;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::message::{Answer, MAX_ANSWER, MAX_REQUEST, Request};
use crate::shares::Shares;
use crate::socket::Socket;

/// For how long somebody may take to ask, to be answered, and to read the answer: each.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rest after the system could not take somebody in, mostly for want of file descriptors.
const OUT_OF_BREATH: Duration = Duration::from_millis(100);

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user's name, or number.
    pub user: String,
    /// What this one may do.
    pub power: Power,
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Ask.
    Ask,
    /// Ask and give orders.
    Order,
}

/// Who knows the answers.
#[async_trait]
pub trait Responder: Send + Sync {
    /// Says who somebody is, by what the kernel says; or why this one may not even ask.
    async fn admit(&self, credentials: UCred) -> Result<Caller, String>;

    /// Answers. Orders come only from those who may give them.
    async fn answer(&self, caller: &Caller, request: Request) -> Answer;
}

/// Takes questions in at a socket.
pub struct Server {
    socket: Socket,
    responder: Arc<dyn Responder>,
}

impl Server {
    /// Returns a server; nobody is answered before it runs.
    pub fn new(socket: Socket, responder: Arc<dyn Responder>) -> Server {
        Server { socket, responder }
    }

    /// Answers until this is dropped, which also removes the socket.
    pub async fn run(self) {
        let mut visits = JoinSet::new();
        let shares = Shares::default();
        loop {
            tokio::select! {
                accepted = self.socket.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let responder = Arc::clone(&self.responder);
                        let shares = shares.clone();
                        visits.spawn(async move { receive(stream, &shares, &*responder).await });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot take a question in");
                        sleep(OUT_OF_BREATH).await;
                    }
                },
                Some(ended) = visits.join_next(), if !visits.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "an answer was cut short");
                    }
                }
            }
        }
    }
}

async fn refuse(mut stream: UnixStream, reason: &str) {
    let answer = line(&Answer::Refused(reason.to_owned()));
    // who doesn't listen need not know
    drop(timeout(PATIENCE, stream.write_all(&answer)).await);
}

/// Answers one who has come until this one goes, or says nothing for long.
async fn receive(stream: UnixStream, shares: &Shares, responder: &dyn Responder) {
    let credentials = match stream.peer_cred() {
        Ok(credentials) => credentials,
        Err(error) => return refuse(stream, &format!("cannot tell who you are: {error}")).await,
    };
    let _share = match shares.take(credentials.uid()) {
        Ok(share) => share,
        Err(refusal) => return refuse(stream, &refusal).await,
    };
    let caller = match timeout(PATIENCE, responder.admit(credentials)).await {
        Ok(Ok(caller)) => caller,
        Ok(Err(refusal)) => return refuse(stream, &refusal).await,
        Err(_) => return refuse(stream, "looking you up takes too long").await,
    };
    let (input, output) = stream.into_split();
    converse(&caller, input, output, responder).await;
}

/// Answers one whose identity is known until this one goes, or says nothing for long.
pub async fn converse(
    caller: &Caller,
    input: impl AsyncRead + Send + Unpin,
    mut output: impl AsyncWrite + Send + Unpin,
    responder: &dyn Responder,
) {
    let mut input = BufReader::new(input);
    loop {
        let asked = match timeout(PATIENCE, read_line(&mut input)).await {
            Ok(Ok(Some(asked))) => asked,
            _ => return,
        };
        let is_whole = asked.ends_with(b"\n");
        let answer = match is_whole {
            true => answer(caller, &asked, responder).await,
            false => Answer::Refused(format!("a request has {MAX_REQUEST} bytes at most")),
        };
        let said = line(&answer);
        let sending = async {
            output.write_all(&said).await?;
            output.flush().await
        };
        let sent = timeout(PATIENCE, sending).await;
        if !is_whole || !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}

/// Reads a line, or as much of it as a request may have; nothing at the end.
async fn read_line(input: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let mut asked = Vec::new();
    let limit = u64::try_from(MAX_REQUEST).unwrap_or(u64::MAX);
    input.take(limit).read_until(b'\n', &mut asked).await?;
    Ok((!asked.is_empty()).then_some(asked))
}

async fn answer(caller: &Caller, asked: &[u8], responder: &dyn Responder) -> Answer {
    let request: Request = match serde_json::from_slice(asked) {
        Ok(request) => request,
        Err(error) => {
            return Answer::Refused(format!("the request can't be understood: {error}"));
        }
    };
    if request.is_order() && caller.power != Power::Order {
        let user = &caller.user;
        return Answer::Refused(format!(
            "user '{user}' may only ask; orders are for those in 'trusted-users' of nix.conf"
        ));
    }
    match timeout(PATIENCE, responder.answer(caller, request)).await {
        Ok(answer) => answer,
        Err(_) => Answer::Refused("the answer takes too long".to_owned()),
    }
}

/// Returns an answer's line.
fn line(answer: &Answer) -> Vec<u8> {
    let written = |answer: &Answer| {
        let mut line = serde_json::to_vec(answer).unwrap_or_default();
        line.push(b'\n');
        line
    };
    let line = written(answer);
    if line.len() <= MAX_ANSWER {
        return line;
    }
    written(&Answer::Refused("the answer is too long".to_owned()))
}
