//! Where the parts of a local store are, and which store is meant.
//!
//! Follows `LocalFSStoreConfig` (`src/libstore/local-fs-store.cc`), `resolveStoreConfig`
//! (`store-registration.cc`) and `Settings` (`globals.cc`) of Nix. Nothing here looks at the
//! system: what matters of it comes in as [`Surroundings`].

use std::path::{Component, Path, PathBuf};

use drover_config::{Scheme, StoreReference};
use drover_core::{StoreDir, StoreDirError};

/// Where the parts of a store are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How the user calls the store.
    pub name: String,
    /// The directory that paths are said to be in.
    pub store_dir: StoreDir,
    /// The directory that their files really are in.
    pub real: PathBuf,
    /// The directory of the database, the roots and the locks.
    pub state: PathBuf,
    /// The directory of build logs.
    pub log: PathBuf,
    /// Whether anything may be changed.
    pub access: Access,
}

/// Whether anything of a store may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may.
    ReadWrite,
    /// It may not (`read-only=true`).
    ReadOnly,
}

/// Which store is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This one.
    Local(Layout),
    /// This one, in the user's own folder, as there is neither `/nix` nor a daemon. To be told to
    /// the user where its folder is absent and so made now.
    Own(Layout),
    /// That of the daemon behind this socket.
    Daemon(PathBuf),
}

/// Who runs this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uid {
    /// Root.
    Root,
    /// Anybody else.
    Other,
}

/// What decides which store is meant.
pub struct Surroundings<'a> {
    /// Environment variables: `NIX_STORE_DIR`, `NIX_STORE`, `NIX_STATE_DIR`, `NIX_LOG_DIR`,
    /// `NIX_DAEMON_SOCKET_PATH`, `NIX_DATA_HOME`, `XDG_DATA_HOME` and `HOME`.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Whether something is there.
    pub exists: &'a dyn Fn(&Path) -> bool,
    /// Whether it can be read and written.
    pub writable: &'a dyn Fn(&Path) -> bool,
    /// Who runs this program.
    pub uid: Uid,
}

/// Why a store's name does not say where the store is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// It isn't a store on this machine.
    #[error("'{name}' is not a local store")]
    NotLocal {
        /// The store.
        name: String,
    },
    /// A folder that isn't absolute.
    #[error("'{value}' ({what}) must be an absolute path")]
    Relative {
        /// Which folder.
        what: &'static str,
        /// As given.
        value: String,
    },
    /// A store directory that is none.
    #[error(transparent)]
    StoreDir(#[from] StoreDirError),
    /// A switch that is neither on nor off.
    #[error("'{name}={value}' must be 'true' or 'false'")]
    Switch {
        /// The parameter.
        name: &'static str,
        /// As given.
        value: String,
    },
}

impl Layout {
    /// Decides which store is meant by a store's name. `auto` is the local store where its state
    /// can be written, else the daemon's, else one of the user's own, as Nix decides.
    ///
    /// # Errors
    ///
    /// A name of another kind of store, and folders that are none.
    pub fn decide(
        reference: &StoreReference,
        around: &Surroundings<'_>,
    ) -> Result<Place, LayoutError> {
        let local = || Layout::local(reference, around, None).map(Place::Local);
        match reference.scheme() {
            Scheme::Local => local(),
            Scheme::Daemon => Ok(Place::Daemon(socket(around)?)),
            Scheme::Auto => {
                let state = match reference.param("state").filter(|state| !state.is_empty()) {
                    Some(state) => clean("state", state)?,
                    None => default_state(around)?,
                };
                let socket = socket(around)?;
                let unset = |name| (around.variable)(name).is_none();
                if (around.writable)(&state) {
                    local()
                } else if (around.exists)(&socket) {
                    Ok(Place::Daemon(socket))
                } else if !(around.exists)(&state)
                    && reference.params().is_empty()
                    && around.uid == Uid::Other
                    && unset("NIX_STORE_DIR")
                    && unset("NIX_STATE_DIR")
                    && let Some(data) = data_folder(around)
                {
                    Layout::local(reference, around, Some(data.join("root"))).map(Place::Own)
                } else {
                    local()
                }
            }
            _ => Err(LayoutError::NotLocal { name: reference.to_string() }),
        }
    }

    fn local(
        reference: &StoreReference,
        around: &Surroundings<'_>,
        own: Option<PathBuf>,
    ) -> Result<Layout, LayoutError> {
        // an empty one is as good as none, as in Nix
        let given = |name| reference.param(name).filter(|value| !value.is_empty());
        let param = |name: &'static str| given(name).map(|value| clean(name, value));
        let path = Some(reference.path()).filter(|path| !path.is_empty());
        let root = match param("root") {
            Some(root) => Some(root?),
            None => path.map(|path| clean("root", path)).transpose()?.or(own),
        };
        let below = |path: &str| root.as_ref().map(|root| root.join(path));
        let store_dir = store_dir(given("store"), around)?;
        let or = |given: Option<Result<PathBuf, LayoutError>>, below: Option<PathBuf>| {
            given.transpose().map(|given| given.or(below))
        };
        let real = or(param("real"), below("nix/store"))?;
        let state = or(param("state"), below("nix/var/nix"))?;
        let log = or(param("log"), below("nix/var/log/nix"))?;
        let name = match (&root, reference.scheme(), reference.params().is_empty()) {
            (Some(root), Scheme::Auto, _) => root.display().to_string(),
            (None, _, true) => "local".to_owned(),
            _ => reference.to_string(),
        };
        Ok(Layout {
            name,
            real: real.unwrap_or_else(|| PathBuf::from(store_dir.as_str())),
            state: state.map_or_else(|| default_state(around), Ok)?,
            log: log.map_or_else(|| folder(around, "NIX_LOG_DIR", "/nix/var/log/nix"), Ok)?,
            store_dir,
            access: access(reference)?,
        })
    }

    /// Returns where a path's files really are.
    pub fn real_path(&self, path: &drover_core::StorePath) -> PathBuf {
        self.real.join(path.base_name())
    }

    /// Returns the database's folder.
    pub fn db(&self) -> PathBuf {
        self.state.join("db")
    }

    /// Returns the folder of the collector's roots.
    pub fn roots(&self) -> PathBuf {
        self.state.join("gcroots")
    }
}

fn access(reference: &StoreReference) -> Result<Access, LayoutError> {
    match reference.param("read-only") {
        None | Some("false" | "no" | "0") => Ok(Access::ReadWrite),
        Some("true" | "yes" | "1") => Ok(Access::ReadOnly),
        Some(value) => Err(LayoutError::Switch { name: "read-only", value: value.to_owned() }),
    }
}

fn store_dir(given: Option<&str>, around: &Surroundings<'_>) -> Result<StoreDir, LayoutError> {
    let from_variable = || {
        let set = |name| (around.variable)(name).filter(|value| !value.is_empty());
        set("NIX_STORE_DIR").or_else(|| set("NIX_STORE"))
    };
    let Some(text) = given.map(str::to_owned).or_else(from_variable) else {
        return Ok(StoreDir::default());
    };
    let path = clean("store", &text)?;
    Ok(path.to_string_lossy().parse()?)
}

fn default_state(around: &Surroundings<'_>) -> Result<PathBuf, LayoutError> {
    folder(around, "NIX_STATE_DIR", "/nix/var/nix")
}

fn socket(around: &Surroundings<'_>) -> Result<PathBuf, LayoutError> {
    match (around.variable)("NIX_DAEMON_SOCKET_PATH").filter(|path| !path.is_empty()) {
        Some(path) => clean("NIX_DAEMON_SOCKET_PATH", &path),
        None => Ok(default_state(around)?.join("daemon-socket/socket")),
    }
}

fn folder(
    around: &Surroundings<'_>,
    variable: &'static str,
    default: &str,
) -> Result<PathBuf, LayoutError> {
    match (around.variable)(variable).filter(|path| !path.is_empty()) {
        Some(path) => clean(variable, &path),
        None => Ok(PathBuf::from(default)),
    }
}

fn data_folder(around: &Surroundings<'_>) -> Option<PathBuf> {
    let set = |name| (around.variable)(name).filter(|path| path.starts_with('/'));
    let below = |name| set(name).map(|path| Path::new(&path).join("nix"));
    set("NIX_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| below("XDG_DATA_HOME"))
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".local/share/nix")))
}

/// Takes `.`, `..` and double slashes out by the text, as Nix does.
fn clean(what: &'static str, text: &str) -> Result<PathBuf, LayoutError> {
    if !text.starts_with('/') {
        return Err(LayoutError::Relative { what, value: text.to_owned() });
    }
    let mut path = PathBuf::from("/");
    for component in Path::new(text).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(path)
}
