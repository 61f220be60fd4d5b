//! Sessions on a master of OpenSSH, over its control socket.
//!
//! What `ssh -S SOCKET HOST COMMAND` does, without a process for each session. Follows OpenSSH's
//! `PROTOCOL.mux`, version 4, which all releases since 5.4 speak.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::{Receiver, Sender};

use crate::wide::Wide;

const VERSION: u32 = 4;
const HELLO: u32 = 0x0000_0001;
const NEW_SESSION: u32 = 0x1000_0002;
const PERMISSION_DENIED: u32 = 0x8000_0002;
const FAILURE: u32 = 0x8000_0003;
const SESSION_OPENED: u32 = 0x8000_0006;

/// Bytes that a packet from a master may have.
const MAX_PACKET: u32 = 256 * 1024;
/// Bytes of the environment that are offered, of which a master passes on what `SendEnv` names.
const MAX_ENVIRONMENT: usize = 128 * 1024;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MuxError {
    /// The server takes no more sessions on this connection, or the master none at all.
    #[error("{0}")]
    Refused(String),
    /// The master is gone, or is none.
    #[error("ssh's control socket: {0}")]
    Io(#[from] std::io::Error),
}

/// A command that runs on the other machine. It is ended when this is dropped.
pub(crate) struct MuxSession {
    pub(crate) stdin: Sender,
    pub(crate) stdout: Receiver,
    pub(crate) stderr: Receiver,
    pub(crate) control: MuxControl,
}

/// What keeps a session open.
pub(crate) struct MuxControl {
    _stream: UnixStream,
    _wide: [Option<Wide>; 2],
}

/// Opens a session that runs `command` by the user's shell there. Returns when the server has
/// agreed to the session; the command is on its way then.
pub(crate) async fn open_session(socket: &Path, command: &str) -> Result<MuxSession, MuxError> {
    let mut stream = UnixStream::connect(socket).await?;
    let hello = packet(|out| {
        number(out, HELLO);
        number(out, VERSION);
    });
    stream.write_all(&hello).await?;
    let answer = read_packet(&mut stream).await?;
    let mut words = Words(&answer);
    let (kind, version) = (words.number()?, words.number()?);
    if (kind, version) != (HELLO, VERSION) {
        return Err(unexpected(&format!("greeting {kind}, version {version}")));
    }
    stream.write_all(&new_session(command)).await?;
    let (stdin_there, stdin) = std::io::pipe()?;
    let (stdout, stdout_there) = std::io::pipe()?;
    let (stderr, stderr_there) = std::io::pipe()?;
    let wide = [Wide::make(stdin.as_fd()), Wide::make(stdout.as_fd())];
    for there in [stdin_there.as_fd(), stdout_there.as_fd(), stderr_there.as_fd()] {
        pass(&stream, there).await?;
    }
    drop((stdin_there, stdout_there, stderr_there));
    let answer = read_packet(&mut stream).await?;
    let mut words = Words(&answer);
    match words.number()? {
        SESSION_OPENED => {}
        PERMISSION_DENIED | FAILURE => {
            words.number()?;
            return Err(MuxError::Refused(words.text()?));
        }
        kind => return Err(unexpected(&format!("answer {kind}"))),
    }
    Ok(MuxSession {
        stdin: Sender::from_owned_fd(OwnedFd::from(stdin))?,
        stdout: Receiver::from_owned_fd(OwnedFd::from(stdout))?,
        stderr: Receiver::from_owned_fd(OwnedFd::from(stderr))?,
        control: MuxControl { _stream: stream, _wide: wide },
    })
}

/// Returns the request for a session without terminal, X11, agent or subsystem.
fn new_session(command: &str) -> Vec<u8> {
    const NO_ESCAPE: u32 = u32::MAX;
    const REQUEST: u32 = 0;
    packet(|out| {
        number(out, NEW_SESSION);
        number(out, REQUEST);
        text(out, b"");
        for _ in ["terminal", "X11", "agent", "subsystem"] {
            number(out, 0);
        }
        number(out, NO_ESCAPE);
        text(out, b"");
        text(out, command.as_bytes());
        let mut left = MAX_ENVIRONMENT;
        for (name, value) in std::env::vars() {
            let variable = format!("{name}={value}");
            if let Some(rest) = left.checked_sub(variable.len() + 4) {
                left = rest;
                text(out, variable.as_bytes());
            }
        }
    })
}

/// Passes a file descriptor, with the one byte that goes with it.
async fn pass(stream: &UnixStream, fd: BorrowedFd<'_>) -> Result<(), std::io::Error> {
    loop {
        stream.writable().await?;
        let sent = stream.try_io(Interest::WRITABLE, || {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let fds = [fd];
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
            let byte = [0];
            Ok(sendmsg(stream, &[IoSlice::new(&byte)], &mut ancillary, SendFlags::NOSIGNAL)?)
        });
        match sent {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns a packet, which begins with its length.
fn packet(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = Vec::new();
    fill(&mut body);
    let mut out = Vec::with_capacity(body.len() + 4);
    text(&mut out, &body);
    out
}

fn number(out: &mut Vec<u8>, value: u32) {
    out.extend(value.to_be_bytes());
}

fn text(out: &mut Vec<u8>, value: &[u8]) {
    number(out, u32::try_from(value.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(value);
}

async fn read_packet(stream: &mut UnixStream) -> Result<Vec<u8>, MuxError> {
    let len = stream.read_u32().await?;
    if len > MAX_PACKET {
        return Err(unexpected(&format!("packet of {len} bytes")));
    }
    let mut packet = vec![0; usize::try_from(len).unwrap_or_default()];
    stream.read_exact(&mut packet).await?;
    Ok(packet)
}

fn unexpected(what: &str) -> MuxError {
    MuxError::Io(std::io::Error::other(format!("unexpected {what}")))
}

/// The rest of a packet.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn number(&mut self) -> Result<u32, MuxError> {
        let (bytes, rest) =
            self.0.split_first_chunk().ok_or_else(|| unexpected("end of a packet"))?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    fn text(&mut self) -> Result<String, MuxError> {
        let len = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        let bytes = self.0.get(..len).ok_or_else(|| unexpected("end of a packet"))?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
}
