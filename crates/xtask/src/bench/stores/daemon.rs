//! What a daemon is asked for by a client on its socket.

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use drover_core::{Hash, HashAlgorithm, PathInfo};
use drover_wire::{Request, Response};

use super::client::Client;
use super::paths::{one_file, small_closure};
use super::rows::Sample;
use super::site::{Site, Spent, empty, full};

/// Bytes of the large path.
const LARGE: usize = 256_000_000;

/// Questions that are asked one after another.
const QUESTIONS: usize = 5000;

/// Connections that are made one after another.
const CONNECTIONS: usize = 1000;

pub(super) fn nothing(_: &Site) -> Result<()> {
    Ok(())
}

/// Adds paths to be asked for; the last one refers to all others.
pub(super) fn add_few(site: &Site) -> Result<()> {
    site.add(&small_closure("few", 5)?)
}

pub(super) fn add_large(site: &Site) -> Result<()> {
    site.add(&vec![one_file("large", LARGE)?])
}

pub(super) fn restart(site: &Site) -> Result<()> {
    site.near.restart_daemon()
}

fn few() -> Result<PathInfo> {
    let paths = small_closure("few", 5)?;
    Ok(paths.last().context("no paths")?.0.clone())
}

pub(super) fn nar_large(site: &Site) -> Result<Sample> {
    let (info, nar) = one_file("large", LARGE)?;
    let mut client = site.connect()?;
    let mut got = Vec::with_capacity(nar.len());
    client.nar(&info, |bytes| got.extend_from_slice(bytes))?;
    ensure!(got == nar, "another NAR came");
    drop(got);
    let clock = site.clock();
    let mut count = 0;
    client.nar(&info, |bytes| count += bytes.len())?;
    let spent = clock.stop();
    let proof = Hash::of(HashAlgorithm::Sha256, &nar);
    Ok(Sample::of(spent, format!("{count} bytes, {proof:?}")))
}

pub(super) fn is_valid(site: &Site) -> Result<Sample> {
    let request = Request::IsValidPath(few()?.path);
    ask(site, &request, |answer| *answer == Response::Flag(true))
}

pub(super) fn path_info(site: &Site) -> Result<Sample> {
    let info = few()?;
    let request = Request::QueryPathInfo(info.path.clone());
    ask(site, &request, |answer| match answer {
        Response::PathInfo(Some(got)) => {
            got.nar_hash == info.nar_hash && got.references == info.references
        }
        _ => false,
    })
}

fn ask(site: &Site, request: &Request, is_right: impl Fn(&Response) -> bool) -> Result<Sample> {
    let mut client = site.connect()?;
    let answer = client.ask(request)?;
    ensure!(is_right(&answer), "wrong answer: {answer:?}");
    let clock = site.clock();
    for _ in 0..QUESTIONS {
        client.ask(request)?;
    }
    Ok(Sample::of(clock.stop(), ""))
}

pub(super) fn greet(site: &Site) -> Result<Sample> {
    let clock = site.clock();
    for _ in 0..CONNECTIONS {
        site.connect()?;
    }
    Ok(Sample::of(clock.stop(), ""))
}

pub(super) fn import_large(site: &Site) -> Result<Sample> {
    let (info, nar) = one_file("import", LARGE)?;
    import(site, &info, |client| client.add(&info, &nar))
}

pub(super) fn import_small(site: &Site) -> Result<Sample> {
    let paths = small_closure("import", 2000)?;
    let top = paths.last().context("no paths")?.0.clone();
    import(site, &top, |client| client.add_many(&paths))
}

type Connection = Client<std::os::unix::net::UnixStream, std::os::unix::net::UnixStream>;

fn import(
    site: &Site,
    info: &PathInfo,
    add: impl Fn(&mut Connection) -> Result<()>,
) -> Result<Sample> {
    empty(&site.near)?;
    let mut client = site.connect()?;
    let clock = site.clock();
    add(&mut client)?;
    let spent = clock.stop();
    Ok(Sample::of(spent, valid(site, info)?))
}

/// Returns what the near host's store says of a path, and hashes its files.
fn valid(site: &Site, info: &PathInfo) -> Result<String> {
    let path = full(info);
    let script = format!(
        "nix-store --check-validity {path}; nix-store -q --hash {path}; nix-store -qR {path} | \
         sort | sha256sum; nix-store --dump {path} | sha256sum"
    );
    site.near.sh(&script)
}

/// From the start of the program to its first answer, without what it takes to enter the host.
pub(super) fn first_answer(site: &Site) -> Result<Sample> {
    let request = Request::IsValidPath(few()?.path);
    let (mut entering, mut answering) = (Vec::new(), Vec::new());
    for _ in 0..11 {
        let start = Instant::now();
        let mut child = site.near.command(&["cat"]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        child.stdin.as_mut().context("no pipe")?.write_all(b"x")?;
        child.stdout.as_mut().context("no pipe")?.read_exact(&mut [0])?;
        entering.push(start.elapsed());
        drop(child.stdin.take());
        child.wait()?;

        let start = Instant::now();
        let mut child = site.near.command(&["nix-daemon", "--stdio"]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let from = child.stdout.take().context("no pipe")?;
        let to = child.stdin.take().context("no pipe")?;
        let mut client = Client::greet(from, to)?;
        ensure!(client.ask(&request)? == Response::Flag(true), "wrong answer");
        answering.push(start.elapsed());
        drop(client);
        child.wait()?;
    }
    let time = middle(answering).saturating_sub(middle(entering));
    Ok(Sample::of(Spent { time, ..Spent::default() }, ""))
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// What the daemon holds while nobody asks.
pub(super) fn memory(site: &Site) -> Result<Sample> {
    let script = "for p in $(pgrep -f '^(/[^ ]*/)?nix-daemon$'); do \
                  sed -n 's/^VmRSS:\\s*\\([0-9]*\\) kB/\\1/p' /proc/$p/status; done";
    let said = site.near.sh(script)?;
    let sizes: Result<Vec<u64>, _> = said.split_whitespace().map(str::parse).collect();
    let kibibytes: u64 = sizes?.iter().sum();
    ensure!(kibibytes > 0, "there is no daemon");
    let value = (kibibytes << 10) as f64;
    Ok(Sample { value, processor: Duration::ZERO, stopped: false, proof: String::new() })
}
