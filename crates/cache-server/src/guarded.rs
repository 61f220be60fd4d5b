//! A connection whose other end may not stop taking what it has asked for.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A connection that fails when nothing of what is sent has been taken for too long.
pub(crate) struct Guarded<S> {
    inner: S,
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    state: State,
}

/// Whether something waits to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Flowing,
    Stalled,
}

impl<S> Guarded<S> {
    pub(crate) fn new(inner: S, limit: Duration) -> Guarded<S> {
        Guarded { inner, limit, timer: Box::pin(sleep(limit)), state: State::Flowing }
    }

    /// Looks at the time where nothing could be written.
    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.state = State::Flowing;
            return outcome;
        }
        if self.state == State::Flowing {
            self.timer.as_mut().reset(Instant::now() + self.limit);
            self.state = State::Stalled;
        }
        match self.timer.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.watch(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(context, bytes);
        self.watch(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(context);
        self.watch(context, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_shutdown(context);
        self.watch(context, outcome)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_nothing_is_left() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let mut guarded = Guarded::new(ours, Duration::from_secs(60));
        let since = Instant::now();
        let error = guarded.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(since.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_slow_is_served() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut guarded = Guarded::new(ours, Duration::from_secs(60));
        let reading = async {
            let mut taken = 0;
            let mut some = [0; 10];
            while let Ok(count) = theirs.read(&mut some).await {
                if count == 0 {
                    break;
                }
                taken += count;
                sleep(Duration::from_secs(50)).await;
            }
            taken
        };
        let writing = async {
            guarded.write_all(&[0; 1000]).await.unwrap();
            drop(guarded);
        };
        let ((), taken) = tokio::join!(writing, reading);
        assert_eq!(taken, 1000);
    }
}
