//! Test hosts with real sshd and real Nix, made in a second and gone without a trace.
//!
//! A [`Fleet`] is a network of its own; each [`Host`] on it is a Debian system in namespaces of
//! its own (mount, pid, net, uts, ipc) with `sshd`, the stock `nix-daemon` and an empty store.
//! Hosts know each other by name, share one SSH key and check each other's host keys.
//!
//! ```no_run
//! use drover_testkit::{Fleet, Suite};
//!
//! fn main() -> anyhow::Result<()> {
//!     let fleet = Fleet::new("two-builders")?;
//!     let [client, builder] = fleet.hosts([("c", Suite::Forky), ("b1", Suite::Bookworm)])?;
//!     let drv = client.instantiate(&[("shape", "chain"), ("d", "3")])?;
//!     let builders = "ssh-ng://b1 x86_64-linux - 4 1";
//!     client.run_ok(&["nix-store", "-r", &drv, "-j0", "--builders", builders])?;
//!
//!     builder.mute()?; // the link goes silent: no reset, no close
//!     let ping = client.spawn(&["ssh", "b1", "true"])?; // killed when dropped
//!     builder.heal()?;
//!     drop(ping);
//!     Ok(())
//! }
//! ```
//!
//! * **The program under test** goes into a host with [`Host::put`]; use [`Suite::Forky`] there,
//!   whose C library is the newest.
//! * **Users**: `root` (trusted by the daemon) and `alice` (uid 1000, not trusted); both can log
//!   in everywhere: `run_ok(&["su", "alice", "-c", "ssh b1 id"])`.
//! * **Needs** root, `mmdebstrap`, `iproute2` and OpenSSH (`scripts/install-needs test`); without
//!   them [`Fleet::new`] fails and says so. Nothing is skipped in silence.
//! * **Roots** are made once with `mmdebstrap` (about 25 s each) and kept in `.cache/` of the
//!   workspace, or in `$DROVER_TEST_CACHE`.
//! * **A service manager** is what a [`Booted`] machine has, and a host has not.
//! * **Cleaning up**: the namespaces have no names and live as long as their processes; those end
//!   when the pipe to the owning test closes, so even a killed test leaves no process, mount or
//!   interface. Directories left by a killed test are removed by the next [`Fleet::new`].

mod booted;
mod cache;
mod entrance;
mod fleet;
mod host;
mod link;
mod processes;
mod root;
mod running;
mod seed;
mod web;

pub use booted::Booted;
pub use fleet::Fleet;
pub use host::Host;
pub use link::Link;
pub use root::Suite;
pub use running::{Running, Signal};
pub use web::{Answer, Asked, Certificates, Scheme, WebServer};
