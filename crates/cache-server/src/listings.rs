//! What is in NARs and where, made from the NARs themselves.
//!
//! Each takes the reading of a whole NAR, so that few are made at once; and all that are made or still
//! being read have a bounded share of memory.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use drover_nar::Lister;
use http::StatusCode;
use tokio::time::timeout;

use crate::budget::{Budget, Share};
use crate::nar_out::NarOut;
use crate::refusal::Refusal;
use crate::turns::{Turn, Turns};

/// Listings that are made at once.
const AT_ONCE: usize = 2;
/// Bytes of all of them, also of those that wait to be taken by their readers. The largest that can be
/// made has two thirds of that.
const MEMORY: u64 = 384 * 1024 * 1024;

/// Makes listings.
pub(crate) struct Listings {
    turns: Turns,
    memory: Budget,
    patience: Duration,
}

impl Listings {
    /// Nobody waits for longer than `patience` at once.
    pub(crate) fn new(patience: Duration) -> Listings {
        Listings::with_memory(MEMORY, patience)
    }

    fn with_memory(memory: u64, patience: Duration) -> Listings {
        let turns = Turns::new(AT_ONCE, patience);
        Listings { turns, memory: Budget::new(memory), patience }
    }

    /// Waits for a turn, which comes before the NAR is opened.
    pub(crate) async fn turn(&self) -> Result<Turn, Refusal> {
        self.turns.take().await
    }

    /// Lists a NAR. What is returned counts until nobody holds it any more.
    pub(crate) async fn of(&self, mut nar: NarOut, turn: Turn) -> Result<Bytes, Refusal> {
        let mut lister = Lister::new();
        let mut share = self.room(0).await?;
        let mut counted = 0;
        let failed = |reason: &dyn Display| Refusal::failed("listing a path", reason);
        while let Some(piece) = nar.next().await.map_err(|cut| failed(&cut))? {
            lister.feed(&piece).map_err(|error| failed(&error))?;
            share.add(self.room((lister.size() - counted) as u64).await?);
            counted = lister.size();
        }
        let mut text = lister.finish().map_err(|error| failed(&error))?;
        text.shrink_to_fit();
        drop(turn);
        Ok(share.hold(text.into()))
    }

    async fn room(&self, bytes: u64) -> Result<Share, Refusal> {
        let share = timeout(self.patience, self.memory.take(bytes)).await;
        share.ok().flatten().ok_or_else(|| {
            let says = "too many large listings are being read; ask again later";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, says)
        })
    }
}

#[cfg(test)]
mod tests {
    use drover_nar::{Executable, Writer};

    use super::*;

    /// A NAR in many pieces, each of whose share of the listing counts as a kibibyte at least.
    fn nar() -> NarOut {
        let mut writer = Writer::new(Vec::new()).unwrap();
        writer.directory().unwrap();
        for at in 0..200 {
            writer.entry(format!("file-{at:03}").as_bytes()).unwrap();
            writer.regular(Executable::No, 1).unwrap();
            writer.contents(b"x").unwrap();
        }
        writer.directory_end().unwrap();
        let bytes = Bytes::from(writer.finish().unwrap());
        let pieces: Vec<Bytes> = bytes.chunks(1000).map(Bytes::copy_from_slice).collect();
        NarOut::Kept(pieces.into(), 0)
    }

    #[tokio::test(start_paused = true)]
    async fn listings_that_nobody_takes_are_few() {
        let listings = Listings::with_memory(256 * 1024, Duration::from_secs(30));
        let mut held = Vec::new();
        let refused = loop {
            let turn = listings.turn().await.unwrap();
            match listings.of(nar(), turn).await {
                Ok(listing) => held.push(listing),
                Err(refusal) => break refusal,
            }
            assert!(held.len() < 10);
        };
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(!held.is_empty());
        held.clear();
        let turn = listings.turn().await.unwrap();
        assert!(listings.of(nar(), turn).await.is_ok(), "they have been taken");
    }
}
