//! Paths streamed out of a server, with the requests sent ahead.

use std::collections::VecDeque;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::PathInfo;
use drover_store::{PathStream, StoreError, Verified};
use tokio::sync::mpsc;

use crate::pool::Lease;
use crate::reply::NarChunk;

/// Requests that are sent ahead of what is being read. The server answers them one by one, so they
/// cost some hundred bytes each and hide the way there and back.
const AHEAD: usize = 256;

type Chunks = mpsc::Receiver<Result<NarChunk, StoreError>>;

/// Paths on their way out of a server, over one channel of its own.
pub(crate) struct NarStream {
    name: String,
    count: usize,
    waiting: VecDeque<PathInfo>,
    asked: VecDeque<(PathInfo, Chunks)>,
    current: Option<(Option<Verified>, Chunks)>,
    lease: Lease,
    hashed: Hashed,
}

/// Where NARs are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hashed {
    /// On their way out of the stream.
    Here,
    /// Where they go.
    There,
}

impl NarStream {
    pub(crate) fn new(
        name: String,
        lease: Lease,
        infos: Vec<PathInfo>,
        hashed: Hashed,
    ) -> NarStream {
        let mut stream = NarStream {
            hashed,
            name,
            count: infos.len(),
            waiting: infos.into(),
            asked: VecDeque::new(),
            current: None,
            lease,
        };
        stream.ask_ahead();
        stream
    }

    fn ask_ahead(&mut self) {
        while self.asked.len() < AHEAD {
            let Some(info) = self.waiting.pop_front() else { return };
            let chunks = self.lease.session().nar(&info);
            self.asked.push_back((info, chunks));
        }
    }
}

#[async_trait]
impl PathStream for NarStream {
    fn count(&self) -> usize {
        self.count
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        self.ask_ahead();
        let Some((info, chunks)) = self.asked.pop_front() else { return Ok(None) };
        let verified = match self.hashed {
            Hashed::Here => Some(Verified::new(self.name.clone(), info.clone())),
            Hashed::There => None,
        };
        self.current = Some((verified, chunks));
        Ok(Some(info))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some((verified, chunks)) = &mut self.current else { return Ok(None) };
        let checked = match chunks.recv().await {
            Some(Ok(NarChunk::Bytes(bytes))) => match verified {
                Some(verified) => verified.pass(&bytes).map(|()| Some(bytes)),
                None => Ok(Some(bytes)),
            },
            Some(Ok(NarChunk::End)) => match self.current.take() {
                Some((Some(verified), _)) => verified.finish().map(|()| None),
                _ => Ok(None),
            },
            Some(Err(error)) => return Err(error),
            None => return Err(self.lease.session().channel.ending()),
        };
        if let Err(error) = &checked {
            self.lease.session().channel.condemn(error);
        }
        checked
    }
}
