//! The user is let in without a question.

use crate::checks::last_words;
use crate::route::{Route, Target};
use crate::step::Verdict;

/// Judges what `ssh` said when it couldn't log in, or that it could.
pub fn judge(outcome: Result<(), &str>, route: &Route, target: &Target) -> Verdict {
    let Err(said) = outcome else {
        return Verdict::good(format!("{} is let in", route.user));
    };
    let (user, host) = (&route.user, &target.destination);
    if said.contains("UNPROTECTED PRIVATE KEY FILE") || said.contains("bad permissions") {
        return Verdict::wrong(
            format!("{user} is not let in: ssh passes over the private key, which others may read"),
            "chmod 600 the file of the key that ssh names".to_owned(),
        );
    }
    if said.contains("Too many authentication failures") {
        return Verdict::wrong(
            format!("{user} is not let in: the agent has offered too many keys"),
            format!(
                "put 'IdentitiesOnly yes' and 'IdentityFile KEY' for this host into ~/.ssh/config, or the key into column 3; {}",
                target.ssh("true")
            ),
        );
    }
    if said.contains("Permission denied") || said.contains("can't log in") {
        return Verdict::wrong(
            format!(
                "{user} is not let in with any key, and questions aren't asked: {}",
                last_words(said)
            ),
            format!(
                "ssh-copy-id {}{host}; a key with a passphrase must be in the agent of the user as whom ssh runs (root, for Nix's daemon)",
                target.arguments.iter().map(|word| format!("{word} ")).collect::<String>()
            ),
        );
    }
    Verdict::wrong(format!("no connection: {}", last_words(said)), target.ssh("-v true"))
}
