//! Whose `builders` count: a daemon doesn't take machines from a user whom it doesn't trust.

use drover_config::Origin;

use crate::finding::Finding;

/// The value of `builders`, with what decides whether it counts.
#[derive(Clone, Copy, Debug)]
pub struct BuildersSetting<'a> {
    /// Where it was written.
    pub origin: &'a Origin,
    /// Whether the file that it was written in is the system's.
    pub is_of_system: bool,
    /// The user.
    pub user: &'a str,
    /// What the local store thinks of the user.
    pub trust: LocalTrust,
}

/// What the local store thinks of this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalTrust {
    /// There is no daemon between: this user's settings count.
    NoDaemon,
    /// A daemon that takes settings from this user.
    Trusted,
    /// A daemon that doesn't.
    NotTrusted,
    /// A daemon that doesn't say, or doesn't answer.
    Unknown,
}

/// Says where machines are ignored, and as whom `ssh` runs.
pub fn judge_builders(setting: &BuildersSetting<'_>) -> Vec<Finding> {
    let BuildersSetting { origin, is_of_system, user, trust } = setting;
    let mut findings = Vec::new();
    let is_own = !is_of_system && !matches!(origin, Origin::Default);
    if is_own && *trust == LocalTrust::NotTrusted {
        findings.push(Finding::warning(
            origin,
            format!("'builders' is ignored by Nix's daemon, which doesn't trust {user}"),
            format!(
                "as root: list the machines in /etc/nix/machines, or put 'extra-trusted-users = {user}' into \
                 /etc/nix/nix.conf, and restart nix-daemon"
            ),
        ));
    }
    if *user != "root" && *trust != LocalTrust::NoDaemon {
        findings.push(
            Finding::hint(
                origin,
                format!(
                    "Nix's daemon runs ssh as root, with root's keys and known hosts, not as {user}"
                ),
            )
            .mended_by("sudo drover doctor shows what root finds"),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::ignored(false, "alice", LocalTrust::NotTrusted, &[
        "'builders' is ignored by Nix's daemon, which doesn't trust alice",
        "Nix's daemon runs ssh as root, with root's keys and known hosts, not as alice",
    ])]
    #[case::system(true, "alice", LocalTrust::NotTrusted, &[
        "Nix's daemon runs ssh as root, with root's keys and known hosts, not as alice",
    ])]
    #[case::trusted(false, "alice", LocalTrust::Trusted, &[
        "Nix's daemon runs ssh as root, with root's keys and known hosts, not as alice",
    ])]
    #[case::root(false, "root", LocalTrust::Trusted, &[])]
    #[case::alone(false, "alice", LocalTrust::NoDaemon, &[])]
    fn builders(
        #[case] is_of_system: bool,
        #[case] user: &str,
        #[case] trust: LocalTrust,
        #[case] expected: &[&str],
    ) {
        let origin = Origin::CommandLine { flag: "--builders".into() };
        let findings =
            judge_builders(&BuildersSetting { origin: &origin, is_of_system, user, trust });
        let texts: Vec<&str> = findings.iter().map(|finding| finding.text.as_str()).collect();
        assert_eq!(texts, expected);
    }
}
