//! Whether the outputs of a build will be small: then they are asked for together with it, which
//! saves a way there and back when they are to go elsewhere.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use drover_core::{NarSize, PathInfo};

use crate::merge::SMALL;

/// Outputs that must have been seen before there is a guess.
const ENOUGH: usize = 4;

/// What was seen of the outputs of a run.
#[derive(Debug, Default)]
pub(crate) struct OutputSizes {
    seen: AtomicUsize,
    large: AtomicBool,
}

impl OutputSizes {
    /// Takes note of an output.
    pub(crate) fn note(&self, info: &PathInfo) {
        self.seen.fetch_add(1, Ordering::Relaxed);
        if info.nar_size.0 > SMALL {
            self.large.store(true, Ordering::Relaxed);
        }
    }

    /// Returns the size that outputs will not exceed if they go on like those seen. A wrong guess
    /// costs a connection, so one large output ends the guessing.
    pub(crate) fn guess(&self) -> Option<NarSize> {
        let alike = self.seen.load(Ordering::Relaxed) >= ENOUGH;
        (alike && !self.large.load(Ordering::Relaxed)).then_some(NarSize(SMALL))
    }
}

#[cfg(test)]
mod tests {
    use drover_store::contract::flat_file;

    use super::*;

    #[test]
    fn some_small_outputs_make_a_guess_and_a_large_one_ends_it() {
        let (small, _) = flat_file("small", b"few", &[]);
        let large = PathInfo { nar_size: NarSize(SMALL + 1), ..small.clone() };
        let sizes = OutputSizes::default();
        for _ in 0..ENOUGH {
            assert_eq!(sizes.guess(), None);
            sizes.note(&small);
        }
        assert_eq!(sizes.guess(), Some(NarSize(SMALL)));
        sizes.note(&large);
        sizes.note(&small);
        assert_eq!(sizes.guess(), None);
    }
}
