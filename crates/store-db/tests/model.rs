//! Any sequence of registrations and invalidations does what it would do to a map.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use drover_core::StorePath;
use drover_store_db::{DbError, Registration};
use proptest::prelude::*;
use support::{create, info, path};

#[derive(Clone, Debug)]
enum Step {
    Register(Vec<(usize, BTreeSet<usize>)>),
    Invalidate(BTreeSet<usize>),
}

fn step() -> impl Strategy<Value = Step> {
    let references = || proptest::collection::btree_set(0..12usize, 0..4);
    prop_oneof![
        proptest::collection::vec((0..12usize, references()), 1..4).prop_map(Step::Register),
        proptest::collection::btree_set(0..12usize, 1..5).prop_map(Step::Invalidate),
    ]
}

type Model = BTreeMap<usize, BTreeSet<usize>>;

fn name(at: usize) -> String {
    format!("path-{at}")
}

/// Whether references among these lead back to where they came from, by way of another path.
fn circular(batch: &BTreeMap<usize, BTreeSet<usize>>) -> bool {
    batch.keys().any(|&start| {
        let mut seen = BTreeSet::new();
        let mut left = vec![start];
        while let Some(at) = left.pop() {
            for &next in batch.get(&at).into_iter().flatten().filter(|&&next| next != at) {
                if next == start {
                    return true;
                }
                if batch.contains_key(&next) && seen.insert(next) {
                    left.push(next);
                }
            }
        }
        false
    })
}

fn apply(model: &Model, step: &Step) -> Option<Model> {
    let mut next = model.clone();
    match step {
        Step::Register(batch) => {
            let batch: BTreeMap<usize, BTreeSet<usize>> = batch.iter().cloned().collect();
            if circular(&batch) {
                return None;
            }
            for (at, references) in &batch {
                next.entry(*at).or_default().extend(references);
            }
            let known = batch.values().flatten().all(|at| next.contains_key(at));
            known.then_some(next)
        }
        Step::Invalidate(paths) => {
            next.retain(|at, _| !paths.contains(at));
            let needed: BTreeSet<usize> = next.values().flatten().copied().collect();
            let free = paths.iter().all(|at| !(model.contains_key(at) && needed.contains(at)));
            free.then_some(next)
        }
    }
}

fn paths(set: &BTreeSet<usize>) -> BTreeSet<StorePath> {
    set.iter().map(|&at| path(&name(at))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn behaves_like_a_map(steps in proptest::collection::vec(step(), 1..25)) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut database = create(folder.path());
        let mut model = Model::new();
        for step in &steps {
            let done = match step {
                Step::Register(batch) => {
                    let batch: BTreeMap<usize, BTreeSet<usize>> = batch.iter().cloned().collect();
                    let registrations: Vec<Registration> = batch.iter().map(|(at, references)| {
                        let references: Vec<StorePath> = paths(references).into_iter().collect();
                        info(&name(*at), &references.iter().collect::<Vec<_>>()).into()
                    }).collect();
                    database.register(&registrations)
                }
                Step::Invalidate(which) => {
                    let which: Vec<StorePath> = paths(which).into_iter().collect();
                    database.invalidate(&which)
                }
            };
            match apply(&model, step) {
                Some(next) => { prop_assert!(done.is_ok(), "{step:?}: {done:?}"); model = next; }
                None => prop_assert!(matches!(
                    done,
                    Err(DbError::UnknownReference { .. } | DbError::InUse { .. } | DbError::Cycle { .. })
                ), "{step:?}: {done:?}"),
            }
            let keys: BTreeSet<usize> = model.keys().copied().collect();
            prop_assert_eq!(database.all_paths().expect("all"), paths(&keys));
            let graph = database.load_graph().expect("a graph");
            prop_assert_eq!(graph.len(), model.len());
            let referrers = graph.references().reversed();
            for (&at, references) in &model {
                let found = database.path_infos(&[path(&name(at))]).expect("infos");
                prop_assert_eq!(&found[0].as_ref().expect("valid").references, &paths(references));
                let node = graph.find(&path(&name(at))).expect("a node");
                let names = |nodes: &[drover_store_db::NodeId]| -> BTreeSet<StorePath> {
                    nodes.iter().map(|&node| graph.path(node).expect("a path").clone()).collect()
                };
                prop_assert_eq!(names(graph.references().of(node)), paths(references));
                let back = database.referrers(&path(&name(at))).expect("referrers");
                prop_assert_eq!(names(referrers.of(node)), back);
            }
        }
    }
}
