//! What is said before a client's first words: who it is, what it needs of a machine, or that it wants something
//! of the daemon itself.

use std::time::Duration;

use drover_wire::{Opening, Outlook, read_opening};

use crate::connection::{Input, Output};
use crate::error::DaemonError;
use crate::server::{Client, ClientTrust, Named, Naming, Shared};

/// Returns what speaks against taking a build. A machine of which nothing is known after all that time is no better
/// than one that is down, and so is one that drains: Nix may have another way.
fn against(outlook: Outlook) -> Option<String> {
    match outlook {
        Outlook::Usable { .. } => None,
        Outlook::Unusable { reason }
        | Outlook::Draining { reason, .. }
        | Outlook::Unknown { trouble: reason, .. } => Some(reason),
    }
}

/// What is answered, in the language of those who ask, where there is no daemon that could know anything.
const NOBODY_SCHEDULES: &[u8] =
    b"{\"refused\":\"no daemon of drover schedules builds here: start it (systemctl start drover.socket)\"}\n";

/// Whether a client's own words follow what was said before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    Client,
    Answered,
    /// What follows is for the daemon itself.
    Control(Named),
}

/// For how long a question may wait until it's known whether a machine can be used.
const THOUGHT: Duration = Duration::from_millis(20);

/// Hears what is said before a client's first words, and its magic.
pub(crate) async fn open(
    input: &mut Input,
    output: &mut Output,
    shared: &Shared,
    client: &mut Client,
) -> Result<Opened, DaemonError> {
    /// Messages that may come before those.
    const MOST: usize = 4;
    let mut named = Named::ByUser;
    for _ in 0..MOST {
        match (input.message(read_opening).await?, &shared.machines) {
            (Opening::Client, _) => return Ok(Opened::Client),
            // who isn't trusted gets the name that is told first, by who lets him in
            (Opening::Introduced(name), _)
                if client.naming == Naming::Counts
                    && (client.trust == ClientTrust::Trusted || named == Named::ByUser) =>
            {
                client.user = Some(match client.user.take() {
                    Some(user) => format!("{user}/{name}"),
                    None => name,
                });
                named = Named::Itself;
            }
            (Opening::Control, _) => {
                if shared.controls.is_none() {
                    output.push(NOBODY_SCHEDULES);
                }
                return Ok(Opened::Control(named));
            }
            (Opening::Introduced(_), _) => {}
            (Opening::Needed(_) | Opening::Asked(_), None) => {
                return Err(DaemonError::NotOffered { what: "an outlook on machines".to_owned() });
            }
            (Opening::Asked(need), Some(machines)) => {
                output.push(&machines.outlook(&need, THOUGHT).await.encode());
                return Ok(Opened::Answered);
            }
            (Opening::Needed(need), Some(machines)) => {
                let patience = machines.patience();
                if let Some(reason) = against(machines.outlook(&need, patience).await) {
                    // Nix's clients show what they can't understand
                    output.push(format!("error: {reason}\n").as_bytes());
                    return Ok(Opened::Answered);
                }
            }
        }
    }
    Err(DaemonError::NotOffered { what: "so much before a greeting".to_owned() })
}

#[cfg(test)]
mod tests {
    use drover_wire::Wait;

    use super::*;

    #[test]
    fn builds_are_taken_for_machines_that_are_up_only() {
        assert_eq!(against(Outlook::Usable { slots: 2, free: 0, open: 9 }), None);
        let unusable = Outlook::Unusable { reason: "b1 is down".to_owned() };
        assert_eq!(against(unusable).as_deref(), Some("b1 is down"));
        let reason = "b1 takes nothing new".to_owned();
        assert!(against(Outlook::Draining { slots: 2, open: 0, reason }).is_some());
        for wait in [Wait::Worthwhile, Wait::InVain] {
            let unknown = Outlook::Unknown { wait, trouble: "b1 is silent".to_owned() };
            assert_eq!(against(unknown).as_deref(), Some("b1 is silent"));
        }
    }
}
