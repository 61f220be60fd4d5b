//! One run of a build's process: its user, its folders, what it's given, and its end.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use drover_core::StorePath;
use drover_derivation::Output;
use drover_recipe::{Given, Placeholders, Setting, graph};
use drover_sandbox::{
    Addresses, Availability, Cgroup, Command, Handles, Isolation, Leftovers, Personality, Plan,
    Program, Scope, Terminal,
};
use drover_store::{BuildFailure, Keeper as _, LogEvent, OwnSetting, Store as _};
use drover_store_local::{LocalStore, Workshop};
use rustix::io::Errno;

use crate::builtin;
use crate::failure::{
    Failing, Trouble, machine, of_bug, of_range, rejected, with_full_disk, with_lost_network,
};
use crate::folders::{BuildFolders, Entrance, Parent, Sticky};
use crate::group::Group;
use crate::hooks::{ask_before_build, of_hook};
use crate::inputs;
use crate::job::{Job, Shelter, Subject};
use crate::left::{Fate, Left};
use crate::log_file::LogFile;
use crate::process::{Ending, Limits, Process, terminal};
use crate::reach::network;
use crate::settings::{Groups, KeepLog, LocalSettings, SandboxPath};
use crate::suitable;
use crate::surroundings::{Scene, let_in, make_store, namespaces, shut_out, store_paths_of};
use crate::users::{BuildUser, Need};

/// A build that is about to run.
pub(crate) struct Attempt<'a> {
    pub(crate) job: &'a Job<'a>,
    pub(crate) subject: &'a Subject,
    pub(crate) workshop: &'a Workshop,
}

/// A build that went well, as far as its process goes.
pub(crate) struct Made {
    /// Where its outputs are.
    pub(crate) outputs: OwnedFd,
    pub(crate) folders: Left,
    pub(crate) user: Arc<BuildUser>,
}

/// What a build is shown beside what the settings say.
#[derive(Default)]
struct Shown {
    paths: Vec<SandboxPath>,
    /// Its inputs and these, with all that they refer to, where there are some of the store's.
    closure: Option<BTreeSet<StorePath>>,
}

/// Free bytes below which a failure is put down to a full disk, as in Nix.
const ALMOST_FULL: u64 = 8 << 20;

impl Attempt<'_> {
    /// Runs it.
    pub(crate) async fn run(&self) -> Result<Made, Trouble> {
        let Attempt { job, subject, .. } = self;
        let need = match subject.options.required_system_features.contains("uid-range") {
            true => Need::Range,
            false => Need::One,
        };
        let locks = job.settings.user_locks.as_ref().unwrap_or(&job.store.layout().state);
        let user = BuildUser::lock(&job.settings.users, locks, need, job.cancel).await?;
        if subject.shelter == Shelter::Namespaces {
            user.leave_groups(job.settings.own_groups)?;
        }
        let user = Arc::new(user);
        let folders = Left::new(self.folders(&user)?);
        let ended = match self.group(&user, locks).await {
            Ok(group) => {
                let ended = self.run_in(folders.folders(), &user, group.as_ref()).await;
                if let Some(group) = group {
                    let shown = subject.shown.clone();
                    off_thread(&subject.shown, move || group.end(&shown)).await?;
                }
                ended
            }
            Err(trouble) => Err(trouble),
        };
        match ended {
            Ok(outputs) => Ok(Made { outputs, folders, user }),
            Err(trouble) => {
                let fate = match trouble {
                    Trouble::Cancelled => Fate::Removed,
                    _ => job.fate_of_failed(subject),
                };
                folders.leave(job, fate, user);
                Err(trouble)
            }
        }
    }

    fn folders(&self, user: &BuildUser) -> Result<BuildFolders, Trouble> {
        let parent = parent(self.job.settings, &self.job.store);
        let entrance = match (self.subject.shelter, user) {
            (_, BuildUser::Caller(_)) | (Shelter::Namespaces, BuildUser::One(_)) => {
                Entrance::Closed
            }
            // what is shown is found as the first of these users
            (Shelter::Namespaces, BuildUser::Range(_)) | (Shelter::None, _) => Entrance::OfItsGroup,
        };
        let name = self.subject.derivation.name.to_string();
        let made = BuildFolders::new(&parent, &name, user.ids(), entrance).and_then(|folders| {
            if self.subject.shelter == Shelter::Namespaces {
                folders.add_tmp(user.ids())?;
            }
            Ok(folders)
        });
        made.map_err(|error| {
            let doing = format!("make a folder for the build in '{}'", parent.path.display());
            machine(&doing, &error).into()
        })
    }

    /// Makes the build's control group, if it's to have one.
    async fn group(&self, user: &Arc<BuildUser>, locks: &Path) -> Result<Option<Group>, Trouble> {
        let Attempt { job, subject, .. } = self;
        let has_some = job.support.cgroups == Availability::Available;
        let wanted = match (job.settings.groups, &**user) {
            (Groups::Always, _) => true,
            (Groups::ForRanges, BuildUser::Range(_)) => has_some,
            (Groups::ForRanges, _) => false,
        };
        if !wanted {
            return Ok(None);
        }
        let (user, locks) = (Arc::clone(user), locks.to_owned());
        let made = off_thread(&subject.shown, move || Group::new(&user, &locks)).await?;
        Ok(Some(made.map_err(|error| machine("make a control group", &error))?))
    }

    async fn run_in(
        &self,
        folders: &BuildFolders,
        user: &BuildUser,
        group: Option<&Group>,
    ) -> Result<OwnedFd, Trouble> {
        let Attempt { job, subject, workshop } = self;
        let given = self.given(folders).await?;
        folders
            .write(&given.files, user.ids())
            .map_err(|error| machine("write the build's files", &error))?;
        let outputs = match subject.shelter {
            Shelter::Namespaces => make_store(workshop, user),
            Shelter::None => workshop.store().try_clone_to_owned(),
        };
        let outputs = outputs.map_err(|error| machine("make a store for the build", &error))?;
        let shown = self.also_shown(folders).await?;
        let Terminal { upper, lower } = terminal()?;
        let mut handles = Handles::new();
        let program = builtin::program(job, subject, &given).await?;
        let mut plan = self.plan(given, folders, &shown, user, &mut handles, lower)?;
        plan.command.program = program;
        if let Some(group) = group {
            let folder = group.folder().map_err(|error| machine("open a control group", &error))?;
            plan.cgroup = Cgroup::Leaf(handles.add(folder));
        }
        let process = self.process();
        let_in(workshop, user).map_err(|error| machine("open the build's store", &error))?;
        let ending = process.run(&plan, handles, upper).await;
        shut_out(workshop, user).map_err(|error| machine("close the build's store", &error))?;
        let Ending { ended, tail } = ending?;
        let known = subject.derivation.outputs.values().filter_map(Output::path);
        let paths = known.map(|path| job.store.store_dir().display(path)).collect();
        let failing = Failing { derivation: &subject.shown, outputs: paths, tail: &tail };
        match failing.of_exit(ended.exit) {
            None => Ok(outputs),
            Some(failure) => {
                let failure = with_lost_network(failure, ended.connection);
                Err(self.with_full_disk(failure, folders).into())
            }
        }
    }

    fn process(&self) -> Process<'_> {
        let Attempt { job, subject, .. } = self;
        let file = match job.settings.keep_log {
            KeepLog::Yes => {
                let (store, derivation) = (job.store.new_session(), job.request.derivation.clone());
                store.set_own(job.request.wishes.logs.map(OwnSetting::Logs).as_slice());
                Some(LogFile::new(store, derivation))
            }
            KeepLog::No => None,
        };
        Process {
            derivation: &subject.shown,
            launcher: &job.launcher,
            limits: Limits {
                timeout: job.settings.timeout,
                max_silent_time: job.settings.max_silent_time,
                max_log_size: job.settings.max_log_size,
            },
            cancel: job.cancel,
            log: Arc::clone(&job.log),
            file,
            tail: job.settings.log_lines,
        }
    }

    /// Asks the hook for that what the build is to see beside the rest, if it is shut in.
    async fn also_shown(&self, folders: &BuildFolders) -> Result<Shown, Trouble> {
        let Attempt { job, subject, .. } = self;
        let Some(hook) = &job.settings.pre_build_hook else { return Ok(Shown::default()) };
        if subject.shelter == Shelter::None {
            return Ok(Shown::default());
        }
        let paths = tokio::select! {
            paths = ask_before_build(hook, &subject.shown, folders.path()) => {
                paths.map_err(|error| of_hook(&subject.shown, &error))?
            }
            () = job.cancel.cancelled() => return Err(Trouble::Cancelled),
        };
        let roots = store_paths_of(&paths, job.store.store_dir());
        let closure = match roots.is_empty() {
            true => None,
            false => {
                let mut closure = inputs::closure(&job.store, &roots).await?;
                closure.extend(subject.closure.iter().cloned());
                Some(closure)
            }
        };
        Ok(Shown { paths, closure })
    }

    /// What a build begins with.
    async fn given(&self, folders: &BuildFolders) -> Result<Given, Trouble> {
        let Attempt { job, subject, .. } = self;
        let store_dir = &job.store.layout().store_dir;
        let asked = inputs::graphs(&job.store, &subject.derivation, &subject.closure).await?;
        if let Some(text) = asked.structured.as_ref().and_then(graph::passed_over) {
            job.log.event(LogEvent::Message(text.to_owned()));
        }
        let mut placeholders = Placeholders::of_outputs(store_dir, &subject.scratch);
        for (name, output) in &subject.derivation.outputs {
            if let (Some(path), Some(scratch)) = (output.path(), subject.scratch.get(name))
                && path != scratch
            {
                placeholders.redirect(path, scratch);
            }
        }
        let folder = match subject.shelter {
            Shelter::Namespaces => job.settings.sandbox_build_dir.clone(),
            Shelter::None => folders.build().display().to_string(),
        };
        let cores = job.request.wishes.cores.unwrap_or(job.settings.cores);
        let outside = |name: &str| job.variable(name);
        let setting = Setting {
            store_dir,
            folder: &folder,
            cores: if cores == 0 { processors() } else { cores },
            outside: &outside,
        };
        let derivation = &subject.derivation;
        Ok(Given::new(derivation, &placeholders, &setting, asked.structured, asked.files)?)
    }

    fn plan(
        &self,
        given: Given,
        folders: &BuildFolders,
        shown: &Shown,
        user: &BuildUser,
        handles: &mut Handles,
        lower: OwnedFd,
    ) -> Result<Plan, Trouble> {
        let Attempt { job, subject, .. } = self;
        // first, as what it shares with other builds goes first
        let isolation = self.isolation(folders, shown, user, handles)?;
        let output = handles.add(lower);
        let builder = &subject.derivation.builder;
        let name = builder.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
        let folder = match subject.shelter {
            Shelter::Namespaces => job.settings.sandbox_build_dir.clone().into_bytes(),
            Shelter::None => folders.build().into_os_string().into_encoded_bytes(),
        };
        Ok(Plan {
            command: Command {
                arguments: [vec![name], given.args].concat(),
                program: Program::File(builder.to_vec()),
                environment: given.environment.into_iter().collect(),
                folder,
                output,
                umask: 0o022,
            },
            identity: user.identity(),
            groups: user.groups(subject.shelter, &job.settings.users),
            isolation,
            filter: job.settings.filter,
            scope: Scope::WhereSupported,
            cgroup: Cgroup::Inherited,
            limits: builtin::limits(&subject.derivation.builder),
            personality: Personality {
                machine: suitable::machine(&subject.derivation.system, &job.settings.system),
                addresses: Addresses::Fixed,
            },
            oom_score: None,
            leftovers: Leftovers::Kill,
        })
    }

    fn isolation(
        &self,
        folders: &BuildFolders,
        shown: &Shown,
        user: &BuildUser,
        handles: &mut Handles,
    ) -> Result<Isolation, Trouble> {
        let Attempt { job, subject, workshop } = self;
        if subject.shelter == Shelter::None {
            return match user {
                BuildUser::Range(_) => Err(rejected(of_range(&subject.shown)).into()),
                _ => Ok(Isolation::None),
            };
        }
        let scene = Scene {
            settings: job.settings,
            store_dir: &job.store.layout().store_dir,
            closure: shown.closure.as_ref().unwrap_or(&subject.closure),
            also: &shown.paths,
            workshop,
            folders,
            user,
            network: network(job, subject),
            support: &job.support,
        };
        let namespaces = namespaces(&scene, handles);
        let namespaces = namespaces.map_err(|error| machine("prepare the sandbox", &error))?;
        Ok(Isolation::Namespaces(Box::new(namespaces)))
    }

    /// A build that fails where the disk is full has failed for that, most likely.
    fn with_full_disk(&self, failure: BuildFailure, folders: &BuildFolders) -> BuildFailure {
        let outer = folders.outer();
        match is_almost_full(self.workshop.folder()) || outer.is_ok_and(is_almost_full) {
            true => with_full_disk(failure),
            false => failure,
        }
    }
}

/// Does work that blocks where that keeps nothing else waiting.
async fn off_thread<T: Send + 'static>(
    derivation: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Trouble> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| of_bug(derivation, &error).into())
}

/// Returns where the folders of builds are made. Below a folder of the user's choice that everybody may
/// write root's builds aren't done, as in Nix; a whole store may lie below such a one.
pub(crate) fn parent(settings: &LocalSettings, store: &LocalStore) -> Parent {
    match &settings.build_dir {
        Some(path) => {
            let is_root = rustix::process::geteuid().is_root();
            let sticky = if is_root { Sticky::Refused } else { Sticky::Allowed };
            Parent { path: path.clone(), sticky }
        }
        None => Parent { path: store.layout().state.join("builds"), sticky: Sticky::Allowed },
    }
}

fn is_almost_full(folder: impl AsFd) -> bool {
    let free = |stat: rustix::fs::StatVfs| stat.f_bavail.saturating_mul(stat.f_frsize);
    let stat: Result<rustix::fs::StatVfs, Errno> = rustix::fs::fstatvfs(folder);
    stat.map(free).is_ok_and(|free| free < ALMOST_FULL)
}

fn processors() -> u32 {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(count).unwrap_or(1)
}
