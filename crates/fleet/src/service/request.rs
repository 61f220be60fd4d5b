//! One client's question, from what the store says to the answer.
//!
//! Dropping it ends the client's interest: nothing of it goes on that nobody else waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use drover_core::{DrvOutput, OutputName, StorePath};
use drover_derivation::Derivation;
use drover_schedule::{JobId, MachineKind, Scope};
use drover_store::{
    BuildFailure, FailureCause, Keeper, RealiseObserver, RealiseSettings, RealiseStatus, Realised,
    StoreError, Substitute,
};
use tokio::sync::oneshot;

use crate::attempts::{Earlier, Mixed};
use crate::fleet::Target;
use crate::ledger;
use crate::places::Places;
use crate::prepare::Work;
use crate::service::bring::{Brought, bring};
use crate::service::engine::{Command, Joining, Learned, Outcome, Reachable, Settled};
use crate::service::router::ClientId;
use crate::service::table::Key;
use crate::service::vanished::Doubts;
use crate::service::{Handle, STOPPING};
use crate::sought::{Sought, ask, sought_of};
use crate::terms::Terms;

/// How long a connected machine may take to say what it has before it isn't waited for.
const ASKING: Duration = Duration::from_secs(1);

/// How often what was built may vanish before it is given up.
const ATTEMPTS: usize = 5;

/// One client's question.
pub(crate) struct Request {
    pub(crate) handle: Arc<Handle>,
    pub(crate) store: Arc<dyn Keeper>,
    pub(crate) settings: RealiseSettings,
    pub(crate) observer: Arc<dyn RealiseObserver>,
}

/// A derivation that is asked for, and what it says.
pub(crate) struct Asked {
    /// Its place in the question.
    pub(crate) at: usize,
    pub(crate) target: Target,
    pub(crate) derivation: Arc<Derivation>,
}

impl Asked {
    /// Returns the names of the outputs that are wanted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &OutputName> {
        let all = self.derivation.outputs.keys();
        all.filter(|name| self.target.outputs.is_empty() || self.target.outputs.contains(*name))
    }
}

/// A client that waits for jobs, until this is dropped.
struct Membership {
    client: ClientId,
    handle: Arc<Handle>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.handle.send(Command::Leave { client: self.client });
    }
}

/// Returns where a client's builds may run: not on this machine where it says `max-jobs = 0`, and on no
/// other where its `builders` is empty.
pub(crate) fn scope_of(settings: &RealiseSettings) -> Scope {
    let said = |name: &str| settings.build.overrides.get(name).map(|value| value.trim());
    let is_let = |kind: &MachineKind| match kind {
        MachineKind::Local => said("max-jobs") != Some("0"),
        MachineKind::Remote => said("builders") != Some(""),
    };
    let kinds = [MachineKind::Local, MachineKind::Remote];
    Scope::of(&kinds.into_iter().filter(is_let).collect())
}

impl Request {
    /// Has jobs built and brings what is wanted of them; answers in the order of `asked`.
    pub(crate) async fn build(
        &self,
        work: Work,
        keys: Vec<Key>,
        asked: &[(Asked, JobId)],
    ) -> Result<Vec<Realised>, StoreError> {
        let (learned, lost) = self.look(&work, &keys).await?;
        let (reply, settled) = oneshot::channel();
        let client = self.handle.new_client();
        let joining = Joining {
            client,
            work,
            keys,
            targets: asked.iter().map(|(_, job)| *job).collect(),
            learned,
            lost,
            store: Arc::clone(&self.store),
            name: self.settings.client.clone(),
            observer: Arc::clone(&self.observer),
            after_failure: self.settings.after_failure,
            terms: Terms::of(&self.settings.build),
            scope: scope_of(&self.settings),
            reply,
        };
        self.handle.send(Command::Join(Box::new(joining)));
        let _membership = Membership { client, handle: Arc::clone(&self.handle) };
        let settled = until_settled(settled, asked.len()).await;
        self.fetch(client, asked, settled).await
    }

    /// Brings what is wanted of what was built; what has vanished meanwhile is built again.
    async fn fetch(
        &self,
        client: ClientId,
        asked: &[(Asked, JobId)],
        mut settled: Settled,
    ) -> Result<Vec<Realised>, StoreError> {
        let mut earlier = Earlier::among(&self.handle.halves);
        let mut attempts = 0;
        while attempts < ATTEMPTS {
            let wanted = wanted(asked, &settled);
            let brought = tokio::select! {
                brought = bring(&self.handle, &self.store, &wanted, &mut earlier) => brought?,
                () = self.handle.stopped.cancelled() => Brought::Failed(STOPPING.to_owned()),
            };
            match brought {
                Brought::All => {
                    let answers = answers(asked, settled);
                    self.remember(asked, &answers).await?;
                    return Ok(answers);
                }
                Brought::Failed(message) => return Ok(unfetched(asked, settled, &message)),
                Brought::Mixed(mixed) => {
                    let places = &self.handle.shared.places;
                    let concerned = give_up_mixed(places, asked, &mut settled, &mixed);
                    // what it is that refers to it is unknown only where it has vanished meanwhile
                    attempts += usize::from(concerned == 0);
                }
                Brought::Lost(lost) => {
                    attempts += 1;
                    let (reply, again) = oneshot::channel();
                    self.handle.send(Command::Again { client, lost, reply });
                    settled = until_settled(again, asked.len()).await;
                }
            }
        }
        Ok(unfetched(asked, settled, "what was built has vanished time after time"))
    }

    /// Registers what outputs became whose paths don't follow from their derivations. Those of impure
    /// ones are another each time.
    async fn remember(
        &self,
        asked: &[(Asked, JobId)],
        answers: &[Realised],
    ) -> Result<(), StoreError> {
        for ((asked, _), answer) in asked.iter().zip(answers) {
            let unnamed = ledger::is_kept(&asked.derivation);
            // one that a client brought along needn't be here
            if !unnamed || answer.outputs.is_empty() || !self.is_here(asked).await? {
                continue;
            }
            let hash = self.store.realisation_hash(&asked.target.derivation).await?;
            for (name, path) in &answer.outputs {
                let Ok(output) = name.parse() else { continue };
                let id = DrvOutput { hash: hash.clone(), output };
                ledger::register(&*self.store, id, path.clone()).await?;
            }
        }
        Ok(())
    }

    async fn is_here(&self, asked: &Asked) -> Result<bool, StoreError> {
        let derivation = BTreeSet::from([asked.target.derivation.clone()]);
        Ok(!self.store.hold_valid(&derivation, Substitute::No).await?.is_empty())
    }

    /// Asks the connected machines what they have of inputs, so that it isn't sent again, and of
    /// outputs, so that these aren't built again; a slow one isn't waited for. And looks what the store
    /// doesn't have any more of what was built into it.
    async fn look(
        &self,
        work: &Work,
        keys: &[Key],
    ) -> Result<(Vec<Learned>, BTreeSet<StorePath>), StoreError> {
        let (reply, doubts) = oneshot::channel();
        self.handle.send(Command::Look { keys: keys.to_vec(), reply });
        let Doubts { machines, made_here } = doubts.await.unwrap_or_default();
        let asking = machines.into_iter().map(|machine| self.ask_machine(machine, work));
        let learned = futures::future::join_all(asking).await.into_iter().flatten().collect();
        let lost = match made_here.is_empty() {
            true => BTreeSet::new(),
            false => {
                let valid = self.store.hold_valid(&made_here, Substitute::No).await?;
                made_here.difference(&valid).cloned().collect()
            }
        };
        Ok((learned, lost))
    }

    async fn ask_machine(&self, on: Reachable, work: &Work) -> Option<Learned> {
        let Reachable { machine, description, generation, site } = on;
        let place = self.handle.shared.place_of(machine);
        let unknown: BTreeSet<StorePath> = work
            .infos
            .iter()
            .map(|info| &info.path)
            .filter(|path| !self.handle.shared.places.is_at(path, place))
            .cloned()
            .collect();
        let sought = match description.kind {
            MachineKind::Local => Sought::default(),
            MachineKind::Remote => sought_of(&description, work.jobs.iter()),
        };
        if unknown.is_empty() && sought.is_empty() {
            return None;
        }
        let asked = tokio::time::timeout(ASKING, ask(site.as_ref(), &unknown, &sought)).await;
        // one that can't answer finds that out when it's used
        let (valid, found) = asked.ok()?.ok()?;
        Some(Learned { machine, generation, valid, found })
    }
}

/// Waits for what became of targets. A service that has ended says so of each.
async fn until_settled(settled: oneshot::Receiver<Settled>, targets: usize) -> Settled {
    settled.await.unwrap_or_else(|_| {
        let stopping = BuildFailure::new(FailureCause::Passing, STOPPING);
        vec![Outcome::Failed(stopping); targets]
    })
}

/// Returns the outputs that are wanted of an answer.
fn of_target(
    asked: &Asked,
    outputs: &BTreeMap<OutputName, StorePath>,
) -> BTreeMap<String, StorePath> {
    let named = asked.names().filter_map(|name| Some((name.to_string(), outputs.get(name)?)));
    named.map(|(name, path)| (name, path.clone())).collect()
}

fn wanted(asked: &[(Asked, JobId)], settled: &Settled) -> BTreeSet<StorePath> {
    let both = asked.iter().zip(settled);
    let built = both.filter_map(|((asked, _), outcome)| match outcome {
        Outcome::Built { outputs, .. } => Some(of_target(asked, outputs)),
        Outcome::Failed(_) => None,
    });
    built.flat_map(BTreeMap::into_values).collect()
}

/// Has those targets fail whose wanted outputs are, or refer to, what doesn't belong to what is here. Returns how
/// many.
fn give_up_mixed(
    places: &Places,
    asked: &[(Asked, JobId)],
    settled: &mut Settled,
    mixed: &Mixed,
) -> usize {
    let mut concerned = 0;
    for ((asked, _), outcome) in asked.iter().zip(settled) {
        let Outcome::Built { outputs, .. } = outcome else { continue };
        if of_target(asked, outputs).values().any(|path| mixed.concerns(places, path)) {
            let cause = FailureCause::NotDeterministic;
            *outcome = Outcome::Failed(BuildFailure::new(cause, mixed.to_string()));
            concerned += 1;
        }
    }
    concerned
}

fn answers(asked: &[(Asked, JobId)], settled: Settled) -> Vec<Realised> {
    let both = asked.iter().zip(settled);
    let answer = both.map(|((asked, _), outcome)| match outcome {
        Outcome::Built { outputs, period } => Realised {
            status: RealiseStatus::Built,
            message: String::new(),
            outputs: of_target(asked, &outputs),
            period,
        },
        Outcome::Failed(failure) => failure.into(),
    });
    answer.collect()
}

/// Returns the answers where what was built could not be had.
fn unfetched(asked: &[(Asked, JobId)], settled: Settled, why: &str) -> Vec<Realised> {
    let mut answers = answers(asked, settled);
    for answer in answers.iter_mut().filter(|answer| answer.status == RealiseStatus::Built) {
        *answer = Realised::failed(FailureCause::Passing, why);
    }
    answers
}
