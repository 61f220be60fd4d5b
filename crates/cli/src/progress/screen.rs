//! Takes events without ever waiting, and writes from a thread of its own.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use drover_fleet::{FleetEvent, Observer};
use drover_store::FetchEvent;

use super::activity::{Activities, Level, message};
use super::area::{Area, Size};
use super::bar::render;
use super::fetches;
use super::lines::{Taste, lasting_line, line, reminder};
use super::names::Names;
use super::state::Progress;
use crate::terminal::{Form, Terminal, Verbosity};

/// Time between two looks at what there is to write.
const PERIOD: Duration = Duration::from_millis(80);

/// After so long without a line there is a reminder of what is going on.
const SILENCE: Duration = Duration::from_secs(50);

/// Lines that may wait to be written. A terminal that takes no more loses lines of logs; builds
/// never wait for it.
const WAITING: usize = 50_000;

/// Shows what a fleet does.
pub(crate) struct Screen {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
    names: Box<dyn Names>,
    taste: Taste,
}

struct Inner {
    progress: Progress,
    format: Format,
    waiting: VecDeque<String>,
    lost: usize,
    stage: Stage,
}

enum Format {
    Bar,
    Raw,
    Json(Activities),
}

impl Inner {
    /// Takes what waits to be written.
    fn take_lines(&mut self) -> Vec<String> {
        let mut lines: Vec<String> = self.waiting.drain(..).collect();
        match std::mem::take(&mut self.lost) {
            0 => {}
            lost => {
                let text = format!("({lost} lines of build logs could not be shown)");
                lines.push(self.format.said(Level::Warning, &text));
            }
        }
        lines
    }
}

impl Format {
    fn said(&self, level: Level, text: &str) -> String {
        match self {
            Format::Json(_) => message(level, text),
            Format::Bar | Format::Raw => text.to_owned(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Ending,
}

impl Screen {
    /// Starts to show what a fleet does with these machines and derivations.
    pub(crate) fn start(
        progress: Progress,
        names: Box<dyn Names>,
        terminal: &Terminal,
    ) -> std::io::Result<Screen> {
        let format = match terminal.form {
            Form::Bar if terminal.verbosity >= Verbosity::Normal => Format::Bar,
            Form::Bar | Form::Raw => Format::Raw,
            Form::Json => Format::Json(Activities::new(std::process::id())),
        };
        let draws = matches!(format, Format::Bar);
        let taste = Taste { verbosity: terminal.verbosity, build_logs: terminal.build_logs };
        let inner =
            Inner { progress, format, waiting: VecDeque::new(), lost: 0, stage: Stage::Running };
        let shared =
            Arc::new(Shared { inner: Mutex::new(inner), changed: Condvar::new(), names, taste });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(move || {
            theirs.write(draws.then(Area::default));
        })?;
        Ok(Screen { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Writes what is left, and takes lines away that were kept up to date.
    pub(crate) fn finish(&self) {
        self.shared.lock().stage = Stage::Ending;
        self.shared.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // a thread that has panicked has said so itself
            drop(thread.join());
        }
    }

    /// Says something between the lines.
    pub(crate) fn say(&self, text: &str) {
        let mut inner = self.shared.lock();
        let line = inner.format.said(Level::Info, text);
        inner.waiting.push_back(line);
    }
}

impl Screen {
    /// Takes notice of what the local store fetches.
    pub(crate) fn fetch(&self, event: &FetchEvent) {
        if let FetchEvent::Note(text) = event {
            return self.event(FleetEvent::Note(text.clone()));
        }
        let mut inner = self.shared.lock();
        inner.progress.apply_fetch(event, Instant::now());
        let lines = match &mut inner.format {
            Format::Raw if Verbosity::Normal <= self.shared.taste.verbosity => {
                fetches::line(event).into_iter().collect()
            }
            Format::Bar | Format::Raw => Vec::new(),
            Format::Json(activities) => activities.fetch_lines(event, &*self.shared.names),
        };
        inner.waiting.extend(lines);
    }
}

impl Observer for Screen {
    fn event(&self, event: FleetEvent) {
        let mut inner = self.shared.lock();
        inner.progress.apply(&event, Instant::now());
        let (names, taste) = (&*self.shared.names, self.shared.taste);
        let lines = match &mut inner.format {
            Format::Bar => lasting_line(&event, names, taste).into_iter().collect(),
            Format::Raw => line(&event, names, taste).into_iter().collect(),
            Format::Json(activities) => activities.lines(&event, names, taste),
        };
        for line in lines {
            if matches!(event, FleetEvent::LogLine { .. }) && WAITING <= inner.waiting.len() {
                inner.lost += 1;
            } else {
                inner.waiting.push_back(line);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes until the end.
    fn write(&self, mut area: Option<Area>) {
        let mut last_line = Instant::now();
        loop {
            let inner = self.lock();
            let running = |inner: &mut Inner| inner.stage == Stage::Running;
            let (mut inner, _) = self
                .changed
                .wait_timeout_while(inner, PERIOD, running)
                .unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let mut lines = inner.take_lines();
            let ending = inner.stage == Stage::Ending;
            if !lines.is_empty() {
                last_line = now;
            } else if SILENCE <= now.duration_since(last_line) && !ending {
                last_line = now;
                lines.extend(self.reminder(&inner, now));
            }
            let kept = match (ending, &area) {
                (false, Some(_)) => render(&inner.progress, &*self.names, now),
                _ => Vec::new(),
            };
            // nobody waits for the terminal
            drop(inner);
            let text = match &mut area {
                Some(area) => area.frame(&lines, kept, terminal_size()),
                None => lines.iter().flat_map(|line| [line, "\n"]).collect(),
            };
            if !text.is_empty() {
                // with nobody to read it there is nobody to tell
                drop(std::io::stderr().lock().write_all(text.as_bytes()));
            }
            if ending {
                return;
            }
        }
    }

    fn reminder(&self, inner: &Inner, now: Instant) -> Option<String> {
        let speaks =
            matches!(inner.format, Format::Raw) && self.taste.verbosity >= Verbosity::Normal;
        speaks.then(|| reminder(&inner.progress, &*self.names, now))
    }
}

/// Returns the size of the terminal, or a usual one.
fn terminal_size() -> Size {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            Size { columns: size.ws_col.into(), rows: size.ws_row.into() }
        }
        _ => Size { columns: 80, rows: 24 },
    }
}

#[cfg(test)]
mod tests {
    use drover_fleet::NodeId;
    use rstest::rstest;

    use super::super::names::ListNames;
    use super::*;
    use crate::arguments::VerbosityArguments;

    #[test]
    fn takes_events_however_slow_the_terminal() {
        let terminal = Terminal::new(&VerbosityArguments { verbose: 0, quiet: 1 });
        let names = Box::new(ListNames(&["a"]));
        let screen = Screen::start(Progress::new([]), names, &terminal).unwrap();
        for _ in 0..3 * WAITING {
            screen.event(FleetEvent::LogLine { node: NodeId(0), line: "x".to_owned() });
        }
        screen.finish();
        screen.finish();
    }

    #[rstest]
    #[case::for_people(Format::Raw, "(2 lines of build logs could not be shown)")]
    #[case::for_tools(
        Format::Json(Activities::new(1)),
        r#"@nix {"action":"msg","level":1,"msg":"(2 lines of build logs could not be shown)"}"#
    )]
    fn what_was_not_shown_is_told_in_the_form_of_the_rest(
        #[case] format: Format,
        #[case] last: &str,
    ) {
        let (progress, waiting) = (Progress::new([]), ["x".to_owned()].into());
        let mut inner = Inner { progress, format, waiting, lost: 2, stage: Stage::Running };
        assert_eq!(inner.take_lines(), ["x", last]);
        assert_eq!(inner.take_lines(), [""; 0]);
    }
}
