//! Man pages and shell completions, from the very definitions that `--help` is printed from.
//!
//! Every command has a page and a completion: those that are hidden are in neither.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::arguments::{self, Arguments, StoreCommand};
use crate::exit::ExitStatus;
use crate::store_words::{OWN_WORDS, STORE_WORDS};

/// The arguments of `drover completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionArguments {
    /// The shell that shall read them
    #[arg(value_enum)]
    shell: Shell,
}

/// The arguments of `drover man-pages`.
#[derive(Debug, Args)]
pub(crate) struct ManPageArguments {
    /// Where; made where it is missing. `man` looks into folders named man1 below its MANPATH
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Returns the command with all that it understands, as pages and completions tell of it.
fn whole_command() -> Command {
    let plain = Arguments::command();
    // what is altered comes last
    let order: Vec<String> = plain.get_subcommands().map(|below| below.get_name().into()).collect();
    let whole = plain
        .mut_subcommand("store", |store| store.subcommands(STORE_WORDS.map(|word| word.command())));
    whole.mut_subcommands(|below| {
        let place = order.iter().position(|name| name == below.get_name());
        let told = OWN_WORDS.iter().find(|word| word.name == below.get_name());
        told.map_or(below, |word| word.command()).display_order(place)
    })
}

/// Prints the completions for a shell.
///
/// # Errors
///
/// Standard output that can't be written; a reader that has gone away is none.
pub(crate) fn completions(arguments: &CompletionArguments) -> anyhow::Result<ExitStatus> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut whole_command(), "drover", &mut text);
    print(&text)
}

/// Prints text that was asked for.
///
/// # Errors
///
/// Standard output that can't be written; a reader that has gone away is none.
pub(crate) fn print(text: &[u8]) -> anyhow::Result<ExitStatus> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitStatus::SUCCESS),
    }
}

/// Returns the help of a command whose words are handed on as they are, where somebody asks for it.
pub(crate) fn asked_of(command: &arguments::Command) -> Option<String> {
    let (name, word, rest) = match command {
        arguments::Command::Daemon { arguments } => ("daemon", None, arguments.as_slice()),
        arguments::Command::Copy { arguments } => ("copy", None, arguments.as_slice()),
        arguments::Command::PathInfo { arguments } => ("path-info", None, arguments.as_slice()),
        arguments::Command::Gc { arguments } => ("gc", None, arguments.as_slice()),
        arguments::Command::Store { command: StoreCommand::Other(words) } => {
            let (word, rest) = words.split_first()?;
            ("store", Some(word.to_str()?), rest)
        }
        _ => return None,
    };
    // -h stands for something else in path-info
    let is_alone = rest.len() == 1 && rest.iter().any(|argument| argument == "-h");
    if !is_alone && !rest.iter().any(|argument| argument == "--help") {
        return None;
    }
    let mut whole = whole_command();
    whole.build();
    let command = whole.find_subcommand_mut(name)?;
    let command = match word {
        Some(word) => command.find_subcommand_mut(word)?,
        None => command,
    };
    Some(command.render_long_help().to_string())
}

/// Returns the same refusal with all words that there are, where it shows those that may be typed.
pub(crate) fn with_all_words(
    refusal: clap::Error,
    line: impl Iterator<Item = OsString>,
) -> clap::Error {
    let shows_words = |kind| {
        matches!(
            kind,
            ErrorKind::DisplayHelp
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                | ErrorKind::MissingSubcommand
        )
    };
    if !shows_words(refusal.kind()) {
        return refusal;
    }
    match whole_command().try_get_matches_from(line) {
        Err(whole) if shows_words(whole.kind()) => whole,
        _ => refusal,
    }
}

/// Writes the page of every command into a folder: `drover.1`, `drover-build.1` and so on.
///
/// # Errors
///
/// A folder or file that can't be written.
pub(crate) fn man_pages(arguments: &ManPageArguments) -> anyhow::Result<ExitStatus> {
    fs_err::create_dir_all(&arguments.folder)?;
    let mut command = whole_command();
    command.build();
    write_pages(&command, &arguments.folder)?;
    Ok(ExitStatus::SUCCESS)
}

fn write_pages(command: &Command, folder: &Path) -> anyhow::Result<()> {
    let mut page = Vec::new();
    let man = Man::new(command.clone()).manual("drover");
    man.render(&mut page)?;
    fs_err::write(folder.join(man.get_filename()), page)?;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_pages(below, folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: &str = "# Commands

What `drover COMMAND --help` prints, of each command. `drover man-pages DIR` writes the same as man pages, and
`drover completions SHELL` prints what a shell completes. A test compares this page with the program, and writes
it anew where `DROVER_WRITE_REFERENCE=1` is set.

What drover does by [the names of Nix's programs](names.md) isn't here: it's what Nix's manual says.
";

    /// Returns the page that `docs/commands.md` has to be.
    fn reference() -> String {
        let mut command = whole_command();
        command.build();
        let mut page = ABOUT.to_owned();
        add_command(&mut command, &mut page);
        page
    }

    fn add_command(command: &mut Command, page: &mut String) {
        let help = command.clone().term_width(100).render_long_help().to_string();
        let lines: Vec<&str> = help.trim().lines().map(str::trim_end).collect();
        let name = command.get_bin_name().unwrap_or("drover").to_owned();
        *page += &format!("\n## `{name}`\n\n```text\n{}\n```\n", lines.join("\n"));
        for below in command.get_subcommands_mut() {
            if !below.is_hide_set() && below.get_name() != "help" {
                add_command(below, page);
            }
        }
    }

    #[test]
    fn the_reference_is_what_help_prints() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/commands.md");
        let expected = reference();
        if std::env::var_os("DROVER_WRITE_REFERENCE").is_some() {
            fs_err::write(file, &expected).unwrap();
        }
        let page = fs_err::read_to_string(file).unwrap_or_default();
        let differs = page.lines().zip(expected.lines()).find(|(one, other)| one != other);
        assert_eq!(differs, None, "docs/commands.md; DROVER_WRITE_REFERENCE=1 writes it anew");
        assert_eq!(page, expected, "docs/commands.md ends otherwise");
    }

    #[test]
    fn words_that_are_handed_on_have_help() {
        use clap::Parser as _;
        let asked = |words: &[&str]| {
            let words = [&["drover"], words].concat();
            asked_of(&Arguments::try_parse_from(words).unwrap().command)
        };
        for words in [&["daemon"][..], &["copy"], &["path-info"], &["gc"], &["store", "optimise"]] {
            assert_eq!(asked(words), None);
            let help = asked(&[words, &["--help"]].concat()).unwrap();
            assert_eq!(asked(&[words, &["-h"]].concat()), Some(help.clone()));
            assert!(help.contains(&format!("Usage: drover {}", words.join(" "))), "{help}");
        }
        assert_eq!(asked(&["store", "no-such-word", "--help"]), None);
        assert_eq!(asked(&["path-info", "-h", "/nix/store/x"]), None);
    }

    #[test]
    fn all_words_are_told_where_one_is_missing() {
        for line in [&["drover", "store"][..], &["drover", "store", "--help"]] {
            use clap::Parser as _;
            let refusal = Arguments::try_parse_from(line).expect_err("no word");
            let told =
                with_all_words(refusal, line.iter().map(|word| OsString::from(*word))).to_string();
            for word in STORE_WORDS {
                assert!(told.contains(word.name) && told.contains(word.about), "{line:?}: {told}");
            }
        }
    }

    #[test]
    fn is_consistent() {
        whole_command().debug_assert();
    }
}
