//! The program is there, and says its version.

use crate::checks::last_words;
use crate::route::Target;
use crate::step::Verdict;

/// What asking the program for its version came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked<'a> {
    /// What was run, without `--version`.
    pub command: &'a str,
    /// What it printed.
    pub stdout: &'a str,
    /// What it said on standard error.
    pub stderr: &'a str,
    /// Places where such a program was found otherwise.
    pub elsewhere: &'a [String],
}

/// Returns the version among what was printed: the last word of a line as Nix prints it.
pub fn version(printed: &str) -> Option<&str> {
    let line = printed.lines().rev().find(|line| line.contains("(Nix"))?;
    line.split_ascii_whitespace().next_back()
}

/// Judges what asking the program for its version came to; `scheme` is that of the machine's line.
pub fn judge(asked: &Asked<'_>, scheme: &str, target: &Target) -> Verdict {
    let Asked { command, stdout, stderr, .. } = asked;
    if let Some(version) = version(stdout) {
        return Verdict::good(format!("{command} of Nix {version}"));
    }
    let missing = ["not found", "No such file", "not recognized"];
    let is_missing = |line: &&str| missing.iter().any(|words| line.contains(words));
    if let Some(line) = stderr.lines().find(is_missing) {
        let program = command.split(' ').next().unwrap_or_default();
        return match line.contains(program) {
            true => not_found(asked, scheme, target),
            // something that the program, or a forced command before it, has tried to run
            false => Verdict::wrong(
                format!("'{command}' can't be run there: {}", last_words(stderr)),
                target.ssh(&format!("{command} --version")),
            ),
        };
    }
    let said = match (stdout.trim().is_empty(), stderr.trim().is_empty()) {
        (false, _) => format!("it printed '{}'", last_words(stdout)),
        (true, false) => format!("it said '{}'", last_words(stderr)),
        (true, true) => "it printed nothing".to_owned(),
    };
    Verdict::unknown(format!(
        "no version of '{command}' was told: {said}; a forced command may stand before it"
    ))
}

fn not_found(asked: &Asked<'_>, scheme: &str, target: &Target) -> Verdict {
    let Asked { command, stderr, elsewhere, .. } = asked;
    let text = format!("'{command}' is not found there: {}", last_words(stderr));
    let host = &target.destination;
    match elsewhere.first() {
        Some(place) => Verdict::wrong(
            format!("{text}; there is {place}"),
            format!("write {scheme}://{host}?remote-program={place}"),
        ),
        None => Verdict::wrong(
            text,
            format!(
                "install Nix there, or say where its program is by ?remote-program=/path/to/it; without \
                 root: drover builder bootstrap {host}"
            ),
        ),
    }
}
