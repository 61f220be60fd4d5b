//! The order in which outputs can be finished: each after those that it refers to.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::OutputName;

/// Two outputs that refer to each other, by way of others or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cycle {
    pub(crate) from: OutputName,
    pub(crate) to: OutputName,
}

/// Returns outputs in an order in which each comes after those that it refers to; otherwise by their
/// names, as in Nix, where it shows in what discards its references. That one refers to itself doesn't
/// count.
///
/// Follows `topoSort` of Nix (`src/libutil/include/nix/util/topo-sort.hh`) as `registerOutputs` uses it.
pub(crate) fn finishing_order(
    references: &BTreeMap<OutputName, BTreeSet<OutputName>>,
) -> Result<Vec<OutputName>, Cycle> {
    let mut order = Vec::with_capacity(references.len());
    // those on the way from the first, each with what of its references is still to be looked at
    let mut way: Vec<(&OutputName, Vec<&OutputName>)> = Vec::new();
    let left = |name: &OutputName| -> Vec<&OutputName> {
        let to = references.get_key_value(name).map(|(_, to)| to);
        to.into_iter()
            .flatten()
            .filter(|to| *to != name && references.contains_key(*to))
            .rev()
            .collect()
    };
    let mut seen = BTreeSet::new();
    for first in references.keys() {
        if seen.insert(first) {
            way.push((first, left(first)));
        }
        while let Some((from, to)) = way.last_mut() {
            let from: &OutputName = from;
            match to.pop() {
                None => {
                    order.push(from.clone());
                    way.pop();
                }
                Some(to) if way.iter().any(|(name, _)| *name == to) => {
                    return Err(Cycle { from: from.clone(), to: to.clone() });
                }
                Some(to) if seen.insert(to) => way.push((to, left(to))),
                Some(_) => {}
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(edges: &[(&str, &[&str])]) -> Result<Vec<String>, Cycle> {
        let name = |text: &&str| text.parse::<OutputName>().unwrap();
        let references =
            edges.iter().map(|(from, to)| (name(from), to.iter().map(name).collect())).collect();
        let order = finishing_order(&references)?;
        Ok(order.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_is_referred_to_comes_first() {
        assert_eq!(
            order(&[("a", &["a", "b"]), ("b", &["c"]), ("c", &[])]).unwrap(),
            ["c", "b", "a"]
        );
        assert_eq!(order(&[("a", &["d"]), ("b", &[]), ("d", &[])]).unwrap(), ["d", "a", "b"]);
    }

    #[test]
    fn a_circle_has_no_order() {
        let found = order(&[("a", &["b"]), ("b", &["a"]), ("c", &[])]).unwrap_err();
        assert_eq!((found.from.to_string(), found.to.to_string()), ("b".into(), "a".into()));
    }
}
