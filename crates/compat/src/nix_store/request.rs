//! What `nix-store` can be asked for.

use std::ffi::OsString;
use std::path::PathBuf;

use drover_core::{Hash, HashAlgorithm, IngestionMethod, StoreName};
use drover_store::{Adoption, BuildMode, Liveness, Repair, VerifyDepth};

use crate::host::ServeAccess;

/// Whether something is done or only told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rehearsal {
    /// It is done.
    No,
    /// It is told (`--dry-run`).
    Yes,
}

/// What is done with paths that nobody knows how to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// They are an error.
    Refuse,
    /// They are left out, and nothing is printed (`--ignore-unknown`).
    Ignore,
}

/// Whether the results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Results {
    /// They are.
    Printed,
    /// They aren't (`--no-output`).
    Hidden,
}

/// Making paths valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realise {
    /// Paths, or derivations with `!OUTPUTS`.
    pub paths: Vec<OsString>,
    /// Whether it is done or only told.
    pub rehearsal: Rehearsal,
    /// Whether what is corrupt is made again, or what is valid is built once more and compared.
    pub mode: BuildMode,
    /// What is done with paths that nobody knows how to make.
    pub unknown: Unknown,
}

/// What is asked of paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKind {
    /// The outputs of derivations.
    Outputs,
    /// All that they refer to.
    Requisites,
    /// What they refer to themselves.
    References,
    /// What refers to them.
    Referrers,
    /// All that refers to them, further on too.
    ReferrersClosure,
    /// What they were built from.
    Deriver,
    /// The valid derivations that have them as output.
    ValidDerivers,
    /// A variable of the build.
    Binding,
    /// The hash of the NAR.
    Hash,
    /// The size of the NAR.
    Size,
    /// All that they refer to, as a tree.
    Tree,
    /// The same for GraphViz.
    Graph,
    /// The same as GraphML.
    GraphMl,
    /// The paths themselves, links followed.
    Resolve,
    /// The roots that keep them.
    Roots,
}

/// What a derivation stands for in a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Itself.
    Path,
    /// Its outputs (`--use-output`).
    Outputs,
}

/// Whether paths are made valid before a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// No.
    No,
    /// They are (`--force-realise`).
    Realise,
}

/// Whether a closure has the outputs of the derivations in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosureOutputs {
    /// It hasn't.
    Without,
    /// It has (`--include-outputs`).
    Included,
}

/// A query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// What is asked.
    pub kind: QueryKind,
    /// The variable for [`QueryKind::Binding`]; empty otherwise.
    pub binding: String,
    /// What derivations stand for.
    pub subject: Subject,
    /// Whether paths are made valid first.
    pub force: Force,
    /// Whether closures have the outputs of derivations.
    pub closure_outputs: ClosureOutputs,
    /// The paths.
    pub paths: Vec<OsString>,
}

/// What a garbage collection is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collect {
    /// Delete what is dead, up to so many bytes.
    Delete {
        /// Bytes after which it ends.
        max_freed: Option<u64>,
    },
    /// List the roots.
    PrintRoots,
    /// List what is live.
    PrintLive,
    /// List what is dead.
    PrintDead,
}

/// What is done about paths that are not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// The first is an error.
    Refuse,
    /// They are listed (`--print-invalid`).
    Print,
}

/// What becomes of paths that are registered already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// They stay as they are.
    Keep,
    /// They are registered anew (`--reregister`).
    Anew,
}

/// What `nix-store` is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Make paths valid.
    Realise(Realise),
    /// Answer a query.
    Query(Query),
    /// Add files, hashed so.
    Add {
        /// How they are hashed.
        method: IngestionMethod,
        /// With what.
        algorithm: HashAlgorithm,
        /// The files.
        files: Vec<PathBuf>,
    },
    /// Print the path that contents with this hash would have.
    PrintFixedPath {
        /// How the contents are hashed.
        method: IngestionMethod,
        /// The hash.
        hash: Hash,
        /// The path's name.
        name: StoreName,
    },
    /// Delete paths that nothing needs.
    Delete {
        /// Whether they are deleted all the same where something does.
        liveness: Liveness,
        /// The paths.
        paths: Vec<OsString>,
    },
    /// Print the variables of a build for a shell.
    PrintEnvironment(OsString),
    /// Print logs of builds.
    ReadLog(Vec<OsString>),
    /// Print what is registered of paths, or of all.
    DumpDatabase(Vec<OsString>),
    /// Register what standard input says.
    Register {
        /// What becomes of those that are registered.
        registered: Registered,
        /// What is done with the files.
        adoption: Adoption,
    },
    /// Say whether paths are valid.
    CheckValidity {
        /// What is done about those that are not.
        invalid: Invalid,
        /// The paths.
        paths: Vec<OsString>,
    },
    /// Collect garbage.
    Collect(Collect),
    /// Print the NAR of a file or a folder.
    Dump(PathBuf),
    /// Unpack the NAR that comes on standard input.
    Restore(PathBuf),
    /// Print paths for `--import`.
    Export(Vec<OsString>),
    /// Add what `--export` printed.
    Import,
    /// Make the store's database, if it isn't there.
    Initialise,
    /// Check the whole store.
    Verify {
        /// How far.
        depth: VerifyDepth,
        /// What is done with what is broken.
        repair: Repair,
    },
    /// Check the contents of paths.
    VerifyPaths(Vec<OsString>),
    /// Make paths anew whose contents are broken.
    RepairPaths(Vec<OsString>),
    /// Put hard links in the place of equal files.
    Optimise,
    /// Speak the serve protocol.
    Serve(ServeAccess),
    /// Make a key for signing.
    GenerateKey {
        /// Its name.
        name: String,
        /// The file for the secret half.
        secret_file: PathBuf,
        /// The file for the public half.
        public_file: PathBuf,
    },
}

/// A request to `nix-store`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRequest {
    /// What it is to do.
    pub operation: Operation,
    /// The link that keeps what is made valid.
    pub root: Option<PathBuf>,
    /// Whether results of [`Operation::Realise`] are printed.
    pub results: Results,
}
