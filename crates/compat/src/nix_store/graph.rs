//! What paths refer to, as a tree, for GraphViz, and as GraphML.
//!
//! Follows `printTree` (`nix-store.cc`), `dotgraph.cc` and `graphml.cc` (`src/nix/nix-store`) of
//! Nix.

use std::collections::BTreeSet;

use drover_core::{PathInfo, StorePath};

use super::run::Session;
use crate::closure::{closure, references_first};
use crate::error::CompatError;

/// Prints what a path refers to as a tree; what was printed before is only named.
pub(super) async fn tree(
    session: &mut Session<'_>,
    root: StorePath,
    done: &mut BTreeSet<StorePath>,
) -> Result<(), CompatError> {
    let known = closure(&*session.store, [root.clone()]).await?;
    // what is still to be printed, last first: a path, what goes before it, and before what follows
    let mut waiting = vec![(root, String::new(), String::new())];
    while let Some((path, first_pad, tail_pad)) = waiting.pop() {
        let shown = session.shown(&path);
        if !done.insert(path.clone()) {
            session.console.line(format!("{first_pad}{shown} [...]")).await?;
            continue;
        }
        session.console.line(format!("{first_pad}{shown}")).await?;
        let references = known.get(&path).map(|info| &info.references).into_iter().flatten();
        let graph = references
            .filter_map(|path| known.get(path))
            .map(|info| (info.path.clone(), info.references.clone()))
            .collect();
        let children = references_first(&graph);
        let last = children.len().saturating_sub(1);
        for (number, child) in children.into_iter().enumerate().rev() {
            let (first, tail) = match number == last {
                true => ("└───", "    "),
                false => ("├───", "│   "),
            };
            waiting.push((child, format!("{tail_pad}{first}"), format!("{tail_pad}{tail}")));
        }
    }
    Ok(())
}

const COLOURS: [&str; 6] = ["black", "red", "green", "blue", "magenta", "burlywood"];

/// Prints what paths refer to for GraphViz.
pub(super) async fn dot(
    session: &mut Session<'_>,
    roots: BTreeSet<StorePath>,
) -> Result<(), CompatError> {
    let mut colours = COLOURS.iter().cycle();
    session.console.line("digraph G {").await?;
    for info in in_order(session, roots).await? {
        let (path, name) = (info.path.base_name(), info.path.name());
        let node = format!(
            "\"{path}\" [label = \"{name}\", shape = box, style = filled, fillcolor = \"#ff0000\"];"
        );
        session.console.line(node).await?;
        for reference in info.references.iter().filter(|reference| **reference != info.path) {
            let colour = colours.next().copied().unwrap_or_default();
            let reference = reference.base_name();
            let edge = format!("\"{reference}\" -> \"{path}\" [color = \"{colour}\"];");
            session.console.line(edge).await?;
        }
    }
    session.console.line("}").await
}

const GRAPH_ML_HEAD: &str = "<?xml version='1.0' encoding='utf-8'?>
<graphml xmlns='http://graphml.graphdrawing.org/xmlns'
    xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance'
    xsi:schemaLocation='http://graphml.graphdrawing.org/xmlns/1.0/graphml.xsd'>
<key id='narSize' for='node' attr.name='narSize' attr.type='long'/>\
<key id='name' for='node' attr.name='name' attr.type='string'/>\
<key id='type' for='node' attr.name='type' attr.type='string'/>\
<graph id='G' edgedefault='directed'>";

/// Prints what paths refer to as GraphML.
pub(super) async fn graph_ml(
    session: &mut Session<'_>,
    roots: BTreeSet<StorePath>,
) -> Result<(), CompatError> {
    session.console.line(GRAPH_ML_HEAD).await?;
    for info in in_order(session, roots).await? {
        let path = info.path.base_name();
        session.console.line(graph_ml_node(&info)).await?;
        for reference in info.references.iter().filter(|reference| **reference != info.path) {
            let reference = reference.base_name();
            let edge = format!("  <edge source=\"{path}\" target=\"{reference}\"/>");
            session.console.line(edge).await?;
        }
    }
    session.console.line("</graph>\n</graphml>").await
}

fn graph_ml_node(info: &PathInfo) -> String {
    // as Nix cuts it: up to the first dash, and nothing where there is none
    let name = info.path.name();
    let name = name.find('-').and_then(|dash| name.get(..=dash)).unwrap_or_default();
    let kind = match info.path.is_derivation() {
        true => "derivation",
        false => "output-path",
    };
    format!(
        "  <node id=\"{}\">\n    <data key=\"narSize\">{}</data>\n    <data \
         key=\"name\">{name}</data>\n    <data key=\"type\">{kind}</data>\n  </node>",
        info.path.base_name(),
        info.nar_size.0,
    )
}

/// Returns the infos of a closure as Nix walks through it: always the least path that was met and
/// not yet visited.
async fn in_order(
    session: &Session<'_>,
    roots: BTreeSet<StorePath>,
) -> Result<Vec<PathInfo>, CompatError> {
    let mut known = closure(&*session.store, roots.clone()).await?;
    let mut waiting = roots;
    let mut ordered = Vec::with_capacity(known.len());
    while let Some(path) = waiting.pop_first() {
        let Some(info) = known.remove(&path) else { continue };
        waiting.extend(info.references.iter().cloned());
        ordered.push(info);
    }
    Ok(ordered)
}
