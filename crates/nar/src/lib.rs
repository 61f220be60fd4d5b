//! The NAR archive format: a strict push parser and a streaming writer.
//!
//! A NAR is the one canonical serialisation of a file tree: regular files with
//! an executable bit, directories and symbolic links, and nothing else. Every
//! tree has exactly one NAR, so this crate refuses whatever is not that one:
//! what [`Parser`] accepts, [`Writer`] would have written byte for byte.
//!
//! Nothing here reads a file, a socket or a clock. The parser is fed slices
//! and never buffers more than one short token, so a peer cannot make it
//! allocate by announcing lengths; file contents are handed on as sub-slices
//! of the input and cost nothing to skip.
//!
//! NARs travel un-framed inside the worker and serve protocols, so the parser
//! also answers where an archive ends:
//!
//! ```
//! use drover_nar::{Executable, Limits, Parser, Progress, single_file_nar};
//!
//! let mut stream = single_file_nar(b"hello\n", Executable::No);
//! let archive_len = stream.len();
//! stream.extend_from_slice(b"next message");
//!
//! let mut parser = Parser::new(Limits::default());
//! assert_eq!(parser.feed(&stream, &mut ())?, Progress::Done { consumed: archive_len });
//! # Ok::<(), drover_nar::NarError>(())
//! ```
//!
//! The format is the one of C++ Nix (`src/libutil/archive.cc`); the limits are
//! those of its 2.36, which older releases do not enforce.

mod blocks;
mod error;
mod grammar;
mod listing;
mod parser;
mod rules;
mod single;
mod token;
mod visitor;
mod writer;

pub use blocks::Blocks;
pub use error::{NameRule, NarError, Quoted, StringField, TargetRule};
pub use listing::{ListError, Lister};
pub use parser::{Parser, Progress, parse};
pub use rules::{Limits, MAX_NAME_LEN, MAX_TARGET_LEN, check_name, check_target};
pub use single::{regular_file_of, single_file_nar};
pub use visitor::{Executable, Visitor};
pub use writer::{Call, WriteError, Writer};
