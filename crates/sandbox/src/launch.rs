//! The launcher itself: a small process with one thread, which forks supervisors.
//!
//! See the crate's documentation for why there is one.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::ahead::Ahead;
use crate::error::{Failure, Reason, Step};
use crate::leftovers;
use crate::message::{self, Message, Report, Request};
use crate::spare::{BehindGate, Gate, Handed, Spare, Spares};
use crate::supervisor::{self, Start};
use crate::support;
use crate::sys::{self, Ended, Fork};

/// What a launcher's program does itself, given the bytes of [`Program::Own`](crate::Program::Own).
/// What it returns is its exit status.
///
/// It's called in a process of its own with one thread, which is the plan's user in the plan's
/// surroundings and has nothing open but its output, at 1 and 2. The process is a fork, so what the
/// launcher's `main` did before is done; what it returns to is the process' end.
pub type OwnProgram = fn(&[u8]) -> u8;

/// Is a launcher of files only, until its caller is gone.
///
/// # Errors
/// Those of [`run_launcher_for`].
pub fn run_launcher() -> io::Result<()> {
    launch(None)
}

/// Is the launcher, until its caller is gone.
///
/// For `main`, before it does anything else: this process must have one thread and nothing open but
/// what the caller has given it.
///
/// # Errors
/// If this process wasn't started as a launcher, or its caller can't be heard.
pub fn run_launcher_for(own: OwnProgram) -> io::Result<()> {
    launch(Some(own))
}

/// Refuses to be what only a process can be that has one thread and was started with a socket.
fn check_start() -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other("the launcher must be started before any thread"));
    }
    if rustix::net::sockopt::socket_type(rustix::stdio::stdin()).is_err() {
        return Err(io::Error::other("the launcher is started by drover itself, not by hand"));
    }
    Ok(())
}

fn launch(own: Option<OwnProgram>) -> io::Result<()> {
    check_start()?;
    sys::shut_signals_out();
    sys::set_ended_children(Ended::Vanish);
    let socket = take_socket()?;
    // Out of reach of what is typed at the caller's terminal, and of the folder it was started in.
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    let mut spares = Spares::new();
    loop {
        let mut message = match spares.receive(&socket) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(()),
            // Some of its files are lost. Whoever sent it sees its socket close, and may try again.
            Err(Errno::MFILE) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let request = read_request(&message)?;
        let (gate, behind) = gate_for(&request).unzip();
        if hand_over(&mut spares, &request, &message, gate.as_ref()) == Handed::No {
            match sys::fork() {
                Ok(Fork::Parent(_)) => {}
                Ok(Fork::Child) => {
                    drop((socket, spares, behind));
                    serve(request, message.files, gate, own);
                    sys::exit_now(0)
                }
                Err(errno) => tell_of_fork(errno, &message),
            }
        }
        let Request::Spawn { ahead: Ahead::Surroundings(forecast) } = request else { continue };
        let handles = message.files.drain(..).skip(2).take(forecast.handles).collect();
        // the others are this command's alone
        drop((message, gate));
        let Some(behind) = behind else { continue };
        let Ok((spare, waiting)) = Spare::new(forecast, handles, behind) else { continue };
        match sys::fork() {
            Ok(Fork::Parent(_)) => spares.keep(spare),
            Ok(Fork::Child) => {
                drop((socket, spares, spare));
                waiting.serve(own);
                sys::exit_now(0)
            }
            // the next command has one forked for it, and is told why that fails
            Err(_) => {}
        }
    }
}

/// Reads a request, with which a socket for the answer comes.
fn read_request(message: &Message) -> Result<Request, Errno> {
    match message.files.is_empty() {
        true => Err(Errno::BADMSG),
        false => message.read(),
    }
}

/// Makes a gate for who has something made ahead.
fn gate_for(request: &Request) -> Option<(Gate, BehindGate)> {
    match request {
        Request::Spawn { ahead: Ahead::Surroundings(_) } => Gate::new().ok(),
        _ => None,
    }
}

/// Hands a request to the spare, if there is one that it's for.
fn hand_over(
    spares: &mut Spares,
    request: &Request,
    message: &Message,
    gate: Option<&Gate>,
) -> Handed {
    match (request, gate) {
        (Request::Spawn { ahead: Ahead::Surroundings(wanted) }, Some(gate)) => {
            spares.start(wanted, &message.files, gate)
        }
        _ => Handed::No,
    }
}

fn tell_of_fork(errno: Errno, message: &Message) {
    let Some(control) = message.files.first() else { return };
    let reason = Reason::Os(errno.raw_os_error());
    let failure = Failure { step: Step::MakeProcess, subject: String::new(), reason };
    message::send(control, &Report::Failed(failure), &[]).unwrap_or_default();
}

/// Takes the caller's socket from where this process was started with it, and leaves nothing there.
fn take_socket() -> Result<OwnedFd, Errno> {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, 0.into())?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(socket)
}

/// In a process of its own: does what was asked for.
fn serve(request: Request, mut files: Vec<OwnedFd>, gate: Option<Gate>, own: Option<OwnProgram>) {
    sys::set_ended_children(Ended::Wait);
    let control = files.remove(0);
    let report = match request {
        Request::Spawn { .. } => {
            supervisor::supervise(&control, files, Start { early: None, gate }, own)
        }
        Request::KillUsers { first, count } => match leftovers::kill_users(first, count) {
            Ok(()) => Report::Done,
            Err(failure) => Report::Failed(failure),
        },
        Request::Detect => Report::Supports(support::detect()),
    };
    // Nobody may be there to hear it any more.
    message::send(&control, &report, &[]).unwrap_or_default();
}
