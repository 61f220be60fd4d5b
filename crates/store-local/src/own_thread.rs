//! Work on a store by a thread that is there for nothing else.
//!
//! What a store is asked for goes to a thread that may block, and the answer comes back: some
//! hundred microseconds for a question that is answered within ten. A build asks a dozen of them one
//! after another, so it has a thread of its own, where all is done in place.

use std::cell::Cell;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::pin;

thread_local! {
    static MAY_BLOCK: Cell<Blocking> = const { Cell::new(Blocking::Elsewhere) };
}

/// Where a thread does what blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blocking {
    Elsewhere,
    InPlace,
}

/// Has all stores of this crate do in place what `work` asks them for, while it's polled.
///
/// For a thread that nobody else waits for: one that blocks on this future, and no worker of a runtime.
/// Whatever `work` waits for on two ways at the same time it gets one after the other then.
pub async fn in_place<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|context| {
        let _mark = Mark::set();
        work.as_mut().poll(context)
    })
    .await
}

/// Whether what blocks is done on this thread.
pub(crate) fn may_block() -> bool {
    MAY_BLOCK.get() == Blocking::InPlace
}

/// This thread may block as long as this lives, also where a panic ends that.
struct Mark {
    before: Blocking,
    _stays_here: PhantomData<*const ()>,
}

impl Mark {
    fn set() -> Mark {
        let before = MAY_BLOCK.replace(Blocking::InPlace);
        Mark { before, _stays_here: PhantomData }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        MAY_BLOCK.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn counts_while_the_work_is_polled_and_no_longer() {
        let work = async {
            let before = may_block();
            tokio::task::yield_now().await;
            [before, may_block()]
        };
        let mut work = pin!(in_place(work));
        let once = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
        assert!(once.is_pending());
        assert!(!may_block());
        assert_eq!(work.await, [true, true]);
        assert!(!may_block());
    }

    #[test]
    fn ends_with_a_panic() {
        let panicking = || {
            let _mark = Mark::set();
            assert!(!may_block(), "it may");
        };
        assert!(std::panic::catch_unwind(panicking).is_err());
        assert!(!may_block());
    }
}
