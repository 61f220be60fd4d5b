//! How a fake machine builds.

use std::collections::{BTreeMap, BTreeSet};

use std::sync::atomic::Ordering;
use std::time::Duration;

use drover_core::{
    ContentAddress, Hash, HashAlgorithm, IngestionMethod, NarHash, NarSize, OutputName, PathInfo,
    References, StorePath,
};
use drover_derivation::{BasicDerivation, Derivation, Output, derivation_name, output_path_name};
use drover_nar::{Executable, single_file_nar};
use drover_store::{
    BuildFailure, BuildLog, BuildOutcome, BuildPlan, BuildRequest, Built, FailureCause, LogEvent,
    Store, StoreError, Substitute,
};

use crate::machine::Act;
use crate::site::{FakeSite, Outputs};
use crate::world::{Keeps, Recipe, nar_info, put};

/// Whether outputs were as small as hoped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guess {
    Right,
    Wrong,
}

/// Where something is made.
pub(crate) struct Workshop<'a> {
    pub(crate) site: &'a FakeSite,
    pub(crate) log: &'a dyn BuildLog,
}

fn machine_failure(message: String) -> BuildOutcome {
    BuildOutcome::Failed(BuildFailure { cause: FailureCause::Machine, message })
}

/// Builds what is asked for, or does what the script says.
pub(crate) async fn make(
    workshop: &Workshop<'_>,
    request: BuildRequest,
) -> Result<BuildOutcome, StoreError> {
    match request.plan {
        BuildPlan::Derivation(basic) => {
            if !*workshop.site.machine.privileged.lock().unwrap() {
                let message = "you are not privileged to build input-addressed derivations";
                let message = message.to_owned();
                return Ok(BuildOutcome::Failed(BuildFailure {
                    cause: FailureCause::Refused,
                    message,
                }));
            }
            workshop.build(&basic).await
        }
        BuildPlan::FromStore => workshop.build_from_store(&request.derivation).await,
    }
}

impl Workshop<'_> {
    fn store(&self) -> &dyn Store {
        self.site.store()
    }

    async fn is_valid(&self, path: &StorePath) -> bool {
        let asked = BTreeSet::from([path.clone()]);
        !self.store().hold_valid(&asked, Substitute::No).await.expect("memory").is_empty()
    }

    async fn read(&self, path: &StorePath) -> Option<Derivation> {
        let file = self.store().read_files(std::slice::from_ref(path)).await.ok()?.pop()?;
        let name = derivation_name(path)?;
        Derivation::parse_aterm(self.store().store_dir(), &name, &file).ok()
    }

    /// Builds a derivation and all that it needs, as `BuildPaths` does.
    async fn build_from_store(&self, path: &StorePath) -> Result<BuildOutcome, StoreError> {
        let mut last = machine_failure("nothing to do".to_owned());
        let mut realised: BTreeMap<(StorePath, OutputName), StorePath> = BTreeMap::new();
        let mut stack = vec![(path.clone(), false)];
        while let Some((path, ready)) = stack.pop() {
            let Some(derivation) = self.read(&path).await else {
                return Ok(machine_failure(format!("path '{path}' is not valid")));
            };
            let inputs: Vec<StorePath> = derivation.input_derivations.keys().cloned().collect();
            if !ready {
                stack.push((path, true));
                stack.extend(inputs.into_iter().map(|input| (input, false)));
                continue;
            }
            let known = |path: &StorePath, output: &OutputName| {
                realised.get(&(path.clone(), output.clone())).cloned()
            };
            let store_dir = self.store().store_dir();
            let Ok(basic) = derivation.resolve(store_dir, known) else {
                return Ok(machine_failure("an input was not built".to_owned()));
            };
            last = self.build(&basic).await?;
            if let BuildOutcome::Built(built) = &last {
                for (name, info) in &built.outputs {
                    let name = name.parse().expect("a name");
                    realised.insert((path.clone(), name), info.path.clone());
                }
            }
            if let BuildOutcome::Failed(_) = last {
                return Ok(last);
            }
        }
        Ok(last)
    }

    async fn build(&self, basic: &BasicDerivation) -> Result<BuildOutcome, StoreError> {
        for input in &basic.input_sources {
            if !self.is_valid(input).await {
                return Ok(machine_failure(format!("path '{input}' is not valid")));
            }
        }
        if let Some(outputs) = self.valid_outputs(basic).await {
            return Ok(BuildOutcome::Built(Built {
                outputs,
                already_valid: true,
                took: None,
                nars: BTreeMap::new(),
            }));
        }
        let name = basic.name.to_string();
        let recipe = self.site.recipes.lock().unwrap()[&name];
        let act = self.next_act(&name);
        self.log.event(LogEvent::Started);
        self.log.event(LogEvent::Line(format!("building {name}")));
        match &act {
            Act::Panics => panic!("a bug in a lane"),
            Act::Hangs => std::future::pending().await,
            Act::Chatters => loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.log.event(LogEvent::Line("chitchat!".to_owned()));
            },
            Act::LosesConnection => {
                tokio::time::sleep(recipe.took / 2).await;
                self.site.dead.cancel();
                return Err(self.site.lost());
            }
            _ => tokio::time::sleep(recipe.took).await,
        }
        if let Act::Fails(failure) = act {
            return Ok(BuildOutcome::Failed(failure));
        }
        self.site.machine.made.lock().unwrap().push(name);
        let mut outputs = self.make_outputs(basic, recipe, &act).await;
        if let Act::LosesConnectionAfter = act {
            self.site.dead.cancel();
            return Err(self.site.lost());
        }
        lie(&act, &mut outputs);
        Ok(BuildOutcome::Built(Built {
            outputs,
            already_valid: matches!(act, Act::HiddenReferenceBefore),
            took: None,
            nars: BTreeMap::new(),
        }))
    }

    /// Builds something once more; what comes of that is as the script says.
    pub(crate) async fn check(&self, path: &StorePath) -> Result<BuildOutcome, StoreError> {
        let Some(derivation) = self.read(path).await else {
            return Ok(machine_failure(format!("path '{path}' is not valid")));
        };
        let name = derivation.name.to_string();
        let recipe = self.site.recipes.lock().unwrap()[&name];
        let act = self.next_act(&name);
        self.log.event(LogEvent::Started);
        self.log.event(LogEvent::Line(format!("building {name} once more")));
        if let Act::Hangs = act {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(recipe.took).await;
        if let Act::Fails(failure) = act {
            return Ok(BuildOutcome::Failed(failure));
        }
        self.site.machine.made.lock().unwrap().push(format!("{name} once more"));
        let basic = derivation.to_basic([]);
        let outputs = self.valid_outputs(&basic).await.expect("they are valid");
        let (already_valid, took, nars) = (false, None, BTreeMap::new());
        Ok(BuildOutcome::Built(Built { outputs, already_valid, took, nars }))
    }

    /// Has the outputs come along, unless one is too large or the build failed.
    pub(crate) async fn bring(&self, outcome: &mut BuildOutcome, at_most: NarSize) -> Guess {
        let BuildOutcome::Built(built) = outcome else { return Guess::Wrong };
        for info in built.outputs.values() {
            if info.nar_size > at_most {
                return Guess::Wrong;
            }
            // what it only says it has made it can't send
            let Ok(nar) = self.store().small_nar(info.clone()).await else { return Guess::Wrong };
            built.nars.insert(info.path.clone(), nar);
        }
        Guess::Right
    }

    async fn valid_outputs(&self, basic: &BasicDerivation) -> Option<Outputs> {
        let mut outputs = Outputs::new();
        for (name, output) in &basic.outputs {
            let path = output.path()?.clone();
            let info = self.store().path_infos(&[path]).await.expect("memory").pop()??;
            outputs.insert(name.to_string(), info);
        }
        Some(outputs)
    }

    fn next_act(&self, name: &str) -> Act {
        let mut acts = self.site.machine.acts.lock().unwrap();
        match acts.get_mut(name) {
            Some(script) if script.len() > 1 => script.pop_front().expect("there are some"),
            Some(script) => script.front().cloned().unwrap_or(Act::Builds),
            None => Act::Builds,
        }
    }

    async fn make_outputs(&self, basic: &BasicDerivation, recipe: Recipe, act: &Act) -> Outputs {
        let mut outputs = Outputs::new();
        for (name, output) in &basic.outputs {
            let mut text = format!("{}:{name}:", basic.name).into_bytes();
            if matches!(output, Output::Impure { .. }) {
                let times = self.site.machine.made.lock().unwrap().len();
                text.extend_from_slice(format!("{times}").as_bytes());
            }
            if let Act::BuildsItsOwn = act {
                text.extend_from_slice(self.site.machine.name().as_bytes());
            }
            if let Act::Mentions | Act::HiddenReference | Act::HiddenReferenceBefore = act {
                let mentioned = basic.input_sources.iter().map(StorePath::to_string);
                text.extend_from_slice(mentioned.collect::<String>().as_bytes());
            }
            text.resize(text.len().max(recipe.size), b'.');
            let nar = single_file_nar(&text, Executable::No);
            let references = match recipe.keeps {
                Keeps::Inputs => basic.input_sources.clone(),
                Keeps::Nothing => BTreeSet::new(),
            };
            let (path, content_address) = match output {
                Output::Floating { .. } | Output::Impure { .. } => {
                    let (path, address) = self.addressed(basic, name, &nar, &references);
                    (path, Some(address))
                }
                output => (output.path().expect("a known path").clone(), None),
            };
            let registration_time = self.site.machine.clock.load(Ordering::Relaxed);
            let info = nar_info(path, &nar, references);
            let info = PathInfo { content_address, registration_time, ..info };
            put(self.store(), info.clone(), nar).await;
            outputs.insert(name.to_string(), info);
        }
        outputs
    }

    fn addressed(
        &self,
        basic: &BasicDerivation,
        output: &OutputName,
        nar: &[u8],
        references: &BTreeSet<StorePath>,
    ) -> (StorePath, ContentAddress) {
        let hash = Hash::of(HashAlgorithm::Sha256, nar);
        let address = ContentAddress { method: IngestionMethod::Nar, hash };
        let others = references.clone();
        let name = output_path_name(&basic.name, output).expect("a name");
        let references = References { others, itself: false };
        let store_dir = self.store().store_dir();
        let path = store_dir.content_addressed_path(&address, &references, &name);
        (path.expect("a path"), address)
    }
}

fn lie(act: &Act, outputs: &mut Outputs) {
    let foreign = |name: &str| {
        StorePath::from_base_name(&format!("{}-{name}", "1".repeat(32))).expect("a path")
    };
    let Some((name, mut info)) = outputs.pop_first() else { return };
    match act {
        Act::OtherPath => info.path = foreign(info.path.name()),
        Act::MissingOutput => return,
        Act::ExtraOutput => {
            let extra = PathInfo { path: foreign("extra"), ..info.clone() };
            outputs.insert("extra".to_owned(), extra);
        }
        Act::ForeignReference => {
            info.references.insert(foreign("secret"));
        }
        Act::HiddenReference | Act::HiddenReferenceBefore => info.references.clear(),
        Act::OtherContents => {
            let hash = Hash::of(HashAlgorithm::Sha256, b"something else");
            info.content_address = Some(ContentAddress { method: IngestionMethod::Nar, hash });
        }
        Act::WrongHash => info.nar_hash = NarHash([7; 32]),
        _ => {}
    }
    outputs.insert(name, info);
}
