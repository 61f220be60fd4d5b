//! The steps of the examination of a machine, one module each.

pub mod build;
pub mod clock;
pub mod disk;
pub mod host_key;
pub mod login;
pub mod name;
pub mod port;
pub mod program;
pub mod protocol;
pub mod quiet;
pub mod substituters;
pub mod system;
pub mod trust;

use std::time::Duration;

use crate::step::Verdict;

/// Bytes of somebody else's words that are shown.
const SHOWN: usize = 300;

/// Returns the verdict on a step that wasn't answered in time.
pub fn overdue(limit: Duration, target: &str) -> Verdict {
    Verdict::wrong(
        format!("no answer after {} s", limit.as_secs()),
        format!(
            "look at the load and the network of {target}; 'connect-timeout' sets how long is waited"
        ),
    )
}

/// Returns the end of what somebody said, on one line and bounded.
fn last_words(said: &str) -> String {
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("debug"))
        .collect();
    let text = lines.join("; ");
    let skipped = text.chars().count().saturating_sub(SHOWN);
    text.chars().skip(skipped).filter(|c| !c.is_control()).collect()
}
