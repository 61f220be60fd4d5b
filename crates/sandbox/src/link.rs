//! A network of a command's own with a way out: how it's made, and by whom it's carried.
//!
//! The program that carries, `pasta`, takes apart what a command sends, which may be anything. So it is
//! nobody: it runs as the command's user, in a user namespace in which there is nobody else. The command's
//! network belongs to that namespace, so the program has privileges over that network and nothing else; the
//! command, which is in another user namespace, has none, and doesn't see the program.
//!
//! It's given the network by descriptor, as its stdin, and says at its stdout that all is set up.
//!
//! The supervisor's child is a process that makes all this and watches over the program then: when the
//! supervisor's end of their socket closes, it kills it. A death signal alone wouldn't do, as a change of
//! profile (AppArmor, which has one for `pasta`) takes that away from who starts a program.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::pipe::PipeFlags;
use rustix::thread::LinkNameSpaceType;
use serde::{Deserialize, Serialize};

use crate::child::die_with;
use crate::error::{At, Failure, Step};
use crate::identity::{self, Mapping, ROOT};
use crate::leftovers;
use crate::message::{self, Message};
use crate::network::{self, Forwarder, TUN, WayOut};
use crate::plan::Ids;
use crate::running::Connection;
use crate::standing::Standing;
use crate::sys::{self, Fork, NewProcess, Patience};

const STEP: Step = Step::ConnectNetwork;

/// How long the program may take to set a network up. It takes some hundredths of a second.
const LIMIT: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Bytes of what the program says that are told where it fails.
const MOST_SAID: usize = 1_000;

/// A command's network, and what carries it. Dropping this ends that.
pub(crate) struct Link {
    network: OwnedFd,
    users: OwnedFd,
    /// None where there is no way out.
    carrier: Option<Carrier>,
}

/// The process that watches over the program.
struct Carrier {
    process: NewProcess,
    /// Our end of the socket to it. It ends when this is closed.
    socket: Option<OwnedFd>,
    /// What the program says; it never waits for that to be read.
    said: OwnedFd,
}

/// What that process tells.
#[derive(Serialize, Deserialize)]
enum Word {
    /// It's in a user namespace that has no users yet.
    MapUsers,
    /// The network is made. With it come its namespace and that of its owner.
    Made,
    /// A step failed, and it ends.
    Failed(Failure),
}

/// What it's told.
#[derive(Serialize, Deserialize)]
enum Order {
    UsersMapped,
    /// With it comes the network.
    Carry,
}

impl Link {
    /// Makes a network, and returns when it's up. The carrier is this user; `caller` is who may go
    /// meanwhile.
    pub(crate) fn make(
        forwarder: &Forwarder,
        user: Ids,
        caller: &OwnedFd,
    ) -> Result<Link, Failure> {
        let way = WayOut::of_this_machine();
        let (socket, theirs) = message::pair().at(STEP)?;
        let (ready, tell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).at(STEP)?;
        let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
        let (said, say) = rustix::pipe::pipe_with(flags).at(STEP)?;
        if Standing::of_this_process() == Standing::Root {
            // it's opened anew, by its path
            let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
            rustix::fs::fchown(&tell, Some(uid), Some(gid)).at(STEP)?;
        }
        let process = match sys::clone3(0, None).at(STEP)? {
            Fork::Parent(process) => process,
            Fork::Child => {
                drop((socket, ready, said));
                Carrying { forwarder, way, supervisor: theirs, tell, say }.run()
            }
        };
        drop((theirs, tell, say));
        let carrier = Carrier { process, socket: Some(socket), said };
        let [network, users] = carrier.made(user)?;
        if way == WayOut::None {
            return Ok(Link { network, users, carrier: None });
        }
        carrier.send(&Order::Carry, Some(&network))?;
        carrier.set_up(&ready, caller)?;
        Ok(Link { network, users, carrier: Some(carrier) })
    }

    /// Has this process be in the network, and so what it makes from here on. Who isn't root joins its
    /// owner, and is root there.
    pub(crate) fn enter(&self) -> Result<(), Failure> {
        let join = |namespace: &OwnedFd, kind| {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind)).at(STEP)
        };
        if Standing::of_this_process() != Standing::Root {
            join(&self.users, LinkNameSpaceType::User)?;
        }
        join(&self.network, LinkNameSpaceType::Network)
    }

    /// Says whether what carries it has ended, which nobody has told it to.
    pub(crate) fn outcome(&self) -> Connection {
        let Some(Carrier { process, .. }) = &self.carrier else { return Connection::Kept };
        let mut polled = [PollFd::new(&process.pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&Timespec::default())) {
            Ok(1..) => Connection::Lost,
            _ => Connection::Kept,
        }
    }
}

impl Carrier {
    /// Sees it through until the network is made, and returns its namespace and that of its owner.
    fn made(&self, user: Ids) -> Result<[OwnedFd; 2], Failure> {
        while let Some(mut message) = self.hear()? {
            match message.read().at(STEP)? {
                Word::Failed(failure) => return Err(failure),
                Word::MapUsers => {
                    let mapping = Mapping { inside: ROOT, outside: user, count: 1 };
                    identity::write_maps(self.process.pid, mapping)?;
                    self.send(&Order::UsersMapped, None)?;
                }
                Word::Made => {
                    let files = std::mem::take(&mut message.files);
                    return files.try_into().map_err(|_| Errno::BADMSG).at(STEP);
                }
            }
        }
        Err(Failure::rule(STEP, "the process that makes it was killed"))
    }

    /// Waits until it says that all is set up.
    fn set_up(&self, ready: &OwnedFd, caller: &OwnedFd) -> Result<(), Failure> {
        let mut polled = [PollFd::new(ready, PollFlags::IN), PollFd::new(caller, PollFlags::IN)];
        let poll = || rustix::event::poll(&mut polled, Some(&LIMIT));
        if rustix::io::retry_on_intr(poll).at(STEP)? == 0 {
            let text = format!("'pasta' hasn't done it in {} seconds", LIMIT.tv_sec);
            return Err(self.failed(text));
        }
        let [is_ready, is_over] = polled.map(|it| !it.revents().is_empty());
        if is_over && !is_ready {
            return Err(Failure::rule(STEP, "nobody waits for it any more"));
        }
        match rustix::io::retry_on_intr(|| rustix::io::read(ready, &mut [0; 16])).at(STEP)? {
            // it has ended
            0 => match self.hear().ok().flatten().map(|it| it.read()) {
                Some(Ok(Word::Failed(failure))) => Err(failure),
                _ => Err(self.failed("'pasta' couldn't".to_owned())),
            },
            _ => Ok(()),
        }
    }

    fn hear(&self) -> Result<Option<Message>, Failure> {
        match &self.socket {
            Some(socket) => message::receive(socket).at(STEP),
            None => Ok(None),
        }
    }

    fn send(&self, order: &Order, file: Option<&OwnedFd>) -> Result<(), Failure> {
        let socket = self.socket.as_ref().ok_or(Errno::PIPE).at(STEP)?;
        let files: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
        message::send(socket, order, &files).at(STEP)
    }

    fn failed(&self, text: String) -> Failure {
        let mut bytes = [0; MOST_SAID];
        let len = rustix::io::read(&self.said, &mut bytes).unwrap_or(0);
        let said = String::from_utf8_lossy(bytes.get(..len).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| matters(line)).collect();
        match lines.is_empty() {
            true => Failure::rule(STEP, text),
            false => Failure::rule(STEP, format!("{text}: {}", lines.join("; "))),
        }
    }
}

/// Whether a line tells why it failed: that there is no system log isn't.
fn matters(line: &str) -> bool {
    !line.is_empty() && !line.ends_with("to syslog")
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.socket = None;
        // it may have been collected already
        sys::wait_for(Some(self.process.pid), Patience::Wait).map(drop).unwrap_or_default();
    }
}

/// What the process starts from.
struct Carrying<'a> {
    forwarder: &'a Forwarder,
    way: WayOut,
    supervisor: OwnedFd,
    /// Its stdout to be.
    tell: OwnedFd,
    /// Its stderr to be.
    say: OwnedFd,
}

impl Carrying<'_> {
    /// Has a network carried, or says why not and ends.
    fn run(self) -> ! {
        let Err(failure) = self.carry();
        // if nobody hears it, nobody wants to know
        message::send(&self.supervisor, &Word::Failed(failure), &[]).unwrap_or_default();
        sys::exit_now(1)
    }

    fn carry(&self) -> Result<Infallible, Failure> {
        sys::let_signals_in();
        die_with(&self.supervisor)?;
        if Standing::of_this_process() == Standing::Root {
            // where that fails, the program says what it lacks
            offer_device().unwrap_or_default();
        }
        sys::unshare(libc::CLONE_NEWUSER).at(Step::MapUsers)?;
        message::send(&self.supervisor, &Word::MapUsers, &[]).at(STEP)?;
        self.order()?;
        identity::become_ids(ROOT)?;
        // who has become another has lost it
        die_with(&self.supervisor)?;
        self.make_network()?;
        match self.way {
            WayOut::None => sys::exit_now(0),
            WayOut::Usual | WayOut::By(_) => self.start(),
        }
    }

    /// Waits for what it's told next.
    fn order(&self) -> Result<Vec<OwnedFd>, Failure> {
        let message = message::receive(&self.supervisor).at(STEP)?;
        let mut message = message.ok_or(Errno::PIPE).at(STEP)?;
        message.read::<Order>().at(STEP)?;
        Ok(std::mem::take(&mut message.files))
    }

    /// Has a process make the network that this one isn't to be in.
    fn make_network(&self) -> Result<(), Failure> {
        match sys::clone3(libc::CLONE_NEWNET, None).at(STEP)? {
            Fork::Parent(process) => {
                sys::wait_for(Some(process.pid), Patience::Wait).map(drop).at(STEP)
            }
            Fork::Child => {
                let word = self.show_network();
                sys::exit_now(if word.is_ok() { 0 } else { 1 })
            }
        }
    }

    /// In the network: shows it to the supervisor.
    fn show_network(&self) -> Result<(), Errno> {
        network::switch_loopback_on()?;
        let open = |path| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
        };
        let made = [open("/proc/self/ns/net")?, open("/proc/self/ns/user")?];
        message::send(&self.supervisor, &Word::Made, &made.each_ref().map(|it| it.as_fd()))
    }

    /// Starts the program when it's told to, and watches over it.
    fn start(&self) -> Result<Infallible, Failure> {
        let mut files = self.order()?;
        let network = files.pop().ok_or(Errno::BADMSG).at(STEP)?;
        match sys::clone3(0, None).at(STEP)? {
            Fork::Parent(process) => self.watch_over(&process),
            Fork::Child => {
                let killed = Some(rustix::process::Signal::KILL);
                rustix::process::set_parent_process_death_signal(killed).at(STEP)?;
                self.execute(&network)
            }
        }
    }

    /// Waits until the program ends, or nobody wants it any more.
    fn watch_over(&self, program: &NewProcess) -> Result<Infallible, Failure> {
        // who is killed with the supervisor can't kill anybody
        rustix::process::set_parent_process_death_signal(None).at(STEP)?;
        // the log and the supervisor's other sockets are for nobody here to keep open
        rustix::stdio::dup2_stdin(&self.supervisor).at(STEP)?;
        rustix::stdio::dup2_stdout(&program.pidfd).at(STEP)?;
        sys::close_from(2).at(STEP)?;
        let (supervisor, program_ends) = (rustix::stdio::stdin(), rustix::stdio::stdout());
        let mut polled = [
            PollFd::from_borrowed_fd(supervisor, PollFlags::empty()),
            PollFd::from_borrowed_fd(program_ends, PollFlags::IN),
        ];
        // where that fails nobody can be waited for
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None)).unwrap_or_default();
        leftovers::kill(program_ends).unwrap_or_default();
        sys::wait_for(Some(program.pid), Patience::Wait).map(drop).unwrap_or_default();
        sys::exit_now(0)
    }

    fn execute(&self, network: &OwnedFd) -> Result<Infallible, Failure> {
        let interface = match &self.way {
            WayOut::By(interface) => Some(interface.as_str()),
            WayOut::Usual | WayOut::None => None,
        };
        let program = &self.forwarder.program;
        let string = |bytes: Vec<u8>| CString::new(bytes).map_err(|_| Errno::INVAL).at(STEP);
        let arguments = self.forwarder.arguments(interface);
        let arguments = arguments.into_iter().map(|it| string(it.into_vec()));
        let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
        let file = string(program.as_os_str().as_bytes().to_vec())?;
        rustix::stdio::dup2_stdin(network).at(STEP)?;
        rustix::stdio::dup2_stdout(&self.tell).at(STEP)?;
        rustix::stdio::dup2_stderr(&self.say).at(STEP)?;
        sys::close_on_exec_from(3).at(STEP)?;
        Err(sys::exec(&file, &arguments, &[])).on(STEP, &program.display())
    }
}

/// Shows this process a device that anybody may open, where the machine's is root's alone, as it is where
/// nobody manages devices. It's the machine's root who has it made, for a program of its own.
fn offer_device() -> Result<(), Errno> {
    const FOR_ALL: u32 = 0o006;
    let device = rustix::fs::stat(TUN)?;
    if device.st_mode & FOR_ALL == FOR_ALL {
        return Ok(());
    }
    sys::unshare(libc::CLONE_NEWNS)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", "/dev/net", "tmpfs", flags, c"mode=0755,size=4k")?;
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(CWD, TUN, FileType::CharacterDevice, mode, device.st_rdev)?;
    rustix::fs::chmod(TUN, mode)
}
