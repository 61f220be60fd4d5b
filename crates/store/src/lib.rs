//! What a store and a builder are, for those who use them and those who implement them.
//!
//! Traits, requests, results and errors only: no sockets, no processes. `store-remote` implements
//! them over Nix's protocols; `fleet` uses them and never learns what is behind.

mod build;
pub mod contract;
mod copy;
mod error;
mod failure;
mod fetch;
mod keeper;
mod memory;
mod own_setting;
mod path_stream;
mod realisation_hash;
mod realiser;
mod said;
mod sandbox_wish;
mod store;
mod substituters;

// what its traits are asked in, and what protocols say as well
pub use drover_core::{
    BuildMode, CollectAction, Liveness, Repair, SignatureCheck, Substitute, Trust, VerifyDepth,
};

pub use build::{
    AfterBuild, BuildLog, BuildOutcome, BuildPlan, BuildRequest, BuildSettings, BuildWishes,
    Builder, Built, Lane, LogEvent, LogKeeper, Pending, SilentLog,
};
pub use copy::closure_order;
pub use error::{Refusal, StoreError};
pub use failure::{BuildFailure, FailureCause, exit_code};
pub use fetch::{FetchEvent, FetchObserver, FetchSize, Offered};
pub use keeper::{
    Adoption, ByteStream, Collected, Collection, Content, Keeper, Roots, Unmended, Verification,
    WhenValid,
};
pub use memory::MemoryStore;
pub use own_setting::{LogForm, Optimise, OwnSetting, SignedRealisations};
pub use path_stream::{PathStream, TreeStamp, Verified};
pub use realisation_hash::realisation_hash;
pub use realiser::{
    AfterFailure, MissingPaths, RealiseEvent, RealiseObserver, RealiseSettings, RealiseStatus,
    Realised, Realiser, THIS_MACHINE, Wanted,
};
pub use said::{
    failure_said, refusal_said, says_absent, says_another_hash, says_unfit, says_unready,
    says_why_it_is_not_fetched,
};
pub use sandbox_wish::{SandboxWish, Sandboxing};
pub use store::{Description, MAX_FILE, Missing, Store, read_exported_files, read_exported_nar};
pub use substituters::{Judge, Objection, Offer, Offers, Plan, Substituter, Vouching};
