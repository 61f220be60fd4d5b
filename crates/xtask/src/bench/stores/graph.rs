//! A store of 100,000 empty paths with six references each, written into Nix's schema by SQL, so
//! that neither side has made it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use drover_core::{Hash, HashAlgorithm, NarHash, StorePath};
use drover_nar::{Executable, single_file_nar};
use drover_testkit::Host;

use super::paths::Numbers;

/// Paths in all.
const ALL: usize = 100_000;

/// Paths that the first one reaches. The others are dead.
const LIVING: usize = 97_675;

/// Where the store is.
pub(super) const URI: &str = "local?root=/nix/bench/graph";

/// Makes the store unless it is there, and returns the full name of the path that is a root.
pub(super) fn make(host: &Host) -> Result<String> {
    let top = format!("/nix/store/{}", path(0)?.base_name());
    if host.run(&["test", "-e", "/nix/bench/graph/made"])?.status.success() {
        return Ok(top);
    }
    // The schema is that of the stock Nix in both hosts.
    host.run_ok(&["/usr/bin/nix-store", "--store", URI, "--gc", "--print-roots"])?;
    let mut sql = "begin;\n".to_owned();
    let mut names = String::new();
    let empty = NarHash(
        Hash::of(HashAlgorithm::Sha256, &single_file_nar(b"", Executable::No))
            .digest()
            .try_into()?,
    );
    let size = single_file_nar(b"", Executable::No).len();
    for index in 0..ALL {
        let path = path(index)?;
        writeln!(names, "{}", path.base_name())?;
        writeln!(
            sql,
            "insert into ValidPaths (id, path, hash, registrationTime, narSize) values \
             ({}, '/nix/store/{}', 'sha256:{}', 1, {size});",
            index + 1,
            path.base_name(),
            empty.base16(),
        )?;
    }
    let mut numbers = Numbers::new(3);
    for from in 0..ALL {
        for to in references(from, &mut numbers) {
            writeln!(sql, "insert or ignore into Refs values ({}, {});", from + 1, to + 1)?;
        }
    }
    sql += "commit; pragma wal_checkpoint(truncate);\n";
    feed(host, &["sqlite3", "/nix/bench/graph/nix/var/nix/db/db.sqlite"], sql.as_bytes())?;
    let touch = "mkdir -p /nix/bench/graph/nix/store; cd /nix/bench/graph/nix/store; \
                 tr '\\n' '\\0' | xargs -0 touch";
    feed(host, &["sh", "-euc", touch], names.as_bytes())?;
    host.sh(&format!(
        "cd /nix/bench/graph; find nix/store -type f -exec chmod 444 {{}} +; \
         ln -s {top} nix/var/nix/gcroots/top; touch made"
    ))?;
    Ok(top)
}

fn path(index: usize) -> Result<StorePath> {
    let digest = Hash::of(HashAlgorithm::Sha256, format!("graph-{index}").as_bytes());
    let mut part = [0; 20];
    part.iter_mut().zip(digest.digest()).for_each(|(to, from)| *to = *from);
    Ok(StorePath::new(part, &format!("graph-{index}").parse()?))
}

/// Returns what a path refers to: two by which all of its part are reached from the first one, and
/// four others with greater numbers, so that there is no circle.
fn references(from: usize, numbers: &mut Numbers) -> Vec<usize> {
    let end = if from < LIVING { LIVING } else { ALL };
    let tree = [2 * from + 1, 2 * from + 2].into_iter().filter(|_| from < LIVING);
    let others = (0..4).map(|_| from + 1 + numbers.below(end - from)).collect::<Vec<_>>();
    tree.chain(others).filter(|to| *to < end).collect()
}

fn feed(host: &Host, argv: &[&str], input: &[u8]) -> Result<()> {
    let mut child = host.command(argv).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    child.stdin.take().context("no pipe to the host")?.write_all(input)?;
    let status = child.wait()?;
    ensure!(status.success(), "{argv:?}: {status}");
    Ok(())
}
