//! The tables, and the files that tell their version.
//!
//! Follows `src/libstore/schema.sql`, and `ca-specific-schema.sql` as Nix 2.8 to 2.34 have it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::DbError;

/// How often a file that nothing is in yet is read again, and after which pause.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// The version of the schema, that of every Nix since 1.12 (2016).
pub const SCHEMA_VERSION: u32 = 10;

pub(crate) const TABLES: &str = "
    create table if not exists ValidPaths (
        id               integer primary key autoincrement not null,
        path             text unique not null,
        hash             text not null,
        registrationTime integer not null,
        deriver          text,
        narSize          integer,
        ultimate         integer,
        sigs             text,
        ca               text
    );
    create table if not exists Refs (
        referrer  integer not null,
        reference integer not null,
        primary key (referrer, reference),
        foreign key (referrer) references ValidPaths(id) on delete cascade,
        foreign key (reference) references ValidPaths(id) on delete restrict
    );
    create index if not exists IndexReference on Refs(reference);
    create trigger if not exists DeleteSelfRefs before delete on ValidPaths
      begin
        delete from Refs where referrer = old.id and reference = old.id;
      end;
    create table if not exists DerivationOutputs (
        drv  integer not null,
        id   text not null,
        path text not null,
        primary key (drv, id),
        foreign key (drv) references ValidPaths(id) on delete cascade
    );
    create index if not exists IndexDerivationOutputs on DerivationOutputs(path);
    create table if not exists SchemaMigrations (migration text primary key not null);
";

/// Nix makes these only where `ca-derivations` is on, and looks for no more than their names.
pub(crate) const CA_TABLES: &str = "
    create table if not exists Realisations (
        id integer primary key autoincrement not null,
        drvPath text not null,
        outputName text not null,
        outputPath integer not null,
        signatures text,
        foreign key (outputPath) references ValidPaths(id) on delete cascade
    );
    create index if not exists IndexRealisations on Realisations(drvPath, outputName);
    create trigger if not exists DeleteSelfRefsViaRealisations before delete on ValidPaths
      begin
        delete from RealisationsRefs where realisationReference in (
          select id from Realisations where outputPath = old.id
        );
      end;
    create table if not exists RealisationsRefs (
        referrer integer not null,
        realisationReference integer,
        foreign key (referrer) references Realisations(id) on delete cascade,
        foreign key (realisationReference) references Realisations(id) on delete restrict
    );
    create index if not exists IndexRealisationsRefsRealisationReference
      on RealisationsRefs(realisationReference);
    create index if not exists IndexRealisationsRefs on RealisationsRefs(referrer);
    create index if not exists IndexRealisationsRefsOnOutputPath on Realisations(outputPath);
    create table if not exists SchemaMigrations (migration text primary key not null);
    insert or ignore into SchemaMigrations values ('20220326-ca-derivations');
";

/// Returns the version in a file; nothing where there is no file.
fn read_version(path: &Path) -> Result<Option<u32>, DbError> {
    let mut tries = 0..TRIES;
    let text = loop {
        match fs::read(path) {
            // Nix makes the file before it writes it.
            Ok(bytes) if bytes.is_empty() && tries.next().is_some() => std::thread::sleep(PAUSE),
            Ok(bytes) => break bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(DbError::Io { doing: "read", path: path.to_owned(), source });
            }
        }
    };
    let text = String::from_utf8_lossy(&text);
    let version = text.trim().parse().ok().filter(|&version| version > 0);
    version.map(Some).ok_or_else(|| DbError::SchemaFile {
        path: path.to_owned(),
        text: text.chars().take(40).collect(),
    })
}

/// Says whether the schema is there; refuses those that aren't known.
pub(crate) fn check_schema(dir: &Path) -> Result<Option<()>, DbError> {
    match read_version(&dir.join("schema"))? {
        None => Ok(None),
        Some(found) if found < SCHEMA_VERSION => Err(DbError::SchemaTooOld { found }),
        Some(found) if SCHEMA_VERSION < found => Err(DbError::SchemaTooNew { found }),
        Some(_) => Ok(Some(())),
    }
}

/// Refuses tables of realisations that Nix would alter before it uses them.
pub(crate) fn check_ca_schema(dir: &Path) -> Result<(), DbError> {
    let path = dir.join("ca-schema");
    match read_version(&path)? {
        None | Some(3 | 4) => Ok(()),
        Some(found) => Err(DbError::CaSchema { path, found }),
    }
}

/// Writes the schema's version so that the file is never seen empty, even after a power cut.
pub(crate) fn write_schema(dir: &Path) -> Result<(), DbError> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = dir.join("schema");
    let new = dir.join(format!("schema.tmp-{}-{count}", std::process::id()));
    let write = || {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o666).open(&new)?;
        file.write_all(SCHEMA_VERSION.to_string().as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        fs::File::open(dir)?.sync_all()
    };
    write().map_err(|source| DbError::Io { doing: "write", path: path.clone(), source })
}
