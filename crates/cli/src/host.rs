//! This machine and this process: files, environment variables, processor.

use std::io::{self, Read as _};
use std::num::NonZeroU32;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use drover_config::{Environment, Files, LocalSystem, User};
use drover_store_cache::AwsFiles;
use rustix::fs::Access;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::runtime_dir;
use crate::variables::variable;

/// Bytes that a configuration file may have.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// The file system, for configuration files.
pub(crate) struct FileSystem;

impl Files for FileSystem {
    fn read(&self, path: &Path) -> io::Result<Option<String>> {
        let file = match fs_err::File::open(path) {
            Ok(file) => file,
            Err(error) if is_absence(error.kind()) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if MAX_FILE < bytes.len() as u64 {
            let reason = format!("{}: is larger than 16 MiB", path.display());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
        }
        // a comment may have been written in any encoding
        Ok(Some(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }))
    }
}

/// Whether a folder, or where it is to be, belongs to this user: root leaves nothing in others' folders,
/// also where it has kept their `HOME`.
fn is_own(folder: &Path) -> bool {
    let nearest = folder.ancestors().find_map(|folder| std::fs::metadata(folder).ok());
    nearest.is_some_and(|found| found.uid() == rustix::process::geteuid().as_raw())
}

fn is_absence(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// What the environment says, beside what `drover-config` reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    /// The variables that decide which configuration is read.
    pub(crate) environment: Environment,
    /// `NIX_STORE_DIR`
    pub(crate) store_dir: Option<String>,
    /// `NIX_STATE_DIR`, or its default.
    pub(crate) state_dir: PathBuf,
    /// `NIX_LOG_DIR`, or its default.
    pub(crate) log_dir: PathBuf,
    /// `NIX_DAEMON_SOCKET_PATH`
    pub(crate) daemon_socket: Option<PathBuf>,
    /// `NIX_SSHOPTS`
    pub(crate) ssh_options: String,
    /// `PATH`
    pub(crate) path: String,
    /// Where what can be found out again is kept, if there is a place for it.
    pub(crate) cache_dir: Option<PathBuf>,
    /// Where keys of buckets are found.
    pub(crate) aws: AwsFiles,
    /// Folders for sockets and other things that live as long as the process, the best first.
    pub(crate) runtime_dirs: Vec<PathBuf>,
}

impl Host {
    /// Reads the environment of this process.
    pub(crate) fn of_this_process() -> Host {
        let current_dir = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        Host::from_lookup(text, current_dir)
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<String>, current_dir: PathBuf) -> Host {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let runtime_dirs = [set("XDG_RUNTIME_DIR"), set("TMPDIR"), Some("/tmp".to_owned())];
        let home_cache = set("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let caches = set("XDG_CACHE_HOME").map(PathBuf::from).or(home_cache);
        Host {
            cache_dir: caches.filter(|caches| is_own(caches)).map(|caches| caches.join("drover")),
            store_dir: set("NIX_STORE_DIR").or_else(|| set("NIX_STORE")),
            state_dir: set("NIX_STATE_DIR").unwrap_or_else(|| "/nix/var/nix".to_owned()).into(),
            log_dir: set("NIX_LOG_DIR").unwrap_or_else(|| "/nix/var/log/nix".to_owned()).into(),
            daemon_socket: set("NIX_DAEMON_SOCKET_PATH").map(PathBuf::from),
            ssh_options: set("NIX_SSHOPTS").unwrap_or_default(),
            aws: AwsFiles::from_lookup(&lookup),
            path: lookup("PATH").unwrap_or_default(),
            runtime_dirs: runtime_dirs.into_iter().flatten().map(PathBuf::from).collect(),
            environment: Environment::from_lookup(lookup, current_dir),
        }
    }

    /// Returns where the daemon's socket is.
    pub(crate) fn daemon_socket(&self) -> PathBuf {
        match &self.daemon_socket {
            Some(socket) => socket.clone(),
            None => self.state_dir.join("daemon-socket/socket"),
        }
    }

    /// Whether a program is on the `PATH` that is not this very one under another name.
    pub(crate) fn finds_other(&self, name: &str) -> bool {
        let own = std::env::current_exe().ok().and_then(|file| file.canonicalize().ok());
        let mut files = std::env::split_paths(&self.path).map(|dir| dir.join(name));
        let found =
            files.find(|file| file.is_file() && rustix::fs::access(file, Access::EXEC_OK).is_ok());
        // the first is the one that would be started
        found.is_some_and(|file| file.canonicalize().ok() != own)
    }

    /// Makes a folder that goes with the process, with a path short enough for sockets, and one that `ssh`
    /// takes for nothing else: it is part of its options.
    pub(crate) fn make_runtime_dir(&self) -> io::Result<tempfile::TempDir> {
        /// Bytes of a path below which a socket's path of 108 bytes still has room for a name.
        const SHORT: usize = 60;
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+,@=".contains(byte);
        let fits = self.runtime_dirs.iter().filter(|dir| {
            let bytes = dir.as_os_str().as_encoded_bytes();
            bytes.len() <= SHORT && bytes.iter().all(is_plain)
        });
        runtime_dir::make(fits.map(PathBuf::as_path))
    }
}

/// Lets this process have as many files open as it may: each connection takes some, each client and each path
/// that is being added, and the usual limit is made for programs that have few.
pub(crate) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // where it stays as it is, most need no more
    setrlimit(Resource::Nofile, raised).ok();
}

/// Returns a variable as text; settings as they are, whatever the encoding of a comment in them.
fn text(name: &str) -> Option<String> {
    match variable(name)?.into_string() {
        Ok(text) => Some(text),
        Err(bytes) => (name == "NIX_CONFIG").then(|| bytes.to_string_lossy().into_owned()),
    }
}

/// Returns who runs this.
pub(crate) fn user() -> User {
    match rustix::process::geteuid().is_root() {
        true => User::Root,
        false => User::Other,
    }
}

/// Returns what the defaults of some settings depend on.
pub(crate) fn local_system() -> LocalSystem {
    let mut system = LocalSystem::new(&system_name(), user());
    if rustix::fs::access("/dev/kvm", Access::READ_OK | Access::WRITE_OK).is_ok() {
        system.system_features.insert("kvm".to_owned());
    }
    system.extra_platforms.extend(processor_levels().iter().map(|&level| level.to_owned()));
    system
}

/// Returns the processors that this process may use.
pub(crate) fn processors() -> NonZeroU32 {
    std::thread::available_parallelism()
        .ok()
        .and_then(|count| NonZeroU32::try_from(count).ok())
        .unwrap_or(NonZeroU32::MIN)
}

/// Returns the system in Nix's words, such as `x86_64-linux`.
fn system_name() -> String {
    let processor = match std::env::consts::ARCH {
        "x86" => "i686",
        "arm" => "armv7l",
        "powerpc64" if cfg!(target_endian = "little") => "powerpc64le",
        other => other,
    };
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    format!("{processor}-{system}")
}

/// Returns the levels of the x86-64 instruction set that the processor has, as systems.
#[cfg(target_arch = "x86_64")]
fn processor_levels() -> &'static [&'static str] {
    let v2 = std::is_x86_feature_detected!("sse4.2") && std::is_x86_feature_detected!("popcnt");
    let v3 = v2
        && std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("bmi2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("movbe");
    let v4 = v3
        && std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512cd")
        && std::is_x86_feature_detected!("avx512dq")
        && std::is_x86_feature_detected!("avx512vl");
    match (v2, v3, v4) {
        (_, _, true) => {
            &["x86_64-v1-linux", "x86_64-v2-linux", "x86_64-v3-linux", "x86_64-v4-linux"]
        }
        (_, true, _) => &["x86_64-v1-linux", "x86_64-v2-linux", "x86_64-v3-linux"],
        (true, _, _) => &["x86_64-v1-linux", "x86_64-v2-linux"],
        _ => &["x86_64-v1-linux"],
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn processor_levels() -> &'static [&'static str] {
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_none() {
        let lookup = |name: &str| (name == "NIX_STATE_DIR").then(String::new);
        let host = Host::from_lookup(lookup, PathBuf::from("/"));
        assert_eq!(host.daemon_socket(), Path::new("/nix/var/nix/daemon-socket/socket"));
    }

    #[test]
    fn folders_that_ssh_reads_as_something_else_are_passed_over() {
        for strange in ["a b", "a'b", "a\"b", "a%nb", "ö", "$HOME"] {
            let root = tempfile::tempdir().unwrap();
            let folder = root.path().join(strange);
            fs_err::create_dir(&folder).unwrap();
            let lookup = |name: &str| {
                (name == "XDG_RUNTIME_DIR").then(|| folder.to_str().unwrap().to_owned())
            };
            let host = Host {
                runtime_dirs: vec![folder.clone(), "/tmp".into()],
                ..Host::from_lookup(lookup, PathBuf::from("/"))
            };
            let made = host.make_runtime_dir().unwrap();
            assert!(!made.path().starts_with(&folder), "{}", made.path().display());
        }
    }

    #[test]
    fn reads_files_that_exist() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nix.conf");
        assert_eq!(FileSystem.read(&file).unwrap(), None);
        assert_eq!(FileSystem.read(&file.join("below")).unwrap(), None);
        fs_err::write(&file, "cores = 4\n").unwrap();
        assert_eq!(FileSystem.read(&file.join("below")).unwrap(), None);
        assert_eq!(FileSystem.read(&file).unwrap().as_deref(), Some("cores = 4\n"));
        fs_err::write(&file, b"# f\xfcr alle\ncores = 4\n").unwrap();
        let read = FileSystem.read(&file).unwrap().unwrap();
        assert!(read.ends_with("\ncores = 4\n"), "{read:?}");
    }
}
