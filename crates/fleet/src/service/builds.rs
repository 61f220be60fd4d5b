//! What a service builds, for whom, and why there: for those who ask.
//!
//! Invariant: an answer has a bound, however much there is to do; what is left out is counted.

use std::time::{Duration, SystemTime};

use drover_core::StorePath;
use drover_schedule::{Choice, JobId, JobStatus, Lane};

use crate::service::engine::Engine;
use crate::service::router::Glance;
use crate::service::table::{End, Entry, Progress};

/// Builds in one answer.
const BUILDS: usize = 5_000;

/// Derivations that a build is said to wait for, and clients that are said to wait for it.
const NAMED: usize = 8;

/// Builds of which is known why they were where they were when they are over and forgotten.
const PAST: usize = 256;

/// Machines of which is known what they had to say to such a build.
const PAST_MACHINES: usize = 64;

/// A build's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildId(pub u32);

/// Builds without a verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildList {
    /// The builds: those that run first, then those that are nearest to it; up to 5,000.
    pub builds: Vec<BuildView>,
    /// How many there are in all.
    pub total: usize,
}

/// A build at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildView {
    /// Its number.
    pub id: BuildId,
    /// The derivation.
    pub derivation: StorePath,
    /// What it's doing.
    pub state: BuildState,
    /// Who waits for it, or did until it was over, each once, up to eight of them. Those of whom nothing is
    /// known aren't here.
    pub clients: Vec<String>,
    /// How many clients wait for it.
    pub waiting: usize,
    /// Lines of its log so far.
    pub log_lines: usize,
}

/// What a build is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildState {
    /// It runs.
    Building {
        /// Where.
        machine: String,
        /// For how long.
        time: Duration,
        /// The phase that it is in, where it says so.
        phase: Option<String>,
    },
    /// What it needs is on its way to the machine, or it is about to begin there.
    Sending {
        /// Where.
        machine: String,
    },
    /// It was sent to a machine, and begins when another build has ended there.
    Queued {
        /// Where.
        machine: String,
        /// The derivation of the other build.
        after: Option<StorePath>,
    },
    /// It was told to stop.
    Stopping {
        /// Where.
        machine: String,
    },
    /// It waits for a machine.
    Ready,
    /// It waits for other builds.
    Waiting {
        /// Some of them, up to eight.
        on: Vec<StorePath>,
        /// How many there are.
        count: usize,
    },
    /// It is over.
    Over {
        /// How it ended.
        outcome: BuildEnding,
        /// Where it ran, if it did.
        machine: Option<String>,
        /// For how long it ran.
        took: Option<Duration>,
    },
}

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildEnding {
    /// It was built.
    Built,
    /// It failed, or couldn't be tried.
    Failed,
    /// It wasn't needed after all.
    Unneeded,
    /// Nobody waited for it any more.
    Cancelled,
}

/// Why a build is where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildExplanation {
    /// The build.
    pub build: BuildView,
    /// What each machine has to say, in the order of the machines.
    pub machines: Vec<MachineChoice>,
}

/// What a machine has to say to a build.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineChoice {
    /// The machine's name.
    pub machine: String,
    /// Whether it was chosen, and why or why not.
    pub choice: Choice,
    /// The same in words, with times from now on.
    pub text: String,
}

/// What is kept of the log of a build that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLog {
    /// The build.
    pub build: BuildView,
    /// Lines before those that are not kept any more.
    pub dropped: usize,
    /// The last lines.
    pub lines: Vec<String>,
}

impl Engine {
    /// Returns what has no verdict yet.
    pub(crate) fn builds(&self) -> BuildList {
        let open = || self.table.iter().filter(|(_, entry)| entry.progress == Progress::Open);
        let mut jobs: Vec<(u8, u32, JobId)> =
            open().map(|(job, entry)| (self.nearness(job, entry), entry.node.0, job)).collect();
        let total = jobs.len();
        jobs.sort_unstable();
        let builds = jobs.into_iter().take(BUILDS);
        BuildList { builds: builds.filter_map(|(.., job)| self.build_view(job)).collect(), total }
    }

    /// Returns why a build is where it is, or was.
    pub(crate) fn explain(&self, build: BuildId) -> Option<BuildExplanation> {
        match self.job_of_build(build) {
            Some(job) => self.explain_job(job),
            None => self.past.iter().find(|past| past.build.id == build).cloned(),
        }
    }

    /// Returns the last build of a derivation that is known.
    pub(crate) fn last_build(&self, name: &str) -> Option<BuildId> {
        let known = self.table.iter().map(|(_, entry)| (&entry.key.derivation, entry.node.0));
        let past = self.past.iter().map(|past| (&past.build.derivation, past.build.id.0));
        let of_name = known.chain(past).filter(|(derivation, _)| derivation.base_name() == name);
        of_name.map(|(_, number)| BuildId(number)).max()
    }

    /// Keeps why a job was where it was, if it was anywhere, before it is forgotten.
    pub(crate) fn remember(&mut self, job: JobId) {
        if !self.driver.scheduler.was_placed(job) {
            return;
        }
        let Some(mut explanation) = self.explain_job(job) else { return };
        let is_chosen = |one: &MachineChoice| matches!(one.choice, Choice::Chosen { .. });
        // of very many machines those of the beginning, and the one that it was on
        let mut places = PAST_MACHINES;
        explanation.machines.retain(|one| {
            let had_place = places > 0;
            places = places.saturating_sub(1);
            had_place || is_chosen(one)
        });
        if explanation.machines.iter().any(is_chosen) {
            self.past.push_back(explanation);
            if self.past.len() > PAST {
                self.past.pop_front();
            }
        }
    }

    fn explain_job(&self, job: JobId) -> Option<BuildExplanation> {
        let now = self.driver.now();
        let machines = self.driver.scheduler.explain(job)?.machines.into_iter();
        let machines = machines.filter(|one| !self.retired.contains(&one.machine));
        let machines = machines.map(|one| MachineChoice {
            machine: one.name,
            text: one.choice.at(now),
            choice: one.choice,
        });
        Some(BuildExplanation { build: self.build_view(job)?, machines: machines.collect() })
    }

    /// Returns what is kept of the log of a build.
    pub(crate) fn kept_log(&self, build: BuildId) -> Option<KeptLog> {
        let job = self.job_of_build(build)?;
        let (dropped, lines) = self.router.kept_log(self.table.get(job)?.node)?;
        Some(KeptLog { build: self.build_view(job)?, dropped, lines })
    }

    fn job_of_build(&self, build: BuildId) -> Option<JobId> {
        let mut jobs = self.table.iter();
        jobs.find(|(_, entry)| entry.node.0 == build.0).map(|(job, _)| job)
    }

    /// Returns a number that is the less the further a job has come.
    fn nearness(&self, job: JobId, entry: &Entry) -> u8 {
        match self.driver.scheduler.job_status(job) {
            Some(JobStatus::Running { .. }) => {
                let glance = self.router.glance(entry.node);
                u8::from(glance.is_none_or(|glance| glance.machine.is_none()))
            }
            Some(JobStatus::Stopping { .. }) => 2,
            Some(JobStatus::Queued { .. }) => 3,
            Some(JobStatus::Ready) => 4,
            Some(JobStatus::Waiting { .. }) => 5,
            Some(JobStatus::Done(_)) | None => 6,
        }
    }

    fn build_view(&self, job: JobId) -> Option<BuildView> {
        let entry = self.table.get(job)?;
        let glance = self.router.glance(entry.node)?;
        let log_lines = glance.lines;
        let (clients, waiting) = match &entry.end {
            Some(end) => end.clients.clone(),
            None => self.clients_of(entry),
        };
        Some(BuildView {
            id: BuildId(entry.node.0),
            derivation: entry.key.derivation.clone(),
            state: self.state_of(job, glance),
            clients,
            waiting,
            log_lines,
        })
    }

    /// Returns who waits for a job, and how many they are.
    fn clients_of(&self, entry: &Entry) -> (Vec<String>, usize) {
        let names =
            entry.waiters.iter().filter_map(|client| self.clients.get(client)?.name.clone());
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        names.dedup();
        names.truncate(NAMED);
        (names, entry.waiters.len())
    }

    /// Returns what is to be known of a job that ends now.
    pub(crate) fn end_of(&self, job: JobId) -> Option<End> {
        let entry = self.table.get(job)?;
        let glance = self.router.glance(entry.node);
        let machine = glance.as_ref().and_then(|glance| glance.machine.clone());
        let began = self.router.began(entry.node);
        // a clock that was set back meanwhile
        let took = began.and_then(|began| SystemTime::now().duration_since(began).ok());
        Some(End { machine, took, clients: self.clients_of(entry) })
    }

    fn state_of(&self, job: JobId, glance: Glance) -> BuildState {
        let on = |lane: Lane| self.driver.shared.name_of(lane.machine);
        let named = |job: JobId| Some(self.table.get(job)?.key.derivation.clone());
        match (self.driver.scheduler.job_status(job), glance.machine) {
            (Some(JobStatus::Running { .. }), Some(machine)) => {
                let began = glance.began.map(|began| SystemTime::now().duration_since(began));
                // a clock that was set back meanwhile
                let time = began.and_then(Result::ok).unwrap_or_default();
                BuildState::Building { machine, time, phase: glance.phase }
            }
            (Some(JobStatus::Running { lane }), None) => BuildState::Sending { machine: on(lane) },
            (Some(JobStatus::Queued { lane, after }), _) => {
                BuildState::Queued { machine: on(lane), after: named(after) }
            }
            (Some(JobStatus::Stopping { lane, .. }), _) => {
                BuildState::Stopping { machine: on(lane) }
            }
            (Some(JobStatus::Ready), _) => BuildState::Ready,
            (Some(JobStatus::Waiting { on }), _) => {
                let count = on.len();
                let on = on.into_iter().filter_map(named).take(NAMED).collect();
                BuildState::Waiting { on, count }
            }
            (Some(JobStatus::Done(_)) | None, _) => self.over(job),
        }
    }

    fn over(&self, job: JobId) -> BuildState {
        let entry = self.table.get(job);
        let outcome = match entry.map(|entry| &entry.progress) {
            Some(Progress::Built) => BuildEnding::Built,
            Some(Progress::Failed(_)) => BuildEnding::Failed,
            Some(Progress::Unneeded) => BuildEnding::Unneeded,
            Some(Progress::Open) | None => BuildEnding::Cancelled,
        };
        let end = entry.and_then(|entry| entry.end.clone());
        let (machine, took) = end.map_or((None, None), |end| (end.machine, end.took));
        BuildState::Over { outcome, machine, took }
    }
}
