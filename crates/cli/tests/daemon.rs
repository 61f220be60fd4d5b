//! The real daemon as a process: signals, the service manager, a kill, clients that go; with stock
//! Nix as its clients and as the machine that builds. Everything is on this machine.
//!
//! Needs `nix-daemon`, `nix-instantiate`, `nix-store`, a static `busybox`, `perl`, and root, as the
//! builder makes namespaces.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail like tests")]

use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rstest::rstest;
use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(120);

/// A folder with a store for the daemon, another for the machine that builds, and nothing of this
/// machine's configuration.
struct World {
    dir: tempfile::TempDir,
    manager: Manager,
}

/// Stands in for the service manager. As that one does, it reads all the time, whoever asks for it: where
/// nobody reads, the daemon's words have no room soon.
struct Manager {
    socket: UnixDatagram,
    said: mpsc::Receiver<String>,
}

impl Manager {
    fn at(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).unwrap();
        let (saying, said) = mpsc::channel();
        let reading = socket.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = reading.recv(&mut buffer) {
                let words = String::from_utf8_lossy(buffer.get(..len).unwrap()).into_owned();
                if saying.send(words).is_err() {
                    return;
                }
            }
        });
        Manager { socket, said }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // the thread hears that there is no more
        self.socket.shutdown(Shutdown::Both).ok();
    }
}

/// A daemon that runs; killed when this is dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Daemon {
    fn tell(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits for its end.
    fn ended(&mut self) -> i32 {
        let mut code = None;
        until("the daemon to end", || {
            code = self.0.try_wait().unwrap();
            code.is_some()
        });
        code.and_then(|status| status.code()).unwrap_or(-1)
    }
}

/// Waits until something is so.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LIMIT, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl World {
    fn new() -> World {
        let dir = tempfile::Builder::new().prefix("drd").tempdir().unwrap();
        let manager = Manager::at(&dir.path().join("notify"));
        let world = World { dir, manager };
        for folder in ["conf", "tools/bin"] {
            fs_err::create_dir_all(world.path(folder)).unwrap();
        }
        let busybox = find("busybox");
        fs_err::copy(busybox, world.path("tools/bin/busybox")).unwrap();
        for applet in ["sh", "sleep"] {
            std::os::unix::fs::symlink("busybox", world.path("tools/bin").join(applet)).unwrap();
        }
        world.configure("");
        world.machines(&[]);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    fn store(&self) -> String {
        format!("local?root={}", self.path("root").display())
    }

    fn configure(&self, more: &str) {
        let conf = format!(
            "substituters =\nsystem = x86_64-linux\nbuild-users-group =\nmax-jobs = 0\n\
             experimental-features = nix-command\nconnect-timeout = 120\n{more}\n"
        );
        fs_err::write(self.path("conf/nix.conf"), conf).unwrap();
    }

    /// Configures machines, each with a store of its own and so many slots.
    fn machines(&self, machines: &[(&str, u32)]) {
        let mut lines = String::new();
        for (name, slots) in machines {
            let script = self.path(name);
            let text = format!(
                "#!/bin/sh\nexec nix-daemon --stdio --option sandbox true --option max-jobs 4 --option post-build-hook '' --store 'local?root={}'\n",
                self.path(&format!("{name}-root")).display()
            );
            fs_err::write(&script, text).unwrap();
            fs_err::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
            let uri = format!("ssh-ng://localhost?remote-program={}", script.display());
            lines.push_str(&format!("{uri} x86_64-linux - {slots}\n"));
        }
        fs_err::write(self.path("conf/machines"), lines).unwrap();
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NIX_")) {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .env("HOME", self.dir.path())
            .env("NIX_CONF_DIR", self.path("conf"))
            .env("NIX_USER_CONF_FILES", "")
            .env("NIX_DAEMON_SOCKET_PATH", self.socket())
            .env("XDG_RUNTIME_DIR", "")
            .env("XDG_CACHE_HOME", self.path("cache"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// A stock client of the daemon.
    fn client(&self, arguments: &[&str]) -> Command {
        self.client_program("nix-store", arguments)
    }

    fn client_program(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = self.command(name, arguments);
        let remote =
            format!("unix://{}?root={}", self.socket().display(), self.path("root").display());
        command.env("NIX_REMOTE", remote);
        command
    }

    /// drover under the name of a program of Nix, on the daemon's store itself.
    fn by_name(&self, name: &str, arguments: &[&str]) -> Command {
        let link = self.path(name);
        if !link.exists() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_drover"), &link).unwrap();
        }
        let mut command = self.command(link, arguments);
        command.env("NIX_REMOTE", self.store());
        command
    }

    fn daemon_command(&self) -> Command {
        self.as_daemon(self.command(env!("CARGO_BIN_EXE_drover"), &["daemon"]))
    }

    fn as_daemon(&self, mut command: Command) -> Command {
        command
            .env("NIX_REMOTE", self.store())
            .env("NOTIFY_SOCKET", self.path("notify"))
            .stderr(fs_err::File::create(self.path("log")).unwrap().into_parts().0);
        command
    }

    /// Starts the daemon, and waits until it is ready.
    fn daemon(&self) -> Daemon {
        let daemon = Daemon(self.daemon_command().spawn().unwrap());
        self.heard("READY=1");
        daemon
    }

    /// Waits until the service manager has heard something.
    #[track_caller]
    fn heard(&self, what: &str) {
        loop {
            let said = self.manager.said.recv_timeout(LIMIT).unwrap_or_else(|error| {
                panic!("the service manager doesn't hear {what}: {error}\n{}", self.log())
            });
            if said.lines().any(|line| line == what) {
                return;
            }
        }
    }

    fn log(&self) -> String {
        fs_err::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// An expression for a derivation that sleeps; its sleep can be told from any other.
    fn expression(&self, seconds: &str) -> String {
        format!(
            r#"let tools = builtins.path {{ path = {tools}; name = "tools"; }}; in derivation {{
                name = "sleeper"; system = "x86_64-linux"; builder = "${{tools}}/bin/sh";
                args = [ "-c" "echo awake; ${{tools}}/bin/sleep {seconds}; echo > $out" ]; }}"#,
            tools = self.path("tools").display()
        )
    }

    /// Writes a derivation of a shell's command; returns what `nix-instantiate` prints.
    fn derivation(&self, name: &str, command: &str, options: &[&str]) -> String {
        let text = format!(
            r#"let tools = builtins.path {{ path = {tools}; name = "tools"; }}; in derivation {{
                name = "{name}"; system = "x86_64-linux"; builder = "${{tools}}/bin/sh";
                args = [ "-c" "{command}" ]; }}"#,
            tools = self.path("tools").display()
        );
        let mut command = self.command("nix-instantiate", &[&["-E", &text], options].concat());
        command.env("NIX_REMOTE", self.store());
        succeeds(command)
    }

    /// Returns where a path of the daemon's store is.
    fn real(&self, path: &str) -> PathBuf {
        self.path("root").join(path.trim_start_matches('/'))
    }

    /// Writes that derivation.
    fn sleeper(&self, seconds: &str) -> String {
        let text = self.expression(seconds);
        let mut command = self.command("nix-instantiate", &["-E", &text]);
        let output = command.env("NIX_REMOTE", self.store()).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    }

    /// Whether stock Nix, opening the files itself, finds the store sound.
    fn assert_sound(&self) {
        let mut command = self.command("nix-store", &["--verify", "--check-contents"]);
        let output = command.env("NIX_REMOTE", self.store()).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut found = std::env::split_paths(&path).map(|dir| dir.join(program));
    found.find(|file| file.is_file()).unwrap_or_else(|| panic!("there is no {program}"))
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn succeeds(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", stderr(&output));
    stdout(&output)
}

#[track_caller]
fn fails(mut command: Command, code: i32) -> String {
    let output = command.output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
    said
}

/// Returns a time to sleep that no other test has, nor an earlier run of this one.
fn seconds(whole: u32) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(100);
    format!("{whole}.{}{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Returns the process that sleeps for so long.
fn sleeper(seconds: &str) -> Option<Pid> {
    let suffix = format!("sleep\0{seconds}\0");
    let processes = fs_err::read_dir("/proc").unwrap().filter_map(Result::ok);
    let mut pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    let pid = pids.find(|pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.ends_with(suffix.as_bytes())
    });
    Pid::from_raw(pid?)
}

/// Whether a process runs that sleeps for so long.
fn sleeps(seconds: &str) -> bool {
    sleeper(seconds).is_some()
}

/// Has the build that sleeps for so long go on, unless it was ended before.
#[track_caller]
fn wake(seconds: &str) {
    let pid = sleeper(seconds).expect("the build was ended");
    kill_process(pid, Signal::TERM).unwrap();
}

/// Starts a build and waits until it runs.
fn started(world: &World, drv: &str, seconds: &str) -> Child {
    let mut command = world.client(&["-r", drv]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the build to run", || sleeps(seconds));
    child
}

/// Files that others may write, below a folder. Symlinks have no mode, and sockets are asked who comes.
fn writable_by_others(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs_err::symlink_metadata(&path).unwrap();
        let kind = metadata.file_type();
        if kind.is_dir() {
            left.extend(fs_err::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        if (kind.is_dir() || kind.is_file()) && metadata.mode() & 0o022 != 0 {
            found.push(path);
        }
    }
    found
}

/// CVE-2019-17365: whoever starts a program may have set no umask at all.
#[test]
fn nothing_is_writable_by_others() {
    let world = World::new();
    world.machines(&[("b1", 1)]);
    let freely = |program: &str, arguments: &[&str]| {
        let line = ["-c", "umask 0; exec \"$@\"", "sh", program];
        world.command("sh", &[line.as_slice(), arguments].concat())
    };
    let drover = env!("CARGO_BIN_EXE_drover");
    let daemon = Daemon(world.as_daemon(freely(drover, &["daemon"])).spawn().unwrap());
    world.heard("READY=1");
    let link = world.path("result");
    let drv = world.derivation("job", "echo said; echo > $out", &[]);
    succeeds(world.client(&["--realise", &drv, "--add-root", link.to_str().unwrap()]));
    succeeds(world.client(&["--add", world.path("tools").to_str().unwrap()]));
    drop(daemon);
    assert_eq!(writable_by_others(&world.path("root")), Vec::<PathBuf>::new());
    // and a program that makes a store by itself
    let by_name = world.path("nix-store");
    std::os::unix::fs::symlink(drover, &by_name).unwrap();
    let added = world.path("tools");
    let mut add = freely(by_name.to_str().unwrap(), &["--add", added.to_str().unwrap()]);
    add.env("NIX_REMOTE", format!("local?root={}", world.path("other").display()));
    succeeds(add);
    assert_eq!(writable_by_others(&world.path("other")), Vec::<PathBuf>::new());
}

#[test]
fn a_reload_brings_machines_and_settings_and_drops_no_build() {
    let world = World::new();
    let daemon = world.daemon();
    let long = &seconds(900);
    let drv = world.sleeper(long);
    assert!(fails(world.client(&["-r", &drv]), 1).contains("no machine"), "{}", world.log());
    world.machines(&[("b1", 1)]);
    daemon.tell(Signal::HUP);
    world.heard("RELOADING=1");
    world.heard("READY=1");
    let building = started(&world, &drv, long);
    world.machines(&[("b1", 1), ("b2", 1)]);
    daemon.tell(Signal::HUP);
    world.heard("READY=1");
    wake(long);
    let output = building.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    world.assert_sound();
}

/// Whoever lists a machine needn't tell the daemon: the next build finds it, and so does who asks.
#[test]
fn machines_that_are_listed_meanwhile_are_found() {
    let world = World::new();
    let _daemon = world.daemon();
    let long = &seconds(900);
    let drv = world.sleeper(long);
    assert!(fails(world.client(&["-r", &drv]), 1).contains("no machine"), "{}", world.log());
    world.machines(&[("b1", 1)]);
    let building = started(&world, &drv, long);
    // what is built goes on when another one comes
    world.machines(&[("b1", 1), ("b2", 1)]);
    let other = world.sleeper("0.022");
    succeeds(world.client(&["-r", &other]));
    wake(long);
    let output = building.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    world.assert_sound();
}

#[test]
fn that_everybody_is_trusted_is_said_once() {
    let world = World::new();
    let words = "by 'trusted-users = *' whoever may connect may do all that root may";
    world.configure("trusted-users = root");
    drop(world.daemon());
    assert!(!world.log().contains(words), "{}", world.log());
    world.configure("trusted-users = root *");
    let daemon = world.daemon();
    for _ in 0..2 {
        daemon.tell(Signal::HUP);
        world.heard("RELOADING=1");
        world.heard("READY=1");
    }
    until("it is said", || world.log().contains(words));
    assert_eq!(world.log().matches(words).count(), 1, "{}", world.log());
}

#[test]
fn signatures_are_required_as_configured_last() {
    let world = World::new();
    world.configure("allowed-users = *\ntrusted-users =");
    let daemon = world.daemon();
    // what another store built and nobody signed
    let other = World::new();
    other.machines(&[("b1", 1)]);
    let _others = other.daemon();
    let built = succeeds(other.client(&["-r", &other.sleeper("0.021")]));
    let export = other.path("export");
    let exported = other.client(&["--export", &built]).output().unwrap();
    fs_err::write(&export, exported.stdout).unwrap();
    let import = || {
        let mut command = world.client(&["--import"]);
        command.stdin(fs_err::File::open(&export).unwrap().into_parts().0);
        command
    };
    let refused = fails(import(), 1);
    assert!(refused.contains("lacks a"), "{refused}");
    world.configure("allowed-users = *\ntrusted-users =\nrequire-sigs = false");
    daemon.tell(Signal::HUP);
    world.heard("RELOADING=1");
    world.heard("READY=1");
    assert_eq!(succeeds(import()), built);
    world.assert_sound();
}

/// The service manager is told that all is well while what is under way ends, and neither a reload
/// nor a second request for patience ends it sooner.
#[test]
fn a_drain_lets_builds_end() {
    let world = World::new();
    world.machines(&[("b1", 1)]);
    let mut command = world.daemon_command();
    command.env("WATCHDOG_USEC", "400000");
    let mut daemon = Daemon(command.spawn().unwrap());
    world.heard("READY=1");
    let long = &seconds(900);
    let drv = world.sleeper(long);
    let building = started(&world, &drv, long);
    daemon.tell(Signal::USR1);
    world.heard("STOPPING=1");
    world.heard("WATCHDOG=1");
    daemon.tell(Signal::HUP);
    daemon.tell(Signal::USR1);
    world.heard("WATCHDOG=1");
    wake(long);
    let output = building.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(daemon.ended(), 0);
    assert!(!world.socket().exists());
    world.assert_sound();
}

#[rstest]
#[case::at_once(None)]
#[case::after_a_drain(Some(Signal::USR1))]
fn a_stop_ends_builds_on_the_machines(#[case] before: Option<Signal>) {
    let seconds = &seconds(900);
    let world = World::new();
    world.machines(&[("b1", 1)]);
    let mut daemon = world.daemon();
    let drv = world.sleeper(seconds);
    let mut building = started(&world, &drv, seconds);
    if let Some(before) = before {
        daemon.tell(before);
        world.heard("STOPPING=1");
    }
    daemon.tell(Signal::TERM);
    assert_eq!(daemon.ended(), 0);
    until("the build to end", || !sleeps(seconds));
    assert!(!building.wait().unwrap().success());
    world.assert_sound();
}

/// The settings that a build here was begun with have been replaced since, and it's waited for all the same:
/// what it has left takes a while to be removed.
#[test]
fn a_stop_waits_for_builds_from_before_a_reload() {
    let long = &seconds(900);
    let world = World::new();
    world.configure("max-jobs = 1\nauto-allocate-uids = true");
    let mut daemon = world.daemon();
    let many = "n=0; while [ $n -lt 30000 ]; do : > f$n; n=$((n + 1)); done";
    let tools = world.path("tools");
    let text = format!(
        r#"let tools = builtins.path {{ path = {}; name = "tools"; }}; in derivation {{
            name = "litter"; system = "x86_64-linux"; builder = "${{tools}}/bin/sh";
            args = [ "-c" "{many}; ${{tools}}/bin/sleep {long}" ]; }}"#,
        tools.display()
    );
    let mut command = world.command("nix-instantiate", &["-E", &text]);
    command.env("NIX_REMOTE", world.store());
    let mut building = started(&world, &succeeds(command), long);
    let folder = world.path("root/nix/var/nix/builds");
    let works = || fs_err::read_dir(&folder).unwrap().next().is_some();
    assert!(works());
    for cores in ["cores = 2", "cores = 3"] {
        world.configure(&format!("max-jobs = 1\nauto-allocate-uids = true\n{cores}"));
        daemon.tell(Signal::HUP);
        world.heard("RELOADING=1");
        world.heard("READY=1");
    }
    daemon.tell(Signal::TERM);
    assert_eq!(daemon.ended(), 0);
    assert!(!sleeps(long) && !works(), "something is left of the build");
    assert!(!building.wait().unwrap().success());
    world.assert_sound();
}

#[test]
fn a_client_that_is_killed_takes_its_build_along() {
    let world = World::new();
    world.machines(&[("b1", 1)]);
    let _daemon = world.daemon();
    let long = &seconds(900);
    let mut building = started(&world, &world.sleeper(long), long);
    building.kill().unwrap();
    building.wait().unwrap();
    until("the build to end", || !sleeps(long));
}

#[test]
fn limits_of_a_client_count() {
    let world = World::new();
    world.machines(&[("b1", 1)]);
    let _daemon = world.daemon();
    let long = &seconds(900);
    let drv = world.sleeper(long);
    // stock Nix tells no more of what a daemon says than that it failed
    let said = fails(world.client(&["-r", &drv, "--timeout", "1"]), 1);
    assert!(said.contains("timed out after 1 seconds"), "{said}");
    until("the build to end", || !sleeps(long));
    let said = fails(world.by_name("nix-store", &["-r", &drv, "--max-silent-time", "1"]), 101);
    assert!(said.contains("timed out after 1 seconds of silence"), "{said}");
    until("the build to end", || !sleeps(long));
    // nobody builds for one who wants no machines
    let said = fails(world.client(&["-r", &drv, "--builders", ""]), 1);
    assert!(said.contains("no machine"), "{said}");
}

#[test]
fn what_is_built_is_signed() {
    let world = World::new();
    let key = ["key", "generate-secret", "--key-name", "here-1"];
    fs_err::write(world.path("key"), succeeds(world.by_name("nix", &key))).unwrap();
    world.configure(&format!("secret-key-files = {}", world.path("key").display()));
    world.machines(&[("b1", 1)]);
    let _daemon = world.daemon();
    let path = succeeds(world.client(&["-r", &world.sleeper("0.065")]));
    let told = succeeds(world.by_name("nix", &["path-info", "--sigs", &path]));
    assert!(told.contains("here-1:"), "{told}");
    // a trusted client has its own
    let key = ["key", "generate-secret", "--key-name", "client-1"];
    let file = world.path("client-key").display().to_string();
    fs_err::write(&file, succeeds(world.by_name("nix", &key))).unwrap();
    let drv = world.sleeper("0.066");
    let path = succeeds(world.client(&["-r", &drv, "--option", "secret-key-files", &file]));
    let told = succeeds(world.by_name("nix", &["path-info", "--sigs", &path]));
    assert!(told.contains("client-1:"), "{told}");
}

/// What another machine has built for two clients is the hook's once, and not again when it's valid.
#[test]
fn the_hook_runs_once_for_what_was_built_elsewhere() {
    let world = World::new();
    let (hook, log) = (world.path("hook"), world.path("hook.log"));
    let text = format!("#!/bin/sh\necho $DRV_PATH $OUT_PATHS >> {}\necho heard\n", log.display());
    fs_err::write(&hook, text).unwrap();
    fs_err::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    world.configure(&format!("post-build-hook = {}", hook.display()));
    world.machines(&[("b1", 1)]);
    let _daemon = world.daemon();
    let drv = world.sleeper("0.367");
    let mut other = world.client(&["-r", &drv]);
    let other = other.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut client = world.client(&["-r", &drv]);
    let output = client.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(other.wait_with_output().unwrap().status.success());
    let path = succeeds(world.client(&["-r", &drv]));
    assert_eq!(fs_err::read_to_string(&log).unwrap(), format!("{drv} {path}\n"));
    // where it fails, so does the build for who waits for it
    fs_err::write(&hook, "#!/bin/sh\nexit 3\n").unwrap();
    let said = fails(world.client(&["-r", &world.sleeper("0.068")]), 1);
    assert!(said.contains("hook\" failed with exit code 3"), "{said}");
}

#[test]
fn what_a_trusted_client_says_of_the_store_counts() {
    let world = World::new();
    world.machines(&[("b1", 1)]);
    let _daemon = world.daemon();
    let optimise = ["--option", "auto-optimise-store", "true"];
    let built = |name: &str, options: &[&str]| {
        let drv = world.derivation(name, "echo the same > $out", &[]);
        let path = succeeds(world.client(&[&["-r", &drv], options].concat()));
        (drv, path)
    };
    let [(_, first), (_, second)] = ["first", "second"].map(|name| built(name, &optimise));
    let (_, third) = built("third", &[]);
    let links = |path: &str| std::fs::metadata(world.real(path)).unwrap().nlink();
    assert_eq!((links(&first), links(&second), links(&third)), (3, 3, 1));

    let root = world.path("drv").display().to_string();
    let kept = world.derivation("kept", "echo kept > $out", &["--add-root", &root, "--indirect"]);
    let kept = fs_err::read_link(&kept).unwrap().display().to_string();
    let path = succeeds(world.client(&["-r", &kept]));
    succeeds(world.client(&["--gc", "--option", "keep-outputs", "true"]));
    assert!(world.real(&path).exists() && !world.real(&first).exists());
    succeeds(world.client(&["--gc"]));
    assert!(!world.real(&path).exists() && world.real(&kept).exists());
    world.assert_sound();
}

#[test]
fn the_cores_that_a_client_asks_for_reach_the_build() {
    let world = World::new();
    world.machines(&[("b1", 1)]);
    let _daemon = world.daemon();
    let other = (std::thread::available_parallelism().unwrap().get() + 1).to_string();
    let drv = world.derivation("cores", "echo $NIX_BUILD_CORES > $out", &[]);
    let path = succeeds(world.client(&["-r", &drv, "--cores", &other]));
    assert_eq!(fs_err::read_to_string(world.real(&path)).unwrap().trim(), other);
}

/// A build is repeated on this machine, never on another, as by stock Nix; where none is done here
/// that is said.
#[test]
fn a_build_that_is_to_be_checked_is_refused_by_name() {
    let world = World::new();
    world.machines(&[("b1", 1)]);
    let _daemon = world.daemon();
    let drv = world.derivation("twice", "echo > $out", &[]);
    let path = succeeds(world.client(&["-r", &drv]));
    let said = fails(world.client(&["-r", &drv, "--check"]), 1);
    assert!(said.contains("cannot check builds by repeating them where none are done"), "{said}");
    // what is sound needs no building
    succeeds(world.client(&["-r", &drv, "--repair"]));
    fs_err::remove_file(world.real(&path)).unwrap();
    fs_err::write(world.real(&path), "damaged").unwrap();
    let said = fails(world.client(&["-r", &drv, "--repair"]), 1);
    let expected = "no builds are done on this machine ('max-jobs = 0')";
    assert!(said.contains("cannot repair path") && said.contains(expected), "{said}");
}

#[test]
fn a_derivation_can_be_named_to_nix_build() {
    let world = World::new();
    world.machines(&[("b1", 1)]);
    let daemon = world.daemon();
    let drv = world.derivation("named", "echo > $out", &[]);
    let path = succeeds(world.by_name("nix-build", &["--no-out-link", &drv]));
    assert!(path.ends_with("-named"), "{path}");
    drop(daemon);
    std::os::unix::fs::symlink(&drv, world.path("link")).unwrap();
    for name in [format!("{drv}!out"), drv.clone(), "link".to_owned()] {
        assert_eq!(succeeds(world.by_name("nix-build", &["-o", "result", &name])), path, "{name}");
        assert_eq!(fs_err::read_link(world.path("result")).unwrap(), Path::new(&path));
    }
    // with something to evaluate beside it
    let text = r#"derivation { name = "other"; system = "x86_64-linux"; builder = "/bin/sh"; }"#;
    fs_err::write(world.path("other.nix"), text).unwrap();
    let both = world.by_name("nix-build", &["--dry-run", "other.nix", &drv]).output().unwrap();
    assert!(both.status.success() && stderr(&both).contains("-other.drv"), "{}", stderr(&both));
    let said = fails(world.by_name("nix-build", &[&format!("{drv}!dev")]), 1);
    assert!(said.contains("does not have output 'dev'"), "{said}");
    let said = fails(world.by_name("nix-build", &[&format!("{drv}!dev,out")]), 1);
    assert!(said.contains("building more than one derivation output is not supported"), "{said}");
}

/// What is damaged comes from the stores of `substituters` that can be opened.
#[test]
fn damaged_paths_are_fetched_again() {
    let (world, other) = (World::new(), World::new());
    let cache = "s3://cache?scheme=ftp";
    world.configure(&format!("substituters = {cache} {}", other.store()));
    let _daemon = world.daemon();
    let file = world.path("file");
    fs_err::write(&file, "as it was").unwrap();
    let path = succeeds(world.client(&["--add", &file.display().to_string()]));
    let own = |arguments: &[&str]| {
        let mut command = world.command(env!("CARGO_BIN_EXE_drover"), arguments);
        command.env("NIX_REMOTE", world.store());
        command
    };
    let damage = || {
        fs_err::remove_file(world.real(&path)).unwrap();
        fs_err::write(world.real(&path), "damaged").unwrap();
    };
    let verify = ["--verify", "--check-contents", "--repair"];
    damage();
    // nobody has it
    let said = fails(world.client(&verify), 1);
    assert!(said.contains("was modified!"), "{said}");
    let said = fails(own(&["store", "repair", &path]), 1);
    let expected = format!("substituter '{cache}' was not asked");
    assert!(said.contains(&expected) && said.contains("cannot repair path"), "{said}");
    succeeds(other.by_name("nix-store", &["--add", &file.display().to_string()]));
    let repairs = [
        world.client(&verify),
        world.by_name("nix-store", &verify),
        world.by_name("nix-store", &["--repair-path", &path]),
        own(&["store", "repair", &path]),
    ];
    for repair in repairs {
        damage();
        let said = format!("{repair:?}");
        succeeds(repair);
        assert_eq!(fs_err::read_to_string(world.real(&path)).unwrap(), "as it was", "{said}");
    }
    world.assert_sound();
}

/// Clients with `ca-derivations` ask for that of all that was built, and abort where it isn't there.
#[test]
fn it_is_noted_what_outputs_are_whose_paths_are_known() {
    let world = World::new();
    // with the feature this waits until nobody else has the store open
    let drv = world.derivation("noted", "echo > $out", &[]);
    world.configure("extra-experimental-features = ca-derivations");
    world.machines(&[("b1", 1)]);
    let _daemon = world.daemon();
    let cache = format!("file://{}", world.path("cache").display());
    for _ in ["built", "there already"] {
        let copy = world.client_program("nix", &["copy", "--to", &cache, &drv]);
        succeeds(copy);
    }
}

#[test]
fn a_trusted_client_brings_its_machines() {
    let world = World::new();
    let _daemon = world.daemon();
    let drv = world.sleeper("0.071");
    fails(world.client(&["-r", &drv]), 1);
    world.machines(&[("b1", 1)]);
    let machines = fs_err::read_to_string(world.path("conf/machines")).unwrap();
    let path = succeeds(world.client(&["-r", &drv, "--builders", machines.trim()]));
    assert!(path.ends_with("-sleeper"), "{path}");
}

/// All builds for a store go through its daemon, whoever opens the store's files: these processes
/// know no machines, the daemon does.
#[rstest]
#[case::realise("nix-store")]
#[case::build("nix-build")]
fn there_is_one_scheduler(#[case] name: &str) {
    let world = World::new();
    world.machines(&[("b1", 1)]);
    let machines = fs_err::read_to_string(world.path("conf/machines")).unwrap();
    world.machines(&[]);
    let mut command = world.daemon_command();
    command.args(["--option", "builders", machines.trim()]);
    let daemon = Daemon(command.spawn().unwrap());
    world.heard("READY=1");
    let build = |seconds: &str| match name {
        "nix-store" => world.by_name(name, &["-r", &world.sleeper(seconds)]),
        _ => world.by_name(name, &["--no-out-link", "-E", &world.expression(seconds)]),
    };
    let path = succeeds(build("0.081"));
    assert!(path.ends_with("-sleeper"), "{path}");
    drop(daemon);
    assert!(fails(build("0.082"), 100).contains("no machine"));
}

#[test]
fn a_socket_is_handed_over() {
    let world = World::new();
    let script = r#"use IO::Socket::UNIX; use POSIX;
        $^F = 9;
        my $s = IO::Socket::UNIX->new(Local => $ENV{NIX_DAEMON_SOCKET_PATH}, Listen => 9) or die $!;
        POSIX::dup2(fileno($s), 3) or die $!;
        $ENV{LISTEN_FDS} = 1; $ENV{LISTEN_PID} = $$; exec @ARGV or die $!;"#;
    let template = world.daemon_command();
    let mut command = Command::new("perl");
    command
        .args(["-e", script])
        .arg(template.get_program())
        .args(template.get_args())
        .envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(world.dir.path())
        .stdin(Stdio::null());
    let mut daemon = Daemon(command.spawn().unwrap());
    world.heard("READY=1");
    fs_err::write(world.path("file"), "words").unwrap();
    let path = succeeds(world.client(&["--add", "file"]));
    assert_eq!(succeeds(world.client(&["-q", "--hash", &path])).len(), 59);
    daemon.tell(Signal::TERM);
    assert_eq!(daemon.ended(), 0);
    assert!(world.socket().exists(), "the socket is the service manager's");
}

#[test]
fn after_a_kill_the_next_start_finds_a_clean_store() {
    let world = World::new();
    fs_err::create_dir(world.path("many")).unwrap();
    for number in 0..200 {
        fs_err::write(world.path("many").join(number.to_string()), number.to_string()).unwrap();
    }
    for round in 0..3 {
        let mut daemon = world.daemon();
        fs_err::write(world.path("many/round"), round.to_string()).unwrap();
        let mut adding = world.client(&["--add", "many"]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(3 + 40 * round));
        daemon.tell(Signal::KILL);
        daemon.ended();
        adding.wait().unwrap();
        world.assert_sound();
    }
    let _daemon = world.daemon();
    let path = succeeds(world.client(&["--add", "many"]));
    succeeds(world.client(&["--verify-path", &path]));
    let whole = succeeds(world.client(&["--gc"]));
    assert!(whole.contains("store paths deleted"), "{whole}");
    let left = fs_err::read_dir(world.path("root/nix/store")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    let odd = left.iter().filter(|name| *name != ".links");
    assert_eq!(odd.count(), 0, "{left:?}");
    world.assert_sound();
}

#[test]
fn a_store_that_is_made_anew_is_noticed() {
    let world = World::new();
    let mut daemon = world.daemon();
    fs_err::write(world.path("file"), "words").unwrap();
    let path = succeeds(world.client(&["--add", "file"]));
    // a client that is connected already, and waits for its input
    let mut waiting = world.client(&["--import"]).stdin(Stdio::piped()).spawn().unwrap();
    let exported = world.client(&["--export", &path]).output().unwrap().stdout;
    fs_err::remove_dir_all(world.path("root/nix/var/nix/db")).unwrap();
    let mut stock = world.command("nix-store", &["--init"]);
    succeeds({
        stock.env("NIX_REMOTE", world.store());
        stock
    });
    let said = fails(world.client(&["--check-validity", &path]), 1);
    assert!(said.contains("is not valid"), "{said}");
    std::io::Write::write_all(waiting.stdin.as_mut().unwrap(), &exported).unwrap();
    drop(waiting.stdin.take());
    assert!(waiting.wait().unwrap().success());
    succeeds(world.client(&["--check-validity", &path]));
    assert!(daemon.0.try_wait().unwrap().is_none(), "it is another daemon");
    world.assert_sound();
}

/// A plain file in the place of the other daemon's lock, or a lock that nobody holds, is no daemon.
#[test]
fn a_daemon_that_was_killed_stands_in_nobodys_way() {
    let world = World::new();
    let mut daemon = world.daemon();
    assert!(Path::new(&world.path("root/nix/var/nix/drover-daemon")).exists());
    daemon.tell(Signal::KILL);
    daemon.ended();
    world.machines(&[("b1", 1)]);
    let drv = world.sleeper("0.091");
    let path = succeeds(world.by_name("nix-store", &["-r", &drv]));
    assert!(path.ends_with("-sleeper"), "{path}");
}

/// Who finds the daemon's socket finds all that goes with it.
#[test]
fn what_goes_with_the_socket_is_there_before_it() {
    let world = World::new();
    let _daemon = Daemon(world.daemon_command().spawn().unwrap());
    let began = Instant::now();
    // without a pause, as it's a matter of a moment
    while !world.socket().exists() {
        assert!(began.elapsed() < LIMIT, "{}", world.log());
    }
    assert!(world.path("socket.control").exists(), "questions have no answer yet");
    let place = fs_err::File::open(world.path("root/nix/var/nix/drover-daemon")).unwrap();
    let looked = rustix::fs::flock(&place, rustix::fs::FlockOperation::NonBlockingLockShared);
    assert_eq!(looked, Err(rustix::io::Errno::WOULDBLOCK), "builds go beside the daemon");
}
