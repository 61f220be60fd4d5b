//! What the daemon answers at its control socket.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use drover_control::{
    Answer, BuildExplanation, BuildList, BuildLog, BuildReport, Caller, ChoiceReport,
    DetachedBuild, FailureReport, MachineReport, Power, Request, Responder, Server, Socket,
    converse, socket_beside,
};
use drover_core::{StoreDir, StorePath};
use drover_daemon::{Client, ClientTrust, Controls, Named, Peer, Policy, TrustRule};
use drover_fleet::{
    BuildEnding, BuildId, BuildState, BuildView, Duty, MachineCondition, MachineView, Service,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::UCred;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};

use super::builds::{Builds, Crew};
use super::detached::Detached;
use crate::machine_names;
use crate::terminal::Terminal;

/// Answers from what the builds of this process know.
pub(super) struct Overseer {
    pub(super) builds: Arc<Builds>,
    pub(super) policy: watch::Receiver<Arc<Policy>>,
    pub(super) store_dir: StoreDir,
    /// What is held for those who have gone, where that is done here.
    pub(super) detached: Option<Detached>,
}

/// Answers those who come to the control socket.
struct Desk {
    overseer: Arc<Overseer>,
    rule: TrustRule,
}

impl Overseer {
    /// Answers beside the socket where the daemon listens to clients, until what is returned is
    /// dropped. Where it can't, the daemon goes on without.
    pub(super) fn listen(
        self: Arc<Self>,
        beside: &Path,
        rule: TrustRule,
        terminal: &Terminal,
    ) -> JoinSet<()> {
        let mut answering = JoinSet::new();
        let desk = Arc::new(Desk { overseer: self, rule });
        match Socket::bind(&socket_beside(beside)) {
            Ok(socket) => drop(answering.spawn(Server::new(socket, desk).run())),
            Err(error) => {
                terminal.warn(&format!("'drover machines' and its kin won't work: {error}"));
            }
        }
        answering
    }
}

#[async_trait]
impl Controls for Overseer {
    /// Answers who has come the way of Nix's clients. Of several who come as one user none gives orders to
    /// the others.
    async fn converse(
        &self,
        client: Client,
        named: Named,
        input: Box<dyn AsyncRead + Send + Unpin>,
        output: Box<dyn AsyncWrite + Send + Unpin>,
    ) {
        let power = match (client.trust, named) {
            (ClientTrust::Trusted, Named::ByUser) => Power::Order,
            (ClientTrust::Trusted, Named::Itself) | (ClientTrust::NotTrusted, _) => Power::Ask,
        };
        let user = client.user.clone().unwrap_or_default();
        let answers = Answers { overseer: self, trust: client.trust };
        converse(&Caller { user, power }, input, output, &answers).await;
    }
}

#[async_trait]
impl Responder for Desk {
    async fn admit(&self, credentials: UCred) -> Result<Caller, String> {
        let uid = credentials.uid();
        let Client { user, trust, .. } = match self.rule {
            TrustRule::Forced(trust) => Client::new(None, trust),
            TrustRule::OwnUser if uid != 0 && uid != rustix::process::geteuid().as_raw() => {
                return Err(format!("user {uid} is not the one that this daemon is for"));
            }
            TrustRule::OwnUser => Client::new(None, ClientTrust::Trusted),
            TrustRule::ByPolicy => {
                let peer = spawn_blocking(move || Peer::of(credentials)).await;
                let peer = peer.map_err(|error| format!("cannot look up user {uid}: {error}"))?;
                let policy = Arc::clone(&self.overseer.policy.borrow());
                policy.admit(&peer).map_err(|refusal| refusal.to_string())?
            }
        };
        let power = match trust {
            ClientTrust::Trusted => Power::Order,
            ClientTrust::NotTrusted => Power::Ask,
        };
        Ok(Caller { user: user.unwrap_or_else(|| uid.to_string()), power })
    }

    async fn answer(&self, caller: &Caller, request: Request) -> Answer {
        let trust = match caller.power {
            Power::Order => ClientTrust::Trusted,
            Power::Ask => ClientTrust::NotTrusted,
        };
        self.overseer.answer(caller, trust, request).await
    }
}

/// Answers one whose trust is known apart from what orders this one may give.
struct Answers<'a> {
    overseer: &'a Overseer,
    trust: ClientTrust,
}

#[async_trait]
impl Responder for Answers<'_> {
    async fn admit(&self, _: UCred) -> Result<Caller, String> {
        Err("who this is was said before".to_owned())
    }

    async fn answer(&self, caller: &Caller, request: Request) -> Answer {
        self.overseer.answer(caller, self.trust, request).await
    }
}

impl Overseer {
    async fn answer(&self, caller: &Caller, trust: ClientTrust, request: Request) -> Answer {
        match request {
            Request::Machines => Answer::Machines(self.machines().await),
            Request::Builds => Answer::Builds(self.list().await),
            Request::Explain { build } => match self.find(&build).await {
                Some((service, id)) => self.explain(&service, id, &build).await,
                None => self.not_found(&build),
            },
            Request::Log { build } => match self.find(&build).await {
                Some((service, id)) => self.log(&service, id, &build).await,
                None => self.not_found(&build),
            },
            Request::Drain { machine } => self.order(&machine, Duty::Draining).await,
            Request::Resume { machine } => self.order(&machine, Duty::Working).await,
            Request::Detach(order) => match &self.detached {
                Some(detached) => {
                    let policy = Arc::clone(&self.policy.borrow());
                    let client = Client::new(Some(caller.user.clone()), trust);
                    detached.accept(order, &client, &policy).await
                }
                None => holds_nothing(),
            },
            Request::Follow { build, from } => match &self.detached {
                Some(detached) => detached.follow(caller, &build, from).await,
                None => holds_nothing(),
            },
            Request::Cancel { build } => match &self.detached {
                Some(detached) => detached.cancel(caller, &build),
                None => holds_nothing(),
            },
            _ => Answer::Refused("this daemon can't do that".to_owned()),
        }
    }

    /// Returns the daemon's machines, and of the lists that clients brought those that are in use.
    async fn machines(&self) -> Vec<MachineReport> {
        let mut reports = Vec::new();
        for Crew { service, brought } in self.builds.crews() {
            for view in service.machines().await {
                if brought.is_none() || view.condition != MachineCondition::Unused {
                    reports.push(machine_report(view, brought.clone()));
                }
            }
        }
        reports
    }

    async fn list(&self) -> BuildList {
        let mut list = BuildList::default();
        for Crew { service, .. } in self.builds.crews() {
            let found = service.builds().await;
            list.total += found.total;
            list.builds.extend(found.builds.into_iter().map(|build| self.build_report(build)));
        }
        list.detached = self.detached.as_ref().map(Detached::list).unwrap_or_default();
        list
    }

    /// Returns the build that is meant by a number, by the name of its derivation, or by the name of a
    /// detached build of one derivation.
    async fn find(&self, wanted: &str) -> Option<(Arc<Service>, BuildId)> {
        let of_detached = self.detached_one(wanted).filter(|held| held.derivation_count == 1);
        let wanted = of_detached
            .as_ref()
            .and_then(|held| held.derivations.first())
            .map_or(wanted, String::as_str);
        let number = wanted.parse().ok().map(BuildId);
        let name = base_name(wanted);
        for Crew { service, .. } in self.builds.crews() {
            if let Some(id) = number {
                if service.explain(id).await.is_some() {
                    return Some((service, id));
                }
                continue;
            }
            if let Some(id) = service.last_build(name).await {
                return Some((service, id));
            }
            // as 'drover builds' shows it
            let shown = service.builds().await.builds;
            if let Some(build) = shown.iter().rev().find(|build| is_called(build, name)) {
                let id = build.id;
                return Some((service, id));
            }
        }
        None
    }

    fn detached_one(&self, name: &str) -> Option<DetachedBuild> {
        let held = self.detached.as_ref()?.list();
        held.into_iter().find(|held| held.id == name)
    }

    /// Says of a build that isn't known what to ask for in its place.
    fn not_found(&self, wanted: &str) -> Answer {
        let Some(held) = self.detached_one(wanted) else { return unknown_build(wanted) };
        let bases = held.derivations.iter().map(|path| path.rsplit('/').next().unwrap_or(path));
        let names: Vec<&str> = bases.collect();
        Answer::Refused(format!(
            "'{wanted}' is a detached build: 'drover builds attach {wanted}' shows what it says and how it ends; \
             ask for one of its derivations while it is built: {}",
            names.join(", ")
        ))
    }

    async fn explain(&self, service: &Service, id: BuildId, wanted: &str) -> Answer {
        let Some(explanation) = service.explain(id).await else { return unknown_build(wanted) };
        let machines = explanation.machines.into_iter().map(|one| ChoiceReport {
            code: one.choice.code().to_owned(),
            machine: one.machine,
            text: one.text,
        });
        Answer::Explanation(BuildExplanation {
            machines: machines.collect(),
            build: self.build_report(explanation.build),
        })
    }

    async fn log(&self, service: &Service, id: BuildId, wanted: &str) -> Answer {
        let Some(log) = service.kept_log(id).await else { return unknown_build(wanted) };
        let build = self.build_report(log.build);
        Answer::Log(BuildLog { build, dropped: log.dropped, lines: log.lines })
    }

    /// Has machines take jobs or not.
    async fn order(&self, machine: &str, duty: Duty) -> Answer {
        let mut names = Vec::new();
        for Crew { service, .. } in self.builds.crews() {
            let views = service.machines().await;
            names.extend(views.into_iter().map(|view| view.description.name));
        }
        let machine = machine_names::meant(machine, &names).unwrap_or(machine).to_owned();
        let machine = machine.as_str();
        if !names.iter().any(|name| name == machine) {
            return Answer::Refused(machine_names::stranger(machine, names));
        }
        self.builds.set_duty(machine, duty);
        Answer::Done
    }

    fn build_report(&self, view: BuildView) -> BuildReport {
        let whole = |path: &StorePath| self.store_dir.display(path);
        let report = BuildReport {
            id: view.id.0.to_string(),
            derivation: whole(&view.derivation),
            clients: view.clients,
            client_count: view.waiting,
            log_lines: view.log_lines,
            ..BuildReport::default()
        };
        let at = |state: &str, machine: String| BuildReport {
            state: state.to_owned(),
            machine: Some(machine),
            ..report.clone()
        };
        match view.state {
            BuildState::Building { machine, time, phase } => {
                BuildReport { seconds: Some(time.as_secs_f64()), phase, ..at("building", machine) }
            }
            BuildState::Sending { machine } => at("sending", machine),
            BuildState::Queued { machine, after } => BuildReport {
                waits_for_count: after.iter().count(),
                waits_for: after.iter().map(whole).collect(),
                ..at("queued", machine)
            },
            BuildState::Stopping { machine } => at("stopping", machine),
            BuildState::Ready => BuildReport { state: "ready".to_owned(), ..report },
            BuildState::Waiting { on, count } => BuildReport {
                state: "waiting".to_owned(),
                waits_for: on.iter().map(whole).collect(),
                waits_for_count: count,
                ..report
            },
            BuildState::Over { outcome, machine, took } => BuildReport {
                outcome: Some(outcome_name(outcome).to_owned()),
                seconds: took.map(|took| took.as_secs_f64()),
                state: "over".to_owned(),
                machine,
                ..report
            },
        }
    }
}

/// Returns the base name of a derivation, be it named with its path or with outputs (`PATH.drv^out`).
fn base_name(wanted: &str) -> &str {
    let name = wanted.rsplit('/').next().unwrap_or(wanted);
    name.split_once('^').map_or(name, |(name, _)| name)
}

fn is_called(build: &BuildView, name: &str) -> bool {
    build.derivation.name().strip_suffix(".drv") == Some(name)
}

fn outcome_name(outcome: BuildEnding) -> &'static str {
    match outcome {
        BuildEnding::Built => "built",
        BuildEnding::Failed => "failed",
        BuildEnding::Unneeded => "unneeded",
        BuildEnding::Cancelled => "cancelled",
    }
}

fn holds_nothing() -> Answer {
    Answer::Refused(
        "this daemon schedules for the hook of stock Nix, which waits for its builds itself; to have \
         builds held, run 'drover daemon' in the place of nix-daemon, or name a head with --store \
         ssh-ng://HEAD"
            .to_owned(),
    )
}

fn unknown_build(wanted: &str) -> Answer {
    Answer::Refused(format!(
        "there is no build '{wanted}', or not any more; those that there are: drover builds"
    ))
}

fn machine_report(view: MachineView, brought: Option<String>) -> MachineReport {
    let state = match view.condition {
        MachineCondition::Unused => "unused",
        MachineCondition::Connecting => "connecting",
        MachineCondition::Connected => "connected",
        MachineCondition::OnProbation => "probation",
        MachineCondition::Down { .. } => "down",
        MachineCondition::Refused => "refused",
        MachineCondition::Draining => "draining",
        MachineCondition::Leaving => "leaving",
    };
    MachineReport {
        state: state.to_owned(),
        busy: Some(view.busy),
        queued: Some(view.queued),
        again_in_seconds: match view.condition {
            MachineCondition::Down { again } => Some(again.as_secs_f64()),
            _ => None,
        },
        last_failure: view.last_failure.map(|failure| FailureReport {
            kind: failure.fault.to_string(),
            cause: failure.cause,
            seconds_ago: failure.ago.as_secs_f64(),
        }),
        brought_by_clients: brought,
        ..crate::machine_list::described(&view.description)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derivation_is_found_by_what_it_is_called_anywhere() {
        let base = "3880j94arxkya3irs3d8nr2x076sp1m8-w3.drv";
        for wanted in [base, &format!("/nix/store/{base}"), &format!("/nix/store/{base}^out")] {
            assert_eq!(base_name(wanted), base);
        }
        let build = BuildView {
            id: BuildId(3),
            derivation: StorePath::from_base_name(base).unwrap(),
            state: BuildState::Ready,
            clients: Vec::new(),
            waiting: 0,
            log_lines: 0,
        };
        assert!(is_called(&build, "w3") && !is_called(&build, "w"));
    }
}
