//! The commands that others call: nix-store, nix-daemon and their kin, over any store.
//!
//! Each command has a pure parser, from arguments to a request, and a function that carries the
//! request out with what a [`Host`] provides: stores, settings, streams, other programs. Arguments
//! are bytes and need not be UTF-8. What scripts read is printed as Nix 2.34 prints it, byte for
//! byte; where an older release differs and scripts would notice, the item says so.
//!
//! [`run`] is for a program that was called by one of these names; [`run_store_request`] and
//! [`run_nix_request`] let `drover` offer the same under its own.

mod build;
mod closure;
mod collect_garbage;
mod command;
mod console;
mod copy_closure;
mod daemon;
mod error;
mod exit;
mod export_format;
mod foreign;
mod garbage;
mod hash;
mod host;
mod installable;
mod json_log;
mod nix;
mod nix_store;
mod options;
mod pack;
mod profile;
mod realise;
mod repair;
mod setting_flags;
mod size;
mod unpack;

pub use build::{BuildRequest, OutLink};
pub use collect_garbage::{CollectGarbage, Generations};
pub use command::{Information, Parsed, Program, run, run_own};
pub use copy_closure::{Compression, CopyClosure, Direction, Reach};
pub use daemon::{ClientTrust, DaemonRequest, Listen, Operations};
pub use error::CompatError;
pub use exit::ExitStatus;
pub use export_format::{
    EXPORT_MAGIC, NO_MORE, ONE_MORE, Trailer, read_more, read_trailer, trailer,
};
pub use hash::{Contents, HashRequest, Length};
pub use host::{About, Captured, Destination, Host, HostSettings, Input, Output, ServeAccess};
pub use nix::{
    CopyRequest, JsonFormat, KeyRequest, Layout, NixCall, NixRequest, PathInfoRequest,
    PathInfoStyle, Reports, Selection, Sizes, VerifyRequest, parse as parse_nix, run_nix_request,
};
pub use nix_store::{
    ClosureOutputs, Collect, Force, Invalid, Operation, Query, QueryKind, Realise, Registered,
    Rehearsal, Results, StoreRequest, Subject, Unknown, run_store_request,
};
pub use options::{BuildOutput, LogFormat, Options, ResultForm, RootWarning, Verbosity};
