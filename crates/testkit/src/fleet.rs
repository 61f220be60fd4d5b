//! A network of test hosts: its switch, its names and keys, its files, and their removal.
//!
//! The switch is a bridge in a network namespace of its own, so no address, interface or firewall
//! rule of the machine is touched, and fleets cannot meet each other.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::host::Host;
use crate::running::{describe, ending};
use crate::{Suite, cache, root, seed};

/// A network of hosts. It and its files are gone when it and all of its hosts have been dropped.
#[derive(Debug)]
pub struct Fleet {
    shared: Arc<Shared>,
}

/// What the hosts of a fleet have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Files of this fleet.
    pub(crate) folder: PathBuf,
    /// Held as long as the fleet lives: who can take it may remove the folder.
    _owner: File,
    switch: Child,
    _switch_input: ChildStdin,
    members: Mutex<Vec<Member>>,
    introducing: Mutex<()>,
    next_port: AtomicU64,
    next_file: AtomicUsize,
}

/// What all hosts know of each.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) host_key: String,
    /// First process of the host, once it runs.
    pub(crate) init: Option<i32>,
}

impl Fleet {
    /// Makes an empty network. `name` only serves to tell its folder from others.
    ///
    /// # Errors
    ///
    /// If this is not root, a program is absent, or the kernel has no namespaces for us; the text
    /// says what to do.
    pub fn new(name: &str) -> Result<Fleet> {
        root::check_machine()?;
        let (folder, owner) = claim_folder(name)?;
        program(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "fleet"])
                .arg("-f")
                .arg(folder.join("key")),
        )?;
        // The namespace lives as long as this shell, which lives as long as we hold its input.
        let mut switch = Command::new("unshare")
            .args(["--net", "--", "sh", "-euc"])
            .arg("ip link add br0 type bridge; ip link set br0 up; echo ready; read -r _ || :")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("switch.log"))?)
            .spawn()
            .context("cannot run unshare")?;
        let input = switch.stdin.take().context("no pipe to the switch")?;
        let output = switch.stdout.take().context("no pipe from the switch")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let shared = Shared {
            folder,
            _owner: owner,
            switch,
            _switch_input: input,
            members: Mutex::default(),
            introducing: Mutex::default(),
            next_port: AtomicU64::new(1),
            next_file: AtomicUsize::new(1),
        };
        if line != "ready\n" {
            let log = fs::read_to_string(shared.folder.join("switch.log")).unwrap_or_default();
            bail!("cannot make a network (are namespaces and bridges allowed here?): {log}");
        }
        Ok(Fleet { shared: Arc::new(shared) })
    }

    /// Starts a host. Its root is made first if this is the first time.
    ///
    /// # Errors
    ///
    /// If the name is taken or the host does not start; the text holds the log.
    pub fn host(&self, name: &str, suite: Suite) -> Result<Host> {
        let root = suite.prepare()?;
        let member = self.shared.admit(name)?;
        let host = Host::start(Arc::clone(&self.shared), &member, suite, &root);
        if host.is_err() {
            self.shared.forget(name);
        }
        let host = host?;
        self.shared.introduce()?;
        Ok(host)
    }

    /// Starts several hosts at the same time.
    ///
    /// # Errors
    ///
    /// Those of [`Fleet::host`]; the hosts that did start are stopped.
    pub fn hosts<const N: usize>(&self, wanted: [(&str, Suite); N]) -> Result<[Host; N]> {
        let hosts = std::thread::scope(|scope| {
            let starts = wanted.map(|(name, suite)| scope.spawn(move || self.host(name, suite)));
            let results = starts.into_iter().map(|start| {
                start.join().unwrap_or_else(|_| Err(anyhow!("the thread of a host panicked")))
            });
            // All must be joined before the first error counts.
            let results: Vec<Result<Host>> = results.collect();
            results.into_iter().collect::<Result<Vec<Host>>>()
        })?;
        hosts.try_into().map_err(|_| anyhow!("a host is missing"))
    }

    /// Returns the folder with the files of this fleet, as seen from outside of the hosts.
    pub fn folder(&self) -> &Path {
        &self.shared.folder
    }
}

impl Shared {
    /// Runs a program in the network namespace of the switch.
    pub(crate) fn at_switch(&self, argv: &[&str]) -> Result<()> {
        let target = self.switch.id().to_string();
        program(Command::new("nsenter").args(["-t", &target, "-n", "--"]).args(argv))
    }

    /// Returns a number for a port of the switch that no other host has or had.
    pub(crate) fn port(&self) -> u64 {
        self.next_port.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns the beginning of a file name that nobody else uses.
    pub(crate) fn stem(&self) -> String {
        let number = self.next_file.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("run-{number}")).display().to_string()
    }

    /// Returns those who are on the network or about to be.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes the first process of a host.
    pub(crate) fn note_init(&self, name: &str, init: i32) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.iter_mut().filter(|it| it.name == name).for_each(|it| it.init = Some(init));
    }

    /// Takes a host off the list.
    pub(crate) fn forget(&self, name: &str) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|member| member.name != name);
    }

    /// Gives a new host its folder, its address and its host key.
    fn admit(&self, name: &str) -> Result<Member> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            !name.is_empty() && name.len() <= 32 && name.chars().all(plain),
            "{name:?} is no name for a host: use a-z, 0-9 and dashes"
        );
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(members.iter().all(|member| member.name != name), "there is a host {name} already");
        let used = |last: u8| members.iter().any(|member| member.address.octets()[3] == last);
        let last = (10..=250).find(|last| !used(*last)).context("the network is full")?;
        let ssh = self.folder.join(name).join("seed/etc/ssh");
        fs::create_dir_all(&ssh)?;
        let key = ssh.join("ssh_host_ed25519_key");
        if !key.exists() {
            program(
                Command::new("ssh-keygen")
                    .args(["-q", "-t", "ed25519", "-N", "", "-C", name])
                    .arg("-f")
                    .arg(&key),
            )?;
        }
        let host_key = fs::read_to_string(key.with_extension("pub"))?;
        let member = Member {
            name: name.to_owned(),
            address: Ipv4Addr::new(10, 78, 0, last),
            host_key: host_key.split(' ').take(2).collect::<Vec<_>>().join(" "),
            init: None,
        };
        members.push(member.clone());
        Ok(member)
    }

    /// Tells every host the names, addresses and host keys of all.
    fn introduce(&self) -> Result<()> {
        // One at a time, so that an older list never overwrites a newer one.
        let _turn = self.introducing.lock().unwrap_or_else(PoisonError::into_inner);
        let members = self.members();
        for member in &members {
            if let Some(init) = member.init {
                seed::write_introductions(init, &members)?;
            }
        }
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.switch.kill().ok();
        self.switch.wait().ok();
        remove_folder(&self.folder);
    }
}

/// Makes the folder of a new fleet, and removes those whose owner is gone.
pub(crate) fn claim_folder(name: &str) -> Result<(PathBuf, File)> {
    let fleets = cache::folder()?.join("fleets");
    fs::create_dir_all(&fleets)?;
    // Nobody else looks for abandoned folders while ours has no lock yet.
    let _lock = cache::lock(&fleets.join(".lock"))?;
    for entry in fs::read_dir(&fleets)?.flatten() {
        let folder = entry.path();
        // One without the file is half made, or its owner is about to remove the rest.
        if folder.is_dir() && !cache::is_held(&folder.join("owner"))? {
            remove_folder(&folder);
        }
    }
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let folder = fleets.join(format!("{name}-{}-{now:x}", std::process::id()));
    fs::create_dir(&folder)?;
    let owner = cache::lock(&folder.join("owner"))?;
    Ok((folder, owner))
}

/// Removes a folder; what is left because a process still ends goes with the next sweep.
pub(crate) fn remove_folder(folder: &Path) {
    for _ in 0..3 {
        if fs::remove_dir_all(folder).is_ok() {
            return;
        }
    }
}

/// Runs a program to its end.
pub(crate) fn program(command: &mut Command) -> Result<()> {
    let line = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {line}: run scripts/install-needs test"))?;
    let said = || describe(&line, &output.stdout, &output.stderr);
    ensure!(output.status.success(), "{}: {}", ending(output.status), said());
    Ok(())
}
