//! `nix`, as far as it has to do with stores. All that is evaluation is the real one's, and so is
//! whatever isn't understood here: it has the words for that.

mod copy;
mod flags;
mod name;
mod outputs;
mod parse;
mod path_info;
mod request;
mod run;
mod sign;
mod space;

pub use parse::{NixCall, parse};
pub use request::{
    CopyRequest, JsonFormat, KeyRequest, Layout, NixRequest, PathInfoRequest, PathInfoStyle,
    Reports, Selection, Sizes, VerifyRequest,
};
pub use run::run_nix_request;
pub(crate) use run::{run_command_line, run_own_words};
