//! Trees to NARs and back, by the programs alone.

use anyhow::Result;

use super::rows::Sample;
use super::site::{Site, settle};

/// Makes one big file.
pub(super) fn make_big(site: &Site) -> Result<()> {
    // The same on both sides: random bytes wouldn't be.
    site.near.sh(
        "[ -e /nix/bench/big ] || { mkdir /nix/bench/big; seq 1 40000000 | head -c 256000000 \
         >/nix/bench/big/file; }",
    )?;
    settle(&site.near)
}

/// Makes 20,000 files of 4 KB in 100 folders.
pub(super) fn make_small(site: &Site) -> Result<()> {
    site.near.sh("[ -e /nix/bench/small ] || { mkdir /nix/bench/small; cd /nix/bench/small; \
         seq 1 20000000 | head -c 80000000 | split -b 4000 -a 5 -d - f; \
         for i in $(seq -w 0 99); do mkdir d$i; mv f???$i d$i/; done; }")?;
    settle(&site.near)
}

/// Makes a NAR of 20,000 small files.
pub(super) fn pack_small(site: &Site) -> Result<()> {
    make_small(site)?;
    site.near.sh("nix-store --dump /nix/bench/small >/nix/bench/small.nar")?;
    settle(&site.near)
}

pub(super) fn dump_big(site: &Site) -> Result<Sample> {
    dump(site, "/nix/bench/big")
}

pub(super) fn dump_small(site: &Site) -> Result<Sample> {
    dump(site, "/nix/bench/small")
}

fn dump(site: &Site, tree: &str) -> Result<Sample> {
    let proof = site.near.sh(&format!("nix-store --dump {tree} | sha256sum"))?;
    let time = site.time(&format!("nix-store --dump {tree} | cat >/dev/null"))?;
    Ok(Sample::of(time, proof))
}

pub(super) fn restore(site: &Site) -> Result<Sample> {
    site.near.sh("rm -rf /nix/bench/restored")?;
    settle(&site.near)?;
    let time = site.time("nix-store --restore /nix/bench/restored </nix/bench/small.nar")?;
    let proof = site.near.sh("nix-store --dump /nix/bench/restored | sha256sum")?;
    Ok(Sample::of(time, proof))
}
