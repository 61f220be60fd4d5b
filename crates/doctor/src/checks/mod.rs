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

/// Returns the end of what somebody said, on one line and bounded. The `>` before each line of a log
/// isn't shown.
pub fn last_words(said: &str) -> String {
    let lines = said.lines().map(|line| line.trim().trim_start_matches('>').trim());
    let mut text = String::new();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with("debug")) {
        match text.chars().next_back() {
            None => {}
            // the line before says itself that something follows
            Some(':' | ';' | ',') => text.push(' '),
            Some(_) => text.push_str("; "),
        }
        text.push_str(line);
    }
    let skipped = text.chars().count().saturating_sub(SHOWN);
    let text: String = text.chars().skip(skipped).filter(|c| !c.is_control()).collect();
    text.trim_end_matches([';', ':', ',']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_lines_become_one() {
        let log = "builder failed with exit code 1;\nlast 2 log lines:\n> one\n>\n> two\nFor full logs, run:\n";
        assert_eq!(
            last_words(log),
            "builder failed with exit code 1; last 2 log lines: one; two; For full logs, run"
        );
        assert_eq!(last_words("debug1: x\n a \n\n b"), "a; b");
    }
}
