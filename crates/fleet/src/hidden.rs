//! References that a builder left out of what it says of its outputs.
//!
//! Nix believes a builder's list. Where one is left out, a collector takes away what is needed, here and
//! wherever the output goes. So what a machine built is searched for all that it can mention, as a builder
//! does itself, the first time that it passes through here; and so is what it says that it had already when it was
//! to build it, as that is no more than its word. What it was found to have without being asked to build it is
//! not: its references are believed for a signature, or for trust.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{OutputName, PathInfo, StoreDir, StorePath};
use drover_derivation::{BasicDerivation, Output};
use drover_recipe::{OutputRules, ReferenceScan};
use drover_schedule::Place;
use drover_store::{Built, PathStream, StoreError};

use crate::check::Lie;
use crate::lane::LaneContext;
use crate::merge::Origin;
use crate::places::Places;

/// What outputs of a build can mention.
#[derive(Clone)]
pub(crate) struct Mentionable {
    /// With all that they refer to.
    pub(crate) inputs: Arc<[StorePath]>,
    pub(crate) outputs: Arc<[StorePath]>,
}

/// Looks through the outputs of a build that came along with its answer, and notes what the others can
/// mention, for when they come.
pub(crate) fn look_through(
    context: &LaneContext,
    derivation: &BasicDerivation,
    inputs: &Arc<[StorePath]>,
    built: &Built,
) -> Result<(), Lie> {
    let (shared, berth) = (&context.shared, context.berth);
    let places = &shared.places;
    // who builds into the caller's own store is its own judge of what is valid there
    if berth.place == Place::Here || places.is_twin(berth.place) {
        return Ok(());
    }
    for (info, mentionable) in of_build(&shared.store_dir, derivation, inputs, built) {
        places.made(&info.path, mentionable, berth);
        if let Some((nar, mut search)) =
            built.nars.get(&info.path).zip(places.search(info, berth.place))
        {
            search.update(nar)?;
            places.searched(&info.path);
        }
    }
    Ok(())
}

/// Returns the outputs of a build that say what they refer to, with what they can mention.
fn of_build<'a>(
    store_dir: &StoreDir,
    derivation: &BasicDerivation,
    inputs: &Arc<[StorePath]>,
    built: &'a Built,
) -> Vec<(&'a PathInfo, Mentionable)> {
    let Ok(rules) = OutputRules::of(derivation, store_dir) else { return Vec::new() };
    let outputs = built.outputs.values().map(|info| info.path.clone()).collect();
    let mentionable = Mentionable { inputs: Arc::clone(inputs), outputs };
    // one with a fixed hash may be there for something else than a build of this, which couldn't refer to anything
    let is_fixed =
        |name: &OutputName| matches!(derivation.outputs.get(name), Some(Output::Fixed { .. }));
    let is_passed_over = |name: &str| {
        let name: Result<OutputName, _> = name.parse();
        name.is_ok_and(|name| {
            rules.discards_references(&name) || built.already_valid && is_fixed(&name)
        })
    };
    let honest = built.outputs.iter().filter(|(name, _)| !is_passed_over(name));
    honest.map(|(_, info)| (info, mentionable.clone())).collect()
}

/// A search of a NAR for what it mentions and doesn't refer to.
pub(crate) struct Search {
    path: StorePath,
    scan: ReferenceScan,
}

impl Search {
    pub(crate) fn new(info: &PathInfo, mentionable: &[StorePath]) -> Search {
        let hidden = mentionable.iter().filter(|path| !info.references.contains(*path));
        Search { path: info.path.clone(), scan: ReferenceScan::new(hidden) }
    }

    /// Searches the next piece.
    pub(crate) fn update(&mut self, piece: &[u8]) -> Result<(), Lie> {
        self.scan.update(piece);
        match self.scan.first() {
            None => Ok(()),
            Some(reference) => {
                Err(Lie::HiddenReference { path: self.path.clone(), reference: reference.clone() })
            }
        }
    }
}

/// Where what passes is searched.
#[derive(Clone)]
pub(crate) struct Watch {
    pub(crate) places: Arc<Places>,
    pub(crate) origin: Origin,
}

impl Watch {
    fn begin(&self, info: &PathInfo) -> Option<Search> {
        match self.origin {
            Origin::On { machine, .. } => self.places.search(info, Place::On(machine)),
            Origin::Here | Origin::Gone => None,
        }
    }

    /// Searches a NAR that is whole.
    pub(crate) fn whole(&self, store: &str, info: &PathInfo, nar: &[u8]) -> Result<(), StoreError> {
        let Some(mut search) = self.begin(info) else { return Ok(()) };
        search.update(nar).map_err(|lie| lie_of(store, &lie))?;
        self.places.searched(&info.path);
        Ok(())
    }

    /// Searches all that comes from a store.
    pub(crate) fn all(self, store: &str, stream: Box<dyn PathStream>) -> Box<dyn PathStream> {
        Box::new(Watched { watch: self, store: store.to_owned(), stream, search: None })
    }
}

fn lie_of(store: &str, lie: &Lie) -> StoreError {
    StoreError::Untrue { store: store.to_owned(), reason: lie.to_string() }
}

struct Watched {
    watch: Watch,
    store: String,
    stream: Box<dyn PathStream>,
    search: Option<Search>,
}

#[async_trait]
impl PathStream for Watched {
    fn count(&self) -> usize {
        self.stream.count()
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        let next = self.stream.next_path().await?;
        self.search = next.as_ref().and_then(|info| self.watch.begin(info));
        Ok(next)
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let chunk = self.stream.chunk().await?;
        match (&mut self.search, &chunk) {
            // before anybody has the last piece, who may register the path then
            (Some(search), Some(piece)) => {
                search.update(piece).map_err(|lie| lie_of(&self.store, &lie))?;
            }
            (Some(search), None) => {
                self.watch.places.searched(&search.path);
                self.search = None;
            }
            (None, _) => {}
        }
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use drover_core::{ContentAddress, Hash, HashAlgorithm, IngestionMethod, NarHash, NarSize};
    use rstest::rstest;

    use super::*;

    fn built(already_valid: bool) -> Built {
        let path = format!("{}-job", "0".repeat(32));
        let info = PathInfo {
            path: StorePath::from_base_name(&path).expect("a good name"),
            deriver: None,
            nar_hash: NarHash([1; 32]),
            nar_size: NarSize(1),
            references: BTreeSet::new(),
            registration_time: 0,
            ultimate: false,
            signatures: BTreeSet::new(),
            content_address: None,
        };
        let outputs = BTreeMap::from([("out".to_owned(), info)]);
        Built { outputs, already_valid, took: None, nars: BTreeMap::new() }
    }

    #[rstest]
    #[case::plain("{}", false, 1)]
    #[case::of_another(r#"{"unsafeDiscardReferences": {"dev": true}}"#, false, 1)]
    #[case::discarded(r#"{"unsafeDiscardReferences": {"out": true}}"#, false, 0)]
    #[case::had_before("{}", true, 1)]
    #[case::had_before_and_discarded(r#"{"unsafeDiscardReferences": {"out": true}}"#, true, 0)]
    fn what_is_searched(#[case] attributes: &str, #[case] had: bool, #[case] expected: usize) {
        let outputs = ["dev", "out"].map(|name| (name.parse().expect("a name"), Output::Deferred));
        assert_eq!(searched(attributes, outputs, had), expected);
    }

    /// What has the hash that it should have may have come from anywhere.
    #[rstest]
    #[case::made(false, 1)]
    #[case::had_before(true, 0)]
    fn what_is_searched_of_fixed_outputs(#[case] had: bool, #[case] expected: usize) {
        let path = built(had).outputs.into_values().next().expect("one").path;
        let hash = Hash::of(HashAlgorithm::Sha256, b"");
        let address = ContentAddress { method: IngestionMethod::Flat, hash };
        let output = Output::Fixed { address, path };
        assert_eq!(searched("{}", [("out".parse().expect("a name"), output)], had), expected);
    }

    fn searched(
        attributes: &str,
        outputs: impl Into<BTreeMap<OutputName, Output>>,
        had: bool,
    ) -> usize {
        let derivation = BasicDerivation {
            name: "job".parse().expect("a name"),
            outputs: outputs.into(),
            input_sources: BTreeSet::new(),
            system: "x86_64-linux".to_owned(),
            builder: b"/bin/sh".as_slice().into(),
            args: Vec::new(),
            environment: [("__json", attributes)].into_iter().collect(),
        };
        let (built, inputs) = (built(had), Arc::from([]));
        of_build(&StoreDir::default(), &derivation, &inputs, &built).len()
    }
}
