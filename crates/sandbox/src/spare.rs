//! A supervisor that is there before its command is known.
//!
//! The launcher has at most one. It's as new as one that is forked for its command: it has run nothing,
//! its child has made what the forecast says and nothing else, and both end with the one command that
//! they are for. It begins when the command before has started, as that would have to wait for it: the kernel
//! takes mounts down when every processor has come out of what it's at, and to make a network is long.
//!
//! It's thrown away where the command wants anything else, where the machine's mounts
//! have changed since, of which the child has a copy, and where nothing is asked for in a while.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::ahead::{Forecast, Order};
use crate::handles::Handles;
use crate::launch::OwnProgram;
use crate::message::{self, Message};
use crate::supervisor::{self, Early};
use crate::sys::{self, Ended};

/// How long one is kept that nobody asks for: it takes memory, and a build every few seconds doesn't
/// need it.
const KEPT: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// The launcher's one, if it has one.
pub(crate) struct Spares {
    next: Option<Spare>,
}

/// One that waits, from the launcher's side.
pub(crate) struct Spare {
    forecast: Forecast,
    /// The open files that were made use of.
    handles: Handles,
    /// Where it waits. It ends when this is closed.
    orders: OwnedFd,
    /// The machine's mounts as they were when it was made.
    mounts: OwnedFd,
}

impl Spares {
    pub(crate) fn new() -> Spares {
        Spares { next: None }
    }

    /// Receives the next request, and lets go of what waits for too long meanwhile.
    pub(crate) fn receive(&mut self, socket: &OwnedFd) -> Result<Option<Message>, Errno> {
        if self.next.is_some() && !is_readable(socket, &KEPT)? {
            self.next = None;
        }
        message::receive(socket)
    }

    /// Hands a plan and its files to the one that is there, if it's as it should be. These are the
    /// socket for reports, the plan, and its open files. The gate is let go of when the command has
    /// started.
    pub(crate) fn start(&mut self, wanted: &Forecast, files: &[OwnedFd], gate: &Gate) -> Handed {
        let Some(spare) = self.next.take() else { return Handed::No };
        let asked = files.get(2..2 + wanted.handles).unwrap_or_default();
        if spare.forecast != *wanted
            || !wanted.is_of_the_same(&spare.handles, asked)
            || spare.mounts_have_changed()
        {
            return Handed::No;
        }
        let files: Vec<_> =
            std::iter::once(gate.0.as_fd()).chain(files.iter().map(|file| file.as_fd())).collect();
        match message::send(&spare.orders, &Order::Start, &files) {
            Ok(()) => Handed::Over,
            Err(_) => Handed::No,
        }
    }

    /// Keeps one that was forked.
    pub(crate) fn keep(&mut self, spare: Spare) {
        self.next = Some(spare);
    }
}

/// Who has this keeps the next spare from beginning.
#[derive(Debug)]
pub(crate) struct Gate(OwnedFd);

/// Where it's seen that nobody has the gate any more.
pub(crate) struct BehindGate(OwnedFd);

impl Gate {
    pub(crate) fn new() -> Result<(Gate, BehindGate), Errno> {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok((Gate(writer), BehindGate(reader)))
    }
}

impl BehindGate {
    /// Waits until the gate is open, or there is something to be heard all the same.
    fn wait(&self, orders: &OwnedFd) -> Result<(), Errno> {
        let mut polled =
            [PollFd::new(&self.0, PollFlags::empty()), PollFd::new(orders, PollFlags::IN)];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None)).map(drop)
    }
}

/// What the process that is a spare has of it.
pub(crate) struct Waiting {
    behind: BehindGate,
    orders: OwnedFd,
    forecast: Forecast,
    handles: Handles,
}

impl Spare {
    /// Returns both ends of one that is to be forked.
    pub(crate) fn new(
        forecast: Forecast,
        handles: Handles,
        behind: BehindGate,
    ) -> Result<(Spare, Waiting), Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mounts = rustix::fs::open("/proc/self/mountinfo", flags, Mode::empty())?;
        let (orders, theirs) = message::pair()?;
        let (known, made_of) = (forecast.clone(), handles.clone());
        let waiting = Waiting { behind, orders: theirs, forecast: known, handles: made_of };
        Ok((Spare { forecast, handles, orders, mounts }, waiting))
    }

    /// Whether anything was mounted or taken off since. Where that can't be said, it may have been.
    fn mounts_have_changed(&self) -> bool {
        let mut polled = [PollFd::new(&self.mounts, PollFlags::PRI)];
        match rustix::event::poll(&mut polled, Some(&Timespec::default())) {
            Ok(count) => count != 0,
            Err(_) => true,
        }
    }
}

/// Whether a plan was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handed {
    /// It was.
    Over,
    /// It wasn't, and somebody else has to see to it.
    No,
}

impl Waiting {
    /// In a process of its own: makes what can be made, and does what a supervisor does when there is a
    /// plan.
    pub(crate) fn serve(self, own: Option<OwnProgram>) {
        let Waiting { behind, orders, forecast, handles } = self;
        sys::set_ended_children(Ended::Wait);
        if behind.wait(&orders).is_err() {
            return;
        }
        drop(behind);
        // where that fails the command has its child made then, and is told why if that fails as well
        let early = Early::make(&forecast, handles, own).ok();
        let Ok(Some(mut message)) = message::receive(&orders) else { return };
        drop(orders);
        if message.files.len() < 2 {
            return;
        }
        let gate = Gate(message.files.remove(0));
        let control = message.files.remove(0);
        let start = supervisor::Start { early, gate: Some(gate) };
        let report = supervisor::supervise(&control, message.files, start, own);
        // Nobody may be there to hear it any more.
        message::send(&control, &report, &[]).unwrap_or_default();
    }
}

fn is_readable(socket: &OwnedFd, limit: &Timespec) -> Result<bool, Errno> {
    let mut polled = [PollFd::new(socket, PollFlags::IN)];
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(limit)))
        .map(|count| count != 0)
}
