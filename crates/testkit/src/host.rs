//! One test host: a Debian system in namespaces of its own, and what can be done to it.
//!
//! Everything inside hangs on the host's first process; when that ends the kernel kills the rest
//! and the mounts go.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::process::Signal;

use crate::entrance::{deliver, enter};
use crate::fleet::{Member, Shared};
use crate::running::{Running, describe, ending};
use crate::web::{self, Scheme, WebServer};
use crate::{Suite, processes, seed};

/// How long killed processes may take to be gone.
const KILLED_WITHIN: Duration = Duration::from_secs(10);
/// How long [`Host::run`] lets a program run.
const RUN_LIMIT: Duration = Duration::from_secs(180);
/// How long a host may take to start; it takes a fraction of a second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(300);

/// A running host. Dropping it is pulling its plug: nobody on the network is told.
#[derive(Debug)]
pub struct Host {
    pub(crate) shared: Arc<Shared>,
    member: Member,
    suite: Suite,
    /// `unshare`, which ends when the first process of the host has.
    outer: Child,
    /// The first process of the host ends when this is closed.
    control: Option<ChildStdin>,
    init: i32,
    /// The first process and the shell that watches the pipe for it.
    frame: Vec<i32>,
    pid_namespace: PathBuf,
    /// Name of the switch's end of the link.
    pub(crate) port: String,
}

impl Host {
    /// Starts the host `member` on the disk of `root`.
    pub(crate) fn start(
        shared: Arc<Shared>,
        member: &Member,
        suite: Suite,
        root: &Path,
    ) -> Result<Host> {
        let folder = shared.folder.join(&member.name);
        for name in ["nix", "top"] {
            let path = folder.join(name);
            if path.exists() {
                fs::remove_dir_all(&path)?;
            }
            fs::create_dir(&path)?;
        }
        seed::seed(&folder.join("seed"), &shared)?;
        let log = folder.join("log");
        let mut outer = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--uts", "--ipc", "--propagation", "private"])
            .args(["--fork", "--kill-child=KILL", "--", "sh", "-c", include_str!("host-init.sh")])
            .env("HOST_DIR", &folder)
            .env("HOST_ROOT", root)
            .env("HOST_NAME", &member.name)
            .env("HOST_ADDRESS", member.address.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot run unshare")?;
        let control = outer.stdin.take();
        let words = lines(outer.stdout.take().context("no pipe from the host")?);
        let port = format!("p{}", shared.port());
        let member = member.clone();
        // From here on a failure drops the host, and with it whatever has started.
        let mut host = Host {
            shared,
            member,
            suite,
            outer,
            control,
            init: 0,
            frame: Vec::new(),
            pid_namespace: PathBuf::new(),
            port,
        };
        if let Err(error) = host.come_up(&words) {
            let log = fs::read_to_string(&log).unwrap_or_default();
            bail!("host {} does not start: {error:#}\n{log}", host.member.name);
        }
        Ok(host)
    }

    fn come_up(&mut self, words: &Receiver<String>) -> Result<()> {
        let first = words.recv_timeout(START_LIMIT).context("no sign of life")?;
        let pid = first.strip_prefix("pid ").with_context(|| format!("unexpected {first:?}"))?;
        self.init = pid.parse()?;
        self.pid_namespace = processes::pid_namespace(self.init).context("it is gone already")?;
        let port = self.port.as_str();
        let add = ["ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", pid];
        self.shared.at_switch(&add)?;
        self.shared.at_switch(&["ip", "link", "set", port, "master", "br0", "up"])?;
        self.control.as_mut().context("no pipe to the host")?.write_all(b"go\n")?;
        let second = words.recv_timeout(START_LIMIT).context("sshd or nix-daemon do not start")?;
        ensure!(second == "ready", "unexpected {second:?}");
        let inside = processes::inside(&self.pid_namespace).into_iter();
        self.frame = inside.filter(|it| it.name == "sh").map(|it| it.pid).collect();
        self.shared.note_init(&self.member.name, self.init);
        Ok(())
    }

    /// Returns the name, which the other hosts know as well.
    pub fn name(&self) -> &str {
        &self.member.name
    }

    /// Returns the address on the fleet's network.
    pub fn address(&self) -> Ipv4Addr {
        self.member.address
    }

    /// Returns the Debian release.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Returns the public host key of its sshd: type and base64, separated by a space.
    pub fn host_key(&self) -> &str {
        &self.member.host_key
    }

    /// Returns a command that runs `argv` in the host as root, in `/root`, with a plain
    /// environment. For those who need standard input or a pipe; see [`Host::run`] for the rest.
    ///
    /// Killing the [`Child`] does not kill the program inside; the end of the host does.
    pub fn command<S: AsRef<OsStr>>(&self, argv: &[S]) -> Command {
        let mut command = enter(self.init);
        command.args(argv);
        command
    }

    /// Runs a program to its end, for at most three minutes.
    ///
    /// # Errors
    ///
    /// If it cannot be started or does not end in time; a failing program is no error.
    pub fn run(&self, argv: &[&str]) -> Result<Output> {
        self.run_within(RUN_LIMIT, argv)
    }

    /// Runs a program to its end, for at most `limit`.
    ///
    /// # Errors
    ///
    /// If it cannot be started or does not end in time; a failing program is no error.
    pub fn run_within(&self, limit: Duration, argv: &[&str]) -> Result<Output> {
        self.spawn(argv)?.wait(limit)
    }

    /// Runs a program that must succeed, and returns its output without the last line break.
    ///
    /// # Errors
    ///
    /// If it fails; the text holds the last lines of what it said.
    pub fn run_ok(&self, argv: &[&str]) -> Result<String> {
        let output = self.run(argv)?;
        ensure!(
            output.status.success(),
            "{}: {}",
            ending(output.status),
            describe(&self.line(argv), &output.stdout, &output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned())
    }

    /// Runs a shell script that must succeed; the same as [`Host::run_ok`] with `sh -euc`.
    ///
    /// # Errors
    ///
    /// If it fails; the text holds the last lines of what it said.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.run_ok(&["sh", "-euc", script])
    }

    /// Starts a program and does not wait for it. It is killed when the handle is dropped.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn spawn(&self, argv: &[&str]) -> Result<Running> {
        Running::start(self.command(argv), self.line(argv), &self.shared.stem())
    }

    /// Writes a file in the host, making its folder if need be.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write(&self, path: &str, contents: impl AsRef<[u8]>) -> Result<()> {
        deliver(self.init, path, 0o644, &mut contents.as_ref())
    }

    /// Copies a file of the machine into the host, with its permissions. A program that runs there
    /// under that name goes on with the old one.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or written.
    pub fn put(&self, source: impl AsRef<Path>, path: &str) -> Result<()> {
        let source = source.as_ref();
        let mut file =
            File::open(source).with_context(|| format!("cannot read {}", source.display()))?;
        let mode = file.metadata()?.permissions().mode();
        deliver(self.init, path, mode & 0o7777, &mut file)
    }

    /// Reads a file in the host.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let output = self.run(&["cat", "--", path])?;
        ensure!(
            output.status.success(),
            "{}: {}",
            self.line(&["cat", path]),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output.stdout)
    }

    /// Instantiates `examples/graph.nix` with these arguments and returns the derivation's path.
    /// A fresh `salt` is added unless one is given, so nothing of the graph is built anywhere.
    ///
    /// # Errors
    ///
    /// If Nix refuses.
    pub fn instantiate(&self, arguments: &[(&str, &str)]) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let salt = now.as_nanos().to_string();
        let mut argv = vec!["nix-instantiate", "--quiet", "/opt/graph/graph.nix"];
        if !arguments.iter().any(|(name, _)| *name == "salt") {
            argv.extend(["--argstr", "salt", &salt]);
        }
        for (name, value) in arguments {
            argv.extend(["--argstr", name, value]);
        }
        self.run_ok(&argv)
    }

    /// Starts a web server on the host's loopback, in a thread of this process.
    ///
    /// # Errors
    ///
    /// If the host has ended.
    pub fn web_server(&self, scheme: Scheme) -> Result<WebServer> {
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", self.init))?;
        WebServer::start_in(scheme, namespace)
    }

    /// Listens on the host's loopback, at any port that is free: for a server of this machine that takes
    /// a socket which somebody else has opened.
    ///
    /// # Errors
    ///
    /// If the host has ended.
    pub fn listen(&self) -> Result<TcpListener> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.init))?;
        let listening = std::thread::spawn(move || web::listen(Some(namespace)));
        listening.join().map_err(|_| anyhow!("listening has panicked"))?
    }

    /// Kills the stock daemon with all of its workers, as a crash would, and starts it again.
    /// Those that SSH sessions run (`nix-daemon --stdio`) live on.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn restart_daemon(&self) -> Result<()> {
        self.kill(|line| line.contains("nix-daemon") && !line.contains("--stdio"));
        self.run_ok(&["/usr/local/sbin/start-daemon"]).map(drop)
    }

    /// Kills sshd with all of its sessions' processes, but not what those run.
    pub fn kill_sshd(&self) {
        self.kill(|line| line.contains("sshd"));
    }

    /// Starts sshd again after [`Host::kill_sshd`].
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn start_sshd(&self) -> Result<()> {
        self.run_ok(&["/usr/local/sbin/start-sshd"]).map(drop)
    }

    /// Returns the ids, as seen from outside, of all processes in the host but those that make it
    /// one: its first process, and the listening sshd and nix-daemon.
    pub fn pids(&self) -> Vec<i32> {
        self.processes().into_iter().map(|(pid, _)| pid).collect()
    }

    /// Returns [`Host::pids`] with their command lines.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let inside = processes::inside(&self.pid_namespace);
        let is_service = |process: &processes::Process| {
            let line = process.command_line();
            let listens = line == "nix-daemon" || line.contains("/usr/sbin/sshd -D");
            self.frame.contains(&process.pid) || process.parent == self.init && listens
        };
        let others = inside.into_iter().filter(|process| !is_service(process));
        others.map(|process| (process.pid, process.command_line())).collect()
    }

    /// Returns the processor time that programs in the host have used so far, but for those that
    /// were started from outside: theirs is their starter's.
    pub fn processor_time(&self) -> Duration {
        let inside = processes::inside(&self.pid_namespace);
        inside.iter().map(processes::Process::processor_time).sum()
    }

    /// Pulls the plug: every process ends at once, the disk is gone, the network hears nothing.
    pub fn stop(self) {
        drop(self);
    }

    /// Kills processes, and waits until they are gone, with what they listened on.
    fn kill(&self, wanted: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + KILLED_WITHIN;
        loop {
            let mut left = processes::inside(&self.pid_namespace);
            // the shells that make it a host have all that they do in their command lines
            left.retain(|process| {
                !self.frame.contains(&process.pid) && wanted(&process.command_line())
            });
            if left.is_empty() || deadline <= Instant::now() {
                return;
            }
            for process in left {
                processes::send(process.pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn line(&self, argv: &[&str]) -> String {
        format!("{}# {}", self.member.name, argv.join(" "))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.shared.forget(&self.member.name);
        drop(self.control.take());
        if self.init != 0 {
            processes::send(self.init, Signal::KILL);
        } else {
            self.outer.kill().ok();
        }
        // Ends after the first process, which ends after all others inside.
        self.outer.wait().ok();
    }
}

/// Reads lines in a thread of its own, so that waiting for one can have a limit.
fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
