//! What a child process writes to its standard error.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drover_core::raw_text;
use drover_store::{BuildLog, LogEvent};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::watch;

/// Bytes of standard error that are kept.
const KEPT: usize = 4096;
/// Bytes of a log's line after which it is cut.
const LINE: usize = 64 * 1024;
/// How long the end of standard error is waited for once the connection has ended. A process in
/// the background may keep it open for good.
const ENDING: Duration = Duration::from_millis(500);
/// How long nothing may come until it's taken for the end of a log. A server that is busy has it wait for
/// its turn; only builds that failed wait for it, and those whose log is kept.
const QUIET: Duration = Duration::from_millis(200);

/// The last bytes that a child wrote to its standard error.
#[derive(Clone, Debug)]
pub(crate) struct StderrTail(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kept: Mutex<Kept>,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct Kept {
    tail: Vec<u8>,
    /// Who follows it as the log of a build, and the beginning of the next line.
    follower: Option<Arc<dyn BuildLog>>,
    line: Vec<u8>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("tail", &self.tail.escape_ascii().to_string()).finish()
    }
}

/// How far reading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is nothing to read, or nothing any more.
    Ended,
    /// So many pieces were read.
    Reading(u64),
}

impl Default for StderrTail {
    fn default() -> StderrTail {
        let (state, _) = watch::channel(State::Ended);
        StderrTail(Arc::new(Inner { kept: Mutex::default(), state }))
    }
}

impl StderrTail {
    /// Reads until the end, so that the child never blocks on a full pipe.
    pub(crate) fn drain(
        self,
        mut from: impl AsyncRead + Unpin + Send,
    ) -> impl Future<Output = ()> + Send {
        self.0.state.send_replace(State::Reading(0));
        async move {
            let mut buffer = [0; 16 * 1024];
            let mut pieces = 0;
            while let Ok(read @ 1..) = from.read(&mut buffer).await {
                self.push(buffer.get(..read).unwrap_or_default());
                pieces += 1;
                self.0.state.send_replace(State::Reading(pieces));
            }
            self.0.state.send_replace(State::Ended);
        }
    }

    /// Passes on whole lines from now on, until somebody else follows.
    pub(crate) fn follow(&self, log: Arc<dyn BuildLog>) {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.follower = Some(log);
    }

    fn push(&self, bytes: &[u8]) {
        let (follower, lines) = {
            let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.tail.extend_from_slice(bytes);
            let surplus = kept.tail.len().saturating_sub(KEPT);
            kept.tail.drain(..surplus);
            let Some(follower) = kept.follower.clone() else { return };
            (follower, take_lines(&mut kept.line, bytes))
        };
        lines.into_iter().for_each(|line| follower.event(LogEvent::Line(line)));
    }

    /// Waits for the end of what there is to read, but not for long.
    pub(crate) async fn ended(&self) {
        let mut state = self.0.state.subscribe();
        let ended = state.wait_for(|state| *state == State::Ended);
        drop(tokio::time::timeout(ENDING, ended).await);
    }

    /// Waits until nothing more comes, as far as can be told: the end of a log takes another way
    /// than the answer how the build has ended.
    pub(crate) async fn settled(&self) {
        let mut state = self.0.state.subscribe();
        let quiet = async {
            while *state.borrow_and_update() != State::Ended
                && matches!(tokio::time::timeout(QUIET, state.changed()).await, Ok(Ok(())))
            {
            }
        };
        drop(tokio::time::timeout(ENDING, quiet).await);
    }

    /// Returns the words as lines without control characters, or nothing if there were none.
    pub(crate) fn text(&self) -> Option<String> {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let text = drover_core::plain_text(&String::from_utf8_lossy(&kept.tail));
        let lines: Vec<&str> =
            text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        if lines.is_empty() { None } else { Some(lines.join("; ")) }
    }
}

/// Takes the lines that `bytes` end, and keeps the beginning of the next.
fn take_lines(line: &mut Vec<u8>, bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
        line.extend_from_slice(piece);
        if line.ends_with(b"\n") || line.len() >= LINE {
            let text = raw_text(line);
            lines.push(text.trim_end_matches(['\n', '\r']).to_owned());
            line.clear();
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use drover_core::raw_bytes;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[test]
    fn lines_are_put_together_from_pieces() {
        let mut line = Vec::new();
        assert_eq!(take_lines(&mut line, b"on"), [""; 0]);
        assert_eq!(take_lines(&mut line, b"e\r\ntwo\n\nthr"), ["one", "two", ""]);
        assert_eq!(take_lines(&mut line, b"ee\n"), ["three"]);
        assert_eq!(raw_bytes(&take_lines(&mut line, b"f\xfcr\n")[0]).as_ref(), b"f\xfcr");
        assert_eq!(take_lines(&mut line, &[b'x'; LINE]).len(), 1, "without an end it is cut");
        assert!(line.is_empty());
    }

    #[tokio::test]
    async fn the_last_words_are_kept() {
        let tail = StderrTail::default();
        tail.ended().await;
        let words = [b"x".repeat(KEPT).as_slice(), b"\n\x1b[31mno\x1b[0m such\r\nfile\n"].concat();
        tail.clone().drain(words.as_slice()).await;
        tail.ended().await;
        assert!(tail.text().expect("words").ends_with("x; no such; file"));
    }

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl BuildLog for Lines {
        fn event(&self, event: LogEvent) {
            let LogEvent::Line(line) = event else { panic!("{event:?}") };
            self.0.lock().expect("not poisoned").push(line);
        }
    }

    #[tokio::test]
    async fn a_log_is_passed_on_line_by_line() {
        let (lines, tail) = (Arc::new(Lines::default()), StderrTail::default());
        tail.follow(Arc::clone(&lines) as Arc<dyn BuildLog>);
        tail.clone().drain(b"one\ntwo\nthree".as_slice()).await;
        tail.settled().await;
        assert_eq!(*lines.0.lock().expect("not poisoned"), ["one", "two"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_log_may_come_behind_the_answer() {
        let (lines, tail) = (Arc::new(Lines::default()), StderrTail::default());
        tail.follow(Arc::clone(&lines) as Arc<dyn BuildLog>);
        let (mut server, here) = tokio::io::duplex(64);
        let reading = tail.clone().drain(here);
        let saying = async {
            for line in ["one\n", "two\n"] {
                tokio::time::sleep(Duration::from_millis(150)).await;
                server.write_all(line.as_bytes()).await.expect("a reader");
            }
            // the server lives on
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = reading => panic!("it has not ended"),
            () = saying => {}
            () = tail.settled() => {}
        }
        assert_eq!(*lines.0.lock().expect("not poisoned"), ["one", "two"]);
    }
}
