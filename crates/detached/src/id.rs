//! The names of detached builds.

use std::fmt;
use std::str::FromStr;

/// Characters of a name behind its first: 35 bits, so that a holder started anew gives none of an earlier
/// one's.
const LENGTH: usize = 7;
/// Those of Nix's base 32, of which none looks like another.
const DIGITS: [char; 32] = [
    '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'f', 'g', 'h', 'i', 'j',
    'k', 'l', 'm', 'n', 'p', 'q', 'r', 's', 'v', 'w', 'x', 'y', 'z',
];

/// The name of a detached build: `d` and seven random characters, so that it's no number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DetachedId(String);

impl DetachedId {
    /// Returns a new name; nothing where the system has no randomness to give.
    pub(crate) fn random() -> Option<DetachedId> {
        let mut bytes = [0; LENGTH];
        getrandom::fill(&mut bytes).ok()?;
        let digits = bytes.iter().filter_map(|byte| DIGITS.get(usize::from(byte % 32)));
        Some(DetachedId(std::iter::once(&'d').chain(digits).collect()))
    }
}

impl fmt::Display for DetachedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DetachedId {
    type Err = ();

    /// Takes what has the form of such a name.
    fn from_str(text: &str) -> Result<DetachedId, ()> {
        let digits = text.strip_prefix('d').ok_or(())?;
        let is_one = digits.len() == LENGTH && digits.chars().all(|digit| DIGITS.contains(&digit));
        is_one.then(|| DetachedId(text.to_owned())).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_and_no_number_is_one() {
        let id = DetachedId::random().unwrap();
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        assert_ne!(DetachedId::random().unwrap(), id);
        for other in ["12345678", "d", "d123456", "d12345678", "d123456e", "x.drv"] {
            assert_eq!(other.parse::<DetachedId>(), Err(()), "{other}");
        }
    }
}
