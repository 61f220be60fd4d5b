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
pub(crate) struct Outgoing {
    socket: StdUnixStream,
    /// The same socket, once the client has taken less than there was: watched for room.
    room: Option<Sender>,
}

/// Returns both directions of a socket.
///
/// # Errors
///
/// The system can't watch it.
pub(crate) fn halves(socket: UnixStream) -> io::Result<(Receiver, Outgoing)> {
    let socket = socket.into_std()?;
    let input = Receiver::from_file_unchecked(same(&socket)?)?;
    Ok((input, Outgoing { socket, room: None }))
}

fn same(socket: &StdUnixStream) -> io::Result<File> {
    Ok(File::from(OwnedFd::from(socket.try_clone()?)))
}

impl AsyncWrite for Outgoing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Outgoing { socket, room } = &mut *self;
        let room = match room {
            Some(room) => room,
            None => match socket.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    room.insert(Sender::from_file_unchecked(same(socket)?)?)
                }
                written => return Poll::Ready(written),
            },
        };
        Pin::new(room).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shutdown(Shutdown::Write))
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
