//! What is told to people: first whether builds are distributed at all, then what nobody can build,
//! then the rest, put together by what the machines say.

use std::collections::BTreeMap;

use drover_core::plain_text;
use drover_forecast::{Answer, Availability, Candidate, Expected, Group};
use drover_schedule::{MachineKind, Preference};

use super::{Told, remedy};
use crate::units::count;

/// Derivations that are named of many.
const NAMED: usize = 5;

/// How many derivations are expected to be built where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) all: usize,
    /// On other machines.
    pub(super) elsewhere: usize,
    /// On this one.
    here: usize,
    /// Other machines that build something.
    machines: usize,
    /// Nowhere, as things are.
    pub(super) nowhere: usize,
    /// Nowhere before something is resumed.
    waiting: usize,
}

impl Counts {
    pub(super) fn of(told: &Told) -> Counts {
        let mut counts = Counts { all: told.forecast.jobs.len(), ..Counts::default() };
        let mut machines = std::collections::BTreeSet::new();
        for expected in &told.forecast.jobs {
            match expected {
                Expected::Runs { machine, .. } if is_local(&told.candidates, *machine) => {
                    counts.here += 1;
                }
                Expected::Runs { machine, .. } => {
                    counts.elsewhere += 1;
                    machines.insert(*machine);
                }
                Expected::Waits => counts.waiting += 1,
                Expected::Impossible | Expected::NoMachine | Expected::Blocked { .. } => {
                    counts.nowhere += 1;
                }
            }
        }
        counts.machines = machines.len();
        counts
    }
}

fn is_local(candidates: &[Candidate], machine: usize) -> bool {
    let candidate = candidates.get(machine);
    candidate.is_some_and(|candidate| candidate.description.kind == MachineKind::Local)
}

/// Which derivations are named where there are many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    All,
    Some,
}

/// Returns all that is told.
pub(super) fn told(told: &Told, naming: Naming) -> String {
    let counts = Counts::of(told);
    let mut text = headline(told, counts);
    for sentence in &told.unasked {
        text.push_str(&format!("\n  {}", plain_text(sentence)));
    }
    if counts.all == 0 {
        return text;
    }
    let (buildable, not): (Vec<&Group>, Vec<&Group>) =
        told.groups.iter().partition(|group| group.is_buildable());
    for group in not {
        push_group(&mut text, told, group, naming);
    }
    push_machines(&mut text, told);
    for group in buildable {
        push_group(&mut text, told, group, naming);
    }
    if let Some(ends) = told.forecast.ends() {
        let builds = (ends.as_secs_f64() / told.forecast.usual.as_secs_f64()).ceil();
        text.push_str(&format!(
            "\n\nif each build takes the same time, all is done in the time of {builds} of them"
        ));
    }
    text
}

/// Says whether builds are distributed, and if not why not.
fn headline(told: &Told, counts: Counts) -> String {
    let fetched = match told.fetched {
        0 => String::new(),
        fetched => format!(" ({} would be fetched)", count(fetched, "path")),
    };
    if counts.all == 0 {
        return format!("nothing has to be built{fetched}");
    }
    let all = count(counts.all, "derivation");
    let machines = count(counts.machines, "other machine");
    let parts = [
        (counts.elsewhere, format!("would be built on {machines}")),
        (counts.here, "on this one".to_owned()),
        (counts.waiting, "would wait for a machine that drains".to_owned()),
        (counts.nowhere, "can't be built anywhere".to_owned()),
    ];
    let parts = parts.into_iter().filter(|(number, _)| *number != 0).enumerate();
    let parts: Vec<String> = parts
        .map(|(at, (number, fate))| match at {
            0 => format!("{number} of {all} {fate}"),
            _ => format!("{number} {fate}"),
        })
        .collect();
    let answer = match counts.elsewhere {
        0 => "distributing: no",
        _ => "distributing: yes",
    };
    let mut text = format!("{answer}: {}{fetched}", parts.join(", "));
    if counts.elsewhere == 0 {
        text.push_str(&format!("\n  {}", why_not(told)));
    }
    text
}

/// Says why nothing goes to other machines.
fn why_not(told: &Told) -> String {
    let others: Vec<&Candidate> = told
        .candidates
        .iter()
        .filter(|candidate| candidate.description.kind == MachineKind::Remote)
        .collect();
    if others.is_empty() {
        let reasons: Vec<&str> = told.absent.iter().map(String::as_str).collect();
        let reasons = match reasons.is_empty() {
            true => String::new(),
            false => format!(" ({})", reasons.join("; ")),
        };
        return format!(
            "no other machine is configured{reasons}; add one to /etc/nix/machines, to 'builders' \
             in nix.conf, or with --builders"
        );
    }
    let is_unusable =
        |candidate: &&&Candidate| matches!(candidate.availability, Availability::Unusable(_));
    if others.iter().filter(is_unusable).count() == others.len() {
        return match others.len() {
            1 => "the one other machine can't be used".to_owned(),
            many => format!("none of the {many} other machines can be used"),
        };
    }
    if told.groups.iter().all(|group| group.preference == Preference::PreferLocal) {
        return "all of it prefers this machine (preferLocalBuild)".to_owned();
    }
    let takes = told.groups.iter().any(|group| {
        let answers = group.answers.iter().enumerate();
        let mut others = answers.filter(|(at, _)| !is_local(&told.candidates, *at));
        others.any(|(_, answer)| answer.is_acceptance())
    });
    match takes {
        true => {
            "other machines would take it, but it is estimated to be done first here".to_owned()
        }
        false => "no other machine that can be used takes it".to_owned(),
    }
}

fn push_machines(text: &mut String, told: &Told) {
    if told.candidates.is_empty() && told.absent.is_empty() {
        return;
    }
    text.push_str("\n\nmachines:");
    for candidate in &told.candidates {
        let description = &candidate.description;
        let slots = description.all_slots();
        let state = match &candidate.availability {
            Availability::Usable { busy: 0 } => format!("{} free", count(slots as usize, "slot")),
            Availability::Usable { busy } => {
                format!("{busy} of {} taken", count(slots as usize, "slot"))
            }
            Availability::Unusable(why) => plain_text(&why.to_string()).replace('\n', " "),
        };
        text.push_str(&format!("\n  {}: {state}", called(candidate)));
    }
    for reason in &told.absent {
        text.push_str(&format!("\n  ({reason})"));
    }
}

fn called(candidate: &Candidate) -> String {
    match candidate.description.kind {
        MachineKind::Local => format!("{} (this machine)", candidate.description.name),
        MachineKind::Remote => candidate.description.name.clone(),
    }
}

fn push_group(text: &mut String, told: &Told, group: &Group, naming: Naming) {
    let features: Vec<&str> = group.features.iter().map(String::as_str).collect();
    let features = match features.is_empty() {
        true => String::new(),
        false => format!(" with {}", features.join(", ")),
    };
    let derivations = count(group.jobs.len(), "derivation");
    let what = format!("{derivations} for {}{features}", group.system);
    text.push_str(&match group.is_buildable() {
        true => format!("\n\n{what}:"),
        false => format!("\n\nerror: {what} can't be built anywhere:"),
    });
    push_names(text, told, group, naming);
    for (answer, machines) in by_answer(told, group) {
        text.push_str(&format!("\n  {}: {answer}", machines.join(", ")));
    }
    if group.answers.is_empty() {
        text.push_str("\n  there is no machine at all");
    }
    if group.preference == Preference::PreferLocal {
        text.push_str("\n  prefers this machine where that has a free slot (preferLocalBuild)");
    }
    if group.blocked != 0 {
        let needs = if group.blocked == 1 { "needs" } else { "need" };
        let blocked = group.blocked;
        text.push_str(&format!("\n  {blocked} of them {needs} something that can't be built"));
    }
    if let Some(start) = start(told, group) {
        text.push_str(&format!("\n  {start}"));
    }
    for remedy in remedy::of(group, &told.candidates, &told.idle_here) {
        text.push_str(&format!("\n  remedy: {remedy}"));
    }
}

fn push_names(text: &mut String, told: &Told, group: &Group, naming: Naming) {
    let shown = match naming {
        Naming::Some if NAMED + 1 < group.jobs.len() => NAMED,
        Naming::All | Naming::Some => group.jobs.len(),
    };
    for path in group.jobs.iter().take(shown).filter_map(|job| told.derivations.get(*job)) {
        text.push_str(&format!("\n    {path}"));
    }
    if let Some(more @ 1..) = group.jobs.len().checked_sub(shown) {
        text.push_str(&format!("\n    … and {more} more (all of them: -v)"));
    }
}

/// Returns what machines say, with those that say the same; those that take it first.
fn by_answer(told: &Told, group: &Group) -> Vec<(String, Vec<String>)> {
    let mut answers: BTreeMap<(bool, String), Vec<String>> = BTreeMap::new();
    for (at, (answer, candidate)) in group.answers.iter().zip(&told.candidates).enumerate() {
        let mut name = called(candidate);
        if let Some(runs) = group.runs.get(&at) {
            name.push_str(&format!(" (likely {runs})"));
        }
        let said = plain_text(&answer.to_string()).replace('\n', " ");
        let is_refusal = !matches!(answer, Answer::Accepts | Answer::AcceptsLater { .. });
        answers.entry((is_refusal, said)).or_default().push(name);
    }
    answers.into_iter().map(|((_, said), machines)| (said, machines)).collect()
}

/// Says when the first of a group is expected to begin.
fn start(told: &Told, group: &Group) -> Option<String> {
    let jobs = group.jobs.iter().filter_map(|job| told.forecast.jobs.get(*job));
    let begins = jobs.filter_map(|expected| match expected {
        Expected::Runs { begins, .. } => Some(*begins),
        _ => None,
    });
    let first = begins.min()?;
    let builds = first.as_secs_f64() / told.forecast.usual.as_secs_f64();
    Some(match first.is_zero() {
        true => "the first can start at once".to_owned(),
        false => format!("the first can start when about {:.0} in a row are done", builds.ceil()),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use drover_forecast::{Unusable, forecast, groups};
    use drover_schedule::{Bandwidth, Job, JobId, Machine, Settings};

    use super::*;

    fn words(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn candidate(name: &str, kind: MachineKind, availability: Availability) -> Candidate {
        let description = Machine {
            name: name.to_owned(),
            kind,
            systems: words(&["x86_64-linux"]),
            slots: 2,
            speed_factor: 1.0,
            supported_features: words(&["kvm"]),
            mandatory_features: words(&[]),
            round_trip: Duration::ZERO,
            bandwidth: Bandwidth(0),
            other_terms: Vec::new(),
        };
        Candidate { description, availability }
    }

    fn job(features: &[&str], dependencies: &[u32]) -> Job {
        Job {
            system: "x86_64-linux".to_owned(),
            required_features: words(features),
            dependencies: dependencies.iter().copied().map(JobId).collect(),
            ..Job::default()
        }
    }

    fn told_of(candidates: Vec<Candidate>, jobs: &[Job]) -> Told {
        let forecast = forecast(&Settings::default(), &candidates, jobs);
        Told {
            derivations: (0..jobs.len()).map(|number| format!("/nix/store/{number}.drv")).collect(),
            fetched: 0,
            groups: groups(jobs, &candidates, &forecast),
            candidates,
            forecast,
            absent: Vec::new(),
            unasked: Vec::new(),
            idle_here: BTreeSet::new(),
        }
    }

    #[test]
    fn what_matters_comes_first() {
        let usable = |busy| Availability::Usable { busy };
        let down = Unusable::Down { cause: "ssh:\n\x1b[1mNo route to host".to_owned() };
        let candidates = vec![
            candidate("local", MachineKind::Local, usable(0)),
            candidate("big", MachineKind::Remote, usable(2)),
            candidate("arm", MachineKind::Remote, Availability::Unusable(down)),
        ];
        let mut jobs = vec![job(&["cuda"], &[]), job(&[], &[0])];
        jobs.extend((0..7).map(|_| job(&[], &[])));
        jobs.push(Job { preference: Preference::PreferLocal, ..job(&["kvm"], &[]) });
        let told = told_of(candidates, &jobs);
        let expected = "\
distributing: yes: 2 of 10 derivations would be built on 1 other machine, 6 on this one, 2 can't be built anywhere

error: 1 derivation for x86_64-linux with cuda can't be built anywhere:
    /nix/store/0.drv
  local (this machine), big, arm: declined: it lacks feature cuda
  remedy: if this machine can do that, set 'extra-system-features = cuda' in its nix.conf
  remedy: if big can do that, add cuda to its supported features: the 6th column of its line in the machines file, supportedFeatures in nix.buildMachines
  remedy: if arm can do that, add cuda to its supported features: the 6th column of its line in the machines file, supportedFeatures in nix.buildMachines

machines:
  local (this machine): 2 slots free
  big: 2 of 2 slots taken
  arm: it is down (ssh: No route to host)

8 derivations for x86_64-linux:
    /nix/store/1.drv
    /nix/store/2.drv
    /nix/store/3.drv
    /nix/store/4.drv
    /nix/store/5.drv
    … and 3 more (all of them: -v)
  local (this machine) (likely 5): accepted
  big (likely 2): accepted, but its slots are full (2/2)
  arm: not used: it is down (ssh: No route to host)
  1 of them needs something that can't be built
  the first can start at once

1 derivation for x86_64-linux with kvm:
    /nix/store/9.drv
  local (this machine) (likely 1): accepted
  big: accepted, but its slots are full (2/2)
  arm: not used: it is down (ssh: No route to host)
  prefers this machine where that has a free slot (preferLocalBuild)
  the first can start when about 2 in a row are done

if each build takes the same time, all is done in the time of 3 of them";
        assert_eq!(super::told(&told, Naming::Some), expected);
        assert!(super::told(&told, Naming::All).contains("\n    /nix/store/8.drv\n"));
    }

    #[test]
    fn says_why_nothing_is_distributed() {
        let usable = || Availability::Usable { busy: 0 };
        let down = || Availability::Unusable(Unusable::Down { cause: "gone".to_owned() });
        let local = || candidate("local", MachineKind::Local, usable());
        let remote = |availability| candidate("big", MachineKind::Remote, availability);
        let prefers = Job { preference: Preference::PreferLocal, ..job(&[], &[]) };
        let mut other = remote(usable());
        other.description.systems = words(&["aarch64-linux"]);
        let cases = [
            (vec![local()], job(&[], &[]), "no other machine is configured"),
            (vec![local(), remote(down())], job(&[], &[]), "the one other machine can't be used"),
            (vec![local(), remote(usable())], prefers, "all of it prefers this machine"),
            (vec![local(), other], job(&[], &[]), "no other machine that can be used takes it"),
        ];
        for (candidates, job, why) in cases {
            let said = super::told(&told_of(candidates, &[job]), Naming::Some);
            let mut lines = said.lines();
            assert_eq!(lines.next(), Some("distributing: no: 1 of 1 derivation on this one"));
            assert!(lines.next().unwrap().trim().starts_with(why), "{said}");
        }
        assert_eq!(
            super::told(&told_of(vec![local()], &[]), Naming::Some),
            "nothing has to be built"
        );
    }
}
