//! The arguments of `drover cache`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{SettingArguments, VerbosityArguments};

/// What to do as a binary cache.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Serve a store over HTTP to whoever substitutes from it
    Serve(Box<CacheServeArguments>),
}

/// The arguments of `drover cache serve`.
#[derive(Debug, Args)]
pub(crate) struct CacheServeArguments {
    /// Where to listen: ADDRESS:PORT, with 0 for any port, or unix:PATH. Sockets of systemd's go first
    #[arg(long, value_name = "PLACE", default_value = "127.0.0.1:5000")]
    pub(crate) listen: String,
    /// Sign what is served with the key in a file, beside the signatures that the store has; may be
    /// given several times
    #[arg(long = "sign-key-file", value_name = "FILE")]
    pub(crate) sign_key_files: Vec<PathBuf>,
    /// What clients that have several caches are told: the lowest is asked first; cache.nixos.org has 40
    #[arg(long, value_name = "N", default_value_t = 40, allow_hyphen_values = true)]
    pub(crate) priority: i64,
    /// Tell clients not to ask for paths that perhaps nobody wants
    #[arg(long)]
    pub(crate) no_mass_query: bool,
    /// How narinfos say that NARs come
    #[arg(long, value_enum, default_value_t)]
    pub(crate) compression: CacheCompressionArgument,
    /// The level of zstd, 1 to 19
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=19))]
    pub(crate) compression_level: i32,
    /// Speak TLS with the certificates in a PEM file, the server's own first
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The key of that certificate, in a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Take uploads from whoever has the token in a file, as password or as bearer token
    #[arg(long, value_name = "FILE")]
    pub(crate) write_token_file: Option<PathBuf>,
    /// Take uploads that nobody has signed, too
    #[arg(long, requires = "write_token_file")]
    pub(crate) accept_unsigned: bool,
    /// Bytes that an uploaded file may have
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 30)]
    pub(crate) max_upload: u64,
    /// Bytes of memory for NARs that are asked for again and again
    #[arg(long, value_name = "BYTES", default_value_t = 128 << 20)]
    pub(crate) memory: u64,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = connections)]
    pub(crate) max_connections: usize,
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

/// How narinfos say that NARs come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CacheCompressionArgument {
    /// Compressed on their way
    #[default]
    Zstd,
    /// As they are: the best in a fast network
    None,
}

/// Reads a number that isn't zero.
fn connections(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|number| (1..=1 << 20).contains(number));
    number.ok_or_else(|| "must be a number from 1 to 1048576".to_owned())
}
