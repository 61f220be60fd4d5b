//! Graphs of derivations in a caller's store in memory, and runs over fake machines.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drover_core::{
    ContentAddress, HashAlgorithm, IngestionMethod, NarHash, NarSize, OutputName, PathInfo,
    StoreDir, StorePath,
};
use drover_derivation::{
    BasicDerivation, Derivation, HashModuloCache, Output, OutputNames, downstream_placeholder,
    output_path,
};
use drover_fleet::{
    CopyBack, Fallback, Fleet, FleetOptions, Graph, MachineSpec, OutputTrust, Target,
};
use drover_nar::{Executable, single_file_nar};
use drover_store::{MemoryStore, Store, Substitute};
use tokio_util::sync::CancellationToken;

use crate::local::Local;
use crate::machine::Machine;
use crate::recorder::Recorder;
use crate::run::Run;
use crate::stream::OnePath;

pub(crate) const SYSTEM: &str = "x86_64-linux";

/// After so much (paused) time a run is taken to hang.
const HANGS: Duration = Duration::from_secs(24 * 3600);

/// How big the outputs of a derivation are, and how long its build takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    pub(crate) size: usize,
    pub(crate) took: Duration,
    pub(crate) keeps: Keeps,
}

/// What outputs refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// All inputs.
    Inputs,
    /// Nothing.
    Nothing,
}

/// A derivation in the caller's store.
#[derive(Clone, Debug)]
pub(crate) struct Drv {
    pub(crate) path: StorePath,
    pub(crate) outputs: BTreeMap<OutputName, Option<StorePath>>,
}

impl Drv {
    pub(crate) fn out(&self) -> StorePath {
        self.output("out")
    }

    pub(crate) fn output(&self, name: &str) -> StorePath {
        self.outputs[name].clone().expect("its path is known")
    }

    pub(crate) fn target(&self) -> Target {
        Target { derivation: self.path.clone(), outputs: BTreeSet::new() }
    }
}

/// What machines know of derivations, by path.
pub(crate) type Recipes = Arc<Mutex<HashMap<String, Recipe>>>;

pub(crate) struct World {
    pub(crate) local: Arc<Local>,
    pub(crate) recipes: Recipes,
    cache: HashModuloCache,
    drvs: Vec<Drv>,
    source: StorePath,
}

/// How a derivation is written.
pub(crate) struct Draft<'a> {
    world: &'a mut World,
    name: String,
    inputs: Vec<(Drv, Vec<String>)>,
    outputs: Vec<String>,
    kind: Kind,
    system: String,
    recipe: Recipe,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    InputAddressed,
    Floating,
    Impure,
    Deferred,
}

pub(crate) fn nar_info(path: StorePath, nar: &[u8], references: BTreeSet<StorePath>) -> PathInfo {
    let hash = drover_core::Hash::of(HashAlgorithm::Sha256, nar);
    PathInfo {
        path,
        deriver: None,
        nar_hash: NarHash(hash.digest().try_into().expect("a SHA-256")),
        nar_size: NarSize(nar.len() as u64),
        references,
        registration_time: 0,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    }
}

pub(crate) async fn put(store: &dyn Store, info: PathInfo, nar: Vec<u8>) {
    store.import(Box::new(OnePath::new(info, nar))).await.expect("a path that can be added");
}

impl World {
    pub(crate) async fn new() -> World {
        let local = Arc::new(Local::new(MemoryStore::default()));
        let nar = single_file_nar(b"source", Executable::No);
        let store_dir = StoreDir::default();
        let name = "source".parse().expect("a name");
        let source = store_dir.text_path(b"source", [], &name);
        let mut info = nar_info(source.clone(), &nar, BTreeSet::new());
        let hash = drover_core::Hash::of(HashAlgorithm::Sha256, b"source");
        info.content_address = Some(ContentAddress { method: IngestionMethod::Text, hash });
        put(&*local, info, nar).await;
        World {
            local,
            recipes: Recipes::default(),
            cache: HashModuloCache::new(),
            drvs: Vec::new(),
            source,
        }
    }

    pub(crate) fn draft(&mut self, name: &str) -> Draft<'_> {
        let took = Duration::from_secs(1);
        Draft {
            world: self,
            name: name.to_owned(),
            inputs: Vec::new(),
            outputs: vec!["out".to_owned()],
            kind: Kind::InputAddressed,
            system: SYSTEM.to_owned(),
            recipe: Recipe { size: 100, took, keeps: Keeps::Inputs },
        }
    }

    /// Writes a derivation that needs `out` of others.
    pub(crate) async fn drv(&mut self, name: &str, inputs: &[&Drv]) -> Drv {
        let mut draft = self.draft(name);
        for input in inputs {
            draft = draft.needs(input, &["out"]);
        }
        draft.write().await
    }

    /// All output paths that are known before anything is built.
    pub(crate) fn known_outputs(&self) -> BTreeSet<StorePath> {
        let outputs = self.drvs.iter().flat_map(|drv| drv.outputs.values());
        outputs.flatten().cloned().collect()
    }

    /// Makes an output valid in the caller's store.
    pub(crate) async fn provide(&self, drv: &Drv, output: &str) {
        let nar = single_file_nar(output.as_bytes(), Executable::No);
        put(&*self.local, nar_info(drv.output(output), &nar, BTreeSet::new()), nar).await;
    }

    /// Makes an output valid in the caller's store, signed in the name of `key`.
    pub(crate) async fn provide_signed(&self, drv: &Drv, output: &str, key: &str) {
        let nar = single_file_nar(output.as_bytes(), Executable::No);
        let mut info = nar_info(drv.output(output), &nar, BTreeSet::new());
        let digits = "A".repeat(86);
        info.signatures.insert(format!("{key}:{digits}==").parse().expect("a signature"));
        put(&*self.local, info, nar).await;
    }

    /// Says which outputs are valid in the caller's store.
    pub(crate) async fn valid(&self) -> BTreeSet<StorePath> {
        self.local.store.hold_valid(&self.known_outputs(), Substitute::No).await.expect("memory")
    }

    pub(crate) async fn build(&self, machines: &[&Arc<Machine>], targets: &[&Drv]) -> Run {
        self.build_with(machines, targets, options()).await
    }

    pub(crate) async fn build_with(
        &self,
        machines: &[&Arc<Machine>],
        targets: &[&Drv],
        options: FleetOptions,
    ) -> Run {
        let targets = targets.iter().map(|drv| drv.target()).collect();
        self.run(machines, targets, options, CancellationToken::new()).await
    }

    pub(crate) async fn run(
        &self,
        machines: &[&Arc<Machine>],
        targets: Vec<Target>,
        options: FleetOptions,
        cancel: CancellationToken,
    ) -> Run {
        let roots: Vec<StorePath> =
            targets.iter().map(|target| target.derivation.clone()).collect();
        let graph = Graph::read(&self.local.store, &roots).await.expect("a sound graph");
        let graph = Arc::new(graph);
        let recorder = Arc::new(Recorder::default());
        let specs: Vec<MachineSpec> =
            machines.iter().map(|machine| machine.spec(&self.recipes, &self.local)).collect();
        let fleet = Fleet::new(
            Arc::clone(&self.local) as Arc<dyn Store>,
            specs,
            options,
            Arc::clone(&recorder) as Arc<dyn drover_fleet::Observer>,
        );
        let began = tokio::time::Instant::now();
        let building = fleet.build(Arc::clone(&graph), targets, cancel);
        let result = tokio::time::timeout(HANGS, building).await;
        let result = result.unwrap_or_else(|_| panic!("it hangs after {:#?}", recorder.events()));
        let took = began.elapsed();
        for machine in machines {
            assert_eq!(machine.live_lanes(), 0, "lanes of {} are left", machine.name());
        }
        drop(fleet);
        let events = recorder.events();
        recorder.check(&graph);
        Run { result, events, graph, took }
    }
}

/// Options of a run, without keep-going.
pub(crate) fn options() -> FleetOptions {
    FleetOptions {
        keep_going: false,
        substitute: Substitute::No,
        fallback: Fallback::Fail,
        copy_back: CopyBack::Wanted,
        outputs: OutputTrust::Machine,
        log_lines: 10,
        policy: drover_schedule::Policy::EarliestFinish,
    }
}

pub(crate) fn keep_going() -> FleetOptions {
    FleetOptions { keep_going: true, ..options() }
}

impl Draft<'_> {
    pub(crate) fn needs(mut self, input: &Drv, outputs: &[&str]) -> Self {
        let names = outputs.iter().map(|name| (*name).to_owned()).collect();
        self.inputs.push((input.clone(), names));
        self
    }

    pub(crate) fn outputs(mut self, names: &[&str]) -> Self {
        self.outputs = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    pub(crate) fn floating(mut self) -> Self {
        self.kind = Kind::Floating;
        self
    }

    /// What it makes is another each time.
    pub(crate) fn impure(mut self) -> Self {
        self.kind = Kind::Impure;
        self
    }

    pub(crate) fn deferred(mut self) -> Self {
        self.kind = Kind::Deferred;
        self
    }

    pub(crate) fn size(mut self, size: usize) -> Self {
        self.recipe.size = size;
        self
    }

    pub(crate) fn took(mut self, took: Duration) -> Self {
        self.recipe.took = took;
        self
    }

    pub(crate) fn keeps(mut self, keeps: Keeps) -> Self {
        self.recipe.keeps = keeps;
        self
    }

    pub(crate) fn system(mut self, system: &str) -> Self {
        self.system = system.to_owned();
        self
    }

    /// The derivation, with outputs whose paths are not known.
    fn unfinished(&self) -> Derivation {
        let mut environment: BTreeMap<String, String> = BTreeMap::new();
        environment.insert("name".to_owned(), self.name.clone());
        for (at, (input, names)) in self.inputs.iter().enumerate() {
            for name in names {
                let output: OutputName = name.parse().expect("a name");
                let text = match &input.outputs[&output] {
                    Some(path) => StoreDir::default().display(path),
                    None => downstream_placeholder(&input.path, &output).expect("a placeholder"),
                };
                environment.insert(format!("input{at}{name}"), text);
            }
        }
        let output = match self.kind {
            Kind::Floating => {
                Output::Floating { method: IngestionMethod::Nar, algorithm: HashAlgorithm::Sha256 }
            }
            Kind::Impure => {
                Output::Impure { method: IngestionMethod::Nar, algorithm: HashAlgorithm::Sha256 }
            }
            Kind::InputAddressed | Kind::Deferred => Output::Deferred,
        };
        let outputs =
            self.outputs.iter().map(|name| (name.parse().expect("a name"), output.clone()));
        let inputs = self.inputs.iter().map(|(input, names)| {
            let names: OutputNames =
                names.iter().map(|name| name.parse().expect("a name")).collect();
            (input.path.clone(), names)
        });
        let outputs: BTreeMap<OutputName, Output> = outputs.collect();
        for name in outputs.keys() {
            environment.insert(name.to_string(), String::new());
        }
        Derivation {
            basic: BasicDerivation {
                name: self.name.parse().expect("a name"),
                outputs,
                input_sources: BTreeSet::from([self.world.source.clone()]),
                system: self.system.clone(),
                builder: b"/bin/sh".as_slice().into(),
                args: Vec::new(),
                environment: environment.iter().collect(),
            },
            input_derivations: inputs.collect(),
        }
    }

    pub(crate) async fn write(self) -> Drv {
        let store_dir = StoreDir::default();
        let mut derivation = self.unfinished();
        if self.kind == Kind::InputAddressed {
            let hash = self.world.cache.masked(&store_dir, &derivation).expect("known inputs");
            let name = derivation.basic.name.clone();
            let path = |output| output_path(&store_dir, &name, output, &hash.to_hash());
            let mut variables: BTreeMap<Vec<u8>, Vec<u8>> = derivation
                .environment
                .iter()
                .map(|(name, value)| (name.to_vec(), value.to_vec()))
                .collect();
            for (output, what) in &mut derivation.basic.outputs {
                let path = path(output).expect("a path");
                let text = store_dir.display(&path).into_bytes();
                variables.insert(output.as_str().into(), text);
                *what = Output::InputAddressed(path);
            }
            derivation.basic.environment = variables.into_iter().collect();
            derivation.check_outputs(&store_dir, &self.world.cache).expect("real paths");
        }
        let path = derivation.derivation_path(&store_dir).expect("a path");
        self.world.cache.insert(&store_dir, &path, &derivation).expect("known inputs");
        let nar = single_file_nar(&derivation.to_aterm(&store_dir), Executable::No);
        let references = derivation.input_sources.iter().chain(derivation.input_derivations.keys());
        let info = nar_info(path.clone(), &nar, references.cloned().collect());
        put(&*self.world.local, info, nar).await;
        let outputs = derivation.outputs.iter();
        let outputs = outputs.map(|(name, output)| (name.clone(), output.path().cloned()));
        let drv = Drv { path: path.clone(), outputs: outputs.collect() };
        self.world.recipes.lock().unwrap().insert(self.name.clone(), self.recipe);
        self.world.drvs.push(drv.clone());
        drv
    }
}
