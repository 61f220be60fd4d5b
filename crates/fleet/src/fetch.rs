//! What stores fetch from their own substituters: a machine, for a job that is going there, and the
//! caller's own before anything is built.
//!
//! Invariant: nobody but the job that needs the inputs waits for a machine's substituters, and it
//! doesn't wait for longer than sending the inputs would bear.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drover_core::{PathInfo, StorePath};
use drover_schedule::Place;
use drover_store::{
    BuildLog, LogEvent, Substitute, Trust, says_absent, says_why_it_is_not_fetched,
};

use crate::event::FleetEvent;
use crate::fleet::total_bytes;
use crate::lane::LaneContext;
use crate::merge::Sources as _;

/// How long a machine may take to fetch inputs, and how many bytes a second it may take longer for.
const PATIENCE: Duration = Duration::from_secs(30);
const SLOWEST: u64 = 1024 * 1024;

/// Has a machine fetch what it can of the inputs that would be sent there, and returns the rest.
pub(crate) async fn fetch_there(
    context: &LaneContext,
    bring: Vec<(PathInfo, Place)>,
) -> Vec<(PathInfo, Place)> {
    // what is made in this run no substituter has
    let may_be_had = |(info, from): &&(PathInfo, Place)| {
        *from == Place::Here && context.shared.kept(&info.path).is_none()
    };
    let infos: Vec<PathInfo> =
        bring.iter().filter(may_be_had).map(|(info, _)| info.clone()).collect();
    let asks = context.substitute == Substitute::Yes && context.trust != Trust::NotTrusted;
    if !asks || infos.is_empty() {
        return bring;
    }
    let paths: BTreeSet<StorePath> = infos.iter().map(|info| info.path.clone()).collect();
    let transfer = context.shared.start_fetch(context.machine, &infos);
    let words = Arc::new(Words::default());
    let patience = PATIENCE + Duration::from_secs(total_bytes(&infos) / SLOWEST);
    let fetching = context.site.substitute(&paths, Arc::clone(&words) as Arc<dyn BuildLog>);
    let fetched = tokio::time::timeout(patience, fetching).await;
    drop(transfer);
    let valid = match fetched {
        Ok(Ok(valid)) => valid,
        // if it's the connection, the import finds that out, and says so
        Ok(Err(_)) => BTreeSet::new(),
        Err(_) => {
            let text = format!(
                "{} has not fetched inputs from its substituters in {} s{}: they are sent from here",
                context.name,
                patience.as_secs(),
                words.in_brackets(),
            );
            context.observer.event(FleetEvent::Note(text));
            BTreeSet::new()
        }
    };
    let there: Vec<PathInfo> =
        infos.into_iter().filter(|info| valid.contains(&info.path)).collect();
    if there.is_empty() {
        return bring;
    }
    context.shared.places.landed(&there, context.berth);
    context.shared.paths_arrived(context.machine, context.generation, &there);
    bring.into_iter().filter(|(info, _)| !valid.contains(&info.path)).collect()
}

/// The last words of a store while it fetched something.
#[derive(Debug, Default)]
pub(crate) struct Words(Mutex<VecDeque<String>>);

/// Messages that are kept.
const KEPT: usize = 5;

impl Words {
    /// Returns the messages that tell of something wrong.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        words.iter().filter(|text| says_why_it_is_not_fetched(text)).cloned().collect()
    }

    /// Whether what was offered turned out not to be there. That is no failure: it's as if it had
    /// never been offered.
    pub(crate) fn tell_of_absence(&self) -> bool {
        let complaints = self.complaints();
        !complaints.is_empty() && complaints.iter().all(|text| says_absent(text))
    }

    fn in_brackets(&self) -> String {
        match self.complaints().last() {
            Some(words) => format!(" ({})", words.trim()),
            None => String::new(),
        }
    }
}

impl BuildLog for Words {
    fn event(&self, event: LogEvent) {
        let LogEvent::Message(text) = event else { return };
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        words.push_back(text);
        if words.len() > KEPT {
            words.pop_front();
        }
    }
}
