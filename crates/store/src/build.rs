//! What a builder is.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{NarSize, PathInfo, StorePath};
use drover_derivation::BasicDerivation;

use crate::error::StoreError;
use crate::failure::BuildFailure;
use crate::own_setting::{LogForm, Optimise};
use crate::path_stream::PathStream;
use crate::sandbox_wish::SandboxWish;

/// An answer that is on its way. Dropping it gives up the answer, not the request: a request that
/// was sent can only be ended with its [`Lane`].
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// Settings that travel with a build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildSettings {
    /// After how long a build is ended.
    pub timeout: Option<Duration>,
    /// After how long without a word a build is ended.
    pub max_silent_time: Option<Duration>,
    /// Cores that a build may use; the machine's own setting where absent.
    pub cores: Option<u32>,
    /// What is said of cores where `cores` is absent and a message can't leave it out, as Nix's
    /// clients do: the setting of this machine, 0 for all.
    pub usual_cores: u32,
    /// Whether the folder of a failed build is kept.
    pub keep_failed: bool,
    /// Further settings by name.
    pub overrides: BTreeMap<String, String>,
}

impl BuildSettings {
    /// Whether nobody has asked for anything.
    pub fn asks_for_nothing(&self) -> bool {
        *self == BuildSettings { usual_cores: self.usual_cores, ..BuildSettings::default() }
    }

    /// Says whether a further setting is on, if it's said and is a switch.
    pub fn switch(&self, name: &str) -> Option<bool> {
        drover_config::parse_switch(self.overrides.get(name)?.trim())
    }

    /// Returns the cores for a message that can't leave them out.
    pub fn told_cores(&self) -> u32 {
        self.cores.unwrap_or(self.usual_cores)
    }
}

/// What to build from.
#[derive(Clone, Debug)]
pub enum BuildPlan {
    /// The derivation itself; its inputs must be valid at the builder, the `.drv` needn't be there.
    Derivation(Box<BasicDerivation>),
    /// The `.drv` in the builder's store, whose closure must be valid there.
    FromStore,
}

/// What is asked of one build, on top of the settings that its builder was opened with.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BuildWishes {
    /// Cores that it may use, 0 for all; as the builder was opened where absent.
    pub cores: Option<u32>,
    /// Whether its folder is kept if it fails, even if the builder was opened otherwise.
    pub keep_failed: bool,
    /// What is to run after it on this machine, for each who waits for it; what the builder was opened
    /// with where nobody says anything.
    pub after: BTreeSet<AfterBuild>,
    /// Whether equal files of its outputs become hard links on this machine; as its store is configured
    /// where absent.
    pub optimise: Option<Optimise>,
    /// Variables that it gets on this machine if it names them in `impureEnvVars`, before those of the
    /// builder (`impure-env`).
    pub variables: BTreeMap<String, String>,
    /// How its log is kept on this machine; as its store is configured where absent.
    pub logs: Option<LogForm>,
    /// What is asked of its sandbox on this machine.
    pub sandbox: SandboxWish,
}

/// What runs on this machine after a build that went well (`post-build-hook`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AfterBuild {
    /// What the builder was opened with.
    Usual,
    /// Nothing.
    Nothing,
    /// A program, by its whole path.
    Program(PathBuf),
}

impl BuildWishes {
    /// Returns what is asked in the settings of one who waits for a build.
    pub fn of(settings: &BuildSettings) -> BuildWishes {
        let after = match settings.overrides.get("post-build-hook").map(String::as_str) {
            None => AfterBuild::Usual,
            Some("") => AfterBuild::Nothing,
            Some(program) => AfterBuild::Program(program.into()),
        };
        let variables =
            settings.overrides.get("impure-env").map(String::as_str).unwrap_or_default();
        let variables = variables.split_whitespace().filter_map(|word| word.split_once('='));
        BuildWishes {
            variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            cores: settings.cores,
            keep_failed: settings.keep_failed,
            after: BTreeSet::from([after]),
            optimise: switch(settings, &["auto-optimise-store"]).map(|on| match on {
                true => Optimise::OnImport,
                false => Optimise::OnDemand,
            }),
            sandbox: SandboxWish::of(settings),
            logs: switch(settings, &["compress-build-log", "build-compress-log"]).map(
                |on| match on {
                    true => LogForm::Compressed,
                    false => LogForm::Plain,
                },
            ),
        }
    }
}

/// Returns what is said of a setting that is on or off, by one of its names.
fn switch(settings: &BuildSettings, names: &[&str]) -> Option<bool> {
    match names.iter().find_map(|name| settings.overrides.get(*name))?.as_str() {
        "true" | "yes" | "1" => Some(true),
        "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// One build.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The derivation's path.
    pub derivation: StorePath,
    /// The outputs that are wanted, by name.
    pub outputs: BTreeSet<String>,
    /// The paths of the outputs that are known before the build.
    pub known_outputs: BTreeMap<String, StorePath>,
    /// What to build from.
    pub plan: BuildPlan,
    /// What is asked of this build alone.
    pub wishes: BuildWishes,
    /// Outputs of at most so many bytes are to come with the answer, where the builder can send
    /// them. That is a guess, made before their sizes are known: where one is larger, or the build
    /// fails, the lane ends, and what is queued behind gets [`StoreError::LaneEnded`].
    pub bring: Option<NarSize>,
}

/// A build that went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The outputs, by name, as the builder describes them.
    pub outputs: BTreeMap<String, PathInfo>,
    /// Whether they were there already.
    pub already_valid: bool,
    /// How long it took, by the builder's clock (whole seconds there).
    pub took: Option<Duration>,
    /// NARs of outputs that came along, checked.
    pub nars: BTreeMap<StorePath, Bytes>,
}

/// How a build ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildOutcome {
    /// All outputs are valid at the builder.
    Built(Built),
    /// They are not.
    Failed(BuildFailure),
}

/// What a builder says while it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// The build is given to a machine behind the one that was asked, which calls it so.
    On(String),
    /// The build began to run.
    Started,
    /// A line of the build's own output.
    Line(String),
    /// Bytes of its own output that are a message for tools. Only who builds in this process says so.
    Heard(usize),
    /// The phase it is in.
    Phase(String),
    /// A message of the machine's Nix.
    Message(String),
    /// Its own processes have ended; what follows is the machine's work, and no limits of the build hold
    /// for it. Only who builds in this process says so.
    Ended,
}

/// Takes what a builder says. Called from the task that reads the connection: it must never wait.
pub trait BuildLog: Send + Sync {
    /// Takes one event.
    fn event(&self, event: LogEvent);

    /// Whether what is told is kept, so that nothing of it may be missing.
    fn is_kept(&self) -> bool {
        false
    }
}

/// Keeps the logs of builds.
pub trait LogKeeper: Send + Sync {
    /// Begins the log of a build: returns what takes its events, which passes them on to `log`, and what
    /// is to be waited for when the build is over. Dropped before, it keeps nothing.
    fn keep(
        &self,
        request: &BuildRequest,
        log: Arc<dyn BuildLog>,
    ) -> (Arc<dyn BuildLog>, Pending<()>);
}

/// Takes no interest.
#[derive(Debug)]
pub struct SilentLog;

impl BuildLog for SilentLog {
    fn event(&self, _: LogEvent) {}
}

/// A machine that builds.
#[async_trait]
pub trait Builder: Send + Sync {
    /// Says that it will probably be connected to, so that what takes time and does nothing there
    /// can begin. Only a hint.
    fn approach(&self) {}

    /// Says that so many lanes and transfers will be asked for beside the first, so that they can
    /// be opened while the first connects. Only a hint.
    fn expect(&self, channels: usize);

    /// Opens one more queue of builds.
    async fn open_lane(&self) -> Result<Box<dyn Lane>, StoreError>;
}

/// A queue at a builder: what is asked of it is done in order, and may be asked before what is
/// ahead has ended, which hides the way there and back.
///
/// Dropping a lane ends what is running in it and forgets what is queued.
pub trait Lane: Send + Sync {
    /// Queues paths to be added. What is queued behind may rely on them.
    fn import(&self, paths: Box<dyn PathStream>) -> Pending<()>;

    /// Queues a build.
    fn build(&self, request: BuildRequest, log: Arc<dyn BuildLog>) -> Pending<BuildOutcome>;

    /// Queues a build of something that is valid there, which is compared with that and doesn't become
    /// valid itself. Where they are the same it was built; otherwise it failed, as
    /// [`FailureCause::NotDeterministic`](crate::FailureCause::NotDeterministic).
    ///
    /// Nobody needs to be able to do this: by default the answer is [`StoreError::Unsupported`].
    fn check(&self, request: BuildRequest, log: Arc<dyn BuildLog>) -> Pending<BuildOutcome> {
        drop((request, log));
        let (store, what) = ("the builder".to_owned(), "check builds by repeating them");
        Box::pin(std::future::ready(Err(StoreError::Unsupported { store, what })))
    }

    /// Queues a build of something of which what is valid there is damaged: what it makes takes that
    /// one's place. Outputs that are as they should be stay.
    ///
    /// Nobody needs to be able to do this: by default the answer is [`StoreError::Unsupported`].
    fn repair(&self, request: BuildRequest, log: Arc<dyn BuildLog>) -> Pending<BuildOutcome> {
        drop((request, log));
        let (store, what) = ("the builder".to_owned(), "repair outputs by building them again");
        Box::pin(std::future::ready(Err(StoreError::Unsupported { store, what })))
    }
}
