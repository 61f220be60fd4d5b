//! What is said of derivations that were not built.

use std::collections::BTreeSet;

use drover_core::{StoreDir, plain_text};
use drover_fleet::{JobFailureReport, NO_MACHINE};
use drover_store::FailureCause;

use crate::builders::LOCAL;
use crate::units;

/// Names that are told of derivations that failed alike.
const NAMED: usize = 8;

/// Where the logs of builds are that other machines have run.
#[derive(Clone, Debug)]
pub(crate) enum Logs {
    /// In the local store, with those of this machine.
    Here,
    /// On those machines.
    There {
        /// Machines that keep none: `nix-store --serve` doesn't.
        not_on: BTreeSet<String>,
    },
}

impl Logs {
    /// Returns what to type for a log, if it's kept anywhere.
    fn hint(&self, path: &str, machine: Option<&str>) -> Option<String> {
        let read = format!("for all of its log: nix-store --read-log {path}");
        match (self, machine) {
            (Logs::There { not_on }, machine) if not_on.contains(machine.unwrap_or(LOCAL)) => None,
            (Logs::Here, _) | (Logs::There { .. }, None | Some(LOCAL)) => Some(read),
            (Logs::There { .. }, Some(machine)) => Some(format!("{read} on {machine}")),
        }
    }
}

/// What else is known where something failed.
pub(crate) struct Around<'a> {
    pub(crate) store_dir: &'a StoreDir,
    /// Why there were not more machines.
    pub(crate) absent: &'a [String],
    pub(crate) logs: &'a Logs,
}

/// A failure in words: those that differ in their names only are told once.
struct Told {
    /// What comes before the names, and behind them.
    around_names: (&'static str, String),
    names: Vec<String>,
    /// Indented below.
    body: String,
    /// About the first one.
    hint: Option<String>,
}

impl Told {
    fn text(&self) -> String {
        let (before, behind) = &self.around_names;
        let mut text = format!("{before}{}{behind}", listed(&self.names));
        push_indented(&mut text, &self.body);
        self.hint.iter().for_each(|hint| push_indented(&mut text, hint));
        text
    }
}

/// Returns what to say of failures, and of targets that something they depend on failed for.
pub(crate) fn explain<'a>(
    failures: impl IntoIterator<Item = &'a JobFailureReport>,
    targets: impl IntoIterator<Item = &'a JobFailureReport>,
    around: &Around<'_>,
) -> Vec<String> {
    let mut all: Vec<Told> = Vec::new();
    for told in failures.into_iter().filter_map(|failure| told(failure, around)) {
        let is_alike = |other: &&mut Told| {
            (&other.around_names, &other.body) == (&told.around_names, &told.body)
        };
        match all.iter_mut().find(is_alike) {
            Some(other) => other.names.extend(told.names),
            None => all.push(told),
        }
    }
    let mut texts: Vec<String> = all.iter().map(Told::text).collect();
    let mut seen = BTreeSet::new();
    for target in targets {
        if target.cause == FailureCause::Dependency && seen.insert(&target.derivation) {
            texts.push(format!("cannot build {}: {}", name_of(target), target.message));
        }
    }
    texts
}

fn name_of(failure: &JobFailureReport) -> &str {
    let name = failure.derivation.name();
    name.strip_suffix(".drv").unwrap_or(name)
}

/// Returns names as one says them.
fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [name] => name.clone(),
        [names @ .., last] if names.len() < NAMED => format!("{} and {last}", names.join(", ")),
        names => {
            let (first, others) = names.split_at(NAMED);
            format!("{} and {} more", first.join(", "), others.len())
        }
    }
}

/// Returns what to say of a failure; nothing where it is only a consequence.
fn told(failure: &JobFailureReport, around: &Around<'_>) -> Option<Told> {
    let place = match failure.machine.as_deref() {
        None | Some(LOCAL) => String::new(),
        Some(machine) => format!(" on {machine}"),
    };
    let path = around.store_dir.display(&failure.derivation);
    let mut body = own_words(&failure.message);
    let mut hint = None;
    let around_names = match failure.cause {
        FailureCause::Dependency | FailureCause::Cancelled => return None,
        FailureCause::Unsuited | FailureCause::NoMachine => {
            body = reasons_of_machines(&failure.message).unwrap_or(body);
            hint = body
                .contains("lacks")
                .then(|| format!("(what it requires: drover derivation show {path})"));
            around.absent.iter().for_each(|reason| {
                body.push('\n');
                body.push_str(reason);
            });
            ("no machine could build ", String::new())
        }
        FailureCause::Hook => ("", format!(" was built{place}, and the hook after it failed")),
        FailureCause::NotFetched => ("", " could not be fetched".to_owned()),
        FailureCause::NotSent => ("what ", " needs could not be sent".to_owned()),
        _ => {
            push_log(&mut body, failure, around.logs.hint(&path, failure.machine.as_deref()));
            ("build of ", format!(" failed{place}"))
        }
    };
    Some(Told { around_names, names: vec![name_of(failure).to_owned()], body, hint })
}

/// Returns the lines in which each machine says why, without what one said that was asked last.
fn reasons_of_machines(message: &str) -> Option<String> {
    let message = plain_text(message);
    let mut lines = message.lines().skip_while(|line| *line != NO_MACHINE);
    lines.next()?;
    Some(lines.collect::<Vec<_>>().join("\n"))
}

fn push_log(body: &mut String, failure: &JobFailureReport, hint: Option<String>) {
    let mut push = |line: &str| {
        if !body.is_empty() {
            body.push('\n');
        }
        body.push_str(line);
    };
    if !failure.log_tail.is_empty() {
        let lines = units::count(failure.log_tail.len(), "line");
        push(&format!("last {lines} of its log:"));
        for line in &failure.log_tail {
            push(&format!("> {}", plain_text(line)));
        }
    }
    hint.iter().for_each(|hint| push(hint));
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

    fn failure(name: &str, cause: FailureCause, message: &str) -> JobFailureReport {
        JobFailureReport {
            derivation: StorePath::from_base_name(&PATH.replace("-a-1.", &format!("-{name}.")))
                .unwrap(),
            cause,
            machine: Some("b1".to_owned()),
            message: message.to_owned(),
            log_tail: Vec::new(),
        }
    }

    fn there(not_on: &[&str]) -> Logs {
        Logs::There { not_on: not_on.iter().map(|&name| name.to_owned()).collect() }
    }

    fn all(
        failures: &[JobFailureReport],
        targets: &[JobFailureReport],
        logs: &Logs,
    ) -> Vec<String> {
        let (store_dir, absent) = (StoreDir::default(), ["/m:3: no".to_owned()]);
        explain(failures, targets, &Around { store_dir: &store_dir, absent: &absent, logs })
    }

    fn explained(cause: FailureCause, message: &str, log_tail: &[&str]) -> Option<String> {
        let log_tail = log_tail.iter().map(|&line| line.to_owned()).collect();
        let failure = JobFailureReport { log_tail, ..failure("a-1", cause, message) };
        all(&[failure], &[], &there(&[])).pop()
    }

    /// Whoever looks where no log is loses time.
    #[test]
    fn a_log_of_this_machine_is_promised_where_one_is_kept() {
        let here = JobFailureReport { machine: None, ..failure("a-1", FailureCause::Build, "no") };
        let said = |logs| all(std::slice::from_ref(&here), &[], &logs).concat();
        assert!(said(there(&["b1"])).contains("nix-store --read-log"));
        assert!(!said(there(&[LOCAL])).contains("nix-store --read-log"));
    }

    #[test]
    fn a_log_is_looked_for_where_it_is() {
        let said = |logs| all(&[failure("a-1", FailureCause::Build, "no")], &[], &logs).concat();
        let read = format!("for all of its log: nix-store --read-log /nix/store/{PATH}");
        assert!(said(Logs::Here).ends_with(&read), "{}", said(Logs::Here));
        assert!(said(there(&["b2"])).ends_with(&format!("{read} on b1")));
        assert!(!said(there(&["b1"])).contains("read-log"), "{}", said(there(&["b1"])));
    }

    #[test]
    fn what_failed_alike_is_told_once() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        let reasons = "no machine could build it\nb1: it lacks kvm";
        let of = |name: &&str| failure(name, FailureCause::NoMachine, reasons);
        let failures: Vec<_> = names.iter().map(of).collect();
        let said = all(&failures[..2], &[], &Logs::Here);
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("no machine could build a and b\n       b1: it"), "{said:?}");
        let said = all(&failures, &[], &Logs::Here);
        assert_eq!(said.len(), 1);
        let first = "no machine could build a, b, c, d, e, f, g, h and 2 more\n";
        assert!(said[0].starts_with(first), "{said:?}");
        assert_eq!(said[0].matches("it lacks kvm").count(), 1);
        let other = failure("k", FailureCause::NoMachine, "no machine could build it\nb1: down");
        assert_eq!(all(&[failures[0].clone(), other], &[], &Logs::Here).len(), 2);
    }

    #[test]
    fn a_target_that_fell_to_a_dependency_is_named() {
        let message = "it depends on 'x-a-1.drv', which was not built";
        let target = failure("top", FailureCause::Dependency, message);
        let targets = [target.clone(), target];
        let said = all(&[failure("a-1", FailureCause::Build, "no")], &targets, &Logs::Here);
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(said[1], format!("cannot build top: {message}"));
    }

    #[test]
    fn a_failed_build() {
        let message = "builder for 'x' failed with exit code 1;\n       last 1 log lines:\n       > oops\n       For full logs, run 'nix log x'.";
        let expected = format!(
            "build of a-1 failed on b1\n       builder for 'x' failed with exit code 1\n       last 1 line of its log:\n       > oops\n       for all of its log: nix-store --read-log /nix/store/{PATH} on b1"
        );
        assert_eq!(explained(FailureCause::Build, message, &["oops"]), Some(expected));
    }

    #[test]
    fn a_failed_build_of_todays_nix() {
        let message = "Cannot build 'x'.\nReason: builder failed with exit code 3.\nOutput paths:\n  /nix/store/y";
        let said = explained(FailureCause::Build, message, &[]).unwrap();
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
        let said = explained(FailureCause::HashMismatch, message, &[]).unwrap();
        assert!(said.contains("specified: sha256-a\n") && said.contains("got:    sha256-b\n"));
    }

    #[test]
    fn no_machine_has_all_reasons() {
        let reasons = "no machine could build it\nb1: down\nb2: lacks kvm";
        let said = explained(FailureCause::NoMachine, reasons, &[]).unwrap();
        assert!(said.starts_with(
            "no machine could build a-1\n       b1: down\n       b2: lacks kvm\n       /m:3: no\n"
        ));
    }

    /// Nix's own words in it don't count as all that is to be said.
    #[test]
    fn each_machine_is_named_with_what_it_said() {
        let reasons = "Cannot build 'x'.\nReason: missing system features\nAvailable features: {}\n\
                       no machine could build it\nb1: it lacks feature kvm\nb2: the job was tried there \
                       already: missing system features; Available features: {}";
        let said = explained(FailureCause::NoMachine, reasons, &[]).unwrap();
        let expected = "no machine could build a-1\n       b1: it lacks feature kvm\n       b2: the job was \
                        tried there already: missing system features; Available features: {}\n";
        assert!(said.starts_with(expected), "{said}");
    }

    #[rstest]
    #[case(FailureCause::Dependency)]
    #[case(FailureCause::Cancelled)]
    fn consequences(#[case] cause: FailureCause) {
        assert_eq!(explained(cause, "", &[]), None);
    }
}
