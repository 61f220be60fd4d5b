//! The graph of derivations below what was asked for.

use std::collections::HashMap;
use std::sync::Arc;

use drover_core::{StoreDir, StorePath};
use drover_derivation::{Derivation, DerivationError, DerivationKind, derivation_name};
use drover_store::{Store, StoreError};

/// A derivation's place in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// A derivation in the graph.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its path.
    pub path: StorePath,
    /// What it says.
    pub derivation: Arc<Derivation>,
}

/// Derivations, those that others depend on among them.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    by_path: HashMap<StorePath, NodeId>,
}

/// Why a graph could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// A path that isn't a derivation's.
    #[error("'{path}' is not a derivation: its name doesn't end in .drv")]
    NotADerivation {
        /// The path.
        path: StorePath,
    },
    /// A file that isn't a derivation.
    #[error("cannot read '{path}'")]
    Malformed {
        /// The path.
        path: StorePath,
        /// What is wrong with it.
        source: DerivationError,
    },
    /// A derivation's file that was changed: its path follows from other contents.
    #[error(
        "derivation '{path}' was modified! its contents are those of '{actual}'; restore it with \
         `nix-store --repair-path {path}`"
    )]
    Modified {
        /// The path, whole.
        path: String,
        /// The path that follows from the contents, whole.
        actual: String,
    },
    /// What is pure can't be made of what is another each time.
    #[error("pure derivation '{derivation}' depends on impure derivation '{input}'")]
    ImpureInput {
        /// The path, whole.
        derivation: String,
        /// The input's path, whole.
        input: String,
    },
    /// A derivation that was asked for and is not in the graph that was read.
    #[error("'{path}' is not in the graph")]
    NotInGraph {
        /// The path.
        path: StorePath,
    },
    /// The store.
    #[error("cannot read derivations")]
    Store {
        /// What it said.
        #[from]
        source: StoreError,
    },
    /// Too many derivations.
    #[error("the graph has more than {limit} derivations")]
    TooLarge {
        /// The most that are taken.
        limit: usize,
    },
}

/// Derivations that a graph may have.
const LIMIT: usize = 4_000_000;

impl Graph {
    /// Reads the derivations and all that they depend on, level by level.
    ///
    /// # Errors
    ///
    /// One that isn't there, isn't a derivation, or isn't the one that its path names; nothing was
    /// asked of any builder then.
    pub async fn read(store: &dyn Store, roots: &[StorePath]) -> Result<Graph, GraphError> {
        let mut graph = Graph::default();
        let mut level: Vec<StorePath> = Vec::new();
        graph.note(roots.iter(), &mut level)?;
        while !level.is_empty() {
            let files = store.read_files(&level).await?;
            let mut next = Vec::new();
            for (path, file) in std::mem::take(&mut level).into_iter().zip(files) {
                let Some(name) = derivation_name(&path) else {
                    return Err(GraphError::NotADerivation { path });
                };
                let derivation = Derivation::parse_aterm(store.store_dir(), &name, &file)
                    .map_err(|source| GraphError::Malformed { path: path.clone(), source })?;
                check_path(store.store_dir(), &path, &derivation)?;
                graph.note(derivation.input_derivations.keys(), &mut next)?;
                graph.nodes.push(Node { path, derivation: Arc::new(derivation) });
            }
            level = next;
        }
        Ok(graph)
    }

    /// Gives numbers to derivations that have none yet, in the order in which they will be read.
    fn note<'a>(
        &mut self,
        paths: impl Iterator<Item = &'a StorePath>,
        next: &mut Vec<StorePath>,
    ) -> Result<(), GraphError> {
        for path in paths {
            if self.by_path.contains_key(path) {
                continue;
            }
            let number = u32::try_from(self.by_path.len())
                .ok()
                .filter(|_| self.by_path.len() < LIMIT)
                .ok_or(GraphError::TooLarge { limit: LIMIT })?;
            self.by_path.insert(path.clone(), NodeId(number));
            next.push(path.clone());
        }
        Ok(())
    }

    /// Checks that only impure derivations and fixed outputs are made of impure ones.
    ///
    /// Follows `DerivationResolutionGoal::resolveDerivation` in
    /// `src/libstore/build/derivation-resolution-goal.cc` of Nix.
    ///
    /// # Errors
    ///
    /// [`GraphError::ImpureInput`] for the first of the nodes that is.
    pub(crate) fn check_purity(
        &self,
        store_dir: &StoreDir,
        nodes: impl Iterator<Item = NodeId>,
    ) -> Result<(), GraphError> {
        let kind = |node: &Node| node.derivation.kind().ok();
        for node in nodes.filter_map(|id| self.node(id)) {
            if matches!(kind(node), Some(DerivationKind::Impure | DerivationKind::Fixed)) {
                continue;
            }
            let inputs = node.derivation.input_derivations.keys();
            let mut inputs = inputs.filter_map(|path| self.node(self.find(path)?));
            if let Some(input) = inputs.find(|input| kind(input) == Some(DerivationKind::Impure)) {
                return Err(GraphError::ImpureInput {
                    derivation: store_dir.display(&node.path),
                    input: store_dir.display(&input.path),
                });
            }
        }
        Ok(())
    }

    /// Returns how many derivations there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Returns a derivation by its number.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.0 as usize)
    }

    /// Returns a derivation's number.
    pub fn find(&self, path: &StorePath) -> Option<NodeId> {
        self.by_path.get(path).copied()
    }

    /// Returns all derivations with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        (0..).map(NodeId).zip(&self.nodes)
    }
}

/// Checks that a derivation is the one whose path it has, which follows from its text. What it says
/// of its outputs' paths was checked when it was added, and would be believed.
fn check_path(
    store_dir: &StoreDir,
    path: &StorePath,
    derivation: &Derivation,
) -> Result<(), GraphError> {
    let malformed = |source| GraphError::Malformed { path: path.clone(), source };
    let actual = derivation.derivation_path(store_dir).map_err(malformed)?;
    if actual == *path {
        return Ok(());
    }
    let [path, actual] = [path, &actual].map(|path| store_dir.display(path));
    Err(GraphError::Modified { path, actual })
}
