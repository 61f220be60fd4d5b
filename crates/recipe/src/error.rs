//! Why a derivation can't be built as it is.

use drover_core::OutputName;
use drover_derivation::DerivationError;

/// Why a derivation can't be built as it is. Nothing was built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The derivation itself.
    #[error(transparent)]
    Derivation(#[from] DerivationError),
    /// `exportReferencesGraph` that isn't pairs of a file's name and a path.
    #[error(
        "'exportReferencesGraph' must be pairs of a file name and a store path, but it has {count} words"
    )]
    OddGraph {
        /// How many words it has.
        count: usize,
    },
    /// A file of a graph that can't be called so.
    #[error(
        "invalid file name '{name}' in 'exportReferencesGraph': it must match [A-Za-z_][A-Za-z0-9_.-]*"
    )]
    GraphName {
        /// The name.
        name: String,
    },
    /// A path that is in no store.
    #[error("'{attribute}' contains '{text}', which is not in the store")]
    NotInStore {
        /// The attribute.
        attribute: &'static str,
        /// The text.
        text: String,
    },
    /// A value of another type than the attribute has.
    #[error("'{attribute}' must be {expected}")]
    Type {
        /// The attribute.
        attribute: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A rule for references that names neither a path nor an output, in Nix's words.
    #[error(
        "output check for '{output}' contains output name '{text}', but this is not a valid output of \
         this derivation. (Valid outputs are [{}].)", .valid.join(", ")
    )]
    Specifier {
        /// The output that the rule is for, or the first of those that it is for.
        output: String,
        /// The text.
        text: String,
        /// The derivation's outputs.
        valid: Vec<String>,
    },
    /// A file of the build's folder would have the name of another.
    #[error("two files of the build would be called '{name}'")]
    SameFile {
        /// The name.
        name: String,
    },
    /// An output whose place isn't given.
    #[error("nothing is known of output '{output}'")]
    NoOutput {
        /// The output.
        output: OutputName,
    },
}
