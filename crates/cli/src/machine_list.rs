//! `drover machines`: how the machines are, and which of them take nothing new.

use std::time::Duration;

use drover_control::{Answer, ControlError, MachineReport, Request};
use drover_schedule::Machine;

use crate::arguments::{MachinesArguments, MachinesCommand};
use crate::builders::{List, other_machines};
use crate::configuration::Configuration;
use crate::connector::Connector;
use crate::control::Whose;
use crate::exit::ExitStatus;
use crate::local_store::LocalStore;
use crate::table::table;
use crate::terminal::Terminal;
use crate::{control, units};

/// Lists machines, or has one take jobs or not.
pub(crate) async fn run(
    arguments: MachinesArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let configuration = Configuration::load(&arguments.settings.overrides(), terminal)?;
    let (request, done) = match arguments.command {
        None => {
            let machines = list(&configuration, terminal).await?;
            terminal.print(&match arguments.json {
                true => serde_json::to_string(&machines)?,
                false => as_text(&machines),
            })?;
            return Ok(ExitStatus::SUCCESS);
        }
        Some(MachinesCommand::Drain { machine }) => {
            let done = format!(
                "{machine} gets nothing new; what runs there ends ('drover machines resume \
                 {machine}' undoes this, and so does the daemon's restart)"
            );
            (Request::Drain { machine }, done)
        }
        Some(MachinesCommand::Resume { machine }) => {
            let done = format!("{machine} takes builds again");
            (Request::Resume { machine }, done)
        }
    };
    let disobeyed = control::order(&configuration, &request).await?;
    terminal.info(&done);
    for daemon in &disobeyed {
        terminal.error(daemon);
    }
    Ok(match disobeyed.is_empty() {
        true => ExitStatus::SUCCESS,
        false => ExitStatus::GENERAL,
    })
}

async fn list(
    configuration: &Configuration,
    terminal: &Terminal,
) -> anyhow::Result<Vec<MachineReport>> {
    let asked = match configuration.settings.store.scheme().is_ssh() {
        // those of a head aren't configured here
        true => {
            let answer = control::ask_needed(configuration, &Request::Machines).await?;
            Ok((answer, Whose::TheDaemons))
        }
        false => control::machines(configuration).await,
    };
    match asked {
        Ok((Answer::Machines(machines), Whose::TheDaemons)) => Ok(machines),
        Ok((Answer::Machines(machines), Whose::Hooks)) => {
            // what is wrong with these is told by who uses them
            let own = configured(configuration, &terminal.silent()).unwrap_or_default();
            Ok(with_own(machines, own))
        }
        Ok(_) => anyhow::bail!("the daemon has answered another question"),
        Err(error @ ControlError::NobodyThere { .. }) => {
            let machines = configured(configuration, terminal)?;
            terminal.warn(&format!("{error}, so how the machines are isn't known"));
            Ok(machines)
        }
        Err(error) => Err(error.into()),
    }
}

/// Adds the configured machines that no daemon for hooks has told of: those of a user whose own isn't running.
fn with_own(mut told: Vec<MachineReport>, configured: Vec<MachineReport>) -> Vec<MachineReport> {
    let is_untold = |own: &MachineReport| !told.iter().any(|machine| machine.name == own.name);
    let untold: Vec<MachineReport> = configured.into_iter().filter(is_untold).collect();
    told.extend(untold);
    told
}

/// Returns the machines of the configuration, of whose state nothing is known.
fn configured(
    configuration: &Configuration,
    terminal: &Terminal,
) -> anyhow::Result<Vec<MachineReport>> {
    let connector = Connector::new(configuration)?;
    let local = LocalStore::choose(configuration)?;
    let list = List { given: None, settings: Default::default(), logs: None };
    let found = other_machines(configuration, list, &connector, &local, terminal)?;
    let machines = found.machines.iter().map(|machine| described(&machine.description));
    Ok(machines.collect())
}

/// Returns what is known of a machine from its description alone.
pub(crate) fn described(machine: &Machine) -> MachineReport {
    let terms = &machine.other_terms;
    let all =
        |first: &std::collections::BTreeSet<String>,
         more: fn(&drover_schedule::Terms) -> &std::collections::BTreeSet<String>| {
            let more = terms.iter().flat_map(more);
            first.iter().chain(more).cloned().collect()
        };
    MachineReport {
        name: machine.name.clone(),
        state: "unknown".to_owned(),
        systems: all(&machine.systems, |terms| &terms.systems),
        supported_features: all(&machine.supported_features, |terms| &terms.supported_features),
        mandatory_features: machine.mandatory_features.clone(),
        slots: machine.all_slots(),
        speed_factor: machine.speed(),
        ..MachineReport::default()
    }
}

fn as_text(machines: &[MachineReport]) -> String {
    if machines.is_empty() {
        return "no other machines are configured: 'builders' names none".to_owned();
    }
    let rows: Vec<[String; 6]> = machines.iter().map(row).collect();
    table(["MACHINE", "STATE", "BUSY", "SYSTEMS", "FEATURES", "LAST FAILURE"], &rows)
}

fn row(machine: &MachineReport) -> [String; 6] {
    let seconds = |seconds: f64| {
        let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        units::whole_time(time)
    };
    let state = match (machine.state.as_str(), machine.again_in_seconds) {
        ("down", Some(again)) => format!("down, again in {}", seconds(again)),
        (state, _) => state.to_owned(),
    };
    let busy = match (machine.busy, machine.queued) {
        (Some(busy), Some(queued @ 1..)) => format!("{busy}/{} +{queued}", machine.slots),
        (Some(busy), _) => format!("{busy}/{}", machine.slots),
        (None, _) => format!("?/{}", machine.slots),
    };
    let words = |words: &std::collections::BTreeSet<String>| {
        words.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
    };
    let mut features = words(&machine.supported_features);
    if !machine.mandatory_features.is_empty() {
        features = format!("{features} (only for {})", words(&machine.mandatory_features));
    }
    let failure = machine.last_failure.as_ref().map(|failure| {
        let cause = drover_core::plain_text(&failure.cause).replace('\n', " ");
        format!("{} ago, {}: {cause}", seconds(failure.seconds_ago), failure.kind)
    });
    let mut name = match &machine.brought_by_clients {
        None => machine.name.clone(),
        Some(_) => format!("{} (in a client's list)", machine.name),
    };
    if let Some(daemon) = &machine.daemon {
        name.push_str(&format!(" ({daemon})"));
    }
    [
        name,
        state,
        busy,
        words(&machine.systems),
        features.trim().to_owned(),
        failure.unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use drover_control::FailureReport;

    use super::*;

    /// Root's daemon has others than a user whose own isn't running yet.
    #[test]
    fn a_users_own_machines_are_told_of() {
        let machine = |name: &str, state: &str| MachineReport {
            name: name.to_owned(),
            state: state.to_owned(),
            ..MachineReport::default()
        };
        let told = || vec![machine("b1", "connected")];
        let own = vec![machine("b1", "unknown"), machine("mine", "unknown")];
        assert_eq!(with_own(told(), own.clone()), [machine("b1", "connected"), own[1].clone()]);
        assert_eq!(with_own(told(), Vec::new()), told());
        let of_two = MachineReport { daemon: Some("3f".to_owned()), ..machine("b1", "down") };
        assert!(as_text(&[of_two]).contains("b1 (3f)  down"));
    }

    #[test]
    fn machines_in_words() {
        let machine = |name: &str, state: &str| MachineReport {
            name: name.to_owned(),
            state: state.to_owned(),
            systems: ["i686-linux".to_owned(), "x86_64-linux".to_owned()].into(),
            slots: 8,
            busy: Some(3),
            queued: Some(0),
            ..MachineReport::default()
        };
        let down = MachineReport {
            again_in_seconds: Some(63.5),
            busy: Some(0),
            supported_features: ["kvm".to_owned()].into(),
            mandatory_features: ["kvm".to_owned()].into(),
            last_failure: Some(FailureReport {
                kind: "cannot be reached".to_owned(),
                cause: "ssh:\nNo route to host".to_owned(),
                seconds_ago: 12.0,
            }),
            ..machine("beta", "down")
        };
        let busy = MachineReport { queued: Some(2), ..machine("alpha", "connected") };
        let unknown = MachineReport { busy: None, queued: None, ..machine("c", "unknown") };
        let expected = "\
MACHINE  STATE                 BUSY    SYSTEMS                  FEATURES            LAST FAILURE
alpha    connected             3/8 +2  i686-linux x86_64-linux
beta     down, again in 1m03s  0/8     i686-linux x86_64-linux  kvm (only for kvm)  12s ago, cannot be reached: ssh: No route to host
c        unknown               ?/8     i686-linux x86_64-linux";
        assert_eq!(as_text(&[busy, down, unknown]), expected);
    }
}
