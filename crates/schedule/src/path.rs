//! Where paths are and what they weigh.
//!
//! Invariant: a path's places are sorted by machine, so that "is it there" is a binary search.

use crate::id::{ByteCount, JobId, MachineId};

/// What is known of one path.
#[derive(Debug, Default)]
pub(crate) struct PathRecord {
    pub(crate) size: Option<ByteCount>,
    /// Whether the caller's own store has it.
    pub(crate) here: Presence,
    /// The machines that have it or are getting it.
    pub(crate) places: Vec<(MachineId, Presence)>,
    /// The job that makes it.
    pub(crate) maker: Option<JobId>,
    /// Whether it ever was anywhere.
    pub(crate) seen: Seen,
}

/// Whether a path is somewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Presence {
    #[default]
    Absent,
    /// It is on its way; only true while the machine has not failed since (its epoch is this).
    Coming {
        epoch: u32,
    },
    Present,
}

/// Whether a path ever was anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Seen {
    #[default]
    Never,
    Once,
}

impl PathRecord {
    /// Returns whether `machine` has it.
    pub(crate) fn on(&self, machine: MachineId) -> Presence {
        match self.places.binary_search_by_key(&machine, |(place, _)| *place) {
            Ok(at) => self.places.get(at).map_or(Presence::Absent, |(_, presence)| *presence),
            Err(_) => Presence::Absent,
        }
    }

    /// Notes whether `machine` has it.
    pub(crate) fn set_on(&mut self, machine: MachineId, presence: Presence) {
        match (self.places.binary_search_by_key(&machine, |(place, _)| *place), presence) {
            (Ok(at), Presence::Absent) => drop(self.places.remove(at)),
            (Ok(at), presence) => {
                if let Some(place) = self.places.get_mut(at) {
                    place.1 = presence;
                }
            }
            (Err(_), Presence::Absent) => {}
            (Err(at), presence) => self.places.insert(at, (machine, presence)),
        }
    }
}
