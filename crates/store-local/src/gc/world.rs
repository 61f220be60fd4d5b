//! All valid paths, and which of them live.
//!
//! What lives is closed: whatever a living path refers to lives. Marking is one pass over arrays,
//! where Nix asks its database twice for each path.

use std::collections::{BTreeSet, HashSet};

use drover_core::StorePath;
use drover_store_db::{Database, DbError, Derivations, Graph, NodeId};

/// What lives besides that which a living path refers to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keep {
    /// Outputs of living derivations (`keep-outputs`).
    pub(crate) outputs: bool,
    /// Derivations of living outputs (`keep-derivations`).
    pub(crate) derivations: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Dead,
    Alive,
    Deleted,
}

/// All valid paths as of one moment, and which of them live.
pub(super) struct World {
    graph: Graph,
    derivations: Derivations,
    keep: Keep,
    fates: Vec<Fate>,
    /// Ordered by path, and so by hash part.
    ordered: Vec<NodeId>,
    /// Hash parts of temporary roots.
    protected: HashSet<Box<str>>,
}

impl World {
    /// Reads what is valid. All of it is dead so far.
    pub(super) fn new(database: &Database, keep: Keep) -> Result<World, DbError> {
        let (graph, derivations) = if keep == Keep::default() {
            (database.load_graph()?, Derivations::default())
        } else {
            database.load_graph_with_derivations()?
        };
        let fates = vec![Fate::Dead; graph.len()];
        let (ordered, protected) = (Vec::new(), HashSet::new());
        Ok(World { graph, derivations, keep, fates, ordered, protected })
    }

    pub(super) fn is_valid(&self, path: &StorePath) -> bool {
        self.graph.find(path).is_some_and(|node| self.fate(node) != Fate::Deleted)
    }

    /// Whether a path lives; of one that isn't valid, whether a temporary root protects it.
    pub(super) fn is_alive(&self, path: &StorePath) -> bool {
        match self.graph.find(path) {
            Some(node) => self.fate(node) == Fate::Alive,
            None => self.is_protected(path),
        }
    }

    /// Whether there is a temporary root with this path's hash part.
    pub(super) fn is_protected(&self, path: &StorePath) -> bool {
        self.protected.contains(path.hash_part())
    }

    pub(super) fn find(&self, path: &StorePath) -> Option<NodeId> {
        self.graph.find(path)
    }

    pub(super) fn path(&self, node: NodeId) -> Option<&StorePath> {
        self.graph.path(node)
    }

    pub(super) fn nar_size(&self, node: NodeId) -> u64 {
        self.graph.nar_size(node).0
    }

    pub(super) fn is_dead(&self, node: NodeId) -> bool {
        self.fate(node) == Fate::Dead
    }

    fn fate(&self, node: NodeId) -> Fate {
        self.fates.get(node.index()).copied().unwrap_or(Fate::Deleted)
    }

    /// Returns the valid paths that live.
    pub(super) fn living(&self) -> impl Iterator<Item = &StorePath> {
        self.with_fate(Fate::Alive)
    }

    /// Returns the valid paths that don't.
    pub(super) fn dead(&self) -> impl Iterator<Item = &StorePath> {
        self.with_fate(Fate::Dead)
    }

    fn with_fate(&self, fate: Fate) -> impl Iterator<Item = &StorePath> {
        let nodes = self.graph.nodes().filter(move |(node, _)| self.fate(*node) == fate);
        nodes.map(|(_, path)| path)
    }

    /// Lets all live but some, and what those that live need.
    pub(super) fn keep_all_but(&mut self, some: &BTreeSet<StorePath>) {
        let others: Vec<NodeId> =
            self.graph.nodes().filter(|(_, path)| !some.contains(path)).map(|(n, _)| n).collect();
        self.mark(others);
    }

    /// Lets paths live where they are valid, and what they need.
    pub(super) fn keep<'a>(&mut self, paths: impl Iterator<Item = &'a StorePath>) {
        let nodes = paths.filter_map(|path| self.graph.find(path)).collect();
        self.mark(nodes);
    }

    /// Lets whatever has the hash part of one of these live, as temporary roots do.
    pub(super) fn protect<'a>(&mut self, paths: impl Iterator<Item = &'a StorePath>) {
        let mut nodes = Vec::new();
        for path in paths {
            let part = path.hash_part();
            if self.protected.insert(part.into()) {
                nodes.extend(self.with_hash_part(part));
            }
        }
        self.mark(nodes);
    }

    fn with_hash_part(&mut self, part: &str) -> Vec<NodeId> {
        if self.ordered.is_empty() {
            self.ordered = self.graph.nodes().map(|(node, _)| node).collect();
            let graph = &self.graph;
            self.ordered.sort_unstable_by_key(|node| graph.path(*node));
        }
        let hash_part = |node: &NodeId| self.graph.path(*node).map_or("", StorePath::hash_part);
        let start = self.ordered.partition_point(|node| hash_part(node) < part);
        let rest = self.ordered.iter().skip(start).copied();
        rest.take_while(|node| hash_part(node) == part).collect()
    }

    fn mark(&mut self, mut nodes: Vec<NodeId>) {
        while let Some(node) = nodes.pop() {
            let Some(fate @ Fate::Dead) = self.fates.get_mut(node.index()) else { continue };
            *fate = Fate::Alive;
            nodes.extend(self.needs(node).filter(|next| self.fate(*next) == Fate::Dead));
        }
    }

    /// Returns what has to live if `node` does.
    pub(super) fn needs(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        let Derivations { outputs, deriver, .. } = &self.derivations;
        let outputs = if self.keep.outputs { outputs.of(node) } else { &[] };
        let deriver = deriver.get(node.index()).copied().flatten();
        let deriver = deriver.filter(|_| self.keep.derivations);
        self.graph.references().of(node).iter().chain(outputs).copied().chain(deriver)
    }

    /// Forgets paths that have been deleted.
    pub(super) fn delete(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            if let Some(fate) = self.fates.get_mut(node.index()) {
                *fate = Fate::Deleted;
            }
        }
    }

    /// Returns the dead, each before what it refers to.
    pub(super) fn dead_in_order(&self) -> Dead {
        let mut referrers = vec![0_u32; self.graph.len()];
        let dead: Vec<NodeId> =
            self.graph.nodes().map(|(node, _)| node).filter(|node| self.is_dead(*node)).collect();
        let references = |node: NodeId| {
            let all = self.graph.references().of(node).iter().copied();
            all.filter(move |to| *to != node)
        };
        for to in dead.iter().flat_map(|node| references(*node)) {
            if let Some(count) = referrers.get_mut(to.index()) {
                *count += 1;
            }
        }
        let is_free = |referrers: &[u32], node: NodeId| referrers.get(node.index()) == Some(&0);
        let mut order: Vec<NodeId> =
            dead.iter().copied().filter(|node| is_free(&referrers, *node)).collect();
        let mut next = 0;
        while let Some(node) = order.get(next).copied() {
            next += 1;
            for to in references(node) {
                if let Some(count) = referrers.get_mut(to.index()) {
                    *count = count.saturating_sub(1);
                }
                if is_free(&referrers, to) && self.is_dead(to) {
                    order.push(to);
                }
            }
        }
        let together = dead.into_iter().filter(|node| !is_free(&referrers, *node)).collect();
        Dead { order, together }
    }
}

/// What is dead.
pub(super) struct Dead {
    /// Each before what it refers to.
    pub(super) order: Vec<NodeId>,
    /// Paths that refer to each other in circles, and what they refer to; no Nix has made such paths
    /// for a long time. They can only go all at once.
    pub(super) together: Vec<NodeId>,
}
