//! `drover doctor`: whether builds get to the machines, and what mends it where they don't.
//!
//! What is looked at is here; what it means is said by `drover-doctor`. All machines are examined at
//! once, each step by step, and every step has a limit: the whole takes as long as the slowest
//! machine.

mod arguments;
mod chart;
mod examine;
mod guarded;
mod lines;
mod listed;
mod login;
mod noop;
mod own;
mod way;

use std::sync::Arc;

use anyhow::Context as _;
use drover_config::Machine;
use drover_doctor::{MachineReport, Report, report_as_json, report_as_text};
use tokio::task::JoinSet;

pub(crate) use arguments::DoctorArguments;
pub(crate) use examine::{Surroundings, examine};
pub(crate) use login::target;
pub(crate) use own::{known, machine_settings, places};
pub(crate) use way::Way;

use crate::configuration::Configuration;
use crate::connector::Connector;
use crate::exit::{ExitStatus, Interrupted};
use crate::signals::Signals;
use crate::terminal::Terminal;

/// Examines the configuration and the machines.
///
/// # Errors
///
/// A configuration that can't be understood at all, or a machine that isn't listed.
pub(crate) async fn run(
    arguments: DoctorArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let signals = Signals::watch().context("cannot wait for signals")?;
    let report = tokio::select! {
        report = find_out(&arguments, terminal) => report?,
        () = signals.first.cancelled() => return Err(Interrupted.into()),
    };
    terminal.print(&match arguments.json {
        true => report_as_json(&report).to_string(),
        false => report_as_text(&report),
    })?;
    Ok(match report.is_well() {
        true => ExitStatus::SUCCESS,
        false => ExitStatus::GENERAL,
    })
}

async fn find_out(arguments: &DoctorArguments, terminal: &Terminal) -> anyhow::Result<Report> {
    // what is odd stands in the report
    let silent = terminal.silent();
    let (configuration, errors) = Configuration::load_what_is_sound(&arguments.overrides())?;
    let listed = listed::machines(&configuration)?;
    let asked = match arguments.asks() {
        false => None,
        true => Some(lines::requirements(arguments, &configuration, &silent).await?),
    };
    let chosen = listed::chosen(&arguments.builders_to_examine, &listed, &configuration)?;
    let connector = Connector::new(&configuration)?;
    let surroundings = Arc::new(Surroundings::of(&configuration, connector));
    let (report, machines) = tokio::join!(
        lines::report(&configuration, &listed, asked.as_deref(), &surroundings),
        examine_all(chosen, &surroundings)
    );
    let mut report = Report { machines, ..report? };
    report.findings.splice(0..0, errors.iter().map(lines::bad_line));
    report.bad_settings = errors.len();
    Ok(report)
}

async fn examine_all(
    machines: Vec<Machine>,
    surroundings: &Arc<Surroundings>,
) -> Vec<MachineReport> {
    let mut tasks = JoinSet::new();
    for (at, machine) in machines.into_iter().enumerate() {
        let surroundings = Arc::clone(surroundings);
        tasks.spawn(async move { (at, examine(&machine, &surroundings).await) });
    }
    let mut examined = tasks.join_all().await;
    examined.sort_by_key(|(at, _)| *at);
    examined.into_iter().map(|(_, report)| report).collect()
}
