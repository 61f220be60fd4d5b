//! What is asked of the database.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{OutputName, PathInfo, StorePath};
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, params};

use crate::row::{INFO_COLUMNS, RowId, info_of, parse_path};
use crate::transaction::Stop;
use crate::{Database, DbError};

/// Looks one path's row up.
pub(crate) fn row_id(connection: &Connection, path: &str) -> rusqlite::Result<Option<RowId>> {
    let mut statement = connection.prepare_cached("select id from ValidPaths where path = ?")?;
    statement.query_row([path], |row| row.get(0)).optional()
}

impl Database {
    /// Looks paths up, all in one state of the database; in the order of the question.
    ///
    /// # Errors
    ///
    /// [`DbError::BadRow`] where a row makes no sense, and failures of SQLite.
    pub fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, DbError> {
        self.read(|connection| {
            let columns = format!("select {INFO_COLUMNS} from ValidPaths where path = ?");
            let mut find = connection.prepare_cached(&columns)?;
            let mut references = connection.prepare_cached(
                "select path from Refs join ValidPaths on reference = id where referrer = ?",
            )?;
            let mut infos = Vec::with_capacity(paths.len());
            for path in paths {
                let full = self.store_dir.display(path);
                let found = find
                    .query_row([&full], |row| info_of(&self.store_dir, row))
                    .optional()?
                    .transpose()?;
                infos.push(match found {
                    Some((id, mut info)) => {
                        info.references = self.paths_of(&mut references, params![id])?;
                        Some(info)
                    }
                    None => None,
                });
            }
            Ok(infos)
        })
    }

    /// Returns those of the paths that are valid.
    ///
    /// # Errors
    ///
    /// Failures of SQLite.
    pub fn valid<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a StorePath> + Clone,
    ) -> Result<BTreeSet<StorePath>, DbError> {
        let mut few = paths.clone().into_iter();
        if let (Some(path), None) = (few.next(), few.next()) {
            // One question sees one state by itself: a transaction would take as long as the question.
            let full = self.store_dir.display(path);
            let found = self.retry(|connection| row_id(connection, &full))?;
            return Ok(found.map(|_| path.clone()).into_iter().collect());
        }
        self.read(|connection| {
            let mut valid = BTreeSet::new();
            for path in paths.clone() {
                if row_id(connection, &self.store_dir.display(path))?.is_some() {
                    valid.insert(path.clone());
                }
            }
            Ok(valid)
        })
    }

    /// Returns all valid paths.
    ///
    /// # Errors
    ///
    /// A row that is no path of this store, and failures of SQLite.
    pub fn all_paths(&self) -> Result<BTreeSet<StorePath>, DbError> {
        self.paths("select path from ValidPaths", None)
    }

    /// Returns the valid paths that refer to one, itself among them where it does.
    ///
    /// # Errors
    ///
    /// As [`Database::all_paths`].
    pub fn referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, DbError> {
        self.paths(
            "select path from Refs join ValidPaths on referrer = id
             where reference = (select id from ValidPaths where path = ?)",
            Some(path),
        )
    }

    /// Returns the valid derivations that have this path among their outputs.
    ///
    /// # Errors
    ///
    /// As [`Database::all_paths`].
    pub fn valid_derivers(&self, output: &StorePath) -> Result<BTreeSet<StorePath>, DbError> {
        self.paths(
            "select v.path from DerivationOutputs d join ValidPaths v on d.drv = v.id
             where d.path = ?",
            Some(output),
        )
    }

    /// Returns the outputs of a valid derivation whose paths are known before it is built; `None`
    /// where it isn't valid.
    ///
    /// # Errors
    ///
    /// As [`Database::all_paths`].
    pub fn outputs(
        &self,
        derivation: &StorePath,
    ) -> Result<Option<BTreeMap<OutputName, StorePath>>, DbError> {
        self.read(|connection| {
            let full = self.store_dir.display(derivation);
            let Some(id) = row_id(connection, &full)? else { return Ok(None) };
            let mut statement = connection
                .prepare_cached("select id, path from DerivationOutputs where drv = ?")?;
            let mut rows = statement.query([id])?;
            let mut outputs = BTreeMap::new();
            while let Some(row) = rows.next()? {
                let name: String = row.get(0)?;
                let path = parse_path(&self.store_dir, row.get_ref(1)?.as_str().unwrap_or(""))?;
                let bad = |_| DbError::BadRow {
                    path: full.clone(),
                    column: "output name",
                    value: name.chars().take(300).collect(),
                };
                outputs.insert(name.parse().map_err(bad)?, path);
            }
            Ok(Some(outputs))
        })
    }

    /// Returns the valid path with a hash part of 32 digits.
    ///
    /// # Errors
    ///
    /// As [`Database::all_paths`].
    pub fn by_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>, DbError> {
        // The digits alone; the dash behind them lets no shorter part match.
        let prefix = format!("{}/{hash_part}-", self.store_dir);
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "select path from ValidPaths where path >= ? order by path limit 1",
            )?;
            let found: Option<String> =
                statement.query_row([&prefix], |row| row.get(0)).optional()?;
            let found = found.filter(|path| path.starts_with(&prefix));
            Ok(found.map(|path| parse_path(&self.store_dir, &path)).transpose()?)
        })
    }

    fn paths(&self, sql: &str, of: Option<&StorePath>) -> Result<BTreeSet<StorePath>, DbError> {
        let full = of.map(|path| self.store_dir.display(path));
        self.read(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            self.paths_of(&mut statement, rusqlite::params_from_iter(full.iter()))
        })
    }

    fn paths_of(
        &self,
        statement: &mut CachedStatement<'_>,
        params: impl rusqlite::Params,
    ) -> Result<BTreeSet<StorePath>, Stop> {
        let mut rows = statement.query(params)?;
        let mut paths = BTreeSet::new();
        while let Some(row) = rows.next()? {
            paths.insert(parse_path(&self.store_dir, row.get_ref(0)?.as_str().unwrap_or(""))?);
        }
        Ok(paths)
    }
}
