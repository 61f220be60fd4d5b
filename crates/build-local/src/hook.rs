//! A program of the administrator's that runs as a build's user.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use drover_sandbox::{
    Addresses, Cgroup, Command, Exit, Handles, Identity, Isolation, Launcher, Leftovers, Machine,
    Personality, Plan, Program, Scope, SyscallFilter, Terminal, TerminalReader,
};
use tokio_util::sync::CancellationToken;

use crate::failure::{Trouble, machine, of_wait};
use crate::process::terminal;

/// Bytes of what a hook says that are kept; the rest is read and forgotten.
const KEPT: usize = 1 << 20;

/// Bytes that are read at once.
const PIECE: usize = 16 * 1024;

/// A hook that is to run.
pub(crate) struct Hook<'a> {
    pub(crate) program: &'a Path,
    /// Without the zeroth.
    pub(crate) arguments: Vec<OsString>,
    pub(crate) user: Identity,
}

/// What came of a hook.
pub(crate) struct Said {
    pub(crate) text: String,
    /// How it ended, if not well.
    pub(crate) ended: Result<(), String>,
}

impl Hook<'_> {
    /// Runs it to its end, with this process's environment, in `/`. Nothing of it runs any more then.
    pub(crate) async fn run(
        self,
        launcher: &Launcher,
        cancel: &CancellationToken,
    ) -> Result<Said, Trouble> {
        let reads = |error: std::io::Error| machine("read what a hook says", &error);
        let Terminal { upper, lower } = terminal()?;
        let mut handles = Handles::new();
        let plan = self.plan(handles.add(lower));
        let mut upper = TerminalReader::new(upper).map_err(reads)?;
        let mut running = match launcher.spawn(&plan, &handles).await {
            Ok(running) => running,
            Err(error) => return Ok(Said { text: String::new(), ended: Err(error.to_string()) }),
        };
        drop(handles);
        let (mut said, mut piece, mut is_open) = (Vec::new(), vec![0; PIECE], true);
        let ended = loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    running.kill().await.map_err(|error| of_wait(&error))?;
                    return Err(Trouble::Cancelled);
                }
                read = upper.read(&mut piece), if is_open => match read {
                    Ok(len) if len > 0 => hear(&mut said, piece.get(..len)),
                    _ => is_open = false,
                },
                ended = running.wait() => break ended.map_err(|error| of_wait(&error))?,
            }
        };
        while is_open
            && let Ok(len) = upper.read_at_once(&mut piece)
            && len > 0
        {
            hear(&mut said, piece.get(..len));
        }
        let program = self.program.display();
        let ended = match ended.exit {
            Exit::Code(0) => Ok(()),
            Exit::Code(code) => Err(format!("\"{program}\" failed with exit code {code}")),
            Exit::Signal(signal) => Err(format!("\"{program}\" failed due to signal {signal}")),
        };
        Ok(Said { text: String::from_utf8_lossy(said.trim_ascii_end()).into_owned(), ended })
    }

    fn plan(&self, output: drover_sandbox::Handle) -> Plan {
        let program = self.program.as_os_str().to_owned();
        let bytes = |text: OsString| text.into_vec();
        let arguments = [vec![program.clone()], self.arguments.clone()].concat();
        let environment = std::env::vars_os().map(|(name, value)| (bytes(name), bytes(value)));
        Plan {
            command: Command {
                program: Program::File(bytes(program)),
                arguments: arguments.into_iter().map(bytes).collect(),
                environment: environment.collect(),
                folder: b"/".to_vec(),
                output,
                umask: 0o022,
            },
            identity: self.user,
            groups: Vec::new(),
            isolation: Isolation::None,
            filter: SyscallFilter::Builds,
            scope: Scope::Off,
            cgroup: Cgroup::Inherited,
            limits: Vec::new(),
            personality: Personality { machine: Machine::Native, addresses: Addresses::Random },
            oom_score: None,
            leftovers: Leftovers::Kill,
        }
    }
}

fn hear(said: &mut Vec<u8>, bytes: Option<&[u8]>) {
    let room = KEPT.saturating_sub(said.len());
    let bytes = bytes.unwrap_or_default();
    said.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
}
