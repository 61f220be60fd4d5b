//! The process between the caller and one command: it makes the command's process, waits for it, and
//! kills what is left. When the caller's end of its socket closes, it kills everything at once, so
//! that nothing outlives a caller that was killed.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::ahead::{Forecast, Order};
use crate::cgroup;
use crate::child::{Answer, Child, EarlyChild, Filtered, Means, Word};
use crate::error::{At, Failure, Step};
use crate::handles::Handles;
use crate::identity::{self, ROOT, UserNamespaceOrder, Who};
use crate::launch::OwnProgram;
use crate::leftovers;
use crate::link::Link;
use crate::message::{self, Report};
use crate::network::Network;
use crate::plan::{Cgroup, Identity, Ids, Isolation, Leftovers, Plan};
use crate::running::Connection;
use crate::sources::OldRoot;
use crate::spare::Gate;
use crate::standing::Standing;
use crate::sys::{self, Fork, NewProcess, Patience, Waited};

/// Runs the plan that was given: its text, and its open files. Returns what is to be told in the end.
pub(crate) fn supervise(
    control: &OwnedFd,
    files: Vec<OwnedFd>,
    start: Start,
    own: Option<OwnProgram>,
) -> Report {
    match Supervisor::new(files, own).and_then(|it| it.run(control, start)) {
        Ok(report) => report,
        Err(failure) => Report::Failed(failure),
    }
}

/// What is started from.
pub(crate) struct Given {
    /// The plan's text.
    text: OwnedFd,
    pub(crate) plan: Plan,
    /// Let go of when the command has them.
    pub(crate) handles: Handles,
}

impl Given {
    /// Reads a plan, which is the first of these; the others are its open files.
    pub(crate) fn of(files: Vec<OwnedFd>) -> Result<Given, Failure> {
        let mut files = files.into_iter();
        let text = files.next().ok_or(Errno::BADMSG).at(Step::ReadPlan)?;
        let plan = read_plan(&text)?;
        Ok(Given { text, plan, handles: files.collect() })
    }
}

/// How a command is started.
pub(crate) struct Start {
    /// Its process, if that is there.
    pub(crate) early: Option<Early>,
    /// What is let go of when it has started.
    pub(crate) gate: Option<Gate>,
}

/// A child that has made its surroundings ahead, or is at it, and waits for its plan.
pub(crate) struct Early {
    process: NewProcess,
    /// Our end of the socket to it.
    socket: OwnedFd,
}

impl Early {
    /// Makes the child of a command like the last. As root.
    pub(crate) fn make(
        forecast: &Forecast,
        handles: Handles,
        own: Option<OwnProgram>,
    ) -> Result<Early, Failure> {
        sys::become_subreaper().at(Step::KillLeftovers)?;
        identity::leave_groups_but(&[])?;
        let (socket, theirs) = message::pair().at(Step::MakeProcess)?;
        let (input, root) = (null()?, OldRoot::open()?);
        let namespaces = ALWAYS | network_of(&forecast.surroundings.network);
        match sys::clone3(namespaces, None).at(Step::MakeProcess)? {
            Fork::Parent(process) => Ok(Early { process, socket }),
            Fork::Child => {
                drop(socket);
                let means = Means { input, supervisor: theirs, root };
                EarlyChild { forecast, handles, own, means }.run()
            }
        }
    }

    /// Hands it the plan.
    fn start(&self, given: &Given) -> Result<(), Failure> {
        let files: Vec<_> =
            std::iter::once(given.text.as_fd()).chain(given.handles.all()).collect();
        message::send(&self.socket, &Order::Start, &files).at(Step::MakeProcess)
    }
}

struct Supervisor {
    given: Given,
    cgroup: Option<OwnedFd>,
    who: Who,
    own: Option<OwnProgram>,
}

impl Supervisor {
    fn new(files: Vec<OwnedFd>, own: Option<OwnProgram>) -> Result<Supervisor, Failure> {
        let given = Given::of(files)?;
        let Given { plan, handles, .. } = &given;
        let who = identity::who(plan, identity::starter())?;
        let cgroup = match plan.cgroup {
            Cgroup::Inherited => None,
            Cgroup::Leaf(handle) => {
                let folder = handles.get(handle).ok_or(Errno::BADF).at(Step::CheckPlan)?;
                Some(rustix::io::fcntl_dupfd_cloexec(folder, 3).at(Step::CheckPlan)?)
            }
        };
        Ok(Supervisor { given, cgroup, who, own })
    }

    fn run(mut self, control: &OwnedFd, Start { early, gate }: Start) -> Result<Report, Failure> {
        let is_root = Standing::of_this_process() == Standing::Root;
        if early.is_none() {
            sys::become_subreaper().at(Step::KillLeftovers)?;
            if is_root {
                identity::leave_groups_but(&self.given.plan.groups)?;
            }
        }
        self.sweep_others()?;
        if is_root {
            self.give_output()?;
        }
        let link = self.connect(control)?;
        let process = match early.map(|early| self.started_early(early)).transpose()?.flatten() {
            Some(process) => process,
            None => self.started_now()?,
        };
        drop(gate);
        // Whoever reads the output sees its end when the command's processes have let go of it.
        self.given.handles = Handles::new();
        let started = Report::Started { pid: process.pid.as_raw_nonzero().get() };
        let heard = message::send(control, &started, &[process.pidfd.as_fd()]);
        let why = match heard {
            Ok(()) => await_end(control, &process.pidfd).at(Step::KillLeftovers)?,
            Err(_) => Why::Asked,
        };
        if let Why::Asked = why {
            leftovers::kill(&process.pidfd).at(Step::KillLeftovers)?;
        }
        let ended = collect(process.pid)?;
        let connection = link.as_ref().map_or(Connection::Kept, Link::outcome);
        drop(link);
        self.sweep()?;
        Ok(Report::Ended {
            status: ended.status,
            asked: why == Why::Asked,
            connection,
            user: ended.user,
            system: ended.system,
            max_rss: ended.max_rss,
        })
    }

    /// Makes the network that the command is to have, and goes there, if it's one with a way out.
    fn connect(&mut self, control: &OwnedFd) -> Result<Option<Link>, Failure> {
        let Isolation::Namespaces(namespaces) = &self.given.plan.isolation else { return Ok(None) };
        let Network::Forwarded(forwarder) = &namespaces.network else { return Ok(None) };
        let link = Link::make(forwarder, self.who.outside, control)?;
        let is_root = Standing::of_this_process() == Standing::Root;
        link.enter()?;
        if let (Some(mapping), false) = (&mut self.who.mapping, is_root) {
            // what this process is called where it is now
            mapping.outside = ROOT;
        }
        Ok(Some(link))
    }

    /// Has the child that is there become the command. `None` where it can't: why may have been true
    /// when it was made and is no fault of this command, or it's seen again with one that is made now.
    fn started_early(&self, early: Early) -> Result<Option<NewProcess>, Failure> {
        let handed = early.start(&self.given);
        match handed.and_then(|()| self.see_off(&early.process, &early.socket)) {
            Ok(()) => Ok(Some(early.process)),
            Err(_) => self.discard(&early.process).map(|()| None),
        }
    }

    /// Makes a child, which becomes the command.
    fn started_now(&self) -> Result<NewProcess, Failure> {
        let (process, ours) = self.make_process()?;
        match self.see_off(&process, &ours) {
            Ok(()) => Ok(process),
            Err(failure) => {
                self.discard(&process)?;
                Err(failure)
            }
        }
    }

    /// Ends a child that hasn't become the command.
    fn discard(&self, process: &NewProcess) -> Result<(), Failure> {
        leftovers::kill(&process.pidfd).at(Step::KillLeftovers)?;
        sys::wait_for(Some(process.pid), Patience::Wait).at(Step::KillLeftovers)?;
        self.sweep()
    }

    /// Kills whatever is not ours to leave: of the user, of the group, of our own.
    fn sweep(&self) -> Result<(), Failure> {
        if let Leftovers::Leave = self.given.plan.leftovers {
            return Ok(());
        }
        // All of it is done, even if part of it fails.
        let others = self.sweep_others();
        let own = leftovers::kill_descendants();
        others.and(own)
    }

    /// Kills what others have left that were this user, or in this group.
    fn sweep_others(&self) -> Result<(), Failure> {
        if let Leftovers::Leave = self.given.plan.leftovers {
            return Ok(());
        }
        let group = self.cgroup.as_ref().map_or(Ok(()), cgroup::kill).at(Step::KillLeftovers);
        let users = match self.given.plan.identity {
            Identity::Caller => Ok(()),
            Identity::User(ids) => leftovers::kill_users(ids, 1),
            Identity::Range { first, count } => leftovers::kill_users(first, count),
        };
        group.and(users)
    }

    fn give_output(&self) -> Result<(), Failure> {
        let step = Step::GiveOutput;
        let Ids { uid, gid } = self.who.outside;
        let Given { plan, handles, .. } = &self.given;
        let output = handles.get(plan.command.output).ok_or(Errno::BADF).at(step)?;
        rustix::fs::fchown(output, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).at(step)
    }

    /// Makes the command's process, and returns it with our end of the socket to it.
    fn make_process(&self) -> Result<(NewProcess, OwnedFd), Failure> {
        let step = Step::MakeProcess;
        let (ours, theirs) = message::pair().at(step)?;
        let (input, root) = (null()?, OldRoot::open()?);
        let cgroup = self.cgroup.as_ref().map(OwnedFd::as_fd);
        match sys::clone3(self.namespaces(), cgroup).at(step)? {
            Fork::Parent(process) => Ok((process, ours)),
            Fork::Child => {
                // With this end here too, nobody would see the supervisor's go.
                drop(ours);
                let Supervisor { given: Given { plan, handles, .. }, who, own, .. } = self;
                let means = Means { input, supervisor: theirs, root };
                let (who, own, filtered) = (*who, *own, Filtered::NotYet);
                Child { plan, handles, who, own, means: &means, filtered }.run()
            }
        }
    }

    fn namespaces(&self) -> libc::c_int {
        let Isolation::Namespaces(namespaces) = &self.given.plan.isolation else { return 0 };
        let users = match self.who.order {
            UserNamespaceOrder::First => libc::CLONE_NEWUSER,
            UserNamespaceOrder::Last | UserNamespaceOrder::Never => 0,
        };
        ALWAYS | network_of(&namespaces.network) | users
    }

    /// Does what the child needs done for it, until it has become the command.
    fn see_off(&self, process: &NewProcess, child: &OwnedFd) -> Result<(), Failure> {
        let step = Step::MakeProcess;
        keep_mounts(process.pid);
        while let Some(word) = message::receive(child).at(step)? {
            match (word.read().at(step)?, self.who.mapping) {
                (Word::Failed(failure), _) => return Err(failure),
                (Word::MapUsers, None) => {
                    return Err(Failure::rule(step, "there are no users to map"));
                }
                (Word::MapUsers, Some(mapping)) => {
                    identity::write_maps(process.pid, mapping)?;
                    message::send(child, &Answer::UsersMapped, &[]).at(step)?;
                }
            }
        }
        Ok(())
    }
}

/// The namespaces that each command has for itself that is shut in.
const ALWAYS: libc::c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

fn network_of(network: &Network) -> libc::c_int {
    match network {
        Network::Private => libc::CLONE_NEWNET,
        // that in which the supervisor is
        Network::Forwarded(_) | Network::Host => 0,
    }
}

fn null() -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open("/dev/null", flags, Mode::empty()).on(Step::MakeProcess, &"/dev/null")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It has ended by itself.
    Itself,
    /// Its end was asked for, or nobody is there to wait for it.
    Asked,
}

fn await_end(control: &OwnedFd, pidfd: &OwnedFd) -> Result<Why, Errno> {
    loop {
        let mut polled = [PollFd::new(pidfd, PollFlags::IN), PollFd::new(control, PollFlags::IN)];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let [ended, asked] = polled.each_ref().map(|it| !it.revents().is_empty());
        if ended {
            return Ok(Why::Itself);
        }
        if asked {
            return Ok(Why::Asked);
        }
    }
}

/// Keeps a process' mounts until this process ends, which is after it has told how the command did:
/// taking hundreds of mounts down takes a while, and nobody has to wait for it.
fn keep_mounts(pid: Pid) {
    let path = format!("/proc/{}/ns/mnt", pid.as_raw_nonzero());
    // whoever closed it would wait for that
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map(std::mem::forget)
        .ok();
}

fn collect(pid: Pid) -> Result<Waited, Failure> {
    let step = Step::KillLeftovers;
    sys::wait_for(Some(pid), Patience::Wait).and_then(|it| it.ok_or(Errno::CHILD)).at(step)
}

fn read_plan(file: &OwnedFd) -> Result<Plan, Failure> {
    let step = Step::ReadPlan;
    let len = usize::try_from(rustix::fs::fstat(file).at(step)?.st_size).unwrap_or(0);
    let mut bytes = vec![0; len];
    let mut read = 0;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        // where it's read from is nobody's but ours
        match rustix::io::pread(file, rest, read as u64) {
            Ok(0) => return Err(Errno::IO).at(step),
            Ok(more) => read += more,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).at(step),
        }
    }
    postcard::from_bytes(&bytes).map_err(|error| Failure::rule(step, error.to_string()))
}
