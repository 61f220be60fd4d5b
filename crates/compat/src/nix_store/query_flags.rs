//! The flags of `nix-store --query`.

use std::collections::VecDeque;
use std::ffi::OsString;

use super::parse::unknown;
use super::request::{ClosureOutputs, Force, Query, QueryKind, Subject};
use crate::error::CompatError;
use crate::options::text;

/// Reads the flags and arguments of a query.
///
/// # Errors
///
/// A flag that isn't known, or two that ask for different things.
pub(super) fn parse(
    flags: VecDeque<OsString>,
    mut arguments: VecDeque<OsString>,
) -> Result<Query, CompatError> {
    let mut query = Query {
        kind: QueryKind::Outputs,
        binding: String::new(),
        subject: Subject::Path,
        force: Force::No,
        closure_outputs: ClosureOutputs::Without,
        paths: Vec::new(),
    };
    let mut chosen: Option<QueryKind> = None;
    for flag in flags {
        let name = flag.to_str().unwrap_or_default();
        match name {
            "--use-output" | "-u" => query.subject = Subject::Outputs,
            "--force-realise" | "--force-realize" | "-f" => query.force = Force::Realise,
            "--include-outputs" => query.closure_outputs = ClosureOutputs::Included,
            _ => {
                let kind = kind(name).ok_or_else(|| unknown(&flag))?;
                if kind == QueryKind::Binding {
                    let binding = arguments.pop_front();
                    let rule = || CompatError::usage("expected binding name");
                    query.binding = text(binding.ok_or_else(rule)?)?;
                }
                if chosen.replace(kind).is_some_and(|before| before != kind) {
                    let rule = format!("query type '{name}' conflicts with earlier flag");
                    return Err(CompatError::usage(rule));
                }
            }
        }
    }
    query.kind = chosen.unwrap_or(QueryKind::Outputs);
    query.paths = arguments.into();
    Ok(query)
}

fn kind(flag: &str) -> Option<QueryKind> {
    Some(match flag {
        "--outputs" => QueryKind::Outputs,
        "--requisites" | "-R" => QueryKind::Requisites,
        "--references" => QueryKind::References,
        "--referrers" | "--referers" => QueryKind::Referrers,
        "--referrers-closure" | "--referers-closure" => QueryKind::ReferrersClosure,
        "--deriver" | "-d" => QueryKind::Deriver,
        "--valid-derivers" => QueryKind::ValidDerivers,
        "--binding" | "-b" => QueryKind::Binding,
        "--hash" => QueryKind::Hash,
        "--size" => QueryKind::Size,
        "--tree" => QueryKind::Tree,
        "--graph" => QueryKind::Graph,
        "--graphml" => QueryKind::GraphMl,
        "--resolve" => QueryKind::Resolve,
        "--roots" => QueryKind::Roots,
        _ => return None,
    })
}
