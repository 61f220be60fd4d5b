//! NARs compressed on their way.
//!
//! A NAR becomes frames that know nothing of each other, which any decoder takes for one stream. So
//! several can be made at once, and a reader that takes its time holds finished frames and no encoder,
//! of which there are as many as processors.
//!
//! What all readers together have ahead is bounded: while there is no memory for more, each has one
//! small frame at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use tokio::sync::Notify;
use zstd::bulk::Compressor;

use crate::body::{CutShort, Pieces};
use crate::budget::{Budget, Share};
use crate::nar_out::NarOut;

/// Bytes of a NAR that the first frame holds at least.
const FIRST: usize = 128 * 1024;
/// The same for those behind; each is up to twice as large as the one before, until it is this.
const LARGEST: usize = 1024 * 1024;
/// Bytes of NARs whose frames are ahead of their readers, those of all readers together.
const AHEAD: u64 = 128 * 1024 * 1024;

/// Makes frames.
pub(crate) struct Frames {
    level: i32,
    /// As many frames of one NAR are made at once.
    at_once: usize,
    /// The encoders that nobody uses; those that were not needed yet are to be made.
    idle: Mutex<Vec<Option<Compressor<'static>>>>,
    given_back: Condvar,
    ahead: Budget,
}

/// The frames of one NAR that its reader hasn't taken.
#[derive(Default)]
struct Untaken {
    count: AtomicUsize,
    none: Notify,
}

impl Untaken {
    fn one_more(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    fn one_less(&self) {
        if self.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.none.notify_one();
        }
    }

    /// Ends when there are none.
    async fn none(&self) {
        while self.count.load(Ordering::SeqCst) > 0 {
            self.none.notified().await;
        }
    }
}

/// What a frame is made of.
struct Block {
    pieces: Vec<Bytes>,
    share: Option<Share>,
}

impl Frames {
    pub(crate) fn new(level: i32) -> Frames {
        Frames::with_ahead(level, AHEAD)
    }

    fn with_ahead(level: i32, ahead: u64) -> Frames {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let idle = Mutex::new((0..processors).map(|_| None).collect());
        let ahead = Budget::new(ahead);
        Frames { level, at_once: processors.min(4), idle, given_back: Condvar::new(), ahead }
    }

    /// Compresses a NAR.
    pub(crate) fn compress(self: &Arc<Self>, nar: NarOut) -> Pieces {
        let untaken = Arc::new(Untaken::default());
        let (frames, counting) = (Arc::clone(self), Arc::clone(&untaken));
        let blocks = stream::unfold(Some((nar, FIRST)), move |state| {
            let (frames, untaken) = (Arc::clone(&frames), Arc::clone(&counting));
            async move {
                let (mut nar, wanted) = state?;
                let (share, size) = frames.room(&untaken, wanted).await;
                let gathered = gather(&mut nar, size).await;
                if gathered.as_ref().is_ok_and(Vec::is_empty) {
                    return None;
                }
                untaken.one_more();
                let next = gathered.is_ok().then(|| (nar, (2 * wanted).min(LARGEST)));
                Some((gathered.map(|pieces| Block { pieces, share }), next))
            }
        });
        let frames = Arc::clone(self);
        let frame = move |block: Result<Block, CutShort>| {
            let frames = Arc::clone(&frames);
            async move { frames.frame(block?).await }
        };
        Box::pin(blocks.map(frame).buffered(self.at_once).inspect(move |_| untaken.one_less()))
    }

    /// Waits until there is room for a block of this size. Where its reader has nothing left there is
    /// always room for a small one.
    async fn room(&self, untaken: &Untaken, size: usize) -> (Option<Share>, usize) {
        tokio::select! {
            biased;
            share = self.ahead.take(size as u64) => (share, size),
            () = untaken.none() => (None, FIRST),
        }
    }

    async fn frame(self: Arc<Self>, block: Block) -> Result<Bytes, CutShort> {
        let Block { pieces, share } = block;
        let made = tokio::task::spawn_blocking(move || self.make(&pieces)).await;
        let made = made.map_err(|error| error.to_string());
        let made = made.and_then(|made| made.map_err(|error| error.to_string()));
        let frame = made.map_err(|reason| {
            tracing::error!("a NAR is cut short, as compressing failed: {reason}");
            CutShort
        })?;
        Ok(match share {
            Some(share) => share.hold(frame),
            None => frame,
        })
    }

    /// Makes a frame when an encoder is free. It is a thread that waits for that and not the reader's
    /// task, which nobody may look after while its reader takes nothing.
    fn make(&self, block: &[Bytes]) -> std::io::Result<Bytes> {
        let mut encoder = self.take();
        let made = self.encode(&mut encoder, block);
        self.idle().push(encoder);
        self.given_back.notify_one();
        made
    }

    fn encode(
        &self,
        encoder: &mut Option<Compressor<'static>>,
        block: &[Bytes],
    ) -> std::io::Result<Bytes> {
        let encoder = match encoder {
            Some(encoder) => encoder,
            None => encoder.insert(Compressor::new(self.level)?),
        };
        let frame = match block {
            [only] => encoder.compress(only)?,
            several => encoder.compress(&several.concat())?,
        };
        Ok(Bytes::from(frame))
    }

    fn take(&self) -> Option<Compressor<'static>> {
        let mut idle = self.idle();
        loop {
            if let Some(encoder) = idle.pop() {
                return encoder;
            }
            idle = self.given_back.wait(idle).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Option<Compressor<'static>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the next bytes of a NAR, at least so many unless it ends; nothing at its end.
async fn gather(nar: &mut NarOut, size: usize) -> Result<Vec<Bytes>, CutShort> {
    let mut block = Vec::new();
    let mut bytes = 0;
    while bytes < size
        && let Some(piece) = nar.next().await?
    {
        bytes += piece.len();
        block.push(piece);
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nar(size: usize) -> NarOut {
        let piece = Bytes::from(vec![7; 64 * 1024]);
        NarOut::Kept(vec![piece; size / (64 * 1024)].into(), 0)
    }

    #[tokio::test]
    async fn many_slow_readers_share_what_is_ahead_and_all_come_to_their_end() {
        let ahead = 4 * 1024 * 1024;
        let frames = Arc::new(Frames::with_ahead(1, ahead));
        let mut readers: Vec<Pieces> = Vec::new();
        let mut firsts = Vec::new();
        for _ in 0..20 {
            let mut reader = frames.compress(nar(6 << 20));
            // what follows is begun meanwhile, and not taken
            firsts.push(reader.next().await.unwrap().unwrap());
            readers.push(reader);
        }
        assert!(frames.ahead.left() < ahead, "frames are made ahead");
        for (first, mut reader) in firsts.into_iter().zip(readers) {
            let mut compressed = first.to_vec();
            drop(first);
            while let Some(frame) = reader.next().await {
                compressed.extend_from_slice(&frame.unwrap());
            }
            let plain = zstd::decode_all(compressed.as_slice()).unwrap();
            assert_eq!(plain, vec![7; 6 << 20]);
        }
        assert_eq!(frames.ahead.left(), ahead, "all is given back");
    }
}
