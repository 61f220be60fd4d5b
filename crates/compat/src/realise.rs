//! Making paths valid, and what the user sees of it.
//!
//! Texts and order follow `printMissing` (`src/libmain/shared.cc`) and `Store::buildPaths`
//! (`src/libstore/build/entry-points.cc`) of Nix.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drover_core::{StoreDir, StorePath};
use drover_store::{
    AfterFailure, BuildMode, BuildSettings, FailureCause, FetchEvent, FetchObserver, Keeper,
    MissingPaths, RealiseEvent, RealiseObserver, RealiseSettings, RealiseStatus, Realised,
    Realiser, Substitute, THIS_MACHINE, Wanted, exit_code,
};
use tokio::sync::mpsc;

use crate::closure::sorted_paths;
use crate::console::Console;
use crate::error::{CompatError, told};
use crate::exit::ExitStatus;
use crate::host::{Host, HostSettings, Switch};
use crate::json_log::{self, Activities};
use crate::options::{BuildOutput, LogFormat, Options, Verbosity};
use crate::size::render_size;

/// Events that may wait to be shown.
const QUEUE: usize = 1 << 16;

/// Events that are shown at once: builds may say a hundred thousand lines in a second, and each time
/// that something is written costs as much as a hundred of them.
const AT_ONCE: usize = 1024;

/// What paths are made valid with.
pub(crate) struct Work<'a> {
    options: &'a Options,
    store: Arc<dyn Keeper>,
    settings: HostSettings,
    realiser: Arc<dyn Realiser>,
}

impl<'a> Work<'a> {
    pub(crate) async fn new(
        host: &dyn Host,
        options: &'a Options,
        store: Arc<dyn Keeper>,
    ) -> Result<Work<'a>, CompatError> {
        let settings = host.settings(options)?;
        let realiser = host.realiser(options).await?;
        Ok(Work { options, store, settings, realiser })
    }

    /// Returns what would have to be done.
    pub(crate) async fn missing(&self, wanted: Vec<Wanted>) -> Result<MissingPaths, CompatError> {
        Ok(self.realiser.missing(self.store.clone(), wanted, self.substitute()).await?)
    }

    fn substitute(&self) -> Substitute {
        match self.settings.settings.substitute {
            true => Substitute::Yes,
            false => Substitute::No,
        }
    }

    /// Tells what would have to be done, unless the settings say not to.
    pub(crate) async fn print_missing(
        &self,
        missing: &MissingPaths,
        console: &mut Console,
    ) -> Result<(), CompatError> {
        if self.settings.switch("print-missing", Switch::On) == Switch::Off {
            return Ok(());
        }
        let lines = missing_lines(&*self.store, missing).await?;
        let lines: Vec<_> = lines.into_iter().map(|line| (Verbosity::INFO, line)).collect();
        console.say_all(&lines).await
    }

    /// Makes paths valid, and shows what happens.
    ///
    /// # Errors
    ///
    /// [`CompatError::Build`] if any isn't valid in the end; all failures have been told then.
    pub(crate) async fn realise(
        &self,
        wanted: Vec<Wanted>,
        mode: BuildMode,
        console: &mut Console,
    ) -> Result<(), CompatError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let (sender, mut events) = mpsc::channel(QUEUE);
        let observer = Arc::new(Observer {
            sender,
            form: console.form(),
            lost: AtomicU64::new(0),
            causes: Mutex::default(),
        });
        let store = self.store.clone();
        self.store.follow_fetches(Arc::clone(&observer) as _);
        let mut work =
            self.realiser.realise(store, wanted.clone(), self.settings(mode), observer.clone());
        let mut batch = Vec::new();
        let mut activities = Activities::new(std::process::id());
        let results = loop {
            tokio::select! {
                biased;
                1.. = events.recv_many(&mut batch, AT_ONCE) => self.show(&mut batch, &mut activities, console).await?,
                results = &mut work => break results?,
            }
        };
        drop(work);
        while let Ok(event) = events.try_recv() {
            batch.push(event);
            if AT_ONCE <= batch.len() {
                self.show(&mut batch, &mut activities, console).await?;
            }
        }
        self.show(&mut batch, &mut activities, console).await?;
        match observer.lost.load(Ordering::Relaxed) {
            0 => {}
            lost => {
                console.warn(&format!("{lost} lines of builds came too fast to be shown")).await?
            }
        }
        let causes = std::mem::take(&mut *observer.causes());
        self.judge(&wanted, results, causes, console).await
    }

    fn settings(&self, mode: BuildMode) -> RealiseSettings {
        let settings = &self.settings.settings;
        let overrides = self.options.overrides.iter();
        let overrides = overrides.map(|o| (o.name.clone(), o.value.clone()));
        let fallback = settings.fallback.then(|| ("fallback".to_owned(), "true".to_owned()));
        RealiseSettings {
            mode,
            after_failure: match settings.keep_going {
                true => AfterFailure::KeepGoing,
                false => AfterFailure::Stop,
            },
            substitute: self.substitute(),
            build: BuildSettings {
                timeout: settings.timeout,
                max_silent_time: settings.max_silent_time,
                cores: Some(settings.cores),
                usual_cores: settings.cores,
                keep_failed: settings.keep_failed,
                overrides: fallback.into_iter().chain(overrides).collect(),
            },
            client: None,
        }
    }

    /// Shows what has happened, all at once.
    async fn show(
        &self,
        events: &mut Vec<RealiseEvent>,
        activities: &mut Activities,
        console: &mut Console,
    ) -> Result<(), CompatError> {
        if console.form() == LogFormat::Json {
            let told = events.drain(..).filter_map(|event| {
                let activity = activities.line(&event, self.store.store_dir());
                activity.or_else(|| {
                    let (level, line) = self.line_of(event)?;
                    (level <= self.options.verbosity).then(|| json_log::message(level, &line))
                })
            });
            let told: Vec<String> = told.collect();
            return console.tell_programs(&told).await;
        }
        let lines: Vec<(Verbosity, String)> =
            events.drain(..).filter_map(|event| self.line_of(event)).collect();
        console.say_all(&lines).await
    }

    fn line_of(&self, event: RealiseEvent) -> Option<(Verbosity, String)> {
        let shown = |path: &StorePath| self.store.store_dir().display(path);
        match event {
            RealiseEvent::Started { derivation, machine } => {
                let place = match machine.as_str() {
                    "" | THIS_MACHINE => String::new(),
                    machine => format!(" on '{machine}'"),
                };
                let line = format!("building '{}'{place}...", shown(&derivation));
                Some((Verbosity::INFO, line))
            }
            RealiseEvent::Line { derivation, line }
                if self.options.build_output == BuildOutput::Shown =>
            {
                let line = match self.options.log_format {
                    LogFormat::NamedLogs => {
                        format!("{}> {line}", derivation.name().trim_end_matches(".drv"))
                    }
                    LogFormat::Words | LogFormat::Json => line,
                };
                Some((Verbosity::ERROR, line))
            }
            RealiseEvent::Note(text) => Some((Verbosity::INFO, text)),
            RealiseEvent::Waiting { derivation, reason } => {
                let line = match reason.as_str() {
                    "" => format!("'{}' waits for a machine", shown(&derivation)),
                    _ => format!("'{}' waits: {reason}", shown(&derivation)),
                };
                Some((Verbosity::TALKATIVE, line))
            }
            RealiseEvent::Fetch(FetchEvent::Started { path, substituter, .. }) => {
                let line = format!("copying path '{}' from '{substituter}'...", shown(&path));
                Some((Verbosity::INFO, line))
            }
            RealiseEvent::Line { .. }
            | RealiseEvent::Fetch(_)
            | RealiseEvent::Phase { .. }
            | RealiseEvent::Ended { .. }
            | RealiseEvent::Failed { .. } => None,
        }
    }

    /// Tells the failures as Nix does: one is the error itself; of several, each is told, and the
    /// error says which builds failed.
    async fn judge(
        &self,
        wanted: &[Wanted],
        results: Vec<Realised>,
        causes: BTreeSet<FailureCause>,
        console: &mut Console,
    ) -> Result<(), CompatError> {
        let mut failed: Vec<(&Wanted, &Realised)> =
            wanted.iter().zip(&results).filter(|(_, result)| !result.status.is_success()).collect();
        // what was given up because of another failure is none itself
        let itself =
            |result: &Realised| result.status != RealiseStatus::Failed(FailureCause::Cancelled);
        if failed.iter().any(|(_, result)| itself(result)) {
            failed.retain(|(_, result)| itself(result));
        }
        let of_wanted = failed.iter().filter_map(|(_, result)| result.status.failure());
        let status = ExitStatus(exit_code(of_wanted.chain(causes)));
        match failed.as_slice() {
            [] => Ok(()),
            [(wanted, result)] => {
                let message = match result.message.as_str() {
                    "" => format!("build of {} failed", quoted(self.store.store_dir(), wanted)),
                    message => message.to_owned(),
                };
                Err(CompatError::Build { message, status })
            }
            several => {
                let mut already = BTreeSet::new();
                for (_, result) in several {
                    if !result.message.is_empty() && already.insert(&result.message) {
                        let line = told(&result.message);
                        console.say(Verbosity::ERROR, line.trim_end()).await?;
                    }
                }
                let paths: BTreeSet<String> = several
                    .iter()
                    .map(|(wanted, _)| quoted(self.store.store_dir(), wanted))
                    .collect();
                let paths: Vec<String> = paths.into_iter().collect();
                let message = format!("build of {} failed", paths.join(", "));
                Err(CompatError::Build { message, status })
            }
        }
    }
}

fn quoted(store_dir: &StoreDir, wanted: &Wanted) -> String {
    let (Wanted::Path(path) | Wanted::AllOutputs(path) | Wanted::Outputs(path, _)) = wanted;
    format!("'{}'", store_dir.display(path))
}

/// Returns what Nix prints of what is missing.
async fn missing_lines(
    store: &dyn Keeper,
    missing: &MissingPaths,
) -> Result<Vec<String>, CompatError> {
    let shown = |path: &StorePath| format!("  {}", store.store_dir().display(path));
    let mut lines = Vec::new();
    if !missing.build.is_empty() {
        lines.push(match missing.build.len() {
            1 => "this derivation will be built:".to_owned(),
            count => format!("these {count} derivations will be built:"),
        });
        let sorted = sorted_paths(store, missing.build.clone()).await?;
        lines.extend(sorted.iter().map(shown));
    }
    if !missing.substitute.is_empty() {
        let sizes = format!(
            "{} download, {} unpacked",
            render_size(missing.download_size),
            render_size(missing.nar_size)
        );
        lines.push(match missing.substitute.len() {
            1 => format!("this path will be fetched ({sizes}):"),
            count => format!("these {count} paths will be fetched ({sizes}):"),
        });
        let mut sorted: Vec<&StorePath> = missing.substitute.iter().collect();
        sorted.sort_by_key(|path| (path.name(), path.base_name()));
        lines.extend(sorted.into_iter().map(shown));
    }
    if !missing.unknown.is_empty() {
        lines.push("don't know how to build these paths:".to_owned());
        lines.extend(missing.unknown.iter().map(shown));
    }
    Ok(lines)
}

impl FetchObserver for Observer {
    fn event(&self, event: FetchEvent) {
        RealiseObserver::event(self, RealiseEvent::Fetch(event));
    }
}

/// Passes events on without waiting; those for which there is no room are counted.
struct Observer {
    sender: mpsc::Sender<RealiseEvent>,
    form: LogFormat,
    lost: AtomicU64,
    /// Why derivations have failed, also those that what was wanted only depends on.
    causes: Mutex<BTreeSet<FailureCause>>,
}

impl Observer {
    fn causes(&self) -> MutexGuard<'_, BTreeSet<FailureCause>> {
        self.causes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RealiseObserver for Observer {
    fn event(&self, event: RealiseEvent) {
        if let RealiseEvent::Failed { cause, .. } = &event {
            self.causes().insert(*cause);
        }
        // how far each path has come is only for programs
        let is_progress = matches!(event, RealiseEvent::Fetch(FetchEvent::Progress { .. }));
        if is_progress && self.form != LogFormat::Json {
            return;
        }
        if self.sender.try_send(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
