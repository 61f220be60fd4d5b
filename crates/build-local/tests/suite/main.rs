//! Real derivations, made by stock Nix, built here and by it, and compared.
//!
//! Needs root, `nix-instantiate` and `nix-store` (Debian: `apt install nix-bin`), and a static
//! busybox (Debian: `apt install busybox-static`).

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail like tests"
)]

mod attacks;
mod bench;
mod checks;
mod corpus;
mod failures;
mod hooks;
mod killed;
mod networks;
mod ordinary;
mod surroundings;
