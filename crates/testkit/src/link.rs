//! The link between a host and the others: cut, mute, or far away.
//!
//! A mute link drops packets on both ends of the cable with a `blackhole` queue, which every kernel
//! has; distance is a program in the path of SSH, because many kernels lack `netem`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::fleet::program;
use crate::host::Host;
use crate::{cache, seed};

/// The state of a host's link to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Packets pass.
    Up,
    /// The cable is out.
    Cut,
    /// The cable is in, and every packet vanishes: no reset, no close, no error.
    Mute,
}

impl Host {
    /// Sets the state of the link.
    ///
    /// # Errors
    ///
    /// If `ip` or `tc` refuse.
    pub fn set_link(&self, link: Link) -> Result<()> {
        let port = self.port.as_str();
        let carrier = if link == Link::Cut { "down" } else { "up" };
        self.shared.at_switch(&["ip", "link", "set", port, carrier])?;
        if link == Link::Mute {
            self.shared.at_switch(&["tc", "qdisc", "replace", "dev", port, "root", "blackhole"])?;
            self.run_ok(&["tc", "qdisc", "replace", "dev", "eth0", "root", "blackhole"])?;
        } else {
            // There may be none to delete.
            self.shared.at_switch(&["tc", "qdisc", "del", "dev", port, "root"]).ok();
            self.run(&["tc", "qdisc", "del", "dev", "eth0", "root"])?;
        }
        Ok(())
    }

    /// Takes the cable out.
    ///
    /// # Errors
    ///
    /// If `ip` refuses.
    pub fn cut(&self) -> Result<()> {
        self.set_link(Link::Cut)
    }

    /// Lets every packet to and from the host vanish, silently.
    ///
    /// # Errors
    ///
    /// If `tc` refuses.
    pub fn mute(&self) -> Result<()> {
        self.set_link(Link::Mute)
    }

    /// Lets no more than so many kilobits a second leave the host.
    ///
    /// # Errors
    ///
    /// If `tc` refuses.
    pub fn throttle(&self, kilobits: u32) -> Result<()> {
        let rate = format!("{kilobits}kbit");
        let limits = ["tbf", "rate", &rate, "burst", "64k", "latency", "400ms"];
        let line = [["tc", "qdisc", "replace", "dev", "eth0", "root"].as_slice(), &limits].concat();
        self.run_ok(&line).map(drop)
    }

    /// Undoes [`Host::cut`], [`Host::mute`] and [`Host::throttle`].
    ///
    /// # Errors
    ///
    /// If `ip` refuses.
    pub fn heal(&self) -> Result<()> {
        self.set_link(Link::Up)
    }

    /// Puts every SSH connection that the host opens from now on at a distance of `ms`
    /// milliseconds one way, so a round trip takes twice that; 0 takes the distance away.
    ///
    /// # Errors
    ///
    /// If the proxy cannot be compiled or the configuration not be written.
    pub fn delay(&self, ms: u32) -> Result<()> {
        if ms != 0 {
            self.put(delay_proxy()?, "/usr/local/bin/delay-proxy")?;
        }
        let config = seed::client_config(ms);
        self.write("/root/.ssh/config", &config)?;
        self.write("/home/alice/.ssh/config", &config)
    }
}

/// Compiles `delay-proxy` unless that is done, and returns where it is.
///
/// Not by Cargo: a test of another crate has no way to ask Cargo for a program of this one.
fn delay_proxy() -> Result<PathBuf> {
    let source = include_str!("bin/delay-proxy.rs");
    let folder = cache::folder()?;
    let _lock = cache::lock(&folder.join("delay-proxy.lock"))?;
    let (copy, binary) = (folder.join("delay-proxy.rs"), folder.join("delay-proxy"));
    if !binary.exists() || fs::read_to_string(&copy).ok().as_deref() != Some(source) {
        let fresh = folder.join("delay-proxy-fresh.rs");
        fs::write(&fresh, source)?;
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        program(
            Command::new(rustc).args(["--edition", "2024", "-O", "-o"]).arg(&binary).arg(&fresh),
        )?;
        // Renamed last: a source that is there vouches for the binary beside it.
        fs::rename(fresh, copy)?;
    }
    Ok(binary)
}
