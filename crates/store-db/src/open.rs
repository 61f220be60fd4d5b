//! Opening the database.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use drover_core::StoreDir;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::DbError;
use crate::error::{Failure, classify};
use crate::schema::{TABLES, check_schema, write_schema};

/// What may be done with a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is read; nothing of it is ever written, not even where it must be created.
    ReadOnly,
    /// It is read and written, and must exist.
    ReadWrite,
    /// It is read and written, and created where it is absent.
    Create,
}

/// Whether what is committed is on the disk (`fsync-metadata`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// A power cut may undo the last registrations, never an invalidation.
    Normal,
    /// A power cut may destroy the database.
    Off,
}

/// How a database is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The folder `db` of the state directory.
    pub dir: PathBuf,
    /// The directory that paths in the database are in.
    pub store_dir: StoreDir,
    /// What may be done.
    pub mode: Mode,
    /// What is synced.
    pub sync: Sync,
    /// How long other processes are waited for.
    pub busy_timeout: Duration,
}

impl OpenOptions {
    /// Returns the options that Nix has by default, with a wait of a minute instead of an hour.
    pub fn new(dir: &Path, store_dir: &StoreDir, mode: Mode) -> OpenOptions {
        OpenOptions {
            dir: dir.to_owned(),
            store_dir: store_dir.clone(),
            mode,
            sync: Sync::Normal,
            busy_timeout: Duration::from_secs(60),
        }
    }
}

/// Device and inode of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity(u64, u64);

/// The file that a database was opened from.
#[derive(Clone, Debug)]
pub struct DatabaseFile {
    path: PathBuf,
    identity: Identity,
}

impl DatabaseFile {
    /// Whether the file is still where it was. It isn't where somebody removed the store, or removed
    /// it and made a new one.
    pub fn is_current(&self) -> bool {
        identity(&self.path) == Some(self.identity)
    }
}

/// One connection to the database of a store.
pub struct Database {
    pub(crate) connection: Connection,
    pub(crate) store_dir: StoreDir,
    pub(crate) dir: PathBuf,
    pub(crate) file: PathBuf,
    pub(crate) busy_timeout: Duration,
    pub(crate) sync: Sync,
    identity: Identity,
}

/// Statements that a connection keeps ready; more than there are.
const STATEMENTS: usize = 48;

/// Pages after which the log is worked into the database: as in Nix, which wants a system's
/// derivations to be written with a single sync.
const CHECKPOINT_PAGES: u32 = 40_000;

impl Database {
    /// Opens the database.
    ///
    /// A schema that is older or newer is never altered. Two processes may create one database at
    /// the same time.
    ///
    /// # Errors
    ///
    /// No database where none may be created, a schema that isn't known, a damaged file, and one
    /// that stays locked.
    pub fn open(options: &OpenOptions) -> Result<Database, DbError> {
        let file = options.dir.join("db.sqlite");
        let known = check_schema(&options.dir)?;
        if known.is_none() && options.mode != Mode::Create {
            return Err(DbError::Absent { file });
        }
        let (connection, identity) = connect(&file, options)?;
        let mut database = Database {
            connection,
            store_dir: options.store_dir.clone(),
            dir: options.dir.clone(),
            file,
            busy_timeout: options.busy_timeout,
            sync: options.sync,
            identity,
        };
        database.retry(|connection| set_up(connection, options))?;
        if known.is_none() {
            // On the disk before the file that says so: it is not looked for twice.
            database.write_durably(|connection| Ok(connection.execute_batch(TABLES)?))?;
            write_schema(&options.dir)?;
        }
        Ok(database)
    }

    /// Returns the file that this was opened from, which tells whether it is still there.
    pub fn file(&self) -> DatabaseFile {
        DatabaseFile { path: self.file.clone(), identity: self.identity }
    }

    /// Whether the database's file is still the one that was opened.
    pub fn is_current(&self) -> bool {
        self.file().is_current()
    }

    /// Returns the directory that the paths are in.
    pub fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }
}

fn identity(file: &Path) -> Option<Identity> {
    fs::metadata(file).ok().map(|metadata| Identity(metadata.dev(), metadata.ino()))
}

/// Opens the file, and makes sure of which file was opened: it may be replaced meanwhile.
fn connect(file: &Path, options: &OpenOptions) -> Result<(Connection, Identity), DbError> {
    const TRIES: u32 = 10;
    let fail = |source| match classify(file, source) {
        Failure::Busy => DbError::Busy { path: file.to_owned(), waited: Duration::ZERO },
        Failure::Other(error) => error,
    };
    if options.mode == Mode::Create {
        create(file)?;
    }
    for _ in 0..TRIES {
        let Some(before) = identity(file) else { break };
        let connection = match options.mode {
            Mode::ReadOnly => open_read_only(file, options.busy_timeout),
            Mode::ReadWrite | Mode::Create => Connection::open_with_flags(
                file,
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            ),
        };
        let connection = connection.map_err(fail)?;
        if identity(file) == Some(before) {
            return Ok((connection, before));
        }
    }
    Err(DbError::Absent { file: file.to_owned() })
}

/// Makes the file where there is none. One that is there isn't even opened: SQLite's locks on it belong to
/// the process, and all of them end when any descriptor of it is closed. Then another process takes the log
/// away under the connections that this one has.
fn create(file: &Path) -> Result<(), DbError> {
    match fs::OpenOptions::new().write(true).create_new(true).open(file) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(DbError::Io { doing: "create", path: file.to_owned(), source }),
    }
}

/// A store that can't be written, such as one on a disk that is mounted so, has no room for the
/// index of the log; SQLite then reads the file alone if it is told that nobody writes to it.
fn open_read_only(file: &Path, patience: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let plain = Connection::open_with_flags(file, flags)?;
    plain.busy_timeout(patience)?;
    let readable = plain.query_row("select count(*) from sqlite_master", [], |_| Ok(()));
    // Who is busy writes to it.
    let busy = |error: rusqlite::Error| error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy);
    if readable.map_or_else(busy, |()| true) {
        return Ok(plain);
    }
    let path: String = file.to_string_lossy().bytes().map(escape).collect();
    let uri = format!("file:{path}?immutable=1");
    Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)
}

fn escape(byte: u8) -> String {
    match byte {
        b'/' | b'.' | b'-' | b'_' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02x}"),
    }
}

fn set_up(connection: &Connection, options: &OpenOptions) -> rusqlite::Result<()> {
    connection.busy_timeout(options.busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "foreign_keys", 1)?;
    if options.mode == Mode::ReadOnly {
        // Reads the first page, so that a file which is none is refused here.
        return connection.query_row("select count(*) from sqlite_master", [], |_| Ok(()));
    }
    connection.pragma_update(None, "synchronous", options.sync.pragma())?;
    let mode: String = connection.query_row("pragma main.journal_mode", [], |row| row.get(0))?;
    if mode != "wal" {
        connection.query_row("pragma main.journal_mode = wal", [], |_| Ok(()))?;
    }
    connection.query_row(&format!("pragma wal_autocheckpoint = {CHECKPOINT_PAGES}"), [], |_| Ok(()))
}

impl Sync {
    pub(crate) fn pragma(self) -> &'static str {
        match self {
            Sync::Normal => "normal",
            Sync::Off => "off",
        }
    }
}
