//! The jobs of all clients: which are shared, who waits for which, and when they are forgotten.
//!
//! Invariants: whoever waits for a job waits for all that it depends on, too; and a job is in the
//! table as long as one that depends on it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::time::{Duration, SystemTime};

use drover_core::{OutputName, StorePath};
use drover_schedule::{JobId, MachineKind, Scope};
use drover_store::BuildFailure;

use crate::graph::NodeId;
use crate::service::here::View;
use crate::service::options::BuildNumbers;
use crate::service::router::ClientId;

/// What makes two jobs the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) derivation: StorePath,
    pub(crate) content: Content,
}

/// Where a derivation is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Content {
    /// In the store, where its path says what it is.
    Stored,
    /// A client brought it; this is the hash of its text.
    Given(Vec<u8>),
}

/// Whom the end of a build is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GoodFor {
    /// For all who ask, whenever they do.
    Everybody,
    /// For those who waited for it: an impure derivation is built anew for each who asks later.
    Waiters,
}

/// A job's paths and what else protects its inputs, as the client found them who asked for it.
pub(crate) struct Bundle {
    pub(crate) paths: Vec<StorePath>,
    pub(crate) realised: Vec<(StorePath, OutputName)>,
    pub(crate) users: usize,
    /// Until this is dropped the client's temporary roots are there.
    pub(crate) _view: View,
}

/// A bundle's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BundleId(pub(crate) u64);

/// How far a job has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Open,
    Built,
    /// It was let be, as only jobs needed it whose outputs were found somewhere.
    Unneeded,
    Failed(BuildFailure),
}

/// What is known of a job that is over, for those who ask later.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// Where it ran, if it did.
    pub(crate) machine: Option<String>,
    /// For how long.
    pub(crate) took: Option<Duration>,
    /// Who waited for it, by name, and how many they were.
    pub(crate) clients: (Vec<String>, usize),
}

/// A job in the table.
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) node: NodeId,
    pub(crate) waiters: BTreeSet<ClientId>,
    pub(crate) scopes: Scopes,
    pub(crate) dependencies: Vec<JobId>,
    /// Jobs in the table that depend on it.
    pub(crate) dependents: usize,
    /// Paths that the scheduler knows because of it.
    pub(crate) paths: BTreeSet<StorePath>,
    pub(crate) bundle: Option<BundleId>,
    pub(crate) progress: Progress,
    pub(crate) period: Option<(SystemTime, SystemTime)>,
    /// Where and how it ended, once it has.
    pub(crate) end: Option<End>,
    /// Its place among those that are only kept for whoever asks next.
    pub(crate) retained: Option<u64>,
}

/// Where those who wait for a job let it run.
#[derive(Debug, Default)]
pub(crate) struct Scopes {
    waiters: BTreeMap<Scope, usize>,
    /// What the scheduler was told last.
    told: Option<Scope>,
}

impl Scopes {
    /// Notes what the scheduler was told.
    pub(crate) fn told(&mut self, scope: Scope) {
        self.told = Some(scope);
    }

    pub(crate) fn add(&mut self, scope: Scope) {
        *self.waiters.entry(scope).or_default() += 1;
    }

    pub(crate) fn remove(&mut self, scope: Scope) {
        if let Some(count) = self.waiters.get_mut(&scope) {
            *count -= 1;
            if *count == 0 {
                self.waiters.remove(&scope);
            }
        }
    }

    /// Whether it was let run on this machine, as far as the scheduler knows.
    pub(crate) fn let_here(&self) -> bool {
        self.told.is_none_or(|scope| scope.includes(MachineKind::Local))
    }

    /// Returns where it may run, wherever one of those who wait lets it, if that has changed since this
    /// was asked last.
    pub(crate) fn renewed(&mut self) -> Option<Scope> {
        let is_let = |kind: &MachineKind| self.waiters.keys().any(|scope| scope.includes(*kind));
        let kinds = [MachineKind::Local, MachineKind::Remote].into_iter().filter(is_let);
        let scope = Scope::of(&kinds.collect());
        (self.told.replace(scope) != Some(scope)).then_some(scope)
    }
}

/// Counts users of things.
pub(crate) struct Uses<K>(HashMap<K, usize>);

impl<K> Default for Uses<K> {
    fn default() -> Self {
        Uses(HashMap::new())
    }
}

/// Whether something has users left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Some,
    None,
}

impl<K: Hash + Eq + Clone> Uses<K> {
    pub(crate) fn add(&mut self, key: &K) {
        match self.0.get_mut(key) {
            Some(count) => *count += 1,
            None => drop(self.0.insert(key.clone(), 1)),
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Use {
        let Some(count) = self.0.get_mut(key) else { return Use::None };
        *count -= 1;
        if *count > 0 {
            return Use::Some;
        }
        self.0.remove(key);
        Use::None
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The jobs of all clients.
#[derive(Default)]
pub(crate) struct Table {
    entries: Vec<Option<Entry>>,
    free: Vec<JobId>,
    by_key: HashMap<Key, JobId>,
    /// Jobs that are over and that nobody waits for, oldest first: built ones, whose outputs may still
    /// be on machines, and what those would need.
    retained: BTreeMap<u64, JobId>,
    stamps: u64,
    numbers: BuildNumbers,
}

impl Table {
    /// Returns an empty table whose jobs get their numbers there.
    pub(crate) fn numbered_by(numbers: BuildNumbers) -> Table {
        Table { numbers, ..Table::default() }
    }

    pub(crate) fn get(&self, job: JobId) -> Option<&Entry> {
        self.entries.get(job.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, job: JobId) -> Option<&mut Entry> {
        self.entries.get_mut(job.0 as usize)?.as_mut()
    }

    /// Returns the job that a new client may share, which found that it depends on these.
    pub(crate) fn shareable(
        &self,
        key: &Key,
        dependencies: &[JobId],
        good_for: GoodFor,
    ) -> Option<JobId> {
        let job = *self.by_key.get(key)?;
        let entry = self.get(job)?;
        let is_alike = dependencies.iter().all(|other| entry.dependencies.contains(other));
        let is_usable = match entry.progress {
            Progress::Open | Progress::Unneeded => true,
            // who still waits keeps what it was told
            Progress::Built => good_for == GoodFor::Everybody || !entry.waiters.is_empty(),
            Progress::Failed(_) => false,
        };
        (is_alike && is_usable).then_some(job)
    }

    /// Returns the job that somebody asked for already.
    pub(crate) fn find(&self, key: &Key) -> Option<JobId> {
        self.by_key.get(key).copied()
    }

    /// Whether somebody asked for such a job already.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.by_key.contains_key(key)
    }

    /// Adds a job, which others with the same key will share from now on.
    pub(crate) fn add(&mut self, key: Key, dependencies: Vec<JobId>) -> (JobId, NodeId) {
        let job = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            JobId(u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX))
        });
        let node = NodeId(self.numbers.next());
        for dependency in &dependencies {
            if let Some(entry) = self.get_mut(*dependency) {
                entry.dependents += 1;
            }
        }
        self.by_key.insert(key.clone(), job);
        let entry = Entry {
            key,
            node,
            waiters: BTreeSet::new(),
            scopes: Scopes::default(),
            dependencies,
            dependents: 0,
            paths: BTreeSet::new(),
            bundle: None,
            progress: Progress::Open,
            period: None,
            end: None,
            retained: None,
        };
        if let Some(slot) = self.entries.get_mut(job.0 as usize) {
            *slot = Some(entry);
        }
        (job, node)
    }

    /// Has nobody share a job any more.
    pub(crate) fn unshare(&mut self, job: JobId) {
        let Some(key) = self.get(job).map(|entry| entry.key.clone()) else { return };
        if self.by_key.get(&key) == Some(&job) {
            self.by_key.remove(&key);
        }
    }

    /// Returns jobs with all that they depend on.
    pub(crate) fn closure(&self, jobs: impl Iterator<Item = JobId>) -> BTreeSet<JobId> {
        let mut left: Vec<JobId> = jobs.collect();
        let mut closure = BTreeSet::new();
        while let Some(job) = left.pop() {
            if closure.insert(job) {
                let entry = self.get(job);
                left.extend(entry.iter().flat_map(|entry| entry.dependencies.iter().copied()));
            }
        }
        closure
    }

    /// Keeps a job that is over and that nobody waits for.
    pub(crate) fn retain(&mut self, job: JobId) {
        self.stamps += 1;
        let stamp = self.stamps;
        if let Some(entry) = self.get_mut(job)
            && entry.retained.is_none()
        {
            entry.retained = Some(stamp);
            self.retained.insert(stamp, job);
        }
    }

    /// Notes that somebody waits for a job again.
    pub(crate) fn wanted_again(&mut self, job: JobId) {
        let stamp = self.get_mut(job).and_then(|entry| entry.retained.take());
        if let Some(stamp) = stamp {
            self.retained.remove(&stamp);
        }
    }

    /// Returns the retained jobs on which nothing depends, oldest first.
    pub(crate) fn retained_tops(&self) -> Vec<JobId> {
        let is_top = |job: &JobId| self.get(*job).is_some_and(|entry| entry.dependents == 0);
        self.retained.values().copied().filter(is_top).collect()
    }

    pub(crate) fn retained(&self) -> usize {
        self.retained.len()
    }

    /// Removes a job that is over and on which nothing in the table depends. Returns it, and what
    /// it depended on.
    pub(crate) fn remove(&mut self, job: JobId) -> Option<Entry> {
        if self.get(job)?.dependents > 0 {
            return None;
        }
        self.unshare(job);
        self.wanted_again(job);
        let entry = self.entries.get_mut(job.0 as usize)?.take()?;
        for dependency in &entry.dependencies {
            if let Some(entry) = self.get_mut(*dependency) {
                entry.dependents = entry.dependents.saturating_sub(1);
            }
        }
        self.free.push(job);
        Some(entry)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (JobId, &Entry)> {
        let numbered = (0..).map(JobId).zip(&self.entries);
        numbered.filter_map(|(job, entry)| Some((job, entry.as_ref()?)))
    }
}
