//! Both speak one version of the protocol.

use crate::checks::last_words;
use crate::step::Verdict;

/// Judges how the machine has greeted: the protocol with its version, and its Nix, or an error.
pub fn judge(greeting: Result<(&str, Option<&str>), &str>, command: &str) -> Verdict {
    match greeting {
        Ok((protocol, Some(version))) => Verdict::good(format!("{protocol}, Nix {version}")),
        Ok((protocol, None)) => Verdict::good(protocol),
        Err(reason) => Verdict::wrong(
            last_words(reason),
            format!(
                "'{command}' must speak with whoever runs it; a forced command has to run $SSH_ORIGINAL_COMMAND"
            ),
        ),
    }
}
