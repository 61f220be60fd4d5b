//! Questions about a daemon's machines and builds, and orders to it, over a socket of their own.
//!
//! Each request is one line of JSON, and so is each answer; several may follow each other on a
//! connection. A [`Server`] takes them in and asks a [`Responder`]; [`ask`] and [`Conversation`] are the
//! other side, and [`converse`] is the server's for who has come another way. Both bound what they read, and
//! wait for nobody longer than they say.
//!
//! The forms here are those of the socket, and of `--json`: fields are added, and never change what
//! they mean.

mod client;
mod detached;
mod message;
mod report;
mod server;
mod shares;
mod socket;

pub use client::{ControlError, Conversation, ask};
pub use detached::{
    DetachOrder, DetachedBuild, DetachedOutcome, DetachedResult, FollowedBuild, FollowedLine,
};
pub use message::{Answer, MAX_ANSWER, MAX_REQUEST, Request};
pub use report::{
    BuildExplanation, BuildList, BuildLog, BuildReport, ChoiceReport, FailureReport, MachineReport,
};
pub use server::{Caller, Power, Responder, Server, converse};
pub use socket::{Socket, SocketError, socket_beside};
