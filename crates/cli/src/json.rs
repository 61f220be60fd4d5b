//! Results as JSON, as `nix build --json` prints them.

use drover_core::StoreDir;
use drover_fleet::{Graph, Target, TargetResult};
use serde_json::{Map, Value, json};

/// Returns what was built: an array with the derivation and the paths of its outputs.
pub(crate) fn built(results: &[TargetResult], store_dir: &StoreDir) -> Value {
    let results = results.iter().filter_map(|result| {
        let outputs: Map<String, Value> = result
            .outcome
            .as_ref()
            .ok()?
            .iter()
            .map(|(name, path)| (name.to_string(), store_dir.display(path).into()))
            .collect();
        Some(json!({ "drvPath": store_dir.display(&result.target.derivation), "outputs": outputs }))
    });
    results.collect()
}

/// Returns what would be built, with those paths of outputs that are known beforehand.
pub(crate) fn planned(targets: &[Target], graph: &Graph, store_dir: &StoreDir) -> Value {
    let targets = targets.iter().map(|target| {
        let node = graph.find(&target.derivation).and_then(|node| graph.node(node));
        let outputs: Map<String, Value> = node
            .into_iter()
            .flat_map(|node| &node.derivation.outputs)
            .filter(|(name, _)| target.outputs.is_empty() || target.outputs.contains(*name))
            .map(|(name, output)| {
                let path = output.path().map(|path| store_dir.display(path));
                (name.to_string(), path.into())
            })
            .collect();
        json!({ "drvPath": store_dir.display(&target.derivation), "outputs": outputs })
    });
    targets.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use drover_core::{OutputName, StorePath};

    use super::*;

    #[test]
    fn has_the_form_of_nix() {
        let path = |name: &str| {
            StorePath::from_base_name(&format!("3880j94arxkya3irs3d8nr2x076sp1m8-{name}")).unwrap()
        };
        let results = [TargetResult {
            target: Target { derivation: path("a.drv"), outputs: BTreeSet::new() },
            outcome: Ok(BTreeMap::from([
                (OutputName::out(), path("a")),
                ("dev".parse().unwrap(), path("a-dev")),
            ])),
        }];
        let expected = json!([{
            "drvPath": "/nix/store/3880j94arxkya3irs3d8nr2x076sp1m8-a.drv",
            "outputs": {
                "dev": "/nix/store/3880j94arxkya3irs3d8nr2x076sp1m8-a-dev",
                "out": "/nix/store/3880j94arxkya3irs3d8nr2x076sp1m8-a",
            },
        }]);
        assert_eq!(built(&results, &StoreDir::default()), expected);
    }
}
