//! The local store, alone and beside stock Nix.

mod answers;
mod places;
mod refusals;
mod speed;
mod stock;
mod support;
