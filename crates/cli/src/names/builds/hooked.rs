//! The post-build hook for what other machines have built: which one is a client's, and that it runs once for
//! all clients that have waited for a build. What this machine builds has it run by the builder.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use drover_build_local::PostBuildHook;
use drover_config::NixConf;
use drover_core::StorePath;
use drover_store::{
    FailureCause, Keeper, RealiseEvent, RealiseObserver, RealiseSettings, RealiseStatus, Realised,
    StoreError,
};
use tokio::sync::OnceCell;

use crate::after_build::{self, BuiltElsewhere};
use crate::own_builder;

/// Builds that are remembered as those that the hook has run for.
const HOOKED: usize = 1024;

/// A build: of which derivation, and when; and the program that runs for it.
type Hooked = (StorePath, Option<(SystemTime, SystemTime)>, PathBuf);

/// A run of the hook for a build, with what went wrong with it, if anything did.
type HookRun = OnceCell<Result<(), String>>;

/// What other machines have built and the hook has run for, and when it was built: the latest.
#[derive(Default)]
pub(super) struct HookRuns(Mutex<VecDeque<(Hooked, Arc<HookRun>)>>);

impl HookRuns {
    /// Runs the post-build hook for what another machine has built, once for all clients that have
    /// waited for it. Where the hook fails, so does the build for this client, as in Nix.
    pub(super) async fn run(
        &self,
        hook: Option<&PostBuildHook>,
        store: &dyn Keeper,
        derivation: &StorePath,
        realised: &mut Realised,
        elsewhere: &BuiltElsewhere<dyn RealiseObserver, StorePath>,
    ) {
        let Some(hook) = hook else { return };
        if realised.status != RealiseStatus::Built || !elsewhere.has_seen(derivation) {
            return;
        }
        let ran = self.run_for((derivation.clone(), realised.period, hook.program.clone()));
        let outputs = realised.outputs.values().cloned().collect();
        let tell = |line| elsewhere.event(RealiseEvent::Note(line));
        // who comes second waits for it, and runs it where the first has left meanwhile
        let run = || after_build::run(hook, store, derivation, &outputs, tell);
        if let Err(message) = ran.get_or_init(run).await {
            realised.status = RealiseStatus::Failed(FailureCause::Hook);
            realised.message = message.clone();
        }
    }

    /// Returns the run for a build, which may be yet to come.
    fn run_for(&self, build: Hooked) -> Arc<HookRun> {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, ran)) = runs.iter().find(|(known, _)| *known == build) {
            return Arc::clone(ran);
        }
        let run = Arc::new(HookRun::new());
        runs.push_back((build, Arc::clone(&run)));
        if HOOKED < runs.len() {
            runs.pop_front();
        }
        run
    }
}

/// Returns the hook of a client: its own, if it is one who may say so, and otherwise that of the
/// configuration.
pub(super) fn hook_of(
    conf: &NixConf,
    store: &dyn Keeper,
    settings: &RealiseSettings,
) -> Result<Option<PostBuildHook>, StoreError> {
    match settings.build.overrides.get("post-build-hook") {
        Some(program) if program.is_empty() => Ok(None),
        Some(program) => {
            let settings = own_builder::hook_settings(conf);
            Ok(Some(PostBuildHook::of_client(program.into(), &settings)))
        }
        None => own_builder::post_build_hook(conf)
            .map_err(|error| StoreError::refused(store.name(), format!("{error:#}"))),
    }
}
