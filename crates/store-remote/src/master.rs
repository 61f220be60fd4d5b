//! One SSH connection, and the places for sessions on it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::process::Child;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Sessions over one master, as long as there can be others.
const SESSIONS: usize = 8;

/// Sessions that a server takes on one connection by default (`MaxSessions`).
const USUAL: usize = 10;

/// What a session is for, and so how it gets its place where there are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Builds: others that are built meanwhile are waited for, and a place is left to all else.
    Build,
    /// What builds wait for, too, and what ends soon.
    Other,
    /// Nothing yet. It isn't waited for.
    Ahead,
}

/// Whether another master can be opened where one is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Another,
    NoOther,
}

/// One connection with its control socket.
pub(crate) struct Master {
    pub(crate) socket: PathBuf,
    places: Mutex<Places>,
    child: Mutex<Child>,
    freed: Arc<Notify>,
    _stderr: JoinSet<()>,
}

/// The places of a master.
pub(crate) struct Places {
    pub(crate) used: usize,
    /// Sessions that the server takes on this connection, as far as is known.
    pub(crate) most: usize,
}

/// A session's place on its master.
pub(crate) struct SessionSlot {
    master: Arc<Master>,
    given_back: GivenBack,
}

/// Why a place is given back.
enum GivenBack {
    /// The session has ended.
    Over,
    /// The server has refused it.
    Refused,
}

impl SessionSlot {
    pub(crate) fn master(&self) -> &Master {
        &self.master
    }

    /// Gives the place back, as the server has refused a session for it.
    pub(crate) fn refused(mut self) {
        self.given_back = GivenBack::Refused;
    }
}

impl Drop for SessionSlot {
    fn drop(&mut self) {
        let mut places = self.master.places();
        places.used -= 1;
        // in the same step, so that of two that are refused at once neither counts the other
        if matches!(self.given_back, GivenBack::Refused) {
            places.most = places.most.min(places.used);
        }
        drop(places);
        self.master.freed.notify_waiters();
    }
}

impl Master {
    /// Returns a master of which nobody has a place, and which tells of places that are given back.
    pub(crate) fn new(
        socket: PathBuf,
        child: Child,
        stderr: JoinSet<()>,
        (most, freed): (usize, Arc<Notify>),
    ) -> Arc<Master> {
        let (places, child) = (Mutex::new(Places { used: 0, most }), Mutex::new(child));
        Arc::new(Master { socket, places, child, freed, _stderr: stderr })
    }

    pub(crate) fn is_alive(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(child.try_wait(), Ok(None))
    }

    /// Takes a place, if there is one.
    pub(crate) fn take(self: &Arc<Self>, need: Need, choice: Choice) -> Option<SessionSlot> {
        let mut places = self.places();
        let most = match (choice, need) {
            (Choice::Another, _) => places.most.min(SESSIONS),
            (Choice::NoOther, Need::Other) => places.most,
            (Choice::NoOther, Need::Build | Need::Ahead) => {
                places.most.saturating_sub(1).clamp(1, SESSIONS)
            }
        };
        if places.used >= most {
            return None;
        }
        Some(self.place(&mut places))
    }

    /// Takes a place, whatever is known of their number.
    pub(crate) fn first(self: &Arc<Self>) -> SessionSlot {
        self.place(&mut self.places())
    }

    fn place(self: &Arc<Self>, places: &mut Places) -> SessionSlot {
        places.used += 1;
        SessionSlot { master: Arc::clone(self), given_back: GivenBack::Over }
    }

    pub(crate) fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn end(&self) {
        self.child.lock().expect("not poisoned").start_kill().expect("a signal");
    }
}

/// Returns how many sessions another connection will take: what a server refuses on one it refuses on all.
pub(crate) fn most_known(masters: &[Arc<Master>]) -> usize {
    masters.iter().map(|master| master.places().most).min().unwrap_or(USUAL).max(1)
}

#[cfg(test)]
mod tests {
    use tokio::process::Command;

    use super::*;

    fn master(most: usize) -> Arc<Master> {
        let child = Command::new("sleep").arg("1000").kill_on_drop(true).spawn().expect("sleep");
        Master::new(PathBuf::new(), child, JoinSet::new(), (most, Arc::default()))
    }

    fn taken(master: &Arc<Master>, need: Need, choice: Choice) -> Vec<SessionSlot> {
        std::iter::from_fn(|| master.take(need, choice)).collect()
    }

    #[tokio::test]
    async fn a_server_that_takes_fewer_is_believed() {
        let master = master(USUAL);
        let mut slots = taken(&master, Need::Other, Choice::Another);
        slots.truncate(3);
        slots.drain(2..).for_each(SessionSlot::refused);
        assert!(master.take(Need::Other, Choice::Another).is_none(), "two fit");
        drop(slots);
        assert_eq!(taken(&master, Need::Other, Choice::Another).len(), 2);
        assert_eq!(most_known(&[master]), 2, "on another, too");
    }

    #[tokio::test]
    async fn of_many_that_are_refused_at_once_each_counts() {
        let master = master(USUAL);
        for _ in 0..500 {
            *master.places() = Places { used: 0, most: SESSIONS };
            let mut slots = taken(&master, Need::Other, Choice::Another);
            assert_eq!(slots.len(), SESSIONS);
            let start = std::sync::Barrier::new(SESSIONS - 2);
            std::thread::scope(|scope| {
                for slot in slots.drain(2..) {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        slot.refused();
                    });
                }
            });
            assert!(master.take(Need::Other, Choice::Another).is_none(), "two fit");
        }
    }

    /// Builds wait for what they need: it must find a place where they can't have another.
    #[tokio::test]
    async fn builds_leave_places_to_what_they_wait_for() {
        for (most, builds) in [(USUAL, 8), (4, 3), (2, 1)] {
            let master = master(most);
            let slots = taken(&master, Need::Build, Choice::NoOther);
            assert_eq!(slots.len(), builds, "of {most}");
            let others = taken(&master, Need::Other, Choice::NoOther);
            assert_eq!(others.len(), most - builds, "of {most}");
        }
    }
}
