//! Nothing is printed before the protocol.

use crate::route::Target;
use crate::step::Verdict;

/// Bytes of what is printed that are shown.
const SHOWN: usize = 200;

/// Whether the protocol was spoken all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// It was.
    Yes,
    /// It wasn't.
    No,
}

/// Judges what a command that prints nothing has printed.
pub fn judge(printed: &[u8], spoken: Spoken, target: &Target) -> Verdict {
    if printed.is_empty() {
        return Verdict::good("nothing is printed before the protocol");
    }
    let shown: Vec<u8> = printed.iter().copied().take(SHOWN).collect();
    let shown = shown.escape_ascii();
    let remedy = format!(
        "{} | head shows it; whatever prints it (/etc/profile, ~/.bashrc, a banner) must write to standard \
         error, or ask [ -t 1 ] first",
        target.ssh("true")
    );
    match spoken {
        Spoken::Yes => Verdict::odd(format!("commands there print \"{shown}\" first"), remedy),
        Spoken::No => Verdict::wrong(format!("\"{shown}\" is printed before the protocol"), remedy),
    }
}
