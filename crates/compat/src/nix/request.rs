//! What `nix` can be asked for here; `drover` mounts the same under its own names.

use std::ffi::OsString;
use std::path::PathBuf;

use drover_store::{Liveness, SignatureCheck, Substitute};

use crate::copy_closure::Reach;
use crate::daemon::DaemonRequest;
use crate::hash::HashRequest;
use crate::nix_store::Rehearsal;

/// Which paths are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// These: store paths, or links to them.
    Named(Vec<OsString>, Reach),
    /// What these were built from (`--derivation`): the derivers of those that are no derivations.
    Derivations(Vec<OsString>, Reach),
    /// All that are valid (`--all`).
    All,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As text.
    Text,
    /// As JSON, laid out on a terminal.
    Json,
    /// As JSON on one line (`--no-pretty`).
    JsonCompact,
    /// As JSON with line feeds (`--pretty`).
    JsonPretty,
}

/// The form of path infos in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonFormat {
    /// Whole paths as keys.
    V1,
    /// Base names as keys, under `info`.
    V2,
    /// The first, with a warning that Nix means to refuse this.
    Unsaid,
}

/// Whether something is part of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reports {
    /// It is.
    Yes,
    /// It isn't.
    No,
}

/// How sizes are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// In bytes.
    Bytes,
    /// For people (`-h`).
    Human,
}

/// What is told of paths, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathInfoStyle {
    /// Text or JSON.
    pub layout: Layout,
    /// The form of the JSON.
    pub format: JsonFormat,
    /// Whether the size is told.
    pub size: Reports,
    /// Whether the size of the closure is told.
    pub closure_size: Reports,
    /// How they are printed.
    pub sizes: Sizes,
    /// Whether signatures are told.
    pub signatures: Reports,
}

/// `nix path-info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfoRequest {
    /// The paths.
    pub paths: Selection,
    /// What is told of them.
    pub style: PathInfoStyle,
}

/// `nix store verify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyRequest {
    /// The paths.
    pub paths: Selection,
    /// Whether contents are checked.
    pub contents: Reports,
    /// Whether signatures are checked.
    pub trust: Reports,
    /// Signatures by different keys that a path needs; 0 takes one's own builds without any.
    pub signatures_needed: usize,
    /// How the findings are printed.
    pub layout: Layout,
}

/// `nix copy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyRequest {
    /// Where from; the settings' store where absent.
    pub from: Option<String>,
    /// Where to; the settings' store where absent.
    pub to: Option<String>,
    /// The paths.
    pub paths: Selection,
    /// Whether signatures are checked.
    pub signatures: SignatureCheck,
    /// Whether the receiving side may fetch from its substituters.
    pub substitute: Substitute,
    /// How it is told what was copied.
    pub layout: Layout,
}

/// `nix key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRequest {
    /// Print a new secret key.
    Generate {
        /// Its name.
        name: String,
    },
    /// Print the public half of the secret key that comes on standard input.
    ToPublic,
}

/// What `nix` is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NixRequest {
    /// Tell the version.
    Version,
    /// Connect to the store and tell who is there.
    StoreInfo(Layout),
    /// Collect garbage.
    StoreGc {
        /// Whether it is done or only told.
        rehearsal: Rehearsal,
        /// Bytes after which it ends.
        max_freed: Option<u64>,
        /// How it is told what was deleted.
        layout: Layout,
    },
    /// Put hard links in the place of equal files.
    StoreOptimise(Layout),
    /// Delete paths.
    StoreDelete {
        /// The paths.
        paths: Selection,
        /// Whether they are deleted even where something needs them.
        liveness: Liveness,
        /// How it is told what was deleted.
        layout: Layout,
    },
    /// Check paths.
    StoreVerify(VerifyRequest),
    /// Repair paths.
    StoreRepair(Selection),
    /// Sign paths.
    StoreSign {
        /// The paths.
        paths: Selection,
        /// The file with the secret key.
        key_file: PathBuf,
        /// How it is told how many signatures were added.
        layout: Layout,
    },
    /// Tell about paths.
    PathInfo(PathInfoRequest),
    /// Copy paths.
    Copy(CopyRequest),
    /// Make keys.
    Key(KeyRequest),
    /// Print derivations as JSON.
    ShowDerivation {
        /// The derivations.
        paths: Selection,
        /// How it is laid out.
        layout: Layout,
    },
    /// Print the log of a build.
    Log(OsString),
    /// Hash files, or convert hashes.
    Hash(HashRequest),
    /// Run a daemon.
    Daemon(DaemonRequest),
}

impl NixRequest {
    /// Whether it is about the store that the settings name, and that one has to be kept here.
    pub(super) fn is_about_a_store(&self) -> bool {
        match self {
            NixRequest::Version
            | NixRequest::Copy(_)
            | NixRequest::Key(_)
            | NixRequest::Hash(_)
            | NixRequest::Daemon(_) => false,
            NixRequest::StoreInfo(_)
            | NixRequest::StoreGc { .. }
            | NixRequest::StoreOptimise(_)
            | NixRequest::StoreDelete { .. }
            | NixRequest::StoreVerify(_)
            | NixRequest::StoreRepair(_)
            | NixRequest::StoreSign { .. }
            | NixRequest::PathInfo(_)
            | NixRequest::ShowDerivation { .. }
            | NixRequest::Log(_) => true,
        }
    }
}
