//! `nix store sign` and `nix store verify`.
//!
//! Follows `src/nix/sigs.cc` and `src/nix/verify.cc` of Nix.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;

use drover_core::{PathInfo, SecretKey, StoreDir, TrustedKeys};
use drover_store::Keeper;
use serde_json::json;

use super::request::{Layout, Reports, Selection, VerifyRequest};
use super::run::{MAX_KEY, Session, Stop};
use crate::closure::path_infos;
use crate::error::CompatError;
use crate::exit::ExitStatus;
use crate::nix_store::modified;
use crate::options::Verbosity;

/// Adds a signature to paths.
pub(super) async fn sign(
    session: &mut Session<'_>,
    paths: Selection,
    key_file: &Path,
    layout: Layout,
) -> Result<(), Stop> {
    let key = read_key(&session.host.working_dir().join(key_file))?;
    let (store, paths) = session.selected(paths).await?;
    let mut added = 0;
    for info in path_infos(&*store, &paths).await? {
        let signature = key.sign(&info.fingerprint(store.store_dir()));
        if !info.signatures.contains(&signature) {
            store.add_signatures(&info.path, &BTreeSet::from([signature])).await?;
            added += 1;
        }
    }
    let told = match layout {
        Layout::Text => {
            let line = format!("added {added} signatures");
            session.console.say(Verbosity::INFO, &line).await
        }
        layout => session.tell(layout, json!({ "added": added })).await,
    };
    Ok(told?)
}

fn read_key(path: &Path) -> Result<SecretKey, CompatError> {
    let mut text = zeroize::Zeroizing::new(String::new());
    let read =
        std::fs::File::open(path).and_then(|file| file.take(MAX_KEY).read_to_string(&mut text));
    read.map_err(|source| CompatError::File {
        action: "opening file",
        path: path.to_owned(),
        source,
    })?;
    Ok(text.parse()?)
}

/// Checks contents and signatures of paths. The status has 1 where any was modified, 2 where any is
/// not trusted, and 4 where any could not be read.
pub(super) async fn verify(
    session: &mut Session<'_>,
    request: VerifyRequest,
) -> Result<ExitStatus, Stop> {
    let settings = session.host.settings(session.options)?.settings;
    let keys = TrustedKeys::parse(settings.trusted_public_keys.iter().map(String::as_str))
        .map_err(CompatError::from)?;
    let (store, paths) = session.selected(request.paths).await?;
    let mut status = 0;
    let mut findings = Vec::new();
    for info in path_infos(&*store, &paths).await? {
        let shown = store.store_dir().display(&info.path);
        session.console.say(Verbosity::INFO, &format!("checking '{shown}'...")).await?;
        let before = std::mem::take(&mut status);
        if request.contents == Reports::Yes
            && let Some((bit, problem)) = contents_problem(&*store, &info).await?
        {
            session.console.say(Verbosity::ERROR, &problem).await?;
            status |= bit;
        }
        if request.trust == Reports::Yes
            && !is_trusted(&info, store.store_dir(), &keys, request.signatures_needed)
        {
            session.console.say(Verbosity::ERROR, &format!("path '{shown}' is untrusted")).await?;
            status |= 2;
        }
        findings.push(json!({
            "path": shown,
            "modified": (request.contents == Reports::Yes && status & 4 == 0).then_some(status & 1 != 0),
            "trusted": (request.trust == Reports::Yes).then_some(status & 2 == 0),
        }));
        status |= before;
    }
    if request.layout != Layout::Text {
        session.tell(request.layout, findings.into()).await?;
    }
    Ok(ExitStatus(status))
}

/// Returns what is wrong with a path's contents, and the bit that stands for it.
///
/// # Errors
///
/// The store itself can't be asked any more.
async fn contents_problem(
    store: &dyn Keeper,
    info: &PathInfo,
) -> Result<Option<(u8, String)>, CompatError> {
    match modified(store, info).await {
        Ok(problem) => Ok(problem.map(|problem| (1, problem))),
        Err(CompatError::Store(error)) if !error.is_infrastructure() => {
            let shown = store.store_dir().display(&info.path);
            Ok(Some((4, format!("path '{shown}' can't be read: {error}"))))
        }
        Err(error) => Err(error),
    }
}

/// Whether a path was built here, follows from its contents, or has enough signatures.
fn is_trusted(info: &PathInfo, store_dir: &StoreDir, keys: &TrustedKeys, needed: usize) -> bool {
    let is_own = info.ultimate && needed == 0;
    if is_own || is_content_addressed(info, store_dir) {
        return true;
    }
    let fingerprint = info.fingerprint(store_dir);
    let good = info.signatures.iter().filter(|signature| keys.verifies(&fingerprint, signature));
    good.count() >= needed.max(1)
}

/// Whether the path is the one that follows from its content address.
fn is_content_addressed(info: &PathInfo, store_dir: &StoreDir) -> bool {
    let Some(address) = &info.content_address else { return false };
    let mut references = drover_core::References {
        others: info.references.clone(),
        itself: info.references.contains(&info.path),
    };
    references.others.remove(&info.path);
    store_dir
        .content_addressed_path(address, &references, &info.path.store_name())
        .is_ok_and(|path| path == info.path)
}
