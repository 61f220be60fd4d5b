//! The order in which outputs can be finished: each after those that it refers to.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::OutputName;

/// Two outputs that refer to each other, by way of others or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cycle {
    pub(crate) from: OutputName,
    pub(crate) to: OutputName,
}

/// Returns outputs in an order in which each comes after those that it refers to. That one refers to
/// itself doesn't count.
pub(crate) fn finishing_order(
    references: &BTreeMap<OutputName, BTreeSet<OutputName>>,
) -> Result<Vec<OutputName>, Cycle> {
    let mut order = Vec::with_capacity(references.len());
    let mut left: BTreeMap<&OutputName, BTreeSet<&OutputName>> = references
        .iter()
        .map(|(name, to)| (name, to.iter().filter(|to| *to != name).collect()))
        .collect();
    while !left.is_empty() {
        let free = left.iter().find(|(_, to)| to.iter().all(|to| !left.contains_key(to)));
        let Some(free) = free.map(|(name, _)| *name) else { break };
        left.remove(free);
        order.push(free.clone());
    }
    let among = |to: &&&OutputName| left.contains_key(**to);
    match left.iter().find_map(|(from, to)| Some((*from, *to.iter().find(among)?))) {
        Some((from, to)) => Err(Cycle { from: from.clone(), to: to.clone() }),
        None => Ok(order),
    }
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
    }

    #[test]
    fn a_circle_has_no_order() {
        let found = order(&[("a", &["b"]), ("b", &["a"]), ("c", &[])]).unwrap_err();
        assert_eq!((found.from.to_string(), found.to.to_string()), ("a".into(), "b".into()));
    }
}
