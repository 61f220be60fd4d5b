//! From a fresh process to the command's first instruction.
//!
//! The order matters: what takes privileges comes before they are dropped, what is undone by changing
//! users (the death signal) is done again after, and the filter comes last, as it may refuse what is
//! needed before.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::ahead::{Forecast, Order, Surroundings};
use crate::error::{At, Failure, Step};
use crate::filter;
use crate::handles::Handles;
use crate::identity::{self, Capabilities, UserNamespaceOrder, Who};
use crate::launch::OwnProgram;
use crate::limits::{set_limit, set_oom_score, set_personality};
use crate::message;
use crate::mounts::{Owners, Tree};
use crate::network::{self, Network};
use crate::plan::{Command, Isolation, Namespaces, Plan, Program, Scope, SyscallFilter};
use crate::sources::{OldRoot, Sources};
use crate::supervisor::Given;
use crate::sys;

/// What the child tells its supervisor. When it says nothing more, it has become the command.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    /// It's in a user namespace that has no users yet.
    MapUsers,
    /// A step failed, and it ends.
    Failed(Failure),
}

/// The supervisor's answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The namespace has its users.
    UsersMapped,
}

/// All that the child starts from.
pub(crate) struct Child<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) handles: &'a Handles,
    pub(crate) who: Who,
    pub(crate) own: Option<OwnProgram>,
    pub(crate) means: &'a Means,
    pub(crate) filtered: Filtered,
}

/// Whether the filter is in force.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filtered {
    /// It is.
    Already,
    /// It will be, at last.
    NotYet,
}

/// What a child has from its supervisor in any case.
pub(crate) struct Means {
    /// Above 2: its stdin to be.
    pub(crate) input: OwnedFd,
    pub(crate) supervisor: OwnedFd,
    pub(crate) root: OldRoot,
}

/// A child that makes what is the same for many commands, and waits for its plan then.
pub(crate) struct EarlyChild<'a> {
    pub(crate) forecast: &'a Forecast,
    /// What the forecast names.
    pub(crate) handles: Handles,
    pub(crate) own: Option<OwnProgram>,
    pub(crate) means: Means,
}

impl EarlyChild<'_> {
    /// Becomes the command when there is a plan, or says why not and ends.
    pub(crate) fn run(self) -> ! {
        let Err(failure) = self.become_command();
        self.means.fail(failure)
    }

    fn become_command(&self) -> Result<std::convert::Infallible, Failure> {
        self.means.begin()?;
        let mut sources = Sources::new(&self.handles, &self.means.root);
        let surroundings = &self.forecast.surroundings;
        let tree = prepare(surroundings, &mut sources, Owners::Root)?;
        // what is done from here on, commands may do as well
        install_filter(surroundings.filter)?;
        let step = Step::ReadPlan;
        let Some(mut message) = message::receive(&self.means.supervisor).at(step)? else {
            // no plan is to come
            sys::exit_now(0)
        };
        let Order::Start = message.read().at(step)?;
        let given = Given::of(std::mem::take(&mut message.files))?;
        let who = identity::who(&given.plan, identity::starter())?;
        let child = Child {
            plan: &given.plan,
            handles: &given.handles,
            who,
            own: self.own,
            means: &self.means,
            filtered: Filtered::Already,
        };
        let Isolation::Namespaces(namespaces) = &child.plan.isolation else {
            return Err(Failure::rule(step, "this plan takes no namespaces"));
        };
        child.plan.oom_score.map(set_oom_score).transpose()?;
        let mut sources = Sources::new(child.handles, &self.means.root);
        child.enter(tree, namespaces, &mut sources)?;
        child.finish()
    }
}

impl Means {
    fn begin(&self) -> Result<(), Failure> {
        sys::let_signals_in();
        rustix::process::setsid().at(Step::StartSession)?;
        self.die_with_parent()
    }

    fn fail(&self, failure: Failure) -> ! {
        // If the supervisor can't be told, it's gone, and so is whoever wanted to know.
        let sent = message::send(&self.supervisor, &Word::Failed(failure), &[]);
        sys::exit_now(if sent.is_ok() { 1 } else { 2 })
    }

    fn die_with_parent(&self) -> Result<(), Failure> {
        die_with(&self.supervisor)
    }
}

/// Has the kernel kill this process when its parent ends, even if that was just now; the parent has the
/// other end of this socket.
pub(crate) fn die_with(parent: &OwnedFd) -> Result<(), Failure> {
    let step = Step::DieWithParent;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).at(step)?;
    // The parent may not be visible from here, so its number can't be asked for; its end of the
    // socket is closed with it.
    let mut polled = [PollFd::new(parent, PollFlags::empty())];
    let now = rustix::event::Timespec::default();
    rustix::event::poll(&mut polled, Some(&now)).at(step)?;
    match polled.iter().any(|it| it.revents().contains(PollFlags::HUP)) {
        true => Err(Errno::PIPE).at(step),
        false => Ok(()),
    }
}

/// Makes what doesn't depend on the command, in namespaces of this process's own.
fn prepare(
    surroundings: &Surroundings,
    sources: &mut Sources<'_>,
    owners: Owners,
) -> Result<Tree, Failure> {
    let Surroundings { root, network, hostname, domainname, mounts, filter: _ } = surroundings;
    let step = Step::SetHostName;
    rustix::system::sethostname(hostname).at(step)?;
    rustix::system::setdomainname(domainname).at(step)?;
    match network {
        Network::Private => network::switch_loopback_on().at(Step::StartLoopback)?,
        // made by the supervisor, or not for it
        Network::Forwarded(_) | Network::Host => {}
    }
    let mut tree = Tree::begin(*root, sources, owners)?;
    tree.put_all(mounts, sources)?;
    Ok(tree)
}

impl Child<'_> {
    /// Becomes the command, or says why not and ends.
    pub(crate) fn run(self) -> ! {
        let Err(failure) = self.become_command();
        self.means.fail(failure)
    }

    fn become_command(&self) -> Result<std::convert::Infallible, Failure> {
        let Child { plan, who, .. } = self;
        self.means.begin()?;
        plan.oom_score.map(set_oom_score).transpose()?;
        if who.order == UserNamespaceOrder::First {
            self.await_users()?;
            who.become_ids.map(identity::become_ids).transpose()?;
            self.means.die_with_parent()?;
        }
        if let Isolation::Namespaces(namespaces) = &plan.isolation {
            let mut sources = Sources::new(self.handles, &self.means.root);
            let tree =
                prepare(&Surroundings::of(namespaces, plan.filter), &mut sources, self.owners())?;
            self.enter(tree, namespaces, &mut sources)?;
        }
        self.finish()
    }

    /// Does what is left when the root is entered.
    fn finish(&self) -> Result<std::convert::Infallible, Failure> {
        let Child { plan, who, .. } = self;
        leave_keyring()?;
        plan.limits.iter().try_for_each(set_limit)?;
        set_personality(plan.personality)?;
        rustix::process::umask(Mode::from_raw_mode(plan.command.umask.into()));
        if who.order == UserNamespaceOrder::Last {
            sys::unshare(libc::CLONE_NEWUSER).at(Step::MapUsers)?;
            self.await_users()?;
        }
        if who.order != UserNamespaceOrder::First {
            identity::drop_bounding_set()?;
            who.become_ids.map(identity::become_ids).transpose()?;
        }
        enter_folder(&plan.command)?;
        self.give_privileges_up()?;
        self.execute()
    }

    fn await_users(&self) -> Result<(), Failure> {
        let step = Step::MapUsers;
        message::send(&self.means.supervisor, &Word::MapUsers, &[]).at(step)?;
        match message::receive(&self.means.supervisor).at(step)? {
            Some(answer) => answer.read::<Answer>().map(drop).at(step),
            None => Err(Errno::PIPE).at(step),
        }
    }

    fn owners(&self) -> Owners {
        match self.who.order {
            UserNamespaceOrder::First => Owners::OnlyBuild,
            UserNamespaceOrder::Last | UserNamespaceOrder::Never => {
                Owners::RootOr(self.who.outside)
            }
        }
    }

    /// Puts into the root what is this command's alone, and enters it.
    fn enter(
        &self,
        mut tree: Tree,
        namespaces: &Namespaces,
        sources: &mut Sources<'_>,
    ) -> Result<(), Failure> {
        tree.set_owners(self.owners());
        tree.put_all(&namespaces.mounts, sources)?;
        tree.switch(namespaces.root_access)?;
        match sys::unshare(libc::CLONE_NEWCGROUP) {
            // A kernel without control groups.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(errno).at(Step::HideCgroups),
        }
    }

    fn give_privileges_up(&self) -> Result<(), Failure> {
        if let Capabilities::Dropped = self.who.capabilities {
            identity::drop_capabilities()?;
        }
        rustix::thread::set_no_new_privs(true).at(Step::RefusePrivileges)?;
        match self.plan.scope {
            Scope::Off => {}
            Scope::WhereSupported if sys::landlock_version() < SCOPES => {}
            Scope::WhereSupported | Scope::Required => sys::scope_self().at(Step::Scope)?,
        }
        self.means.die_with_parent()
    }

    fn execute(&self) -> Result<std::convert::Infallible, Failure> {
        let command = &self.plan.command;
        let program = match &command.program {
            Program::File(file) => Become::File(Strings::new(file, command)?),
            Program::Own(input) => match self.own {
                Some(own) => Become::Own(own, input),
                None => {
                    let rule = "this launcher runs nothing itself".to_owned();
                    return Err(Failure::rule(Step::CheckPlan, rule));
                }
            },
        };
        let step = Step::ConnectOutput;
        let output = self.handles.get(command.output).ok_or(Errno::BADF).at(step)?;
        rustix::stdio::dup2_stdin(&self.means.input).at(step)?;
        rustix::stdio::dup2_stdout(output).at(step)?;
        rustix::stdio::dup2_stderr(output).at(step)?;
        sys::close_on_exec_from(3).at(step)?;
        if self.filtered == Filtered::NotYet {
            install_filter(self.plan.filter)?;
        }
        match program {
            Become::File(Strings { program, arguments, environment }) => {
                let errno = sys::exec(&program, &arguments, &environment);
                Err(errno).on(Step::Execute, &program.to_string_lossy())
            }
            Become::Own(own, input) => {
                sys::ignore_broken_pipes();
                // the last thing that can fail, as it closes the way to say so
                sys::close_from(3).at(step)?;
                sys::exit_now(status_of(own, input))
            }
        }
    }
}

fn install_filter(filter: SyscallFilter) -> Result<(), Failure> {
    match filter::program(filter) {
        Some(program) => sys::install_filter(&program).at(Step::FilterSyscalls),
        None => Ok(()),
    }
}

/// What the child becomes.
enum Become<'a> {
    File(Strings),
    Own(OwnProgram, &'a [u8]),
}

/// Runs what is the launcher's own. Nothing may return from here into what this process was a fork of.
fn status_of(own: OwnProgram, input: &[u8]) -> i32 {
    /// What Rust's programs end with when they have panicked.
    const PANICKED: i32 = 101;
    std::panic::catch_unwind(|| own(input)).map_or(PANICKED, i32::from)
}

/// The first version of Landlock that can scope sockets and signals.
pub(crate) const SCOPES: u32 = 6;

struct Strings {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Strings {
    fn new(program: &[u8], command: &Command) -> Result<Strings, Failure> {
        let string = |bytes: Vec<u8>| {
            CString::new(bytes).map_err(|error| {
                let shown = String::from_utf8_lossy(&error.into_vec()).into_owned();
                let rule = format!("{shown:?} has a NUL in it, which programs can't be given");
                Failure::rule(Step::CheckPlan, rule)
            })
        };
        let variable =
            |(name, value): &(Vec<u8>, Vec<u8>)| string([name.as_slice(), b"=", value].concat());
        Ok(Strings {
            program: string(program.to_vec())?,
            arguments: command.arguments.iter().cloned().map(string).collect::<Result<_, _>>()?,
            environment: command.environment.iter().map(variable).collect::<Result<_, _>>()?,
        })
    }
}

/// Keys that the caller holds are none of the command's business.
fn leave_keyring() -> Result<(), Failure> {
    match sys::leave_keyring() {
        // There are none, or nobody may use them, the command included.
        Ok(()) | Err(Errno::NOSYS | Errno::PERM) => Ok(()),
        Err(errno) => Err(errno).at(Step::LeaveKeyring),
    }
}

/// Goes to the working folder as the user, who must be able to.
fn enter_folder(command: &Command) -> Result<(), Failure> {
    let shown = String::from_utf8_lossy(&command.folder).into_owned();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let how = ResolveFlags::NO_MAGICLINKS;
    let path = command.folder.as_slice();
    let folder =
        rustix::fs::openat2(CWD, path, flags, Mode::empty(), how).on(Step::EnterFolder, &shown)?;
    rustix::process::fchdir(folder).on(Step::EnterFolder, &shown)
}
