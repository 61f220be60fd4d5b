//! What several daemons for hooks say to one question, each of builds and machines of its own.
//!
//! Each numbers its builds by itself. So where there are several, a build is named by its daemon, too: `3f:7` is
//! build 7 of the daemon whose name begins with `3f`.

use std::collections::{BTreeMap, BTreeSet};

use drover_control::{Answer, ControlError, Request};

use crate::hook::Daemon;
use crate::machine_names;

/// Letters of a daemon's name that stand before a build's number, at least.
const FEWEST: usize = 2;

/// What a daemon has answered.
pub(super) struct Said {
    pub(super) daemon: Daemon,
    pub(super) answer: Result<Answer, ControlError>,
}

impl Said {
    /// Whether it doesn't know, doesn't want or doesn't answer: what one of them can't do another one may.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.answer, Err(_) | Ok(Answer::Refused(_)))
    }
}

/// Returns whom a question is for, and what they are asked: all of them, unless it names a daemon's build.
pub(super) fn meant(request: &Request, daemons: Vec<Daemon>) -> (Request, Vec<Daemon>) {
    let of_one = |build: &str| {
        let (begin, build) = build.split_once(':')?;
        let is_one = |daemon: &&Daemon| !begin.is_empty() && daemon.name.starts_with(begin);
        let named: Vec<Daemon> = daemons.iter().filter(is_one).cloned().collect();
        (!named.is_empty()).then(|| (build.to_owned(), named))
    };
    let found = match request {
        Request::Explain { build } => {
            of_one(build).map(|(build, named)| (Request::Explain { build }, named))
        }
        Request::Log { build } => {
            of_one(build).map(|(build, named)| (Request::Log { build }, named))
        }
        _ => None,
    };
    found.unwrap_or_else(|| (request.clone(), daemons))
}

/// Puts together what daemons say; one that can is enough.
pub(super) fn together(request: &Request, said: Vec<Said>) -> Result<Answer, ControlError> {
    let length = length_of_names(&said);
    let (refused, mut given): (Vec<_>, Vec<_>) = said.into_iter().partition(Said::is_refusal);
    if let (Some(build), true) = (build_of(request), 1 < given.len()) {
        let choices: Vec<String> = given.iter().map(|said| choice(said, build, length)).collect();
        return Err(ControlError::Ambiguous {
            build: build.to_owned(),
            choices: choices.join(", "),
        });
    }
    if let Some(length) = length {
        given.iter_mut().for_each(|said| name_builds(said, length));
        name_machines(&mut given, length);
    }
    let together = |all: Answer, one: Answer| match (all, one) {
        (Answer::Machines(mut all), Answer::Machines(one)) => {
            all.extend(one);
            Answer::Machines(all)
        }
        (Answer::Builds(mut all), Answer::Builds(one)) => {
            all.total += one.total;
            all.builds.extend(one.builds);
            all.detached.extend(one.detached);
            Answer::Builds(all)
        }
        (first, _) => first,
    };
    let given = given.into_iter().filter_map(|said| said.answer.ok()).reduce(together);
    let refused = || refused.into_iter().next().map(|said| said.answer);
    let nobody = || Err(ControlError::Refused { reason: "no daemon has answered".to_owned() });
    given.map(Ok).or_else(refused).unwrap_or_else(nobody)
}

/// Returns the answers to an order about a machine, without those of daemons that refuse it and say of themselves
/// that they have no such machine.
///
/// # Errors
///
/// None has it.
pub(super) fn concerned(
    said: Vec<(Said, Option<Vec<String>>)>,
    machine: &str,
) -> Result<Vec<Said>, ControlError> {
    let was_anybody_asked = !said.is_empty();
    let (mut concerned, mut others) = (Vec::new(), Vec::new());
    for (said, names) in said {
        match names {
            Some(names) if machine_names::meant(machine, &names).is_none() => others.extend(names),
            _ => concerned.push(said),
        }
    }
    match concerned.is_empty() && was_anybody_asked {
        true => Err(ControlError::Refused { reason: machine_names::stranger(machine, others) }),
        false => Ok(concerned),
    }
}

/// Returns what those say who haven't done what they were told, though they have such a machine.
pub(super) fn disobeyed(said: &[Said]) -> Vec<String> {
    let has_none = |reason: &str| reason.starts_with("there is no machine");
    let reason = |said: &Said| match &said.answer {
        Err(ControlError::Refused { reason }) | Ok(Answer::Refused(reason)) => {
            (!has_none(reason)).then(|| reason.clone())
        }
        Err(error) => Some(error.to_string()),
        Ok(_) => None,
    };
    let told = |said: &Said| {
        let daemon = said.daemon.questions.display();
        Some(format!("the daemon at '{daemon}' has not done it: {}", reason(said)?))
    };
    said.iter().filter_map(told).collect()
}

/// Returns how much of the daemons' names tells them apart, if there are several.
fn length_of_names(said: &[Said]) -> Option<usize> {
    let names: Vec<&str> = said.iter().map(|said| said.daemon.name.as_str()).collect();
    let longest = names.iter().map(|name| name.len()).max()?;
    let tells_apart = |length: &usize| {
        let mut begins: Vec<&str> =
            names.iter().map(|name| name.get(..*length).unwrap_or(name)).collect();
        begins.sort_unstable();
        begins.dedup();
        begins.len() == names.len()
    };
    let length = (FEWEST..longest).find(tells_apart).unwrap_or(longest);
    (1 < names.len()).then_some(length)
}

fn named(daemon: &Daemon, length: usize, build: &str) -> String {
    format!("{}:{build}", daemon.name.get(..length).unwrap_or(&daemon.name))
}

fn name_builds(said: &mut Said, length: usize) {
    let Said { daemon, answer } = said;
    match answer {
        Ok(Answer::Builds(list)) => {
            list.builds.iter_mut().for_each(|build| build.id = named(daemon, length, &build.id));
        }
        Ok(Answer::Explanation(explanation)) => {
            explanation.build.id = named(daemon, length, &explanation.build.id);
        }
        _ => {}
    }
}

/// Says of machines that several daemons have whose each is: each has its own list and counts for itself.
fn name_machines(given: &mut [Said], length: usize) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for said in &*given {
        let Ok(Answer::Machines(machines)) = &said.answer else { continue };
        let names: BTreeSet<&String> = machines.iter().map(|machine| &machine.name).collect();
        names.into_iter().for_each(|name| *counts.entry(name.clone()).or_default() += 1);
    }
    for Said { daemon, answer } in given {
        let Ok(Answer::Machines(machines)) = answer else { continue };
        let begin = daemon.name.get(..length).unwrap_or(&daemon.name);
        let shared = machines.iter_mut().filter(|machine| counts.get(&machine.name) > Some(&1));
        shared.for_each(|machine| machine.daemon = Some(begin.to_owned()));
    }
}

/// Returns the build that is asked about, if a single one is.
fn build_of(request: &Request) -> Option<&str> {
    match request {
        Request::Explain { build } | Request::Log { build } => Some(build),
        _ => None,
    }
}

/// Returns by what a daemon's build is named alone.
fn choice(said: &Said, build: &str, length: Option<usize>) -> String {
    let build = match &said.answer {
        Ok(Answer::Explanation(explanation)) => &explanation.build.id,
        Ok(Answer::Log(log)) => &log.build.id,
        _ => build,
    };
    named(&said.daemon, length.unwrap_or(FEWEST), build)
}

#[cfg(test)]
mod tests {
    use drover_control::{BuildExplanation, BuildList, BuildReport, MachineReport};

    use super::*;

    fn daemon(name: &str) -> Daemon {
        Daemon { questions: format!("/run/{name}").into(), name: name.to_owned() }
    }

    fn said(name: &str, answer: Result<Answer, ControlError>) -> Said {
        Said { daemon: daemon(name), answer }
    }

    fn report(id: &str) -> BuildReport {
        BuildReport { id: id.to_owned(), ..BuildReport::default() }
    }

    fn builds(id: &str) -> Result<Answer, ControlError> {
        Ok(Answer::Builds(BuildList { builds: vec![report(id)], total: 3, ..BuildList::default() }))
    }

    fn explained(id: &str) -> Result<Answer, ControlError> {
        let build = report(id);
        Ok(Answer::Explanation(BuildExplanation { build, ..BuildExplanation::default() }))
    }

    fn refused(reason: &str) -> Result<Answer, ControlError> {
        Err(ControlError::Refused { reason: reason.to_owned() })
    }

    fn ids(said: Vec<Said>) -> (Vec<String>, usize) {
        let Ok(Answer::Builds(list)) = together(&Request::Builds, said) else { panic!("builds") };
        (list.builds.into_iter().map(|build| build.id).collect(), list.total)
    }

    fn explain(build: &str) -> Request {
        Request::Explain { build: build.to_owned() }
    }

    /// Daemons for hooks that differ are asked all of them.
    #[test]
    fn answers_of_several_daemons_are_put_together() {
        let both = vec![said("a1b2", builds("1")), said("3f00", builds("1"))];
        assert_eq!(ids(both), (vec!["a1:1".to_owned(), "3f:1".to_owned()], 6));
        let alike = vec![said("a1b2", builds("1")), said("a1bf", builds("2"))];
        assert_eq!(ids(alike).0, ["a1b2:1", "a1bf:2"]);
        assert_eq!(ids(vec![said("a1b2", builds("1"))]).0, ["1"], "one needs no name");
        let machine = |name: &str| MachineReport { name: name.to_owned(), ..Default::default() };
        let machines =
            |names: &[&str]| Ok(Answer::Machines(names.iter().map(|name| machine(name)).collect()));
        let machines = vec![said("a1", machines(&["b1", "b2"])), said("3f", machines(&["b1"]))];
        let Ok(Answer::Machines(machines)) = together(&Request::Machines, machines) else {
            panic!("machines")
        };
        let whose: Vec<_> =
            machines.iter().map(|machine| (&*machine.name, machine.daemon.as_deref())).collect();
        assert_eq!(whose, [("b1", Some("a1")), ("b2", None), ("b1", Some("3f"))]);
    }

    #[test]
    fn a_number_that_several_have_is_none() {
        let both = vec![said("a1b2", explained("7")), said("3f00", explained("7"))];
        let Err(ControlError::Ambiguous { choices, .. }) = together(&explain("7"), both) else {
            panic!("both know it")
        };
        assert_eq!(choices, "a1:7, 3f:7");
        let one = vec![said("a1b2", explained("7")), said("3f00", refused("no build 7"))];
        let Ok(Answer::Explanation(told)) = together(&explain("7"), one) else {
            panic!("one knows it")
        };
        assert_eq!(told.build.id, "a1:7");
    }

    #[test]
    fn the_daemon_that_is_named_is_asked() {
        let daemons = vec![daemon("a1b2"), daemon("3f00")];
        let asked = |build: &str| meant(&explain(build), daemons.clone());
        assert_eq!(asked("3f:7"), (explain("7"), vec![daemon("3f00")]));
        for all in ["7", "c0:7", ":7", "/nix/store/x.drv"] {
            assert_eq!(asked(all), (explain(all), daemons.clone()));
        }
    }

    /// What one of them doesn't know another one may.
    #[test]
    fn one_that_can_is_enough() {
        let drain = Request::Drain { machine: "b1".to_owned() };
        let none = || refused("there is no machine 'b1'; there are b2");
        let done = vec![said("a1", none()), said("3f", Ok(Answer::Done))];
        assert_eq!(disobeyed(&done), [""; 0]);
        assert!(matches!(together(&drain, done), Ok(Answer::Done)));
        let neither = together(&drain, vec![said("a1", refused("a")), said("3f", refused("b"))]);
        assert!(matches!(neither, Err(ControlError::Refused { reason }) if reason == "a"));
    }

    /// Who mistypes a name isn't to believe that the machine drains.
    #[test]
    fn a_machine_that_no_daemon_has_is_refused() {
        let stranger = |names: &[&str]| {
            let names = names.iter().map(|&name| name.to_owned()).collect();
            (said("a1", refused("there is no such machine")), Some(names))
        };
        let none = concerned(vec![stranger(&["b2"]), stranger(&["b1", "b2"])], "nosuch");
        let Err(ControlError::Refused { reason }) = none else { panic!("nobody has it") };
        assert_eq!(reason, "there is no machine 'nosuch'; there are: b1, b2");
        let done = || (said("3f", Ok(Answer::Done)), None);
        assert_eq!(concerned(vec![stranger(&["b2"]), done()], "b1").unwrap().len(), 1);
        // one that has it has another reason, also where it's called by its address
        assert_eq!(concerned(vec![stranger(&["b1"])], "ssh-ng://b1").unwrap().len(), 1);
        assert_eq!(concerned(Vec::new(), "b1").unwrap().len(), 0);
        let nobody = together(&Request::Drain { machine: "b1".to_owned() }, Vec::new());
        assert!(nobody.is_err());
    }

    #[test]
    fn who_does_not_obey_is_told() {
        let some = [
            said("a1", Ok(Answer::Done)),
            said("3f", refused("user 'ann' may only ask")),
            said("c0", Ok(Answer::Refused("it's stopping".to_owned()))),
        ];
        let expected = [
            "the daemon at '/run/3f' has not done it: user 'ann' may only ask",
            "the daemon at '/run/c0' has not done it: it's stopping",
        ];
        assert_eq!(disobeyed(&some), expected);
    }
}
