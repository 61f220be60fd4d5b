//! From a fresh process to the command's first instruction.
//!
//! The order matters: what takes privileges comes before they are dropped, what is undone by changing
//! users (the death signal) is done again after, and the filter comes last, as it may refuse what is
//! needed before.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource as RustixResource, Rlimit, Signal};
use serde::{Deserialize, Serialize};

use crate::error::{At, Failure, Step};
use crate::handles::Handles;
use crate::identity::{self, Capabilities, UserNamespaceOrder, Who};
use crate::launch::OwnProgram;
use crate::message;
use crate::mounts::{self, Owners};
use crate::plan::{
    Addresses, Command, HardLimit, Isolation, Limit, Machine, Namespaces, Network, Personality,
    Plan, Program, Resource, Scope,
};
use crate::sources::Sources;
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
    /// Two descriptors above 2: the stdin and the output.
    pub(crate) input: OwnedFd,
    pub(crate) filter: Option<Vec<libc::sock_filter>>,
    pub(crate) supervisor: OwnedFd,
}

impl Child<'_> {
    /// Becomes the command, or says why not and ends.
    pub(crate) fn run(self) -> ! {
        let Err(failure) = self.become_command();
        // If the supervisor can't be told, it's gone, and so is whoever wanted to know.
        let sent = message::send(&self.supervisor, &Word::Failed(failure), &[]);
        sys::exit_now(if sent.is_ok() { 1 } else { 2 })
    }

    fn become_command(&self) -> Result<std::convert::Infallible, Failure> {
        let Child { plan, who, .. } = self;
        sys::let_signals_in();
        rustix::process::setsid().at(Step::StartSession)?;
        self.die_with_parent()?;
        plan.oom_score.map(set_oom_score).transpose()?;
        if who.order == UserNamespaceOrder::First {
            self.await_users()?;
            who.become_ids.map(identity::become_ids).transpose()?;
            self.die_with_parent()?;
        }
        if let Isolation::Namespaces(namespaces) = &plan.isolation {
            self.enter_namespaces(namespaces)?;
        }
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
        message::send(&self.supervisor, &Word::MapUsers, &[]).at(step)?;
        match message::receive(&self.supervisor).at(step)? {
            Some(answer) => answer.read::<Answer>().map(drop).at(step),
            None => Err(Errno::PIPE).at(step),
        }
    }

    /// Has the kernel kill this process when the supervisor ends, even if that was just now.
    fn die_with_parent(&self) -> Result<(), Failure> {
        let step = Step::DieWithParent;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).at(step)?;
        // The parent may not be visible from here, so its number can't be asked for; its end of the
        // socket is closed with it.
        let mut polled = [PollFd::new(&self.supervisor, PollFlags::empty())];
        let now = rustix::event::Timespec::default();
        rustix::event::poll(&mut polled, Some(&now)).at(step)?;
        match polled.iter().any(|it| it.revents().contains(PollFlags::HUP)) {
            true => Err(Errno::PIPE).at(step),
            false => Ok(()),
        }
    }

    fn enter_namespaces(&self, namespaces: &Namespaces) -> Result<(), Failure> {
        let step = Step::SetHostName;
        rustix::system::sethostname(&namespaces.hostname).at(step)?;
        rustix::system::setdomainname(&namespaces.domainname).at(step)?;
        if let Network::Private = namespaces.network {
            switch_loopback_on().at(Step::StartLoopback)?;
        }
        let owners = match self.who.order {
            UserNamespaceOrder::First => Owners::OnlyBuild,
            UserNamespaceOrder::Last | UserNamespaceOrder::Never => {
                Owners::RootOr(self.who.outside)
            }
        };
        mounts::enter(namespaces, &mut Sources::new(self.handles), owners)?;
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
        self.die_with_parent()
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
        rustix::stdio::dup2_stdin(&self.input).at(step)?;
        rustix::stdio::dup2_stdout(output).at(step)?;
        rustix::stdio::dup2_stderr(output).at(step)?;
        sys::close_on_exec_from(3).at(step)?;
        if let Some(filter) = &self.filter {
            sys::install_filter(filter).at(Step::FilterSyscalls)?;
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

fn set_oom_score(score: i16) -> Result<(), Failure> {
    let step = Step::SetOomScore;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open("/proc/self/oom_score_adj", flags, Mode::empty()).at(step)?;
    rustix::io::write(&file, score.to_string().as_bytes()).map(drop).at(step)
}

fn switch_loopback_on() -> Result<(), Errno> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    sys::switch_loopback_on(socket.as_fd())
}

/// Keys that the caller holds are none of the command's business.
fn leave_keyring() -> Result<(), Failure> {
    match sys::leave_keyring() {
        // There are none, or nobody may use them, the command included.
        Ok(()) | Err(Errno::NOSYS | Errno::PERM) => Ok(()),
        Err(errno) => Err(errno).at(Step::LeaveKeyring),
    }
}

fn set_limit(limit: &Limit) -> Result<(), Failure> {
    let resource = match limit.resource {
        Resource::Core => RustixResource::Core,
        Resource::Cpu => RustixResource::Cpu,
        Resource::FileSize => RustixResource::Fsize,
        Resource::OpenFiles => RustixResource::Nofile,
        Resource::Processes => RustixResource::Nproc,
        Resource::Stack => RustixResource::Stack,
        Resource::AddressSpace => RustixResource::As,
    };
    let maximum = match limit.hard {
        HardLimit::Unchanged => rustix::process::getrlimit(resource).maximum,
        HardLimit::To(maximum) => Some(maximum),
    };
    rustix::process::setrlimit(resource, Rlimit { current: limit.soft, maximum })
        .on(Step::SetLimit, &format_args!("{:?}", limit.resource))
}

fn set_personality(personality: Personality) -> Result<(), Failure> {
    // `PER_LINUX` and `PER_LINUX32`, which the libc crate doesn't have.
    let machine = match personality.machine {
        Machine::Native => 0,
        Machine::Linux32 => 8,
    };
    let addresses = match personality.addresses {
        Addresses::Random => 0,
        Addresses::Fixed => libc::ADDR_NO_RANDOMIZE,
    };
    let persona = libc::c_ulong::from((machine | addresses).cast_unsigned());
    sys::set_personality(persona).at(Step::SetPersonality)
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
