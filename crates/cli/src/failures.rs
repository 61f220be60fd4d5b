//! What is said of derivations that were not built.

use drover_core::StoreDir;
use drover_fleet::{FailureKind, JobFailureReport};
use drover_store_remote::plain_text;

use crate::builders::LOCAL;
use crate::units;

/// Returns what to say of a failure; nothing where it is only a consequence. `absent` says why there
/// were not more machines.
pub(crate) fn explain(
    failure: &JobFailureReport,
    store_dir: &StoreDir,
    absent: &[String],
) -> Option<String> {
    let name = failure.derivation.name();
    let name = name.strip_suffix(".drv").unwrap_or(name);
    let place = match failure.machine.as_deref() {
        None | Some(LOCAL) => String::new(),
        Some(machine) => format!(" on {machine}"),
    };
    let path = store_dir.display(&failure.derivation);
    let message = own_words(&failure.message);
    match failure.kind {
        FailureKind::Dependency | FailureKind::Cancelled => None,
        FailureKind::Unsuited | FailureKind::NoMachine => {
            let mut text = format!("no machine could build {name}");
            let reasons = message.strip_prefix("no machine could build it\n").unwrap_or(&message);
            push_indented(&mut text, reasons);
            absent.iter().for_each(|reason| push_indented(&mut text, reason));
            if reasons.contains("lacks") {
                let hint = format!("(what it requires: drover derivation show {path})");
                push_indented(&mut text, &hint);
            }
            Some(text)
        }
        FailureKind::Hook => {
            let mut text = format!("{name} was built{place}, and the hook after it failed");
            push_indented(&mut text, &message);
            Some(text)
        }
        FailureKind::NotFetched => {
            let mut text = format!("{name} could not be fetched");
            push_indented(&mut text, &message);
            Some(text)
        }
        FailureKind::NotSent => {
            let mut text = format!("what {name} needs could not be sent");
            push_indented(&mut text, &message);
            Some(text)
        }
        _ => {
            let mut text = format!("build of {name} failed{place}");
            push_indented(&mut text, &message);
            push_log(&mut text, failure, &path, &place);
            Some(text)
        }
    }
}

fn push_log(text: &mut String, failure: &JobFailureReport, path: &str, place: &str) {
    if !failure.log_tail.is_empty() {
        let lines = units::count(failure.log_tail.len(), "line");
        push_indented(text, &format!("last {lines} of its log:"));
        for line in &failure.log_tail {
            push_indented(text, &format!("> {}", plain_text(line)));
        }
    }
    push_indented(text, &format!("for all of its log: nix-store --read-log {path}{place}"));
}

fn push_indented(text: &mut String, more: &str) {
    for line in more.lines() {
        text.push_str("\n       ");
        text.push_str(line);
    }
}

/// Returns a builder's message without the end of the log that Nix appends, and without what it
/// says about seeing the rest: both are said in drover's own words.
fn own_words(message: &str) -> String {
    let message = plain_text(message);
    let is_log = |line: &str| {
        let line = line.trim_start();
        line.starts_with("last ") && line.contains("log lines")
            || line.starts_with("Last ") && line.contains("log lines")
            || line.starts_with("For full logs, run")
    };
    let mut kept: Vec<&str> = message.lines().take_while(|line| !is_log(line)).collect();
    // since Nix 2.31 the reason stands between what was said above and paths that nobody asked for
    if let Some(reason) = kept.iter().position(|line| line.trim_start().starts_with("Reason: ")) {
        kept.drain(..reason);
        kept.truncate(
            kept.iter().position(|line| line.trim_start() == "Output paths:").unwrap_or(kept.len()),
        );
    }
    let kept = kept.join("\n");
    let kept = kept.trim().trim_end_matches(';');
    let kept = kept.strip_prefix("error: ").unwrap_or(kept);
    kept.strip_prefix("Reason: ").unwrap_or(kept).to_owned()
}

#[cfg(test)]
mod tests {
    use drover_core::StorePath;
    use rstest::rstest;

    use super::*;

    const PATH: &str = "3880j94arxkya3irs3d8nr2x076sp1m8-a-1.drv";

    fn explained(kind: FailureKind, message: &str, log_tail: &[&str]) -> Option<String> {
        let failure = JobFailureReport {
            derivation: StorePath::from_base_name(PATH).unwrap(),
            kind,
            machine: Some("b1".to_owned()),
            message: message.to_owned(),
            log_tail: log_tail.iter().map(|&line| line.to_owned()).collect(),
        };
        explain(&failure, &StoreDir::default(), &["/m:3: no".to_owned()])
    }

    #[test]
    fn a_failed_build() {
        let message = "builder for 'x' failed with exit code 1;\n       last 1 log lines:\n       > oops\n       For full logs, run 'nix log x'.";
        let expected = format!(
            "build of a-1 failed on b1\n       builder for 'x' failed with exit code 1\n       last 1 line of its log:\n       > oops\n       for all of its log: nix-store --read-log /nix/store/{PATH} on b1"
        );
        assert_eq!(explained(FailureKind::Build, message, &["oops"]), Some(expected));
    }

    #[test]
    fn a_failed_build_of_todays_nix() {
        let message = "Cannot build 'x'.\nReason: builder failed with exit code 3.\nOutput paths:\n  /nix/store/y";
        let said = explained(FailureKind::Build, message, &[]).unwrap();
        assert!(
            said.starts_with(
                "build of a-1 failed on b1\n       builder failed with exit code 3.\n       for all"
            ),
            "{said}"
        );
    }

    #[test]
    fn a_hash_mismatch_has_both_hashes() {
        let message = "hash mismatch in fixed-output derivation 'x':\n  specified: sha256-a\n     got:    sha256-b";
        let said = explained(FailureKind::HashMismatch, message, &[]).unwrap();
        assert!(said.contains("specified: sha256-a\n") && said.contains("got:    sha256-b\n"));
    }

    #[test]
    fn no_machine_has_all_reasons() {
        let reasons = "no machine could build it\nb1: down\nb2: lacks kvm";
        let said = explained(FailureKind::NoMachine, reasons, &[]).unwrap();
        assert!(said.starts_with(
            "no machine could build a-1\n       b1: down\n       b2: lacks kvm\n       /m:3: no\n"
        ));
    }

    #[rstest]
    #[case(FailureKind::Dependency)]
    #[case(FailureKind::Cancelled)]
    fn consequences(#[case] kind: FailureKind) {
        assert_eq!(explained(kind, "", &[]), None);
    }
}
