//! Closures on their way between two hosts over `ssh-ng://`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use drover_core::PathInfo;
use drover_testkit::Host;

use super::paths::{Paths, one_file, real_closure, small_closure};
use super::rows::Sample;
use super::site::{Ended, Site, Spent, empty, full, settle};

/// Stock Nix takes minutes for some of these; what takes longer than this is stopped.
const LIMIT: Duration = Duration::from_secs(300);

pub(super) fn small() -> Result<Paths> {
    small_closure("small", 2000)
}

pub(super) fn real() -> Result<Paths> {
    real_closure("real")
}

/// Bytes of the huge path.
const HUGE: usize = 1_000_000_000;

pub(super) fn top(paths: &Paths) -> Result<PathInfo> {
    Ok(paths.last().context("no paths")?.0.clone())
}

pub(super) fn near(site: &Site, paths: &Paths) -> Result<()> {
    empty(&site.near)?;
    site.add(paths)?;
    settle(&site.near)
}

fn far(site: &Site, paths: &Paths) -> Result<()> {
    near(site, paths)?;
    empty(&site.far)?;
    copy(site, "--to", &full(&top(paths)?))?;
    settle(&site.far)
}

pub(super) fn near_small(site: &Site) -> Result<()> {
    near(site, &small()?)
}

pub(super) fn near_real(site: &Site) -> Result<()> {
    near(site, &real()?)
}

pub(super) fn far_small(site: &Site) -> Result<()> {
    far(site, &small()?)
}

pub(super) fn far_real(site: &Site) -> Result<()> {
    far(site, &real()?)
}

pub(super) fn far_huge(site: &Site) -> Result<()> {
    far(site, &vec![one_file("huge", HUGE)?])
}

pub(super) fn push_small(site: &Site) -> Result<Sample> {
    push(site, &top(&small()?)?)
}

pub(super) fn push_real(site: &Site) -> Result<Sample> {
    push(site, &top(&real()?)?)
}

pub(super) fn pull_small(site: &Site) -> Result<Sample> {
    pull(site, &top(&small()?)?)
}

pub(super) fn pull_real(site: &Site) -> Result<Sample> {
    pull(site, &top(&real()?)?)
}

pub(super) fn pull_huge(site: &Site) -> Result<Sample> {
    pull(site, &one_file("huge", HUGE)?.0)
}

fn push(site: &Site, top: &PathInfo) -> Result<Sample> {
    empty(&site.far)?;
    let ended = copy(site, "--to", &full(top))?;
    sample(&site.far, top, ended)
}

fn pull(site: &Site, top: &PathInfo) -> Result<Sample> {
    empty(&site.near)?;
    let ended = copy(site, "--from", &full(top))?;
    sample(&site.near, top, ended)
}

fn copy(site: &Site, direction: &str, path: &str) -> Result<Ended> {
    let far = site.far_store();
    site.time_within(LIMIT, &format!("nix copy --no-check-sigs {direction} {far} {path}"))
}

/// Makes sure that the closure has arrived.
fn sample(host: &Host, top: &PathInfo, ended: Ended) -> Result<Sample> {
    let spent = match ended {
        Ended::Within(spent) => spent,
        Ended::NotYet => {
            let spent = Spent { time: LIMIT, ..Spent::default() };
            return Ok(Sample { stopped: true, ..Sample::of(spent, "") });
        }
    };
    Ok(Sample::of(spent, proof(host, top)?))
}

/// Returns what follows from a closure that is there.
pub(super) fn proof(host: &Host, top: &PathInfo) -> Result<String> {
    let path = full(top);
    let script = format!(
        "nix-store -q --hash $(nix-store -qR {path} | sort) | sha256sum; \
         for i in $(nix-store -qR {path} | sort); do nix-store --dump $i; done | sha256sum"
    );
    let few = top.references.len() < 200;
    let script = if few { script } else { script.split(';').next().unwrap_or("").to_owned() };
    let proof = host.sh(&script)?;
    ensure!(!proof.is_empty(), "{path} is not there");
    Ok(proof)
}

/// The bytes of the huge path through `ssh` alone.
pub(super) fn cat_huge(site: &Site) -> Result<Sample> {
    let path = full(&one_file("huge", HUGE)?.0);
    let far = site.far.name();
    let time = site.time(&format!("ssh {far} cat {path} >/dev/null"))?;
    Ok(Sample::of(time, ""))
}
