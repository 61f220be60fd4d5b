//! A body between the task that fetches it and the thread that reads it.

use std::io::{self, BufRead, Read};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

/// Reads the pieces that a pump sends, on a thread that may block.
pub(crate) struct PieceReader {
    receiver: mpsc::Receiver<Result<Bytes, ()>>,
    piece: Bytes,
}

impl PieceReader {
    pub(crate) fn new(receiver: mpsc::Receiver<Result<Bytes, ()>>) -> PieceReader {
        PieceReader { receiver, piece: Bytes::new() }
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for PieceReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(())) => return Err(io::Error::other("the transfer failed")),
                None => break,
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, count: usize) {
        self.piece.advance(count.min(self.piece.len()));
    }
}
