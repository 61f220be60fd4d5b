//! Closures on their way from a binary cache behind nginx, and to one in a folder.
//!
//! The cache that is pulled from is the same for both sides, down to its files, and unsigned. What is
//! pushed is read again, file by file, before its time counts.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use drover_codec::{Encoder, decoder};
use drover_core::{
    Compression, Hash, HashAlgorithm, HashNotation, NarInfo, NarUrl, PathInfo, StoreDir,
};

use super::copies::{near, proof, real, small, top};
use super::paths::Paths;
use super::rows::Sample;
use super::site::{Site, empty, full};
use crate::bench::nginx::Nginx;

/// The level at which both sides compress: zstd's own.
const LEVEL: i32 = 3;
/// How much larger than the NARs themselves what is pushed may be: their bytes can't be compressed.
const LARGEST: f64 = 1.03;
/// Where the cache is in the host's `/nix`, and its files' server has its own.
const PULLED: &str = "bench/cache";
const NGINX: &str = "bench/nginx";
/// Where what is pushed goes.
const PUSHED: &str = "bench/pushed";

pub(super) fn near_small(site: &Site) -> Result<()> {
    near(site, &small()?)
}

pub(super) fn near_real(site: &Site) -> Result<()> {
    near(site, &real()?)
}

pub(super) fn cached_small(site: &Site) -> Result<()> {
    write_cache(site, &small()?)
}

pub(super) fn cached_real(site: &Site) -> Result<()> {
    write_cache(site, &real()?)
}

pub(super) fn pull_small(site: &Site) -> Result<Sample> {
    pull(site, &top(&small()?)?)
}

pub(super) fn pull_real(site: &Site) -> Result<Sample> {
    pull(site, &top(&real()?)?)
}

pub(super) fn push_small(site: &Site) -> Result<Sample> {
    push(site, &small()?)
}

pub(super) fn push_real(site: &Site) -> Result<Sample> {
    push(site, &real()?)
}

/// Writes the cache that is pulled from.
fn write_cache(site: &Site, paths: &Paths) -> Result<()> {
    let folder = site.nix(PULLED);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(folder.join("nar"))?;
    fs::create_dir_all(site.nix(NGINX))?;
    let store_dir: StoreDir = "/nix/store".parse()?;
    fs::write(folder.join("nix-cache-info"), "StoreDir: /nix/store\nWantMassQuery: 1\n")?;
    for (info, nar) in paths {
        let size = info.nar_size.0;
        let mut encoder = Encoder::new(Vec::new(), Compression::Zstd, Some(LEVEL), size)?;
        encoder.write(nar)?;
        let file = encoder.finish()?;
        let hash = Hash::of(HashAlgorithm::Sha256, &file);
        let url = format!("nar/{}.nar.zst", hash.digits(HashNotation::Base32));
        fs::write(folder.join(&url), &file)?;
        let narinfo = NarInfo {
            info: info.clone(),
            url: NarUrl::parse(&url)?,
            compression: Compression::Zstd,
            file_hash: Some(hash),
            file_size: Some(file.len() as u64),
            bad_signatures: 0,
        };
        let name = format!("{}.narinfo", info.path.hash_part());
        fs::write(folder.join(name), narinfo.to_text(&store_dir))?;
    }
    Ok(())
}

/// Pulls a closure into an empty store, by a client that remembers nothing of the cache.
fn pull(site: &Site, top: &PathInfo) -> Result<Sample> {
    empty(&site.near)?;
    site.near.sh("rm -rf /root/.cache")?;
    let nginx = Nginx::start(site.near.listen()?, &site.nix(NGINX), &site.nix(PULLED))?;
    let (url, path) = (&nginx.url, full(top));
    let spent = site.time(&format!("nix copy --no-check-sigs --from {url} {path}"))?;
    Ok(Sample::of(spent, proof(&site.near, top)?))
}

/// Pushes a closure into an empty folder.
fn push(site: &Site, paths: &Paths) -> Result<Sample> {
    site.near.sh(&format!("rm -rf /nix/{PUSHED}; sync -f /nix"))?;
    let to = format!("file:///nix/{PUSHED}?compression=zstd&compression-level={LEVEL}");
    let path = full(&top(paths)?);
    let spent = site.time(&format!("nix copy --no-check-sigs --to '{to}' {path}"))?;
    check(&site.nix(PUSHED), paths)?;
    Ok(Sample::of(spent, "all of it"))
}

/// Makes sure that a cache has these paths, as they are, in files that are small enough.
fn check(folder: &Path, paths: &Paths) -> Result<()> {
    let store_dir: StoreDir = "/nix/store".parse()?;
    let (mut plain, mut compressed) = (0usize, 0usize);
    for (info, nar) in paths {
        let name = format!("{}.narinfo", info.path.hash_part());
        let text = fs::read(folder.join(&name)).with_context(|| format!("no {name}"))?;
        let found = NarInfo::parse(&text, &store_dir)?;
        let of = |info: &PathInfo| {
            (info.path.clone(), info.nar_hash, info.nar_size, info.references.clone())
        };
        ensure!(of(&found.info) == of(info), "{name} is of something else");
        ensure!(found.compression == Compression::Zstd, "{name}: {}", found.compression);
        let file = fs::read(folder.join(found.url.as_str()))?;
        let hash = Hash::of(HashAlgorithm::Sha256, &file);
        ensure!(found.file_hash.is_none_or(|said| said == hash), "{name}: another file");
        plain += nar.len();
        compressed += file.len();
        let mut again = Vec::with_capacity(nar.len());
        decoder(std::io::Cursor::new(file), Compression::Zstd)?.read_to_end(&mut again)?;
        ensure!(again == *nar, "{name}: another NAR");
    }
    let most = plain as f64 * LARGEST + paths.len() as f64 * 64.0;
    ensure!((compressed as f64) < most, "{compressed} bytes for NARs of {plain}");
    Ok(())
}
