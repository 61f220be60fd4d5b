//! Making paths valid, changing what is known of them, and making them invalid.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{SystemTime, UNIX_EPOCH};

use drover_core::{OutputName, PathInfo, Signature, StoreDir, StorePath};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::question::row_id;
use crate::row::{RowId, merge_signatures, parse_path, print_signatures};
use crate::transaction::Stop;
use crate::{Database, DbError};

/// A path that is to become valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// What is known of it. A registration time of 0 becomes the time now.
    pub info: PathInfo,
    /// Of a derivation, the outputs whose paths are known before it is built.
    pub outputs: BTreeMap<OutputName, StorePath>,
}

impl From<PathInfo> for Registration {
    fn from(info: PathInfo) -> Registration {
        Registration { info, outputs: BTreeMap::new() }
    }
}

impl Database {
    /// Makes paths valid with their references, all or none. They may come in any order; what is
    /// known of one that is valid already is replaced.
    ///
    /// # Errors
    ///
    /// [`DbError::UnknownReference`] where a reference is neither valid nor among the paths,
    /// [`DbError::Cycle`] where some refer to each other, and failures of SQLite.
    pub fn register(&mut self, registrations: &[Registration]) -> Result<(), DbError> {
        if registrations.is_empty() {
            return Ok(());
        }
        let store_dir = self.store_dir.clone();
        refuse_cycles(registrations, |path| store_dir.display(path))?;
        self.write(|connection| insert(connection, registrations, &store_dir))
    }

    /// Replaces what is known of a valid path: hash, size, signatures, content address, and whether
    /// it was built here.
    ///
    /// # Errors
    ///
    /// [`DbError::NotValid`], and failures of SQLite.
    pub fn update(&mut self, info: &PathInfo) -> Result<(), DbError> {
        let full = self.store_dir.display(&info.path);
        self.write(|connection| {
            if update_row(connection, &full, info)? == 0 {
                return Err(DbError::NotValid { path: full.clone() }.into());
            }
            Ok(())
        })
    }

    /// Adds signatures to a valid path.
    ///
    /// # Errors
    ///
    /// [`DbError::NotValid`], and failures of SQLite.
    pub fn add_signatures(
        &mut self,
        path: &StorePath,
        signatures: &BTreeSet<Signature>,
    ) -> Result<(), DbError> {
        let full = self.store_dir.display(path);
        self.write(|connection| {
            let found: Option<(RowId, Option<String>)> = connection
                .prepare_cached("select id, sigs from ValidPaths where path = ?")?
                .query_row([&full], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let (id, known) = found.ok_or_else(|| DbError::NotValid { path: full.clone() })?;
            connection
                .prepare_cached("update ValidPaths set sigs = ? where id = ?")?
                .execute(params![merge_signatures(known.as_deref(), signatures), id])?;
            Ok(())
        })
    }

    /// Makes paths invalid, all or none, and durably so: their files may be unlinked afterwards.
    /// Those that aren't valid are passed over. They may refer to each other, in any order.
    ///
    /// # Errors
    ///
    /// [`DbError::InUse`] where a path that stays refers to one of them, and failures of SQLite.
    pub fn invalidate(&mut self, paths: &[StorePath]) -> Result<(), DbError> {
        self.invalidate_unless(paths, |_| false).map(drop)
    }

    /// Makes paths invalid as [`Database::invalidate`] does, unless one of them is to be kept after
    /// all: then nothing is done, and that one is returned. `is_kept` is asked while nobody can make
    /// any path valid; what is valid by then is in its place.
    ///
    /// # Errors
    ///
    /// As [`Database::invalidate`].
    pub fn invalidate_unless(
        &mut self,
        paths: &[StorePath],
        is_kept: impl Fn(&StorePath) -> bool,
    ) -> Result<Option<StorePath>, DbError> {
        let store_dir = self.store_dir.clone();
        self.write_durably(|connection| {
            if let Some(kept) = paths.iter().find(|path| is_kept(path)) {
                return Ok(Some(kept.clone()));
            }
            invalidate_rows(connection, &store_dir, paths)?;
            Ok(None)
        })
    }
}

/// Notes what paths refer to. `ids` holds their rows.
fn refer<'a>(
    connection: &Connection,
    registrations: &'a [Registration],
    mut ids: HashMap<&'a StorePath, RowId>,
    store_dir: &StoreDir,
) -> Result<(), Stop> {
    let mut refer = connection
        .prepare_cached("insert or replace into Refs (referrer, reference) values (?, ?)")?;
    for Registration { info, .. } in registrations {
        let Some(&referrer) = ids.get(&info.path) else { continue };
        for path in &info.references {
            let known = match ids.get(path) {
                Some(&id) => Some(id),
                None => row_id(connection, &store_dir.display(path))?,
            };
            let unknown = || DbError::UnknownReference {
                path: store_dir.display(&info.path),
                reference: store_dir.display(path),
            };
            let reference = known.ok_or_else(unknown)?;
            ids.insert(path, reference);
            refer.execute([referrer, reference])?;
        }
    }
    Ok(())
}

fn invalidate_rows(
    connection: &Connection,
    store_dir: &StoreDir,
    paths: &[StorePath],
) -> Result<(), Stop> {
    let with_realisations = has_realisations(connection)?;
    let mut rows: Vec<(RowId, &StorePath)> = Vec::with_capacity(paths.len());
    for path in paths {
        if let Some(id) = row_id(connection, &store_dir.display(path))? {
            rows.push((id, path));
        }
    }
    let mut forget = connection.prepare_cached("delete from Refs where referrer = ?")?;
    for (id, _) in &rows {
        forget.execute([id])?;
    }
    let mut delete = connection.prepare_cached("delete from ValidPaths where id = ?")?;
    for (id, path) in &rows {
        let referrers = referrers_of(connection, *id, |text| parse_path(store_dir, text))?;
        if !referrers.is_empty() {
            let path = store_dir.display(path);
            let referrers = referrers.iter().map(|path| store_dir.display(path)).collect();
            return Err(DbError::InUse { path, referrers }.into());
        }
        if with_realisations {
            forget_realisation_references(connection, *id)?;
        }
        delete.execute([id])?;
    }
    Ok(())
}

fn update_row(connection: &Connection, full: &str, info: &PathInfo) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "update ValidPaths set narSize = ?, hash = ?, ultimate = ?, sigs = ?, ca = ?
             where path = ?",
        )?
        .execute(params![
            nar_size(info),
            nar_hash(info),
            info.ultimate.then_some(1),
            print_signatures(&info.signatures),
            info.content_address.as_ref().map(ToString::to_string),
            full,
        ])
}

fn insert_row(
    connection: &Connection,
    full: &str,
    info: &PathInfo,
    now: u64,
    display: impl Fn(&StorePath) -> String,
) -> rusqlite::Result<RowId> {
    let time = if info.registration_time == 0 { now } else { info.registration_time };
    connection
        .prepare_cached(
            "insert into ValidPaths
             (path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca)
             values (?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .insert(params![
            full,
            nar_hash(info),
            i64::try_from(time).unwrap_or(i64::MAX),
            info.deriver.as_ref().map(display),
            nar_size(info),
            info.ultimate.then_some(1),
            print_signatures(&info.signatures),
            info.content_address.as_ref().map(ToString::to_string),
        ])
}

fn nar_hash(info: &PathInfo) -> String {
    format!("sha256:{}", info.nar_hash.base16())
}

/// An unknown size is null, as in Nix.
fn nar_size(info: &PathInfo) -> Option<i64> {
    i64::try_from(info.nar_size.0).ok().filter(|&size| size != 0)
}

fn referrers_of(
    connection: &Connection,
    id: RowId,
    parse: impl Fn(&str) -> Result<StorePath, DbError>,
) -> Result<BTreeSet<StorePath>, Stop> {
    let mut statement = connection.prepare_cached(
        "select path from Refs join ValidPaths on referrer = id where reference = ?",
    )?;
    let mut rows = statement.query([id])?;
    let mut referrers = BTreeSet::new();
    while let Some(row) = rows.next()? {
        referrers.insert(parse(row.get_ref(0)?.as_str().unwrap_or(""))?);
    }
    Ok(referrers)
}

pub(crate) fn has_realisations(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "select 1 from sqlite_master where type = 'table' and name = 'Realisations'",
        )?
        .exists([])
}

/// Nix since 2.9 has a trigger for this; databases of 2.8 lack it.
fn forget_realisation_references(connection: &Connection, id: RowId) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "delete from RealisationsRefs where realisationReference in
             (select id from Realisations where outputPath = ?)",
        )?
        .execute([id])
}

/// Writes the rows of paths that become valid together.
pub(crate) fn insert(
    connection: &Connection,
    registrations: &[Registration],
    store_dir: &StoreDir,
) -> Result<(), Stop> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let mut ids: HashMap<&StorePath, RowId> = HashMap::new();
    for Registration { info, outputs } in registrations {
        let full = store_dir.display(&info.path);
        let id = match row_id(connection, &full)? {
            Some(id) => {
                update_row(connection, &full, info)?;
                id
            }
            None => insert_row(connection, &full, info, now, |path| store_dir.display(path))?,
        };
        ids.insert(&info.path, id);
        #[cfg(test)]
        tests::in_the_middle();
        let mut add = connection.prepare_cached(
            "insert or replace into DerivationOutputs (drv, id, path) values (?, ?, ?)",
        )?;
        for (name, path) in outputs {
            add.execute(params![id, name.as_str(), store_dir.display(path)])?;
        }
    }
    refer(connection, registrations, ids, store_dir)
}

/// Refuses paths that refer to each other. Only outputs of one build could.
pub(crate) fn refuse_cycles(
    registrations: &[Registration],
    display: impl Fn(&StorePath) -> String,
) -> Result<(), DbError> {
    let references: HashMap<&StorePath, &BTreeSet<StorePath>> = registrations
        .iter()
        .map(|registration| (&registration.info.path, &registration.info.references))
        .collect();
    let mut state: HashMap<&StorePath, Visit> = HashMap::new();
    for start in references.keys().copied() {
        let mut stack = vec![start];
        while let Some(&path) = stack.last() {
            match state.get(path) {
                None => {
                    state.insert(path, Visit::Open);
                    let next = references.get(path).into_iter().copied().flatten();
                    for reference in next.filter(|&next| next != path) {
                        if !references.contains_key(reference) {
                            continue;
                        }
                        if state.get(reference) == Some(&Visit::Open) {
                            let (path, parent) = (display(reference), display(path));
                            return Err(DbError::Cycle { path, parent });
                        }
                        stack.push(reference);
                    }
                }
                Some(Visit::Open) => {
                    state.insert(path, Visit::Done);
                    stack.pop();
                }
                Some(Visit::Done) => {
                    stack.pop();
                }
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    Open,
    Done,
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use drover_core::{NarHash, NarSize};

    use super::*;
    use crate::{Mode, OpenOptions};

    const FOLDER: &str = "STORE_DB_KILLED_IN";

    /// Ends the process without any cleaning up where the test below wants it.
    pub(super) fn in_the_middle() {
        if std::env::var_os(FOLDER).is_some() {
            std::process::abort();
        }
    }

    fn open(folder: &Path) -> Database {
        let store_dir = "/nix/store".parse().expect("a store directory");
        Database::open(&OpenOptions::new(folder, &store_dir, Mode::Create)).expect("a database")
    }

    fn two() -> [Registration; 2] {
        ["a", "b"].map(|name| {
            let path = StorePath::from_base_name(&format!("{}-{name}", name.repeat(32)));
            Registration::from(PathInfo {
                path: path.expect("a path"),
                deriver: None,
                nar_hash: NarHash([7; 32]),
                nar_size: NarSize(120),
                references: BTreeSet::new(),
                registration_time: 1,
                ultimate: false,
                signatures: BTreeSet::new(),
                content_address: None,
            })
        })
    }

    /// Registers two paths: alone, or as the process that the next test has killed.
    #[test]
    fn registers_two() {
        let own = tempfile::tempdir().expect("a folder");
        let folder = std::env::var_os(FOLDER).map_or_else(|| own.path().to_owned(), PathBuf::from);
        open(&folder).register(&two()).expect("registered");
    }

    /// T03: a registration is whole or it never was, and the next one finds no lock.
    #[test]
    fn killed_in_the_middle_of_a_transaction() {
        let folder = tempfile::tempdir().expect("a folder");
        let killed = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "registration::tests::registers_two"])
            .env(FOLDER, folder.path())
            .output()
            .expect("a process");
        assert!(!killed.status.success(), "it was not reached");
        let mut database = open(folder.path());
        assert_eq!(database.all_paths().expect("all"), BTreeSet::new());
        database.register(&two()).expect("registered");
        assert_eq!(database.all_paths().expect("all").len(), 2);
    }

    #[test]
    fn what_is_to_be_kept_after_all_keeps_the_rest() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut database = open(folder.path());
        database.register(&two()).expect("registered");
        let [a, b] = two().map(|one| one.info.path);
        let both = [a.clone(), b.clone()];
        let kept = database.invalidate_unless(&both, |path| *path == b).expect("asked");
        assert_eq!(kept, Some(b.clone()));
        assert_eq!(database.all_paths().expect("all"), BTreeSet::from([a, b]));
        assert_eq!(database.invalidate_unless(&both, |_| false).expect("asked"), None);
        assert_eq!(database.all_paths().expect("all"), BTreeSet::new());
    }
}
