//! The local store, alone and beside stock Nix.

mod answers;
mod full;
mod memory;
mod places;
mod power;
mod refusals;
mod speed;
mod stock;
mod substitution;
mod support;
