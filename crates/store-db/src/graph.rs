//! The whole graph of references at once, for closures and the garbage collector.
//!
//! Stock Nix asks two questions per path; one scan of two tables takes a fraction of a second even
//! for 100,000 paths. Paths become small numbers, edges two arrays.

use std::collections::HashMap;

use drover_core::{NarSize, StorePath};
use rusqlite::Connection;

use crate::row::{RowId, parse_path};
use crate::transaction::Stop;
use crate::{Database, DbError};

/// A path's number in one [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

impl NodeId {
    /// Returns the number, less than the graph's [`Graph::len`].
    pub fn index(self) -> usize {
        self.0 as usize
    }

    pub(crate) fn new(index: usize) -> Result<NodeId, DbError> {
        u32::try_from(index).map(NodeId).map_err(|_| DbError::TooLarge)
    }
}

/// Edges from each path to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edges {
    /// Where each path's targets begin, and the end of the last one's.
    starts: Vec<u32>,
    targets: Vec<NodeId>,
}

impl Edges {
    /// Returns the targets of a path's edges, in no particular order.
    pub fn of(&self, node: NodeId) -> &[NodeId] {
        let bound = |at: usize| self.starts.get(at).map_or(0, |&start| start as usize);
        self.targets.get(bound(node.index())..bound(node.index() + 1)).unwrap_or_default()
    }

    /// Returns the number of edges.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Returns all edges the other way round: of references, the referrers.
    #[must_use]
    pub fn reversed(&self) -> Edges {
        let count = self.starts.len().saturating_sub(1);
        let pairs = (0..count).flat_map(|from| {
            let from = NodeId(u32::try_from(from).unwrap_or(u32::MAX));
            self.of(from).iter().map(move |&to| (to, from))
        });
        // Both numbers fitted into the edges that these are made from.
        Edges::collect(count, pairs.clone()).unwrap_or_default()
    }

    /// Sorts edges by their source, by counting.
    pub(crate) fn collect(
        nodes: usize,
        pairs: impl Iterator<Item = (NodeId, NodeId)> + Clone,
    ) -> Result<Edges, DbError> {
        let mut starts = vec![0u32; nodes + 1];
        for (from, _) in pairs.clone() {
            if let Some(count) = starts.get_mut(from.index() + 1) {
                *count = count.checked_add(1).ok_or(DbError::TooLarge)?;
            }
        }
        let mut sum = 0u32;
        for start in &mut starts {
            sum = sum.checked_add(*start).ok_or(DbError::TooLarge)?;
            *start = sum;
        }
        let mut next = starts.clone();
        let mut targets = vec![NodeId(0); sum as usize];
        for (from, to) in pairs {
            let Some(at) = next.get_mut(from.index()) else { continue };
            if let Some(slot) = targets.get_mut(*at as usize) {
                *slot = to;
            }
            *at += 1;
        }
        Ok(Edges { starts, targets })
    }
}

/// All valid paths and what they refer to, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    paths: Vec<StorePath>,
    sizes: Vec<NarSize>,
    numbers: HashMap<StorePath, NodeId>,
    references: Edges,
}

/// Which path was made by which derivation.
#[derive(Clone, Debug, Default)]
pub struct Derivations {
    /// From a derivation to those of its outputs that are valid.
    pub outputs: Edges,
    /// From an output to the valid derivations that have it.
    pub derivers: Edges,
    /// From a path to the derivation that it says it was made by, where that is valid.
    pub deriver: Vec<Option<NodeId>>,
}

impl Graph {
    /// Returns the graph of these paths, whose sizes are not known.
    pub(crate) fn of(paths: Vec<StorePath>, references: Edges) -> Result<Graph, DbError> {
        let mut graph = Graph { references, ..Graph::default() };
        for path in paths {
            graph.numbers.insert(path.clone(), NodeId::new(graph.paths.len())?);
            graph.paths.push(path);
        }
        Ok(graph)
    }

    /// Returns the number of paths.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Returns all paths with their numbers.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &StorePath)> {
        (0u32..).map(NodeId).zip(&self.paths)
    }

    /// Returns the number of a path, where it is valid.
    pub fn find(&self, path: &StorePath) -> Option<NodeId> {
        self.numbers.get(path).copied()
    }

    /// Returns the path of a number; nothing for one of another, larger graph.
    pub fn path(&self, node: NodeId) -> Option<&StorePath> {
        self.paths.get(node.index())
    }

    /// Returns the size of a path's NAR, 0 where unknown.
    pub fn nar_size(&self, node: NodeId) -> NarSize {
        self.sizes.get(node.index()).copied().unwrap_or_default()
    }

    /// Returns the references; [`Edges::reversed`] of them are the referrers.
    pub fn references(&self) -> &Edges {
        &self.references
    }

    /// Returns what can be reached along edges from some paths, these among them; each once, in the
    /// order of the search.
    pub fn reachable(
        &self,
        starts: impl IntoIterator<Item = NodeId>,
        edges: &Edges,
    ) -> Vec<NodeId> {
        let mut seen = vec![false; self.len()];
        let mut found = Vec::new();
        let mut visit = |node: NodeId, found: &mut Vec<NodeId>| match seen.get_mut(node.index()) {
            Some(seen) if !*seen => {
                *seen = true;
                found.push(node);
            }
            _ => {}
        };
        for start in starts {
            visit(start, &mut found);
        }
        let mut at = 0;
        while let Some(&node) = found.get(at) {
            at += 1;
            for &next in edges.of(node) {
                visit(next, &mut found);
            }
        }
        found
    }
}

impl Database {
    /// Reads the whole graph of references, in one state of the database.
    ///
    /// Takes about 150 bytes a path and 4 bytes a reference.
    ///
    /// # Errors
    ///
    /// A row that is no path of this store, and failures of SQLite.
    pub fn load_graph(&self) -> Result<Graph, DbError> {
        self.read(|connection| self.read_graph(connection).map(|(graph, _)| graph))
    }

    /// Reads the graph and what is known of derivations, in one state of the database.
    ///
    /// # Errors
    ///
    /// As [`Database::load_graph`].
    pub fn load_graph_with_derivations(&self) -> Result<(Graph, Derivations), DbError> {
        self.read(|connection| {
            let (graph, rows) = self.read_graph(connection)?;
            let derivations = self.read_derivations(connection, &graph, &rows)?;
            Ok((graph, derivations))
        })
    }

    /// Returns the graph, and the row of each path; rows are in ascending order.
    pub(crate) fn read_graph(&self, connection: &Connection) -> Result<(Graph, Vec<RowId>), Stop> {
        let mut graph = Graph::default();
        let mut ids: Vec<RowId> = Vec::new();
        let mut statement =
            connection.prepare_cached("select id, path, narSize from ValidPaths order by id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let path = parse_path(&self.store_dir, row.get_ref(1)?.as_str().unwrap_or(""))?;
            let node = NodeId::new(ids.len())?;
            let size: Option<i64> = row.get(2)?;
            ids.push(row.get(0)?);
            graph.numbers.insert(path.clone(), node);
            graph.paths.push(path);
            graph.sizes.push(NarSize(size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0)));
        }
        let mut pairs = Vec::new();
        let mut statement = connection.prepare_cached("select referrer, reference from Refs")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if let (Some(from), Some(to)) = (number(&ids, row.get(0)?), number(&ids, row.get(1)?)) {
                pairs.push((from, to));
            }
        }
        graph.references = Edges::collect(ids.len(), pairs.iter().copied())?;
        Ok((graph, ids))
    }

    fn read_derivations(
        &self,
        connection: &Connection,
        graph: &Graph,
        ids: &[RowId],
    ) -> Result<Derivations, Stop> {
        let find = |text: &str| {
            let base_name = text.strip_prefix(self.store_dir.as_str())?.strip_prefix('/')?;
            graph.find(&StorePath::from_base_name(base_name).ok()?)
        };
        let mut pairs = Vec::new();
        let mut statement = connection.prepare_cached("select drv, path from DerivationOutputs")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let output = find(row.get_ref(1)?.as_str().unwrap_or(""));
            if let (Some(derivation), Some(output)) = (number(ids, row.get(0)?), output) {
                pairs.push((derivation, output));
            }
        }
        let outputs = Edges::collect(ids.len(), pairs.iter().copied())?;
        let mut deriver = vec![None; ids.len()];
        let mut statement = connection
            .prepare_cached("select id, deriver from ValidPaths where deriver is not null")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let slot = number(ids, row.get(0)?).and_then(|node| deriver.get_mut(node.index()));
            if let Some(slot) = slot {
                *slot = find(row.get_ref(1)?.as_str().unwrap_or(""));
            }
        }
        Ok(Derivations { derivers: outputs.reversed(), outputs, deriver })
    }
}

fn number(ids: &[RowId], id: RowId) -> Option<NodeId> {
    ids.binary_search(&id).ok().and_then(|index| NodeId::new(index).ok())
}
