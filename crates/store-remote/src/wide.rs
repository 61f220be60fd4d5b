//! Pipes that hold more than usual.
//!
//! What a pipe to or from a master of OpenSSH doesn't take, the master keeps, and moves in its memory
//! again and again: with large transfers over many channels half of its time goes there.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that a wide pipe holds: what a plain user may ask for.
const SIZE: usize = 1024 * 1024;

/// Pipes of this process that may be wide at once. All pipes of a plain user may hold 64 MiB
/// together; beyond that new ones hold next to nothing.
const AT_ONCE: usize = 32;

static WIDE: AtomicUsize = AtomicUsize::new(0);

/// A pipe that counts as wide for as long as this lives.
pub(crate) struct Wide(());

impl Wide {
    /// Makes a pipe hold more, if not too many do already and the system grants it.
    pub(crate) fn make(pipe: BorrowedFd<'_>) -> Option<Wide> {
        let one_more = |wide| (wide < AT_ONCE).then_some(wide + 1);
        WIDE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        let wide = Wide(());
        rustix::pipe::fcntl_setpipe_size(pipe, SIZE).ok().map(|_| wide)
    }
}

impl Drop for Wide {
    fn drop(&mut self) {
        WIDE.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn only_so_many_pipes_are_wide_and_each_gives_its_place_back() {
        let pipes: Vec<_> = (0..AT_ONCE + 8).map(|_| std::io::pipe().unwrap()).collect();
        let size = |pipe: &std::io::PipeReader| rustix::pipe::fcntl_getpipe_size(pipe).unwrap();
        let make = || pipes.iter().filter_map(|(to, _)| Wide::make(to.as_fd())).collect();
        let wide: Vec<Wide> = make();
        let grown = pipes.iter().filter(|(to, _)| size(to) == SIZE).count();
        assert!(!wide.is_empty() && wide.len() <= AT_ONCE, "{} are wide", wide.len());
        assert_eq!(grown, wide.len());
        drop(wide);
        assert!(Wide::make(pipes[AT_ONCE + 1].0.as_fd()).is_some());
    }
}
