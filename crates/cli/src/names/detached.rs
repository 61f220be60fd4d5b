//! What the daemon holds for those who have gone, as it is told at its control socket.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use drover_control::{
    Answer, Caller, DetachOrder, DetachedBuild, DetachedOutcome, DetachedResult, FollowedBuild,
    FollowedLine, Power,
};
use drover_core::{StoreDir, StorePath, with_causes};
use drover_daemon::{Client, ClientOptions, Policy, grant};
use drover_detached::{
    Asker, Condition, DetachedView, Ending, Followed, HoldError, Holder, Order, Outcome, Reach,
    Said,
};
use drover_store::{FailureCause, Keeper, Realised, Substitute, Wanted, exit_code};
use tokio::sync::watch;

/// Derivations of an order that are told.
const NAMED: usize = 8;
/// For how long a question for news waits for some.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is held, and the store that it is for.
pub(super) struct Detached {
    pub(super) holder: Arc<Holder>,
    pub(super) keeper: watch::Receiver<Arc<dyn Keeper>>,
    pub(super) store_dir: StoreDir,
}

impl Detached {
    /// Takes an order of a client.
    pub(super) async fn accept(
        &self,
        order: DetachOrder,
        client: &Client,
        policy: &Policy,
    ) -> Answer {
        match self.try_accept(order, client, policy).await {
            Ok(held) => Answer::Detached(held),
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    async fn try_accept(
        &self,
        order: DetachOrder,
        client: &Client,
        policy: &Policy,
    ) -> Result<DetachedBuild, String> {
        let wanted: Result<Vec<Wanted>, String> =
            order.wanted.iter().map(|text| wanted(&self.store_dir, text)).collect();
        let wanted = wanted?;
        let granted = grant(policy, client, &options(order));
        let keeper = Arc::clone(&self.keeper.borrow());
        let keeper = keeper.session().await.map_err(|error| with_causes(&error))?;
        keeper.set_own(&granted.store);
        self.hold(&*keeper, &wanted).await?;
        let owner = client.user.clone().unwrap_or_default();
        let order = Order { owner, wanted, settings: granted.settings, keeper };
        let view = self.holder.accept(order).map_err(|error| error.to_string())?;
        Ok(DetachedBuild { warnings: granted.warnings, ..self.report(view) })
    }

    /// Keeps derivations, which must be valid.
    async fn hold(&self, keeper: &dyn Keeper, wanted: &[Wanted]) -> Result<(), String> {
        let derivations: BTreeSet<StorePath> =
            wanted.iter().filter_map(derivation).cloned().collect();
        let held = keeper.hold_valid(&derivations, Substitute::No).await;
        let held = held.map_err(|error| with_causes(&error))?;
        match derivations.iter().find(|derivation| !held.contains(derivation)) {
            None => Ok(()),
            Some(missing) => Err(format!(
                "'{}' is not in the store of the daemon; copy it there with all that it refers to \
                 ('drover copy'), or evaluate there: drover build --detach -f FILE --store with the \
                 daemon's address",
                self.store_dir.display(missing)
            )),
        }
    }

    /// Says what an order has said since.
    pub(super) async fn follow(&self, caller: &Caller, build: &str, from: u64) -> Answer {
        match self.holder.follow(&asker(caller), build, from, PATIENCE).await {
            Ok(followed) => Answer::Followed(self.followed(followed)),
            Err(error) => refused(build, &error),
        }
    }

    /// Ends an order.
    pub(super) fn cancel(&self, caller: &Caller, build: &str) -> Answer {
        match self.holder.cancel(&asker(caller), build) {
            Ok(()) => Answer::Done,
            Err(error) => refused(build, &error),
        }
    }

    /// Returns what is held and remembered.
    pub(super) fn list(&self) -> Vec<DetachedBuild> {
        self.holder.list().into_iter().map(|view| self.report(view)).collect()
    }

    fn report(&self, view: DetachedView) -> DetachedBuild {
        let state = match view.condition {
            Condition::Running => "running",
            Condition::Succeeded => "succeeded",
            Condition::Failed => "failed",
            Condition::Cancelled => "cancelled",
        };
        let derivations = view.derivations.iter().take(NAMED);
        DetachedBuild {
            id: view.id.to_string(),
            owner: view.owner,
            derivation_count: view.derivations.len(),
            derivations: derivations.map(|path| self.store_dir.display(path)).collect(),
            state: state.to_owned(),
            seconds: view.age.as_secs_f64(),
            ended_seconds_ago: view.ended.map(|ago| ago.as_secs_f64()),
            warnings: Vec::new(),
        }
    }

    fn followed(&self, followed: Followed) -> FollowedBuild {
        let outcome = followed.ending.map(|ending| self.outcome(&followed.view, &ending));
        FollowedBuild {
            dropped: followed.dropped,
            lines: followed.said.into_iter().map(|said| self.line(said)).collect(),
            next: followed.next,
            outcome,
            build: self.report(followed.view),
        }
    }

    fn line(&self, said: Said) -> FollowedLine {
        let line = |kind: &str, derivation: StorePath, text: String| FollowedLine {
            kind: kind.to_owned(),
            derivation: self.store_dir.display(&derivation),
            text,
        };
        match said {
            Said::Waiting { derivation, reason } => line("waiting", derivation, reason),
            Said::Started { derivation, machine } => line("started", derivation, machine),
            Said::Line { derivation, line: text } => line("line", derivation, text),
            Said::Phase { derivation, phase } => line("phase", derivation, phase),
            Said::Note(text) => {
                FollowedLine { kind: "note".to_owned(), derivation: String::new(), text }
            }
        }
    }

    fn outcome(&self, view: &DetachedView, ending: &Ending) -> DetachedOutcome {
        let failed = |error: String| DetachedOutcome {
            exit_code: 1,
            error: Some(error),
            results: Vec::new(),
        };
        match &ending.outcome {
            Outcome::Store(error) => failed(with_causes(error)),
            Outcome::Cancelled { by: Some(user) } => {
                failed(format!("it was cancelled by '{user}'"))
            }
            Outcome::Cancelled { by: None } => failed("the daemon has ended it".to_owned()),
            Outcome::Realised(realised) => {
                let both = view.derivations.iter().zip(realised);
                DetachedOutcome {
                    exit_code: exit_status(realised, &ending.causes),
                    error: None,
                    results: both.map(|(path, realised)| self.result(path, realised)).collect(),
                }
            }
        }
    }

    fn result(&self, derivation: &StorePath, realised: &Realised) -> DetachedResult {
        let whole = |path: &StorePath| self.store_dir.display(path);
        let outputs = realised.outputs.iter().map(|(name, path)| (name.clone(), whole(path)));
        DetachedResult {
            derivation: whole(derivation),
            succeeded: realised.status.is_success(),
            message: realised.message.clone(),
            outputs: outputs.collect(),
        }
    }
}

/// Returns what `drover build` would have ended with. `causes` are the failures of what is needed, too, as far
/// as they are known: where nothing is known to have failed itself, the build of a dependency has.
fn exit_status(realised: &[Realised], causes: &BTreeSet<FailureCause>) -> u8 {
    let failed = realised.iter().filter_map(|each| each.status.failure());
    let failed: Vec<FailureCause> = failed.collect();
    let themselves = failed.iter().chain(causes).copied();
    let themselves: Vec<FailureCause> =
        themselves.filter(|cause| !cause.is_consequence()).collect();
    match (failed.is_empty(), themselves.is_empty()) {
        (true, _) => 0,
        (false, true) => exit_code([FailureCause::Build]),
        (false, false) => exit_code(themselves),
    }
}

fn asker(caller: &Caller) -> Asker {
    let reach = match caller.power {
        Power::Order => Reach::All,
        Power::Ask => Reach::Own,
    };
    Asker { user: caller.user.clone(), reach }
}

/// Refuses; those who name a build that clients wait for are told how it is with those.
fn refused(build: &str, error: &HoldError) -> Answer {
    let is_number = !build.is_empty() && build.bytes().all(|byte| byte.is_ascii_digit());
    let hint = match is_number || build.ends_with(".drv") {
        true => {
            "; other builds are their clients', and end with those (their logs: drover builds log ID)"
        }
        false => "",
    };
    Answer::Refused(format!("{error}{hint}"))
}

fn derivation(wanted: &Wanted) -> Option<&StorePath> {
    match wanted {
        Wanted::AllOutputs(path) | Wanted::Outputs(path, _) => Some(path),
        Wanted::Path(_) => None,
    }
}

/// Reads what is wanted: a derivation with `^*` or the names of outputs behind it.
fn wanted(store_dir: &StoreDir, text: &str) -> Result<Wanted, String> {
    let refused = |why: &str| format!("'{text}' is nothing to be built: {why}");
    let (path, outputs) = text.rsplit_once('^').ok_or_else(|| refused("it names no outputs"))?;
    let path = store_dir.parse(path).map_err(|error| refused(&error.to_string()))?;
    if !path.is_derivation() {
        return Err(refused("it is not a derivation"));
    }
    match outputs {
        "*" => Ok(Wanted::AllOutputs(path)),
        "" => Err(refused("it names no outputs")),
        names => {
            let names: BTreeSet<String> = names.split(',').map(str::to_owned).collect();
            let parsed = names.iter().map(|name| name.parse::<drover_core::OutputName>());
            match parsed.collect::<Result<Vec<_>, _>>() {
                Ok(_) => Ok(Wanted::Outputs(path, names)),
                Err(error) => Err(refused(&error.to_string())),
            }
        }
    }
}

fn options(order: DetachOrder) -> ClientOptions {
    ClientOptions {
        keep_failed: order.keep_failed,
        keep_going: order.keep_going,
        fallback: order.fallback,
        verbosity: 3,
        max_jobs: order.max_jobs,
        max_silent_time: order.max_silent_time,
        verbose_build: true,
        cores: order.cores,
        use_substitutes: order.substitute,
        overrides: order.settings,
    }
}

#[cfg(test)]
mod tests {
    use drover_store::RealiseStatus;
    use rstest::rstest;

    use super::*;

    const PATH: &str = "/nix/store/3880j94arxkya3irs3d8nr2x076sp1m8-a.drv";

    #[test]
    fn outputs_are_named_behind_derivations() {
        let store_dir = StoreDir::default();
        let path = store_dir.parse(PATH).unwrap();
        assert_eq!(wanted(&store_dir, &format!("{PATH}^*")), Ok(Wanted::AllOutputs(path.clone())));
        let two = BTreeSet::from(["out".to_owned(), "dev".to_owned()]);
        assert_eq!(wanted(&store_dir, &format!("{PATH}^out,dev")), Ok(Wanted::Outputs(path, two)));
    }

    #[rstest]
    #[case::well(&[], &[], 0)]
    #[case::failed(&[FailureCause::Build], &[], 100)]
    #[case::too_long(&[FailureCause::TimedOut, FailureCause::Cancelled], &[], 101)]
    #[case::rejected(&[FailureCause::Rejected], &[], 1)]
    #[case::another_hash(&[FailureCause::HashMismatch], &[], 102)]
    #[case::a_dependency(&[FailureCause::Cancelled], &[], 100)]
    #[case::a_slow_dependency(&[FailureCause::Dependency], &[FailureCause::TimedOut], 101)]
    #[case::a_dependency_for_no_machine(&[FailureCause::Dependency], &[FailureCause::Unsuited], 100)]
    #[case::no_machine(&[FailureCause::Unsuited, FailureCause::Cancelled], &[], 100)]
    fn ends_as_a_build_does(
        #[case] failed: &[FailureCause],
        #[case] causes: &[FailureCause],
        #[case] code: u8,
    ) {
        let failed = failed.iter().map(|&cause| Realised::failed(cause, ""));
        let well = [RealiseStatus::Built, RealiseStatus::AlreadyValid].map(Realised::succeeded);
        let realised: Vec<Realised> = failed.chain(well).collect();
        assert_eq!(exit_status(&realised, &causes.iter().copied().collect()), code);
    }

    #[rstest]
    #[case::no_outputs(PATH)]
    #[case::empty("/nix/store/3880j94arxkya3irs3d8nr2x076sp1m8-a.drv^")]
    #[case::bad_output("/nix/store/3880j94arxkya3irs3d8nr2x076sp1m8-a.drv^a/b")]
    #[case::no_derivation("/nix/store/3880j94arxkya3irs3d8nr2x076sp1m8-a^out")]
    #[case::elsewhere("/etc/passwd^out")]
    fn what_is_none_is_refused(#[case] text: &str) {
        let refusal = wanted(&StoreDir::default(), text).unwrap_err();
        assert!(refusal.contains(text), "{refusal}");
    }
}
