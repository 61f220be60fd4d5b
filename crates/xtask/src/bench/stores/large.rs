//! Large stores: many paths, and many bytes.

use anyhow::Result;

use super::graph::{self, URI};
use super::paths::{Numbers, Paths, one_file};
use super::rows::Sample;
use super::site::{Site, Spent, empty, settle};

/// Makes the store of 100,000 paths.
pub(super) fn make_graph(site: &Site) -> Result<()> {
    graph::make(&site.near)?;
    settle(&site.near)
}

pub(super) fn dead(site: &Site) -> Result<Sample> {
    let out = "/nix/bench/dead";
    let time = site.time(&format!("nix-store --store '{URI}' --gc --print-dead >{out}"))?;
    listed(site, time, out)
}

pub(super) fn closure(site: &Site) -> Result<Sample> {
    let out = "/nix/bench/closure";
    let top = graph::make(&site.near)?;
    let time = site.time(&format!("nix-store --store '{URI}' -qR {top} >{out}"))?;
    listed(site, time, out)
}

fn listed(site: &Site, spent: Spent, out: &str) -> Result<Sample> {
    let script = format!("grep -c /nix/store {out}; grep /nix/store {out} | sort | sha256sum");
    Ok(Sample::of(spent, site.near.sh(&script)?))
}

/// Fills the store with 1 GB: 40 paths of 20 MB and 100 of 2 MB.
pub(super) fn fill(site: &Site) -> Result<()> {
    empty(&site.near)?;
    let mut numbers = Numbers::new(4);
    for index in 0..140 {
        let base = if index < 40 { 20_000_000 } else { 2_000_000 };
        let size = base + numbers.below(1000);
        let paths: Paths = vec![one_file(&format!("filling-{index}"), size)?];
        site.add(&paths)?;
    }
    settle(&site.near)
}

pub(super) fn verify(site: &Site) -> Result<Sample> {
    let time = site.time("nix-store --verify --check-contents")?;
    Ok(Sample::of(time, ""))
}
