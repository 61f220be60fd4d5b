//! What happens to a job is told to all who wait for it, and what was told is kept for those who
//! come later.
//!
//! Invariant: a listener hears each line of what is kept and of what follows once and in order, as
//! both happen under the lock of the job's channel.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use drover_core::StorePath;
use drover_store::{FailureCause, RealiseEvent, RealiseObserver};

use crate::event::{FleetEvent, Observer};
use crate::graph::NodeId;

/// A client, by a number that no other has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientId(pub(crate) u64);

/// Lines of a log that are kept for those who come later.
const KEPT_LINES: usize = 2_000;

/// Bytes of a log that are kept for those who come later.
const KEPT_BYTES: usize = 256 * 1024;

/// Tells clients of their jobs.
#[derive(Default)]
pub(crate) struct Router {
    jobs: Mutex<HashMap<NodeId, Arc<Mutex<Channel>>>>,
    clients: Mutex<HashMap<ClientId, Arc<dyn RealiseObserver>>>,
}

/// Who follows a job, and what late-comers are told.
struct Channel {
    derivation: StorePath,
    listeners: Vec<(ClientId, Arc<dyn RealiseObserver>)>,
    /// Where it runs, while it does.
    machine: Option<String>,
    began: Option<SystemTime>,
    phase: Option<String>,
    lines: VecDeque<String>,
    bytes: usize,
    /// Lines that are not kept any more.
    dropped: usize,
}

/// What is known of a job at one moment.
pub(crate) struct Glance {
    /// Where it runs, if it does.
    pub(crate) machine: Option<String>,
    pub(crate) began: Option<SystemTime>,
    pub(crate) phase: Option<String>,
    /// Lines of its log so far.
    pub(crate) lines: usize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Router {
    pub(crate) fn add_client(&self, client: ClientId, observer: Arc<dyn RealiseObserver>) {
        locked(&self.clients).insert(client, observer);
    }

    pub(crate) fn remove_client(&self, client: ClientId) {
        locked(&self.clients).remove(&client);
    }

    /// Opens the channel of a job.
    pub(crate) fn open(&self, node: NodeId, derivation: StorePath) {
        let channel = Channel {
            derivation,
            listeners: Vec::new(),
            machine: None,
            began: None,
            phase: None,
            lines: VecDeque::new(),
            bytes: 0,
            dropped: 0,
        };
        locked(&self.jobs).insert(node, Arc::new(Mutex::new(channel)));
    }

    /// Closes the channel of a job that is forgotten.
    pub(crate) fn close(&self, node: NodeId) {
        locked(&self.jobs).remove(&node);
    }

    /// Lets a client follow a job, beginning with what is kept of it while it runs.
    pub(crate) fn listen(&self, node: NodeId, client: ClientId) {
        let Some(observer) = locked(&self.clients).get(&client).cloned() else { return };
        let Some(channel) = self.channel(node) else { return };
        let mut channel = locked(&channel);
        if channel.listeners.iter().any(|(other, _)| *other == client) {
            return;
        }
        channel.replay(observer.as_ref());
        channel.listeners.push((client, observer));
    }

    /// Has a client follow a job no more.
    pub(crate) fn leave(&self, node: NodeId, client: ClientId) {
        if let Some(channel) = self.channel(node) {
            locked(&channel).listeners.retain(|(other, _)| *other != client);
        }
    }

    /// Tells those who follow a job.
    pub(crate) fn tell(&self, node: NodeId, event: impl Fn(StorePath) -> RealiseEvent) {
        if let Some(channel) = self.channel(node) {
            let channel = locked(&channel);
            channel.tell(&event(channel.derivation.clone()));
        }
    }

    /// Tells one client.
    pub(crate) fn note(&self, client: ClientId, text: String) {
        self.tell_one(client, RealiseEvent::Note(text));
    }

    /// Tells one client that something it needs has failed itself.
    pub(crate) fn failed(&self, client: ClientId, derivation: StorePath, cause: FailureCause) {
        self.tell_one(client, RealiseEvent::Failed { derivation, cause });
    }

    fn tell_one(&self, client: ClientId, event: RealiseEvent) {
        let observer = locked(&self.clients).get(&client).cloned();
        if let Some(observer) = observer {
            observer.event(event);
        }
    }

    /// Returns when a job began to run, if it did.
    pub(crate) fn began(&self, node: NodeId) -> Option<SystemTime> {
        let channel = self.channel(node)?;
        let channel = locked(&channel);
        channel.began
    }

    /// Returns what is known of a job that runs, and what is kept of its log.
    pub(crate) fn glance(&self, node: NodeId) -> Option<Glance> {
        let channel = self.channel(node)?;
        let channel = locked(&channel);
        Some(Glance {
            machine: channel.machine.clone(),
            began: channel.machine.as_ref().and(channel.began),
            phase: channel.phase.clone(),
            lines: channel.dropped + channel.lines.len(),
        })
    }

    /// Returns what is kept of the log of a job: how many lines are not, and the others.
    pub(crate) fn kept_log(&self, node: NodeId) -> Option<(usize, Vec<String>)> {
        let channel = self.channel(node)?;
        let channel = locked(&channel);
        Some((channel.dropped, channel.lines.iter().cloned().collect()))
    }

    /// Returns how many channels are open.
    pub(crate) fn open_channels(&self) -> usize {
        locked(&self.jobs).len()
    }

    fn channel(&self, node: NodeId) -> Option<Arc<Mutex<Channel>>> {
        locked(&self.jobs).get(&node).cloned()
    }

    fn with(&self, node: NodeId, act: impl FnOnce(&mut Channel)) {
        if let Some(channel) = self.channel(node) {
            act(&mut locked(&channel));
        }
    }

    fn tell_all(&self, text: &str) {
        let observers: Vec<_> = locked(&self.clients).values().cloned().collect();
        for observer in observers {
            observer.event(RealiseEvent::Note(text.to_owned()));
        }
    }
}

impl Channel {
    fn tell(&self, event: &RealiseEvent) {
        for (_, observer) in &self.listeners {
            observer.event(event.clone());
        }
    }

    fn replay(&self, observer: &dyn RealiseObserver) {
        let Some(machine) = &self.machine else { return };
        let (derivation, machine) = (self.derivation.clone(), machine.clone());
        observer.event(RealiseEvent::Started { derivation, machine });
        if self.dropped > 0 {
            let text = format!("[{} earlier lines of the log are not kept]", self.dropped);
            observer.event(RealiseEvent::Note(text));
        }
        for line in &self.lines {
            let (derivation, line) = (self.derivation.clone(), line.clone());
            observer.event(RealiseEvent::Line { derivation, line });
        }
        if let Some(phase) = self.phase.clone() {
            let derivation = self.derivation.clone();
            observer.event(RealiseEvent::Phase { derivation, phase });
        }
    }

    fn started(&mut self, machine: String) {
        self.began = Some(SystemTime::now());
        self.machine = Some(machine.clone());
        let derivation = self.derivation.clone();
        self.tell(&RealiseEvent::Started { derivation, machine });
    }

    fn line(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line.clone());
        while self.lines.len() > KEPT_LINES || self.bytes > KEPT_BYTES {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(oldest.len());
            self.dropped += 1;
        }
        let derivation = self.derivation.clone();
        self.tell(&RealiseEvent::Line { derivation, line });
    }

    fn phase(&mut self, phase: String) {
        self.phase = Some(phase.clone());
        let derivation = self.derivation.clone();
        self.tell(&RealiseEvent::Phase { derivation, phase });
    }

    /// It runs no more: who comes now hears nothing of this attempt.
    fn ended(&mut self) {
        if self.machine.take().is_some() {
            let derivation = self.derivation.clone();
            self.tell(&RealiseEvent::Ended { derivation });
        }
        self.phase = None;
        self.lines = VecDeque::new();
        self.bytes = 0;
        self.dropped = 0;
    }
}

impl Observer for Router {
    fn event(&self, event: FleetEvent) {
        match event {
            FleetEvent::Building { node, machine } => self.with(node, |job| job.started(machine)),
            FleetEvent::LogLine { node, line } => self.with(node, |job| job.line(line)),
            FleetEvent::Phase { node, phase } => self.with(node, |job| job.phase(phase)),
            FleetEvent::Built { node, .. }
            | FleetEvent::Found { node, .. }
            | FleetEvent::Unneeded { node }
            | FleetEvent::Failed { node, .. }
            | FleetEvent::Retried { node, .. } => self.with(node, Channel::ended),
            FleetEvent::MachineDown { machine, cause } => {
                self.tell_all(&format!("cannot use '{machine}' for now: {cause}"));
            }
            FleetEvent::Note(text) => self.tell_all(&text),
            FleetEvent::Planned { .. }
            | FleetEvent::Connecting { .. }
            | FleetEvent::Connected { .. }
            | FleetEvent::Assigned { .. }
            | FleetEvent::CopyStarted { .. }
            | FleetEvent::CopyProgress { .. }
            | FleetEvent::CopyEnded { .. } => {}
        }
    }
}
