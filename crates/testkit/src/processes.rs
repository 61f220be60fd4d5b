//! The process table as `/proc` shows it: who is inside which host, and who descends from whom.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// One live process. Zombies are not listed.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// Process id, as seen from outside of the hosts.
    pub(crate) pid: i32,
    /// Id of the parent.
    pub(crate) parent: i32,
    /// Name, at most 15 bytes.
    pub(crate) name: String,
}

impl Process {
    /// Returns the command line, words joined by spaces.
    pub(crate) fn command_line(&self) -> String {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned()
    }

    /// Returns the processor time that it and those of its children that have ended have used.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map(|(_, after)| after.split(' ').skip(11).take(4));
        let ticks: u64 = fields.into_iter().flatten().filter_map(|it| it.parse::<u64>().ok()).sum();
        // Every Linux has a hundred ticks a second here, whatever its kernel counts in.
        Duration::from_millis(ticks * 10)
    }

    fn read(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses and may hold any character, `)` included.
        let (before, after) = stat.rsplit_once(") ")?;
        let (_, name) = before.split_once(" (")?;
        let mut fields = after.split(' ');
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        (state != "Z" && state != "X").then(|| Process { pid, parent, name: name.to_owned() })
    }
}

/// Whether a process is there that neither stands still nor has ended.
pub(crate) fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, after)| after.chars().next());
    state.is_some_and(|state| !matches!(state, 'T' | 't' | 'Z' | 'X'))
}

/// Returns every live process of the machine.
pub(crate) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Process::read)
        .collect()
}

/// Returns the identity of the pid namespace of `pid`, if the process is there.
pub(crate) fn pid_namespace(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// Returns the processes in `namespace` and in namespaces below it.
pub(crate) fn inside(namespace: &PathBuf) -> Vec<Process> {
    with_descendants(|process| pid_namespace(process.pid).as_ref() == Some(namespace))
}

/// Returns the child processes of `parent` and all that descends from them.
pub(crate) fn below(parent: i32) -> Vec<Process> {
    with_descendants(|process| process.parent == parent)
}

/// Sends `signal` to `pid`; a process that is gone already is fine.
pub(crate) fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        kill_process(pid, signal).ok();
    }
}

fn with_descendants(is_first: impl Fn(&Process) -> bool) -> Vec<Process> {
    let everything = all();
    let mut chosen: BTreeSet<i32> =
        everything.iter().filter(|process| is_first(process)).map(|process| process.pid).collect();
    loop {
        let before = chosen.len();
        for process in &everything {
            if chosen.contains(&process.parent) {
                chosen.insert(process.pid);
            }
        }
        if chosen.len() == before {
            return everything.into_iter().filter(|p| chosen.contains(&p.pid)).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_processor_time() {
        let me = i32::try_from(std::process::id()).unwrap();
        let time = || Process::read(me).unwrap().processor_time();
        let before = time();
        while time() < before + Duration::from_millis(30) {
            std::hint::black_box((0..100_000u64).fold(0, u64::wrapping_add));
        }
        assert!(before < time());
    }

    #[test]
    fn a_child_is_below_its_parent() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(below(me).iter().any(|process| process.pid == pid));
        assert!(inside(&pid_namespace(me).unwrap()).iter().any(|process| process.pid == pid));
        assert!(is_running(pid));
        send(pid, Signal::STOP);
        while is_running(pid) {
            std::thread::yield_now();
        }
        send(pid, Signal::KILL);
        child.wait().unwrap();
        assert!(!below(me).iter().any(|process| process.pid == pid) && !is_running(pid));
    }
}
