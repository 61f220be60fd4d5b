//! The lines by which stock Nix hands its builds to drover.

use std::path::PathBuf;

use crate::finding::Finding;

/// Drover's own lines in a machines file, and what was found of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookLines {
    /// Where the first one is written.
    pub origin: String,
    /// The program that they start.
    pub program: PathBuf,
    /// Whether it's there.
    pub is_there: bool,
    /// Whether they say what the machines behind them are like.
    pub are_current: bool,
}

/// Says what is wrong with drover's own lines.
pub fn judge_hook(lines: &HookLines) -> Vec<Finding> {
    let mut findings = Vec::new();
    let remedy = "sudo drover hook install writes the lines anew (drover hook line prints them)";
    if !lines.is_there {
        findings.push(Finding::warning(
            &lines.origin,
            format!("'{}' is not there, which the line starts", lines.program.display()),
            remedy,
        ));
    }
    if !lines.are_current {
        findings.push(Finding::warning(
            &lines.origin,
            "the lines that lead to drover don't say what the machines behind them are like now: stock Nix \
             hands over only what they say",
            remedy,
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said() {
        let lines = |is_there, are_current| HookLines {
            origin: "/m:2".to_owned(),
            program: "/opt/drover".into(),
            is_there,
            are_current,
        };
        assert_eq!(judge_hook(&lines(true, true)), []);
        let [gone, old] = &judge_hook(&lines(false, false))[..] else { panic!("two findings") };
        assert!(gone.text.starts_with("'/opt/drover' is not there"), "{gone:?}");
        assert!(old.remedy.as_ref().unwrap().contains("drover hook install"), "{old:?}");
    }
}
