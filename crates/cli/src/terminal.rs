//! The one place that prints, apart from the thread that draws progress.
//!
//! Results go to standard output, everything else to standard error. A reader of standard output
//! that has gone away ends the command in silence; standard error may go away without any effect.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use clap::error::ErrorKind;
use tracing_subscriber::EnvFilter;

use crate::arguments::{LogFormatArgument, SpeechArguments, VerbosityArguments};
use crate::exit::{ExitStatus, Interrupted};
use crate::progress::{Level, message};

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbosity {
    /// Only what went wrong.
    Errors,
    /// That, and what may be wrong.
    Quiet,
    /// What people want to know.
    Normal,
    /// More.
    Verbose,
    /// What happens inside.
    Debug,
}

/// The form of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Lines that are kept up to date.
    Bar,
    /// Lines.
    Raw,
    /// What tools read.
    Json,
}

/// Whether the logs of builds are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BuildLogs {
    /// They are.
    Shown,
    /// They are not, but for the end of those that failed.
    Hidden,
}

/// Prints.
#[derive(Clone, Debug)]
pub(crate) struct Terminal {
    /// How much is said.
    pub(crate) verbosity: Verbosity,
    /// The form of messages.
    pub(crate) form: Form,
    /// Whether the logs of builds are printed.
    pub(crate) build_logs: BuildLogs,
    colour: Colour,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    On,
    Off,
}

impl Terminal {
    /// Returns a terminal that says so much.
    pub(crate) fn new(verbosity: &VerbosityArguments) -> Terminal {
        let verbosity = level(verbosity);
        let is_terminal = io::stderr().is_terminal();
        let colour = match is_terminal && std::env::var_os("NO_COLOR").is_none() {
            true => Colour::On,
            false => Colour::Off,
        };
        let draws = is_terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let form = if draws { Form::Bar } else { Form::Raw };
        Terminal { verbosity, form, build_logs: BuildLogs::Hidden, colour }
    }

    /// Returns the same terminal, saying only what went wrong.
    pub(crate) fn silent(&self) -> Terminal {
        Terminal { verbosity: Verbosity::Errors, ..self.clone() }
    }

    /// Returns the same terminal, as the flags of a build say. A bar needs a terminal.
    pub(crate) fn with_speech(&self, speech: &SpeechArguments) -> Terminal {
        let form = match speech.log_format {
            None | Some(LogFormatArgument::Bar | LogFormatArgument::BarWithLogs) => self.form,
            Some(LogFormatArgument::Raw | LogFormatArgument::RawWithLogs) => Form::Raw,
            Some(LogFormatArgument::InternalJson) => Form::Json,
        };
        let with_logs = matches!(
            speech.log_format,
            Some(LogFormatArgument::BarWithLogs | LogFormatArgument::RawWithLogs)
        );
        let build_logs = match speech.print_build_logs || with_logs {
            true => BuildLogs::Shown,
            false => BuildLogs::Hidden,
        };
        Terminal { form, build_logs, ..self.clone() }
    }

    /// Lets what happens inside be printed, where `DROVER_LOG` or `-vv` asks for it.
    pub(crate) fn start_tracing(&self) {
        if let Some(filter) = self.asked_for() {
            self.trace(filter);
        } else if Verbosity::Quiet <= self.verbosity {
            // what substituters do wrong is told, as it's why something isn't fetched
            let filter = EnvFilter::new(
                "drover_store_cache=warn,drover_store_local::substitution=warn,\
                 drover_store_local::waiting=warn,drover_build_local::waiting=warn",
            );
            let plain = tracing_subscriber::fmt().without_time().with_target(false);
            let plain = plain.with_ansi(self.colour == Colour::On);
            plain.with_env_filter(filter).with_writer(io::stderr).init();
        }
    }

    /// The same for a server, whose troubles its clients aren't told of: they are always printed.
    pub(crate) fn start_tracing_of_server(&self) {
        let usual = || EnvFilter::new("drover_cache_server=warn,drover_store_local=warn");
        self.trace(self.asked_for().unwrap_or_else(usual));
    }

    fn trace(&self, filter: EnvFilter) {
        let lines = tracing_subscriber::fmt().with_ansi(self.colour == Colour::On);
        lines.with_env_filter(filter).with_writer(io::stderr).init();
    }

    fn asked_for(&self) -> Option<EnvFilter> {
        match (std::env::var("DROVER_LOG"), self.verbosity) {
            (Ok(filter), _) => Some(EnvFilter::new(filter)),
            (Err(_), Verbosity::Debug) => Some(EnvFilter::new(
                "drover=debug,drover_fleet=debug,drover_schedule=debug,drover_store_remote=debug,\
                 drover_store_cache=debug,drover_store_local=debug,drover_cache_server=debug",
            )),
            _ => None,
        }
    }

    /// Prints a line of the result.
    ///
    /// # Errors
    ///
    /// Standard output that can't be written.
    pub(crate) fn print(&self, text: &str) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
            outcome => outcome.context("cannot write to standard output"),
        }
    }

    /// Says what went wrong.
    pub(crate) fn error(&self, text: &str) {
        self.say(Level::Error, "error: ", text);
    }

    /// Says what may be wrong.
    pub(crate) fn warn(&self, text: &str) {
        if Verbosity::Quiet <= self.verbosity {
            self.say(Level::Warning, "warning: ", text);
        }
    }

    /// Says what people want to know.
    pub(crate) fn info(&self, text: &str) {
        if Verbosity::Normal <= self.verbosity {
            self.say(Level::Info, "", text);
        }
    }

    /// Says what some people want to know.
    pub(crate) fn detail(&self, text: &str) {
        if Verbosity::Verbose <= self.verbosity {
            self.say(Level::Info, "", text);
        }
    }

    /// Says why the command failed, and returns the status to exit with.
    pub(crate) fn failure(&self, error: &anyhow::Error) -> ExitStatus {
        if error.is::<OutputClosed>() {
            return ExitStatus::SUCCESS;
        }
        if error.is::<Interrupted>() {
            self.error("interrupted by the user");
            return ExitStatus::INTERRUPTED;
        }
        self.error(&chain(error));
        ExitStatus::GENERAL
    }

    fn say(&self, level: Level, label: &str, text: &str) {
        let line = match (self.form, self.colour, level) {
            (Form::Json, _, _) => message(level, &format!("{label}{text}")),
            (_, Colour::On, Level::Error) => format!("\x1b[31;1m{label}\x1b[0m{text}"),
            (_, Colour::On, Level::Warning) => format!("\x1b[35;1m{label}\x1b[0m{text}"),
            _ => format!("{label}{text}"),
        };
        // with nobody to read it there is nobody to tell
        drop(writeln!(io::stderr().lock(), "{line}"));
    }
}

/// Returns an error with its causes, those left out that only repeat what was said.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Returns how much is said, which each flag raises or lowers. Nix has one more step between what people
/// want to know and warnings, which nothing here is told on.
fn level(given: &VerbosityArguments) -> Verbosity {
    match i16::from(given.verbose) - i16::from(given.quiet) {
        ..=-3 => Verbosity::Errors,
        -2 | -1 => Verbosity::Quiet,
        0 => Verbosity::Normal,
        1 => Verbosity::Verbose,
        2.. => Verbosity::Debug,
    }
}

/// Nobody reads standard output any more, so there is nothing left to do.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
struct OutputClosed;

/// Prints what is wrong with the arguments, or the help that was asked for.
pub(crate) fn usage(refusal: &clap::Error) -> ExitStatus {
    drop(refusal.print());
    match refusal.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitStatus::SUCCESS,
        _ => ExitStatus::GENERAL,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::usual(0, 0, Verbosity::Normal)]
    #[case::quiet(0, 1, Verbosity::Quiet)]
    #[case::more_so(0, 2, Verbosity::Quiet)]
    #[case::without_warnings(0, 3, Verbosity::Errors)]
    #[case::both(1, 1, Verbosity::Normal)]
    #[case::more(2, 1, Verbosity::Verbose)]
    fn each_flag_counts(#[case] verbose: u8, #[case] quiet: u8, #[case] expected: Verbosity) {
        assert_eq!(level(&VerbosityArguments { verbose, quiet }), expected);
    }

    #[test]
    fn causes_are_told_once() {
        let error = anyhow!("b failed").context("a: b failed").context("c");
        assert_eq!(chain(&error), "c: a: b failed");
    }
}
