//! Why a derivation is refused, or something does not follow from it.

use drover_core::{
    ContentAddressError, HashError, OutputName, StoreName, StoreNameError, StorePath,
    StorePathError,
};

use crate::ByteString;

/// A derivation and what is wrong with it. Nothing of it may be registered or built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("derivation '{derivation}.drv': {problem}")]
pub struct DerivationError {
    /// The derivation's name, without `.drv`.
    pub derivation: StoreName,
    /// The rule that it breaks.
    pub problem: Box<DerivationProblem>,
}

impl DerivationError {
    pub(crate) fn new(derivation: &StoreName, problem: DerivationProblem) -> DerivationError {
        DerivationError { derivation: derivation.clone(), problem: Box::new(problem) }
    }
}

/// The rule that a derivation breaks. Positions are in bytes from the start of the file; strings are
/// cut after 300 bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DerivationProblem {
    /// The file is larger than [`MAX_ATERM_SIZE`](crate::MAX_ATERM_SIZE).
    #[error(
        "it has {size} bytes, more than {limit}; it should refer to large data by its path \
         (builtins.toFile, builtins.path)"
    )]
    TooLarge {
        /// Bytes of the file.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Something else than the grammar wants.
    #[error("position {at}: expected {expected}")]
    Expected {
        /// Where.
        at: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// The file ends within a string.
    #[error("position {at}: the string that begins here does not end")]
    Unterminated {
        /// Where the string begins.
        at: usize,
    },
    /// An escape that Nix does not write, or a character that it would have escaped.
    #[error("position {at}: {found:?} is not how nix writes that character in a string")]
    Escape {
        /// Where.
        at: usize,
        /// The character, with the backslash before it where there is one.
        found: ByteString,
    },
    /// Bytes behind the end of the derivation.
    #[error("position {at}: {count} bytes after the end")]
    Trailing {
        /// Where the derivation ends.
        at: usize,
        /// Bytes behind it.
        count: usize,
    },
    /// A format of derivations that is not known.
    #[error("position {at}: format version {version:?} is not known")]
    Version {
        /// Where.
        at: usize,
        /// The version as given.
        version: ByteString,
    },
    /// The derivation needs outputs of derivations which are themselves to be built.
    #[error("position {at}: it depends on dynamic derivations, which are not supported")]
    Dynamic {
        /// Where.
        at: usize,
    },
    /// Two entries of a list which Nix would have written in the other order.
    #[error("position {at}: {list} '{found}' stands after '{before}', against the order of nix")]
    Order {
        /// Where the second one begins.
        at: usize,
        /// What is listed.
        list: &'static str,
        /// The entry.
        found: ByteString,
        /// The one before it.
        before: ByteString,
    },
    /// One entry twice.
    #[error("position {at}: {list} '{found}' stands there twice")]
    Duplicate {
        /// Where the second one begins.
        at: usize,
        /// What is listed.
        list: &'static str,
        /// The entry.
        found: ByteString,
    },
    /// A name or a path with bytes that are not UTF-8.
    #[error("position {at}: {found:?} is not UTF-8")]
    NotUtf8 {
        /// Where.
        at: usize,
        /// The string.
        found: ByteString,
    },
    /// A text that should be a store path.
    #[error("position {at}: {error}")]
    Path {
        /// Where.
        at: usize,
        /// What is wrong with it.
        error: StorePathError,
    },
    /// A path among the input derivations that is none.
    #[error("position {at}: input derivation '{path}' must be named NAME.drv")]
    InputName {
        /// Where.
        at: usize,
        /// The path.
        path: StorePath,
    },
    /// An input derivation of which no output is wanted.
    #[error("position {at}: no output of input derivation '{path}' is named")]
    NoInputOutputs {
        /// Where.
        at: usize,
        /// The path.
        path: StorePath,
    },
    /// A text that should be the name of an output.
    #[error("position {at}: output {found:?}: {error}")]
    OutputName {
        /// Where.
        at: usize,
        /// The text.
        found: ByteString,
        /// What is wrong with it.
        error: StoreNameError,
    },
    /// An output that is named like the variable which holds the structured attributes.
    #[error("an output may not be named '__json'")]
    JsonOutput,
    /// The name is too long with `.drv` behind it.
    #[error("its file's {error}")]
    FileName {
        /// What is wrong with it.
        error: StoreNameError,
    },
    /// A name, path, hash or system that is longer than any of them.
    #[error("position {at}: the string that begins here has {len} bytes, more than {limit}")]
    TooLong {
        /// Where.
        at: usize,
        /// Bytes of the string.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A path that should be a derivation's.
    #[error("'{path}' is not the path of a derivation")]
    NotDerivation {
        /// The path.
        path: StorePath,
    },
    /// An output's name and the derivation's make no name of a store path.
    #[error("output '{output}': {error}")]
    OutputPathName {
        /// The output.
        output: OutputName,
        /// What is wrong with the name.
        error: StoreNameError,
    },
    /// Three columns of an output that do not go together.
    #[error(
        "output '{output}': path '{path}', method '{method_algorithm}' and hash '{hash}' do not go together"
    )]
    Columns {
        /// The output.
        output: OutputName,
        /// The first column.
        path: String,
        /// The second column.
        method_algorithm: String,
        /// The third column.
        hash: String,
    },
    /// The path of an output is not in the store.
    #[error("output '{output}': {error}")]
    OutputStorePath {
        /// The output.
        output: OutputName,
        /// What is wrong with the path.
        error: StorePathError,
    },
    /// The hash, or its algorithm.
    #[error("output '{output}': {error}")]
    OutputHash {
        /// The output.
        output: OutputName,
        /// What is wrong with the hash.
        error: HashError,
    },
    /// A content address that no store path can have.
    #[error("output '{output}': {error}")]
    OutputAddress {
        /// The output.
        output: OutputName,
        /// What is wrong with it.
        error: ContentAddressError,
    },
    /// A derivation without outputs.
    #[error("it has no outputs")]
    NoOutputs,
    /// Outputs of more than one kind.
    #[error("output '{output}' is of another kind than '{first}'")]
    MixedOutputs {
        /// The output.
        output: OutputName,
        /// The first output.
        first: OutputName,
    },
    /// More than one fixed output, or one that is not `out`.
    #[error("a fixed output must be the only one and named 'out', but there is '{output}'")]
    FixedOutput {
        /// The output.
        output: OutputName,
    },
    /// Floating outputs with different hash algorithms.
    #[error("output '{output}' has another hash algorithm than '{first}'")]
    MixedAlgorithms {
        /// The output.
        output: OutputName,
        /// The first output.
        first: OutputName,
    },
    /// The path of an output is not the one that follows from the derivation.
    #[error(
        "derivation has incorrect output '{found}', should be '{expected}' (output '{output}')"
    )]
    OutputPath {
        /// The output.
        output: OutputName,
        /// The path that follows.
        expected: String,
        /// The path that the derivation says.
        found: String,
    },
    /// An output has a path although the paths of its inputs' outputs are not known yet.
    #[error("output '{output}' should have no path before its inputs are built but says {found}")]
    NotDeferred {
        /// The output.
        output: OutputName,
        /// The path that the derivation says.
        found: String,
    },
    /// The variable that is named like an output does not hold its path.
    #[error(
        "derivation has incorrect environment variable '{output}', should be '{expected}' (it is '{found}')"
    )]
    OutputVariable {
        /// The output.
        output: OutputName,
        /// The output's path.
        expected: String,
        /// What the variable holds.
        found: ByteString,
    },
    /// There is no variable that is named like an output.
    #[error("environment variable '{output}' should be {expected} but is not there")]
    NoOutputVariable {
        /// The output.
        output: OutputName,
        /// The output's path.
        expected: String,
    },
    /// An input derivation that is not at hand.
    #[error("input derivation '{path}' is not known")]
    UnknownInput {
        /// The path.
        path: StorePath,
    },
    /// An input derivation which has no output of that name.
    #[error("input derivation '{path}' has no output '{output}'")]
    UnknownInputOutput {
        /// The input derivation.
        path: StorePath,
        /// The output.
        output: OutputName,
    },
    /// A derivation that depends on itself.
    #[error("input derivation '{path}' depends on itself")]
    Cycle {
        /// The path.
        path: StorePath,
    },
    /// An input whose path is not known yet.
    #[error("output '{output}' of input derivation '{path}' is not built yet")]
    NotRealised {
        /// The input derivation.
        path: StorePath,
        /// The output.
        output: OutputName,
    },
    /// `__json` is no JSON object.
    #[error("structured attributes: {message}")]
    StructuredAttributes {
        /// What is wrong with the text, with line and column.
        message: String,
    },
    /// An attribute with another type of value than it must have.
    #[error("structured attribute '{name}' must be {expected}")]
    AttributeType {
        /// The attribute.
        name: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A string that has no JSON form.
    #[error("{what} {found:?} is not UTF-8, so the derivation has no JSON form")]
    JsonNotUtf8 {
        /// What the string is.
        what: &'static str,
        /// The string.
        found: ByteString,
    },
}
