//! `nix-build`: the real `nix-instantiate` evaluates, the rest is done here.
//!
//! Follows the second half of `main_nix_build` (`src/nix/nix-build/nix-build.cc`) of Nix.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use drover_config::is_own_setting;
use drover_core::StorePath;
use drover_store::{BuildMode, Keeper, Wanted};

use crate::command::{Parsed, information};
use crate::console::Console;
use crate::error::CompatError;
use crate::exit::ExitStatus;
use crate::host::Host;
use crate::installable::{MAX_LINKS, PathWithOutputs, absolute};
use crate::nix_store::{Rehearsal, read_derivation};
use crate::options::{Cursor, LogFormat, Options, Taken, parse_command_line};
use crate::realise::Work;

/// Where links to results go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutLink {
    /// Here, and `-2`, `-dev` … for further ones.
    At(PathBuf),
    /// Nowhere (`--no-out-link`).
    Nowhere,
}

/// A call of `nix-build`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildRequest {
    /// What `nix-instantiate` is told of what it evaluates.
    pub evaluation: Vec<OsString>,
    /// What is to be built: Nix files, or derivations in the store; with `-E`, expressions.
    pub subjects: Vec<OsString>,
    /// Where links to results go.
    pub out_link: OutLink,
    /// Whether it is done or only told.
    pub rehearsal: Rehearsal,
    /// Whether what is corrupt is made again, or what is valid is built once more and compared.
    pub mode: BuildMode,
}

/// Parses the arguments of `nix-build`.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Parsed<BuildRequest>, CompatError> {
    let mut request = BuildRequest {
        evaluation: Vec::new(),
        subjects: Vec::new(),
        out_link: OutLink::At("./result".into()),
        rehearsal: Rehearsal::No,
        mode: BuildMode::Normal,
    };
    let mut asked = None;
    let options = parse_command_line(arguments, |argument, cursor| {
        let flag = argument.to_str().unwrap_or_default();
        match information(flag, &mut asked) {
            Taken::Yes => Ok(Taken::Yes),
            Taken::No => take(argument, cursor, &mut request),
        }
    })?;
    Ok(Parsed::new(options, asked, request))
}

fn take(
    argument: &OsStr,
    cursor: &mut Cursor,
    request: &mut BuildRequest,
) -> Result<Taken, CompatError> {
    let evaluation = &mut request.evaluation;
    match argument.to_str().unwrap_or_default() {
        // these mean nothing any more
        "--add-drv-link" | "--indirect" | "--pure" => {}
        "--drv-link" | "--exclude" | "--keep" => drop(cursor.argument(argument)?),
        "--no-out-link" | "--no-link" => request.out_link = OutLink::Nowhere,
        "--out-link" | "-o" => request.out_link = OutLink::At(cursor.argument(argument)?.into()),
        "--dry-run" => request.rehearsal = Rehearsal::Yes,
        "--repair" => request.mode = BuildMode::Repair,
        "--check" => request.mode = BuildMode::Check,
        "--expr" | "-E" | "--impure" | "-" => evaluation.push(argument.to_owned()),
        "--attr" | "-A" | "-I" | "--include" | "--eval-store" | "--arg-from-stdin" => {
            evaluation.extend([argument.to_owned(), cursor.argument(argument)?]);
        }
        "--arg" | "--argstr" | "--arg-from-file" | "--override-flake" => {
            let values = [cursor.argument(argument)?, cursor.argument(argument)?];
            evaluation.push(argument.to_owned());
            evaluation.extend(values);
        }
        _ if argument.as_bytes().starts_with(b"-") => return Ok(Taken::No),
        _ => request.subjects.push(argument.to_owned()),
    }
    Ok(Taken::Yes)
}

/// A derivation to build, and the output that is wanted.
struct Target {
    derivation: StorePath,
    output: String,
}

/// Evaluates, builds, makes links, and prints the results.
pub(crate) async fn run(
    request: BuildRequest,
    options: &Options,
    host: &dyn Host,
) -> Result<ExitStatus, CompatError> {
    let mut console = Console::of(host, options);
    let store = host.keeper(None, options).await?.session().await?;
    // links in here keep the derivations until they are built
    let roots = tempfile::Builder::new().prefix("nix-build").tempdir();
    let roots = roots.map_err(|source| CompatError::Stream {
        action: "creating a folder for links to derivations",
        source,
    })?;
    let mut request = request;
    let mut targets = take_derivations(&mut request, &*store, &host.working_dir()).await?;
    let is_stdin = request.evaluation.iter().any(|argument| argument == "-");
    if targets.is_empty() || is_stdin || !request.subjects.is_empty() {
        match evaluate(&request, options, host, &*store, roots.path()).await? {
            Evaluated::Failed(status) => return Ok(status),
            Evaluated::Targets(evaluated) => targets.extend(evaluated),
        }
    }
    let wanted: Vec<Wanted> = targets
        .iter()
        .map(|target| {
            Wanted::Outputs(target.derivation.clone(), BTreeSet::from([target.output.clone()]))
        })
        .collect();
    let work = Work::new(host, options, store.clone()).await?;
    let missing = work.missing(wanted.clone()).await?;
    work.print_missing(&missing, &mut console).await?;
    if request.rehearsal == Rehearsal::Yes {
        return Ok(ExitStatus::SUCCESS);
    }
    work.realise(wanted, request.mode, &mut console).await?;
    let paths = link(&store, &targets, &request.out_link, &host.working_dir()).await?;
    for path in paths {
        console.line(store.store_dir().display(&path)).await?;
    }
    console.flush().await?;
    Ok(ExitStatus::SUCCESS)
}

/// Takes the derivations out of what is to be built: there is nothing to evaluate.
///
/// # Errors
///
/// One that isn't there, or of which more than one output is asked for.
async fn take_derivations(
    request: &mut BuildRequest,
    store: &dyn Keeper,
    base: &Path,
) -> Result<Vec<Target>, CompatError> {
    if request.evaluation.iter().any(|argument| argument == "-E" || argument == "--expr") {
        return Ok(Vec::new());
    }
    let mut targets = Vec::new();
    for subject in std::mem::take(&mut request.subjects) {
        match derivation_in_store(store, &subject, base)? {
            None => request.subjects.push(subject),
            Some(found) => targets.push(target(store, found).await?),
        }
    }
    Ok(targets)
}

/// Returns the derivation in the store that an argument is or leads to by links, which in a store
/// below a root lead nowhere else. A file below a derivation's path is none.
fn derivation_in_store(
    store: &dyn Keeper,
    subject: &OsStr,
    base: &Path,
) -> Result<Option<PathWithOutputs>, CompatError> {
    let mut path = absolute(Path::new(subject), base);
    for _ in 0..MAX_LINKS {
        let bytes = path.as_os_str().as_bytes();
        let plain = bytes.split(|byte| *byte == b'!').next().unwrap_or_default();
        let plain = std::str::from_utf8(plain).ok();
        match plain.and_then(|plain| store.store_dir().parse(plain).ok()) {
            Some(found) if found.is_derivation() => {
                let found =
                    PathWithOutputs::follow(store.store_dir(), path.as_os_str(), b'!', base);
                return found.map(Some);
            }
            Some(_) => return Ok(None),
            None => {}
        }
        let Ok(target) = std::fs::read_link(&path) else { return Ok(None) };
        path = absolute(&target, path.parent().unwrap_or(Path::new("/")));
    }
    Ok(None)
}

/// Returns the output that is wanted of a derivation: the one that is named, or the one that the
/// derivation has in its variable `outputName`, or `out`.
async fn target(store: &dyn Keeper, found: PathWithOutputs) -> Result<Target, CompatError> {
    let PathWithOutputs { path, outputs } = found;
    let shown = store.store_dir().display(&path);
    if outputs.len() > 1 {
        let message = "building more than one derivation output is not supported";
        let names = outputs.join(",");
        return Err(CompatError::failed(format!("{message}, in '{shown}!{names}'")));
    }
    let named = outputs.into_iter().next();
    let derivation = read_derivation(store, &path).await?;
    let own = || derivation.environment.get("outputName").map(String::from_utf8_lossy);
    let output = named.or_else(|| Some(own()?.into_owned())).unwrap_or_else(|| "out".to_owned());
    if !derivation.outputs.contains_key(output.as_str()) {
        let message = format!("derivation '{shown}' does not have output '{output}'");
        return Err(CompatError::failed(message));
    }
    Ok(Target { derivation: path, output })
}

enum Evaluated {
    Targets(Vec<Target>),
    Failed(ExitStatus),
}

/// Runs the evaluator. It has told of its errors itself.
async fn evaluate(
    request: &BuildRequest,
    options: &Options,
    host: &dyn Host,
    store: &dyn Keeper,
    roots: &Path,
) -> Result<Evaluated, CompatError> {
    let mut arguments: Vec<OsString> = Vec::new();
    for setting in options.overrides.iter().filter(|setting| !is_own_setting(&setting.name)) {
        arguments.extend([
            "--option".into(),
            setting.name.clone().into(),
            setting.value.clone().into(),
        ]);
    }
    if options.log_format == LogFormat::Json {
        arguments.extend(["--log-format".into(), "internal-json".into()]);
    }
    arguments.extend(["--add-root".into(), roots.join("drv").into(), "--indirect".into()]);
    arguments.extend(request.evaluation.iter().chain(&request.subjects).cloned());
    let captured = host.capture_real("nix-instantiate", &arguments).await?;
    if captured.status != ExitStatus::SUCCESS {
        return Ok(Evaluated::Failed(captured.status));
    }
    let mut targets = Vec::new();
    let lines = captured.output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    for line in lines {
        let line = OsStr::from_bytes(line);
        let found = PathWithOutputs::follow(store.store_dir(), line, b'!', roots)?;
        let output = found.outputs.into_iter().next();
        targets.push(Target {
            derivation: found.path,
            output: output.unwrap_or_else(|| "out".to_owned()),
        });
    }
    Ok(Evaluated::Targets(targets))
}

/// Makes links that keep the results, and returns these.
async fn link(
    store: &Arc<dyn Keeper>,
    targets: &[Target],
    out_link: &OutLink,
    base: &Path,
) -> Result<Vec<StorePath>, CompatError> {
    let mut numbers: BTreeMap<&StorePath, usize> = BTreeMap::new();
    let mut paths = Vec::with_capacity(targets.len());
    for Target { derivation, output } in targets {
        let next = numbers.len();
        let number = *numbers.entry(derivation).or_insert(next);
        let outputs = store.output_map(derivation).await?;
        let path = outputs.get(output).cloned().flatten().ok_or_else(|| {
            let derivation = store.store_dir().display(derivation);
            CompatError::failed(format!(
                "derivation '{derivation}' has no known path for its output '{output}'"
            ))
        })?;
        if let OutLink::At(link) = out_link {
            let mut link = absolute(link, base).into_os_string();
            if number > 0 {
                link.push(format!("-{}", number + 1));
            }
            if output != "out" {
                link.push(format!("-{output}"));
            }
            store.add_permanent_root(&path, &crate::options::text(link)?).await?;
        }
        paths.push(path);
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn parsed(arguments: &[&str]) -> Result<(Options, BuildRequest), String> {
        let arguments = arguments.iter().map(OsString::from).collect();
        match parse(arguments).map_err(|error| error.to_string())? {
            Parsed::Request { options, request } => Ok((options, request)),
            Parsed::Information { .. } => Err("information".to_owned()),
        }
    }

    #[rstest]
    #[case(&[], &[])]
    #[case(&["x.nix", "-A", "a", "-j0"], &["-A", "a", "x.nix"])]
    #[case(&["-kA", "a", "-E", "{}: 1"], &["-A", "a", "-E", "{}: 1"])]
    #[case(&["/nix/store/x.drv", "-I", "a"], &["-I", "a", "/nix/store/x.drv"])]
    #[case(&["--argstr", "n", "-v", "-k", "--arg", "x", "1"], &["--argstr", "n", "-v", "--arg", "x", "1"])]
    #[case(&["-I", "nixpkgs=x", "-"], &["-I", "nixpkgs=x", "-"])]
    fn what_is_evaluated(#[case] arguments: &[&str], #[case] expected: &[&str]) {
        let request = parsed(arguments).unwrap().1;
        assert_eq!([request.evaluation, request.subjects].concat(), expected);
    }

    #[test]
    fn flags() {
        let (options, request) =
            parsed(&["-o", "x", "--dry-run", "--repair", "-j0", "-K"]).unwrap();
        assert_eq!(request.out_link, OutLink::At("x".into()));
        assert_eq!(request.rehearsal, Rehearsal::Yes);
        assert_eq!(request.mode, BuildMode::Repair);
        let settings: Vec<_> = options.overrides.iter().map(|o| (&*o.name, &*o.value)).collect();
        assert_eq!(settings, [("max-jobs", "0"), ("keep-failed", "true")]);
        assert_eq!(parsed(&["--no-out-link"]).unwrap().1.out_link, OutLink::Nowhere);
        assert_eq!(parsed(&["--check"]).unwrap().1.mode, BuildMode::Check);
    }

    #[test]
    fn refused() {
        assert_eq!(parsed(&["--foo"]).unwrap_err(), "unrecognised flag '--foo'");
        assert_eq!(parsed(&["-A"]).unwrap_err(), "'-A' requires an argument");
    }
}
