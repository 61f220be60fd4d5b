//! What is offered and was not to be had.

use std::collections::BTreeSet;

use drover_core::StorePath;
use drover_store::FailureCause;

use crate::event::JobFailureReport;
use crate::graph::Node;

/// What is offered and could not be fetched, where it isn't to be built instead.
#[derive(Default)]
pub(super) struct Refused {
    pub(super) paths: BTreeSet<StorePath>,
    /// What the store said meanwhile.
    pub(super) words: Vec<String>,
}

impl Refused {
    /// Says why a derivation fails, if it does.
    pub(super) fn verdict(
        &self,
        node: &Node,
        outputs: Vec<&StorePath>,
    ) -> Option<JobFailureReport> {
        let refused = outputs.into_iter().filter(|path| self.paths.contains(*path));
        let paths: Vec<String> = refused.map(StorePath::to_string).collect();
        if paths.is_empty() {
            return None;
        }
        let offered = format!("a substituter offers '{}', but fetching failed", paths.join("', '"));
        let advice = "with --fallback it is built instead".to_owned();
        let said = self.words.iter().map(|words| words.trim().to_owned());
        let message: Vec<String> = [offered].into_iter().chain(said).chain([advice]).collect();
        Some(JobFailureReport {
            derivation: node.path.clone(),
            cause: FailureCause::NotFetched,
            machine: None,
            message: message.join("\n"),
            log_tail: Vec::new(),
        })
    }
}
