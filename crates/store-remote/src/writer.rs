//! The writing half of a channel: requests, and the data that goes with some of them.

use async_trait::async_trait;
use bytes::Bytes;
use drover_store::StoreError;
use drover_wire::{FRAME_END, frame_header};
use tokio::io::{AsyncWrite, AsyncWriteExt as _, BufWriter};
use tokio::sync::mpsc;

use crate::error::Peer;
use crate::ledger::Progress;
use crate::pull::Pulled;

/// Data behind a request.
#[async_trait]
pub(crate) trait Body: Send {
    /// Returns the next bytes, `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError>;
}

/// What goes with a request.
pub(crate) enum Payload {
    /// Nothing.
    None,
    /// Data in frames; it may end early, and the server then says that it did.
    Framed(Box<dyn Body>),
    /// Data in frames whose beginning alone would be taken for all of it: if it ends early the
    /// connection is of no use any more.
    Whole(Box<dyn Body>),
    /// Bare data; if it ends early the connection is of no use any more.
    Bare(Box<dyn Body>),
    /// Data that the server fetches piece by piece; nothing else is sent meanwhile.
    Pulled(Box<Pulled>),
}

/// Something to send.
pub(crate) struct Outgoing {
    /// The request.
    pub(crate) request: Vec<u8>,
    /// What goes with it.
    pub(crate) payload: Payload,
}

impl Outgoing {
    /// Returns a request that nothing goes with.
    pub(crate) fn plain(request: Vec<u8>) -> Outgoing {
        Outgoing { request, payload: Payload::None }
    }
}

/// The way to the peer.
pub(crate) struct Out<'a, W> {
    to: BufWriter<W>,
    peer: &'a Peer,
    progress: &'a Progress,
}

impl<W: AsyncWrite + Unpin + Send> Out<'_, W> {
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let written = self.to.write_all(bytes).await;
        self.progress.took();
        written.map_err(|error| self.peer.lost(error.to_string()))
    }

    pub(crate) async fn flush(&mut self) -> Result<(), StoreError> {
        let flushed = self.to.flush().await;
        self.progress.took();
        flushed.map_err(|error| self.peer.lost(error.to_string()))
    }

    /// Gets something that the peer waits for, which is no silence of the peer.
    pub(crate) async fn get<T>(&mut self, from: impl Future<Output = T> + Send) -> T {
        self.progress.waits_for_us();
        let got = from.await;
        self.progress.took();
        got
    }

    pub(crate) fn peer(&self) -> &Peer {
        self.peer
    }
}

/// Sends until there is nothing more to come.
///
/// # Errors
///
/// Those after which the connection can't be used any more.
pub(crate) async fn write_all(
    to: impl AsyncWrite + Unpin + Send,
    peer: Peer,
    progress: &Progress,
    mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
) -> Result<(), StoreError> {
    let to = BufWriter::with_capacity(64 * 1024, to);
    let mut out = Out { to, peer: &peer, progress };
    loop {
        let next = match outgoing.try_recv() {
            Ok(next) => next,
            Err(_) => {
                out.flush().await?;
                match outgoing.recv().await {
                    Some(next) => next,
                    None => return Ok(()),
                }
            }
        };
        out.write(&next.request).await?;
        match next.payload {
            Payload::None => {}
            Payload::Framed(body) => write_framed(&mut out, body).await?,
            Payload::Whole(body) => write_whole(&mut out, body).await?,
            Payload::Bare(body) => write_bare(&mut out, body).await?,
            Payload::Pulled(pulled) => pulled.send(&mut out).await?,
        }
    }
}

async fn write_framed<W: AsyncWrite + Unpin + Send>(
    out: &mut Out<'_, W>,
    mut body: Box<dyn Body>,
) -> Result<(), StoreError> {
    loop {
        let chunk = match out.get(body.next()).await {
            Ok(Some(chunk)) if chunk.is_empty() => continue,
            Ok(Some(chunk)) => chunk,
            Ok(None) | Err(_) => return out.write(&FRAME_END).await,
        };
        out.write(&frame_header(chunk.len())).await?;
        out.write(&chunk).await?;
    }
}

async fn write_whole<W: AsyncWrite + Unpin + Send>(
    out: &mut Out<'_, W>,
    mut body: Box<dyn Body>,
) -> Result<(), StoreError> {
    while let Some(chunk) = out.get(body.next()).await? {
        if !chunk.is_empty() {
            out.write(&frame_header(chunk.len())).await?;
            out.write(&chunk).await?;
        }
    }
    out.write(&FRAME_END).await
}

async fn write_bare<W: AsyncWrite + Unpin + Send>(
    out: &mut Out<'_, W>,
    mut body: Box<dyn Body>,
) -> Result<(), StoreError> {
    loop {
        match out.get(body.next()).await? {
            Some(chunk) => out.write(&chunk).await?,
            None => return Ok(()),
        }
    }
}
