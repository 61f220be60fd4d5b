//! The lines of a machines file by which stock Nix hands its builds to drover.
//!
//! Nix starts the program of a line whose host is exactly `localhost` without SSH (`fakeSSH` in
//! `src/libstore/ssh.cc`), and speaks the worker protocol with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use drover_config::{Machine, Scheme, StoreReference};
use drover_daemon::Need;

/// What stands above our lines.
pub(super) const HEADER: &str = "# drover builds for this machine (drover hook install).\n";

/// What stands behind the program in a line of ours.
const WORDS: [&str; 2] = ["hook", "connect"];
/// Before the number of the machines that it stands for.
const GROUP: &str = "--group";

/// Builds that Nix hands over for each that can run: so that the next one is at hand when a slot
/// becomes free.
const AHEAD: u32 = 2;

/// Returns what the builds need that come by the line of a number, which is as it stands in the machines file
/// where it's known; nothing where no machine is behind it any more: Nix hands over whatever the line says.
pub(crate) fn need_of(machines: &[Machine], group: usize, line: Option<&Machine>) -> Option<Need> {
    let kind = match line {
        Some(line) => Kind::of(line).is_among(machines).then(|| Kind::of(line)),
        None => kinds(machines).into_iter().nth(group.checked_sub(1)?),
    }?;
    let system = kind.systems.first()?.clone();
    Some(Need { system, features: kind.mandatory_features.clone() })
}

/// Returns the number of the machines that a line of this module stands for.
pub(crate) fn group_of(store: &StoreReference) -> Option<usize> {
    let program = store.param("remote-program").filter(|_| is_own(store))?;
    let mut words = program.split_ascii_whitespace().skip_while(|word| *word != GROUP);
    words.nth(1)?.parse().ok()
}

/// Whether a machine is drover itself, by a line of this module.
pub(crate) fn is_own(store: &StoreReference) -> bool {
    let words = store.param("remote-program").unwrap_or_default();
    let mut words = words.split_ascii_whitespace().skip(1);
    *store.scheme() == Scheme::SshNg
        && store.is_without_ssh()
        && WORDS.iter().all(|word| words.next() == Some(word))
}

/// Returns the program that a line of this module starts.
pub(crate) fn program_of(store: &StoreReference) -> Option<PathBuf> {
    store.param("remote-program")?.split_ascii_whitespace().next().map(PathBuf::from)
}

/// Whether a line of a machines file leads to drover itself.
pub(super) fn is_own_line(line: &str) -> bool {
    let store = line.split_whitespace().next().unwrap_or_default();
    store.parse().is_ok_and(|store| is_own(&store))
}

/// Returns the lines that somebody has put beside ours.
pub(super) fn others(machines: &str) -> impl Iterator<Item = &str> {
    let is_other =
        |line: &&str| !is_own_line(line) && *line != HEADER.trim_end() && !line.trim().is_empty();
    machines.lines().filter(is_other)
}

/// What derivations must be like for machines to take them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind<'a> {
    systems: &'a BTreeSet<String>,
    supported_features: &'a BTreeSet<String>,
    mandatory_features: &'a BTreeSet<String>,
}

/// Returns a line for each kind of machines: those that take the same derivations share one, in the
/// order of the first of each. Nix fills lines in proportion to their speed, which is that of their slots:
/// a line that takes more than others would be full of builds that the others take, too.
pub(crate) fn lines(machines: &[Machine], program: &Path) -> Vec<String> {
    let mut slots: BTreeMap<Kind<'_>, u32> = BTreeMap::new();
    for machine in machines {
        let slots = slots.entry(Kind::of(machine)).or_default();
        *slots = slots.saturating_add(machine.max_jobs.saturating_mul(AHEAD));
    }
    let line = |(at, kind): (usize, Kind<'_>)| {
        let slots = slots.get(&kind).copied().unwrap_or_default();
        let group = at + 1;
        format!(
            "ssh-ng://localhost?remote-program={} {} - {slots} {slots} {} {}",
            in_query(&format!("{} {} {GROUP} {group}", program.display(), WORDS.join(" "))),
            listed(kind.systems),
            listed(kind.supported_features),
            listed(kind.mandatory_features),
        )
    };
    kinds(machines).into_iter().enumerate().map(line).collect()
}

fn kinds(machines: &[Machine]) -> Vec<Kind<'_>> {
    let mut kinds: Vec<Kind<'_>> = Vec::new();
    for kind in machines.iter().map(Kind::of) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

impl Kind<'_> {
    fn of(machine: &Machine) -> Kind<'_> {
        Kind {
            systems: &machine.systems,
            supported_features: &machine.supported_features,
            mandatory_features: &machine.mandatory_features,
        }
    }

    /// Whether some machine takes each derivation of this kind.
    fn is_among(&self, machines: &[Machine]) -> bool {
        let features = self.supported_features.union(self.mandatory_features).cloned().collect();
        let takes = |system: &String, machine: &Machine| {
            0 < machine.max_jobs
                && machine.supports_system(system)
                && machine.accepts_features(&features)
        };
        self.systems.iter().all(|system| machines.iter().any(|machine| takes(system, machine)))
    }
}

fn listed(words: &BTreeSet<String>) -> String {
    match words.is_empty() {
        true => "-".to_owned(),
        false => words.iter().map(String::as_str).collect::<Vec<_>>().join(","),
    }
}

/// Writes a value as it stands in the query of a URL, in a file where blanks, `#` and `;` mean
/// something.
fn in_query(text: &str) -> String {
    let mut written = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                written.push(char::from(byte));
            }
            _ => written.push_str(&format!("%{byte:02X}")),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use drover_config::{Builders, Origin, parse_machines};
    use rstest::rstest;

    use super::*;

    fn machines(text: &str) -> Vec<Machine> {
        let builders = Builders {
            text,
            origin: &Origin::Default,
            default_system: "x86_64-linux",
            dir: Path::new("/"),
        };
        parse_machines(&builders, &BTreeMap::<PathBuf, String>::new()).unwrap().machines
    }

    #[test]
    fn machines_that_are_alike_share_a_line() {
        let machines = machines(
            "ssh://a x86_64-linux - 4 1 kvm,big-parallel; ssh://c aarch64-linux - 2; \
             ssh-ng://b x86_64-linux /key 8 3 big-parallel,kvm; ssh://d x86_64-linux - 1 1 kvm kvm",
        );
        let own = "ssh-ng://localhost?remote-program=/opt/tools/drover%20hook%20connect";
        assert_eq!(
            lines(&machines, Path::new("/opt/tools/drover")),
            [
                format!("{own}%20--group%201 x86_64-linux - 24 24 big-parallel,kvm -"),
                format!("{own}%20--group%202 aarch64-linux - 4 4 - -"),
                format!("{own}%20--group%203 x86_64-linux - 2 2 kvm kvm"),
            ]
        );
    }

    #[test]
    fn a_line_is_read_back_as_meant() {
        let line = lines(&machines("ssh://a x86_64-linux - 4 1 kvm"), Path::new("/bin/drover"));
        let [read] = &machines(&line[0])[..] else { panic!("one machine") };
        assert!(is_own(&read.store_uri));
        assert_eq!(program_of(&read.store_uri).unwrap(), Path::new("/bin/drover"));
        assert_eq!(read.max_jobs, 8);
        assert_eq!(read.supported_features, ["kvm".to_owned()].into());
    }

    /// Nix goes on to hand over what a line says when its machines have gone.
    #[test]
    fn a_line_that_is_out_of_date_has_nobody_behind_it() {
        let before =
            "ssh://b1 x86_64-linux - 2; ssh://b2 x86_64-linux,i686-linux - 2 1 benchmark,kvm";
        let written = lines(&machines(before), Path::new("/bin/drover"));
        let line = |group: usize| machines(&written[group - 1]).remove(0);
        assert_eq!(group_of(&line(2).store_uri), Some(2));
        let needed = |now: &str, group| need_of(&machines(now), group, Some(&line(group)));
        assert_eq!(needed(before, 2).unwrap().system, "i686-linux");
        for now in [
            "",
            "ssh://b1 x86_64-linux - 2",
            "ssh://b1; ssh://b2 x86_64-linux,i686-linux - 2 1 kvm",
            "ssh://b1; ssh://b2 x86_64-linux - 2 1 benchmark,kvm",
            "ssh://b1; ssh://b2 x86_64-linux,i686-linux - 0 1 benchmark,kvm",
        ] {
            assert_eq!(needed(now, 2), None, "{now}");
        }
        // in another order, and one that can do more
        let now =
            "ssh://b3 x86_64-linux,i686-linux - 2 1 benchmark,kvm,big; ssh://b1 x86_64-linux - 2";
        assert!(needed(now, 2).is_some() && needed(now, 1).is_some());
        // of one that is typed only its number is known
        assert_eq!(need_of(&machines("ssh://b1"), 2, None), None);
        assert!(need_of(&machines("ssh://b1"), 1, None).is_some());
    }

    #[test]
    fn blank_lines_are_no_others() {
        let ours = &lines(&machines("ssh://a"), Path::new("/bin/drover"))[0];
        let text = format!("{HEADER}{ours}\n\n  \n# mine\nssh://c # new\n");
        assert_eq!(others(&text).collect::<Vec<_>>(), ["# mine", "ssh://c # new"]);
    }

    #[rstest]
    #[case::by_ssh("ssh-ng://other?remote-program=/bin/drover%20hook%20connect")]
    #[case::serve("ssh://localhost?remote-program=/bin/drover%20hook%20connect")]
    #[case::other_program("ssh-ng://localhost?remote-program=/bin/shim")]
    #[case::none("ssh-ng://localhost")]
    fn others_are_not_ours(#[case] uri: &str) {
        assert!(!is_own(&uri.parse().unwrap()));
    }
}
