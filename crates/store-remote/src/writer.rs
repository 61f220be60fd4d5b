//! The writing half of a channel: requests, and the data that goes with some of them.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use drover_codec::{MAX_CHUNK, Packer, WORTH_A_CHUNK};
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
    /// Nothing, and all that follows is packed.
    Packing,
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
    /// What packs, once the server takes it.
    packing: Option<Packing>,
    peer: &'a Peer,
    progress: &'a Progress,
}

impl<W: AsyncWrite + Unpin + Send> Out<'_, W> {
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let written = match &mut self.packing {
            None => self.to.write_all(bytes).await,
            Some(packing) => packing.write_all(bytes, &mut self.to).await,
        };
        self.progress.took();
        written.map_err(|error| self.peer.lost(error.to_string()))
    }

    pub(crate) async fn flush(&mut self) -> Result<(), StoreError> {
        let packed = match &mut self.packing {
            None => Ok(()),
            Some(packing) => {
                let sent = packing.send(&mut self.to).await;
                packing.rest();
                sent
            }
        };
        let flushed = packed.and(self.to.flush().await);
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

/// What is collected until it makes a chunk.
#[derive(Default)]
struct Packing {
    packer: Packer,
    collected: Vec<u8>,
}

impl Packing {
    async fn write_all<W>(&mut self, mut bytes: &[u8], to: &mut BufWriter<W>) -> io::Result<()>
    where
        W: AsyncWrite + Unpin,
    {
        if bytes.len() >= WORTH_A_CHUNK {
            self.send(to).await?;
            return send_chunks(&mut self.packer, bytes, to).await;
        }
        loop {
            let room = MAX_CHUNK - self.collected.len();
            let Some((now, later)) = bytes.split_at_checked(room) else {
                self.collected.extend_from_slice(bytes);
                return Ok(());
            };
            self.collected.extend_from_slice(now);
            self.send(to).await?;
            // what hardly takes any room would wait for long, and the peer would hear nothing
            to.flush().await?;
            bytes = later;
        }
    }

    /// Sends what was collected.
    async fn send<W: AsyncWrite + Unpin>(&mut self, to: &mut BufWriter<W>) -> io::Result<()> {
        let sent = send_chunks(&mut self.packer, &self.collected, to).await;
        self.collected.clear();
        sent
    }

    /// Gives back what a transfer needed.
    fn rest(&mut self) {
        self.collected = Vec::new();
    }
}

async fn send_chunks<W: AsyncWrite + Unpin>(
    packer: &mut Packer,
    bytes: &[u8],
    to: &mut BufWriter<W>,
) -> io::Result<()> {
    for chunk in bytes.chunks(MAX_CHUNK) {
        let (header, rest) = packer.chunk(chunk);
        to.write_all(&header).await?;
        to.write_all(&rest).await?;
    }
    Ok(())
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
    let mut out = Out { to, packing: None, peer: &peer, progress };
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
            Payload::Packing => out.packing = Some(Packing::default()),
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
