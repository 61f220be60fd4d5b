//! The side that asks.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::UnixStream;

use crate::message::{Answer, MAX_ANSWER, MAX_REQUEST, Request};

/// Bytes that are shown of what is no answer.
const SHOWN: usize = 300;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nobody listens there.
    #[error("no daemon of drover listens at '{peer}'")]
    NobodyThere {
        /// Where.
        peer: String,
        /// What the system says.
        source: io::Error,
    },
    /// The request is longer than a daemon takes it. Nothing was done.
    #[error(
        "this asks for too much at once: {bytes} bytes, of which the daemon takes {MAX_REQUEST}; name fewer derivations"
    )]
    TooLong {
        /// Its bytes.
        bytes: usize,
    },
    /// The daemon said nothing for too long. What was asked for may be done.
    #[error("the daemon at '{peer}' has not answered for {} seconds", limit.as_secs())]
    Silent {
        /// Where.
        peer: String,
        /// For how long.
        limit: Duration,
    },
    /// The connection broke. What was asked for may be done.
    #[error("the connection to the daemon at '{peer}' was lost")]
    Lost {
        /// Where.
        peer: String,
        /// What the system says.
        source: io::Error,
    },
    /// It answered something that is no answer: another release, or no daemon of drover at all.
    #[error(
        "what answers at '{peer}' isn't understood; is it a daemon of drover, and of the same release? It says: {said}"
    )]
    NotUnderstood {
        /// Where.
        peer: String,
        /// The beginning of it.
        said: String,
    },
    /// It is the number of one build of each of several daemons. Only who asks several of them says so.
    #[error("'{build}' is known by several daemons for hooks: name one of {choices}")]
    Ambiguous {
        /// What was asked for.
        build: String,
        /// By what each of them is named alone.
        choices: String,
    },
    /// It refuses, and says why.
    #[error("the daemon refuses: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
}

/// A connection to a daemon, on which one request after another is answered.
pub struct Conversation {
    peer: String,
    input: BufReader<Box<dyn AsyncRead + Send + Unpin>>,
    output: Box<dyn AsyncWrite + Send + Unpin>,
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conversation({})", self.peer)
    }
}

impl Conversation {
    /// Connects to the daemon that listens at a socket.
    ///
    /// # Errors
    ///
    /// [`ControlError::NobodyThere`].
    pub async fn connect(socket: &Path) -> Result<Conversation, ControlError> {
        let peer = socket.display().to_string();
        match UnixStream::connect(socket).await {
            Ok(stream) => {
                let (input, output) = stream.into_split();
                Ok(Conversation::over(peer, Box::new(input), Box::new(output)))
            }
            Err(source) => Err(ControlError::NobodyThere { peer, source }),
        }
    }

    /// Talks over a connection that leads to a daemon. `peer` is what it is called in errors.
    pub fn over(
        peer: String,
        input: Box<dyn AsyncRead + Send + Unpin>,
        output: Box<dyn AsyncWrite + Send + Unpin>,
    ) -> Conversation {
        Conversation { peer, input: BufReader::new(input), output }
    }

    /// Asks. Takes no longer than `limit`. After an error but a refusal this is of no use any more.
    ///
    /// # Errors
    ///
    /// [`ControlError`]; only with [`ControlError::TooLong`] and [`ControlError::Refused`] is it sure
    /// that nothing was done.
    pub async fn ask(
        &mut self,
        request: &Request,
        limit: Duration,
    ) -> Result<Answer, ControlError> {
        match tokio::time::timeout(limit, self.exchange(request)).await {
            Ok(Ok(Answer::Refused(reason))) => Err(ControlError::Refused { reason }),
            Ok(answered) => answered,
            Err(_) => Err(ControlError::Silent { peer: self.peer.clone(), limit }),
        }
    }

    async fn exchange(&mut self, request: &Request) -> Result<Answer, ControlError> {
        let mut line = serde_json::to_vec(request).map_err(|error| self.lost(error.into()))?;
        line.push(b'\n');
        if line.len() > MAX_REQUEST {
            return Err(ControlError::TooLong { bytes: line.len() });
        }
        match self.send(&line).await {
            Ok(()) => self.hear().await,
            // a daemon that refuses says why and closes, before anything was sent perhaps
            Err(source) => match self.hear().await {
                Ok(refused @ Answer::Refused(_)) => Ok(refused),
                _ => Err(self.lost(source)),
            },
        }
    }

    fn lost(&self, source: io::Error) -> ControlError {
        ControlError::Lost { peer: self.peer.clone(), source }
    }

    async fn send(&mut self, line: &[u8]) -> io::Result<()> {
        self.output.write_all(line).await?;
        self.output.flush().await
    }

    /// Hears the next answer.
    async fn hear(&mut self) -> Result<Answer, ControlError> {
        let Conversation { peer, input, .. } = self;
        let lost = |source| ControlError::Lost { peer: peer.clone(), source };
        let not_understood = |said: &[u8]| {
            let said = said.get(..SHOWN).unwrap_or(said);
            let said = String::from_utf8_lossy(said).trim().escape_debug().to_string();
            ControlError::NotUnderstood { peer: peer.clone(), said }
        };
        let mut answer = Vec::new();
        let limit = u64::try_from(MAX_ANSWER).unwrap_or(u64::MAX);
        input.take(limit).read_until(b'\n', &mut answer).await.map_err(lost)?;
        if answer.is_empty() {
            return Err(lost(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&answer).map_err(|error| match error.is_eof() {
            // one whose end didn't come
            true if answer.len() < MAX_ANSWER => lost(io::ErrorKind::UnexpectedEof.into()),
            _ => not_understood(&answer),
        })
    }
}

/// Asks the daemon that listens at a socket. Takes no longer than `limit`.
///
/// # Errors
///
/// [`ControlError`]; only with [`ControlError::NobodyThere`], [`ControlError::TooLong`] and
/// [`ControlError::Refused`] is it sure that nothing was done.
pub async fn ask(
    socket: &Path,
    request: &Request,
    limit: Duration,
) -> Result<Answer, ControlError> {
    let connecting = tokio::time::timeout(limit, Conversation::connect(socket)).await;
    let silent = || ControlError::Silent { peer: socket.display().to_string(), limit };
    connecting.map_err(|_| silent())??.ask(request, limit).await
}
