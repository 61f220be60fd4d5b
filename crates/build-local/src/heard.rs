//! What was heard of a build: told line by line, in place or, where it is much, by a thread of its own.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::log::Lines;

/// Pieces that may wait to be told. Then the build waits.
const QUEUE: usize = 4;

/// What was heard of a build.
pub(crate) struct Heard {
    /// Bytes.
    size: u64,
    /// Whoever tells lines. It ends before the lines do.
    apart: Option<Apart>,
    lines: Arc<Mutex<Lines>>,
}

impl Heard {
    pub(crate) fn new(lines: Lines) -> Heard {
        Heard { size: 0, apart: None, lines: Arc::new(Mutex::new(lines)) }
    }

    /// Returns how many bytes were heard.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Has lines told by a thread from now on, so that the build goes on meanwhile. Without one they are
    /// told here.
    pub(crate) fn expect_much(&mut self) {
        if self.apart.is_none() {
            self.apart = Apart::begin(&self.lines).ok();
        }
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        match &mut self.apart {
            Some(apart) => apart.take(bytes),
            None => lock(&self.lines).take(bytes),
        }
    }

    /// Tells what has no end, and returns the last lines.
    pub(crate) fn finish(mut self) -> Vec<String> {
        self.apart = None;
        let mut lines = lock(&self.lines);
        lines.finish();
        lines.take_tail()
    }
}

fn lock(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread that tells lines. Dropping it waits until it has told all that it was given.
struct Apart {
    pieces: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Apart {
    fn begin(lines: &Arc<Mutex<Lines>>) -> io::Result<Apart> {
        let (pieces, queue) = sync_channel::<Vec<u8>>(QUEUE);
        let lines = Arc::clone(lines);
        let tell = move || queue.iter().for_each(|piece| lock(&lines).take(&piece));
        let thread = std::thread::Builder::new().name("log-lines".to_owned()).spawn(tell)?;
        Ok(Apart { pieces: Some(pieces), thread: Some(thread) })
    }

    fn take(&mut self, bytes: &[u8]) {
        if let Some(pieces) = &self.pieces {
            // it ends before this by a panic only, which has told of itself
            pieces.send(bytes.to_vec()).ok();
        }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.pieces = None;
        if let Some(thread) = self.thread.take() {
            // a thread that has panicked has said so itself
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use drover_store::{BuildLog, LogEvent};
    use rstest::rstest;

    use super::*;
    use crate::recorder::Recorder;

    #[rstest]
    #[case::from_the_beginning(0)]
    #[case::in_the_middle_of_a_line(7)]
    #[case::never(usize::MAX)]
    fn lines_keep_their_order_whoever_tells_them(#[case] much_from: usize) {
        let recorder = Arc::new(Recorder::default());
        let mut heard = Heard::new(Lines::new(Arc::clone(&recorder) as Arc<dyn BuildLog>, 2));
        let text: String = (0..5000).map(|n| format!("line {n}\n")).collect::<String>() + "end";
        for (at, piece) in text.as_bytes().chunks(11).enumerate() {
            if at == much_from {
                heard.expect_much();
            }
            heard.take(piece);
        }
        assert_eq!(heard.size(), text.len() as u64);
        assert_eq!(heard.finish(), ["line 4999", "end"]);
        let told: Vec<LogEvent> = std::mem::take(&mut *recorder.0.lock().unwrap());
        let expected: Vec<LogEvent> =
            text.lines().map(|line| LogEvent::Line(line.to_owned())).collect();
        assert!(told == expected);
    }

    #[test]
    fn what_was_heard_is_told_before_it_is_dropped() {
        let recorder = Arc::new(Recorder::default());
        let mut heard = Heard::new(Lines::new(Arc::clone(&recorder) as Arc<dyn BuildLog>, 0));
        heard.expect_much();
        heard.take(b"one\ntwo\nthr");
        drop(heard);
        assert_eq!(recorder.0.lock().unwrap().len(), 2);
    }
}
