//! The map of the crates in `ARCHITECTURE.md`: its table has each crate once, with its layer, and its graph is drawn
//! from the manifests.
//!
//! The graph has an arrow for each dependency that doesn't follow from others.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::layers::Crate;
use super::{Finding, Rule};

/// The page of the map.
pub(super) const PAGE: &str = "ARCHITECTURE.md";
/// What stands above the graph.
const BEGIN: &str = "<!-- drawn by cargo xtask tidy --write -->\n";
/// What stands below it.
const END: &str = "<!-- end of what is drawn -->\n";
/// What all names of our crates begin with, which the page leaves out.
const PREFIX: &str = "drover-";

/// What is depended on, by who does.
type Edges<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// Checks the page against the crates.
pub(super) fn check(page: &str, crates: &[Crate]) -> Vec<Finding> {
    let mut findings = check_table(page, crates);
    match between(page) {
        Some((_, drawn, _)) if drawn == draw(crates) => {}
        Some(_) => {
            findings
                .push(breach(0, "the graph is an old one: cargo xtask tidy --write".to_owned()));
        }
        None => {
            findings.push(breach(0, format!("the graph's place isn't there: {}", BEGIN.trim())))
        }
    }
    findings
}

/// Returns the page with the graph as it is.
///
/// # Errors
///
/// The page has no place for it.
pub(super) fn rewrite(page: &str, crates: &[Crate]) -> Result<String> {
    match between(page) {
        Some((before, _, behind)) => Ok(format!("{before}{}{behind}", draw(crates))),
        None => bail!("{PAGE} has no place for the graph: '{}' and '{}'", BEGIN.trim(), END.trim()),
    }
}

fn breach(line: usize, message: String) -> Finding {
    Finding { path: PAGE.to_owned(), line, rule: Rule::Map, message, size: None }
}

/// Splits the page at the graph, with what stands above and below it on either side.
fn between(page: &str) -> Option<(&str, &str, &str)> {
    let begin = page.find(BEGIN)? + BEGIN.len();
    let end = begin + page.get(begin..)?.find(END)?;
    Some((page.get(..begin)?, page.get(begin..end)?, page.get(end..)?))
}

fn check_table(page: &str, crates: &[Crate]) -> Vec<Finding> {
    let rows: Vec<(usize, i64, &str)> = page
        .lines()
        .enumerate()
        .filter_map(|(at, line)| row(line).map(|(layer, name)| (at + 1, layer, name)))
        .collect();
    let mut findings = Vec::new();
    for it in crates {
        let name = short(&it.name);
        let told: Vec<_> = rows.iter().filter(|(_, _, told)| *told == name).collect();
        match (told.as_slice(), it.layer) {
            ([(line, told, _)], Some(layer)) if *told != layer => {
                findings.push(breach(*line, format!("{name} is on layer {layer}")));
            }
            ([_], _) => {}
            (told, _) => {
                findings.push(breach(0, format!("{} rows are about the crate {name}", told.len())));
            }
        }
    }
    let strangers =
        rows.iter().filter(|(_, _, name)| !crates.iter().any(|it| short(&it.name) == *name));
    findings.extend(
        strangers.map(|(line, _, name)| breach(*line, format!("there is no crate {name}"))),
    );
    findings
}

/// Returns layer and crate of a row of the table.
fn row(line: &str) -> Option<(i64, &str)> {
    let mut cells = line.strip_prefix("| ")?.split(" | ");
    let layer = cells.next()?.parse().ok()?;
    let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
    Some((layer, name))
}

fn short(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// Draws the crates, those of one layer side by side.
fn draw(crates: &[Crate]) -> String {
    let edges = edges(crates);
    let mut text = "```mermaid\ngraph TD\n".to_owned();
    let layers: BTreeSet<i64> = crates.iter().filter_map(|it| it.layer).collect();
    for layer in layers.into_iter().rev() {
        let on_it = crates.iter().filter(|it| it.layer == Some(layer));
        let names: BTreeSet<&str> = on_it.map(|it| short(&it.name)).collect();
        text += &format!("  subgraph layer-{layer}\n");
        names.iter().for_each(|name| text += &format!("    {name}\n"));
        text += "  end\n";
    }
    for (name, below) in &edges {
        let follows =
            |one: &&&str| below.iter().any(|other| *other != **one && reaches(&edges, other, one));
        let own: Vec<&str> = below.iter().filter(|one| !follows(one)).copied().collect();
        if !own.is_empty() {
            text += &format!("  {name} --> {}\n", own.join(" & "));
        }
    }
    text + "```\n"
}

fn edges(crates: &[Crate]) -> Edges<'_> {
    let ours: BTreeSet<&str> = crates.iter().map(|it| it.name.as_str()).collect();
    crates
        .iter()
        .map(|it| {
            let below = it.dependencies.iter().map(String::as_str);
            (short(&it.name), below.filter(|name| ours.contains(name)).map(short).collect())
        })
        .collect()
}

/// Whether a crate depends on another one, by however many steps.
fn reaches(edges: &Edges<'_>, from: &str, to: &str) -> bool {
    edges.get(from).is_some_and(|below| {
        below.contains(to) || below.iter().any(|next| reaches(edges, next, to))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crates() -> Vec<Crate> {
        let one = |name: &str, layer, below: &[&str]| Crate {
            path: format!("crates/{name}/Cargo.toml"),
            name: format!("drover-{name}"),
            layer: Some(layer),
            dependencies: below.iter().map(|name| (*name).to_owned()).collect(),
        };
        vec![
            one("core", 0, &["serde"]),
            one("nar", 1, &["drover-core"]),
            one("cli", 2, &["drover-core", "drover-nar"]),
        ]
    }

    const TABLE: &str =
        "| 0 | `core` | pure | x |\n| 1 | `nar` | pure | x |\n| 2 | `cli` | binary | x |\n";

    fn page(table: &str) -> String {
        rewrite(&format!("{table}\n{BEGIN}{END}\nrest\n"), &crates()).unwrap()
    }

    #[test]
    fn what_is_drawn_is_what_is_checked() {
        let page = page(TABLE);
        assert!(page.contains("\n  cli --> nar\n  nar --> core\n```"), "{page}");
        assert!(page.contains("  subgraph layer-1\n    nar\n  end\n") && page.ends_with("rest\n"));
        assert_eq!(check(&page, &crates()), []);
        assert_eq!(rewrite(&page, &crates()).unwrap(), page);
        let old = page.replace("cli --> nar", "cli --> core");
        assert!(check(&old, &crates())[0].message.contains("--write"));
        assert!(check(TABLE, &crates())[0].message.contains("isn't there"));
    }

    #[test]
    fn the_table_has_each_crate_once() {
        for (table, message) in [
            (TABLE.replace("| 1 |", "| 2 |"), "nar is on layer 1"),
            (TABLE.replace("| 1 | `nar` | pure | x |\n", ""), "0 rows are about the crate nar"),
            (TABLE.to_owned() + TABLE, "2 rows are about the crate core"),
            (TABLE.to_owned() + "| 2 | `gone` | pure | x |\n", "there is no crate gone"),
        ] {
            let findings = check(&page(&table), &crates());
            assert_eq!(findings[0].message, message);
        }
    }
}
