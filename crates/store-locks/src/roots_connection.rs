//! One connection to a garbage collector, by somebody who adds roots.

use std::os::fd::OwnedFd;

use drover_core::{StoreDir, StorePath};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::roots_state::{Arrival, HashPart, RootsState, hash_part};

/// Bytes of a line: the longest path of a file, and then some.
const MAX_LINE: usize = 4096 + 256;
/// Answers that are not sent yet, after which no more is read.
const MAX_UNSENT: usize = 256;

/// What a connection did when it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing.
    Silent,
    /// Something.
    Busy,
    /// It has ended, or broke a rule.
    Ended,
}

/// One who adds roots.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    /// What came and was not answered yet; the first line of it is the next.
    input: Vec<u8>,
    /// A root whose path is being deleted. Nothing behind it is looked at meanwhile.
    pending: Option<HashPart>,
    unsent: usize,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Connection {
        Connection { socket, input: Vec::new(), pending: None, unsent: 0 }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Returns what of the connection is worth waking up for; nothing if a deletion has to end.
    pub(crate) fn waits_for(&self) -> Option<PollFlags> {
        match self {
            Connection { unsent: 1.., .. } => Some(PollFlags::OUT),
            Connection { pending: Some(_), .. } => None,
            // Lines are left that were too many to answer at once.
            Connection { input, .. } if input.contains(&b'\n') => Some(PollFlags::OUT),
            _ => Some(PollFlags::IN),
        }
    }

    /// Does what can be done without waiting, up to one read.
    pub(crate) fn serve(&mut self, roots: &RootsState, store_dir: &StoreDir) -> State {
        if self.pending.is_some_and(|part| !roots.is_pending(&part)) {
            self.pending = None;
            self.unsent += 1;
        }
        let Some(read) = self.read() else { return State::Ended };
        if !self.answer(roots, store_dir) || !self.send() {
            return State::Ended;
        }
        if read == 0 { State::Silent } else { State::Busy }
    }

    /// Reads once if there is room. Returns how many bytes came, nothing if no more will.
    fn read(&mut self) -> Option<usize> {
        if self.pending.is_some() || 0 < self.unsent || MAX_LINE <= self.input.len() {
            return Some(0);
        }
        let mut bytes = [0; MAX_LINE];
        match rustix::net::recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) => None,
            Ok((got, _)) => {
                self.input.extend(bytes.iter().take(got));
                Some(got)
            }
            Err(Errno::AGAIN | Errno::INTR) => Some(0),
            Err(_) => None,
        }
    }

    /// Answers whole lines. Returns whether the connection may go on.
    fn answer(&mut self, roots: &RootsState, store_dir: &StoreDir) -> bool {
        let mut done = 0;
        while self.pending.is_none() && self.unsent < MAX_UNSENT {
            let rest = self.input.get(done..).unwrap_or_default();
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                if MAX_LINE <= rest.len() {
                    return false;
                }
                break;
            };
            let line = rest.get(..end).unwrap_or_default();
            match parse(store_dir, line).map(|path| (roots.arrive(&path), path)) {
                Some((Arrival::Refused, _)) => return false,
                Some((Arrival::Pending, path)) => self.pending = Some(hash_part(&path)),
                // What is no path of this store isn't deleted here: Nix answers that as well.
                Some((Arrival::Honoured, _)) | None => self.unsent += 1,
            }
            done += end + 1;
        }
        self.input.drain(..done);
        true
    }

    /// Sends answers as far as they are taken. Returns whether the connection may go on.
    fn send(&mut self) -> bool {
        while 0 < self.unsent {
            let bytes = [b'1'; MAX_UNSENT + 1];
            let answers = bytes.get(..self.unsent).unwrap_or(&bytes);
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::send(&self.socket, answers, flags) {
                Ok(sent) => self.unsent = self.unsent.saturating_sub(sent),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

fn parse(store_dir: &StoreDir, line: &[u8]) -> Option<StorePath> {
    store_dir.parse(std::str::from_utf8(line).ok()?).ok()
}
