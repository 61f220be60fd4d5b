//! The first words on a connection.

use std::collections::BTreeSet;
use std::time::Duration;

use drover_core::StoreDir;
use drover_store::StoreError;
use drover_wire::{
    DecodeError, Dialect, Encoder, FEATURE_PACKED, FEATURE_REALISATION_WITH_PATH, LogMessage,
    ServeDialect, ServerInfo, Version, WORKER_LATEST, client_hello, exchanges_features,
    read_features, read_serve_server_hello, read_server_hello, read_server_info,
    serve_client_hello, write_client_end, write_features,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use crate::error::Peer;
use crate::reader::Reader;
use crate::reply::Patience;

const FEATURES: &[&str] = &[FEATURE_REALISATION_WITH_PATH, FEATURE_PACKED];

/// Bytes of foreign words that are shown.
const SHOWN: usize = 200;

/// What a server of the worker protocol says first.
const SERVER_MAGIC: &[u8] = b"oixd\0\0\0\0";

/// What came of a greeting.
pub(crate) enum Greeting {
    /// Both speak this.
    Agreed(Dialect, ServerInfo),
    /// The server doesn't speak the version that was expected, and has misunderstood us; it has to
    /// be greeted anew.
    Unexpected(Version),
}

/// What a server will probably agree to: then nothing is waited for between our words, which saves a
/// way there and back.
pub(crate) struct Expected {
    pub(crate) version: Version,
    /// Requests in [`Expected::dialect`] that are sent right behind our words; may be empty.
    pub(crate) ahead: Vec<u8>,
}

impl Expected {
    /// Returns what a server of this version and ours will agree on, if it has all the features.
    pub(crate) fn dialect(version: Version, store_dir: &StoreDir) -> Dialect {
        let features = match exchanges_features(version) {
            true => FEATURES.iter().map(|&feature| feature.to_owned()).collect(),
            false => BTreeSet::new(),
        };
        Dialect { store_dir: store_dir.clone(), version, features }
    }
}

/// Agrees on a dialect of the worker protocol.
pub(crate) async fn worker<R, W>(
    reader: &mut Reader<R>,
    writer: &mut W,
    store_dir: &StoreDir,
    limit: Duration,
    expected: Expected,
) -> Result<Greeting, StoreError>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let patience = Patience::Limited(limit, "greeting");
    let mut words = client_hello(WORKER_LATEST);
    words.extend(closing_words(expected.version));
    words.extend_from_slice(&expected.ahead);
    send(writer, reader.peer(), &words).await?;
    let version =
        first_words(reader, patience, |from| read_server_hello(from, WORKER_LATEST)).await?;
    let understood = match expected.ahead.is_empty() {
        true => exchanges_features(version) == exchanges_features(expected.version),
        // what requests look like depends on the version
        false => version == expected.version,
    };
    if !understood {
        return Ok(Greeting::Unexpected(version));
    }
    let features = if exchanges_features(version) {
        reader.message(patience, |from| read_features(from, FEATURES)).await?
    } else {
        BTreeSet::new()
    };
    let info = reader.message(patience, |from| read_server_info(from, version)).await?;
    loop {
        let message = reader.message(patience, |from| LogMessage::decode(from, version.minor));
        match message.await? {
            LogMessage::Last => break,
            LogMessage::Error(error) => {
                let message = drover_core::plain_text(&error.message);
                return Err(StoreError::said(&reader.peer().name, message));
            }
            _ => {}
        }
    }
    Ok(Greeting::Agreed(Dialect { store_dir: store_dir.clone(), version, features }, info))
}

/// What a client says once it knows the version: features, and two obsolete numbers.
fn closing_words(version: Version) -> Vec<u8> {
    let mut out = Encoder::new();
    if exchanges_features(version) {
        write_features(&mut out, FEATURES);
    }
    write_client_end(&mut out);
    out.into_bytes()
}

/// Agrees on a dialect of the serve protocol.
pub(crate) async fn serve<R, W>(
    reader: &mut Reader<R>,
    writer: &mut W,
    store_dir: &StoreDir,
    limit: Duration,
) -> Result<ServeDialect, StoreError>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let patience = Patience::Limited(limit, "greeting");
    send(writer, reader.peer(), &serve_client_hello()).await?;
    let version = first_words(reader, patience, read_serve_server_hello).await?;
    Ok(ServeDialect { store_dir: store_dir.clone(), version })
}

async fn send<W>(writer: &mut W, peer: &Peer, bytes: &[u8]) -> Result<(), StoreError>
where
    W: AsyncWrite + Unpin + Send,
{
    // A peer that is gone already has said why, and the reader finds it.
    match writer.write_all(bytes).await.and(writer.flush().await) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(peer.unreachable(error.to_string())),
    }
}

/// Reads the first message. Whatever else is there instead of it is shown: a shell's banner, a
/// refusal of `nologin`, a login message.
async fn first_words<R, T>(
    reader: &mut Reader<R>,
    patience: Patience,
    decode: impl FnMut(&mut drover_wire::Decoder<'_>) -> Result<T, DecodeError>,
) -> Result<T, StoreError>
where
    R: AsyncRead + Unpin + Send,
{
    let mut decode = decode;
    loop {
        let mut decoder = drover_wire::Decoder::new(reader.rest());
        match decode(&mut decoder) {
            Ok(_) => return reader.message(patience, decode).await,
            Err(DecodeError::Incomplete { .. }) => {}
            Err(DecodeError::Magic { .. }) => return Err(foreign_words(reader).await),
            Err(error) => return Err(reader.peer().protocol(&error)),
        }
        if let Err(error) = reader.fill(patience).await {
            return Err(match error {
                _ if !reader.rest().is_empty() => foreign_words(reader).await,
                StoreError::Lost { .. } => no_words(reader.peer()),
                StoreError::Silent { seconds, .. } => {
                    let command = &reader.peer().command;
                    let reason = format!("'{command}' has said nothing for {seconds} s");
                    reader.peer().unreachable(reason)
                }
                error => error,
            });
        }
    }
}

/// Returns the error of a peer that printed something before the protocol, or instead of it.
async fn foreign_words<R: AsyncRead + Unpin + Send>(reader: &mut Reader<R>) -> StoreError {
    let soon = Patience::Limited(Duration::from_millis(200), "greeting");
    while reader.rest().len() < SHOWN && reader.fill(soon).await.is_ok() {}
    // the protocol itself, if it comes after all, is nothing for people
    let protocol = reader.rest().windows(SERVER_MAGIC.len()).position(|at| at == SERVER_MAGIC);
    let len = protocol.unwrap_or(SHOWN).min(SHOWN);
    let shown: Vec<u8> = reader.rest().iter().copied().take(len).collect();
    let peer = reader.peer();
    let reason = format!(
        "'{}' did not speak the protocol; it printed: \"{}\". Whatever a login script \
         (/etc/profile, ~/.bashrc, a banner) prints for a command without a terminal must go to \
         standard error or be taken away",
        peer.command,
        shown.escape_ascii(),
    );
    StoreError::ForeignWords { store: peer.name.clone(), reason }
}

/// Returns the error of a peer that ended without a word.
fn no_words(peer: &Peer) -> StoreError {
    let said = peer.stderr.text().unwrap_or_default();
    let missing = ["not found", "No such file", "not recognized"];
    // Nix's own errors begin so: then it was found, and misses something else
    let is_nixs = said.lines().any(|line| line.starts_with("error: "));
    if !is_nixs && missing.iter().any(|words| said.contains(words)) {
        return peer.no_program(&said);
    }
    peer.unreachable(format!("'{}' ended at once", peer.command))
}
