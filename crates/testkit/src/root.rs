//! Debian roots that hold stock Nix and OpenSSH, made once with `mmdebstrap` and then only read.
//!
//! A root is made under another name and renamed when whole, under a lock, so neither a crash nor
//! a second test process can leave half a root behind. The archive's signing keys are part of
//! this crate (`keys/`), because an older Debian or an Ubuntu does not know them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cache;

/// Goes up when [`INCLUDE`] or `root.sh` change, so that roots are made anew.
const RECIPE: u32 = 1;

const INCLUDE: &str = "nix-bin,openssh-server,openssh-client,ca-certificates,sqlite3,xz-utils,\
                       procps,iproute2,busybox-static";

/// What lies between the attempts to make a root.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(2),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// What a root has besides what Debian has at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// What a host needs.
    Nix,
    /// That, and what makes it boot.
    NixUnderSystemd,
}

impl Contents {
    fn include(self) -> String {
        match self {
            Contents::Nix => INCLUDE.to_owned(),
            Contents::NixUnderSystemd => format!("{INCLUDE},systemd,systemd-sysv,dbus"),
        }
    }

    /// Returns the name of such a root of a release.
    fn name(self, suite: Suite) -> String {
        match self {
            Contents::Nix => suite.name().to_owned(),
            Contents::NixUnderSystemd => format!("{}-systemd", suite.name()),
        }
    }
}

const KEYS: &str = include_str!("../keys/debian-archive.asc");

/// The Debian release of a host, and with it the version of its stock Nix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// Debian 12: Nix 2.8.
    Bookworm,
    /// Debian 13: Nix 2.26.
    Trixie,
    /// Debian 14: Nix 2.34.
    Forky,
}

impl Suite {
    /// Every suite, oldest first.
    pub const ALL: [Suite; 3] = [Suite::Bookworm, Suite::Trixie, Suite::Forky];

    /// Returns the name that the Debian archive has for it.
    pub fn name(self) -> &'static str {
        match self {
            Suite::Bookworm => "bookworm",
            Suite::Trixie => "trixie",
            Suite::Forky => "forky",
        }
    }

    /// Makes the root unless it is there, and returns where it is.
    ///
    /// # Errors
    ///
    /// If `mmdebstrap` is absent or fails again and again; the text names its log.
    pub fn prepare(self) -> Result<PathBuf> {
        self.prepare_with(Contents::Nix)
    }

    /// The same for a root with other contents.
    pub(crate) fn prepare_with(self, contents: Contents) -> Result<PathBuf> {
        let name = contents.name(self);
        let folder = cache::folder()?.join("roots");
        fs::create_dir_all(&folder)?;
        let root = folder.join(format!("{name}-{RECIPE}"));
        if root.exists() {
            return Ok(root);
        }
        let _lock = cache::lock(&folder.join(format!("{name}.lock")))?;
        if !root.exists() {
            let make = || self.bootstrap(contents, &folder, &root);
            // Mirrors are busy at times, or in the middle of an update.
            let again = |made: Result<()>, pause| {
                made.or_else(|_| {
                    std::thread::sleep(pause);
                    make()
                })
            };
            PAUSES.into_iter().fold(make(), again)?;
        }
        Ok(root)
    }

    fn bootstrap(self, contents: Contents, folder: &Path, root: &Path) -> Result<()> {
        let (release, name) = (self.name(), contents.name(self));
        let half = folder.join(format!("{name}.half"));
        if half.exists() {
            fs::remove_dir_all(&half)?;
        }
        let keys = folder.join("debian-archive.asc");
        fs::write(&keys, KEYS)?;
        let mirror = std::env::var("DROVER_TEST_MIRROR")
            .unwrap_or_else(|_| "http://deb.debian.org/debian".to_owned());
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log)?;
        let status = Command::new("mmdebstrap")
            .args(["--mode=root", "--variant=apt", "--include", &contents.include()])
            // Clocks of test machines are not always right, and mirrors not always fresh.
            .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
            .arg("--aptopt=Acquire::Check-Date \"false\"")
            .arg("--aptopt=Acquire::Retries \"3\"")
            .args(["--dpkgopt=path-exclude=/usr/share/man/*"])
            .args(["--dpkgopt=path-exclude=/usr/share/locale/*"])
            .args(["--dpkgopt=path-exclude=/usr/share/doc/*"])
            .arg(format!("--customize-hook=chroot \"$1\" sh -eu -c '{}'", include_str!("root.sh")))
            .arg(release)
            .arg(&half)
            .arg(format!("deb [signed-by={}] {mirror} {release} main", keys.display()))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .status()
            .context("cannot run mmdebstrap: run scripts/install-needs test")?;
        if !status.success() {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines.iter().skip(lines.len().saturating_sub(15)).copied();
            bail!(
                "cannot make the {name} root ({status}): see {}\n{}",
                log.display(),
                last.collect::<Vec<_>>().join("\n")
            );
        }
        fs::rename(&half, root)?;
        Ok(())
    }
}

/// Checks what hosts need of the machine.
pub(crate) fn check_machine() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "test hosts need root (namespaces, mounts): run the tests with `make test`, which uses sudo"
    );
    for program in ["mmdebstrap", "ip", "tc", "nsenter", "unshare", "ssh-keygen"] {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders = std::env::split_paths(&path).map(|folder| folder.join(program));
        ensure!(
            folders.any(|file| file.is_file()),
            "test hosts need the program `{program}`: run scripts/install-needs test"
        );
    }
    Ok(())
}
