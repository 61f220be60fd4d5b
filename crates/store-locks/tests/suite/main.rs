//! Locks, roots and sockets among sessions, threads and processes of stock Nix.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod socket;
mod stock;
mod stock_store;
