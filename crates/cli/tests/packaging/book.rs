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

/// Returns what mdBook names the headings of a page: https://rust-lang.github.io/mdBook/format/markdown.html.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut code = false;
    let mut anchors = BTreeSet::new();
    for line in page.lines() {
        code ^= line.starts_with("```");
        let Some(heading) = line.strip_prefix('#').filter(|_| !code) else { continue };
        let kept = heading.trim_start_matches('#').trim().chars().filter_map(|one| match one {
            _ if one.is_alphanumeric() || one == '_' || one == '-' => Some(one),
            _ => one.is_whitespace().then_some('-'),
        });
        let name: String = kept.flat_map(char::to_lowercase).collect();
        let later = (1..).map(|number| format!("{name}-{number}"));
        let free = std::iter::once(name.clone()).chain(later).find(|name| !anchors.contains(name));
        anchors.extend(free);
    }
    anchors
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
            if link.contains("://") {
                continue;
            }
            let (target, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let to = match target {
                "" => docs.join(&page),
                _ => folder.join(target),
            };
            assert!(to.exists(), "{}: '{link}' leads nowhere", page.display());
            if !anchor.is_empty() {
                let there = anchors(&fs_err::read_to_string(&to).unwrap());
                assert!(there.contains(anchor), "{}: '{link}': only {there:?}", page.display());
            }
            checked += 1;
        }
    }
    assert!(20 < checked, "only {checked} links were found");
}
