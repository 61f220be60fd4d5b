//! Serving a binary cache: `drover cache serve`, straight from a store, against nginx over the files that
//! stock Nix has made of the same paths, on this machine's loopback, asked by `wrk`.
//!
//! nginx is no other program that does the same but the limit: it sends files that somebody has prepared.
//! Zstandard on the fly is held against `zstd -1` on the same NAR and on the same processors, all of them.
//! A NAR that is asked for again and again comes from drover's memory; in two of the rows it has none.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::nginx::Nginx;
use super::{Outcome, Wanted};

/// Seconds for which `wrk` asks in each run.
const SECONDS: &str = "3";
/// Bytes of the one large file.
const LARGE: usize = 21_500_000;
/// Small paths, each with a narinfo.
const SMALL: usize = 500;

/// What is asked for, by how many, and what drover is to reach of the other side.
struct Row {
    name: &'static str,
    connections: u32,
    aim: f64,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    NarInfo,
    Nar,
    /// A NAR that isn't kept in memory but read from its files each time.
    UnkeptNar,
    Zstd,
}

const fn row(name: &'static str, connections: u32, aim: f64, what: What) -> Row {
    Row { name, connections, aim, what }
}

const ROWS: [Row; 8] = [
    row("serving narinfos, 1 connection", 1, 0.8, What::NarInfo),
    row("serving narinfos, 16 connections", 16, 0.8, What::NarInfo),
    row("serving a NAR, 1 connection", 1, 1.0, What::Nar),
    row("serving a NAR, 16 connections", 16, 1.0, What::Nar),
    row("serving a NAR from its files, 1 connection", 1, 1.0, What::UnkeptNar),
    row("serving a NAR from its files, 16 connections", 16, 1.0, What::UnkeptNar),
    row("serving a NAR with zstd, 1 connection", 1, 0.9, What::Zstd),
    row("serving a NAR with zstd, 16 connections", 16, 0.9, What::Zstd),
];

/// Measures the rows that are wanted; `None` if there are none.
pub(super) fn run(program: &Path, wanted: &Wanted, runs: usize) -> Result<Option<Outcome>> {
    let rows: Vec<&Row> = ROWS.iter().filter(|row| wanted.has(row.name)).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let site = Site::new(program)?;
    let head = "| | nginx, or `zstd -1 -T0` | p99 | drover | p99 | ratio | aim |";
    let mut table = format!("{head}\n|---|---|---|---|---|---|---|\n");
    let mut faults = Vec::new();
    for row in rows {
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            theirs.push(site.theirs(row)?);
            ours.push(site.ours(row)?);
        }
        let (theirs, ours) = (median(theirs)?, median(ours)?);
        let ratio = ours.rate / theirs.rate;
        let (name, aim) = (row.name, row.aim);
        let (their_rate, our_rate) = (figure(row.what, &theirs), figure(row.what, &ours));
        let (their_p99, our_p99) = (theirs.p99, ours.p99);
        let line = format!(
            "| {name} | {their_rate} | {their_p99} | {our_rate} | {our_p99} | {ratio:.2} | {aim} |\n"
        );
        eprint!("{line}");
        table.push_str(&line);
        if ratio < aim {
            faults.push(format!("{name}: {ratio:.2} of {aim}"));
        }
    }
    Ok(Some(Outcome { table, faults }))
}

/// Requests or bytes a second, and what the slowest percent has waited.
#[derive(Clone, Debug)]
struct Found {
    rate: f64,
    p99: String,
}

fn figure(what: What, found: &Found) -> String {
    match what {
        What::NarInfo => format!("{:.0}/s", found.rate),
        What::Nar | What::UnkeptNar | What::Zstd => format!("{:.0} MB/s", found.rate / 1e6),
    }
}

fn median(mut found: Vec<Found>) -> Result<Found> {
    found.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    found.get(found.len() / 2).cloned().context("nothing was measured")
}

/// A store, its paths as a cache in a folder, and both servers.
struct Site {
    folder: tempfile::TempDir,
    _nginx: Nginx,
    drovers: [Child; 2],
    /// Where nginx is, drover, and drover without memory for NARs.
    urls: [String; 3],
    small: Vec<String>,
    large: String,
}

impl Drop for Site {
    fn drop(&mut self) {
        for drover in &mut self.drovers {
            drover.kill().ok();
            drover.wait().ok();
        }
    }
}

impl Site {
    fn new(program: &Path) -> Result<Site> {
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        fs::create_dir(root.join("in"))?;
        let mut files = Vec::new();
        for number in 0..SMALL {
            files.push(root.join(format!("in/small-{number}")));
            fs::write(root.join(format!("in/small-{number}")), format!("contents {number}\n"))?;
        }
        files.push(root.join("in/large"));
        fs::write(root.join("in/large"), sample(program)?)?;
        let added = output(nix(root, "nix-store").arg("--add").args(&files))?;
        let paths: Vec<&str> = added.lines().collect();
        ensure!(paths.len() == SMALL + 1, "stock Nix has added {} paths", paths.len());
        let to = format!("file://{}?compression=none", root.join("cache").display());
        output(nix(root, "nix").args(["copy", "--no-check-sigs", "--to", &to]).args(&paths))?;
        let hash = |path: &&str| path.rsplit('/').next()?.split('-').next().map(str::to_owned);
        let mut small: Vec<String> = paths.iter().filter_map(hash).collect();
        let large = small.pop().context("nothing was added")?;
        let nginx = Nginx::start(TcpListener::bind("127.0.0.1:0")?, root, &root.join("cache"))?;
        let theirs = nginx.url.clone();
        let (drover, ours) = start_drover(program, root, "134217728")?;
        let (unkept, unkept_url) = start_drover(program, root, "0")?;
        let (drovers, urls) = ([drover, unkept], [theirs, ours, unkept_url]);
        Ok(Site { folder, _nginx: nginx, drovers, urls, small, large })
    }

    fn theirs(&self, row: &Row) -> Result<Found> {
        let [theirs, ..] = &self.urls;
        match row.what {
            What::NarInfo => self.narinfos(theirs, row),
            What::Nar | What::UnkeptNar => self.nar(theirs, row, ""),
            What::Zstd => self.zstd(),
        }
    }

    fn ours(&self, row: &Row) -> Result<Found> {
        let [_, ours, unkept] = &self.urls;
        match row.what {
            What::NarInfo => self.narinfos(ours, row),
            What::Nar => self.nar(ours, row, ""),
            What::UnkeptNar => self.nar(unkept, row, ""),
            What::Zstd => self.nar(ours, row, ".zst"),
        }
    }

    /// Asks for one narinfo after another.
    fn narinfos(&self, base: &str, row: &Row) -> Result<Found> {
        let paths: Vec<String> =
            self.small.iter().map(|hash| format!("\"/{hash}.narinfo\"")).collect();
        let script = self.folder.path().join("narinfos.lua");
        let text = format!(
            "local paths = {{ {} }}\nlocal at = 0\n\
             request = function() at = at % #paths + 1; return wrk.format(nil, paths[at]) end\n",
            paths.join(", ")
        );
        fs::write(&script, text)?;
        let script = script.to_str().context("a strange folder")?;
        wrk(row.connections, &["-s", script, base])
    }

    /// Asks for the large NAR; the rate is that of the plain bytes.
    fn nar(&self, base: &str, row: &Row, ending: &str) -> Result<Found> {
        let narinfo = output(
            Command::new("curl").args(["-sSf"]).arg(format!("{base}/{}.narinfo", self.large)),
        )?;
        let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: "));
        let url = format!("{base}/{}{ending}", url.context("a narinfo without URL")?);
        let found = wrk(row.connections, &[&url])?;
        Ok(Found { rate: found.rate * LARGE as f64, ..found })
    }

    fn zstd(&self) -> Result<Found> {
        let nar = self.folder.path().join("in/large");
        let since = Instant::now();
        let mut times = 0u32;
        while since.elapsed() < Duration::from_secs(2) {
            output(
                Command::new("zstd").args(["-1", "-q", "-f", "-T0", "-o", "/dev/null"]).arg(&nar),
            )?;
            times += 1;
        }
        let rate = f64::from(times) * LARGE as f64 / since.elapsed().as_secs_f64();
        Ok(Found { rate, p99: "–".to_owned() })
    }
}

fn start_drover(program: &Path, root: &Path, memory: &str) -> Result<(Child, String)> {
    let mut drover = Command::new(program)
        .args(["cache", "serve", "--listen", "127.0.0.1:0", "--compression", "none"])
        .args(["--memory", memory, "--store", &store(root)])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(drover.stdout.take().context("no pipe")?).read_line(&mut line)?;
    let url = line.split(" at ").nth(1).and_then(|rest| rest.split([',', '\n']).next());
    let url = url.context("drover does not say where it serves")?.to_owned();
    Ok((drover, url))
}

/// Returns bytes that compress as programs do: the program's own.
fn sample(program: &Path) -> Result<Vec<u8>> {
    let mut bytes = fs::read(program)?;
    ensure!(!bytes.is_empty(), "{} is empty", program.display());
    while bytes.len() < LARGE {
        bytes.extend_from_within(..(LARGE - bytes.len()).min(bytes.len()));
    }
    bytes.truncate(LARGE);
    Ok(bytes)
}

fn store(root: &Path) -> String {
    format!("local?root={}", root.join("store").display())
}

fn nix(root: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("HOME", root).env("NIX_REMOTE", store(root));
    command.env("NIX_CONFIG", "experimental-features = nix-command\nsubstituters =\n");
    command
}

fn output(command: &mut Command) -> Result<String> {
    let done = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{command:?}: {said}");
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs `wrk`; the rate is that of its requests.
fn wrk(connections: u32, rest: &[&str]) -> Result<Found> {
    let connections = connections.to_string();
    let said = output(
        Command::new("wrk")
            .args(["-t1", "--latency", "-d", SECONDS, "-c", &connections])
            .args(rest),
    )?;
    ensure!(!said.contains("Non-2xx"), "wrk: {said}");
    let value = |name: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(name));
        line.map(|value| value.trim().to_owned()).with_context(|| format!("no {name} in {said}"))
    };
    Ok(Found { rate: value("Requests/sec:")?.parse()?, p99: value("99%")? })
}
