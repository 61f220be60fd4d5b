//! The process between the caller and one command: it makes the command's process, waits for it, and
//! kills what is left. When the caller's end of its socket closes, it kills everything at once, so
//! that nothing outlives a caller that was killed.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::child::{Answer, Child, Word};
use crate::error::{At, Failure, Step};
use crate::handles::Handles;
use crate::identity::{self, UserNamespaceOrder, Who};
use crate::launch::OwnProgram;
use crate::leftovers;
use crate::message::{self, Report};
use crate::plan::{Cgroup, Identity, Ids, Isolation, Leftovers, Network, Plan};
use crate::sys::{self, Fork, NewProcess, Patience, Waited};
use crate::{cgroup, filter};

/// Runs the plan that came with `files`: its text, and its open files. Returns what is to be told in
/// the end.
pub(crate) fn supervise(control: &OwnedFd, files: Vec<OwnedFd>, own: Option<OwnProgram>) -> Report {
    match Supervisor::new(files, own).and_then(|it| it.run(control)) {
        Ok(report) => report,
        Err(failure) => Report::Failed(failure),
    }
}

struct Supervisor {
    plan: Plan,
    /// Let go of when the command has them.
    handles: Handles,
    cgroup: Option<OwnedFd>,
    who: Who,
    own: Option<OwnProgram>,
}

impl Supervisor {
    fn new(files: Vec<OwnedFd>, own: Option<OwnProgram>) -> Result<Supervisor, Failure> {
        let mut files = files.into_iter();
        let plan = read_plan(files.next())?;
        let who = identity::who(&plan, identity::caller())?;
        let handles: Handles = files.collect();
        let cgroup = match plan.cgroup {
            Cgroup::Inherited => None,
            Cgroup::Leaf(handle) => {
                let folder = handles.get(handle).ok_or(Errno::BADF).at(Step::CheckPlan)?;
                Some(rustix::io::fcntl_dupfd_cloexec(folder, 3).at(Step::CheckPlan)?)
            }
        };
        Ok(Supervisor { plan, handles, cgroup, who, own })
    }

    fn run(mut self, control: &OwnedFd) -> Result<Report, Failure> {
        sys::become_subreaper().at(Step::KillLeftovers)?;
        self.sweep()?;
        if identity::caller().uid == 0 {
            identity::leave_groups_but(&self.plan.groups)?;
            self.give_output()?;
        }
        let (process, ours) = self.make_process()?;
        let _mounts = keep_mounts(process.pid);
        if let Err(failure) = self.see_off(&process, &ours) {
            leftovers::kill(&process.pidfd).at(Step::KillLeftovers)?;
            sys::wait_for(Some(process.pid), Patience::Wait).at(Step::KillLeftovers)?;
            self.sweep()?;
            return Err(failure);
        }
        // Whoever reads the output sees its end when the command's processes have let go of it.
        self.handles = Handles::new();
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
        self.sweep()?;
        Ok(Report::Ended {
            status: ended.status,
            asked: why == Why::Asked,
            user: ended.user,
            system: ended.system,
            max_rss: ended.max_rss,
        })
    }

    /// Kills whatever is not ours to leave: of the user, of the group, of our own.
    fn sweep(&self) -> Result<(), Failure> {
        if let Leftovers::Leave = self.plan.leftovers {
            return Ok(());
        }
        // All of it is done, even if part of it fails.
        let group = self.cgroup.as_ref().map_or(Ok(()), cgroup::kill).at(Step::KillLeftovers);
        let users = match self.plan.identity {
            Identity::Caller => Ok(()),
            Identity::User(ids) => leftovers::kill_users(ids, 1),
            Identity::Range { first, count } => leftovers::kill_users(first, count),
        };
        let own = leftovers::kill_descendants();
        group.and(users).and(own)
    }

    fn give_output(&self) -> Result<(), Failure> {
        let step = Step::GiveOutput;
        let Ids { uid, gid } = self.who.outside;
        let output = self.handles.get(self.plan.command.output).ok_or(Errno::BADF).at(step)?;
        rustix::fs::fchown(output, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).at(step)
    }

    /// Makes the command's process, and returns it with our end of the socket to it.
    fn make_process(&self) -> Result<(NewProcess, OwnedFd), Failure> {
        let step = Step::MakeProcess;
        let (ours, theirs) = message::pair().at(step)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let input = rustix::fs::open("/dev/null", flags, Mode::empty()).on(step, &"/dev/null")?;
        let filter = filter::program(self.plan.filter);
        let cgroup = self.cgroup.as_ref().map(OwnedFd::as_fd);
        match sys::clone3(self.namespaces(), cgroup).at(step)? {
            Fork::Parent(process) => Ok((process, ours)),
            Fork::Child => {
                // With this end here too, nobody would see the supervisor's go.
                drop(ours);
                let Supervisor { plan, handles, who, own, .. } = self;
                let (who, own, supervisor) = (*who, *own, theirs);
                Child { plan, handles, who, own, input, filter, supervisor }.run()
            }
        }
    }

    fn namespaces(&self) -> libc::c_int {
        let Isolation::Namespaces(namespaces) = &self.plan.isolation else { return 0 };
        let always =
            libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        let network = match namespaces.network {
            Network::Private => libc::CLONE_NEWNET,
            Network::Host => 0,
        };
        let users = match self.who.order {
            UserNamespaceOrder::First => libc::CLONE_NEWUSER,
            UserNamespaceOrder::Last | UserNamespaceOrder::Never => 0,
        };
        always | network | users
    }

    /// Does what the child needs done for it, until it has become the command.
    fn see_off(&self, process: &NewProcess, child: &OwnedFd) -> Result<(), Failure> {
        let step = Step::MakeProcess;
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
fn keep_mounts(pid: Pid) -> Option<OwnedFd> {
    let path = format!("/proc/{}/ns/mnt", pid.as_raw_nonzero());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn collect(pid: Pid) -> Result<Waited, Failure> {
    let step = Step::KillLeftovers;
    sys::wait_for(Some(pid), Patience::Wait).and_then(|it| it.ok_or(Errno::CHILD)).at(step)
}

fn read_plan(file: Option<OwnedFd>) -> Result<Plan, Failure> {
    let step = Step::ReadPlan;
    let mut bytes = Vec::new();
    let file = file.ok_or(Errno::BADMSG).at(step)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).at(step)?;
    File::from(file).read_to_end(&mut bytes).map_err(leftovers::errno_of).at(step)?;
    postcard::from_bytes(&bytes).map_err(|error| Failure::rule(step, error.to_string()))
}
