//! What derivations are called.

use std::sync::Arc;

use drover_core::{StoreDir, StorePath};
use drover_fleet::{Graph, NodeId};

/// Knows what the derivations of a graph are called.
pub(crate) trait Names: Send + Sync {
    /// Returns a derivation's whole path.
    fn path(&self, node: NodeId) -> String;

    /// Returns a store path, whole.
    fn whole(&self, path: &StorePath) -> String;

    /// Returns its name without hash and `.drv`.
    fn name(&self, node: NodeId) -> String {
        let path = self.path(node);
        let base = path.rsplit('/').next().unwrap_or_default();
        let name = base.split_once('-').map_or(base, |(_, name)| name);
        name.strip_suffix(".drv").unwrap_or(name).to_owned()
    }

    /// Returns its name without version, as Nix puts it before lines of a log.
    fn label(&self, node: NodeId) -> String {
        without_version(&self.name(node)).to_owned()
    }
}

/// The names in a graph.
pub(crate) struct GraphNames {
    /// The graph.
    pub(crate) graph: Arc<Graph>,
    /// The directory of the store.
    pub(crate) store_dir: StoreDir,
}

impl Names for GraphNames {
    fn path(&self, node: NodeId) -> String {
        match self.graph.node(node) {
            Some(node) => self.store_dir.display(&node.path),
            None => format!("derivation {}", node.0),
        }
    }

    fn whole(&self, path: &StorePath) -> String {
        self.store_dir.display(path)
    }
}

/// Returns a name up to the first dash that no letter follows, as `DrvName` of Nix does.
fn without_version(name: &str) -> &str {
    let is_end = |at: usize| {
        name.get(at + 1..)
            .and_then(|rest| rest.chars().next())
            .is_some_and(|next| !next.is_ascii_alphabetic())
    };
    let end = name.match_indices('-').map(|(at, _)| at).find(|at| is_end(*at));
    end.and_then(|end| name.get(..end)).unwrap_or(name)
}

/// Names from a list, for tests.
#[cfg(test)]
pub(crate) struct ListNames(pub(crate) &'static [&'static str]);

#[cfg(test)]
impl Names for ListNames {
    fn path(&self, node: NodeId) -> String {
        format!("/nix/store/{}-{}.drv", "a".repeat(32), self.0[node.0 as usize])
    }

    fn whole(&self, path: &StorePath) -> String {
        StoreDir::default().display(path)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("hello-2.12", "hello", "hello-2.12")]
    #[case("apache-httpd-2.4", "apache-httpd", "apache-httpd-2.4")]
    #[case("a", "a", "a")]
    #[case("end-", "end-", "end-")]
    fn labels(#[case] name: &'static str, #[case] label: &str, #[case] whole: &str) {
        let names: &'static [&'static str] = Box::leak(Box::new([name]));
        let names = ListNames(names);
        assert_eq!(names.label(NodeId(0)), label);
        assert_eq!(names.name(NodeId(0)), whole);
    }
}
