//! The worker protocol (Nix daemons, `ssh-ng://`) and the serve protocol (`ssh://`).
//!
//! Pure: messages to bytes and back. Both ends' messages are here, so that a client can be tested
//! against a server of the same crate, and both against real Nix. Invariant: nothing that a peer
//! says is allocated or indexed before it is bounded ([`Decoder`]).

mod build_result;
mod codec;
mod derivation;
mod derived_path;
mod dialect;
mod error;
mod frame;
mod garbage;
mod introduction;
mod log;
mod options;
mod path_info;
mod realisation;
mod request;
mod response;
mod serve;
mod substitutable;

pub use build_result::BuildResult;
pub use codec::{Decoder, Encoder, MAX_BYTES, MAX_COUNT, MAX_TEXT};
pub use derived_path::{DerivedPath, MadeDerivation, MadeOutputs};
pub use dialect::{
    Dialect, FEATURE_PACKED, FEATURE_REALISATION_WITH_PATH, ServerInfo, Version, WORKER_LATEST,
    WORKER_OLDEST, client_hello, client_magic, client_version, exchanges_features, read_client_end,
    read_client_magic, read_client_version, read_features, read_server_hello, read_server_info,
    server_hello, write_client_end, write_features, write_server_info,
};
pub use error::DecodeError;
pub use frame::{FRAME_END, MAX_FRAME, frame_header, read_frame_header};
pub use garbage::{GarbageRequest, GarbageResult};
pub use introduction::{
    Need, Opening, Outlook, Wait, control_opening, introduction, is_client_name, need, question,
    read_opening,
};
pub use log::{LogMessage, RemoteError};
pub use options::ClientOptions;
pub use path_info::{
    decode_keyed_path_info, decode_path_info, encode_keyed_path_info, encode_path_info,
};
pub use realisation::{OutputId, RealisedOutput};
pub use request::{NewContent, Request, refused_operation};
pub use response::{Missing, Response};
pub use serve::{
    Lock, SERVE_LATEST, SERVE_OLDEST, ServeBuildOptions, ServeDialect, ServeRequest,
    decode_serve_build_result, decode_serve_path_infos, encode_serve_build_result,
    encode_serve_path_infos, read_serve_client_hello, read_serve_server_hello, serve_client_hello,
    serve_server_hello,
};
pub use substitutable::{SubstitutableInfo, SubstitutableQuery};
