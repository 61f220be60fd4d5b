//! A daemon behind another program of drover: what the one tells, the other passes on.

mod support;

use std::sync::Arc;
use std::time::Duration;

use drover_core::StoreDir;
use drover_derivation::{BasicDerivation, Output};
use drover_store::contract::flat_file;
use drover_store::{
    AfterFailure, BuildMode, BuildSettings, RealiseEvent, RealiseSettings, RealiseStatus,
    Realiser as _, Substitute,
};
use drover_store_remote::{Address, ConnectOptions, RemoteStore};
use rstest::rstest;
use support::sockets::{Heard, work_at};
use support::world;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

#[rstest]
#[tokio::test]
async fn why_a_build_waits_is_passed_on(#[values("", "b1: it is busy; b2: it is down")] why: &str) {
    let world = world();
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let mut serving = JoinSet::new();
    serving.spawn(work_at(listener, world.server.clone()));
    let options = ConnectOptions {
        connect_timeout: Duration::from_secs(20),
        ssh_arguments: Vec::new(),
        runtime_dir: Arc::clone(&folder),
    };
    let (dir, settings) = (StoreDir::default(), BuildSettings::default());
    let address = Address::Socket(socket);
    let store = Arc::new(RemoteStore::new("head", dir, address, &options, settings));
    let (out, _) = flat_file("job", b"", &[]);
    let (path, _) = flat_file("job.drv", b"", &[]);
    let derivation = BasicDerivation {
        name: "job".parse().expect("a name"),
        outputs: [("out".parse().expect("a name"), Output::InputAddressed(out.path))].into(),
        input_sources: [].into(),
        system: "x86_64-linux".to_owned(),
        builder: "/bin/sh".into(),
        args: Vec::new(),
        environment: [("waits", why)].into_iter().collect(),
    };
    let settings = RealiseSettings {
        mode: BuildMode::Normal,
        after_failure: AfterFailure::Stop,
        substitute: Substitute::No,
        build: BuildSettings::default(),
        client: None,
    };
    let heard = Arc::new(Heard::default());
    let (of, observer) = ((path.path.clone(), derivation), Arc::clone(&heard));
    let built = store.realiser().build_derivation(store, of, settings, observer).await;
    assert_eq!(built.expect("an answer").status, RealiseStatus::Built);
    let heard = heard.0.lock().expect("no panic");
    let waits = heard.iter().filter(|event| matches!(event, RealiseEvent::Waiting { .. }));
    let waits: Vec<RealiseEvent> = waits.cloned().collect();
    let (derivation, reason) = (path.path, why.to_owned());
    assert_eq!(waits, [RealiseEvent::Waiting { derivation, reason }], "{heard:?}");
}
