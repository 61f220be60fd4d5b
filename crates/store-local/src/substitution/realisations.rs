//! What substituters say that outputs became whose paths don't follow from their derivations.
//!
//! Follows `src/libstore/build/drv-output-substitution-goal.cc` of Nix up to 2.34: what is said is believed
//! where a trusted key has signed it, or the substituter is trusted; and only if it was made from what such
//! outputs became here. It is registered once the path is valid.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use drover_core::{DrvOutput, Realisation, StorePath, ToldRealisation};
use drover_store::{SignedRealisations, StoreError, Substituter, Vouching};
use futures::future::join_all;
use tokio::time::timeout;

use crate::error::LocalError;
use crate::layout::Access;
use crate::opened::lock;
use crate::options::RequiredSignatures;
use crate::substitution::supply::Supply;
use crate::view::View;
use crate::{LocalOptions, LocalStore};

/// Outputs of which a substituter is asked in one go, and how long it may take to say what it knows.
const AT_ONCE: usize = 500;
const ASKING: Duration = Duration::from_secs(30);

/// How long it counts what was said, and that nobody knew.
const AGE: Duration = Duration::from_secs(600);
const AGE_OF_NOTHING: Duration = Duration::from_secs(60);

/// Outputs of which it is remembered what was said.
const MAX_OUTPUTS: usize = 10_000;

/// What was said of outputs, by whoever it was. Whether it's believed is decided by each who hears of it,
/// as not all trust the same keys.
#[derive(Default)]
pub(crate) struct Hearsay {
    said: Mutex<BTreeMap<DrvOutput, Said>>,
}

struct Said {
    since: Instant,
    /// By all substituters that know, in their order.
    told: Vec<Told>,
}

#[derive(Clone)]
struct Told {
    by: String,
    vouching: Vouching,
    what: ToldRealisation,
}

impl Said {
    fn counts(&self) -> bool {
        let age = if self.told.is_empty() { AGE_OF_NOTHING } else { AGE };
        self.since.elapsed() < age
    }
}

impl Hearsay {
    /// Returns the path that an output is said to have become, if somebody is believed.
    pub(crate) fn path_of(&self, view: &View, output: &DrvOutput) -> Option<StorePath> {
        let told = lock(&self.said).get(output).filter(|said| said.counts())?.told.clone();
        believed(view, view.options(), &told).map(|realisation| realisation.out_path.clone())
    }

    fn unknown(&self, outputs: &BTreeSet<DrvOutput>) -> Vec<DrvOutput> {
        let said = lock(&self.said);
        let is_known = |output: &&DrvOutput| said.get(*output).is_some_and(Said::counts);
        outputs.iter().filter(|output| !is_known(output)).cloned().collect()
    }

    fn remember(&self, told: Vec<(DrvOutput, Vec<Told>)>) {
        let mut said = lock(&self.said);
        if said.len() + told.len() > MAX_OUTPUTS {
            said.clear();
        }
        let since = Instant::now();
        let news = told.into_iter().take(MAX_OUTPUTS);
        said.extend(news.map(|(output, told)| (output, Said { since, told })));
    }

    /// Returns what is said, by output.
    fn all(&self) -> Vec<Vec<Told>> {
        let said = lock(&self.said);
        said.values().map(|said| said.told.clone()).filter(|told| !told.is_empty()).collect()
    }

    /// Returns what is said of these outputs.
    fn of(&self, outputs: &BTreeSet<DrvOutput>) -> Vec<Vec<Told>> {
        let said = lock(&self.said);
        outputs.iter().filter_map(|output| Some(said.get(output)?.told.clone())).collect()
    }

    fn forget(&self, output: &DrvOutput) {
        lock(&self.said).remove(output);
    }
}

/// Returns the first of several that is believed.
fn believed<'a>(view: &View, options: &LocalOptions, told: &'a [Told]) -> Option<&'a Realisation> {
    told.iter().find(|told| belief(view, options, told).is_ok()).map(|told| &told.what.realisation)
}

/// Asks what outputs became that nobody here knows, all substituters at the same time. Says whether
/// anything came of it; what became a path that is valid is registered.
pub(crate) async fn seek(
    store: &LocalStore,
    outputs: &BTreeSet<DrvOutput>,
) -> Result<Found, StoreError> {
    store.note_asked(outputs);
    let supply = store.supply().current();
    let unknown = supply.hearsay.unknown(outputs);
    if unknown.is_empty() || supply.is_empty() {
        return Ok(Found::Nothing);
    }
    let view = store.blocking(|view| Ok(view.clone())).await?;
    let list = supply.list().await;
    let asked = list
        .iter()
        .enumerate()
        .map(|(by, substituter)| ask(&supply, (by, substituter), &view, &unknown));
    let answers = join_all(asked).await;
    let mut found = Found::Nothing;
    let mut heard = Vec::new();
    for (at, output) in unknown.into_iter().enumerate() {
        let told: Vec<Told> = answers.iter().filter_map(|answer| answer.get(at)?.clone()).collect();
        for told in &told {
            match belief(&view, view.options(), told) {
                Ok(()) => found = Found::Something,
                Err(why) => {
                    let by = &told.by;
                    let text = format!("what '{by}' says that '{output}' became is ignored: {why}");
                    supply.note_once(&format!("{by} {why}"), text);
                }
            }
        }
        heard.push((output, told));
    }
    supply.hearsay.remember(heard);
    if found == Found::Something {
        register_of(store, outputs).await?;
    }
    Ok(found)
}

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Something,
    Nothing,
}

/// Asks one substituter. One that can't be asked is left alone for a while, one that knows nothing of
/// such outputs isn't worth a word. What it has said until it falls silent counts.
async fn ask(
    supply: &Supply,
    (by, substituter): (usize, &Substituter),
    view: &View,
    outputs: &[DrvOutput],
) -> Vec<Option<Told>> {
    let (store, vouching) = (&substituter.store, substituter.vouching);
    let mut told = Vec::with_capacity(outputs.len());
    if supply.rests(by) || *store.store_dir() != view.layout().store_dir {
        return told;
    }
    for part in outputs.chunks(AT_ONCE) {
        let why = match timeout(ASKING, store.realised(part)).await {
            Ok(Ok(answers)) => {
                let told_by = |what| Told { by: store.name().to_owned(), vouching, what };
                told.extend(answers.into_iter().map(|answer| answer.map(told_by)));
                continue;
            }
            Ok(Err(StoreError::Unsupported { .. } | StoreError::Refused { .. })) => return told,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it has not said within {} s what outputs became", ASKING.as_secs()),
        };
        supply.rest(by);
        let name = store.name();
        supply.note_once(name, format!("substituter '{name}' is left out: {why}"));
        break;
    }
    told
}

/// Says why what is told of an output isn't believed, if it isn't.
fn belief(view: &View, options: &LocalOptions, told: &Told) -> Result<(), String> {
    match (told.vouching, &options.signatures) {
        _ if options.realisations == SignedRealisations::Unneeded => {}
        (Vouching::Signature, RequiredSignatures::By(keys)) if !keys.vouch_for_told(&told.what) => {
            return Err("no trusted key has signed it (trusted-public-keys)".to_owned());
        }
        _ => {}
    }
    for (output, theirs) in &told.what.dependencies {
        let ours = view.opened.read(|database| database.realisation(output));
        let ours = ours.map_err(|error| error.to_string())?;
        if ours.is_some_and(|ours| ours.out_path != *theirs) {
            return Err(format!("it was made from another '{output}' than is here"));
        }
    }
    Ok(())
}

/// What a session has asked about, and so decides on by its own settings. On the rest, which others have asked
/// about, the store's decide.
enum Asked {
    All,
    These(BTreeSet<DrvOutput>),
}

impl Asked {
    fn has(&self, output: &DrvOutput) -> bool {
        match self {
            Asked::All => true,
            Asked::These(outputs) => outputs.contains(output),
        }
    }
}

/// Registers what is believed, as far as the paths are valid.
pub(crate) async fn register(store: &LocalStore) -> Result<(), StoreError> {
    register_said(store, Asked::These(store.session_asked()), Hearsay::all).await
}

/// The same, of these outputs only.
pub(crate) async fn register_of(
    store: &LocalStore,
    outputs: &BTreeSet<DrvOutput>,
) -> Result<(), StoreError> {
    register_said(store, Asked::All, |hearsay| hearsay.of(outputs)).await
}

async fn register_said(
    store: &LocalStore,
    asked: Asked,
    said: impl FnOnce(&Hearsay) -> Vec<Vec<Told>>,
) -> Result<(), StoreError> {
    let supply = store.supply();
    let said = said(&supply.hearsay);
    if said.is_empty() || store.layout().access == Access::ReadOnly {
        return Ok(());
    }
    store.blocking(move |view| register_valid(view, &asked, &supply.hearsay, &said)).await
}

fn register_valid(
    view: &View,
    asked: &Asked,
    hearsay: &Hearsay,
    said: &[Vec<Told>],
) -> Result<(), LocalError> {
    let paths = said.iter().flatten().map(|told| told.what.realisation.out_path.clone());
    let paths: BTreeSet<StorePath> = paths.collect();
    let valid = view.valid(&paths)?;
    view.hold(&valid)?;
    // whether it's believed takes longer to find out than whether it matters
    let is_valid = |told: &Told| valid.contains(&told.what.realisation.out_path);
    for told in said.iter().filter(|told| told.iter().any(is_valid)) {
        let is_own = told.iter().all(|told| asked.has(&told.what.realisation.id));
        let options = if is_own { view.options() } else { &view.shared.options };
        let Some(realisation) = believed(view, options, told)
            .filter(|realisation| valid.contains(&realisation.out_path))
        else {
            continue;
        };
        let registered = view.opened.write(|database| database.register_realisation(realisation));
        // somebody here has built it meanwhile, and it became something else
        if let Err(error) = registered {
            tracing::debug!(%error, "what a substituter said isn't registered");
        }
        hearsay.forget(&realisation.id);
    }
    Ok(())
}
