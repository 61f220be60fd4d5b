//! Finds out which machines can be used: by what the daemon of drover knows of them, and by
//! connecting to those of which it knows nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use drover_control::{Answer, MachineReport, Request};
use drover_fleet::MachineSpec;
use drover_forecast::{Availability, Unusable};
use drover_schedule::MachineKind;
use futures::StreamExt as _;

use crate::configuration::Configuration;
use crate::{control, units};

/// Machines that are connected to at once.
const AT_ONCE: usize = 64;
/// How much longer than `connect-timeout` a machine may take in all.
const SLACK: Duration = Duration::from_secs(5);

/// Whether machines are connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probing {
    /// They are, unless the daemon knows how they are.
    Connect,
    /// They are not: only the daemon is asked, if there is one.
    AskDaemon,
}

/// How it's found out.
pub(super) struct Probe<'a> {
    pub(super) configuration: &'a Configuration,
    pub(super) probing: Probing,
}

impl Probe<'_> {
    /// Returns how machines are, in their order. Takes as long as the slowest of them.
    pub(super) async fn all(&self, machines: &[MachineSpec]) -> Vec<Availability> {
        let known = self.known().await;
        let probes = machines.iter().map(|machine| self.one(machine, &known));
        futures::stream::iter(probes).buffered(AT_ONCE).collect().await
    }

    /// Returns what the daemon knows of machines, by name.
    async fn known(&self) -> BTreeMap<String, MachineReport> {
        match control::ask(self.configuration, &Request::Machines).await {
            Ok(Answer::Machines(machines)) => by_name(machines),
            // there is none, or none that helps
            _ => BTreeMap::new(),
        }
    }

    async fn one(
        &self,
        machine: &MachineSpec,
        known: &BTreeMap<String, MachineReport>,
    ) -> Availability {
        let report = known.get(&machine.description.name);
        let busy = report.and_then(|report| report.busy).unwrap_or(0);
        let usable = Availability::Usable { busy };
        if let Some(told) = report.and_then(told) {
            return told;
        }
        if machine.description.kind == MachineKind::Local || self.probing == Probing::AskDaemon {
            return usable;
        }
        let limit = self.configuration.connect_timeout().saturating_add(SLACK);
        let site = (machine.open)();
        let cause = match tokio::time::timeout(limit, site.connect()).await {
            Ok(Ok(_)) => return usable,
            Ok(Err(error)) => format!("{:#}", anyhow::Error::from(error)),
            Err(_) => format!("it has not answered for {}", units::whole_time(limit)),
        };
        Availability::Unusable(Unusable::Down { cause })
    }
}

/// Returns how machines are, by name. What runs there for clients who brought lists of their own takes
/// slots as well; how the machine is otherwise says the daemon's own list, which comes first.
fn by_name(machines: Vec<MachineReport>) -> BTreeMap<String, MachineReport> {
    let mut known: BTreeMap<String, MachineReport> = BTreeMap::new();
    for report in machines {
        match known.get_mut(&report.name) {
            Some(first) => {
                let busy = first.busy.unwrap_or(0).saturating_add(report.busy.unwrap_or(0));
                first.busy = Some(busy);
            }
            None => drop(known.insert(report.name.clone(), report)),
        }
    }
    known
}

/// Returns how a machine is, where the daemon knows it.
fn told(report: &MachineReport) -> Option<Availability> {
    let down = || {
        let cause = report.last_failure.as_ref().map(|failure| {
            let ago = Duration::try_from_secs_f64(failure.seconds_ago).unwrap_or_default();
            format!("{}: {}, {} ago", failure.kind, failure.cause, units::whole_time(ago))
        });
        let again = report.again_in_seconds.and_then(|seconds| {
            let time = units::whole_time(Duration::try_from_secs_f64(seconds).ok()?);
            Some(format!("; the daemon tries it again in {time}"))
        });
        let cause = cause.unwrap_or_else(|| "the daemon doesn't say why".to_owned());
        Unusable::Down { cause: cause + &again.unwrap_or_default() }
    };
    match report.state.as_str() {
        "connected" | "probation" => Some(Availability::Usable { busy: report.busy.unwrap_or(0) }),
        "down" | "refused" => Some(Availability::Unusable(down())),
        "draining" | "leaving" => Some(Availability::Unusable(Unusable::Draining)),
        // unused, or being connected to
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use drover_control::FailureReport;

    use super::*;

    fn report(state: &str) -> MachineReport {
        MachineReport { state: state.to_owned(), busy: Some(3), ..MachineReport::default() }
    }

    #[test]
    fn what_clients_lists_have_there_counts_as_well() {
        let row = |busy, brought: Option<&str>| MachineReport {
            name: "b1".to_owned(),
            busy: Some(busy),
            brought_by_clients: brought.map(str::to_owned),
            ..report("connected")
        };
        let known = by_name(vec![row(2, None), row(0, Some("ssh-ng://b1")), row(1, Some("b1"))]);
        assert_eq!(told(&known["b1"]), Some(Availability::Usable { busy: 3 }));
    }

    #[test]
    fn what_the_daemon_knows_counts() {
        assert_eq!(told(&report("connected")), Some(Availability::Usable { busy: 3 }));
        assert_eq!(told(&report("unused")), None);
        let draining = Some(Availability::Unusable(Unusable::Draining));
        assert_eq!(told(&report("draining")), draining);
        let failure = FailureReport {
            kind: "cannot be reached".to_owned(),
            cause: "No route to host".to_owned(),
            seconds_ago: 5.0,
        };
        let again = Some(63.0);
        let down = MachineReport {
            last_failure: Some(failure),
            again_in_seconds: again,
            ..report("down")
        };
        let Some(Availability::Unusable(why)) = told(&down) else { panic!("it can't be used") };
        assert_eq!(
            why.to_string(),
            "it is down (cannot be reached: No route to host, 5s ago; the daemon tries it again \
             in 1m03s)"
        );
    }
}
