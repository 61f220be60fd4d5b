//! Which command is meant, by the name of the program.

use std::ffi::OsString;
use std::path::Path;

use crate::console::Console;
use crate::error::CompatError;
use crate::exit::ExitStatus;
use crate::foreign::is_foreign;
use crate::host::Host;
use crate::options::{LogFormat, Options, ResultForm, Taken, Verbosity};
use crate::{build, collect_garbage, copy_closure, daemon, hash, nix, nix_store};

/// A name that others call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `nix-store`.
    NixStore,
    /// `nix-daemon`.
    NixDaemon,
    /// `nix-copy-closure`.
    NixCopyClosure,
    /// `nix-collect-garbage`.
    NixCollectGarbage,
    /// `nix-hash`.
    NixHash,
    /// `nix-build`.
    NixBuild,
    /// `nix-instantiate`, which is evaluation and the real one's.
    NixInstantiate,
    /// `nix`, of which all that is evaluation is the real one's.
    Nix,
}

impl Program {
    /// All names, as `drover compat install` needs them.
    pub const ALL: [Program; 8] = [
        Program::NixStore,
        Program::NixDaemon,
        Program::NixCopyClosure,
        Program::NixCollectGarbage,
        Program::NixHash,
        Program::NixBuild,
        Program::NixInstantiate,
        Program::Nix,
    ];

    /// Returns the name.
    pub const fn name(self) -> &'static str {
        match self {
            Program::NixStore => "nix-store",
            Program::NixDaemon => "nix-daemon",
            Program::NixCopyClosure => "nix-copy-closure",
            Program::NixCollectGarbage => "nix-collect-garbage",
            Program::NixHash => "nix-hash",
            Program::NixBuild => "nix-build",
            Program::NixInstantiate => "nix-instantiate",
            Program::Nix => "nix",
        }
    }

    /// Returns the command that `argv[0]` names, by its last component.
    pub fn of_argv0(argv0: &Path) -> Option<Program> {
        let name = argv0.file_name()?.to_str()?;
        Program::ALL.into_iter().find(|program| program.name() == name)
    }
}

/// What can be asked of every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Information {
    /// Its version.
    Version,
    /// Its manual page.
    Help,
}

/// A command line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<R> {
    /// Something is asked of the command itself.
    Information {
        /// The options of all commands.
        options: Options,
        /// What is asked.
        asked: Information,
    },
    /// Something is to be done.
    Request {
        /// The options of all commands.
        options: Options,
        /// What is to be done.
        request: R,
    },
}

impl<R> Parsed<R> {
    pub(crate) fn new(options: Options, asked: Option<Information>, request: R) -> Parsed<R> {
        match asked {
            Some(asked) => Parsed::Information { options, asked },
            None => Parsed::Request { options, request },
        }
    }
}

/// Takes `--version` and `--help`; the first one counts.
pub(crate) fn information(flag: &str, asked: &mut Option<Information>) -> Taken {
    let found = match flag {
        "--version" => Information::Version,
        "--help" => Information::Help,
        _ => return Taken::No,
    };
    asked.get_or_insert(found);
    Taken::Yes
}

/// Runs a command with the arguments after its name, prints what went wrong, and returns the
/// status to exit with.
///
/// Dropping the future ends what is under way.
pub async fn run(program: Program, arguments: Vec<OsString>, host: &dyn Host) -> ExitStatus {
    let form = LogFormat::asked_in(&arguments);
    let outcome = match is_foreign(program, &arguments, host) {
        true => host.exec_real(program.name(), &arguments).await,
        false => try_run(program, arguments, host).await,
    };
    ended(outcome, (program.name(), form), host).await
}

/// Runs one of drover's own words that has those of a command of Nix: `arguments` begin with them.
/// What isn't understood is an error that names it; no other program is asked. `name` is how the
/// user calls drover.
///
/// Dropping the future ends what is under way.
pub async fn run_own(arguments: Vec<OsString>, name: &str, host: &dyn Host) -> ExitStatus {
    let form = LogFormat::asked_in(&arguments);
    let outcome = match own_store_word(&arguments) {
        Some((arguments, form)) => own_store(arguments, form, host).await,
        None => nix::run_own_words(&arguments, host).await,
    };
    ended(outcome, (name, form), host).await
}

/// Prints what went wrong, and returns the status to exit with.
async fn ended(
    outcome: Result<ExitStatus, CompatError>,
    (name, form): (&str, LogFormat),
    host: &dyn Host,
) -> ExitStatus {
    match outcome {
        Ok(status) => status,
        Err(error) => {
            let mut console = Console::new(host, crate::Verbosity::ERROR).speaking(form);
            let report = error.report(name);
            // where standard error is gone as well there is nobody left to tell
            match console.say(crate::Verbosity::ERROR, report.trim_end_matches('\n')).await {
                Ok(()) | Err(_) => error.status(),
            }
        }
    }
}

/// What asks drover's own words for JSON.
const JSON: &str = "--json";

async fn own_store(
    arguments: Vec<OsString>,
    results: ResultForm,
    host: &dyn Host,
) -> Result<ExitStatus, CompatError> {
    match nix_store::parse(arguments)? {
        Parsed::Information { options, asked } => {
            inform(Program::NixStore, asked, &options, host).await
        }
        Parsed::Request { options, request } => {
            nix_store::run(request, &Options { results, ..options }, host).await
        }
    }
}

/// Turns a word about the store that only `nix-store` has into its arguments, and the form of what it
/// prints.
fn own_store_word(arguments: &[OsString]) -> Option<(Vec<OsString>, ResultForm)> {
    let [store, word, rest @ ..] = arguments else { return None };
    if store != "store" {
        return None;
    }
    let flags: &[&str] = match word.to_str()? {
        "add" => &["--add"],
        "add-fixed" => &["--add-fixed"],
        "query" => &["--query"],
        "dump" => &["--dump"],
        "restore" => &["--restore"],
        "export" => &["--export"],
        "import" => &["--import"],
        "realise" => &["--realise"],
        "roots" => &["--gc", "--print-roots"],
        "live" => &["--gc", "--print-live"],
        "dead" => &["--gc", "--print-dead"],
        "log" => &["--read-log"],
        "check" => &["--verify"],
        "dump-db" => &["--dump-db"],
        "load-db" => &["--load-db"],
        _ => return None,
    };
    let lists = matches!(
        word.to_str()?,
        "add" | "add-fixed" | "query" | "realise" | "roots" | "live" | "dead"
    );
    let form = match lists && rest.iter().any(|argument| argument == JSON) {
        true => ResultForm::Json,
        false => ResultForm::Lines,
    };
    let rest = rest.iter().filter(|argument| form == ResultForm::Lines || *argument != JSON);
    let all = flags.iter().map(OsString::from).chain(rest.cloned());
    Some((all.collect(), form))
}

async fn try_run(
    program: Program,
    arguments: Vec<OsString>,
    host: &dyn Host,
) -> Result<ExitStatus, CompatError> {
    macro_rules! parsed {
        ($module:ident) => {
            match $module::parse(arguments)? {
                Parsed::Information { options, asked } => {
                    inform(program, asked, &options, host).await
                }
                Parsed::Request { options, request } => $module::run(request, &options, host).await,
            }
        };
    }
    match program {
        Program::NixStore => parsed!(nix_store),
        Program::NixCopyClosure => parsed!(copy_closure),
        Program::NixCollectGarbage => parsed!(collect_garbage),
        Program::NixHash => parsed!(hash),
        Program::NixBuild => parsed!(build),
        Program::NixDaemon => match daemon::parse(arguments)? {
            Parsed::Information { options, asked } => inform(program, asked, &options, host).await,
            Parsed::Request { options, request } => host.run_daemon(request, &options).await,
        },
        Program::NixInstantiate => host.exec_real(program.name(), &arguments).await,
        Program::Nix => nix::run_command_line(arguments, host).await,
    }
}

/// Tells the version as Nix does; manual pages are the real one's.
async fn inform(
    program: Program,
    asked: Information,
    options: &Options,
    host: &dyn Host,
) -> Result<ExitStatus, CompatError> {
    match asked {
        Information::Help => host.exec_real(program.name(), &["--help".into()]).await,
        Information::Version => {
            let mut console = Console::of(host, options);
            for line in version(program, options, host)? {
                console.line(line).await?;
            }
            console.flush().await?;
            Ok(ExitStatus::SUCCESS)
        }
    }
}

/// Returns the lines that `--version` prints, as `printVersion` of Nix (`src/libmain/shared.cc`).
pub(crate) fn version(
    program: Program,
    options: &Options,
    host: &dyn Host,
) -> Result<Vec<String>, CompatError> {
    let mut lines = vec![format!("{} (Nix) {}", program.name(), host.nix_version())];
    if options.verbosity <= Verbosity::INFO {
        return Ok(lines);
    }
    let about = host.about(options)?;
    let files: Vec<String> =
        about.user_files.iter().map(|file| file.display().to_string()).collect();
    lines.extend([
        format!("System type: {}", about.system),
        format!("Additional system types: {}", about.extra_systems.join(", ")),
        "Features: signed-caches".to_owned(),
        format!("System configuration file: \"{}\"", about.system_file.display()),
        format!("User configuration files: {}", files.join(":")),
        format!("Store directory: {}", about.store_dir),
        format!("State directory: \"{}\"", about.state_dir.display()),
    ]);
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_by_the_last_component() {
        assert_eq!(Program::of_argv0(Path::new("/x/nix-store")), Some(Program::NixStore));
        assert_eq!(Program::of_argv0(Path::new("nix")), Some(Program::Nix));
        assert_eq!(Program::of_argv0(Path::new("drover")), None);
        assert_eq!(Program::of_argv0(Path::new("/nix-store/..")), None);
    }
}
