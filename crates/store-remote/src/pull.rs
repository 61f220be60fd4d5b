//! Paths for a server that fetches them piece by piece: Nix 2.3 (worker protocol before 1.23).
//!
//! Follows `TunnelSource` in `src/nix-daemon/nix-daemon.cc` of Nix 2.3: the server asks for up to so
//! many bytes, and takes the next string as what it asked for. So nothing else may be sent
//! meanwhile, which is why the writing half itself waits here.

use bytes::Bytes;
use drover_store::StoreError;
use drover_wire::{Dialect, Encoder};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

use crate::import::{Addition, Source};
use crate::reply::Pull;
use crate::writer::Out;

/// Paths, and the server's demands for their contents.
pub(crate) struct Pulled {
    pub(crate) source: Source,
    pub(crate) dialect: Dialect,
    pub(crate) addition: Addition,
    pub(crate) pulls: mpsc::UnboundedReceiver<Pull>,
}

impl Pulled {
    /// Sends all paths, each as its request and what the server then asks for.
    ///
    /// # Errors
    ///
    /// Those after which the connection can't be used any more.
    pub(crate) async fn send<W: AsyncWrite + Unpin + Send>(
        mut self,
        out: &mut Out<'_, W>,
    ) -> Result<(), StoreError> {
        loop {
            let Some(info) = out.get(self.source.next_path()).await? else {
                return out.flush().await;
            };
            let request = self.addition.one(info);
            out.write(&request.encode(&self.dialect)).await?;
            out.flush().await?;
            self.send_nar(out).await?;
        }
    }

    async fn send_nar<W: AsyncWrite + Unpin + Send>(
        &mut self,
        out: &mut Out<'_, W>,
    ) -> Result<(), StoreError> {
        let mut chunk = Bytes::new();
        loop {
            let wanted = match self.pulls.recv().await {
                Some(Pull::Bytes(wanted)) => usize::try_from(wanted).unwrap_or(usize::MAX),
                Some(Pull::Done) => break,
                None => return Err(out.peer().lost("the connection broke")),
            };
            while chunk.is_empty() {
                match out.get(self.source.chunk()).await? {
                    Some(next) => chunk = next,
                    None => break,
                }
            }
            // an empty string is the end, which the server takes for what it is
            let piece = chunk.split_to(wanted.min(chunk.len()));
            let mut string = Encoder::new();
            string.bytes(&piece);
            out.write(&string.into_bytes()).await?;
            out.flush().await?;
        }
        // of a path that it refuses the server doesn't fetch all
        while out.get(self.source.chunk()).await?.is_some() {}
        Ok(())
    }
}
