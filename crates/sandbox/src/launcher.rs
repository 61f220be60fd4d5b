//! The caller's end of the launcher.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command as Program, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::ahead::Ahead;
use crate::error::SpawnError;
use crate::handles::Handles;
use crate::message::{self, Report, Request};
use crate::plan::{Cgroup, Content, Identity, Ids, Isolation, Leftovers, Plan, Root};
use crate::running::{Rescue, Running, next_report};
use crate::support::Support;
use crate::sys;

/// How the launcher is started: a program that calls [`run_launcher`](crate::run_launcher) when given
/// these arguments.
#[derive(Clone, Debug)]
pub struct LauncherProgram {
    /// The program.
    pub program: PathBuf,
    /// Its arguments, without the zeroth.
    pub arguments: Vec<OsString>,
}

impl LauncherProgram {
    /// This program itself, with one argument.
    ///
    /// Even if its file was replaced meanwhile, it's the same program that is started.
    pub fn this_one(argument: &str) -> LauncherProgram {
        LauncherProgram {
            program: PathBuf::from("/proc/self/exe"),
            arguments: vec![OsString::from(argument)],
        }
    }
}

/// The caller's end of a launcher. Clones share it.
///
/// When the last is dropped the launcher ends; the commands that it has started go on, as each has a
/// supervisor of its own. A launcher that was killed is started again when it's needed next.
#[derive(Clone, Debug)]
pub struct Launcher {
    program: Arc<LauncherProgram>,
    connection: Arc<Mutex<Arc<Connection>>>,
}

#[derive(Debug)]
struct Connection {
    socket: AsyncFd<OwnedFd>,
    process: Child,
}

impl Launcher {
    /// Starts a launcher. To be called within a tokio runtime.
    ///
    /// # Errors
    /// If the program can't be started.
    pub fn start(program: &LauncherProgram) -> io::Result<Launcher> {
        let connection = Arc::new(Connection::start(program)?);
        Ok(Launcher {
            program: Arc::new(program.clone()),
            connection: Arc::new(Mutex::new(connection)),
        })
    }

    /// Runs a plan, and returns when its command has started.
    ///
    /// Dropping the future, or what it returns, kills the command and all that it has started.
    ///
    /// # Errors
    /// If a step of the set-up fails; then nothing of the command has run.
    pub async fn spawn(&self, plan: &Plan, handles: &Handles) -> Result<Running, SpawnError> {
        check_handles(plan, handles)?;
        let text = write_plan(plan)?;
        let mut files = vec![text.as_fd()];
        files.extend(handles.all());
        let control = self.ask(&Request::Spawn { ahead: Ahead::of(plan) }, &files).await?;
        let message = next_report(&control).await.map_err(SpawnError::Launcher)?;
        let Some(mut message) = message else { return Err(SpawnError::Vanished) };
        match (message.read(), message.files.pop()) {
            (Ok(Report::Started { pid }), Some(pidfd)) => {
                Ok(Running::new(control, pidfd, pid, self.rescue(plan)))
            }
            (Ok(Report::Failed(failure)), _) => Err(SpawnError::Step(failure)),
            _ => Err(SpawnError::Launcher(Errno::BADMSG.into())),
        }
    }

    /// Kills all processes of `count` users from `first` on. Takes root.
    ///
    /// # Errors
    /// If some could not be killed.
    pub async fn kill_users(&self, first: Ids, count: u32) -> Result<(), SpawnError> {
        match self.ask_once(&Request::KillUsers { first, count }).await? {
            Report::Done => Ok(()),
            Report::Failed(failure) => Err(SpawnError::Step(failure)),
            _ => Err(SpawnError::Launcher(Errno::BADMSG.into())),
        }
    }

    /// Tries out what this machine can do of what plans ask for.
    ///
    /// # Errors
    /// If the launcher can't be asked.
    pub async fn support(&self) -> Result<Support, SpawnError> {
        match self.ask_once(&Request::Detect).await? {
            Report::Supports(support) => Ok(support),
            Report::Failed(failure) => Err(SpawnError::Step(failure)),
            _ => Err(SpawnError::Launcher(Errno::BADMSG.into())),
        }
    }

    async fn ask_once(&self, request: &Request) -> Result<Report, SpawnError> {
        let control = self.ask(request, &[]).await?;
        match next_report(&control).await.map_err(SpawnError::Launcher)? {
            Some(message) => message.read().map_err(|errno| SpawnError::Launcher(errno.into())),
            None => Err(SpawnError::Vanished),
        }
    }

    /// Sends a request with a socket for the answers and other files, and returns our end of it.
    async fn ask(
        &self,
        request: &Request,
        files: &[BorrowedFd<'_>],
    ) -> Result<AsyncFd<OwnedFd>, SpawnError> {
        let (ours, theirs) = control_sockets().map_err(SpawnError::Launcher)?;
        let mut all = vec![theirs.as_fd()];
        all.extend(files);
        let connection = self.connection();
        let sent = match connection.send(request, &all).await {
            Err(error) if is_gone(&error) => {
                self.start_again(&connection).map_err(SpawnError::Launcher)?;
                self.connection().send(request, &all).await
            }
            sent => sent,
        };
        sent.map_err(SpawnError::Launcher)?;
        sys::watch(ours, Interest::READABLE).map_err(SpawnError::Launcher)
    }

    fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.connection.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts another launcher, unless somebody has since `gone` was seen to be gone.
    fn start_again(&self, gone: &Arc<Connection>) -> io::Result<()> {
        let mut current = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current, gone) {
            *current = Arc::new(Connection::start(&self.program)?);
        }
        Ok(())
    }

    /// What is to be done if a command's supervisor is killed.
    fn rescue(&self, plan: &Plan) -> Option<Rescue> {
        let launcher = self.clone();
        match (plan.leftovers, plan.identity) {
            (Leftovers::Leave, _) | (_, Identity::Caller) => None,
            (_, Identity::User(first)) => Some(Rescue { launcher, first, count: 1 }),
            (_, Identity::Range { first, count }) => Some(Rescue { launcher, first, count }),
        }
    }
}

impl Connection {
    fn start(program: &LauncherProgram) -> io::Result<Connection> {
        let (ours, theirs) = control_sockets()?;
        let process = Program::new(&program.program)
            .args(&program.arguments)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Connection { socket: sys::watch(ours, Interest::WRITABLE)?, process })
    }

    async fn send(&self, request: &Request, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let send = |socket: &OwnedFd| Ok(message::send(socket, request, files)?);
        self.socket.async_io(Interest::WRITABLE, send).await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // It has nothing to finish.
        if self.process.kill().is_ok() {
            drop(self.process.wait());
        }
    }
}

/// Two ends, of which the first doesn't block.
fn control_sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = message::pair()?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

fn is_gone(error: &io::Error) -> bool {
    [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset].contains(&error.kind())
}

/// Writes a plan into a file in memory that nobody can change any more.
fn write_plan(plan: &Plan) -> Result<OwnedFd, SpawnError> {
    let bytes = postcard::to_stdvec(plan).map_err(SpawnError::Encode)?;
    let write = || -> Result<OwnedFd, Errno> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("plan", flags)?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let len = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
            rest = rest.get(len..).unwrap_or_default();
        }
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        Ok(file)
    };
    write().map_err(|errno| SpawnError::Launcher(errno.into()))
}

fn check_handles(plan: &Plan, handles: &Handles) -> Result<(), SpawnError> {
    let len = handles.len();
    if len > Handles::MAX {
        return Err(SpawnError::TooManyHandles { len, max: Handles::MAX });
    }
    let mut used = vec![plan.command.output];
    if let Cgroup::Leaf(handle) = plan.cgroup {
        used.push(handle);
    }
    if let Isolation::Namespaces(namespaces) = &plan.isolation {
        if let Root::Folder(handle) = namespaces.root {
            used.push(handle);
        }
        let mounts = namespaces.recurring.iter().chain(&namespaces.mounts);
        used.extend(mounts.filter_map(|mount| match &mount.what {
            Content::Bind { source, .. } | Content::AsItIs(source) | Content::Device(source) => {
                Some(source.handle())
            }
            _ => None,
        }));
    }
    match used.into_iter().find(|handle| handles.get(*handle).is_none()) {
        Some(handle) => Err(SpawnError::NoSuchHandle { at: handle.at(), len }),
        None => Ok(()),
    }
}
