//! What lets others do what only root should: settings, and files that others may write or read.

use std::path::{Path, PathBuf};

use drover_config::{Sandbox, Settings};

use crate::finding::Finding;

/// Bits of a mode by which everybody may do something, and by which a folder's files are their owners' alone.
const READ_BY_ALL: u32 = 0o004;
const WRITTEN_BY_ALL: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// A file that decides what root does, or that must be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardedFile {
    /// Where it's named, or itself.
    pub origin: String,
    /// Where it is.
    pub path: PathBuf,
    /// What it's for.
    pub purpose: FilePurpose,
    /// Its mode.
    pub mode: u32,
    /// The mode of the folder that it's in, where that could be found out.
    pub folder_mode: Option<u32>,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilePurpose {
    /// Settings, or lines of machines.
    Configuration,
    /// A key that signs what is built.
    SigningKey,
}

/// Says which settings let others do what only root should. `place` says where a setting is written.
pub fn judge_rights(settings: &Settings, place: impl Fn(&str) -> String) -> Vec<Finding> {
    let mut findings = Vec::new();
    if settings.trusted_users.iter().any(|user| user == "*") {
        findings.push(Finding::warning(
            place("trusted-users"),
            "'trusted-users' has '*': whoever can log in here can have anything run as root, by way of Nix's daemon",
            "name those who may do what root may: trusted-users = root @wheel",
        ));
    }
    if !settings.require_sigs {
        findings.push(Finding::warning(
            place("require-sigs"),
            "'require-sigs' is false: every user can add anything under the name of anything that isn't here yet, \
             also of what root runs",
            "require-sigs = true, and the keys of the caches that are used in 'trusted-public-keys'",
        ));
    }
    // builds as other users are those of a daemon, which builds for everybody
    let is_shared = !settings.build_users_group.is_empty();
    let sandbox = match settings.sandbox {
        Sandbox::Enabled => None,
        Sandbox::Relaxed => {
            Some("'sandbox' is relaxed: whatever asks for it ('__noChroot') is built")
        }
        Sandbox::Disabled => Some("'sandbox' is false: whatever anybody asks for is built"),
    };
    if let Some(what) = sandbox.filter(|_| is_shared) {
        findings.push(Finding::warning(
            place("sandbox"),
            format!("{what} with a view of this machine's files, processes and network"),
            "sandbox = true",
        ));
    }
    findings
}

/// Says whether others may write or read a file that they shouldn't.
pub fn judge_guarded(file: &GuardedFile) -> Option<Finding> {
    let GuardedFile { origin, path, purpose, mode, folder_mode } = file;
    let shown = path.display();
    let permissions = mode & 0o7777;
    let harm = match purpose {
        FilePurpose::Configuration => {
            "who does decides what is run as those who read it, root with Nix's daemon among them"
        }
        FilePurpose::SigningKey => "who does decides by what is signed what is built here",
    };
    if mode & WRITTEN_BY_ALL != 0 {
        let text =
            format!("'{shown}' has mode {permissions:04o}: everybody may write it, and {harm}");
        return Some(Finding::warning(origin, text, format!("chmod o-w {shown}")));
    }
    if folder_mode.is_some_and(|mode| mode & WRITTEN_BY_ALL != 0 && mode & STICKY == 0) {
        let folder = path.parent().unwrap_or(Path::new("/")).display();
        let text = format!(
            "'{shown}' is in a folder that everybody may write: everybody may replace it, and {harm}"
        );
        return Some(Finding::warning(origin, text, format!("chmod o-w {folder}")));
    }
    if *purpose == FilePurpose::SigningKey && mode & READ_BY_ALL != 0 {
        let text = format!(
            "secret key '{shown}' has mode {permissions:04o}: everybody may read it, and sign anything with it that \
             is then taken for built here"
        );
        let remedy = format!(
            "chmod o-r {shown}; where somebody may have read it, have another one take its place"
        );
        return Some(Finding::warning(origin, text, remedy));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use drover_config::{Environment, LocalSystem, NixConf, User};
    use rstest::rstest;

    use super::*;

    fn settings(text: &str) -> Settings {
        let files = BTreeMap::from([(PathBuf::from("/etc/nix/nix.conf"), text.to_owned())]);
        let environment = Environment::default();
        let conf = NixConf::load(&environment, &files, &[]).unwrap();
        let system = LocalSystem::new("x86_64-linux", User::Other);
        Settings::new(&conf, &environment, &system).unwrap()
    }

    #[rstest]
    #[case::usual("build-users-group = nixbld", &[])]
    #[case::named("trusted-users = root @wheel alice", &[])]
    #[case::all("trusted-users = root *", &["'trusted-users' has '*'"])]
    #[case::all_may_ask("allowed-users = *", &[])]
    #[case::unsigned("require-sigs = false", &["'require-sigs' is false"])]
    #[case::open("sandbox = false\nbuild-users-group = nixbld", &["'sandbox' is false"])]
    #[case::half_open("sandbox = relaxed\nbuild-users-group = nixbld", &["'sandbox' is relaxed"])]
    #[case::ones_own("sandbox = false\nbuild-users-group =", &[])]
    fn settings_that_give_root_away(#[case] text: &str, #[case] expected: &[&str]) {
        let findings = judge_rights(&settings(text), |name| format!("at {name}"));
        assert_eq!(findings.len(), expected.len(), "{findings:?}");
        for (finding, words) in findings.iter().zip(expected) {
            assert!(finding.text.starts_with(words), "{finding:?}");
            let name = words.split('\'').nth(1).unwrap();
            assert_eq!(finding.origin, format!("at {name}"));
            assert!(finding.remedy.is_some());
        }
    }

    #[rstest]
    #[case::usual(FilePurpose::Configuration, 0o100_644, 0o755, None)]
    #[case::of_a_group(FilePurpose::Configuration, 0o100_664, 0o775, None)]
    #[case::in_tmp(FilePurpose::Configuration, 0o100_644, 0o1777, None)]
    #[case::written(FilePurpose::Configuration, 0o100_666, 0o755, Some(("has mode 0666: everybody may write it", "chmod o-w /f/x")))]
    #[case::replaced(FilePurpose::Configuration, 0o100_644, 0o777, Some(("everybody may replace it", "chmod o-w /f")))]
    #[case::key(FilePurpose::SigningKey, 0o100_600, 0o755, None)]
    #[case::key_of_a_group(FilePurpose::SigningKey, 0o100_640, 0o755, None)]
    #[case::key_read(FilePurpose::SigningKey, 0o100_644, 0o755, Some(("has mode 0644: everybody may read it", "chmod o-r /f/x")))]
    #[case::key_written(FilePurpose::SigningKey, 0o100_602, 0o755, Some(("everybody may write it", "chmod o-w /f/x")))]
    #[case::key_replaced(FilePurpose::SigningKey, 0o100_600, 0o777, Some(("everybody may replace it", "chmod o-w /f")))]
    fn files(
        #[case] purpose: FilePurpose,
        #[case] mode: u32,
        #[case] folder: u32,
        #[case] expected: Option<(&str, &str)>,
    ) {
        let (origin, path) = ("/f/x".to_owned(), "/f/x".into());
        let file = GuardedFile { origin, path, purpose, mode, folder_mode: Some(folder) };
        let finding = judge_guarded(&file);
        assert_eq!(finding.is_some(), expected.is_some(), "{finding:?}");
        if let (Some(finding), Some((text, remedy))) = (finding, expected) {
            assert!(finding.text.contains(text), "{finding:?}");
            assert!(finding.remedy.is_some_and(|it| it.starts_with(remedy)));
        }
    }
}
