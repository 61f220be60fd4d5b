//! Outputs of derivations, and the three text columns in which files and protocols carry them.
//!
//! Follows `src/libstore/derivation/output.cc` and `parseOutput` of `derivation/aterm.cc` of Nix.

use drover_core::{
    ContentAddress, Hash, HashAlgorithm, HashNotation, IngestionMethod, OutputName, References,
    StoreDir, StoreName, StorePath,
};

use crate::{DerivationError, DerivationProblem};

/// What is known of an output before it is built.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Its path follows from the derivation.
    InputAddressed(StorePath),
    /// Its contents are given, and so is its path. Made by [`Output::fixed`].
    Fixed {
        /// The contents.
        address: ContentAddress,
        /// The path that follows from them.
        path: StorePath,
    },
    /// Its path will follow from its contents once they are built.
    Floating {
        /// How the contents are turned into bytes.
        method: IngestionMethod,
        /// What these bytes are hashed with.
        algorithm: HashAlgorithm,
    },
    /// Its path will follow from the derivation once the paths of its inputs are known.
    Deferred,
    /// As floating, but built anew each time, with access to the network.
    Impure {
        /// How the contents are turned into bytes.
        method: IngestionMethod,
        /// What these bytes are hashed with.
        algorithm: HashAlgorithm,
    },
}

/// An output as text: the same three columns in `.drv` files and in `BuildDerivation`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputColumns {
    /// The whole path, or nothing.
    pub path: String,
    /// Method and algorithm such as `r:sha256`, or nothing.
    pub method_algorithm: String,
    /// The hash in base 16, `impure`, or nothing.
    pub hash: String,
}

impl Output {
    /// Returns the fixed output with these contents.
    ///
    /// # Errors
    ///
    /// Names that make no store path, or a content address that no path can have.
    pub fn fixed(
        store_dir: &StoreDir,
        derivation: &StoreName,
        name: &OutputName,
        address: ContentAddress,
    ) -> Result<Output, DerivationError> {
        let path_name = output_path_name(derivation, name)?;
        let path = store_dir
            .content_addressed_path(&address, &References::default(), &path_name)
            .map_err(|error| {
            let output = name.clone();
            let problem = DerivationProblem::OutputAddress { output, error };
            DerivationError::new(derivation, problem)
        })?;
        Ok(Output::Fixed { address, path })
    }

    /// Returns the path, where it is known before the build.
    pub fn path(&self) -> Option<&StorePath> {
        match self {
            Output::InputAddressed(path) | Output::Fixed { path, .. } => Some(path),
            Output::Floating { .. } | Output::Deferred | Output::Impure { .. } => None,
        }
    }

    /// Returns the output as text.
    pub fn columns(&self, store_dir: &StoreDir) -> OutputColumns {
        let path = self.path().map(|path| store_dir.display(path)).unwrap_or_default();
        let (method_algorithm, hash) = match self {
            Output::InputAddressed(_) | Output::Deferred => (String::new(), String::new()),
            Output::Fixed { address, .. } => (
                method_algorithm(address.method, address.hash.algorithm()),
                address.hash.digits(HashNotation::Base16),
            ),
            Output::Floating { method, algorithm } => {
                (method_algorithm(*method, *algorithm), String::new())
            }
            Output::Impure { method, algorithm } => {
                (method_algorithm(*method, *algorithm), "impure".to_owned())
            }
        };
        OutputColumns { path, method_algorithm, hash }
    }

    /// Reads an output from its columns.
    ///
    /// # Errors
    ///
    /// Columns that do not go together, a path that is none or does not follow from the hash, an
    /// unknown algorithm, or a hash that is not in lower case base 16.
    pub fn from_columns(
        store_dir: &StoreDir,
        derivation: &StoreName,
        name: &OutputName,
        columns: OutputColumns,
    ) -> Result<Output, DerivationError> {
        let refuse = |problem| DerivationError::new(derivation, problem);
        let output = || name.clone();
        if columns.method_algorithm.is_empty() {
            return match (&*columns.path, &*columns.hash) {
                ("", "") => Ok(Output::Deferred),
                (path, "") => store_dir.parse(path).map(Output::InputAddressed).map_err(|error| {
                    refuse(DerivationProblem::OutputStorePath { output: output(), error })
                }),
                _ => Err(refuse(columns.refused(name))),
            };
        }
        let bad_hash = |error| refuse(DerivationProblem::OutputHash { output: output(), error });
        let (method, algorithm) = IngestionMethod::strip_prefix(&columns.method_algorithm);
        let algorithm = algorithm.parse().map_err(bad_hash)?;
        match (&*columns.path, &*columns.hash) {
            ("", "") => return Ok(Output::Floating { method, algorithm }),
            ("", "impure") => return Ok(Output::Impure { method, algorithm }),
            ("", _) | (_, "" | "impure") => return Err(refuse(columns.refused(name))),
            _ => {}
        }
        let hash = Hash::parse(&columns.hash, Some(algorithm)).map_err(bad_hash)?;
        if hash.digits(HashNotation::Base16) != columns.hash {
            return Err(refuse(columns.refused(name)));
        }
        let fixed = Output::fixed(store_dir, derivation, name, ContentAddress { method, hash })?;
        let expected = fixed.columns(store_dir).path;
        if expected != columns.path {
            let found = columns.path;
            return Err(refuse(DerivationProblem::OutputPath {
                output: output(),
                expected,
                found,
            }));
        }
        Ok(fixed)
    }
}

impl OutputColumns {
    fn refused(self, output: &OutputName) -> DerivationProblem {
        let OutputColumns { path, method_algorithm, hash } = self;
        DerivationProblem::Columns { output: output.clone(), path, method_algorithm, hash }
    }
}

fn method_algorithm(method: IngestionMethod, algorithm: HashAlgorithm) -> String {
    format!("{}{algorithm}", method.prefix())
}

/// Returns the name of an output's store path: the derivation's for `out`, else `NAME-OUTPUT`.
///
/// # Errors
///
/// A name that is longer than store paths may be named.
pub fn output_path_name(
    derivation: &StoreName,
    output: &OutputName,
) -> Result<StoreName, DerivationError> {
    if output.is_out() {
        return Ok(derivation.clone());
    }
    format!("{derivation}-{output}").parse().map_err(|error| {
        let problem = DerivationProblem::OutputPathName { output: output.clone(), error };
        DerivationError::new(derivation, problem)
    })
}

/// Returns the path of an input-addressed output, which follows from the derivation's hash modulo
/// with its outputs masked.
///
/// # Errors
///
/// Those of [`output_path_name`].
pub fn output_path(
    store_dir: &StoreDir,
    derivation: &StoreName,
    output: &OutputName,
    hash_modulo: &Hash,
) -> Result<StorePath, DerivationError> {
    let name = output_path_name(derivation, output)?;
    Ok(store_dir.make_path(&format!("output:{output}"), hash_modulo, &name))
}
