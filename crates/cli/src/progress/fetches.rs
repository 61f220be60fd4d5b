//! What the local store fetches from its substituters, before and between builds.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use drover_store::{FetchEvent, FetchObserver};

use super::screen::Screen;
use crate::terminal::Terminal;
use crate::units;

/// Passes on what a store fetches, once there is a screen to show it on. What the user should know
/// is told before that, too.
pub(crate) struct FetchFollower {
    screen: OnceLock<Arc<Screen>>,
    terminal: Terminal,
}

impl FetchFollower {
    pub(crate) fn new(terminal: &Terminal) -> FetchFollower {
        FetchFollower { screen: OnceLock::new(), terminal: terminal.clone() }
    }

    /// Shows it on a screen from now on, and on none after that.
    pub(crate) fn show_on(&self, screen: &Arc<Screen>) {
        self.screen.get_or_init(|| Arc::clone(screen));
    }
}

impl FetchObserver for FetchFollower {
    fn event(&self, event: FetchEvent) {
        match (self.screen.get(), event) {
            (Some(screen), event) => screen.fetch(&event),
            (None, FetchEvent::Note(text)) => self.terminal.warn(&text),
            (None, _) => {}
        }
    }
}

/// What is known of all that is fetched.
#[derive(Debug, Default)]
pub(crate) struct Fetches {
    /// What is being fetched.
    pub(crate) running: BTreeMap<u64, Fetch>,
    /// Paths that have come.
    pub(crate) fetched: usize,
    /// The substituter that was asked last what it has, until a path comes.
    pub(crate) asked: Option<String>,
}

/// A path that is being fetched.
#[derive(Clone, Debug)]
pub(crate) struct Fetch {
    /// Its name without hash.
    pub(crate) name: String,
    /// The substituter.
    pub(crate) from: String,
    /// Bytes so far.
    pub(crate) done: u64,
    /// Bytes in all, 0 while that isn't known.
    pub(crate) size: u64,
    /// Since when.
    pub(crate) since: Instant,
}

impl Fetches {
    /// Takes notice of an event, and returns the bytes that have come with it.
    pub(crate) fn apply(&mut self, event: &FetchEvent, now: Instant) -> u64 {
        match event {
            FetchEvent::Asking { substituter } => {
                self.asked = Some(substituter.clone());
                0
            }
            FetchEvent::Started { number, path, substituter } => {
                self.asked = None;
                let (name, from) = (path.name().to_owned(), substituter.clone());
                self.running.insert(*number, Fetch { name, from, done: 0, size: 0, since: now });
                0
            }
            FetchEvent::Progress { number, done, size } => {
                let Some(fetch) = self.running.get_mut(number) else { return 0 };
                fetch.size = *size;
                let before = std::mem::replace(&mut fetch.done, *done);
                done.saturating_sub(before)
            }
            FetchEvent::Ended { number } => {
                self.fetched += usize::from(self.running.remove(number).is_some());
                0
            }
            FetchEvent::Note(_) => 0,
        }
    }

    /// Returns what is going on, in the fewest words; nothing where nothing is.
    pub(crate) fn in_short(&self) -> Option<String> {
        if let Some(first) = self.running.values().min_by_key(|fetch| fetch.since) {
            let more = match self.running.len() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            return Some(format!("fetching {}{more}", first.in_words()));
        }
        let substituter = self.asked.as_ref()?;
        Some(format!("asking {substituter} what it has"))
    }
}

impl Fetch {
    /// Returns the path and how far it is.
    pub(crate) fn in_words(&self) -> String {
        let sizes = match self.size {
            0 => units::bytes(self.done),
            size => format!("{} of {}", units::bytes(self.done), units::bytes(size)),
        };
        format!("{} from {}: {sizes}", self.name, self.from)
    }
}

/// Returns the line for what there is to say where every line stays.
pub(crate) fn line(event: &FetchEvent) -> Option<String> {
    match event {
        FetchEvent::Started { path, substituter, .. } => {
            Some(format!("fetching {} from {substituter}", path.name()))
        }
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use drover_core::StorePath;

    use super::*;

    pub(crate) fn started(number: u64, name: &str) -> FetchEvent {
        let path = format!("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-{name}");
        FetchEvent::Started {
            number,
            path: StorePath::from_base_name(&path).unwrap(),
            substituter: "https://c".to_owned(),
        }
    }

    #[test]
    fn says_what_comes_from_where() {
        let now = Instant::now();
        let mut fetches = Fetches::default();
        assert_eq!(fetches.in_short(), None);
        fetches.apply(&FetchEvent::Asking { substituter: "https://c".to_owned() }, now);
        assert_eq!(fetches.in_short().as_deref(), Some("asking https://c what it has"));
        fetches.apply(&started(1, "hello"), now);
        assert_eq!(fetches.in_short().as_deref(), Some("fetching hello from https://c: 0 B"));
        let progress = |done| FetchEvent::Progress { number: 1, done, size: 4096 };
        assert_eq!(fetches.apply(&progress(1024), now), 1024);
        assert_eq!(fetches.apply(&progress(3072), now), 2048);
        fetches.apply(&started(2, "glibc"), now + std::time::Duration::from_secs(1));
        assert_eq!(
            fetches.in_short().as_deref(),
            Some("fetching hello from https://c: 3.0 KiB of 4.0 KiB and 1 more")
        );
        fetches.apply(&FetchEvent::Ended { number: 1 }, now);
        fetches.apply(&FetchEvent::Ended { number: 7 }, now);
        assert_eq!((fetches.fetched, fetches.running.len()), (1, 1));
    }
}
