//! The steps until `ssh` has let us in.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drover_doctor::checks::host_key::Expected;
use drover_doctor::checks::{host_key, last_words, login, name, port};
use drover_doctor::{Route, StepName, Target, Verdict};
use drover_store_remote::{Login, SshTarget};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::chart::{Chart, timed};

/// Bytes of a server's first words that are read.
const WORDS: usize = 255;

/// What came of connecting to ports. Each is tried once, however many lines lead there: a server may
/// shut out those who come often and don't log in (`PerSourcePenalties`).
#[derive(Default)]
pub(super) struct Knocks(Mutex<BTreeMap<(IpAddr, u16), Answer>>);

/// An answer that may be under way.
type Answer = Arc<OnceCell<port::Answer>>;

impl Knocks {
    async fn answer(&self, address: IpAddr, port: u16, limit: Duration) -> port::Answer {
        let cell = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry((address, port)).or_default())
        };
        cell.get_or_init(|| first_words(address, port, limit)).await.clone()
    }
}

/// Returns how a machine is called on the command line of `ssh`.
pub(crate) fn target(target: &SshTarget) -> Target {
    let mut arguments = Vec::new();
    if let Some(port) = target.port {
        arguments.extend(["-p".to_owned(), port.to_string()]);
    }
    if let Some(key) = &target.key {
        arguments.extend(["-i".to_owned(), key.display().to_string()]);
    }
    let destination = match &target.user {
        Some(user) => format!("{user}@{}", target.host),
        None => target.host.clone(),
    };
    Target { destination, arguments }
}

/// Goes all the way to a shell there, and returns it, as `ssh` has it.
pub(super) async fn reach(
    chart: &mut Chart,
    way: &Login,
    ssh: &SshTarget,
    (knocks, limit): (&Knocks, Duration),
) -> Option<Route> {
    let target = target(ssh);
    let (route, took) = timed(way.configuration()).await;
    let route = match route.map(|printed| Route::parse(&printed)) {
        Ok(Some(route)) => route,
        Ok(None) => {
            let verdict = Verdict::wrong("ssh -G says no host name", target.ssh("-G"));
            chart.note(StepName::Name, Some(took), verdict);
            return None;
        }
        Err(error) => {
            let said = last_words(&error.to_string());
            let verdict = Verdict::wrong(said, target.ssh("-G"));
            chart.note(StepName::Name, Some(took), verdict);
            return None;
        }
    };
    let addresses = resolve(chart, &route, ssh, limit).await?;
    knock(chart, &route, &addresses, (knocks, limit)).await?;
    let expected = match ssh.host_key {
        Some(_) => Expected::Line,
        None => Expected::KnownHosts,
    };
    let (greeting, took) = timed(way.greeting()).await;
    let said = greeting.unwrap_or_else(|error| error.to_string());
    let verdict = host_key::judge(&said, expected, &route, &target);
    chart.note(StepName::HostKey, Some(took), verdict)?;
    if said.contains("Permission denied") {
        // once is enough: a server may shut out those who go on trying
        let verdict = login::judge(Err(&said), &route, &target);
        chart.note(StepName::Login, None, verdict);
        return None;
    }
    let (opened, took) = timed(way.open()).await;
    let error = opened.err().map(|error| error.to_string());
    let verdict = login::judge(error.as_deref().map_or(Ok(()), Err), &route, &target);
    chart.note(StepName::Login, Some(took), verdict)?;
    Some(route)
}

/// Looks the name up.
async fn resolve(
    chart: &mut Chart,
    route: &Route,
    ssh: &SshTarget,
    limit: Duration,
) -> Option<Vec<IpAddr>> {
    if route.via.is_some() {
        chart.note(StepName::Name, None, name::judge(&ssh.host, route, Ok(&[])))?;
        return Some(Vec::new());
    }
    let asking = tokio::net::lookup_host((route.host.as_str(), route.port));
    let (outcome, took) = timed(timeout(limit, asking)).await;
    let mut addresses = Vec::new();
    let verdict = match outcome {
        Ok(Ok(found)) => {
            addresses.extend(found.map(|address| address.ip()));
            addresses.dedup();
            name::judge(&ssh.host, route, Ok(&addresses))
        }
        Ok(Err(error)) => {
            let why = error.to_string();
            let why = why.strip_prefix("failed to lookup address information: ").unwrap_or(&why);
            name::judge(&ssh.host, route, Err(why))
        }
        Err(_) => name::overdue(limit, &route.host),
    };
    chart.note(StepName::Name, Some(took), verdict)?;
    Some(addresses)
}

/// Connects to the port, at the first address that answers.
async fn knock(
    chart: &mut Chart,
    route: &Route,
    addresses: &[IpAddr],
    (knocks, limit): (&Knocks, Duration),
) -> Option<()> {
    if route.via.is_some() {
        return chart.note(StepName::Port, None, port::judge(route, &port::Answer::NotTried));
    }
    let (answer, took) = timed(async {
        let mut answer = port::Answer::Nothing { after: limit };
        for address in addresses {
            answer = knocks.answer(*address, route.port, limit).await;
            if matches!(answer, port::Answer::Words(_)) {
                break;
            }
        }
        answer
    })
    .await;
    chart.note(StepName::Port, Some(took), port::judge(route, &answer))
}

async fn first_words(address: IpAddr, port: u16, limit: Duration) -> port::Answer {
    let failed = |error: std::io::Error| port::Answer::Failed { reason: error.to_string() };
    let conversation = async {
        let mut stream = match TcpStream::connect((address, port)).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                return port::Answer::Refused;
            }
            Err(error) => return failed(error),
        };
        let mut words = [0; WORDS];
        match stream.read(&mut words).await {
            Ok(len) => {
                let words = words.get(..len).unwrap_or_default();
                port::Answer::Words(String::from_utf8_lossy(words).into_owned())
            }
            Err(error) => failed(error),
        }
    };
    match timeout(limit, conversation).await {
        Ok(answer) => answer,
        Err(_) => port::Answer::Nothing { after: limit },
    }
}
