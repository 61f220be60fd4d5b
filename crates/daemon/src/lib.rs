//! Servers of the worker and serve protocols over any store.
//!
//! A [`Server`] speaks the worker protocol with one client after another, or many at a time; a
//! [`ServeServer`] the serve protocol; a [`Listener`] takes clients in at a unix socket, asks the
//! kernel who they are and a [`Policy`] what they may; [`relay`] passes a connection on. What is
//! stored and built is the business of a `Keeper` and a `Realiser`.
//!
//! Invariants: a client costs only itself. Nothing that it says is allocated before it is bounded;
//! every wait for it has a limit while anything is held for it; what it is told waits in a queue
//! with a bound, and builds never wait for that queue. When it goes, what is done for it is dropped.
//! What a client that isn't trusted may do is decided in `rights.rs` and `settings.rs`, nowhere else.
//!
//! Follows `src/libstore/daemon.cc`, `src/nix/unix/daemon.cc` and `opServe` of
//! `src/nix/nix-store/nix-store.cc` of Nix.

mod activation;
mod add;
mod answer;
mod connection;
mod error;
mod failure;
mod feed;
mod fetches;
mod forward;
mod grant;
mod import;
mod limits;
mod listener;
mod log_queue;
mod made;
mod nar_out;
mod observer;
mod opening;
mod peer;
mod policy;
mod realise;
mod relay;
mod rights;
mod serve;
mod server;
mod session;
mod settings;
mod socket;
mod stdio;
mod stream;
mod supervisor;
mod turns;
mod verify;
mod wires;

pub use activation::sockets_from_systemd;
pub use drover_wire::{
    ClientOptions, Need, Outlook, Wait, control_opening, introduction, is_client_name, need,
    question,
};
pub use error::DaemonError;
pub use forward::Forwarder;
pub use grant::{Granted, grant};
pub use limits::Limits;
pub use listener::{Draft, Listener, Stop, TrustRule};
pub use peer::Peer;
pub use policy::{Policy, Refusal};
pub use relay::relay;
pub use serve::{ServeServer, WriteAccess};
pub use server::{Client, ClientTrust, Controls, Machines, Named, Naming, Server};
pub use stdio::{Stdio, stdio};
pub use supervisor::{Supervisor, SupervisorState};
