//! Man pages and completions know every command and flag that `--help` knows.

use std::process::Command;

use rstest::rstest;
use tempfile::TempDir;

use crate::{DROVER, repository, run, run_ok, text};

/// Returns what `--help` says.
fn help(words: &[String]) -> String {
    let said = run_ok(Command::new(DROVER).args(words).arg("--help"));
    assert!(said.contains("Usage: drover"), "{words:?}: {said}");
    said
}

/// Returns the commands below one, as its `--help` lists them.
fn commands_below(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    // a description that goes on is further in
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Returns every command with its `--help`.
fn all_commands() -> Vec<(Vec<String>, String)> {
    let mut left = vec![Vec::new()];
    let mut all = Vec::new();
    while let Some(words) = left.pop() {
        let help = help(&words);
        for name in commands_below(&help) {
            left.push([words.as_slice(), &[name]].concat());
        }
        all.push((words, help));
    }
    all
}

fn pages() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    run_ok(Command::new(DROVER).arg("man-pages").arg(folder.path()));
    folder
}

fn page(folder: &TempDir, words: &[String]) -> String {
    let name = [&["drover".to_owned()], words].concat().join("-");
    let page = fs_err::read_to_string(folder.path().join(format!("{name}.1")));
    page.unwrap_or_else(|error| panic!("no page of {name}: {error}")).replace(r"\-", "-")
}

/// Returns the long flags that a text lists: not those of other programs, which an argument may be.
fn flags(help: &str) -> impl Iterator<Item = &str> {
    let mut section = "";
    let listed = help.lines().filter(move |line| {
        if line.ends_with(':') && !line.starts_with(' ') {
            section = line;
        }
        section != "Arguments:" && line.trim_start().starts_with('-')
    });
    let words = listed.flat_map(|line| line.split([' ', ',', '=']));
    words.filter(|word| word.starts_with("--")).map(|word| word.trim_end_matches('.'))
}

#[test]
fn every_command_has_a_page_with_its_flags() {
    let folder = pages();
    let commands = all_commands();
    for expected in ["build", "store", "daemon", "derivation show", "store ping", "completions"] {
        let known = commands.iter().any(|(words, _)| words.join(" ") == expected);
        assert!(known, "{expected} is not found in --help: {commands:?}");
    }
    for (words, help) in commands {
        let page = page(&folder, &words);
        for flag in flags(&help) {
            assert!(page.contains(flag), "the page of {words:?} lacks {flag}:\n{page}");
        }
    }
}

/// The words that `drover store` hands on have pages, and none has a page that isn't understood.
#[test]
fn words_of_the_store_have_pages() {
    let folder = pages();
    let names = fs_err::read_to_string(repository("docs/names.md")).unwrap();
    let rows = names.lines().filter(|line| line.starts_with("| `drover store "));
    let cells = rows.filter_map(|line| line.split('|').nth(1));
    let told = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let told: Vec<_> = told.map(|word| word.trim_start_matches("drover store ")).collect();
    assert!(told.contains(&"optimise") && told.contains(&"roots"), "{told:?}");
    for word in &told {
        page(&folder, &["store".to_owned(), (*word).to_owned()]);
    }
    for entry in fs_err::read_dir(folder.path()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(word) = name.strip_prefix("drover-store-") else { continue };
        let word = word.trim_end_matches(".1");
        let output = run(Command::new(DROVER).args(["store", word, "--no-such-flag"]));
        let said = text(&output.stderr);
        assert!(!output.status.success(), "{word} takes any flag");
        assert!(said.contains("flag"), "drover store {word} isn't understood: {said}");
    }
}

/// What a page lists is understood: the flag that is refused is the one that nobody knows.
#[test]
fn flags_of_words_of_the_store_are_understood() {
    let folder = pages();
    let folder_names = fs_err::read_dir(folder.path()).unwrap();
    let names = folder_names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let words = names.filter_map(|name| {
        Some(name.strip_prefix("drover-store-")?.strip_suffix(".1")?.to_owned())
    });
    let mut count = 0;
    for word in words.filter(|word| word != "ping") {
        let help = help(&["store".to_owned(), word.clone()]);
        let lines = help.lines().map(str::trim).filter(|line| line.starts_with('-'));
        for line in lines {
            let long = line.split([' ', ',']).find(|part| part.starts_with("--")).unwrap();
            let values = line.matches('<').count();
            let mut command = Command::new(DROVER);
            command.args(["store", &word, long]);
            command.args(["max-jobs", "1"].iter().skip(2 - values.min(2)).take(values));
            let said = text(&run(command.arg("--no-such-flag")).stderr);
            let refused = said.contains("no-such-flag") || said.contains("unknown flag\n");
            assert!(refused && !said.contains(&format!("'{long}'")), "{word} {long}: {said}");
            count += 1;
        }
    }
    assert!(60 < count, "{count} flags");
}

#[test]
fn pages_are_well_formed() {
    let folder = pages();
    let files = fs_err::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let output = run(Command::new("mandoc").args(["-T", "lint", "-W", "error"]).args(files));
    assert!(output.status.success(), "{}", text(&output.stdout));
}

#[rstest]
#[case::bash("bash")]
#[case::elvish("elvish")]
#[case::fish("fish")]
#[case::powershell("powershell")]
#[case::zsh("zsh")]
fn completions_know_every_command(#[case] shell: &str) {
    let script = run_ok(Command::new(DROVER).args(["completions", shell]));
    for (words, help) in all_commands() {
        for word in &words {
            assert!(script.contains(word.as_str()), "{shell} doesn't know {word}");
        }
        for flag in flags(&help) {
            let name = flag.trim_start_matches('-');
            assert!(script.contains(name), "{shell} doesn't know {flag} of {words:?}");
        }
    }
}

#[rstest]
#[case::command("drover bu", &["build", "builds", "builder"])]
#[case::below("drover derivation s", &["show"])]
#[case::words_of_nix("drover store opt", &["optimise"])]
#[case::flag("drover build --max-j", &["--max-jobs"])]
#[case::value("drover build --policy s", &["stock"])]
fn bash_completes(#[case] line: &str, #[case] expected: &[&str]) {
    let script = r#"
        source <("$0" completions bash)
        read -ra COMP_WORDS <<<"$1"
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _drover drover "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let told = run_ok(Command::new("bash").args(["-euc", script, DROVER, line]));
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let output = run(Command::new(DROVER).args(["man-pages", "/dev/null/man1"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/dev/null/man1"), "{}", text(&output.stderr));
}
