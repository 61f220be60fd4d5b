//! Who may connect, who is trusted, and what holds for a connection that says nothing else.
//!
//! Follows `authPeer` and `matchUser` in `src/nix/unix/daemon.cc` of Nix. Beyond it, the groups that
//! the system gives the peer's user count, and not only those whose entry names the user.

use drover_store::{AfterFailure, BuildSettings, Substitute};

use crate::peer::Peer;
use crate::server::{Client, ClientTrust, Naming};

/// Who may connect, who is trusted, and what holds for a connection that says nothing else.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `trusted-users`: names, `@group`, `*`. They are as good as root.
    pub trusted_users: Vec<String>,
    /// `allowed-users`: names, `@group`, `*`.
    pub allowed_users: Vec<String>,
    /// `naming-users`: those who may say by what names their connections come, as trusted ones may.
    pub naming_users: Vec<String>,
    /// `build-users-group`, whose members never connect.
    pub build_users_group: Option<String>,
    /// `substituters`.
    pub substituters: Vec<String>,
    /// `trusted-substituters`: those that any client may ask for.
    pub trusted_substituters: Vec<String>,
    /// Whether substituters are used.
    pub substitute: Substitute,
    /// What a failure does to the rest of a build.
    pub after_failure: AfterFailure,
    /// Settings of builds.
    pub build: BuildSettings,
}

impl Default for Policy {
    /// Nix's own defaults.
    fn default() -> Policy {
        Policy {
            trusted_users: vec!["root".to_owned()],
            allowed_users: vec!["*".to_owned()],
            naming_users: Vec::new(),
            build_users_group: None,
            substituters: Vec::new(),
            trusted_substituters: Vec::new(),
            substitute: Substitute::Yes,
            after_failure: AfterFailure::Stop,
            build: BuildSettings::default(),
        }
    }
}

/// Why somebody may not connect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("user '{user}' is not allowed to connect to the Nix daemon")]
pub struct Refusal {
    /// The user.
    pub user: String,
}

impl Policy {
    /// Decides whether somebody may connect, and as whom.
    ///
    /// # Errors
    ///
    /// [`Refusal`] for those who may not.
    pub fn admit(&self, peer: &Peer) -> Result<Client, Refusal> {
        let builds = self.build_users_group.as_ref().filter(|group| !group.is_empty());
        let trusted = peer.matches(&self.trusted_users);
        let allowed = trusted || peer.matches(&self.allowed_users);
        if !allowed || builds.is_some_and(|group| peer.groups.contains(group)) {
            return Err(Refusal { user: peer.user.clone() });
        }
        let trust = if trusted { ClientTrust::Trusted } else { ClientTrust::NotTrusted };
        let client = Client::new(Some(peer.user.clone()), trust);
        Ok(match peer.matches(&self.naming_users) {
            true => Client { naming: Naming::Counts, ..client },
            false => client,
        })
    }
}

impl Peer {
    /// Whether a list of users and groups has this one.
    fn matches(&self, list: &[String]) -> bool {
        list.iter().any(|entry| match entry.strip_prefix('@') {
            Some(group) => self.groups.iter().any(|own| own == group),
            None => entry == "*" || *entry == self.user,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn list(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[rstest]
    #[case::default_root("root", "*", "root", "root", Some(ClientTrust::Trusted))]
    #[case::default_other("root", "*", "ann", "users", Some(ClientTrust::NotTrusted))]
    #[case::named("root ann", "*", "ann", "users", Some(ClientTrust::Trusted))]
    #[case::group("root @wheel", "*", "ann", "users wheel", Some(ClientTrust::Trusted))]
    #[case::group_is_no_user("root @wheel", "*", "wheel", "users", Some(ClientTrust::NotTrusted))]
    #[case::user_is_no_group("root wheel", "*", "ann", "wheel", Some(ClientTrust::NotTrusted))]
    #[case::everybody("*", "", "ann", "users", Some(ClientTrust::Trusted))]
    #[case::not_allowed("root", "@users bob", "ann", "staff", None)]
    #[case::allowed_by_group("root", "@users bob", "ann", "users", Some(ClientTrust::NotTrusted))]
    #[case::trusted_needs_no_allowance("root", "", "root", "root", Some(ClientTrust::Trusted))]
    #[case::nobody("root", "", "ann", "users", None)]
    #[case::build_user("root", "*", "nixbld1", "nixbld", None)]
    #[case::trusted_build_user("*", "*", "nixbld1", "nixbld", None)]
    fn admits_like_nix(
        #[case] trusted: &str,
        #[case] allowed: &str,
        #[case] user: &str,
        #[case] groups: &str,
        #[case] expected: Option<ClientTrust>,
    ) {
        let policy = Policy {
            trusted_users: list(trusted),
            allowed_users: list(allowed),
            build_users_group: Some("nixbld".to_owned()),
            ..Policy::default()
        };
        let peer = Peer { user: user.to_owned(), uid: 1000, groups: list(groups), process: None };
        match (policy.admit(&peer), expected) {
            (Ok(client), expected) => assert_eq!(Some(client.trust), expected),
            (Err(refusal), expected) => {
                assert_eq!(expected, None);
                let text = format!("user '{user}' is not allowed to connect to the Nix daemon");
                assert_eq!(refusal.to_string(), text);
            }
        }
    }

    /// Names of those who aren't trusted count where somebody vouches for them, and make nobody trusted.
    #[test]
    fn who_may_say_names_is_trusted_with_nothing_else() {
        let policy = Policy { naming_users: list("@teams"), ..Policy::default() };
        let admitted = |groups: &str| {
            let user = "builds".to_owned();
            let peer = Peer { user, uid: 1000, groups: list(groups), process: None };
            let Client { trust, naming, .. } = policy.admit(&peer).unwrap();
            (trust, naming)
        };
        assert_eq!(admitted("teams"), (ClientTrust::NotTrusted, Naming::Counts));
        assert_eq!(admitted("users"), (ClientTrust::NotTrusted, Naming::PassedOver));
    }
}
