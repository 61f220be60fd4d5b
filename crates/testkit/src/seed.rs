//! What is laid over the shared root when a host starts: names, keys and configuration.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use anyhow::Result;

use crate::entrance::deliver;
use crate::fleet::{Member, Shared};

/// `alice`, see `root.sh`.
const ALICE: u32 = 1000;

/// Writes what is laid over the shared root when the host starts.
pub(crate) fn seed(seed: &Path, shared: &Shared) -> Result<()> {
    let (hosts, known) = introductions(&shared.members());
    let files: [(&str, u32, &str); 9] = [
        ("etc/hosts", 0o644, &hosts),
        ("etc/ssh/ssh_known_hosts", 0o644, &known),
        ("etc/ssh/sshd_config", 0o644, SSHD_CONFIG),
        ("etc/nix/nix.conf", 0o644, NIX_CONF),
        ("opt/graph/graph.nix", 0o644, include_str!("../../../examples/graph.nix")),
        ("usr/local/sbin/start-sshd", 0o755, include_str!("start-sshd.sh")),
        ("usr/local/sbin/start-daemon", 0o755, include_str!("start-daemon.sh")),
        ("root/.ssh/config", 0o644, &client_config(0)),
        ("home/alice/.ssh/config", 0o644, &client_config(0)),
    ];
    for (path, mode, text) in files {
        let path = seed.join(path);
        fs::create_dir_all(path.parent().unwrap_or(seed))?;
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    fs::set_permissions(seed.join("root"), fs::Permissions::from_mode(0o700))?;
    let key = shared.folder.join("key");
    for (home, user) in [("root", 0), ("home/alice", ALICE)] {
        let ssh = seed.join(home).join(".ssh");
        fs::copy(&key, ssh.join("id_ed25519"))?;
        fs::copy(key.with_extension("pub"), ssh.join("authorized_keys"))?;
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o700))?;
        let names = ["", ".ssh", ".ssh/id_ed25519", ".ssh/authorized_keys", ".ssh/config"];
        for name in names {
            chown(seed.join(home).join(name), Some(user), Some(user))?;
        }
    }
    Ok(())
}

const SSHD_CONFIG: &str = "HostKey /etc/ssh/ssh_host_ed25519_key\nPermitRootLogin yes\n\
    PasswordAuthentication no\nUsePAM no\nUseDNS no\nMaxStartups 200:30:400\nMaxSessions 500\n\
    PidFile /run/sshd.pid\nSubsystem sftp internal-sftp\n";

const NIX_CONF: &str = "experimental-features = nix-command flakes\nsandbox = false\n\
    build-users-group = nixbld\nsubstituters =\ntrusted-users = root\n";

/// Returns the SSH client configuration with a one-way delay in milliseconds.
pub(crate) fn client_config(delay: u32) -> String {
    let mut text = "Host *\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n".to_owned();
    if delay != 0 {
        text += &format!("  ProxyCommand /usr/local/bin/delay-proxy {delay} %h %p\n");
    }
    text
}

/// Writes the names and host keys of all members into the host whose first process is `init`.
pub(crate) fn write_introductions(init: i32, members: &[Member]) -> Result<()> {
    let (hosts, known) = introductions(members);
    deliver(init, "/etc/hosts", 0o644, &mut hosts.as_bytes())?;
    deliver(init, "/etc/ssh/ssh_known_hosts", 0o644, &mut known.as_bytes())
}

fn introductions(members: &[Member]) -> (String, String) {
    let mut hosts = "127.0.0.1 localhost\n".to_owned();
    let mut known = String::new();
    for Member { name, address, host_key, .. } in members {
        hosts += &format!("{address} {name}\n");
        known += &format!("{name},{address} {host_key}\n");
    }
    (hosts, known)
}
