//! A NAR on its way out.

use std::sync::Arc;

use bytes::Bytes;
use drover_core::{NarSize, PathInfo};
use drover_store::{Keeper, PathStream, StoreError, TreeStamp, Verified};
use futures::stream;

use crate::body::{CutShort, Pieces};
use crate::checked::Checked;
use crate::kept::KeptNar;
use crate::metrics::Metrics;
use crate::turns::Turn;

/// A NAR whose last bytes come only when all of it was what its info says.
pub(crate) enum NarOut {
    /// Read from the store on its way.
    Live(Box<LiveNar>),
    /// Checked before; the pieces, and which one is next.
    Kept(KeptNar, usize),
}

/// A NAR that is read and checked on its way.
pub(crate) struct LiveNar {
    paths: Box<dyn PathStream>,
    source: Source,
    check: Check,
    info: PathInfo,
    done: u64,
    /// The first piece, which is read before anything is promised.
    first: Option<Bytes>,
}

/// Where NARs are read, and what is known of them from before.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) store: Arc<dyn Keeper>,
    pub(crate) checked: Arc<Checked>,
    pub(crate) metrics: Arc<Metrics>,
}

/// How it comes out whether a NAR is good.
enum Check {
    /// It is hashed, for the next time as well if its files can be looked at.
    Hash(Box<Verified>, Option<TreeStamp>),
    /// It was, when its files looked like this; they must do so at the end, too.
    Look(TreeStamp),
    /// It has come out.
    Done,
}

impl LiveNar {
    async fn next(&mut self) -> Result<Option<Bytes>, CutShort> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        match self.pass().await {
            Ok(piece) => Ok(piece),
            Err(error) => {
                tracing::error!("a NAR is cut short: {error}");
                self.source.metrics.cut_short();
                Err(CutShort)
            }
        }
    }

    async fn pass(&mut self) -> Result<Option<Bytes>, StoreError> {
        if matches!(self.check, Check::Done) {
            return Ok(None);
        }
        let piece = self.paths.chunk().await?;
        if let Some(piece) = &piece {
            self.take_note(piece)?;
            if self.done < self.info.nar_size.0 {
                return Ok(Some(piece.clone()));
            }
            if let Some(more) = self.paths.chunk().await? {
                self.take_note(&more)?;
            }
        }
        self.finish().await?;
        Ok(piece)
    }

    fn take_note(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        self.done = self.done.saturating_add(piece.len() as u64);
        match &mut self.check {
            Check::Hash(verified, _) => {
                self.source.metrics.hashed(piece.len() as u64);
                verified.pass(piece)
            }
            Check::Look(_) if self.done > self.info.nar_size.0 => Err(self.wrong_size()),
            Check::Look(_) | Check::Done => Ok(()),
        }
    }

    /// Says whether all that has passed is good.
    async fn finish(&mut self) -> Result<(), StoreError> {
        let (source, info) = (self.source.clone(), self.info.clone());
        let Source { store, checked, .. } = &source;
        match std::mem::replace(&mut self.check, Check::Done) {
            Check::Hash(verified, before) => {
                verified.finish()?;
                if let Some(stamp) = before {
                    checked.note(&self.info, stamp);
                }
                Ok(())
            }
            Check::Look(_) if self.done != self.info.nar_size.0 => Err(self.wrong_size()),
            Check::Look(before) => match store.tree_stamp(&info.path).await? {
                Some(after) if after == before => Ok(()),
                // an equal file that is linked to one of them, or removed, is enough for that
                _ => hash_anew(&source, &info).await,
            },
            Check::Done => Ok(()),
        }
    }

    fn wrong_size(&self) -> StoreError {
        StoreError::SizeMismatch {
            store: self.source.store.name().to_owned(),
            path: self.info.path.clone(),
            expected: self.info.nar_size,
            actual: NarSize(self.done),
        }
    }
}

/// Says whether what is there now is good, by reading all of it.
async fn hash_anew(source: &Source, info: &PathInfo) -> Result<(), StoreError> {
    let Source { store, metrics, .. } = source;
    let mut paths = store.export_to_checker(vec![info.clone()]).await?;
    if paths.next_path().await?.is_none() {
        let (store, path) = (store.name().to_owned(), info.path.clone());
        return Err(StoreError::NotValid { store, path });
    }
    let mut verified = Verified::new(store.name().to_owned(), info.clone());
    while let Some(piece) = paths.chunk().await? {
        metrics.hashed(piece.len() as u64);
        verified.pass(&piece)?;
    }
    verified.finish()
}

impl NarOut {
    /// Opens the NAR of a valid path.
    pub(crate) async fn open(source: Source, info: PathInfo) -> Result<NarOut, StoreError> {
        let Source { store, checked, .. } = &source;
        let stamp = match Checked::is_worth_it(&info) {
            // what is wrong with them comes out when they are read
            true => store.tree_stamp(&info.path).await.ok().flatten(),
            false => None,
        };
        let check = match stamp {
            Some(stamp) if checked.vouches(&info, stamp) => Check::Look(stamp),
            stamp => {
                let verified = Verified::new(store.name().to_owned(), info.clone());
                Check::Hash(Box::new(verified), stamp)
            }
        };
        let mut paths = store.export_to_checker(vec![info.clone()]).await?;
        if paths.next_path().await?.is_none() {
            let store = store.name().to_owned();
            return Err(StoreError::NotValid { store, path: info.path });
        }
        let mut live = LiveNar { paths, source, check, info, done: 0, first: None };
        live.first = live.pass().await?;
        Ok(NarOut::Live(Box::new(live)))
    }

    /// Returns the next bytes, never none; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, CutShort> {
        match self {
            NarOut::Live(live) => live.next().await,
            NarOut::Kept(pieces, at) => {
                let piece = pieces.get(*at).cloned();
                *at += 1;
                Ok(piece)
            }
        }
    }

    /// Reads all of it.
    pub(crate) async fn whole(mut self) -> Result<KeptNar, CutShort> {
        let mut pieces = Vec::new();
        while let Some(piece) = self.next().await? {
            pieces.push(piece);
        }
        Ok(pieces.into())
    }

    /// Returns its bytes from one up to and without another. Those that stand before are read and
    /// checked like the others; those behind aren't. The turn, if there is one, ends where the part
    /// begins: from there on it's the client who keeps it waiting.
    pub(crate) fn part(self, from: u64, to: u64, turn: Option<Turn>) -> Pieces {
        let start = (self, 0u64, turn);
        Box::pin(stream::try_unfold(start, move |(mut nar, mut at, turn)| async move {
            while at < to {
                let Some(piece) = nar.next().await? else { break };
                let in_piece = |place: u64| {
                    let behind = usize::try_from(place.saturating_sub(at));
                    behind.unwrap_or(usize::MAX).min(piece.len())
                };
                let (first, last) = (in_piece(from), in_piece(to));
                at = at.saturating_add(piece.len() as u64);
                if first < last {
                    drop(turn);
                    return Ok(Some((piece.slice(first..last), (nar, at, None))));
                }
            }
            Ok(None)
        }))
    }
}
