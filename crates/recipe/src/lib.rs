//! What a build is given, and what is checked and made of what it leaves: the pure half of a builder.
//!
//! Before a build: its environment and files ([`Given`]), with structured attributes as JSON and as
//! shell declarations, and the graphs of references that it asks for ([`graph`]). After it: the
//! paths that its outputs mention ([`ReferenceScan`]), hash parts replaced by others of the same
//! length ([`Rewriter`], [`HashModulo`]), and the rules that a derivation sets for what its outputs
//! may refer to and how large they may be ([`OutputRules`]).
//!
//! No files, no clock, no runtime; contents are fed in pieces, and no result depends on where they
//! are cut.

mod error;
mod given;
pub mod graph;
mod hash_modulo;
mod hash_part;
mod placeholders;
mod rewriter;
mod rules;
mod scan;
mod shell;

pub use error::RecipeError;
pub use given::{BuildFile, Given, Setting, outputs_for_structured};
pub use hash_modulo::HashModulo;
pub use hash_part::HashPart;
pub use placeholders::Placeholders;
pub use rewriter::Rewriter;
pub use rules::{OutputFacts, OutputRules, Violation};
pub use scan::ReferenceScan;
pub use shell::shell_declarations;
