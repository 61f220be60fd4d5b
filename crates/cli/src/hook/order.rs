//! A build that the hook has accepted: given to the daemon, its output passed on, its results added to
//! the store of the Nix that waits for them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use drover_core::{DrvOutput, PathInfo, Realisation, StorePath, raw_bytes};
use drover_derivation::{Derivation, DerivationKind, derivation_name};
use drover_hook::{Order, Question};
use drover_store::{
    BuildLog, BuildOutcome, BuildPlan, BuildRequest, BuildWishes, Builder as _, Keeper as _,
    LogEvent, SignatureCheck, Store as _, WhenValid, closure_order,
};
use drover_store_local::{Layout, LocalStore};
use drover_store_remote::Address;
use fs_err::File;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::connect;
use super::machines::Builders;
use super::meeting::Meeting;
use crate::configuration::Configuration;
use crate::connector::Connector;
use crate::exit::ExitStatus;
use crate::{own_store, runtime_dir};

/// Where the output of the build is to go (`log-fd` of Nix's own hook).
const LOG: &str = "/proc/self/fd/4";

/// A build that was accepted.
pub(super) struct Accepted {
    pub(super) question: Question,
    pub(super) order: Order,
    /// By what the user was told builds it.
    pub(super) machine: String,
    pub(super) layout: Layout,
}

/// Has it built, and its outputs made valid.
///
/// # Errors
///
/// It can't be, or fails.
pub(super) async fn carry_out(
    accepted: Accepted,
    configuration: &Configuration,
    builders: &Builders,
) -> anyhow::Result<ExitStatus> {
    let Accepted { question, order, machine, layout } = accepted;
    let derivation = question.derivation;
    let shown = layout.store_dir.display(&derivation);
    let nix = Arc::new(OutputOfBuild::open()?);
    end_with_nix()?;
    let done = build(&derivation, order, layout, configuration, builders, &nix).await;
    match done {
        Ok(()) => Ok(ExitStatus::SUCCESS),
        Err(error) => {
            nix.message(0, &format!("error: build of '{shown}' on '{machine}' failed: {error:#}"));
            Ok(ExitStatus::GENERAL)
        }
    }
}

/// Has this process end when the Nix ends that waits for it: the locks that it holds are gone then, and
/// the daemon ends what it does for a hook that is gone.
fn end_with_nix() -> anyhow::Result<()> {
    let watch = || {
        let stderr = std::io::stderr();
        // only its end is waited for, which is told whatever is asked about
        let mut told = [PollFd::new(&stderr, PollFlags::empty())];
        loop {
            match poll(&mut told, None) {
                Err(Errno::INTR) => {}
                _ => {
                    runtime_dir::remove_all();
                    std::process::exit(ExitStatus::GENERAL.0.into())
                }
            }
        }
    };
    let thread = std::thread::Builder::new().name("end-with-nix".to_owned());
    thread.spawn(watch).context("cannot watch the Nix that has started this hook")?;
    Ok(())
}

async fn build(
    path: &StorePath,
    order: Order,
    layout: Layout,
    configuration: &Configuration,
    builders: &Builders,
    nix: &Arc<OutputOfBuild>,
) -> anyhow::Result<()> {
    let Configuration { settings, conf, .. } = configuration;
    let reader = own_store::open(layout.clone(), settings, conf)?;
    let derivation = read(&reader, path).await?;
    let known: BTreeMap<String, StorePath> = derivation
        .outputs
        .iter()
        .filter_map(|(name, output)| Some((name.to_string(), output.path()?.clone())))
        .collect();
    let store =
        own_store::open_under_locks(layout, settings, conf, known.values().cloned().collect())?;
    let request = BuildRequest {
        derivation: path.clone(),
        outputs: order.outputs,
        known_outputs: known,
        plan: BuildPlan::Derivation(Box::new(derivation.to_basic(order.inputs))),
        wishes: BuildWishes::default(),
        bring: None,
    };
    // it is there: the answer to the question came from it
    drop(connect::reach(configuration, builders).await?);
    let address = Address::Socket(Meeting::of(configuration, builders)?.socket);
    let connector = Connector::new(configuration)?;
    // a Nix that is interrupted kills its hook, and a socket needs no folder for connections
    runtime_dir::remove_all();
    let settings = configuration.build_settings();
    let daemon = connector.open("drover", store.store_dir(), &address, &settings);
    // what was built stays at the daemon as long as this lane
    let lane = daemon.open_lane().await?;
    let log = Arc::clone(nix) as Arc<dyn BuildLog>;
    let outputs = match lane.build(request, log).await? {
        BuildOutcome::Built(built) => built.outputs,
        BuildOutcome::Failed(failure) => bail!("{}", failure.into_message()),
    };
    fetch(&daemon, &store, outputs.values().cloned().collect()).await?;
    register(&store, path, &derivation, &outputs).await
}

async fn read(store: &LocalStore, path: &StorePath) -> anyhow::Result<Derivation> {
    let name = derivation_name(path).with_context(|| format!("'{path}' is no derivation"))?;
    let files = store.read_files(std::slice::from_ref(path)).await?;
    let file = files.first().with_context(|| format!("'{path}' has no contents"))?;
    Ok(Derivation::parse_aterm(store.store_dir(), &name, file)?)
}

/// Adds what isn't valid yet.
async fn fetch(
    daemon: &drover_store_remote::RemoteStore,
    store: &LocalStore,
    outputs: Vec<PathInfo>,
) -> anyhow::Result<()> {
    let paths = outputs.iter().map(|info| info.path.clone()).collect();
    let valid = store.hold_valid(&paths, drover_store::Substitute::No).await?;
    let missing = outputs.into_iter().filter(|info| !valid.contains(&info.path)).collect();
    let stream = daemon.export(closure_order(missing)).await?;
    // its machines' results are taken because the machines are listed
    store.add_paths(stream, SignatureCheck::Skip, WhenValid::Keep).await?;
    Ok(())
}

/// Notes what outputs became whose paths follow from their contents.
async fn register(
    store: &LocalStore,
    path: &StorePath,
    derivation: &Derivation,
    outputs: &BTreeMap<String, PathInfo>,
) -> anyhow::Result<()> {
    if derivation.kind()? != DerivationKind::Floating {
        return Ok(());
    }
    let hash = store.realisation_hash(path).await?;
    for (name, info) in outputs {
        let id = DrvOutput { hash: hash.clone(), output: name.parse()? };
        let (out_path, signatures) = (info.path.clone(), BTreeSet::new());
        let realisation = Realisation { id, out_path, signatures };
        store.register_realisation(&realisation, SignatureCheck::Skip).await?;
    }
    Ok(())
}

/// What Nix hears while it waits: the output of the build at one descriptor, messages at another.
struct OutputOfBuild {
    log: Mutex<File>,
}

impl OutputOfBuild {
    fn open() -> anyhow::Result<OutputOfBuild> {
        let log = fs_err::OpenOptions::new().write(true).open(LOG);
        let log =
            log.context("Nix has given this hook no descriptor for the output of the build")?;
        Ok(OutputOfBuild { log: Mutex::new(log) })
    }

    /// With nobody to hear it there is nobody to tell; that the build goes on then is seen to by
    /// whoever ends this process.
    fn line(&self, line: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        drop(log.write_all(&raw_bytes(&format!("{line}\n"))));
    }

    fn message(&self, level: u8, text: &str) {
        let message = serde_json::json!({ "action": "msg", "level": level, "msg": text });
        let line = format!("@nix {message}\n");
        drop(std::io::stderr().lock().write_all(line.as_bytes()));
    }
}

impl BuildLog for OutputOfBuild {
    fn event(&self, event: LogEvent) {
        match event {
            LogEvent::Line(line) => self.line(&line),
            LogEvent::Phase(phase) => {
                let phase = serde_json::json!({ "action": "setPhase", "phase": phase });
                self.line(&format!("@nix {phase}"));
            }
            LogEvent::Message(text) => self.message(3, &text),
            LogEvent::Started | LogEvent::Ended | LogEvent::Heard(_) => {}
        }
    }
}
