//! `scripts/demo` as a plain user who may not write `/nix`, whole and interrupted.
//!
//! Needs what `scripts/install-needs test` installs. As root, a user of no consequence runs the demo;
//! otherwise this one does.

#![allow(clippy::unwrap_used, reason = "a test shows what went wrong by failing")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

/// Runs the demo as the first thing in a process namespace, so that all that it leaves can be seen.
/// As root: as user 65534, who gets a shell for as long as this lasts, with an empty read-only `/nix`.
const STAGE: &str = r#"
trap : INT
mount -t proc none /proc
printf 'root:x:0:0::/root:/bin/sh\ndemo:x:65534:65534::/:/bin/sh\n' >"$STAGE_DIR/passwd"
mount --bind "$STAGE_DIR/passwd" /etc/passwd
[ ! -e /nix ] || mount -t tmpfs -o ro,mode=0555 none /nix
setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all \
  sh -c '! touch /nix/x 2>/dev/null && exec "$STAGE_DIR/scripts/demo"'
status=$?
try=0
while [ $try -lt 600 ]; do
  left=
  for process in /proc/[0-9]*; do
    if [ $process != /proc/1 ] && read -r name <$process/comm; then left="$left$name "; fi
  done 2>/dev/null
  [ -n "$left" ] || break
  sleep 0.1
  try=$((try + 1))
done
printf 'left: %s\n' "$left"
exit $status
"#;

/// What the demo needs, in a folder that anybody can read, and a folder for its own files.
struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    fn new() -> Stage {
        let dir = tempfile::Builder::new().prefix("demo").tempdir_in("/tmp").unwrap();
        let stage = Stage { dir };
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for name in ["scripts", "examples", "tmp"] {
            fs_err::create_dir(stage.path(name)).unwrap();
        }
        for name in ["scripts/demo", "examples/demo.nix"] {
            fs_err::copy(root.join(name), stage.path(name)).unwrap();
        }
        fs_err::copy(env!("CARGO_BIN_EXE_drover"), stage.path("drover")).unwrap();
        for (name, mode) in [("", 0o755), ("tmp", 0o1777), ("scripts/demo", 0o755)] {
            let permissions = PermissionsExt::from_mode(mode);
            fs_err::set_permissions(stage.path(name), permissions).unwrap();
        }
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the demo in a process group of its own, as a shell with a terminal would.
    fn start(&self) -> Running {
        let mut command = Command::new("unshare");
        match rustix::process::geteuid().is_root() {
            true => command.args(["--mount", "--pid", "--fork", "--kill-child=KILL"]),
            false => command.args(["--user", "--map-current-user", "--pid", "--fork"]),
        };
        match rustix::process::geteuid().is_root() {
            true => command.args(["sh", "-c", STAGE]),
            false => command.arg(self.path("scripts/demo")),
        };
        let child = command
            .env("STAGE_DIR", self.dir.path())
            .env("DROVER", self.path("drover"))
            .env("TMPDIR", self.path("tmp"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        Running { child }
    }

    #[track_caller]
    fn assert_empty(&self) {
        let left: Vec<_> = fs_err::read_dir(self.path("tmp"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        let listed = Command::new("find").args([&self.path("tmp")]).arg("-ls").output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout);
        assert!(left.is_empty(), "files are left: {left:?}\n{listed}");
    }
}

/// The demo while it runs.
struct Running {
    child: Child,
}

impl Running {
    /// Waits for the end; returns the status and what was said.
    fn end(mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        if let Some(mut out) = self.child.stdout.take() {
            out.read_to_string(&mut said).unwrap();
        }
        if let Some(mut err) = self.child.stderr.take() {
            err.read_to_string(&mut said).unwrap();
        }
        (self.child.wait().unwrap(), said)
    }
}

#[track_caller]
fn assert_nothing_left(said: &str) {
    let whole = !rustix::process::geteuid().is_root() || said.contains("left: \n");
    assert!(whole, "processes are left: {said}");
}

#[test]
fn a_plain_user_sees_it_through() {
    let stage = Stage::new();
    let (status, said) = stage.start().end();
    assert!(status.success(), "{status}: {said}");
    for words in ["b1 built ", "b2 built ", "is in the client's store and whole."] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    assert_nothing_left(&said);
    stage.assert_empty();
}

#[test]
fn ctrl_c_takes_everything_away() {
    let stage = Stage::new();
    let mut running = stage.start();
    let mut lines = BufReader::new(running.child.stderr.take().unwrap()).lines();
    let built = lines.by_ref().map(Result::unwrap).find(|line| line.starts_with("building "));
    assert!(built.is_some(), "{}", running.end().1);
    let group = Pid::from_child(&running.child);
    kill_process_group(group, Signal::INT).unwrap();
    // nobody may be held up by a full pipe
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let (status, said) = running.end();
    let said = format!("{}\n{said}", rest.join("\n"));
    assert_eq!(status.code(), Some(130), "{said}");
    assert_nothing_left(&said);
    stage.assert_empty();
}
