//! How many may ask at once, in all and of one user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Connections at once; those who come then are told so.
const CONNECTIONS: usize = 64;
/// Those of one user.
pub(crate) const OF_ONE_USER: usize = 16;

/// Whose connections don't count among all.
const ROOT: u32 = 0;

/// The connections that there are, by user.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shares(Arc<Mutex<HashMap<u32, usize>>>);

/// A connection, until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Shares,
    uid: u32,
}

impl Shares {
    /// Counts one more connection of a user.
    ///
    /// # Errors
    ///
    /// There are too many already.
    pub(crate) fn take(&self, uid: u32) -> Result<Share, String> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // whoever may mend things always gets through
        let of_others = counts.iter().filter(|(uid, _)| **uid != ROOT).map(|(_, count)| count);
        if uid != ROOT && of_others.sum::<usize>() >= CONNECTIONS {
            return Err("too many ask at once; try again in a moment".to_owned());
        }
        let count = counts.entry(uid).or_default();
        if *count >= OF_ONE_USER {
            return Err(format!("user {uid} asks {OF_ONE_USER} things at once already"));
        }
        *count += 1;
        Ok(Share { shares: self.clone(), uid })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_leaves_room_for_others() {
        let shares = Shares::default();
        let mut held: Vec<Share> = (0..OF_ONE_USER).map(|_| shares.take(1).unwrap()).collect();
        assert!(shares.take(1).unwrap_err().contains("user 1 asks 16"));
        held.push(shares.take(2).unwrap());
        held.remove(0);
        held.push(shares.take(1).unwrap());
        assert!(shares.take(1).is_err());
    }

    #[test]
    fn there_is_a_bound_for_all_together() {
        let shares = Shares::default();
        let held: Vec<Share> = (0..64).map(|n| shares.take(1 + n / 8).unwrap()).collect();
        assert!(shares.take(100).unwrap_err().contains("too many ask at once"));
        assert!(shares.take(ROOT).is_ok());
        drop(held);
        assert!(shares.take(100).is_ok());
    }
}
