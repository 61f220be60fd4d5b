//! The reference of messages and variables says what the program says and reads.
//!
//! Invariant of `docs/messages.md`: what stands between backticks in the first column of its tables is a message of
//! the program, with `…` for what differs, and so found in a string of the sources; and where a comment says
//! `<!-- all of CRATE::ENUM -->`, each message of that error has its row. So has each text that the crates in [`TOLD`] end
//! with (`bail!` and its kin) or judge a machine by, unless a page that this one links to tells it. Invariant of
//! `docs/settings.md`: each variable of the environment by a name of Nix's or of drover's that the program looks up is on it.

use std::collections::BTreeSet;

use super::source::Source;
use super::{Finding, Rule};

/// The page of messages.
const PAGE: &str = "docs/messages.md";
/// The page that has variables.
const VARIABLES: &str = "docs/settings.md";
/// The crates that look variables up for users.
const READERS: [&str; 4] = ["crates/cli", "crates/config", "crates/compat", "crates/store-local"];

/// The crates all of whose messages are told.
const TOLD: [&str; 4] = ["crates/cli", "crates/compat", "crates/control", "crates/doctor"];

/// What a message is an argument of, and which.
const OPENERS: [(&str, usize); 11] = [
    ("bail!(", 0),
    ("anyhow!(", 0),
    ("ensure!(", 1),
    (".context(", 0),
    (".with_context(", 0),
    ("CompatError::usage(", 0),
    ("Verdict::wrong(", 0),
    ("Verdict::odd(", 0),
    ("Verdict::unknown(", 0),
    ("Finding::warning(", 1),
    ("Finding::hint(", 1),
];

/// Letters that a message must have beside what differs: fewer would be found anywhere.
const FEWEST: usize = 6;

/// A string of the sources.
struct Text {
    /// The folder of its crate.
    folder: String,
    /// The error that it is a message of, by the name of its type.
    error: Option<String>,
    /// Whether the program ends with it, or judges something by it.
    is_verdict: bool,
    /// The string, with `…` for what is put into it.
    text: String,
}

/// Checks the pages against all files, given as path and text.
pub(super) fn check(files: &[(String, String)]) -> Vec<Finding> {
    let texts: Vec<Text> = files.iter().flat_map(|(path, text)| texts(path, text)).collect();
    let page = |name: &str| files.iter().find(|(path, _)| path == name);
    let mut findings = Vec::new();
    if let Some((_, page)) = page(PAGE) {
        findings.extend(check_messages(page, &texts));
        let linked: Vec<&str> = linked(page)
            .filter_map(|name| files.iter().find(|(path, _)| *path == name))
            .map(|(_, text)| text.as_str())
            .collect();
        findings.extend(check_verdicts(page, &linked, &texts));
    }
    if let Some((_, page)) = page(VARIABLES) {
        findings.extend(check_variables(page, &texts));
    }
    findings
}

fn check_variables(page: &str, texts: &[Text]) -> Vec<Finding> {
    let is_variable = |text: &str| {
        let named = ["NIX_", "DROVER_", "XDG_"].iter().any(|begin| text.starts_with(begin));
        named && text.chars().all(|c| c.is_ascii_uppercase() || c == '_')
    };
    let read = texts.iter().filter(|text| READERS.contains(&text.folder.as_str()));
    let read: BTreeSet<&str> =
        read.map(|text| text.text.as_str()).filter(|text| is_variable(text)).collect();
    let untold = read.into_iter().filter(|name| !page.contains(&format!("`{name}`")));
    let finding = |name: &str| Finding {
        path: VARIABLES.to_owned(),
        line: 0,
        rule: Rule::Reference,
        message: format!("the variable {name} is read and not told of"),
        size: None,
    };
    untold.map(finding).collect()
}

fn check_messages(page: &str, texts: &[Text]) -> Vec<Finding> {
    let rows = rows(page);
    let mut findings = Vec::new();
    let mut found = |line: usize, message: String| {
        let path = PAGE.to_owned();
        findings.push(Finding { path, line, rule: Rule::Reference, message, size: None });
    };
    for (line, row) in &rows {
        let letters = row.chars().filter(|c| c.is_alphabetic()).count();
        if letters < FEWEST || !texts.iter().any(|text| holds(&text.text, row)) {
            found(*line, format!("nothing in the sources says '{row}'"));
        }
    }
    for (index, _) in page.lines().enumerate().filter(|(_, line)| is_without_remedy(line)) {
        found(index + 1, "a message without what to do".to_owned());
    }
    for (line, name) in promised(page) {
        let (folder, error) = name.split_once("::").unwrap_or(("", &name));
        let folder = format!("crates/{folder}");
        let is_it = |text: &&Text| text.folder == folder && text.error.as_deref() == Some(error);
        let messages: Vec<&Text> = texts.iter().filter(is_it).collect();
        if messages.is_empty() {
            found(line, format!("there is no error {name}"));
        }
        for message in messages.iter().filter(|message| says_something(&message.text)) {
            if !rows.iter().any(|(_, row)| holds(&message.text, row)) {
                found(line, format!("{name} also says '{}'", message.text));
            }
        }
    }
    findings
}

/// Returns the pages beside this one that it links to.
fn linked(page: &str) -> impl Iterator<Item = String> {
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|target| target.ends_with(".md")).map(|target| format!("docs/{target}"))
}

/// Checks that what the program ends with, or judges by, is told.
fn check_verdicts(page: &str, linked: &[&str], texts: &[Text]) -> Vec<Finding> {
    let rows = rows(page);
    let is_told = |text: &str| {
        rows.iter().any(|(_, row)| holds(text, row))
            || linked.iter().flat_map(|page| page.lines()).any(|line| holds(line, text))
    };
    let verdicts = texts.iter().filter(|text| {
        let letters = text.text.chars().filter(|c| c.is_alphabetic()).count();
        text.is_verdict && TOLD.contains(&text.folder.as_str()) && FEWEST <= letters
    });
    let untold: BTreeSet<(&str, &str)> = verdicts
        .filter(|text| !is_told(&text.text))
        .map(|text| (text.folder.as_str(), text.text.as_str()))
        .collect();
    let finding = |(folder, text): (&str, &str)| Finding {
        path: PAGE.to_owned(),
        line: 0,
        rule: Rule::Reference,
        message: format!("{folder} also says '{text}'"),
        size: None,
    };
    untold.into_iter().map(finding).collect()
}

/// Whether a string that begins behind this code is the message of one of [`OPENERS`].
fn opens_verdict(code: &str) -> bool {
    let open = OPENERS.iter().filter_map(|(opener, at)| {
        let begin = code.rfind(opener)?;
        Some((begin, code.get(begin + opener.len()..)?, *at))
    });
    let Some((_, inside, at)) = open.max_by_key(|(begin, _, _)| *begin) else { return false };
    let (mut depth, mut commas) = (0_usize, 0);
    for c in inside.chars() {
        match (c, depth) {
            ('(' | '[' | '{', _) => depth += 1,
            // it has ended before the string
            (')' | ']' | '}', 0) => return false,
            (')' | ']' | '}', _) => depth -= 1,
            (',', 0) => commas += 1,
            _ => {}
        }
    }
    commas == at
}

/// Returns the messages in the first column of the page's tables, with their lines.
fn rows(page: &str) -> Vec<(usize, String)> {
    let cells = page.lines().enumerate().filter_map(|(index, line)| {
        Some((index + 1, line.strip_prefix("| `")?.split(" | ").next()?))
    });
    let messages = cells.flat_map(|(line, cell)| {
        let quoted = cell.split('`').step_by(2);
        quoted.filter(|text| !text.is_empty()).map(move |text| (line, text.to_owned()))
    });
    messages.collect()
}

/// Returns the errors of which the page promises all messages.
fn promised(page: &str) -> Vec<(usize, String)> {
    let comments = page.lines().enumerate().filter_map(|(index, line)| {
        let names = line.strip_prefix("<!-- all of ")?.strip_suffix(" -->")?;
        Some((index + 1, names))
    });
    let names = comments
        .flat_map(|(line, names)| names.split(", ").map(move |name| (line, name.to_owned())));
    names.collect()
}

/// Whether a line of a table has a message and nothing behind it.
fn is_without_remedy(line: &str) -> bool {
    let behind = line.strip_prefix("| `").and_then(|row| row.split_once(" | "));
    behind.is_some_and(|(_, remedy)| remedy.trim_matches(['|', ' ']).is_empty())
}

/// Whether a text holds the words of a row, in their order.
fn holds(mut text: &str, row: &str) -> bool {
    row.split('…').all(|words| match text.split_once(words) {
        Some((_, rest)) => {
            text = rest;
            true
        }
        None => false,
    })
}

/// Whether a message has words of its own, and isn't only what another one says.
fn says_something(message: &str) -> bool {
    message.chars().any(char::is_alphabetic)
}

/// Returns the strings of a file of a crate, those of its tests left out.
fn texts(path: &str, text: &str) -> Vec<Text> {
    let Some(folder) = path.find("/src/").and_then(|at| path.get(..at)) else { return Vec::new() };
    if !path.ends_with(".rs") || folder == "crates/xtask" || folder == "crates/testkit" {
        return Vec::new();
    }
    let source = Source::new(text);
    let lines = source.lines_before_tests();
    let kept = |text: &str| -> Vec<char> {
        text.lines().take(lines).flat_map(|line| line.chars().chain(['\n'])).collect()
    };
    let (raw, code, comments) = (kept(text), kept(&source.code), kept(&source.comments));
    let mut found = Vec::new();
    let (mut at, mut error, mut before) = (0, None, String::new());
    while let (Some(c), Some(seen), Some(comment)) = (raw.get(at), code.get(at), comments.get(at)) {
        if *c != '"' || *seen != ' ' || *comment != ' ' {
            before.push(*seen);
            at += 1;
            continue;
        }
        error = named(&before).or(error);
        let (string, end) = literal(&raw, at + 1);
        let is_message = before.trim_end().ends_with("#[error(");
        let is_verdict = opens_verdict(&before);
        let after: String = code.iter().skip(end).take(AFTER).collect();
        let error = match is_message {
            // a struct has its message before its name, an enum's are behind it
            true => struct_behind(&after).or_else(|| error.clone()),
            false => None,
        };
        let text = with_gaps(&string);
        found.push(Text { folder: folder.to_owned(), error, is_verdict, text });
        before.clear();
        at = end;
    }
    found
}

/// Characters of code that are looked at behind a message for the name of its struct.
const AFTER: usize = 200;

/// Returns the name of the last enum that code begins.
fn named(code: &str) -> Option<String> {
    let at = code.rfind("enum ")?;
    word(code.get(at + 5..)?)
}

/// Returns the name of the struct that an attribute is of which ends in code.
fn struct_behind(code: &str) -> Option<String> {
    let (_, mut rest) = code.split_once(")]")?;
    rest = rest.trim_start();
    while let Some((_, behind)) = rest.strip_prefix("#[").and_then(|inside| inside.split_once(']'))
    {
        rest = behind.trim_start();
    }
    let rest = rest.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
    word(rest.strip_prefix("struct ")?)
}

fn word(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    text.get(..end).filter(|word| !word.is_empty()).map(str::to_owned)
}

/// Returns the string that begins at a place, and where it has ended.
fn literal(raw: &[char], mut at: usize) -> (String, usize) {
    let mut string = String::new();
    while let Some(c) = raw.get(at) {
        match (c, raw.get(at + 1)) {
            ('"', _) => return (string, at + 1),
            // a line that goes on
            ('\\', Some('\n')) => {
                let blanks = raw.iter().skip(at + 1).take_while(|c| c.is_whitespace()).count();
                at += 1 + blanks;
            }
            ('\\', Some('n')) => {
                string.push('\n');
                at += 2;
            }
            ('\\', Some(escaped)) => {
                string.push(*escaped);
                at += 2;
            }
            (c, _) => {
                string.push(*c);
                at += 1;
            }
        }
    }
    (string, at)
}

/// Returns a string of a format with `…` in the place of each value.
fn with_gaps(format: &str) -> String {
    let mut text = String::new();
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        rest = match (from.get(..2), from.find('}')) {
            (Some(double @ ("{{" | "}}")), _) => {
                text.push_str(double.get(..1).unwrap_or_default());
                from.get(2..).unwrap_or_default()
            }
            (_, Some(end)) => {
                text.push('…');
                from.get(end + 1..).unwrap_or_default()
            }
            (_, None) => "",
        };
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
/// Why "not".
#[derive(Error)]
pub enum DoorError {
    #[error("the door to '{room}' is \
             shut")]
    Shut { room: String },
    #[error(
        "there is no {{door}} at {}", place.display()
    )]
    None,
    #[error("{0}")]
    Other(String),
}
#[derive(Error)]
#[error("the key is lost in {}", place.display())]
#[non_exhaustive]
pub(crate) struct KeyError;
fn a() { bail!("knock before you enter") }
#[cfg(test)]
mod tests { const X: &str = "only a test says this"; }
"#;

    fn found(page: &str) -> Vec<String> {
        let files = [
            (PAGE.to_owned(), page.to_owned()),
            ("crates/house/src/door.rs".to_owned(), SOURCE.to_owned()),
        ];
        check(&files).into_iter().map(|found| format!("{} {}", found.line, found.message)).collect()
    }

    #[test]
    fn what_the_page_says_is_said() {
        let page = "| message | |\n|---|---|\n| `the door to '…' is shut`, `there is no {door} at …` | open it |\n\
                    | `the key is lost in …` | look |\n| `knock before you enter` | |\n";
        assert_eq!(found(page), ["5 a message without what to do"]);
        let page =
            "| `the door to '…' is open` | x |\n| `only a test says this` | x |\n| `the …` | x |\n";
        let expected = ["the door to '…' is open", "only a test says this", "the …"];
        let expected = expected.iter().zip(1..);
        let expected: Vec<String> = expected
            .map(|(text, line)| format!("{line} nothing in the sources says '{text}'"))
            .collect();
        assert_eq!(found(page), expected);
    }

    #[test]
    fn what_the_program_ends_with_is_told() {
        let source = r#"//! a
fn a() {
    bail!("the cellar of '{house}' is flooded", "not this");
    let deep = look(&place).with_context(|| format!("nobody looks into '{place}'"));
    Verdict::wrong(format!("the roof of {house} leaks"), "call a roofer");
    Finding::warning(&place, "the door is open", "shut it");
    say("this is no end");
}"#;
        let found = |page: &str, other: &str| -> Vec<String> {
            let files = [
                (PAGE.to_owned(), page.to_owned()),
                ("docs/other.md".to_owned(), other.to_owned()),
                ("crates/cli/src/a.rs".to_owned(), source.to_owned()),
            ];
            let found = check_verdicts(
                page,
                &[other],
                &files.iter().flat_map(|(path, text)| texts(path, text)).collect::<Vec<_>>(),
            );
            found.into_iter().map(|found| found.message).collect()
        };
        let says = |text: &str| format!("crates/cli also says '{text}'");
        let all = [
            "nobody looks into '…'",
            "the cellar of '…' is flooded",
            "the door is open",
            "the roof of … leaks",
        ];
        assert_eq!(found("", ""), all.map(says));
        let page = "| `the cellar of '…' is flooded` | pump |\n| `the door is open` | shut it |\n";
        assert_eq!(found(page, "then nobody looks into 'b', or so"), [says(all[3])]);
    }

    #[test]
    fn pages_are_named_by_links() {
        let page = "see [one](one.md), [two](two.md#part) and [three](https://a/three.md)";
        let expected = ["docs/one.md", "docs/two.md", "docs/https://a/three.md"];
        assert!(linked(page).eq(expected));
    }

    #[test]
    fn variables_that_are_read_are_told() {
        let source = r#"//! a
fn a() { (var("NIX_A"), var("DROVER_B"), say("NIX_ is none"), var("OTHER")) }"#;
        let files = |page: &str| {
            let source = ("crates/cli/src/a.rs".to_owned(), source.to_owned());
            [(VARIABLES.to_owned(), page.to_owned()), source]
        };
        assert_eq!(check(&files("| `NIX_A`, `DROVER_B` | |")), []);
        let found = check(&files("NIX_A and `DROVER_B`"));
        assert_eq!(found.len(), 1);
        assert!(found[0].message.contains("NIX_A"), "{found:?}");
    }

    #[test]
    fn what_is_promised_is_there() {
        let page = "<!-- all of house::DoorError, house::KeyError, house::WindowError -->\n\
                    | `the door to '…' is shut` | x |\n";
        assert_eq!(
            found(page),
            [
                "1 house::DoorError also says 'there is no {door} at …'",
                "1 house::KeyError also says 'the key is lost in …'",
                "1 there is no error house::WindowError",
            ]
        );
    }
}
