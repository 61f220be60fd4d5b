//! Programs of the administrator's that run as this process, before and after builds.
//!
//! Follows `runPostBuildHook` (`src/libstore/build/derivation-building-goal.cc`) and
//! `DerivationBuilderImpl::getPathsInSandbox` (`src/libstore/unix/build/derivation-builder.cc`) of Nix 2.34.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use drover_core::raw_text;
use drover_store::{AfterBuild, BuildFailure, FailureCause, LogEvent, Store as _};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};

use crate::failure::{Trouble, rejected};
use crate::job::{Job, Outputs, Subject};
use crate::settings::{SandboxPath, Wherever, straightened};

/// Bytes of a line of a hook's, or of all that it answers, that are read.
const LIMIT: u64 = 1 << 20;

/// Why a hook came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// It can't be started or heard.
    #[error("cannot run program \"{}\"", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ended badly.
    #[error("program \"{}\" {}", program.display(), how(*status))]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
    /// It could be any program, depending on where this one was started.
    #[error("program \"{}\" must be named by its whole path", program.display())]
    Name {
        /// The program.
        program: PathBuf,
    },
    /// What it has answered means nothing.
    #[error("unknown pre-build hook command '{line}'")]
    Answer {
        /// The line.
        line: String,
    },
    /// It has answered with a path that builds can't be shown.
    #[error("sandbox path '{text}' must consist of absolute paths")]
    Relative {
        /// The path.
        text: String,
    },
}

fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(signal)) => format!("failed due to signal {signal}"),
        (None, None) => "died for unknown reason".to_owned(),
    }
}

impl HookError {
    /// Returns the whole of it in words.
    pub fn words(&self) -> String {
        match self {
            HookError::Run { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}

/// Returns what is said of a build before which the hook failed.
pub(crate) fn of_hook(derivation: &str, error: &HookError) -> BuildFailure {
    rejected(format!("cannot build '{derivation}': pre-build-hook: {}", error.words()))
}

/// What runs after each build that went well (`post-build-hook`), as this process's user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostBuildHook {
    /// The program.
    pub program: PathBuf,
    /// The settings, as it gets them by `NIX_CONFIG` unless that is set already.
    pub settings: String,
}

impl PostBuildHook {
    /// Returns the hook of a client of its own, beside the settings that hold for all.
    pub fn of_client(program: PathBuf, settings: &str) -> PostBuildHook {
        let settings = format!("{settings}post-build-hook = {}\n", program.display());
        PostBuildHook { program, settings }
    }

    /// Runs it to its end. What it says goes to `hear`, line by line. Dropping the future kills it.
    ///
    /// `derivation` and `outputs` are whole paths, which are valid.
    ///
    /// # Errors
    ///
    /// It isn't named by its whole path, can't be run, or ends otherwise than by exit code 0. What was built is valid all the same.
    pub async fn run(
        &self,
        derivation: &str,
        outputs: &[String],
        mut hear: impl FnMut(String),
    ) -> Result<(), HookError> {
        if !self.program.is_absolute() {
            return Err(HookError::Name { program: self.program.clone() });
        }
        let mut outputs = outputs.to_vec();
        outputs.sort();
        let mut command = Command::new(&self.program);
        command.env("DRV_PATH", derivation).env("OUT_PATHS", outputs.join(" "));
        if std::env::var_os("NIX_CONFIG").is_none() {
            command.env("NIX_CONFIG", &self.settings);
        }
        let run = async {
            let (heard, said) = io::pipe()?;
            command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
            let mut child = command.process_group(0).kill_on_drop(true).spawn()?;
            let group = Group::of(&child);
            // or the pipe would never come to its end
            drop(command);
            let mut heard = BufReader::new(Receiver::from_owned_fd(OwnedFd::from(heard))?);
            let mut line = Vec::new();
            while (&mut heard).take(LIMIT).read_until(b'\n', &mut line).await? > 0 {
                hear(raw_text(line.trim_ascii_end()));
                line.clear();
            }
            let ended = child.wait().await;
            group.let_be();
            ended
        };
        judge(&self.program, run.await).map(drop)
    }
}

impl Job<'_> {
    /// Runs the hook for what went well. Where that fails, so does the build, for those who wait for
    /// it; what it has made stays valid, as in Nix.
    pub(crate) async fn run_post_build_hook(
        &self,
        subject: &Subject,
        outputs: &Outputs,
    ) -> Result<(), Trouble> {
        let store_dir = self.store.store_dir();
        let outputs: Vec<String> =
            outputs.iter().map(|(_, info)| store_dir.display(&info.path)).collect();
        for hook in self.post_build_hooks() {
            let hear = |line| self.log.event(LogEvent::Message(format!("post-build-hook: {line}")));
            tokio::select! {
                ended = hook.run(&subject.shown, &outputs, hear) => {
                    ended.map_err(|error| BuildFailure::new(FailureCause::Hook, error.words()))?;
                }
                () = self.cancel.cancelled() => return Err(Trouble::Cancelled),
            }
        }
        Ok(())
    }

    /// Returns what is to run: for each who waits for the build, and for all that want the same once.
    pub(crate) fn post_build_hooks(&self) -> Vec<PostBuildHook> {
        let usual = self.settings.post_build_hook.as_ref();
        let asked = &self.request.wishes.after;
        if asked.is_empty() {
            return usual.into_iter().cloned().collect();
        }
        let mut hooks: Vec<PostBuildHook> = Vec::new();
        for hook in asked.iter().filter_map(|after| match after {
            AfterBuild::Usual => usual.cloned(),
            AfterBuild::Nothing => None,
            AfterBuild::Program(program) => {
                Some(PostBuildHook::of_client(program.clone(), &self.settings.hook_settings))
            }
        }) {
            if hooks.iter().all(|other| other.program != hook.program) {
                hooks.push(hook);
            }
        }
        hooks
    }
}

/// The processes of a hook, which end with it unless it has ended by itself.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Group {
        Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    /// What a hook leaves behind when it has ended is its own affair.
    fn let_be(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // gone already, perhaps
            kill_process_group(leader, Signal::KILL).unwrap_or_default();
        }
    }
}

fn judge(program: &Path, ended: io::Result<ExitStatus>) -> Result<ExitStatus, HookError> {
    let program = program.to_owned();
    match ended {
        Ok(status) if status.success() => Ok(status),
        Ok(status) => Err(HookError::Failed { program, status }),
        Err(source) => Err(HookError::Run { program, source }),
    }
}

/// Asks the hook before a build what that shall see beside its inputs (`pre-build-hook`). It gets the
/// derivation's path, and a folder of the build's, which isn't the root that the build sees: that
/// doesn't exist yet. Dropping the future kills it.
pub(crate) async fn ask_before_build(
    program: &Path,
    derivation: &str,
    folder: &Path,
) -> Result<Vec<SandboxPath>, HookError> {
    let run = async {
        let mut command = Command::new(program);
        command.arg(derivation).arg(folder).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.process_group(0).kill_on_drop(true).spawn()?;
        let group = Group::of(&child);
        let mut answer = Vec::new();
        if let Some(said) = child.stdout.take() {
            said.take(LIMIT).read_to_end(&mut answer).await?;
        }
        let ended = child.wait().await?;
        group.let_be();
        io::Result::Ok((ended, answer))
    };
    let (ended, answer) = match run.await {
        Ok((status, answer)) => (Ok(status), answer),
        Err(error) => (Err(error), Vec::new()),
    };
    judge(program, ended)?;
    parse(&String::from_utf8_lossy(&answer))
}

/// Reads what a hook has answered: `extra-sandbox-paths`, and paths up to an empty line. What has no
/// end of line doesn't count, as in Nix.
fn parse(answer: &str) -> Result<Vec<SandboxPath>, HookError> {
    let mut paths = Vec::new();
    let mut is_list = false;
    for line in answer.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        match (is_list, line) {
            (false, "extra-sandbox-paths" | "extra-chroot-dirs") => is_list = true,
            (false, line) => return Err(HookError::Answer { line: line.to_owned() }),
            (true, "") => is_list = false,
            (true, line) => {
                let (inside, outside) = line.split_once('=').unwrap_or((line, line));
                let [inside, outside] = [inside, outside].map(PathBuf::from);
                if !inside.is_absolute() || !outside.is_absolute() {
                    return Err(HookError::Relative { text: line.to_owned() });
                }
                let inside = straightened(&inside);
                paths.push(SandboxPath { inside, outside, wherever: Wherever::Always });
            }
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::nothing("", &[])]
    #[case::paths("extra-sandbox-paths\n/a\n/b=/c\n\n", &[("/a", "/a"), ("/b", "/c")])]
    #[case::old_name_without_end("extra-chroot-dirs\n/a\n", &[("/a", "/a")])]
    #[case::twice("extra-sandbox-paths\n/a\n\nextra-sandbox-paths\n/b\n", &[("/a", "/a"), ("/b", "/b")])]
    #[case::crooked("extra-sandbox-paths\n/a/../b//c/\n\n", &[("/b/c", "/a/../b//c/")])]
    #[case::no_end_of_line("extra-sandbox-paths\n/a\n/b", &[("/a", "/a")])]
    fn answers_are_read_as_in_nix(#[case] answer: &str, #[case] expected: &[(&str, &str)]) {
        let found = parse(answer).unwrap();
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|path| (path.inside.to_str().unwrap(), path.outside.to_str().unwrap()))
            .collect();
        assert_eq!(found, expected);
    }

    #[rstest]
    #[case::command("extra-paths\n/a\n", "unknown pre-build hook command 'extra-paths'")]
    #[case::relative("extra-sandbox-paths\nx\n", "must consist of absolute paths")]
    fn other_answers_are_refused(#[case] answer: &str, #[case] expected: &str) {
        let error = parse(answer).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
