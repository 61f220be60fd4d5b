//! `drover store ping`: whether a store can be reached, and who is there.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use drover_config::Scheme;
use drover_core::StorePath;
use drover_store::{Description, Store, Trust};
use drover_store_local::{Access, Place};
use drover_store_remote::Address;
use serde_json::json;

use crate::arguments::{SettingArguments, VerbosityArguments};
use crate::caches;
use crate::configuration::Configuration;
use crate::connector::Connector;
use crate::exit::ExitStatus;
use crate::local_store::{LocalStore, StockDaemon};
use crate::own_store;
use crate::terminal::Terminal;

/// The arguments of `drover store ping`.
#[derive(Debug, Args)]
pub(crate) struct PingArguments {
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

/// A path that no store has, to ask for.
const NO_PATH: &str = "00000000000000000000000000000000-drover-ping";

/// Questions that are asked one after another.
const QUESTIONS: usize = 7;

/// What was found out.
struct Found {
    url: String,
    description: Description,
    connected: Duration,
    round_trip: Duration,
}

/// Connects, and tells what was found out.
pub(crate) async fn ping(
    arguments: PingArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let configuration = Configuration::load(&arguments.settings.overrides(), terminal)?;
    let (url, store) = opened(&configuration)?;
    let start = Instant::now();
    let description = store.connect().await?;
    let connected = start.elapsed();
    let round_trip = round_trip(&*store).await?;
    let found = Found { url, description, connected, round_trip };
    match arguments.json {
        true => terminal.print(&as_json(&found))?,
        false => terminal.print(&as_text(&found))?,
    }
    Ok(ExitStatus::SUCCESS)
}

/// Opens the store of the settings, and says how the user calls it.
fn opened(configuration: &Configuration) -> anyhow::Result<(String, Box<dyn Store>)> {
    let Configuration { settings, conf, host, .. } = configuration;
    let reference = &settings.store;
    if caches::is_one(reference) {
        return Ok((reference.to_string(), Box::new(caches::open(reference, configuration)?)));
    }
    if let Scheme::Other(_) = reference.scheme() {
        bail!(
            "store '{reference}' is not one that can be looked at: that is auto, daemon, unix://SOCKET, \
             local, a folder, ssh-ng://HOST, ssh://HOST, file://FOLDER, http(s)://HOST and s3://BUCKET"
        );
    }
    let local = LocalStore::choose(configuration)?;
    let own = match local.address {
        // nobody stands between
        Address::Local(_) => own_store::writable_layout(reference)?,
        _ => None,
    };
    if let Some(layout) = own {
        return Ok((local.name, Box::new(own_store::open(layout, settings, conf)?)));
    }
    if let Address::Local(_) = local.address
        && let Some(Place::Local(layout) | Place::Own(layout)) = own_store::place(reference)?
        && (layout.access == Access::ReadOnly || local.stock_daemon(host) == StockDaemon::Absent)
        && layout.state.join("db/db.sqlite").exists()
    {
        // it's only looked at
        return Ok((local.name, Box::new(own_store::open(layout, settings, conf)?)));
    }
    local.require_program(host)?;
    let connector = Connector::new(configuration)?;
    let store = connector.open_local(&local, &Default::default());
    Ok((local.name, Box::new(store)))
}

/// Returns the median time of a cheap question.
async fn round_trip(store: &dyn Store) -> anyhow::Result<Duration> {
    let path = StorePath::from_base_name(NO_PATH)?;
    let mut times = Vec::with_capacity(QUESTIONS);
    for _ in 0..QUESTIONS {
        let start = Instant::now();
        store.path_infos(std::slice::from_ref(&path)).await?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times.get(QUESTIONS / 2).copied().unwrap_or_default())
}

fn as_text(found: &Found) -> String {
    let Found { url, description, connected, round_trip } = found;
    let trusted = match description.trust {
        Trust::Trusted => "yes",
        Trust::NotTrusted => "no",
        Trust::Unknown => "unknown (this protocol does not say)",
    };
    let version =
        description.nix_version.as_deref().unwrap_or("unknown (this protocol does not say)");
    let milliseconds = round_trip.as_secs_f64() * 1000.0;
    format!(
        "Store URL: {url}\nVersion: {version}\nProtocol: {}\nTrusted: {trusted}\n\
         Connected in: {:.2} s\nRound trip: {milliseconds:.2} ms",
        description.protocol,
        connected.as_secs_f64(),
    )
}

fn as_json(found: &Found) -> String {
    let Found { url, description, connected, round_trip } = found;
    let trusted = match description.trust {
        Trust::Trusted => Some(true),
        Trust::NotTrusted => Some(false),
        Trust::Unknown => None,
    };
    json!({
        "url": url,
        "version": description.nix_version,
        "protocol": description.protocol,
        "trusted": trusted,
        "connectSeconds": connected.as_secs_f64(),
        "roundTripSeconds": round_trip.as_secs_f64(),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(trust: Trust, nix_version: Option<&str>) -> Found {
        Found {
            url: "ssh-ng://b1".to_owned(),
            description: Description {
                protocol: "worker protocol 1.38".to_owned(),
                nix_version: nix_version.map(str::to_owned),
                trust,
            },
            connected: Duration::from_millis(312),
            round_trip: Duration::from_micros(420),
        }
    }

    #[test]
    fn text() {
        assert_eq!(
            as_text(&found(Trust::Trusted, Some("2.34.1"))),
            "Store URL: ssh-ng://b1\nVersion: 2.34.1\nProtocol: worker protocol 1.38\nTrusted: yes\nConnected in: 0.31 s\nRound trip: 0.42 ms"
        );
    }

    #[test]
    fn json_says_nothing_it_does_not_know() {
        let told: serde_json::Value =
            serde_json::from_str(&as_json(&found(Trust::Unknown, None))).unwrap();
        assert_eq!(told["trusted"], serde_json::Value::Null);
        assert_eq!(told["version"], serde_json::Value::Null);
        assert_eq!(told["url"], "ssh-ng://b1");
    }
}
