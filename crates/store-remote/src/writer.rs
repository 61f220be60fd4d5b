//! The writing half of a channel: requests, and the data that goes with some of them.

use async_trait::async_trait;
use bytes::Bytes;
use drover_store::StoreError;
use drover_wire::{FRAME_END, frame_header};
use tokio::io::{AsyncWrite, AsyncWriteExt as _, BufWriter};
use tokio::sync::mpsc;

use crate::error::Peer;

/// Data behind a request.
#[async_trait]
pub(crate) trait Body: Send {
    /// Returns the next bytes, `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError>;
}

/// How data is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// In frames; it may end early, and the server then says that it did.
    Framed,
    /// Bare; if it ends early the connection is of no use any more.
    Bare,
}

/// Something to send.
pub(crate) struct Outgoing {
    /// The request.
    pub(crate) request: Vec<u8>,
    /// What goes with it.
    pub(crate) body: Option<(Framing, Box<dyn Body>)>,
}

/// Sends until there is nothing more to come.
///
/// # Errors
///
/// Those after which the connection can't be used any more.
pub(crate) async fn write_all(
    to: impl AsyncWrite + Unpin + Send,
    peer: Peer,
    mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
) -> Result<(), StoreError> {
    let mut to = BufWriter::with_capacity(64 * 1024, to);
    let lost = |error: std::io::Error| peer.lost(error.to_string());
    loop {
        let next = match outgoing.try_recv() {
            Ok(next) => next,
            Err(_) => {
                to.flush().await.map_err(lost)?;
                match outgoing.recv().await {
                    Some(next) => next,
                    None => return Ok(()),
                }
            }
        };
        to.write_all(&next.request).await.map_err(lost)?;
        if let Some((framing, body)) = next.body {
            write_body(&mut to, framing, body, &peer).await?;
        }
    }
}

async fn write_body(
    to: &mut (impl AsyncWrite + Unpin + Send),
    framing: Framing,
    mut body: Box<dyn Body>,
    peer: &Peer,
) -> Result<(), StoreError> {
    let lost = |error: std::io::Error| peer.lost(error.to_string());
    loop {
        let chunk = match (body.next().await, framing) {
            (Ok(chunk), _) => chunk,
            (Err(_), Framing::Framed) => None,
            (Err(error), Framing::Bare) => return Err(error),
        };
        match (chunk, framing) {
            (Some(chunk), _) if chunk.is_empty() => {}
            (Some(chunk), Framing::Framed) => {
                to.write_all(&frame_header(chunk.len())).await.map_err(lost)?;
                to.write_all(&chunk).await.map_err(lost)?;
            }
            (Some(chunk), Framing::Bare) => to.write_all(&chunk).await.map_err(lost)?,
            (None, Framing::Framed) => {
                return to.write_all(&FRAME_END).await.map_err(lost);
            }
            (None, Framing::Bare) => return Ok(()),
        }
    }
}
