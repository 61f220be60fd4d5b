//! What paths refer to, directly and further on, in the order in which Nix lists it.
//!
//! Follows `topoSort` (`src/libutil/topo-sort.hh`) of Nix.

use std::collections::{BTreeSet, HashMap};

use drover_core::StorePath;
use rusqlite::Connection;

use crate::graph::{Edges, Graph, NodeId};
use crate::question::row_id;
use crate::row::{RowId, parse_path};
use crate::transaction::Stop;
use crate::{Database, DbError};

/// Paths up to which the database is asked about each; beyond, it is read as a whole.
const FEW: usize = 2000;

/// As much of the graph of references as was read.
enum Part {
    /// All that can be reached.
    Reached(Graph),
    /// More than is worth asking for path by path.
    TooMuch,
    /// One of the starts isn't valid.
    NotValid,
}

impl Database {
    /// Returns paths and all that they refer to, each after what it refers to and otherwise by name;
    /// `None` where one of them isn't valid.
    ///
    /// # Errors
    ///
    /// A row that is no path of this store, and failures of SQLite.
    pub fn requisites(
        &self,
        starts: &BTreeSet<StorePath>,
    ) -> Result<Option<Vec<StorePath>>, DbError> {
        self.read(|connection| {
            let graph = match self.read_reachable(connection, starts)? {
                Part::Reached(graph) => graph,
                Part::TooMuch => self.read_graph(connection)?.0,
                Part::NotValid => return Ok(None),
            };
            Ok(Some(graph.requisites(starts)))
        })
    }

    fn read_reachable(
        &self,
        connection: &Connection,
        starts: &BTreeSet<StorePath>,
    ) -> Result<Part, Stop> {
        let mut rows: Vec<RowId> = Vec::new();
        let mut nodes: HashMap<RowId, NodeId> = HashMap::new();
        let mut number = |row: RowId, rows: &mut Vec<RowId>| -> Result<NodeId, DbError> {
            if let Some(&node) = nodes.get(&row) {
                return Ok(node);
            }
            let node = NodeId::new(rows.len())?;
            rows.push(row);
            nodes.insert(row, node);
            Ok(node)
        };
        for start in starts {
            match row_id(connection, &self.store_dir.display(start))? {
                Some(row) => number(row, &mut rows)?,
                None => return Ok(Part::NotValid),
            };
        }
        let mut references =
            connection.prepare_cached("select reference from Refs where referrer = ?")?;
        let mut pairs = Vec::new();
        let mut at = 0;
        while let Some(&row) = rows.get(at) {
            if FEW < rows.len() {
                return Ok(Part::TooMuch);
            }
            let from = NodeId::new(at)?;
            let mut found = references.query([row])?;
            while let Some(reference) = found.next()? {
                pairs.push((from, number(reference.get(0)?, &mut rows)?));
            }
            at += 1;
        }
        let mut name = connection.prepare_cached("select path from ValidPaths where id = ?")?;
        let mut paths = Vec::with_capacity(rows.len());
        for row in &rows {
            let text: String = name.query_row([row], |found| found.get(0))?;
            paths.push(parse_path(&self.store_dir, &text)?);
        }
        let edges = Edges::collect(paths.len(), pairs.iter().copied())?;
        Ok(Part::Reached(Graph::of(paths, edges)?))
    }
}

impl Graph {
    /// Returns what can be reached from some paths, each after what it refers to and otherwise by
    /// name.
    fn requisites(&self, starts: &BTreeSet<StorePath>) -> Vec<StorePath> {
        let starts = starts.iter().filter_map(|path| self.find(path));
        let mut reached = self.reachable(starts, self.references());
        reached.sort_unstable_by_key(|node| self.path(*node));
        let mut ranks = vec![0; self.len()];
        for (rank, node) in reached.iter().enumerate() {
            if let Some(slot) = ranks.get_mut(node.index()) {
                *slot = rank;
            }
        }
        let by_name = |node: NodeId| {
            let mut next = self.references().of(node).to_vec();
            next.sort_unstable_by_key(|to| ranks.get(to.index()));
            next.into_iter()
        };
        let mut seen = vec![false; self.len()];
        let mut is_new = |node: NodeId| match seen.get_mut(node.index()) {
            Some(seen) => !std::mem::replace(seen, true),
            None => false,
        };
        let mut listed = Vec::with_capacity(reached.len());
        for start in reached {
            if !is_new(start) {
                continue;
            }
            let mut stack = vec![(start, by_name(start))];
            while let Some((node, rest)) = stack.last_mut() {
                match rest.find(|next| is_new(*next)) {
                    Some(next) => stack.push((next, by_name(next))),
                    None => {
                        listed.extend(self.path(*node).cloned());
                        stack.pop();
                    }
                }
            }
        }
        listed
    }
}
