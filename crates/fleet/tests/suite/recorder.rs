//! Follows a run, and checks that what it's told makes sense.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use drover_fleet::{FleetEvent, Graph, NodeId, Observer};

#[derive(Default)]
pub(crate) struct Recorder(Mutex<Vec<FleetEvent>>);

impl Observer for Recorder {
    fn event(&self, event: FleetEvent) {
        self.0.lock().unwrap().push(event);
    }
}

/// What a follower thinks a derivation is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Doing {
    Assigned(String),
    Building(String),
    Built,
    Failed,
}

impl Recorder {
    pub(crate) fn events(&self) -> Vec<FleetEvent> {
        self.0.lock().unwrap().clone()
    }

    /// Asserts an order that a progress display can follow.
    pub(crate) fn check(&self, graph: &Graph) {
        let events = self.events();
        let planned = |event: &FleetEvent| matches!(event, FleetEvent::Planned { .. });
        if let Some(first) = events.first() {
            assert!(planned(first), "first came {first:?}");
        }
        assert!(events.iter().filter(|event| planned(event)).count() <= 1);
        let mut jobs: HashMap<NodeId, Doing> = HashMap::new();
        let mut open: BTreeSet<u64> = BTreeSet::new();
        let mut seen: BTreeSet<u64> = BTreeSet::new();
        for event in &events {
            match event {
                FleetEvent::CopyStarted { transfer, .. } => {
                    assert!(open.insert(*transfer) && seen.insert(*transfer), "{event:?}");
                }
                FleetEvent::CopyProgress { transfer, .. } => {
                    assert!(open.contains(transfer), "{event:?}");
                }
                FleetEvent::CopyEnded { transfer } => {
                    assert!(open.remove(transfer), "{event:?}");
                }
                _ => follow(&mut jobs, event, graph),
            }
        }
        assert!(open.is_empty(), "transfers {open:?} never ended");
    }
}

fn follow(jobs: &mut HashMap<NodeId, Doing>, event: &FleetEvent, graph: &Graph) {
    let name = |node: &NodeId| graph.node(*node).expect("a node").derivation.name.to_string();
    match event {
        FleetEvent::Assigned { node, machine } => {
            let before = jobs.insert(*node, Doing::Assigned(machine.clone()));
            let free = !matches!(before, Some(Doing::Assigned(_) | Doing::Building(_)));
            assert!(free, "{} was assigned twice", name(node));
        }
        FleetEvent::Building { node, machine } => {
            let before = jobs.insert(*node, Doing::Building(machine.clone()));
            assert_eq!(before, Some(Doing::Assigned(machine.clone())), "{}", name(node));
        }
        FleetEvent::Built { node, machine, .. } => {
            let before = jobs.insert(*node, Doing::Built);
            let was = [Doing::Assigned(machine.clone()), Doing::Building(machine.clone())];
            assert!(before.is_some_and(|before| was.contains(&before)), "{}", name(node));
        }
        FleetEvent::Retried { node, machine, .. } => {
            let before = jobs.remove(node);
            let was = [Doing::Assigned(machine.clone()), Doing::Building(machine.clone())];
            assert!(before.is_some_and(|before| was.contains(&before)), "{}", name(node));
        }
        FleetEvent::Failed { node, .. } => {
            let before = jobs.insert(*node, Doing::Failed);
            assert_ne!(before, Some(Doing::Failed), "{} failed twice: {event:?}", name(node));
        }
        _ => {}
    }
}
