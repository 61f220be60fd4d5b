//! What the user sees while a fleet works.
//!
//! A [`Screen`] observes the fleet and never lets it wait: events change a [`Progress`] under a
//! lock that is held for moments, and a thread of its own writes. What is written is decided by
//! functions of the state alone: [`lines`] for text, [`bar`] for a terminal, [`activity`] for tools.

mod activity;
mod area;
mod bar;
mod fetches;
mod lines;
mod names;
mod screen;
mod state;

pub(crate) use activity::{Level, message};
pub(crate) use fetches::FetchFollower;
pub(crate) use names::GraphNames;
pub(crate) use screen::Screen;
pub(crate) use state::Progress;
