//! `tidy.toml`: which rule is waived where, and why.
//!
//! ```toml
//! [[waiver]]
//! path = "crates/core/src/table.rs"
//! rule = "file-length"
//! limit = 520
//! reason = "one table, which reads worse in two files"
//! ```

use anyhow::{Context as _, Result, ensure};

use super::{Finding, Rule};

/// All waivers of the repository.
#[derive(Debug, Default)]
pub(super) struct Waivers(Vec<Waiver>);

#[derive(Debug)]
struct Waiver {
    path: String,
    rule: Rule,
    limit: Option<usize>,
}

impl Waivers {
    /// Reads `tidy.toml`.
    pub(super) fn parse(text: &str) -> Result<Waivers> {
        let table: toml::Table = text.parse()?;
        for key in table.keys() {
            ensure!(key == "waiver", "unknown key {key:?}: each entry is a [[waiver]]");
        }
        let Some(entries) = table.get("waiver") else { return Ok(Waivers::default()) };
        let entries = entries.as_array().context("waiver must be a list: [[waiver]]")?;
        entries.iter().map(Waiver::parse).collect::<Result<_>>().map(Waivers)
    }

    /// Returns the findings that no waiver covers, and a finding for each waiver that covers none.
    pub(super) fn apply(&self, findings: Vec<Finding>) -> Vec<Finding> {
        let mut used = vec![false; self.0.len()];
        let mut left = Vec::new();
        for finding in findings {
            let mut covered = false;
            for (waiver, used) in self.0.iter().zip(&mut used) {
                if waiver.covers(&finding) {
                    (covered, *used) = (true, true);
                }
            }
            if !covered {
                left.push(finding);
            }
        }
        for (waiver, _) in self.0.iter().zip(used).filter(|(_, used)| !used) {
            let message = format!("the waiver of {} is not needed", waiver.path);
            let path = "tidy.toml".to_owned();
            left.push(Finding { path, line: 0, rule: waiver.rule, message, size: None });
        }
        left.sort();
        left
    }
}

impl Waiver {
    fn parse(entry: &toml::Value) -> Result<Waiver> {
        let entry = entry.as_table().context("a waiver must be a table")?;
        for key in entry.keys() {
            ensure!(
                ["path", "rule", "limit", "reason"].contains(&key.as_str()),
                "unknown key {key:?} in a waiver"
            );
        }
        let text = |key: &str| {
            let value = entry.get(key).and_then(toml::Value::as_str).unwrap_or_default();
            ensure!(!value.trim().is_empty(), "a waiver needs {key} = \"…\"");
            Ok(value.to_owned())
        };
        let (path, name) = (text("path")?, text("rule")?);
        text("reason")?;
        let rule = Rule::ALL.into_iter().find(|rule| rule.name() == name);
        let rule = rule.with_context(|| format!("there is no rule {name:?}"))?;
        let limit = match entry.get("limit") {
            Some(limit) => {
                let limit = limit.as_integer().and_then(|limit| usize::try_from(limit).ok());
                Some(limit.with_context(|| format!("{path}: the limit must be a number"))?)
            }
            None => None,
        };
        ensure!(
            limit.is_some() == rule.limit().is_some(),
            "{path}: a waiver of {name} must {} a limit",
            if rule.limit().is_some() { "have" } else { "not have" }
        );
        Ok(Waiver { path, rule, limit })
    }

    fn covers(&self, finding: &Finding) -> bool {
        let within = match (self.limit, finding.size) {
            (Some(limit), Some(size)) => size <= limit,
            (None, None) => true,
            _ => false,
        };
        self.path == finding.path && self.rule == finding.rule && within
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn finding(size: usize) -> Finding {
        Finding {
            path: "a.rs".to_owned(),
            line: 1,
            rule: Rule::FileLength,
            message: String::new(),
            size: Some(size),
        }
    }

    const WAIVER: &str =
        "[[waiver]]\npath = 'a.rs'\nrule = 'file-length'\nlimit = 500\nreason = 'a table'";

    #[test]
    fn a_waiver_covers_up_to_its_limit() {
        let waivers = Waivers::parse(WAIVER).unwrap();
        assert_eq!(waivers.apply(vec![finding(500)]), []);
        let left = waivers.apply(vec![finding(501)]);
        assert_eq!(left.len(), 2, "the file is too long, and the waiver is of no use: {left:?}");
    }

    #[test]
    fn a_waiver_of_another_path_or_rule_does_not_help() {
        let waivers = Waivers::parse(WAIVER).unwrap();
        let other = Finding { path: "b.rs".to_owned(), ..finding(450) };
        assert!(waivers.apply(vec![other.clone()]).contains(&other));
        let other = Finding { rule: Rule::FunctionLength, ..finding(60) };
        assert!(waivers.apply(vec![other.clone()]).contains(&other));
    }

    #[rstest]
    #[case::no_reason("[[waiver]]\npath='a'\nrule='layer'", "needs reason")]
    #[case::blank_reason("[[waiver]]\npath='a'\nrule='layer'\nreason=' '", "needs reason")]
    #[case::no_limit("[[waiver]]\npath='a'\nrule='file-length'\nreason='r'", "must have a limit")]
    #[case::limit("[[waiver]]\npath='a'\nrule='layer'\nreason='r'\nlimit=1", "must not have")]
    #[case::rule("[[waiver]]\npath='a'\nrule='speling'\nreason='r'", "no rule \"speling\"")]
    #[case::key("[[waiver]]\npath='a'\nrule='layer'\nreason='r'\nfile='b'", "unknown key")]
    #[case::top("[waivers]", "unknown key")]
    fn refuses(#[case] text: &str, #[case] why: &str) {
        let error = Waivers::parse(text).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
