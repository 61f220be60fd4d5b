//! `drover builds`: what the daemon builds, for whom, and why there.

use std::time::Duration;

use drover_control::{
    Answer, BuildExplanation, BuildList, BuildLog, BuildReport, DetachedBuild, Request,
};
use drover_core::plain_text;

use crate::arguments::{BuildsArguments, BuildsCommand};
use crate::configuration::Configuration;
use crate::exit::ExitStatus;
use crate::table::table;
use crate::terminal::Terminal;
use crate::{attach, control, units};

/// Says what the daemon builds.
pub(crate) async fn run(
    arguments: BuildsArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let configuration = Configuration::load(&arguments.settings.overrides(), terminal)?;
    let request = match arguments.command {
        Some(BuildsCommand::Attach { build }) => {
            let form = match arguments.json {
                true => attach::Form::Json,
                false => attach::Form::Text,
            };
            return attach::attach(&configuration, build, form, terminal).await;
        }
        Some(BuildsCommand::Cancel { build }) => {
            let done = format!("{build} is being ended");
            control::ask_needed(&configuration, &Request::Cancel { build }).await?;
            terminal.info(&done);
            return Ok(ExitStatus::SUCCESS);
        }
        None => Request::Builds,
        Some(BuildsCommand::Explain { build }) => Request::Explain { build },
        Some(BuildsCommand::Log { build }) => Request::Log { build },
    };
    let answer = control::ask_needed(&configuration, &request).await?;
    let text = match (arguments.json, &answer) {
        (true, Answer::Builds(list)) => serde_json::to_string(list)?,
        (true, Answer::Explanation(explanation)) => serde_json::to_string(explanation)?,
        (true, Answer::Log(log)) => serde_json::to_string(log)?,
        (false, Answer::Builds(list)) => list_as_text(list),
        (false, Answer::Explanation(explanation)) => explanation_as_text(explanation),
        (false, Answer::Log(log)) => log_as_text(log),
        _ => anyhow::bail!("the daemon has answered another question"),
    };
    if !text.is_empty() {
        terminal.print(&text)?;
    }
    Ok(ExitStatus::SUCCESS)
}

fn list_as_text(list: &BuildList) -> String {
    let mut text = waited_for_as_text(list);
    if !list.detached.is_empty() {
        let rows: Vec<[String; 4]> = list.detached.iter().map(detached_row).collect();
        text.push_str("\n\n");
        text.push_str(&table(["DETACHED", "DERIVATION", "STATE", "OWNER"], &rows));
    }
    text
}

fn detached_row(build: &DetachedBuild) -> [String; 4] {
    let first = build.derivations.first().map_or("", |path| name(path));
    let derivation = match build.derivation_count {
        0 | 1 => first.to_owned(),
        count => format!("{first} and {} more", count - 1),
    };
    let time = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let state = match build.ended_seconds_ago {
        None => format!("{} for {}", build.state, units::whole_time(time(build.seconds))),
        Some(ago) => format!("{} {} ago", build.state, units::whole_time(time(ago))),
    };
    [build.id.clone(), derivation, state, build.owner.clone()]
}

fn waited_for_as_text(list: &BuildList) -> String {
    if list.builds.is_empty() {
        return "nothing is built".to_owned();
    }
    let rows: Vec<[String; 6]> = list.builds.iter().map(row).collect();
    let mut text = table(["ID", "DERIVATION", "STATE", "MACHINE", "TIME", "FOR"], &rows);
    if let Some(more @ 1..) = list.total.checked_sub(list.builds.len()) {
        text.push_str(&format!("\n… and {more} more"));
    }
    text
}

fn row(build: &BuildReport) -> [String; 6] {
    let time = build.seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    [
        build.id.clone(),
        name(&build.derivation).to_owned(),
        state(build),
        build.machine.clone().unwrap_or_default(),
        time.map(units::whole_time).unwrap_or_default(),
        clients(build),
    ]
}

/// Returns the name of a derivation, without directory, hash and ending.
pub(crate) fn name(derivation: &str) -> &str {
    let base = derivation.rsplit('/').next().unwrap_or(derivation);
    let name = base.split_once('-').map_or(base, |(_, name)| name);
    name.strip_suffix(".drv").unwrap_or(name)
}

fn state(build: &BuildReport) -> String {
    let first = build.waits_for.first().map_or("", |path| name(path));
    match (build.state.as_str(), build.phase.as_deref()) {
        ("building", Some(phase)) => plain_text(phase),
        ("queued", _) if !first.is_empty() => format!("queued behind {first}"),
        ("waiting", _) if build.waits_for_count == 1 => format!("waiting for {first}"),
        ("waiting", _) if build.waits_for_count > 1 => {
            format!("waiting for {first} and {} more", build.waits_for_count - 1)
        }
        (state, _) => state.to_owned(),
    }
}

/// Says of a build that is over also how it ended, and how long it took.
fn state_or_end(build: &BuildReport) -> String {
    let Some(outcome) = &build.outcome else { return state(build) };
    let how = match outcome.as_str() {
        "unneeded" => "not needed after all".to_owned(),
        "cancelled" => "ended, as nobody waited for it any more".to_owned(),
        other => plain_text(other),
    };
    match build.seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(took) => format!("over: {how} in {}", units::time(took)),
        None => format!("over: {how}"),
    }
}

fn clients(build: &BuildReport) -> String {
    let names = build.clients.join(", ");
    match (build.client_count, names.is_empty()) {
        (0, _) => "nobody".to_owned(),
        (count, true) => units::count(count, "client"),
        (1, false) => names,
        (count, false) => format!("{names} ({})", units::count(count, "client")),
    }
}

fn explanation_as_text(explanation: &BuildExplanation) -> String {
    let build = &explanation.build;
    let at = build.machine.as_ref().map(|machine| format!(" on {machine}")).unwrap_or_default();
    let mut lines = vec![
        format!("build {}: {}", build.id, build.derivation),
        format!("  {}{at}, for {}", state_or_end(build), clients(build)),
    ];
    let waits = build.waits_for.iter().map(|path| format!("  waits for {path}"));
    lines.extend(waits.filter(|_| build.state == "waiting"));
    for machine in &explanation.machines {
        let text = plain_text(&machine.text).replace('\n', "\n      ");
        lines.push(format!("  {}: {text}", machine.machine));
    }
    lines.join("\n")
}

fn log_as_text(log: &BuildLog) -> String {
    let dropped = (log.dropped != 0).then(|| {
        format!("[{} of the log are not kept]", units::count(log.dropped, "earlier line"))
    });
    let lines = log.lines.iter().map(|line| plain_text(line));
    dropped.into_iter().chain(lines).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use drover_control::ChoiceReport;

    use super::*;

    fn build(id: &str, name: &str, state: &str) -> BuildReport {
        BuildReport {
            id: id.to_owned(),
            derivation: format!("/nix/store/3880j94arxkya3irs3d8nr2x076sp1m8-{name}.drv"),
            state: state.to_owned(),
            clients: vec!["ann".to_owned()],
            client_count: 1,
            ..BuildReport::default()
        }
    }

    fn builds() -> [BuildReport; 4] {
        let other = |name: &str| build("", name, "").derivation;
        [
            BuildReport {
                machine: Some("alpha".to_owned()),
                seconds: Some(63.9),
                phase: Some("buildPhase".to_owned()),
                clients: vec!["ann".to_owned(), "bob".to_owned()],
                client_count: 3,
                ..build("7", "gcc-13", "building")
            },
            BuildReport {
                machine: Some("alpha".to_owned()),
                waits_for: vec![other("gcc-13")],
                waits_for_count: 1,
                ..build("8", "glibc", "queued")
            },
            build("9", "perl", "ready"),
            BuildReport {
                waits_for: vec![other("perl"), other("glibc")],
                waits_for_count: 12,
                clients: Vec::new(),
                client_count: 2,
                ..build("10", "stdenv-linux", "waiting")
            },
        ]
    }

    #[test]
    fn builds_in_words() {
        let list = BuildList { builds: builds().into(), total: 40, detached: Vec::new() };
        let expected = "\
ID  DERIVATION    STATE                    MACHINE  TIME   FOR
7   gcc-13        buildPhase               alpha    1m03s  ann, bob (3 clients)
8   glibc         queued behind gcc-13     alpha           ann
9   perl          ready                                    ann
10  stdenv-linux  waiting for perl and 11 more                2 clients
… and 36 more";
        let told = list_as_text(&list);
        let plain = |text: &str| {
            let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            lines.map(|words| words.join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(plain(&told), plain(expected), "{told}");
        assert_eq!(list_as_text(&BuildList::default()), "nothing is built");
    }

    #[test]
    fn what_is_held_and_remembered_in_words() {
        let held = DetachedBuild {
            id: "d4k1m9x2".to_owned(),
            owner: "ann".to_owned(),
            derivations: vec![build("", "app", "").derivation],
            derivation_count: 3,
            state: "running".to_owned(),
            seconds: 63.9,
            ..DetachedBuild::default()
        };
        let over = DetachedBuild {
            id: "d000000z".to_owned(),
            derivation_count: 1,
            state: "failed".to_owned(),
            ended_seconds_ago: Some(5.0),
            ..held.clone()
        };
        let list = BuildList { detached: vec![held, over], ..BuildList::default() };
        let told = list_as_text(&list);
        let lines: Vec<&str> = told.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "nothing is built",
                "",
                "DETACHED  DERIVATION      STATE              OWNER",
                "d4k1m9x2  app and 2 more  running for 1m03s  ann",
                "d000000z  app             failed 5s ago      ann",
            ]
        );
    }

    #[test]
    fn an_explanation_in_words() {
        let [_, queued, ..] = builds();
        let machines = vec![
            ChoiceReport {
                machine: "alpha".to_owned(),
                code: "chosen".to_owned(),
                text: "chosen: all slots were busy".to_owned(),
            },
            ChoiceReport {
                machine: "beta".to_owned(),
                code: "features".to_owned(),
                text: "not chosen: it lacks feature kvm".to_owned(),
            },
        ];
        let explanation = BuildExplanation { build: queued, machines };
        let expected = "\
build 8: /nix/store/3880j94arxkya3irs3d8nr2x076sp1m8-glibc.drv
  queued behind gcc-13 on alpha, for ann
  alpha: chosen: all slots were busy
  beta: not chosen: it lacks feature kvm";
        assert_eq!(explanation_as_text(&explanation), expected);
    }

    #[test]
    fn one_that_is_over_says_how_it_ended() {
        let over = BuildReport {
            outcome: Some("built".to_owned()),
            machine: Some("alpha".to_owned()),
            seconds: Some(63.9),
            ..build("7", "gcc-13", "over")
        };
        let told = |build: BuildReport| {
            let explanation = BuildExplanation { build, machines: Vec::new() };
            explanation_as_text(&explanation).lines().last().unwrap().to_owned()
        };
        assert_eq!(told(over.clone()), "  over: built in 1m03s on alpha, for ann");
        let gone = BuildReport {
            outcome: Some("cancelled".to_owned()),
            machine: None,
            seconds: None,
            clients: Vec::new(),
            client_count: 0,
            ..over
        };
        let expected = "  over: ended, as nobody waited for it any more, for nobody";
        assert_eq!(told(gone), expected);
    }

    #[test]
    fn a_log_says_what_is_not_kept_of_it() {
        let lines = vec!["one".to_owned(), "\x1b[31mtwo\x1b[0m".to_owned()];
        let log = BuildLog { build: BuildReport::default(), dropped: 3, lines };
        assert_eq!(log_as_text(&log), "[3 earlier lines of the log are not kept]\none\ntwo");
    }
}
