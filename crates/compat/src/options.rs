//! The options that all commands know, and Nix's grammar of command lines.
//!
//! Follows `Args::processFlag`, `RootArgs::parseCmdline` (`src/libutil/args.cc`), `MixCommonArgs`
//! (`src/libmain/common-args.cc`) and `LegacyArgs` (`src/libmain/shared.cc`) of Nix: `-qR` stands
//! for `-q -R` and `-j3` for `-j 3`, every setting is a flag, and what comes after `--` is no
//! longer looked at for them.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::str::FromStr;

use drover_config::Override;

use crate::error::CompatError;
use crate::setting_flags::{SettingFlag, setting_flag};

/// How much is said on standard error, from 0 (errors) to 7, as in Nix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Verbosity(pub u8);

impl Verbosity {
    /// Errors only.
    pub const ERROR: Verbosity = Verbosity(0);
    /// Warnings too.
    pub const WARN: Verbosity = Verbosity(1);
    /// What the user should notice too; what `nix` says on a terminal.
    pub const NOTICE: Verbosity = Verbosity(2);
    /// What is going on; the default of the older commands.
    pub const INFO: Verbosity = Verbosity(3);
    /// More of it (`-v`).
    pub const TALKATIVE: Verbosity = Verbosity(4);
    const DEBUG: Verbosity = Verbosity(6);
    const VOMIT: Verbosity = Verbosity(7);
}

/// Whether the output of builds is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildOutput {
    /// It is.
    Shown,
    /// It isn't (`-Q`).
    Hidden,
}

/// Whether results without a link are warned of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootWarning {
    /// Once.
    Once,
    /// Never (`--no-gc-warning`).
    Never,
}

/// The form of messages (`--log-format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people (`raw`, `raw-with-logs`, `bar`).
    Words,
    /// The same, with the name of what is built before each line of its log (`bar-with-logs`).
    NamedLogs,
    /// For programs (`internal-json`).
    Json,
}

impl FromStr for LogFormat {
    type Err = CompatError;

    fn from_str(text: &str) -> Result<LogFormat, CompatError> {
        match text {
            "raw" | "raw-with-logs" | "bar" => Ok(LogFormat::Words),
            "bar-with-logs" => Ok(LogFormat::NamedLogs),
            "internal-json" => Ok(LogFormat::Json),
            _ => {
                let message = format!("option 'log-format' has an invalid value '{text}'");
                Err(CompatError::usage(message))
            }
        }
    }
}

impl LogFormat {
    /// Returns the form that a command line asks for, whether or not it's understood otherwise.
    pub(crate) fn asked_in(arguments: &[OsString]) -> LogFormat {
        let pairs = arguments.windows(2).rev();
        let mut asked = pairs.filter_map(|pair| match pair {
            [flag, value] if flag == "--log-format" => value.to_str()?.parse().ok(),
            _ => None,
        });
        asked.next().unwrap_or(LogFormat::Words)
    }
}

/// The form of results that are lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultForm {
    /// As they are.
    Lines,
    /// One list of JSON, as drover's own words print them where they are asked to.
    Json,
}

/// What all commands can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Settings, in their order; `--store` is among them.
    pub overrides: Vec<Override>,
    /// How much is said.
    pub verbosity: Verbosity,
    /// The form of messages.
    pub log_format: LogFormat,
    /// The form of results.
    pub results: ResultForm,
    /// Whether the output of builds is shown.
    pub build_output: BuildOutput,
    /// Whether results without a link are warned of.
    pub root_warning: RootWarning,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            overrides: Vec::new(),
            verbosity: Verbosity::INFO,
            log_format: LogFormat::Words,
            results: ResultForm::Lines,
            build_output: BuildOutput::Shown,
            root_warning: RootWarning::Once,
        }
    }
}

impl Options {
    /// Returns the options with a further setting.
    #[must_use]
    pub fn with_setting(mut self, name: &str, value: &str) -> Options {
        self.overrides.push(Override::flag(name, value));
        self
    }
}

/// The rest of a command line.
pub(crate) struct Cursor {
    rest: VecDeque<OsString>,
}

impl Cursor {
    /// Returns a whole command line.
    pub(crate) fn new(arguments: impl IntoIterator<Item = OsString>) -> Cursor {
        Cursor { rest: arguments.into_iter().collect() }
    }

    /// Returns the next argument; short flags written together come one after another.
    pub(crate) fn next(&mut self) -> Option<OsString> {
        let argument = self.rest.pop_front()?;
        Some(expand(argument, self))
    }

    /// Returns the argument of an option that the command itself knows.
    pub(crate) fn argument(&mut self, flag: &OsStr) -> Result<OsString, CompatError> {
        self.rest
            .pop_front()
            .ok_or_else(|| CompatError::usage(format!("'{}' requires an argument", flag.display())))
    }

    /// Returns the argument as text.
    pub(crate) fn text(&mut self, flag: &OsStr) -> Result<String, CompatError> {
        text(self.argument(flag)?)
    }

    /// Returns the arguments of an option that all commands know.
    fn several<const N: usize>(&mut self, flag: &str) -> Result<[String; N], CompatError> {
        if self.rest.len() < N {
            return Err(CompatError::usage(format!(
                "flag '{flag}' requires {N} argument(s), but only {} were given",
                self.rest.len()
            )));
        }
        let taken = self.rest.drain(..N).map(text).collect::<Result<Vec<_>, _>>()?;
        taken.try_into().map_err(|_| CompatError::usage("more arguments are required"))
    }
}

/// Returns an argument that must be text, as settings and names are.
pub(crate) fn text(argument: OsString) -> Result<String, CompatError> {
    argument.into_string().map_err(|argument| {
        CompatError::usage(format!("argument '{}' is not UTF-8", argument.display()))
    })
}

/// What a command makes of an argument of its own.
pub(crate) enum Taken {
    /// It knows it.
    Yes,
    /// It doesn't.
    No,
}

/// Goes through a command line: `own` gets all that is no option of all commands.
pub(crate) fn parse_command_line(
    arguments: impl IntoIterator<Item = OsString>,
    mut own: impl FnMut(&OsStr, &mut Cursor) -> Result<Taken, CompatError>,
) -> Result<Options, CompatError> {
    let mut options = Options::default();
    let mut cursor = Cursor::new(arguments);
    let mut nothing = Cursor::new([]);
    let mut only_arguments = false;
    while let Some(argument) = cursor.rest.pop_front() {
        if only_arguments || !argument.as_bytes().starts_with(b"-") {
            if matches!(own(&argument, &mut nothing)?, Taken::No) {
                let message = format!("unexpected argument '{}'", argument.display());
                return Err(CompatError::usage(message));
            }
            continue;
        }
        if argument == "--" {
            only_arguments = true;
            continue;
        }
        let argument = expand(argument, &mut cursor);
        let known = match argument.to_str() {
            Some(flag) => common_flag(flag, &mut cursor, &mut options)?,
            None => Taken::No,
        };
        if matches!(known, Taken::No) && matches!(own(&argument, &mut cursor)?, Taken::No) {
            let message = format!("unrecognised flag '{}'", argument.display());
            return Err(CompatError::usage(message));
        }
    }
    Ok(options)
}

/// Takes `-qR` and `-j3` apart, and puts all but the first flag back.
fn expand(argument: OsString, cursor: &mut Cursor) -> OsString {
    let (first, rest) = match argument.as_bytes() {
        [b'-', first, rest @ ..] if first.is_ascii_alphabetic() && !rest.is_empty() => {
            (*first, rest)
        }
        _ => return argument,
    };
    let letters = rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let (letters, value) = rest.split_at(letters);
    if !value.is_empty() {
        cursor.rest.push_front(OsString::from_vec(value.to_vec()));
    }
    for letter in letters.iter().rev() {
        cursor.rest.push_front(OsString::from_vec(vec![b'-', *letter]));
    }
    OsString::from_vec(vec![b'-', first])
}

/// Takes an option that all commands know.
pub(crate) fn common_flag(
    flag: &str,
    cursor: &mut Cursor,
    options: &mut Options,
) -> Result<Taken, CompatError> {
    let verbosity = &mut options.verbosity;
    match flag {
        "-v" | "--verbose" => *verbosity = Verbosity::VOMIT.min(Verbosity(verbosity.0 + 1)),
        "--quiet" => *verbosity = Verbosity(verbosity.0.saturating_sub(1)),
        "--debug" => *verbosity = Verbosity::DEBUG,
        "--option" => {
            let [name, value] = cursor.several(flag)?;
            options.overrides.push(Override::option(&name, &value));
        }
        "--log-format" => {
            let [format] = cursor.several(flag)?;
            options.log_format = format.parse()?;
        }
        "-j" | "--max-jobs" => {
            let [jobs] = cursor.several(flag)?;
            options.overrides.push(Override::flag("max-jobs", &jobs));
        }
        "-Q" | "--no-build-output" => options.build_output = BuildOutput::Hidden,
        "-K" => options.overrides.push(Override::flag("keep-failed", "true")),
        "-k" => options.overrides.push(Override::flag("keep-going", "true")),
        // nothing of what is done here writes without need
        "--readonly-mode" => {}
        "--no-gc-warning" => options.root_warning = RootWarning::Never,
        "--cores" | "--max-silent-time" | "--timeout" => {
            let [number] = cursor.several(flag)?;
            let number = whole_number(&number)?.to_string();
            options.overrides.push(Override::flag(flag.trim_start_matches('-'), &number));
        }
        _ => return setting(flag, cursor, options),
    }
    Ok(Taken::Yes)
}

/// Takes a setting given as a flag.
fn setting(flag: &str, cursor: &mut Cursor, options: &mut Options) -> Result<Taken, CompatError> {
    let Some(name) = flag.strip_prefix("--") else { return Ok(Taken::No) };
    let (name, value) = match setting_flag(name) {
        None => return Ok(Taken::No),
        Some(SettingFlag::Fixed { name, value }) => (name.to_owned(), value.to_owned()),
        Some(SettingFlag::Valued { name }) => {
            let [value] = cursor.several(flag)?;
            (name, value)
        }
    };
    options.overrides.push(Override { flag: flag.to_owned(), name, value });
    Ok(Taken::Yes)
}

/// Reads a whole number, perhaps with a unit: `K`, `M`, `G` or `T`, each 1024 of the one before.
///
/// As `string2IntWithUnitPrefix` (`src/libutil/include/nix/util/util.hh`) of Nix.
pub(crate) fn whole_number(text: &str) -> Result<u64, CompatError> {
    let shift = match text.chars().last().map(|unit| unit.to_ascii_uppercase()) {
        Some('K') => 10,
        Some('M') => 20,
        Some('G') => 30,
        Some('T') => 40,
        Some(unit) if unit.is_ascii_alphabetic() => {
            return Err(CompatError::usage(format!("invalid unit specifier '{unit}'")));
        }
        _ => 0,
    };
    let digits = match shift {
        0 => text,
        _ => text.get(..text.len().saturating_sub(1)).unwrap_or_default(),
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| CompatError::usage(format!("'{text}' is not an integer")))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<(Options, Vec<String>), String> {
        let mut own = Vec::new();
        let options =
            parse_command_line(arguments.iter().map(OsString::from), |argument, cursor| {
                let argument = argument.to_str().unwrap().to_owned();
                if argument == "--bad" {
                    return Ok(Taken::No);
                }
                if argument == "--add-root" {
                    own.push(cursor.text("--add-root".as_ref())?);
                }
                own.push(argument);
                Ok(Taken::Yes)
            })
            .map_err(|error| error.to_string())?;
        Ok((options, own))
    }

    #[rstest]
    #[case::together(&["-qR", "x"], &["-q", "-R", "x"])]
    #[case::number(&["-qj3", "x"], &["-q", "x"])]
    #[case::after_dashes(&["-q", "--", "-Rv"], &["-q", "-Rv"])]
    #[case::own_argument(&["--add-root", "-v"], &["-v", "--add-root"])]
    #[case::dash(&["-"], &["-"])]
    #[case::digits(&["-1x"], &["-1x"])]
    fn what_is_left_to_the_command(#[case] arguments: &[&str], #[case] expected: &[&str]) {
        assert_eq!(parse(arguments).unwrap().1, expected);
    }

    #[rstest]
    #[case(&["-j3"], "max-jobs", "3")]
    #[case(&["-j", "auto"], "max-jobs", "auto")]
    #[case(&["--option", "cores", "2"], "cores", "2")]
    #[case(&["--cores", "2k"], "cores", "2048")]
    #[case(&["-k"], "keep-going", "true")]
    #[case(&["-K"], "keep-failed", "true")]
    #[case(&["--keep-going"], "keep-going", "true")]
    #[case(&["--no-keep-going"], "keep-going", "false")]
    #[case(&["--fallback"], "fallback", "true")]
    #[case(&["--store", "ssh://x"], "store", "ssh://x")]
    #[case(&["--extra-substituters", "a b"], "extra-substituters", "a b")]
    #[case(&["--builders", ""], "builders", "")]
    #[case(&["--relaxed-sandbox"], "sandbox", "relaxed")]
    #[case(&["--no-substitute"], "substitute", "false")]
    #[case(&["--no-build-use-substitutes"], "build-use-substitutes", "false")]
    fn settings(#[case] arguments: &[&str], #[case] name: &str, #[case] value: &str) {
        let (options, own) = parse(arguments).unwrap();
        assert!(own.is_empty(), "{own:?}");
        let found = options.overrides.first().unwrap();
        assert_eq!((found.name.as_str(), found.value.as_str()), (name, value));
    }

    #[rstest]
    #[case(&[], 3)]
    #[case(&["-v"], 4)]
    #[case(&["-vvvvvvvv"], 7)]
    #[case(&["--quiet"], 2)]
    #[case(&["--quiet", "--quiet", "--quiet", "--quiet"], 0)]
    #[case(&["--debug"], 6)]
    fn verbosity(#[case] arguments: &[&str], #[case] expected: u8) {
        assert_eq!(parse(arguments).unwrap().0.verbosity, Verbosity(expected));
    }

    #[rstest]
    #[case(&["-j"], "flag '-j' requires 1 argument(s), but only 0 were given")]
    #[case(&["--option", "a"], "flag '--option' requires 2 argument(s), but only 1 were given")]
    #[case(&["--bad"], "unrecognised flag '--bad'")]
    #[case(&["--add-root"], "'--add-root' requires an argument")]
    #[case(&["--cores", "x"], "invalid unit specifier 'X'")]
    #[case(&["--cores", ""], "'' is not an integer")]
    #[case(&["--cores", "99999999T"], "'99999999T' is not an integer")]
    fn refused(#[case] arguments: &[&str], #[case] expected: &str) {
        assert_eq!(parse(arguments).unwrap_err(), expected);
    }
}
