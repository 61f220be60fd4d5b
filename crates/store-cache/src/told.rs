//! What this process has said of caches, so that it isn't said again by the next who asks the same.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Texts that are remembered at the most.
const MOST: usize = 1024;

/// How long nothing is said twice.
const AGE: Duration = Duration::from_secs(3600);

static TOLD: Mutex<Option<HashMap<String, Instant>>> = Mutex::new(None);

/// Warns, unless the same was said not long ago.
pub(crate) fn warn_once(text: &str) {
    if is_new(text) {
        tracing::warn!("{text}");
    }
}

fn is_new(text: &str) -> bool {
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let told = told.get_or_insert_default();
    told.retain(|_, since| since.elapsed() < AGE);
    if told.len() >= MOST {
        told.clear();
    }
    told.insert(text.to_owned(), Instant::now()).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once() {
        assert!(is_new("a is no good"));
        assert!(is_new("b is no good"));
        assert!(!is_new("a is no good"));
    }
}
