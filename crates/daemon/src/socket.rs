//! A client's socket, of which only that is watched that somebody waits for.
//!
//! tokio's `UnixStream` is watched for both directions all the time. Each answer that a client reads makes
//! room, and so wakes the task that waits for its next question, which is a tenth of what a small question
//! takes. What tokio has for the ends of pipes watches one direction, and reads and writes whatever it is.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::net::UnixStream;
use tokio::net::unix::pipe::{Receiver, Sender};

/// What goes to a client.
pub(crate) enum Outgoing {
    /// It has taken all that there was.
    Unwatched(StdUnixStream),
    /// It has taken less once: watched for room.
    Watched(Sender),
    /// The system couldn't watch it.
    Lost,
}

/// Returns both directions of a socket.
///
/// # Errors
///
/// The system can't watch it.
pub(crate) fn halves(socket: UnixStream) -> io::Result<(Receiver, Outgoing)> {
    let socket = socket.into_std()?;
    let input = Receiver::from_file_unchecked(file(socket.try_clone()?))?;
    Ok((input, Outgoing::Unwatched(socket)))
}

fn file(socket: StdUnixStream) -> File {
    File::from(OwnedFd::from(socket))
}

impl Outgoing {
    /// Watches the socket from now on.
    fn watch(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Outgoing::Lost) {
            Outgoing::Unwatched(socket) => {
                Outgoing::Watched(Sender::from_file_unchecked(file(socket))?)
            }
            watched => watched,
        };
        Ok(())
    }
}

impl AsyncWrite for Outgoing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match &mut *self {
                Outgoing::Unwatched(socket) => match socket.write(bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.watch()?,
                    written => return Poll::Ready(written),
                },
                Outgoing::Watched(room) => return Pin::new(room).poll_write(cx, bytes),
                Outgoing::Lost => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match &*self {
            Outgoing::Unwatched(socket) => socket.shutdown(Shutdown::Write),
            Outgoing::Watched(room) => {
                Ok(rustix::net::shutdown(room, rustix::net::Shutdown::Write)?)
            }
            Outgoing::Lost => Ok(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// More than a socket holds, so that each side has to wait for the other.
    const MUCH: usize = 4 * 1024 * 1024;

    fn bytes(seed: u8) -> Vec<u8> {
        (0..=250_u8).cycle().map(|byte| byte ^ seed).take(MUCH).collect()
    }

    #[tokio::test]
    async fn all_arrives_in_both_directions_and_ends() {
        let (client, server) = UnixStream::pair().unwrap();
        let (mut input, mut output) = halves(server).unwrap();
        let (mut from, mut to) = client.into_split();
        let sending = async {
            to.write_all(&bytes(1)).await.unwrap();
            drop(to);
        };
        let answering = async {
            output.write_all(&bytes(2)).await.unwrap();
            output.flush().await.unwrap();
            output.shutdown().await.unwrap();
        };
        let (mut got, mut answered) = (Vec::new(), Vec::new());
        let (_, _, got_all, answered_all) = tokio::join!(
            sending,
            answering,
            input.read_to_end(&mut got),
            from.read_to_end(&mut answered)
        );
        assert_eq!((got_all.unwrap(), answered_all.unwrap()), (MUCH, MUCH));
        assert!(got == bytes(1) && answered == bytes(2));
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_an_error() {
        let (client, server) = UnixStream::pair().unwrap();
        let (_input, mut output) = halves(server).unwrap();
        drop(client);
        let error = output.write_all(b"x").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
