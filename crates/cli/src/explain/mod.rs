//! `drover explain`: whether builds are distributed, and why not, before anything is built.

mod hurried;
mod json;
mod probe;
mod remedy;
mod text;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use drover_fleet::{BuildError, Fleet, MachineSpec, OtherMachines, Plan, Silent};
use drover_forecast::{Availability, Candidate, Forecast, Group, Unusable, forecast, groups};
use drover_schedule::{Job, MachineKind, Settings};
use drover_store::{FetchObserver, Keeper, Store};

use crate::arguments::ExplainArguments;
use crate::asked::{Asked, evaluate};
use crate::build::{fleet_options, through_daemon};
use crate::builders::{MachineList, machines, substitute};
use crate::configuration::Configuration;
use crate::connector::Connector;
use crate::exit::{ExitStatus, Interrupted};
use crate::local_store::LocalStore;
use crate::progress::FetchFollower;
use crate::signals::Signals;
use crate::substituters;
use crate::terminal::{Terminal, Verbosity};
use crate::{own_builder, own_store};

use self::hurried::hurry;
use self::probe::{Probe, Probing};

/// All that is told.
struct Told {
    /// The whole paths of the derivations that would be built.
    derivations: Vec<String>,
    /// Paths that would be fetched from substituters.
    fetched: usize,
    candidates: Vec<Candidate>,
    forecast: Forecast,
    groups: Vec<Group>,
    /// Why there are not more machines.
    absent: Vec<String>,
    /// Systems that this machine would build for, if it weren't told not to.
    idle_here: BTreeSet<String>,
    /// Which substituters could not be asked, and why.
    unasked: Vec<String>,
}

/// Says where builds would run, and why not elsewhere.
pub(crate) async fn explain(
    arguments: ExplainArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let signals = Signals::watch().context("cannot wait for signals")?;
    let told = tokio::select! {
        told = find_out(&arguments, terminal) => told?,
        () = signals.first.cancelled() => return Err(Interrupted.into()),
    };
    match arguments.json {
        true => terminal.print(&json::told(&told).to_string())?,
        false => {
            let naming = match terminal.verbosity >= Verbosity::Verbose {
                true => text::Naming::All,
                false => text::Naming::Some,
            };
            terminal.print(&text::told(&told, naming))?;
        }
    }
    Ok(match text::Counts::of(&told).nowhere {
        0 => ExitStatus::SUCCESS,
        _ => ExitStatus::GENERAL,
    })
}

async fn find_out(arguments: &ExplainArguments, terminal: &Terminal) -> anyhow::Result<Told> {
    let overrides = [arguments.settings.overrides(), arguments.building.overrides()].concat();
    let configuration = Configuration::load_beside_nix(&overrides, terminal)?;
    let local = LocalStore::choose(&configuration)?;
    let connector = Connector::new(&configuration)?;
    let fetches = Arc::new(FetchFollower::new(terminal));
    let follower = Arc::clone(&fetches) as Arc<dyn FetchObserver>;
    let mut sources = substituters::sources(&configuration, Some(follower));
    let unasked = hurry(&mut sources.substituters, patience(&configuration));
    let own = own_store::for_building(&configuration, &local, sources, terminal)?.map(Arc::new);
    let list = machines(&configuration, &connector, &local, own.as_ref(), terminal)?;
    let keeper: Arc<dyn Keeper> = match own {
        Some(store) => store,
        None => through_daemon(&configuration, &connector, &local, &fetches)?,
    };
    let store: Arc<dyn Store> = keeper.clone();
    let options =
        fleet_options(&arguments.building, &configuration, substitute(&configuration.settings))?;
    let settings = Settings { policy: options.policy, ..Settings::default() };
    let fleet = Fleet::new(Arc::clone(&store), list.machines.clone(), options, Arc::new(Silent))
        .with_ledger(keeper);
    let planning = async {
        let roots = tempfile::tempdir().context("cannot make a temporary folder")?;
        let current_dir = &configuration.host.environment.current_dir;
        let folders = (current_dir.as_path(), roots.path());
        let asked = Asked {
            source: &arguments.source,
            settings: &arguments.settings,
            building: &arguments.building,
            configuration: &configuration,
        };
        let (targets, graph) = evaluate(asked, &local, &*store, folders, terminal).await?;
        anyhow::Ok(fleet.plan(graph, &targets).await?)
    };
    let probing = match arguments.no_connect {
        true => Probing::AskDaemon,
        false => Probing::Connect,
    };
    let probe = Probe { configuration: &configuration, probing };
    let (plan, availabilities) = tokio::join!(planning, probe.all(&list.machines));
    let plan = plan?;
    let candidates = candidates(&list.machines, availabilities, plan.other_machines);
    let absent = absent(list, &configuration);
    let told = told(plan, candidates, &settings, absent, |path| store.store_dir().display(path));
    let idle_here = match configuration.settings.max_jobs.resolve(crate::host::processors()) {
        0 => own_builder::systems(&configuration),
        _ => BTreeSet::new(),
    };
    Ok(Told { unasked: unasked.sentences(), idle_here, ..told })
}

/// How long a substituter may take to answer where `connect-timeout` says nothing.
const PATIENCE: Duration = Duration::from_secs(5);

fn patience(configuration: &Configuration) -> Duration {
    match configuration.conf.raw("connect-timeout") {
        Some(_) => configuration.connect_timeout(),
        None => PATIENCE,
    }
}

/// Returns machines with whether they can be used, the store among what is asked.
fn candidates(
    machines: &[MachineSpec],
    availabilities: Vec<Availability>,
    others: OtherMachines,
) -> Vec<Candidate> {
    let both = machines.iter().zip(availabilities);
    let candidates = both.map(|(machine, availability)| Candidate {
        availability: match (others, machine.description.kind) {
            (OtherMachines::Distrusted, MachineKind::Remote) => {
                let cause = BuildError::LocalStoreDistrusts.to_string();
                Availability::Unusable(Unusable::Distrusted { cause })
            }
            _ => availability,
        },
        description: machine.description.clone(),
    });
    candidates.collect()
}

/// Says why there are not more machines.
fn absent(list: MachineList, configuration: &Configuration) -> Vec<String> {
    let mut absent = list.absent;
    if !list.machines.iter().any(|machine| machine.description.kind == MachineKind::Local) {
        absent.push(match configuration.settings.max_jobs.resolve(crate::host::processors()) {
            0 => "this machine isn't used, as max-jobs is 0".to_owned(),
            _ => "this machine can't build into this store".to_owned(),
        });
    }
    absent
}

fn told(
    plan: Plan,
    candidates: Vec<Candidate>,
    settings: &Settings,
    absent: Vec<String>,
    whole: impl Fn(&drover_core::StorePath) -> String,
) -> Told {
    let derivations = plan.jobs.iter().map(|planned| whole(&planned.derivation)).collect();
    let jobs: Vec<Job> = plan.jobs.into_iter().map(|planned| planned.job).collect();
    let forecast = forecast(settings, &candidates, &jobs);
    let groups = groups(&jobs, &candidates, &forecast);
    let fetched = plan.substitute.len();
    Told {
        derivations,
        fetched,
        candidates,
        forecast,
        groups,
        absent,
        unasked: Vec::new(),
        idle_here: BTreeSet::new(),
    }
}
