//! Standard input and output without threads, where they are pipes or sockets, as under `ssh`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream as StdUnixStream;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::{Receiver, Sender};

/// Both directions of a connection, such as the process's own.
pub struct Stdio {
    /// What comes in.
    pub input: Box<dyn AsyncRead + Send + Unpin>,
    /// What goes out.
    pub output: Box<dyn AsyncWrite + Send + Unpin>,
}

/// Returns standard input and output. Must be called within a runtime, and once.
///
/// # Errors
///
/// One of them is closed.
pub fn stdio() -> io::Result<Stdio> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    Ok(Stdio { input: readable(input)?, output: writable(output)? })
}

fn readable(file: File) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
    let kind = file.metadata()?.file_type();
    Ok(if kind.is_fifo() {
        Box::new(Receiver::from_file(file)?)
    } else if kind.is_socket() {
        Box::new(socket(file)?)
    } else {
        Box::new(tokio::io::stdin())
    })
}

fn writable(file: File) -> io::Result<Box<dyn AsyncWrite + Send + Unpin>> {
    let kind = file.metadata()?.file_type();
    Ok(if kind.is_fifo() {
        Box::new(Sender::from_file(file)?)
    } else if kind.is_socket() {
        Box::new(socket(file)?)
    } else {
        Box::new(tokio::io::stdout())
    })
}

fn socket(file: File) -> io::Result<UnixStream> {
    let socket = StdUnixStream::from(OwnedFd::from(file));
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}
