//! Why a path lives: the root, and the way from there.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use drover_core::StorePath;
use drover_store_db::NodeId;

use super::world::World;

/// Steps of a way that are shown.
const SHOWN: usize = 20;

/// Why a path lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// A root leads to it.
    Root {
        /// The root's link, as in the list of roots.
        link: String,
        /// The paths from the root's to the one that lives, each needed by the one before.
        way: Vec<StorePath>,
    },
    /// Others need it that no root needs, and that were not to be deleted with it.
    Needed {
        /// Some of them.
        by: Vec<StorePath>,
    },
    /// A process has said meanwhile that it uses it.
    Announced,
}

/// Finds the shortest way from a root to a path that lives.
pub(super) fn explain<'a>(
    world: &World,
    path: &StorePath,
    roots: impl Iterator<Item = &'a (String, StorePath)>,
) -> Why {
    let roots: Vec<&(String, StorePath)> = roots.collect();
    let same = |root: &&&(String, StorePath)| root.1.hash_part() == path.hash_part();
    if let Some((link, _)) = roots.iter().find(same) {
        return Why::Root { link: link.clone(), way: vec![path.clone()] };
    }
    let Some(target) = world.find(path) else { return Why::Announced };
    let links: HashMap<NodeId, &str> =
        roots.iter().filter_map(|(link, path)| Some((world.find(path)?, link.as_str()))).collect();
    if let Some((start, way)) = way(world, links.keys().copied(), target) {
        let link = links.get(&start).copied().unwrap_or_default().to_owned();
        return Why::Root { link, way };
    }
    let all = world.living().filter_map(|path| world.find(path));
    let by: Vec<StorePath> = all
        .filter(|node| *node != target && world.needs(*node).any(|next| next == target))
        .filter_map(|node| world.path(node).cloned())
        .take(SHOWN)
        .collect();
    if by.is_empty() { Why::Announced } else { Why::Needed { by } }
}

fn way(
    world: &World,
    starts: impl Iterator<Item = NodeId>,
    target: NodeId,
) -> Option<(NodeId, Vec<StorePath>)> {
    let mut from: HashMap<NodeId, NodeId> = starts.map(|node| (node, node)).collect();
    let mut queue: VecDeque<NodeId> = from.keys().copied().collect();
    while let Some(node) = queue.pop_front() {
        if node == target {
            break;
        }
        for next in world.needs(node) {
            from.entry(next).or_insert_with(|| {
                queue.push_back(next);
                node
            });
        }
    }
    let mut way = Vec::new();
    let mut node = target;
    loop {
        way.extend(world.path(node).cloned());
        match from.get(&node)? {
            before if *before == node => break,
            before => node = *before,
        }
    }
    way.reverse();
    Some((node, way))
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Root { link, way } => {
                write!(f, "\n  the root {link}")?;
                for path in way.iter().take(SHOWN) {
                    write!(f, "\n  needs {path}")?;
                }
                match way.len().saturating_sub(SHOWN) {
                    0 => Ok(()),
                    more => write!(f, "\n  and so on, {more} more"),
                }
            }
            Why::Needed { by } => {
                by.iter().try_for_each(|path| write!(f, "\n  it is needed by {path}"))
            }
            Why::Announced => write!(f, "\n  a process has begun to use it"),
        }
    }
}
