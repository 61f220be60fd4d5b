//! Builds that outlive those who asked for them.
//!
//! A [`Holder`] waits for builds in the place of a client: what is handed over goes on when the client
//! has gone, under its name, until it is over or somebody who may says that it shall end. What it says
//! is kept, the newest of it, and so is what became of it: [`Limits`] says how much, of how many, and
//! for how long. As long as it is remembered its outputs are kept from the garbage collector, by
//! temporary roots of the view of the store that came with it.
//!
//! Nothing of this is on disk: a holder that ends takes all of it along.

mod asker;
mod entry;
mod error;
mod holder;
mod id;
mod limits;
mod log;

pub use asker::{Asker, Reach};
pub use entry::{Condition, DetachedView, Ending, Outcome};
pub use error::HoldError;
pub use holder::{Followed, Holder, Order};
pub use id::DetachedId;
pub use limits::Limits;
pub use log::Said;
