//! The machine takes inputs at our word.

use crate::step::Verdict;

/// What a machine thinks of who comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trusted {
    /// It takes paths and derivations at our word.
    Yes,
    /// It takes only what is signed or content-addressed.
    No,
    /// It doesn't say.
    NotSaid,
}

/// Judges whether the machine trusts the user there.
pub fn judge(trusted: Trusted, user: &str) -> Verdict {
    match trusted {
        Trusted::Yes => Verdict::good(format!("{user} is trusted")),
        Trusted::NotSaid => Verdict::unknown(
            "this protocol or this release of Nix doesn't say whether it trusts us",
        ),
        Trusted::No => Verdict::odd(
            format!(
                "{user} is not trusted: inputs must be signed by a key that it knows, or it builds them itself"
            ),
            format!(
                "there, as root: echo 'extra-trusted-users = {user}' >> /etc/nix/nix.conf && systemctl restart nix-daemon"
            ),
        ),
    }
}
