//! Who the clients are, as far as slots are shared out among them: two connections of one user count as
//! one.

use std::collections::HashMap;

use drover_schedule::OwnerId;

/// Names that are told apart; those that come when there are so many share one place.
const MOST: usize = 256;

/// The numbers of those who have had something built.
#[derive(Default)]
pub(crate) struct Owners(HashMap<String, OwnerId>);

impl Owners {
    /// Returns the number of a client by its name; those without one are all alike.
    pub(crate) fn of(&mut self, name: Option<&str>) -> OwnerId {
        let Some(name) = name else { return OwnerId(0) };
        if let Some(known) = self.0.get(name) {
            return *known;
        }
        let next = u32::try_from(self.0.len() + 1).unwrap_or(u32::MAX);
        if MOST <= self.0.len() {
            return OwnerId(next);
        }
        self.0.insert(name.to_owned(), OwnerId(next));
        OwnerId(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_names_are_told_apart() {
        let mut owners = Owners::default();
        let alice = owners.of(Some("alice"));
        assert_ne!(owners.of(None), alice);
        assert_ne!(owners.of(Some("bob")), alice);
        assert_eq!(owners.of(Some("alice")), alice);
        let many: std::collections::BTreeSet<OwnerId> =
            (0..2 * MOST).map(|number| owners.of(Some(&number.to_string()))).collect();
        assert!(many.len() <= MOST + 1);
        assert_eq!(owners.of(Some("alice")), alice);
    }
}
