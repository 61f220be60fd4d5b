//! What is measured of stores and daemons, and what drover is to reach.

use std::time::Duration;

use anyhow::Result;

use super::site::{Contents, Site, Spent};
use super::{builds, caches, copies, daemon, files, large};

/// What drover is to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Aim {
    /// Stock's time is to be so many times drover's. `1.0` is no slower, within what two runs of one
    /// program differ.
    Ratio(f64),
    /// A time.
    Within(Duration),
    /// Bytes.
    Below(u64),
    /// So many times what the row's limit takes.
    TimesLimit(f64),
}

/// What a row's figures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Times.
    Time,
    /// Bytes of memory.
    Memory,
}

/// One figure, and what must be the same on both sides.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    /// Seconds or bytes.
    pub(super) value: f64,
    pub(super) processor: Duration,
    /// Whether it was stopped: it takes at least so long.
    pub(super) stopped: bool,
    /// Something that follows from the result alone, such as a hash of it.
    pub(super) proof: String,
}

impl Sample {
    pub(super) fn of(spent: Spent, proof: impl Into<String>) -> Sample {
        let Spent { time, processor } = spent;
        Sample { value: time.as_secs_f64(), processor, stopped: false, proof: proof.into() }
    }
}

/// Something that is measured.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) unit: Unit,
    pub(super) aim: Aim,
    /// Milliseconds one way between the hosts.
    pub(super) distance: u32,
    /// How contents are kept: rows that write have a line for each.
    pub(super) contents: &'static [Contents],
    /// Makes what the row needs, on each side once.
    pub(super) prepare: fn(&Site) -> Result<()>,
    /// Measures once.
    pub(super) once: fn(&Site) -> Result<Sample>,
    /// What nobody can be faster than, measured on drover's side.
    pub(super) limit: Option<fn(&Site) -> Result<Sample>>,
}

const READS: &[Contents] = &[Contents::ByDefault];
const WRITES: &[Contents] = &[Contents::ByDefault, Contents::Unsynced];

const fn row(
    name: &'static str,
    aim: Aim,
    contents: &'static [Contents],
    prepare: fn(&Site) -> Result<()>,
    once: fn(&Site) -> Result<Sample>,
) -> Row {
    Row { name, unit: Unit::Time, aim, distance: 0, contents, prepare, once, limit: None }
}

const fn far(row: Row) -> Row {
    Row { distance: 25, ..row }
}

/// Every row.
pub(super) const ALL: [Row; 36] = [
    row("dump a file of 256 MB", Aim::Ratio(1.0), READS, files::make_big, files::dump_big),
    row("dump 20,000 small files", Aim::Ratio(1.0), READS, files::make_small, files::dump_small),
    row("restore 20,000 small files", Aim::Ratio(1.3), READS, files::pack_small, files::restore),
    row("NarFromPath of 256 MB", Aim::Ratio(1.0), READS, daemon::add_large, daemon::nar_large),
    row("5,000 × IsValidPath", Aim::Ratio(1.0), READS, daemon::add_few, daemon::is_valid),
    row("5,000 × QueryPathInfo", Aim::Ratio(1.0), READS, daemon::add_few, daemon::path_info),
    row("1,000 × connect and greet", Aim::Ratio(10.0), READS, daemon::nothing, daemon::greet),
    row("AddToStoreNar of 256 MB", Aim::Ratio(3.0), WRITES, daemon::nothing, daemon::import_large),
    row(
        "AddMultipleToStore of 2,001 small paths",
        Aim::Ratio(2.5),
        WRITES,
        daemon::nothing,
        daemon::import_small,
    ),
    row("list dead of 100,000 paths", Aim::Ratio(20.0), READS, large::make_graph, large::dead),
    row("closure of 97,675 paths", Aim::Ratio(12.0), READS, large::make_graph, large::closure),
    row("verify contents of 1 GB", Aim::Ratio(1.6), READS, large::fill, large::verify),
    row("push 2,001 small paths", Aim::Ratio(3.0), WRITES, copies::near_small, copies::push_small),
    row("pull 2,001 small paths", Aim::Ratio(3.0), WRITES, copies::far_small, copies::pull_small),
    row("push 121 paths, 192 MB", Aim::Ratio(3.0), WRITES, copies::near_real, copies::push_real),
    row("pull 121 paths, 192 MB", Aim::Ratio(3.0), WRITES, copies::far_real, copies::pull_real),
    far(row(
        "push 2,001 small paths, 50 ms",
        Aim::Ratio(3.0),
        READS,
        copies::near_small,
        copies::push_small,
    )),
    far(row(
        "pull 2,001 small paths, 50 ms",
        Aim::Ratio(100.0),
        READS,
        copies::far_small,
        copies::pull_small,
    )),
    far(row(
        "push 121 paths, 192 MB, 50 ms",
        Aim::Ratio(3.0),
        READS,
        copies::near_real,
        copies::push_real,
    )),
    Row {
        limit: Some(copies::cat_huge),
        ..row(
            "pull 1 GB in one path",
            Aim::TimesLimit(1.3),
            WRITES,
            copies::far_huge,
            copies::pull_huge,
        )
    },
    row(
        "pull 2,001 small paths from nginx",
        Aim::Ratio(5.0),
        WRITES,
        caches::cached_small,
        caches::pull_small,
    ),
    row(
        "pull 121 paths, 192 MB, from nginx",
        Aim::Ratio(2.5),
        WRITES,
        caches::cached_real,
        caches::pull_real,
    ),
    row(
        "push 2,001 small paths to a folder",
        Aim::Ratio(3.0),
        READS,
        caches::near_small,
        caches::push_small,
    ),
    row(
        "push 121 paths, 192 MB, to a folder",
        Aim::Ratio(1.7),
        READS,
        caches::near_real,
        caches::push_real,
    ),
    row(
        "start of --stdio to the first answer",
        Aim::Within(Duration::from_millis(10)),
        READS,
        daemon::add_few,
        daemon::first_answer,
    ),
    Row {
        unit: Unit::Memory,
        ..row(
            "memory of the daemon that did all this, idle",
            Aim::Below(20 << 20),
            READS,
            daemon::nothing,
            daemon::memory,
        )
    },
    Row {
        unit: Unit::Memory,
        ..row(
            "memory of the daemon, just started",
            Aim::Below(20 << 20),
            READS,
            daemon::restart,
            daemon::memory,
        )
    },
    row("100 builds here, 2 slots", Aim::Ratio(8.0), READS, builds::prepare, builds::wide_100),
    row("400 builds here, 2 slots", Aim::Ratio(40.0), READS, builds::prepare, builds::wide_400),
    row(
        "1,600 builds here, 2 slots",
        Aim::Within(Duration::from_secs(6)),
        READS,
        builds::prepare,
        builds::wide_1600,
    ),
    Row {
        unit: Unit::Memory,
        ..row(
            "memory for 1,600 builds here",
            Aim::Below(60 << 20),
            READS,
            builds::prepare,
            builds::memory_of_1600,
        )
    },
    row("a chain of 50 builds here", Aim::Ratio(3.5), READS, builds::prepare, builds::chain),
    row("20 builds here of 400 inputs", Aim::Ratio(3.5), READS, builds::prepare, builds::inputs),
    row(
        "a build here with a log of 50 MB",
        Aim::Ratio(2.0),
        READS,
        builds::prepare_large,
        builds::log,
    ),
    row(
        "the same, the log not compressed",
        Aim::Ratio(5.0),
        READS,
        builds::prepare_plain,
        builds::log,
    ),
    row(
        "a build here that copies 256 MB",
        Aim::Ratio(1.3),
        WRITES,
        builds::prepare_large,
        builds::copy,
    ),
];
