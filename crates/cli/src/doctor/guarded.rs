//! What lets others do what only root should.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use drover_config::{Machine, Origin};
use drover_doctor::{FilePurpose, Finding, GuardedFile, judge_guarded, judge_rights};

use crate::configuration::Configuration;
use crate::hook::listed_in;

/// Says which settings and files let others do what only root should.
pub(super) fn findings(configuration: &Configuration, machines: &[Machine]) -> Vec<Finding> {
    let settings = &configuration.settings;
    let mut findings = judge_rights(settings, |name| configuration.places(name).join(", "));
    let read = files(configuration, machines);
    let read =
        read.iter().map(|path| (path.display().to_string(), path, FilePurpose::Configuration));
    let keys = settings.secret_key_files.iter().map(|path| {
        let origin = configuration.places("secret-key-files").join(", ");
        (origin, path, FilePurpose::SigningKey)
    });
    let seen = read.chain(keys).filter_map(|(origin, path, purpose)| look(origin, path, purpose));
    findings.extend(seen.filter_map(|file| judge_guarded(&file)));
    findings
}

/// Returns the files that settings and machines are read from.
fn files(configuration: &Configuration, machines: &[Machine]) -> BTreeSet<PathBuf> {
    let Configuration { conf, settings, host, .. } = configuration;
    let environment = &host.environment;
    let listed = listed_in(&settings.builders, &environment.current_dir, environment);
    let of_lines = machines.iter().filter_map(|machine| match &machine.origin {
        Origin::File { path, .. } => Some(path.to_path_buf()),
        _ => None,
    });
    let mut files: BTreeSet<PathBuf> = listed.into_iter().chain(of_lines).collect();
    files.extend(conf.files().into_iter().map(Path::to_path_buf));
    files.insert(environment.conf_dir().join("nix.conf"));
    files.extend(environment.user_conf_files());
    files
}

/// Looks at a file, if it is there.
fn look(origin: String, path: &Path, purpose: FilePurpose) -> Option<GuardedFile> {
    let mode = |path: &Path| Some(std::fs::metadata(path).ok()?.permissions().mode());
    let folder_mode = path.parent().and_then(mode);
    Some(GuardedFile { origin, path: path.to_path_buf(), purpose, mode: mode(path)?, folder_mode })
}
