//! What the user typed: the flags, named as Nix names them.
//!
//! Values that are settings of Nix stay text here; `drover-config` checks them together with those
//! of `nix.conf`, so that both are refused in the same words.

mod cache;
mod derivations;
mod questions;
mod source;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use drover_config::Override;

pub(crate) use self::cache::{CacheCommand, CacheCompressionArgument, CacheServeArguments};
pub(crate) use self::derivations::{ShowArguments, ShowFormatArgument};
pub(crate) use self::questions::{
    BuildsArguments, BuildsCommand, ExplainArguments, MachinesArguments, MachinesCommand,
};
pub(crate) use self::source::SourceArguments;
use crate::doctor::DoctorArguments;
use crate::hook::HookArguments;
use crate::key::KeyArguments;
use crate::manual::{CompletionArguments, ManPageArguments};
use crate::new_builder::BuilderArguments;
use crate::show_config::ShowConfigArguments;
use crate::store_ping::PingArguments;

/// What the command's status says, for its pages.
const EXIT_STATUS: &str = "\
Exit status:
  0    all went well
  1    something else went wrong: a command line, a setting, a store, a machine
       (doctor: a machine or a line is wrong)
  100  a build failed, or nothing suits it
  101  a build took too long, or was silent for too long
  102  what was built or fetched has another hash than was asked for
  104  what was built again differs from what was there
  130  it was ended by the user
Of several kinds the union of their bits is told, as by nix-store (103: one build
took too long, and another has another hash).";

/// Spreads Nix builds over every machine that you can reach by SSH.
#[derive(Debug, Parser)]
#[command(
    name = "drover",
    version,
    about,
    after_long_help = EXIT_STATUS,
    max_term_width = 100,
    disable_help_subcommand = true,
    args_override_self = true
)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build derivations, Nix expressions or flakes on all machines
    #[command(after_long_help = EXIT_STATUS)]
    Build(Box<BuildArguments>),
    /// Say where builds would run, and why not elsewhere, without building anything
    Explain(Box<ExplainArguments>),
    /// Say what the daemon builds, for whom, and why there
    Builds(BuildsArguments),
    /// Say how the machines are; have one take no builds, or take them again
    Machines(MachinesArguments),
    /// Look at stores
    Store {
        /// What to look at.
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Serve a store to Nix's own clients and drover's, as nix-daemon does
    #[command(disable_help_flag = true)]
    Daemon {
        /// Flags as of nix-daemon
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Copy paths with all that they refer to, as nix copy does
    #[command(disable_help_flag = true)]
    Copy {
        /// Flags and paths as of nix copy
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Say what is known of paths, as nix path-info does
    #[command(disable_help_flag = true)]
    PathInfo {
        /// Flags and paths as of nix path-info
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Delete what nothing needs, as nix store gc does
    #[command(disable_help_flag = true)]
    Gc {
        /// Flags as of nix store gc
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Be a binary cache
    Cache {
        /// What to do.
        #[command(subcommand)]
        command: CacheCommand,
    },
    /// Make keys that paths are signed with
    Key(KeyArguments),
    /// Have drover answer to the names of Nix's programs
    Compat {
        /// What to do.
        #[command(subcommand)]
        command: CompatCommand,
    },
    /// Say whether builds get to the machines, and what mends it where they don't
    Doctor(Box<DoctorArguments>),
    /// Add a machine that builds
    Builder(BuilderArguments),
    /// Build for stock Nix, which stays as it is
    Hook(HookArguments),
    /// Look at derivations
    Derivation {
        /// What to look at.
        #[command(subcommand)]
        command: DerivationCommand,
    },
    /// Print the settings that decide where builds go, as they are in force here
    ShowConfig(ShowConfigArguments),
    /// Print what completes this command in a shell
    Completions(CompletionArguments),
    /// Write a man page for each command
    ManPages(ManPageArguments),
}

/// What to do with a store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Say whether a store can be reached, and who is there
    #[command(visible_alias = "info")]
    Ping(PingArguments),
    /// gc, verify, sign, delete, optimise: as nix store does, with --json; add, add-fixed, query,
    /// dump, restore, export, import, realise, roots, live, dead, log, check, dump-db, load-db: as
    /// nix-store does
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// How drover answers to other names.
#[derive(Debug, Subcommand)]
pub(crate) enum CompatCommand {
    /// Make links to drover by the names of Nix's programs: nix-store, nix-daemon, …
    Install {
        /// Where; a folder of its own, early on the PATH of those who shall use it
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// What to do with derivations.
#[derive(Debug, Subcommand)]
pub(crate) enum DerivationCommand {
    /// Print derivations as JSON, as `nix derivation show` does
    Show(Box<ShowArguments>),
}

/// The arguments of `drover build`.
#[derive(Debug, Args)]
pub(crate) struct BuildArguments {
    /// Hand it to the daemon of the store, print its name, and end: drover builds attach ID shows how it
    /// goes. No links are made
    #[arg(
        long,
        help_heading = "How to build",
        conflicts_with_all = ["dry_run", "rebuild", "copy_all_outputs", "out_link", "print_out_paths", "json"]
    )]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    #[command(flatten)]
    pub(crate) building: BuildingArguments,
    #[command(flatten)]
    pub(crate) results: ResultArguments,
    #[command(flatten)]
    pub(crate) speech: SpeechArguments,
}

/// Settings that every command has.
#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Settings")]
pub(crate) struct SettingArguments {
    /// The local store: auto, daemon, unix://SOCKET, local?root=DIR, ssh-ng://HOST
    #[arg(long, global = true, value_name = "URI")]
    pub(crate) store: Option<String>,
    /// Set a setting of nix.conf
    #[arg(long, global = true, num_args = 2, value_names = ["NAME", "VALUE"], action = ArgAction::Append, allow_hyphen_values = true)]
    pub(crate) option: Vec<String>,
}

/// How to build.
#[derive(Debug, Args, Default)]
#[command(next_help_heading = "How to build")]
pub(crate) struct BuildingArguments {
    /// Machines as in /etc/nix/machines, separated by ';' or line ends; @FILE for those of a file;
    /// '' for none
    #[arg(long, value_name = "MACHINES")]
    pub(crate) builders: Option<String>,
    /// Builds at once on this machine, or auto; 0 for never on this machine
    #[arg(short = 'j', long, value_name = "N")]
    pub(crate) max_jobs: Option<String>,
    /// Cores that a build may use; 0 for all
    #[arg(long, value_name = "N")]
    pub(crate) cores: Option<String>,
    /// Go on with what doesn't depend on a failed build
    #[arg(short, long)]
    pub(crate) keep_going: bool,
    /// Keep the folders of failed builds, where they were built
    #[arg(short = 'K', long)]
    pub(crate) keep_failed: bool,
    /// Build what cannot be substituted
    #[arg(long)]
    pub(crate) fallback: bool,
    /// End a build after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<String>,
    /// End a build that was silent for so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) max_silent_time: Option<String>,
    /// How a machine is chosen
    #[arg(long, value_enum, default_value_t)]
    pub(crate) policy: PolicyArgument,
    /// Bring back all that was built, as stock Nix does, not only what was asked for
    #[arg(long)]
    pub(crate) copy_all_outputs: bool,
    /// Say what would be built, and build nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Build what is valid once more on this machine, and compare
    #[arg(long, alias = "check", conflicts_with = "dry_run")]
    pub(crate) rebuild: bool,
}

/// How a machine is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyArgument {
    /// The machine that is estimated to be done first
    #[default]
    EarliestFinish,
    /// The machine that stock Nix would choose
    Stock,
}

/// What to do with the results.
#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Results")]
pub(crate) struct ResultArguments {
    /// Where to put links to the results
    #[arg(short, long, value_name = "PATH", default_value = "result")]
    pub(crate) out_link: PathBuf,
    /// Put no links anywhere
    #[arg(long)]
    pub(crate) no_link: bool,
    /// Print the paths of the results
    #[arg(long)]
    pub(crate) print_out_paths: bool,
    /// Print derivations and the paths of their outputs as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How much is said, and in which form.
#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Messages")]
pub(crate) struct SpeechArguments {
    /// Print the logs of builds
    #[arg(short = 'L', long)]
    pub(crate) print_build_logs: bool,
    /// The form of messages; bar where standard error is a terminal, else raw
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormatArgument>,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

/// How much is said.
#[derive(Clone, Debug, Args, Default)]
pub(crate) struct VerbosityArguments {
    /// Say more; twice for what happens inside
    #[arg(short, long, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Say only what is or may be wrong; three times for only what went wrong
    #[arg(long, action = ArgAction::Count)]
    pub(crate) quiet: u8,
}

/// The form of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormatArgument {
    /// Lines that are kept up to date
    Bar,
    /// The same, with the logs of builds
    BarWithLogs,
    /// Lines
    Raw,
    /// The same, with the logs of builds
    RawWithLogs,
    /// What tools such as nix-output-monitor read
    InternalJson,
}

impl Command {
    /// Returns how much is to be said.
    pub(crate) fn verbosity(&self) -> VerbosityArguments {
        let arguments = match self {
            Command::Hook(arguments) => return arguments.verbosity(),
            Command::Build(arguments) => &arguments.speech.verbosity,
            Command::Explain(arguments) => &arguments.verbosity,
            Command::Builds(arguments) => &arguments.verbosity,
            Command::Machines(arguments) => &arguments.verbosity,
            Command::Doctor(arguments) => &arguments.verbosity,
            Command::ShowConfig(arguments) => &arguments.verbosity,
            Command::Builder(arguments) => arguments.verbosity(),
            Command::Store { command: StoreCommand::Ping(arguments) } => &arguments.verbosity,
            Command::Derivation { command: DerivationCommand::Show(arguments) } => {
                &arguments.verbosity
            }
            Command::Cache { command: CacheCommand::Serve(arguments) } => &arguments.verbosity,
            // those that follow Nix's commands say as much as those do
            Command::Store { command: StoreCommand::Other(_) }
            | Command::Daemon { .. }
            | Command::Copy { .. }
            | Command::PathInfo { .. }
            | Command::Gc { .. }
            | Command::Key(_)
            | Command::Compat { .. }
            | Command::Completions(_)
            | Command::ManPages(_) => return VerbosityArguments::default(),
        };
        arguments.clone()
    }
}

impl SettingArguments {
    /// Returns the settings that were typed.
    pub(crate) fn overrides(&self) -> Vec<Override> {
        let mut overrides: Vec<Override> =
            pairs(&self.option).map(|(name, value)| Override::option(name, value)).collect();
        overrides.extend(self.store.as_deref().map(|store| Override::flag("store", store)));
        overrides
    }
}

impl BuildingArguments {
    /// Returns the settings that were typed.
    pub(crate) fn overrides(&self) -> Vec<Override> {
        let texts = [
            ("builders", &self.builders),
            ("max-jobs", &self.max_jobs),
            ("cores", &self.cores),
            ("timeout", &self.timeout),
            ("max-silent-time", &self.max_silent_time),
        ];
        let switches = [
            ("keep-going", self.keep_going),
            ("keep-failed", self.keep_failed),
            ("fallback", self.fallback),
        ];
        let texts = texts
            .into_iter()
            .filter_map(|(name, value)| Some(Override::flag(name, value.as_deref()?)));
        let switches = switches
            .into_iter()
            .filter(|(_, on)| *on)
            .map(|(name, _)| Override::flag(name, "true"));
        texts.chain(switches).collect()
    }
}

/// Returns the values of an argument that takes two at a time.
pub(crate) fn pairs(values: &[String]) -> impl Iterator<Item = (&str, &str)> {
    values.chunks_exact(2).filter_map(|pair| match pair {
        [name, value] => Some((name.as_str(), value.as_str())),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use rstest::rstest;

    use super::*;

    #[test]
    fn is_consistent() {
        Arguments::command().debug_assert();
    }

    fn build(line: &[&str]) -> BuildArguments {
        let words = ["drover", "build"].iter().chain(line);
        match Arguments::try_parse_from(words).unwrap().command {
            Command::Build(arguments) => *arguments,
            other => panic!("{other:?}"),
        }
    }

    #[rstest]
    #[case::attached(&["-j0", "x.drv"], &[("--max-jobs", "max-jobs", "0")])]
    #[case::auto(&["--max-jobs", "auto", "x.drv"], &[("--max-jobs", "max-jobs", "auto")])]
    #[case::no_builders(&["--builders", "", "x.drv"], &[("--builders", "builders", "")])]
    #[case::switches(
        &["-k", "-K", "--fallback", "x.drv"],
        &[
            ("--keep-going", "keep-going", "true"),
            ("--keep-failed", "keep-failed", "true"),
            ("--fallback", "fallback", "true"),
        ],
    )]
    fn flags_are_settings(#[case] line: &[&str], #[case] expected: &[(&str, &str, &str)]) {
        let overrides = build(line).building.overrides();
        let told: Vec<(&str, &str, &str)> = overrides
            .iter()
            .map(|given| (given.flag.as_str(), given.name.as_str(), given.value.as_str()))
            .collect();
        assert_eq!(told, expected);
    }

    /// A line is put together from pieces, by scripts and aliases: as in Nix, the last one counts.
    #[test]
    fn the_last_of_several_counts() {
        let words =
            ["-j0", "-L", "--store", "a", "-o", "x", "--no-link", "--quiet", "--fallback", "y"];
        let again =
            ["-jauto", "-L", "--store", "b", "-o", "z", "--no-link", "--quiet", "--fallback"];
        let arguments = build(&[&words[..], &again].concat());
        assert_eq!(arguments.building.max_jobs.as_deref(), Some("auto"));
        assert_eq!(arguments.settings.store.as_deref(), Some("b"));
        assert_eq!(arguments.results.out_link, PathBuf::from("z"));
        assert!(arguments.speech.print_build_logs && arguments.speech.verbosity.quiet == 2);
        let all = build(&["-A", "a", "-A", "b", "-vv", "-v", "--arg", "c", "1", "--arg", "d", "2"]);
        assert_eq!(all.source.attributes, ["a", "b"]);
        assert_eq!(all.source.arg, ["c", "1", "d", "2"]);
        assert_eq!(all.speech.verbosity.verbose, 3);
    }

    #[test]
    fn options_come_in_pairs() {
        let arguments = build(&["--option", "cores", "-1", "x", "--option", "sandbox", "false"]);
        let options: Vec<_> = pairs(&arguments.settings.option).collect();
        assert_eq!(options, [("cores", "-1"), ("sandbox", "false")]);
        assert_eq!(arguments.source.installables, ["x"]);
    }

    #[rstest]
    #[case::file_and_expression(&["-f", "x", "-E", "1"])]
    #[case::half_an_option(&["--option", "cores"])]
    #[case::links_of_detached(&["--detach", "-o", "x", "x.drv"])]
    #[case::unknown(&["--no-such-flag"])]
    fn refuses(#[case] line: &[&str]) {
        let words = ["drover", "build"].iter().chain(line);
        assert!(Arguments::try_parse_from(words).is_err());
    }
}
