//! Finding and killing whatever outlived its command.
//!
//! Where there's a process namespace, the kernel does it: with its first process all others end, and
//! there's no way out. Where there's none, a user of the build's own can be told apart from others:
//! one `kill` as that user reaches all of its processes at once, even those being forked. Without
//! root, the supervisor is the one to whom orphans fall; it stops all of its descendants before it
//! kills any, so that none can fork meanwhile.

use std::fs;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::error::{At, Failure, Step};
use crate::identity;
use crate::plan::Ids;
use crate::sys::{self, Patience};

/// How often processes are looked for that keep coming.
const MOST_ROUNDS: u32 = 1_000;

/// Kills all processes of `count` users from `first` on. Takes root and one thread.
pub(crate) fn kill_users(first: Ids, count: u32) -> Result<(), Failure> {
    match count {
        0 => Ok(()),
        1 => match identity::acting_as(first.uid, sys::kill_all_others)? {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno).on(Step::KillLeftovers, &first.uid),
        },
        _ => kill_range(first, count),
    }
}

/// Kills processes by their user, one by one, until there are none.
fn kill_range(first: Ids, count: u32) -> Result<(), Failure> {
    let step = Step::KillLeftovers;
    let users = first.uid..first.uid.saturating_add(count);
    let is_ours = |pid: Pid| {
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
        status.is_ok_and(|status| has_user(&status, &users) && !is_zombie(&status))
    };
    for _ in 0..MOST_ROUNDS {
        if signal_where(&is_ours, Signal::KILL).at(step)? == 0 {
            return Ok(());
        }
    }
    Err(Errno::AGAIN).on(step, &first.uid)
}

/// Kills all descendants of this process, which must be the one that orphans fall to, and collects
/// them.
pub(crate) fn kill_descendants() -> Result<(), Failure> {
    let step = Step::KillLeftovers;
    for _ in 0..MOST_ROUNDS {
        if let Children::None = collect_ended().at(step)? {
            return Ok(());
        }
        // Who is stopped doesn't fork: when all are, none is missed.
        for _ in 0..MOST_ROUNDS {
            let runs = |pid| is_descendant(pid, |state| !["T", "t"].contains(&state));
            if signal_where(&runs, Signal::STOP).at(step)? == 0 {
                break;
            }
        }
        signal_where(&|pid| is_descendant(pid, |_| true), Signal::KILL).at(step)?;
        // At least one of them is a child, and ends.
        match sys::wait_for(None, Patience::Wait) {
            Ok(_) | Err(Errno::CHILD) => {}
            Err(errno) => return Err(errno).at(step),
        }
    }
    Err(Errno::AGAIN).at(step)
}

/// Whether this process has children.
enum Children {
    Some,
    None,
}

/// Collects children that have ended.
fn collect_ended() -> Result<Children, Errno> {
    loop {
        match sys::wait_for(None, Patience::DontWait) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(Children::Some),
            Err(Errno::CHILD) => return Ok(Children::None),
            Err(errno) => return Err(errno),
        }
    }
}

/// Sends a signal to all processes of which `is_meant` holds, and returns to how many.
fn signal_where(is_meant: &dyn Fn(Pid) -> bool, signal: Signal) -> Result<usize, Errno> {
    let mut count = 0;
    for pid in all_processes()? {
        // Held first and looked at then: if its number has become another's, what is held has ended,
        // and the signal goes nowhere.
        let Ok(held) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if is_meant(pid) {
            count += 1;
            send(&held, signal)?;
        }
    }
    Ok(count)
}

/// Whether one of the user ids in `/proc/PID/status` is in the range.
fn has_user(status: &str, users: &std::ops::Range<u32>) -> bool {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let mut ids = ids.unwrap_or_default().split_whitespace().filter_map(|id| id.parse().ok());
    ids.any(|id| users.contains(&id))
}

fn is_zombie(status: &str) -> bool {
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_some_and(|state| state.trim_start().starts_with(['Z', 'X']))
}

fn all_processes() -> Result<Vec<Pid>, Errno> {
    let entries = fs::read_dir("/proc").map_err(errno_of)?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(numbers.filter_map(Pid::from_raw).collect())
}

/// How far the way up to an ancestor can be.
const MOST_GENERATIONS: usize = 10_000;

/// Whether a process lives, is in a state that counts, and comes from this one.
fn is_descendant(pid: Pid, counts: impl Fn(&str) -> bool) -> bool {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut at = pid.as_raw_nonzero().get();
    for generation in 0..MOST_GENERATIONS {
        let Ok(stat) = fs::read_to_string(format!("/proc/{at}/stat")) else { return false };
        let Some((state, parent)) = state_and_parent(&stat) else { return false };
        if generation == 0 && (["Z", "X"].contains(&state) || !counts(state)) {
            return false;
        }
        if parent == own {
            return true;
        }
        at = parent;
    }
    false
}

/// Returns what `/proc/PID/stat` says of a process.
fn state_and_parent(stat: &str) -> Option<(&str, i32)> {
    // The name in parentheses may have anything in it, parentheses too.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    Some((fields.next()?, fields.next()?.parse().ok()?))
}

/// Kills a process that is held.
pub(crate) fn kill(held: impl AsFd) -> Result<(), Errno> {
    send(held, Signal::KILL)
}

fn send(held: impl AsFd, signal: Signal) -> Result<(), Errno> {
    match rustix::process::pidfd_send_signal(held, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno),
    }
}

pub(crate) fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_found_whatever_the_name() {
        assert_eq!(state_and_parent("7 (a) b) S 3 7 7 0"), Some(("S", 3)));
        assert_eq!(state_and_parent("7 (sh) Z 3 7 7 0"), Some(("Z", 3)));
        assert_eq!(state_and_parent("7 (sh"), None);
    }

    #[test]
    fn any_of_the_four_user_ids_counts() {
        let status = "Name:\tsh\nState:\tS (sleeping)\nUid:\t0\t0\t30005\t0\n";
        assert!(has_user(status, &(30_000..30_010)));
        assert!(!has_user(status, &(30_006..30_010)));
        assert!(!is_zombie(status));
        assert!(is_zombie("State:\tZ (zombie)\n"));
    }
}
