//! Messages with open files between the caller, the launcher and the supervisors.
//!
//! All of them travel on `SOCK_SEQPACKET` sockets of our own, so that one message is one call, and
//! the end of the peer is an empty message.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ahead::Ahead;
use crate::error::Failure;
use crate::plan::Ids;
use crate::running::Connection;
use crate::support::Support;

/// What the launcher is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Start a supervisor. With it come its end of a socket, the plan, and the plan's files.
    Spawn {
        /// What of the command's surroundings may be there already.
        ahead: Ahead,
    },
    /// Kill all processes of these users. With it comes the socket for the answer.
    KillUsers {
        /// The first.
        first: Ids,
        /// How many.
        count: u32,
    },
    /// Say what this machine can do. With it comes the socket for the answer.
    Detect,
}

/// What a supervisor tells.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The command runs. With it comes the pidfd of its first process.
    Started {
        /// Its number as this machine counts.
        pid: i32,
    },
    /// It doesn't, and nothing is left.
    Failed(Failure),
    /// It has ended, and nothing is left.
    Ended {
        /// As `wait` gives it.
        status: i32,
        /// Whether it was killed as asked.
        asked: bool,
        /// What became of its network.
        connection: Connection,
        /// Processor time in user space, of it and of what it has waited for.
        user: Duration,
        /// Processor time in the kernel.
        system: Duration,
        /// The most memory that one of its processes has held, in bytes.
        max_rss: u64,
    },
    /// What was asked for has been done.
    Done,
    /// What this machine can do.
    Supports(Support),
}

/// A message: bytes and open files.
pub(crate) struct Message {
    bytes: Vec<u8>,
    pub(crate) files: Vec<OwnedFd>,
}

/// The longest message: plans travel in files, and failures are cut (see [`Failure`]). Each process
/// that receives touches as much memory.
const MAX_BYTES: usize = 8 * 1024;
/// The kernel's own limit (`SCM_MAX_FD`).
const MAX_FILES: usize = 253;

/// Makes two connected ends, each closed when a program is started.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Sends one message.
pub(crate) fn send(
    socket: impl AsFd,
    what: &impl Serialize,
    files: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let bytes = postcard::to_stdvec(what).map_err(|_| Errno::INVAL)?;
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(Errno::TOOMANYREFS);
    }
    let flags = SendFlags::NOSIGNAL;
    let slices = [IoSlice::new(&bytes)];
    retry_on_intr(|| rustix::net::sendmsg(&socket, &slices, &mut control, flags)).map(drop)
}

/// Receives one message; `None` if the peer is gone.
pub(crate) fn receive(socket: impl AsFd) -> Result<Option<Message>, Errno> {
    let mut bytes = [0; MAX_BYTES];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let len = retry_on_intr(|| rustix::net::recvmsg(&socket, &mut slices, &mut control, flags));
    let len = match len {
        // This process can't have more open files.
        Ok(received) if received.flags.contains(ReturnFlags::CTRUNC) => return Err(Errno::MFILE),
        Ok(received) => received.bytes,
        Err(Errno::CONNRESET) => 0,
        Err(errno) => return Err(errno),
    };
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    let bytes = bytes.get(..len).unwrap_or_default();
    Ok((!bytes.is_empty()).then(|| Message { bytes: bytes.to_vec(), files }))
}

impl Message {
    /// Reads what was sent.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Errno> {
        postcard::from_bytes(&self.bytes).map_err(|_| Errno::BADMSG)
    }
}
