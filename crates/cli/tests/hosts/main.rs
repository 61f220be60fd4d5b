//! End to end: the real `drover`, real `sshd`, and real stock Nix 2.8, 2.26 and 2.34.

#![allow(clippy::unwrap_used, reason = "a test shows what went wrong by failing")]

mod activities;
mod alike;
mod bounds;
mod builtins;
mod caches;
mod clients;
mod connections;
mod control;
mod corpus;
mod counts;
mod detach;
mod doctor;
mod failures;
mod few_connections;
mod floating;
mod found;
mod head;
mod hook;
mod hooks;
mod kinds;
mod left;
mod lines;
mod memory;
mod names;
mod neighbours;
mod new_builder;
mod own;
mod packed;
mod phases;
mod probe;
mod rebuilds;
mod servers;
mod serving;
mod sources;
mod standstill;
mod substituters;
mod tidying;
mod together;
mod trust;
mod tutorial;
mod unusual;
mod versions;
mod words;

use std::process::Output;
use std::time::Duration;

use drover_testkit::{Fleet, Host, Suite};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(120);

/// A client with drover, and two builders.
struct Lab {
    _fleet: Fleet,
    client: Host,
    b1: Host,
    b2: Host,
}

impl Lab {
    fn new(name: &str, b1: Suite, b2: Suite) -> Lab {
        let fleet = Fleet::new(name).unwrap();
        let [client, b1, b2] = fleet.hosts([("c", Suite::Forky), ("b1", b1), ("b2", b2)]).unwrap();
        client.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
        Lab { _fleet: fleet, client, b1, b2 }
    }

    /// Runs drover on the client.
    fn drover(&self, arguments: &[&str]) -> Output {
        let mut line = vec!["drover"];
        line.extend(arguments);
        self.client.run_within(LIMIT, &line).unwrap()
    }
}

/// Returns the machines line of builders with so many slots each.
fn builders(scheme: &str, hosts: &[&str], slots: u32) -> String {
    let arch = std::env::consts::ARCH;
    let line = |host: &&str| format!("{scheme}://{host} {arch}-linux - {slots} 1 big-parallel");
    hosts.iter().map(line).collect::<Vec<_>>().join(";")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Asserts that a command ended with a code, and shows what it said otherwise.
#[track_caller]
fn assert_code(output: &Output, code: i32) {
    let (out, err) = (stdout(output), stderr(output));
    assert_eq!(output.status.code(), Some(code), "stdout: {out}\nstderr: {err}");
}
