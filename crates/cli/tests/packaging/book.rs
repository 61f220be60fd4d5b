//! The pages of the book are all in it, and what they point to is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::repository;

/// Returns all pages, as paths below `docs`.
fn pages() -> BTreeSet<PathBuf> {
    let docs = repository("docs");
    let mut folders = vec![docs.clone()];
    let mut pages = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "md") {
                pages.insert(path.strip_prefix(&docs).unwrap().to_owned());
            }
        }
    }
    pages
}

/// Returns the targets of the links in a page, outside of code.
fn links(page: &str) -> Vec<String> {
    let mut code = false;
    let mut targets = Vec::new();
    for line in page.lines() {
        code ^= line.starts_with("```");
        if code || line.starts_with("    ") {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect();
        for rest in prose.split("](").skip(1) {
            targets.extend(rest.split_once(')').map(|(target, _)| target.to_owned()));
        }
    }
    targets
}

fn read(page: &Path) -> String {
    fs_err::read_to_string(repository("docs").join(page)).unwrap()
}

#[test]
fn every_page_is_in_the_summary() {
    let listed: BTreeSet<_> =
        links(&read(Path::new("SUMMARY.md"))).into_iter().map(PathBuf::from).collect();
    let mut pages = pages();
    assert!(pages.remove(Path::new("SUMMARY.md")));
    assert_eq!(listed, pages, "left: listed in docs/SUMMARY.md, right: there");
}

#[test]
fn links_lead_somewhere() {
    let docs = repository("docs");
    let mut checked = 0;
    for page in pages() {
        let folder = docs.join(&page).parent().unwrap().to_owned();
        for link in links(&read(&page)) {
            let target = link.split_once('#').map_or(link.as_str(), |(path, _)| path);
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(folder.join(target).exists(), "{}: '{link}' leads nowhere", page.display());
            checked += 1;
        }
    }
    assert!(20 < checked, "only {checked} links were found");
}
