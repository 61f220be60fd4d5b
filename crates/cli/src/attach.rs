//! `drover builds attach`: how a detached build goes, until it is over or the user has seen enough.

use std::time::Duration;

use anyhow::{Context as _, bail};
use drover_control::{Answer, ControlError, DetachedOutcome, FollowedBuild, FollowedLine, Request};
use drover_core::plain_text;

use crate::build_list::name;
use crate::configuration::Configuration;
use crate::control::{self, Reached};
use crate::exit::ExitStatus;
use crate::signals::Signals;
use crate::terminal::Terminal;
use crate::units;

/// For how long a daemon is tried to which the connection was lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest rest between two tries; the first is none.
const LONGEST_REST: Duration = Duration::from_secs(8);

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As lines on standard error, and in the end the paths of the outputs on standard output.
    Text,
    /// As the daemon's answers on standard output, one a line.
    Json,
}

/// Shows how a detached build goes, and ends as it does.
///
/// # Errors
///
/// There is no daemon of drover, or no such build, or it is somebody else's.
pub(crate) async fn attach(
    configuration: &Configuration,
    build: String,
    form: Form,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let signals = Signals::watch().context("cannot wait for signals")?;
    let following = follow(configuration, &build, form, terminal);
    tokio::select! {
        outcome = following => conclude(&build, outcome?, form, terminal),
        () = signals.first.cancelled() => {
            terminal.info(&format!("{build} goes on (drover builds cancel {build} ends it)"));
            Ok(ExitStatus::INTERRUPTED)
        }
    }
}

/// Shows what is said until it is over.
async fn follow(
    configuration: &Configuration,
    build: &str,
    form: Form,
    terminal: &Terminal,
) -> anyhow::Result<DetachedOutcome> {
    let daemon = control::reach(configuration).await?;
    let mut line = Line { configuration, build, terminal, daemon };
    let mut followed = line.begin().await?;
    let mut from = 0;
    loop {
        match form {
            Form::Json => terminal.print(&serde_json::to_string(&followed)?)?,
            Form::Text => show(&followed, terminal),
        }
        if let Some(outcome) = followed.outcome {
            return Ok(outcome);
        }
        if followed.next < from {
            bail!("the daemon counts the lines of {build} backwards");
        }
        from = followed.next;
        followed = line.ask(from).await?;
    }
}

/// A conversation about one build, which is taken up again where it breaks: when this was stopped, or the network
/// was away.
struct Line<'a> {
    configuration: &'a Configuration,
    build: &'a str,
    terminal: &'a Terminal,
    daemon: Reached,
}

impl Line<'_> {
    fn request(&self, from: u64) -> Request {
        Request::Follow { build: self.build.to_owned(), from }
    }

    /// Asks what was said from the beginning.
    ///
    /// # Errors
    ///
    /// The daemon refuses, or isn't one of drover: those of Nix end the connection at once.
    async fn begin(&mut self) -> anyhow::Result<FollowedBuild> {
        let request = self.request(0);
        match self.try_once(&request).await? {
            Ok(followed) => Ok(followed),
            Err(lost) => Err(control::with_remedy(self.configuration, lost).await),
        }
    }

    /// Asks what was said from a number on.
    ///
    /// # Errors
    ///
    /// The daemon refuses, or can't be reached again.
    async fn ask(&mut self, from: u64) -> anyhow::Result<FollowedBuild> {
        let request = self.request(from);
        let mut lost = match self.try_once(&request).await? {
            Ok(followed) => return Ok(followed),
            Err(lost) => anyhow::Error::from(lost),
        };
        self.terminal.info(&format!("{lost:#}; trying to reach it again"));
        let trying = async {
            let mut rest = Duration::ZERO;
            loop {
                tokio::time::sleep(rest).await;
                rest = (rest * 2).clamp(Duration::from_secs(1), LONGEST_REST);
                match control::reach(self.configuration).await {
                    Ok(daemon) => self.daemon = daemon,
                    Err(error) => {
                        lost = error;
                        continue;
                    }
                }
                match self.try_once(&request).await? {
                    Ok(followed) => return Ok(followed),
                    Err(error) => lost = error.into(),
                }
            }
        };
        if let Ok(answer) = tokio::time::timeout(PATIENCE, trying).await {
            return answer;
        }
        let build = self.build;
        Err(lost.context(format!(
            "'{build}' can't be followed any more; it goes on as long as the daemon runs, and 'drover builds \
             attach {build}' shows it again"
        )))
    }

    /// Asks on the connection that there is; the inner error says that this one is of no use any more.
    async fn try_once(
        &mut self,
        request: &Request,
    ) -> anyhow::Result<Result<FollowedBuild, ControlError>> {
        match self.daemon.ask(request).await {
            Ok(Answer::Followed(followed)) => Ok(Ok(followed)),
            Ok(_) => bail!("the daemon has answered another question"),
            Err(error @ (ControlError::Lost { .. } | ControlError::Silent { .. })) => {
                Ok(Err(error))
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn show(followed: &FollowedBuild, terminal: &Terminal) {
    if followed.dropped != 0 {
        let dropped = usize::try_from(followed.dropped).unwrap_or(usize::MAX);
        terminal.info(&format!("[{} of the log are not kept]", units::count(dropped, "line")));
    }
    for line in &followed.lines {
        if let Some(text) = shown(line) {
            terminal.info(&text);
        }
    }
}

/// Returns a line as it is shown, if it is.
fn shown(line: &FollowedLine) -> Option<String> {
    let (text, name) = (plain_text(&line.text), name(&line.derivation));
    Some(match (line.kind.as_str(), text.is_empty()) {
        ("started", true) => format!("building {name} on the daemon's machine"),
        ("started", false) => format!("building {name} on {text}"),
        ("waiting", true) => format!("{name} waits for a machine"),
        ("waiting", false) => format!("{name} waits for a machine: {text}"),
        ("line", _) => format!("{name}> {text}"),
        ("note", _) => text,
        // phases, and what a later release says
        _ => return None,
    })
}

/// Tells how it ended.
fn conclude(
    build: &str,
    outcome: DetachedOutcome,
    form: Form,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    if let Some(error) = &outcome.error {
        terminal.error(&format!("{build}: {}", plain_text(error)));
    }
    for result in &outcome.results {
        if !result.succeeded {
            let message = plain_text(&result.message);
            let indented = message.trim().replace('\n', "\n       ");
            let name = name(&result.derivation);
            terminal.error(&format!("build of {name} failed\n       {indented}"));
        } else if form == Form::Text {
            for path in result.outputs.values() {
                terminal.print(&plain_text(path))?;
            }
        }
    }
    Ok(ExitStatus(outcome.exit_code))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("started", "b1", Some("building a-1 on b1"))]
    #[case("started", "", Some("building a-1 on the daemon's machine"))]
    #[case("waiting", "full", Some("a-1 waits for a machine: full"))]
    #[case("line", "hello \u{1b}[31mred", Some("a-1> hello red"))]
    #[case("phase", "buildPhase", None)]
    #[case("dance", "", None)]
    fn lines_are_told_by_their_kind(
        #[case] kind: &str,
        #[case] text: &str,
        #[case] expected: Option<&str>,
    ) {
        let line = FollowedLine {
            kind: kind.to_owned(),
            derivation: "/nix/store/3880j94arxkya3irs3d8nr2x076sp1m8-a-1.drv".to_owned(),
            text: text.to_owned(),
        };
        assert_eq!(shown(&line).as_deref(), expected);
    }
}
