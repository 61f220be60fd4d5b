//! A store that is open: its directory, its database and its locks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use drover_store_db::{
    Database, DatabaseFile, DbError, Mode, OpenOptions, hold_reserve, release_reserve,
};
use drover_store_locks::{BigLock, Delay, Notice, RealStore, Verdict, Wait};

use crate::error::LocalError;
use crate::{Access, Layout, LocalOptions, folders};

/// Connections for reading that are kept for the next question.
const READERS: usize = 4;

/// For how long a look at the store's files is good for questions that are answered at once: to look takes
/// a tenth of what such an answer does.
const GLANCE: Duration = Duration::from_millis(10);

/// A store that is open. All of it is synchronous, for blocking threads.
///
/// Where the store is removed and made anew, this is the old one, and useless; [`Opened::is_current`]
/// tells.
pub(crate) struct Opened {
    pub(crate) real_store: Arc<RealStore>,
    file: DatabaseFile,
    writer: Option<Mutex<Database>>,
    readers: Mutex<Vec<Database>>,
    /// Connections that never wait for another process.
    hasty: Mutex<Vec<Database>>,
    reading: OpenOptions,
    /// When it was last seen to be current.
    seen: Mutex<Instant>,
    _big_lock: Option<BigLock>,
}

/// Says that something is being waited for: once so that the user sees it, and each second on the log.
pub(crate) fn tell(delay: Delay<'_>) -> Verdict {
    match delay.notice {
        Notice::First => tracing::warn!(target: "drover_store_local::waiting", "{}...", delay.what),
        Notice::Another => tracing::info!("{} ({} s)", delay.what, delay.so_far.as_secs()),
    }
    Verdict::Wait
}

/// Waits for this long, and says so.
pub(crate) fn patience(limit: Duration) -> Wait<'static> {
    Wait::up_to(limit, &tell)
}

impl Opened {
    /// Opens the store, and makes it where it is absent and may be made.
    pub(crate) fn open(layout: &Layout, options: &LocalOptions) -> Result<Opened, LocalError> {
        folders::make(layout, options)?;
        let mode = match layout.access {
            Access::ReadWrite => Mode::Create,
            Access::ReadOnly => Mode::ReadOnly,
        };
        let db = layout.db();
        let big_lock = match layout.access {
            Access::ReadWrite => {
                if let Err(error) = hold_reserve(&db, options.reserved) {
                    tracing::debug!("{error}");
                }
                Some(BigLock::shared(&db, patience(options.lock_patience))?)
            }
            Access::ReadOnly => None,
        };
        let database = OpenOptions {
            sync: options.metadata,
            busy_timeout: options.database_patience,
            ..OpenOptions::new(&db, &layout.store_dir, mode)
        };
        let first = match (Database::open(&database), layout.access) {
            // what is kept back for the collector lets the database be opened, at least
            (Err(DbError::Full { .. }), Access::ReadWrite) => {
                release_reserve(&db)?;
                Database::open(&database)?
            }
            (opened, _) => opened?,
        };
        let file = first.file();
        let (writer, readers) = match layout.access {
            Access::ReadWrite => (Some(Mutex::new(first)), Vec::new()),
            // it may have been opened as what nobody writes to, and somebody may all the same
            Access::ReadOnly => (None, Vec::new()),
        };
        let reading_mode = if mode == Mode::Create { Mode::ReadWrite } else { mode };
        Ok(Opened {
            real_store: Arc::new(RealStore::open(&layout.real)?),
            file,
            writer,
            readers: Mutex::new(readers),
            hasty: Mutex::new(Vec::new()),
            reading: OpenOptions { mode: reading_mode, ..database },
            seen: Mutex::new(Instant::now()),
            _big_lock: big_lock,
        })
    }

    /// Returns how others open the same database; it is not made anew.
    pub(crate) fn reading(&self) -> &OpenOptions {
        &self.reading
    }

    /// Whether the store is still the one that was opened: its database, and its directory, which
    /// somebody may have removed alone once it was empty.
    pub(crate) fn is_current(&self) -> bool {
        self.file.is_current() && self.real_store.is_current()
    }

    /// The same as of at most [`GLANCE`] ago.
    pub(crate) fn was_current_just_now(&self) -> bool {
        let mut seen = lock(&self.seen);
        if seen.elapsed() < GLANCE {
            return true;
        }
        let is_current = self.is_current();
        if is_current {
            *seen = Instant::now();
        }
        is_current
    }

    /// Asks the database, on a connection that nobody else uses meanwhile.
    pub(crate) fn read<T>(
        &self,
        ask: impl FnOnce(&Database) -> Result<T, DbError>,
    ) -> Result<T, LocalError> {
        let kept = lock(&self.readers).pop();
        let database = match kept {
            Some(database) => database,
            None => Database::open(&self.reading)?,
        };
        let answer = ask(&database);
        let mut readers = lock(&self.readers);
        if self.writer.is_some() && readers.len() < READERS {
            readers.push(database);
        }
        Ok(answer?)
    }

    /// Asks the database, unless that would have to wait: then the answer is `None`.
    pub(crate) fn read_at_once<T>(
        &self,
        ask: impl FnOnce(&Database) -> Result<T, DbError>,
    ) -> Option<Result<T, LocalError>> {
        let database = self.hasty.try_lock().ok()?.pop()?;
        let answer = ask(&database);
        self.keep_hasty(database);
        match answer {
            Err(DbError::Busy { .. }) => None,
            answer => Some(answer.map_err(LocalError::from)),
        }
    }

    /// Has a connection at hand for [`Opened::read_at_once`].
    pub(crate) fn make_hasty(&self) -> Result<(), LocalError> {
        if lock(&self.hasty).is_empty() {
            let options = OpenOptions { busy_timeout: Duration::ZERO, ..self.reading.clone() };
            self.keep_hasty(Database::open(&options)?);
        }
        Ok(())
    }

    fn keep_hasty(&self, database: Database) {
        let mut hasty = lock(&self.hasty);
        if self.writer.is_some() && hasty.len() < READERS {
            hasty.push(database);
        }
    }

    /// Changes the database. One at a time, as SQLite has it.
    pub(crate) fn write<T>(
        &self,
        change: impl FnOnce(&mut Database) -> Result<T, DbError>,
    ) -> Result<T, LocalError> {
        let Some(writer) = &self.writer else {
            return Err(LocalError::ReadOnly { what: "change the database" });
        };
        Ok(change(&mut lock(writer))?)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
