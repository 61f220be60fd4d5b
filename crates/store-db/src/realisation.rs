//! Which store paths the outputs of content-addressed derivations became.
//!
//! Follows `registerDrvOutput` and `queryRealisation_` of Nix up to 2.34.

use drover_core::{DrvOutput, HashNotation, Realisation, StoreDir};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::question::row_id;
use crate::registration::{Registration, has_realisations, insert, refuse_cycles};
use crate::row::{RowId, merge_signatures, parse_path, parse_signatures, print_signatures};
use crate::schema::{CA_TABLES, check_ca_schema};
use crate::transaction::Stop;
use crate::{Database, DbError};

struct Known {
    id: RowId,
    path: String,
    signatures: Option<String>,
}

impl Database {
    /// Returns the path that an output became, where that is known and the path is valid.
    ///
    /// # Errors
    ///
    /// A row that is no path of this store, and failures of SQLite.
    pub fn realisation(&self, output: &DrvOutput) -> Result<Option<Realisation>, DbError> {
        self.read(|connection| {
            if !has_realisations(connection)? {
                return Ok(None);
            }
            let Some(known) = find(connection, output)? else { return Ok(None) };
            Ok(Some(Realisation {
                id: output.clone(),
                out_path: parse_path(&self.store_dir, &known.path)?,
                signatures: parse_signatures(known.signatures.as_deref()),
            }))
        })
    }

    /// Registers the valid path that an output became, or adds signatures to what is known of it.
    ///
    /// Makes the tables where they are absent.
    ///
    /// # Errors
    ///
    /// [`DbError::NotValid`] where the path isn't, [`DbError::OtherRealisation`] where the output is
    /// known to be another path, and failures of SQLite.
    pub fn register_realisation(&mut self, realisation: &Realisation) -> Result<(), DbError> {
        check_ca_schema(&self.dir)?;
        let store_dir = self.store_dir.clone();
        self.write(|connection| put(connection, &store_dir, realisation))
    }

    /// Makes what a build has made valid, and registers what its outputs became, all or nothing.
    ///
    /// # Errors
    ///
    /// Those of [`Database::register`] and [`Database::register_realisation`].
    pub fn register_built(
        &mut self,
        registrations: &[Registration],
        realisations: &[Realisation],
    ) -> Result<(), DbError> {
        if realisations.is_empty() {
            return self.register(registrations);
        }
        check_ca_schema(&self.dir)?;
        let store_dir = self.store_dir.clone();
        refuse_cycles(registrations, |path| store_dir.display(path))?;
        self.write(|connection| {
            insert(connection, registrations, &store_dir)?;
            realisations.iter().try_for_each(|one| put(connection, &store_dir, one))
        })
    }
}

fn put(
    connection: &Connection,
    store_dir: &StoreDir,
    realisation: &Realisation,
) -> Result<(), Stop> {
    if !has_realisations(connection)? {
        connection.execute_batch(CA_TABLES)?;
    }
    if let Some(known) = find(connection, &realisation.id)? {
        let local = parse_path(store_dir, &known.path)?;
        if local != realisation.out_path {
            let (id, remote) = (realisation.id.to_string(), realisation.out_path.clone());
            return Err(DbError::OtherRealisation { id, local, remote }.into());
        }
        let merged = merge_signatures(known.signatures.as_deref(), &realisation.signatures);
        connection
            .prepare_cached("update Realisations set signatures = ? where id = ?")?
            .execute(params![merged.unwrap_or_default(), known.id])?;
        return Ok(());
    }
    let full = store_dir.display(&realisation.out_path);
    let path = row_id(connection, &full)?.ok_or(DbError::NotValid { path: full })?;
    let signatures = print_signatures(&realisation.signatures).unwrap_or_default();
    connection
        .prepare_cached(
            "insert into Realisations (drvPath, outputName, outputPath, signatures)
             values (?, ?, ?, ?)",
        )?
        .execute(params![
            realisation.id.hash.display(HashNotation::Base16),
            realisation.id.output.as_str(),
            path,
            signatures,
        ])?;
    Ok(())
}

fn find(connection: &Connection, output: &DrvOutput) -> rusqlite::Result<Option<Known>> {
    connection
        .prepare_cached(
            "select Realisations.id, Output.path, Realisations.signatures from Realisations
             join ValidPaths as Output on Output.id = Realisations.outputPath
             where drvPath = ? and outputName = ?",
        )?
        .query_row(
            params![output.hash.display(HashNotation::Base16), output.output.as_str()],
            |row| Ok(Known { id: row.get(0)?, path: row.get(1)?, signatures: row.get(2)? }),
        )
        .optional()
}
