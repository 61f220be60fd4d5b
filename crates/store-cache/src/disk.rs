//! What caches said, kept from run to run in one SQLite file that all processes of a user share.
//!
//! It only saves questions: what goes wrong with it is told in a warning, and the cache is asked
//! itself. A file that is broken is thrown away, under a lock so that no process throws away what
//! another has just made. Answers are checked again when they are read.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use drover_core::StorePath;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};
use rustix::fs::FlockOperation;

use crate::settings::CacheSettings;

/// The file's name; another layout gets another name.
const FILE: &str = "binary-caches-v1.sqlite";
/// How long another process may write.
const BUSY: Duration = Duration::from_secs(2);
/// What a cache tells of itself is good for this long at the most, as in Nix.
const INFO_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Old answers are thrown away this often.
const PURGE_EVERY: i64 = 24 * 3600;

/// What a cache said of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// It has it; with the narinfo.
    Present(Vec<u8>),
    /// It doesn't.
    Absent,
}

/// What a cache said of paths.
pub(crate) type Answers = Vec<(StorePath, Said)>;

/// What one cache said.
pub(crate) struct DiskCache {
    state: Arc<Mutex<State>>,
}

struct State {
    folder: PathBuf,
    cache: String,
    positive_ttl: i64,
    negative_ttl: i64,
    file: Opened,
}

enum Opened {
    NotYet,
    Open {
        file: Connection,
        cache: i64,
    },
    /// It can't be used in this run.
    Off,
}

impl DiskCache {
    /// Opens nothing yet.
    pub(crate) fn new(folder: &Path, cache: &str, settings: &CacheSettings) -> DiskCache {
        let state = State {
            folder: folder.to_owned(),
            cache: cache.to_owned(),
            positive_ttl: seconds(settings.positive_ttl),
            negative_ttl: seconds(settings.negative_ttl),
            file: Opened::NotYet,
        };
        DiskCache { state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) async fn cache_info(&self) -> Option<String> {
        self.with(|state| {
            let ttl = state.positive_ttl.min(seconds(INFO_TTL));
            state.try_with(|file, cache| {
                let sql = "select info, said_at from Caches where id = ? and info is not null";
                let mut found = file.prepare_cached(sql)?;
                let found = found.query_row([cache], |row| Ok((row.get(0)?, row.get(1)?)));
                let found: Option<(String, i64)> = found.optional()?;
                Ok(found.filter(|(_, said_at)| is_fresh(*said_at, ttl)).map(|(info, _)| info))
            })
        })
        .await
        .flatten()
    }

    pub(crate) async fn put_cache_info(&self, info: String) {
        self.with(move |state| {
            state.try_with(|file, cache| {
                let sql = "update Caches set info = ?, said_at = ? where id = ?";
                file.prepare_cached(sql)?.execute(params![info, now(), cache]).map(drop)
            })
        })
        .await;
    }

    /// Returns what was said and is still good.
    pub(crate) async fn look_up(&self, paths: Vec<StorePath>) -> HashMap<StorePath, Said> {
        self.with(move |state| {
            let (positive, negative) = (state.positive_ttl, state.negative_ttl);
            state.try_with(|file, cache| {
                let sql = "select said_at, narinfo from Answers where cache = ? and hash = ?";
                let mut statement = file.prepare_cached(sql)?;
                let mut said = HashMap::new();
                for path in &paths {
                    let found = statement
                        .query_row(params![cache, path.hash_part()], |row| {
                            Ok((row.get(0)?, row.get(1)?))
                        })
                        .optional()?;
                    let fresh = match found {
                        Some((at, Some(text))) if is_fresh(at, positive) => Said::Present(text),
                        Some((at, None)) if is_fresh(at, negative) => Said::Absent,
                        _ => continue,
                    };
                    said.insert(path.clone(), fresh);
                }
                Ok(said)
            })
        })
        .await
        .unwrap_or_default()
    }

    pub(crate) async fn put(&self, answers: Answers) {
        self.with(move |state| {
            state.try_with(|file, cache| {
                let all = file.unchecked_transaction()?;
                let sql = "insert or replace into Answers values (?, ?, ?, ?)";
                let mut statement = all.prepare_cached(sql)?;
                for (path, said) in &answers {
                    let narinfo = match said {
                        Said::Present(text) => Some(text),
                        Said::Absent => None,
                    };
                    statement.execute(params![cache, path.hash_part(), now(), narinfo])?;
                }
                drop(statement);
                all.commit()
            })
        })
        .await;
    }

    pub(crate) async fn forget(&self, path: StorePath) {
        self.with(move |state| {
            state.try_with(|file, cache| {
                let sql = "delete from Answers where cache = ? and hash = ?";
                file.prepare_cached(sql)?.execute(params![cache, path.hash_part()]).map(drop)
            })
        })
        .await;
    }

    /// Does something with the file, on a thread that may block.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Option<T> + Send + 'static,
    ) -> Option<T> {
        let state = self.state.clone();
        let work = move || work(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(work).await.ok().flatten()
    }
}

impl State {
    /// Does something with the file; once more with a new one where it turns out to be broken.
    /// Nothing where it can't be used.
    fn try_with<T>(&mut self, work: impl Fn(&Connection, i64) -> rusqlite::Result<T>) -> Option<T> {
        for _ in 0..2 {
            if let Opened::NotYet = self.file {
                self.file = self.open();
            }
            let Opened::Open { file, cache } = &self.file else { return None };
            match work(file, *cache) {
                Ok(done) => return Some(done),
                Err(error) if is_broken(&error) => self.file = Opened::NotYet,
                // Another process writes for long: this time it has to do without.
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                    return None;
                }
                Err(error) => self.turn_off(&error.to_string()),
            }
        }
        None
    }

    fn turn_off(&mut self, reason: &str) {
        let path = self.folder.join(FILE);
        tracing::warn!("what caches say is not kept in {}: {reason}", path.display());
        self.file = Opened::Off;
    }

    fn open(&mut self) -> Opened {
        match self.open_or_replace() {
            Ok(opened) => opened,
            Err(reason) => {
                self.turn_off(&reason);
                Opened::Off
            }
        }
    }

    /// Opens the file, or a new one in the place of a broken one; not yet, where another process writes for long.
    fn open_or_replace(&self) -> Result<Opened, String> {
        fs_err::create_dir_all(&self.folder).map_err(|error| error.to_string())?;
        let path = self.folder.join(FILE);
        match open_file(&path, &self.cache) {
            Err(error) if is_broken(&error) => {}
            opened => return usable(opened),
        }
        let lock = self.folder.join(format!("{FILE}.lock"));
        let lock = lock_file(&lock).map_err(|error| format!("{}: {error}", lock.display()))?;
        let opened = open_file(&path, &self.cache);
        let mended = match opened {
            Err(error) if is_broken(&error) => {
                tracing::warn!("{} is broken ({error}) and is made anew", path.display());
                // Who opens the broken one meanwhile has none of the new one's.
                for ending in ["-wal", "-shm", "-journal", ""] {
                    let file = self.folder.join(format!("{FILE}{ending}"));
                    match fs_err::remove_file(file) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            return Err(error.to_string());
                        }
                        _ => {}
                    }
                }
                usable(open_file(&path, &self.cache))
            }
            opened => usable(opened),
        };
        drop(lock);
        mended
    }
}

fn usable(opened: rusqlite::Result<(Connection, i64)>) -> Result<Opened, String> {
    match opened {
        Ok((file, cache)) => Ok(Opened::Open { file, cache }),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
            Ok(Opened::NotYet)
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Opens and locks a file, which is no link; waits a moment for who has it.
fn lock_file(path: &Path) -> io::Result<File> {
    let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(no_link);
    let file = options.open(path)?;
    let until = Instant::now() + BUSY;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(io::Error::other("another process has locked it for long"));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Opens the file, makes its tables, throws old answers away, and returns the cache's number.
fn open_file(path: &Path, cache: &str) -> rusqlite::Result<(Connection, i64)> {
    let mut file = Connection::open(path)?;
    file.busy_timeout(BUSY)?;
    file.pragma_update(None, "journal_mode", "wal")?;
    file.pragma_update(None, "synchronous", "normal")?;
    let all = file.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    all.execute_batch(
        "create table if not exists Caches (
            id integer primary key, url text not null unique, info text, said_at integer);
        create table if not exists Answers (
            cache integer not null references Caches (id), hash text not null,
            said_at integer not null, narinfo blob, primary key (cache, hash)) without rowid;
        create table if not exists Purged (at integer not null);",
    )?;
    let purged: Option<i64> = all.query_row("select max(at) from Purged", [], |row| row.get(0))?;
    if purged.is_none_or(|at| !is_fresh(at, PURGE_EVERY)) {
        let longest = now().saturating_sub(90 * 24 * 3600);
        all.execute("delete from Answers where said_at < ? or said_at > ?", [longest, now()])?;
        all.execute("delete from Purged", [])?;
        all.execute("insert into Purged values (?)", [now()])?;
    }
    all.execute("insert or ignore into Caches (url) values (?)", [cache])?;
    let id = all.query_row("select id from Caches where url = ?", [cache], |row| row.get(0))?;
    all.commit()?;
    Ok((file, id))
}

/// Whether the file itself is no good, or not of this layout.
fn is_broken(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, message) => match failure.code {
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => true,
            ErrorCode::Unknown => message.as_ref().is_some_and(|text| {
                text.contains("no such column") || text.contains("has no column")
            }),
            _ => false,
        },
        rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::FromSqlConversionFailure(..) => {
            true
        }
        rusqlite::Error::SqlInputError { .. } => true,
        _ => false,
    }
}

fn is_fresh(said_at: i64, ttl: i64) -> bool {
    let age = now().saturating_sub(said_at);
    (0..ttl).contains(&age)
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, seconds)
}
