//! A build that the hook has accepted: given to the daemon, its output passed on, its results added to
//! the store of the Nix that waits for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use drover_core::{DrvOutput, PathInfo, Realisation, StorePath};
use drover_derivation::{Derivation, DerivationKind, derivation_name};
use drover_hook::{Order, Question};
use drover_store::{
    BuildLog, BuildOutcome, BuildPlan, BuildRequest, BuildWishes, Builder as _, Keeper as _,
    SignatureCheck, Store as _, WhenValid, closure_order,
};
use drover_store_local::{Layout, LocalStore};
use drover_store_remote::Address;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::connect;
use super::machines::Builders;
use super::told::Told;
use crate::configuration::Configuration;
use crate::connector::Connector;
use crate::exit::ExitStatus;
use crate::{own_store, runtime_dir};

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
    let nix = Arc::new(Told::open(shown.clone())?);
    end_with_nix()?;
    let done = build(&derivation, order, layout, configuration, builders, &nix).await;
    nix.ended();
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
    nix: &Arc<Told>,
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
    let address = Address::Socket(connect::reach(configuration, builders).await?.socket);
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
        BuildOutcome::Failed(failure) => bail!("{}", failure.message),
    };
    nix.ended();
    fetch(&daemon, &store, outputs.values().cloned().collect(), nix).await?;
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
    nix: &Told,
) -> anyhow::Result<()> {
    let paths = outputs.iter().map(|info| info.path.clone()).collect();
    let valid = store.hold_valid(&paths, drover_store::Substitute::No).await?;
    // whoever has built it, it wasn't built here: where signatures are wanted it needs one
    let missing: Vec<PathInfo> = outputs
        .into_iter()
        .filter(|info| !valid.contains(&info.path))
        .map(|info| PathInfo { ultimate: false, ..info })
        .collect();
    let names = missing.iter().map(|info| store.store_dir().display(&info.path)).collect();
    let _copying = nix.copying(names);
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
