//! `drover build`: from what the user names to results in the local store.

use std::convert::Infallible;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use drover_build_local::PostBuildHook;
use drover_fleet::{
    BuildError, CopyBack, DryRun, Fallback, Fleet, FleetOptions, Graph, JobFailureReport, Observer,
    Report, Target,
};
use drover_schedule::{Policy, Rounding};
use drover_store::{AfterFailure, FetchObserver, Keeper, Store, Substitute};
use drover_store_remote::Address;
use tokio_util::sync::CancellationToken;

use crate::after_build::{BuiltElsewhere, run_for_nodes};
use crate::arguments::{BuildArguments, BuildingArguments, PolicyArgument, ResultArguments};
use crate::asked::{Asked, evaluate};
use crate::builders::{MachineList, machines, substitute};
use crate::configuration::Configuration;
use crate::connector::Connector;
use crate::exit::{ExitStatus, Interrupted};
use crate::local_store::LocalStore;
use crate::output_trust::output_trust;
use crate::progress::{FetchFollower, GraphNames, Progress, Screen};
use crate::rebuild::{Rebuild, Rebuilder};
use crate::signals::Signals;
use crate::terminal::Terminal;
use crate::{detach, failures, json, out_link, summary, units};
use crate::{own_builder, own_store, substituters};

/// The longest end of a log that is kept for each failure.
const LOG_LINES: u64 = 10_000;

/// Builds what the arguments name.
pub(crate) async fn build(
    arguments: BuildArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let signals = Signals::watch().context("cannot wait for signals")?;
    let building = async {
        match arguments.detach {
            true => unless_cancelled(&signals.first, detach::detach(&arguments, terminal)).await?,
            false => build_until(&signals.first, arguments, terminal).await,
        }
    };
    tokio::select! {
        outcome = building => outcome,
        // folders, programs and connections go with what is dropped here
        () = signals.second.cancelled() => Err(Interrupted.into()),
    }
}

async fn build_until(
    cancel: &CancellationToken,
    arguments: BuildArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let overrides = [arguments.settings.overrides(), arguments.building.overrides()].concat();
    let configuration = Configuration::load_beside_nix(&overrides, terminal)?;
    let local = LocalStore::choose(&configuration)?;
    let connector = Connector::new(&configuration)?;
    let fetches = Arc::new(FetchFollower::new(terminal));
    let sources = substituters::sources(&configuration, Some(Arc::clone(&fetches) as _));
    let own = own_store::for_building(&configuration, &local, sources, terminal)?.map(Arc::new);
    let machines = machines(&configuration, &connector, &local, own.as_ref(), terminal)?;
    let substitute = substitute(&configuration.settings);
    let rebuilder = arguments.building.rebuild.then(|| match &own {
        Some(_) => Rebuilder::own(&machines, &configuration),
        None => Rebuilder::daemon(&configuration, &connector, &local),
    });
    // what a daemon of somebody else's builds and takes in is that daemon's
    let hook = match &own {
        Some(_) => own_builder::post_build_hook(&configuration.conf)?,
        None => None,
    };
    let keeper: Arc<dyn Keeper> = match own {
        Some(store) => store,
        None => through_daemon(&configuration, &connector, &local, &fetches)?,
    };
    let store: Arc<dyn Store> = keeper.clone();
    let current_dir = &configuration.host.environment.current_dir;
    // the roots of what is evaluated live as long as this
    let roots = tempfile::tempdir().context("cannot make a temporary folder")?;
    let asked = Asked::of(&arguments, &configuration);
    let evaluating = evaluate(asked, &local, &*store, (current_dir, roots.path()), terminal);
    let (targets, graph) = unless_cancelled(cancel, evaluating).await??;
    let options = fleet_options(&arguments.building, &configuration, substitute)?;
    let run = Run { store, keeper, fetches, machines, options, hook, graph, targets, terminal };
    if arguments.building.dry_run {
        return run.dry_run(&arguments.results, cancel).await;
    }
    let report = match &rebuilder {
        Some(rebuilder) => run.rebuild(rebuilder, cancel).await?,
        None => run.build(cancel.clone()).await?,
    };
    let link = wanted_link(&arguments.results, &local, current_dir);
    run.conclude(&report, &arguments.results, link.as_deref()).await
}

/// Opens the local store by way of its daemon, and has `fetches` follow what that fetches.
pub(crate) fn through_daemon(
    configuration: &Configuration,
    connector: &Connector,
    local: &LocalStore,
    fetches: &Arc<FetchFollower>,
) -> anyhow::Result<Arc<dyn Keeper>> {
    local.require_program(&configuration.host)?;
    let store = connector.open_local(local, &configuration.local_settings());
    let follower = Arc::clone(fetches) as Arc<dyn FetchObserver>;
    Ok(Arc::new(store.with_fetches(follower)))
}

/// Returns the link that shall lead to what was built, if one shall.
fn wanted_link(
    arguments: &ResultArguments,
    local: &LocalStore,
    current_dir: &Path,
) -> Option<PathBuf> {
    // a link to a path on another machine would lead nowhere
    let is_here = !matches!(local.address, Address::Ssh(..));
    (is_here && !arguments.no_link).then(|| current_dir.join(&arguments.out_link))
}

/// Returns how a fleet is to work.
pub(crate) fn fleet_options(
    building: &BuildingArguments,
    configuration: &Configuration,
    substitute: Substitute,
) -> anyhow::Result<FleetOptions> {
    let settings = &configuration.settings;
    Ok(FleetOptions {
        keep_going: settings.keep_going,
        substitute,
        fallback: match settings.fallback {
            true => Fallback::Build,
            false => Fallback::Fail,
        },
        copy_back: match building.copy_all_outputs {
            true => CopyBack::Everything,
            false => CopyBack::Wanted,
        },
        outputs: output_trust(configuration)?,
        log_lines: usize::try_from(settings.log_lines.min(LOG_LINES)).unwrap_or(usize::MAX),
        policy: match building.policy {
            PolicyArgument::EarliestFinish => Policy::EarliestFinish,
            PolicyArgument::Stock => Policy::Stock { rounding: Rounding::Float },
        },
    })
}

/// Waits for something unless the user ends it all before.
async fn unless_cancelled<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = T>,
) -> Result<T, Interrupted> {
    tokio::select! {
        outcome = work => Ok(outcome),
        () = cancel.cancelled() => Err(Interrupted),
    }
}

/// Everything that a run needs.
struct Run<'a> {
    store: Arc<dyn Store>,
    keeper: Arc<dyn Keeper>,
    fetches: Arc<FetchFollower>,
    machines: MachineList,
    options: FleetOptions,
    /// What runs for what was built elsewhere and is here in the end.
    hook: Option<PostBuildHook>,
    graph: Arc<Graph>,
    targets: Vec<Target>,
    terminal: &'a Terminal,
}

impl Run<'_> {
    /// Builds, and shows progress meanwhile.
    async fn build(&self, cancel: CancellationToken) -> anyhow::Result<Report> {
        let screen = self.screen()?;
        let _shown = Shown(Arc::clone(&screen));
        let elsewhere = Arc::new(BuiltElsewhere::new(Arc::clone(&screen) as Arc<dyn Observer>));
        let fleet = self.fleet(Arc::clone(&elsewhere) as Arc<dyn Observer>);
        let building = fleet.build(Arc::clone(&self.graph), self.targets.clone(), cancel.clone());
        let outcome = tokio::select! {
            outcome = building => outcome,
            never = say_when_cancelled(&cancel, &screen) => match never {},
        };
        if let Some(builder) = &self.machines.builder {
            // what was killed here is gone before this ends, and so are its folders
            builder.ended().await;
        }
        match outcome {
            Ok(mut report) => {
                if let Some(hook) = &self.hook {
                    let (store, nodes) = (&*self.keeper, elsewhere.take());
                    let hooks = run_for_nodes(hook, store, &self.graph, nodes, &*screen);
                    report.failures.extend(unless_cancelled(&cancel, hooks).await??);
                }
                Ok(report)
            }
            Err(BuildError::Cancelled) => Err(Interrupted.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns what shows progress, on all machines.
    fn screen(&self) -> anyhow::Result<Arc<Screen>> {
        let slots = self.machines.machines.iter().map(|machine| {
            let description = &machine.description;
            (description.name.clone(), description.all_slots())
        });
        let names = Box::new(GraphNames {
            graph: Arc::clone(&self.graph),
            store_dir: self.store.store_dir().clone(),
        });
        let screen = Screen::start(Progress::new(slots), names, self.terminal)
            .context("cannot start to show progress")?;
        let screen = Arc::new(screen);
        self.fetches.show_on(&screen);
        Ok(screen)
    }

    /// Builds what is valid once more, and shows progress meanwhile.
    async fn rebuild(
        &self,
        rebuilder: &Rebuilder,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Report> {
        let screen = self.screen()?;
        let _shown = Shown(Arc::clone(&screen));
        let rebuild = Rebuild {
            rebuilder,
            store: Arc::clone(&self.keeper),
            graph: Arc::clone(&self.graph),
            targets: &self.targets,
            substitute: self.options.substitute,
            keep_going: match self.options.keep_going {
                true => AfterFailure::KeepGoing,
                false => AfterFailure::Stop,
            },
        };
        let rebuilding = rebuild.run(Arc::clone(&screen) as Arc<dyn Observer>);
        let outcome = tokio::select! {
            outcome = rebuilding => outcome,
            () = cancel.cancelled() => Err(Interrupted.into()),
        };
        rebuilder.end().await;
        if let Some(builder) = &self.machines.builder {
            builder.ended().await;
        }
        outcome
    }

    fn fleet(&self, observer: Arc<dyn Observer>) -> Fleet {
        let store = Arc::clone(&self.store);
        Fleet::new(store, self.machines.machines.clone(), self.options.clone(), observer)
            .with_ledger(Arc::clone(&self.keeper))
    }

    /// Says what would be done.
    async fn dry_run(
        &self,
        results: &ResultArguments,
        cancel: &CancellationToken,
    ) -> anyhow::Result<ExitStatus> {
        let fleet = self.fleet(Arc::new(drover_fleet::Silent));
        let planning = fleet.dry_run(Arc::clone(&self.graph), self.targets.clone());
        let DryRun { build, substitute } = unless_cancelled(cancel, planning).await??;
        let store_dir = self.store.store_dir();
        for (paths, noun, fate) in
            [(&build, "derivation", "built"), (&substitute, "path", "fetched")]
        {
            if !paths.is_empty() {
                self.terminal.info(&format!("{} will be {fate}:", units::count(paths.len(), noun)));
            }
            for path in paths {
                self.terminal.info(&format!("  {}", store_dir.display(path)));
            }
        }
        if results.json {
            let planned = json::planned(&self.targets, &self.graph, store_dir);
            self.terminal.print(&planned.to_string())?;
        }
        Ok(ExitStatus::SUCCESS)
    }

    /// Tells how it went, and hands out the results, with links where they are wanted.
    async fn conclude(
        &self,
        report: &Report,
        results: &ResultArguments,
        link: Option<&Path>,
    ) -> anyhow::Result<ExitStatus> {
        let store_dir = self.store.store_dir();
        for line in summary::summary(report) {
            self.terminal.info(&line);
        }
        let failed = report.targets.iter().filter_map(|target| target.outcome.as_ref().err());
        let failed: Vec<&JobFailureReport> = failed.map(AsRef::as_ref).collect();
        let MachineList { absent, logs, .. } = &self.machines;
        let around = failures::Around { store_dir, absent, logs };
        for text in failures::explain(&report.failures, failed.iter().copied(), &around) {
            self.terminal.error(&text);
        }
        if !failed.is_empty() || !report.failures.is_empty() {
            let failures = report.failures.iter().chain(failed.iter().copied());
            return Ok(ExitStatus::of_failures(failures.map(|failure| failure.cause)));
        }
        if let Some(link) = link {
            out_link::make_links(link, &report.targets, &*self.store, self.terminal).await?;
        }
        if results.json {
            self.terminal.print(&json::built(&report.targets, store_dir).to_string())?;
        }
        if results.print_out_paths {
            for path in report.targets.iter().flat_map(|target| target.outcome.iter().flatten()) {
                self.terminal.print(&store_dir.display(path.1))?;
            }
        }
        Ok(ExitStatus::SUCCESS)
    }
}

/// Ends what is shown, also where the run is given up.
struct Shown(Arc<Screen>);

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// Says that the end has begun, which may take a moment.
async fn say_when_cancelled(cancel: &CancellationToken, screen: &Screen) -> Infallible {
    cancel.cancelled().await;
    screen.say("interrupted: ending builds on all machines (once more to leave at once)");
    std::future::pending().await
}
