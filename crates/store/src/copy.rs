//! The order in which paths can be copied from store to store.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{PathInfo, StorePath};

/// Returns infos so that references come before those that refer to them.
///
/// References that are not among the infos are passed over, as are those of a path to itself. A
/// cycle, which no store can have, is cut somewhere.
pub fn closure_order(infos: Vec<PathInfo>) -> Vec<PathInfo> {
    let mut waiting: BTreeMap<StorePath, PathInfo> =
        infos.into_iter().map(|info| (info.path.clone(), info)).collect();
    let all: Vec<StorePath> = waiting.keys().cloned().collect();
    let mut ordered = Vec::with_capacity(all.len());
    let mut seen: BTreeSet<StorePath> = BTreeSet::new();
    for start in all {
        let mut stack = vec![(start, Step::Enter)];
        while let Some((path, step)) = stack.pop() {
            match step {
                Step::Enter => {
                    let Some(info) = waiting.get(&path).filter(|_| !seen.contains(&path)) else {
                        continue;
                    };
                    seen.insert(path.clone());
                    stack.push((path, Step::Leave));
                    stack.extend(
                        info.references.iter().map(|reference| (reference.clone(), Step::Enter)),
                    );
                }
                Step::Leave => ordered.extend(waiting.remove(&path)),
            }
        }
    }
    ordered
}

#[derive(Clone, Copy)]
enum Step {
    Enter,
    Leave,
}

#[cfg(test)]
mod tests {
    use drover_core::{NarHash, NarSize};

    use super::*;

    fn info(name: &str, references: &[&str]) -> PathInfo {
        let path = |name: &str| {
            StorePath::from_base_name(&format!("{}-{name}", "0".repeat(32))).expect("a good name")
        };
        PathInfo {
            path: path(name),
            deriver: None,
            nar_hash: NarHash([0; 32]),
            nar_size: NarSize(0),
            references: references.iter().map(|name| path(name)).collect(),
            registration_time: 0,
            ultimate: false,
            signatures: BTreeSet::new(),
            content_address: None,
        }
    }

    #[test]
    fn references_come_first() {
        let infos =
            vec![info("a", &["b", "c", "a"]), info("b", &["c", "elsewhere"]), info("c", &[])];
        let order: Vec<String> =
            closure_order(infos).iter().map(|info| info.path.name().to_owned()).collect();
        assert_eq!(order, ["c", "b", "a"]);
    }
}
