//! Both speak one version of the protocol.

use crate::checks::last_words;
use crate::step::Verdict;

/// Who is to greet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeter<'a> {
    /// What this command starts.
    Command(&'a str),
    /// A daemon that listens on this machine.
    Socket,
}

/// Judges how the machine has greeted: the protocol with its version, and its Nix, or an error.
pub fn judge(greeting: Result<(&str, Option<&str>), &str>, greeter: Greeter<'_>) -> Verdict {
    match greeting {
        Ok((protocol, Some(version))) => Verdict::good(format!("{protocol}, Nix {version}")),
        Ok((protocol, None)) => Verdict::good(protocol),
        Err(reason) => Verdict::wrong(
            last_words(reason),
            match greeter {
                Greeter::Command(command) => format!(
                    "'{command}' must speak with whoever runs it; a forced command has to run $SSH_ORIGINAL_COMMAND"
                ),
                Greeter::Socket => {
                    "start the daemon that listens there, or name its socket in column 1 of the \
                                    line (unix:///path/to/socket)"
                        .to_owned()
                }
            },
        ),
    }
}
