//! Transactions, and waiting for those of other processes.

use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::error::{Failure, classify};
use crate::{Database, DbError, Sync};

/// What ends a transaction: an error of SQLite, which may be worth another try, or one of ours.
pub(crate) enum Stop {
    Sqlite(rusqlite::Error),
    Error(DbError),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Stop {
        Stop::Sqlite(error)
    }
}

impl From<DbError> for Stop {
    fn from(error: DbError) -> Stop {
        Stop::Error(error)
    }
}

impl Database {
    /// Runs `work` until it isn't kept out by another process any more.
    ///
    /// SQLite waits for plain locks by itself; what it reports at once are states that pass, such
    /// as another process recovering the log.
    pub(crate) fn retry<T>(
        &self,
        mut work: impl FnMut(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DbError> {
        self.retry_stop(|connection| work(connection).map_err(Stop::from))
    }

    fn retry_stop<T>(
        &self,
        mut work: impl FnMut(&Connection) -> Result<T, Stop>,
    ) -> Result<T, DbError> {
        let start = Instant::now();
        loop {
            let source = match work(&self.connection) {
                Ok(value) => return Ok(value),
                Err(Stop::Error(error)) => return Err(error),
                Err(Stop::Sqlite(source)) => source,
            };
            match classify(&self.file, source) {
                Failure::Other(error) => return Err(error),
                Failure::Busy if start.elapsed() >= self.busy_timeout => {
                    return Err(DbError::Busy { path: self.file.clone(), waited: start.elapsed() });
                }
                Failure::Busy => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Asks questions that all see one state.
    pub(crate) fn read<T>(
        &self,
        mut work: impl FnMut(&Connection) -> Result<T, Stop>,
    ) -> Result<T, DbError> {
        self.retry_stop(|connection| {
            // By statements that are kept ready: to parse them takes as long as a small question.
            connection.prepare_cached("begin")?.execute([])?;
            let value = work(connection);
            let ended = connection.prepare_cached("rollback")?.execute([]);
            let value = value?;
            ended?;
            Ok(value)
        })
    }

    /// Changes all or nothing. The lock for writing is taken first, so that no work is done in vain.
    pub(crate) fn write<T>(
        &mut self,
        mut work: impl FnMut(&Connection) -> Result<T, Stop>,
    ) -> Result<T, DbError> {
        self.retry_stop(|connection| {
            let transaction =
                Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })
    }

    /// As [`Database::write`], and on the disk when it returns, with all that was written before.
    pub(crate) fn write_durably<T>(
        &mut self,
        work: impl FnMut(&Connection) -> Result<T, Stop>,
    ) -> Result<T, DbError> {
        if self.sync == Sync::Off {
            return self.write(work);
        }
        let set = |database: &Database, value: &str| {
            database.retry(|connection| connection.pragma_update(None, "synchronous", value))
        };
        set(self, "full")?;
        let result = self.write(work);
        set(self, self.sync.pragma())?;
        result
    }
}
