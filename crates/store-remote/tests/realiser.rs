//! Builds that a real daemon does for us.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drover_core::StorePath;
use drover_derivation::Output;
use drover_store::contract::flat_file;
use drover_store::{
    AfterFailure, BuildMode, BuildSettings, CollectAction, Collection, FailureCause, Keeper,
    Liveness, MissingPaths, RealiseEvent, RealiseObserver, RealiseSettings, RealiseStatus,
    Realiser as _, StoreError, Substitute, Wanted,
};
use drover_wire::{DerivedPath, LogMessage, RemoteError, Request, Response};
use support::{Fake, Site, soon, undisturbed};

#[derive(Default)]
struct Seen(Mutex<Vec<RealiseEvent>>);

impl RealiseObserver for Seen {
    fn event(&self, event: RealiseEvent) {
        self.0.lock().expect("a lock").push(event);
    }
}

fn settings() -> RealiseSettings {
    RealiseSettings {
        mode: BuildMode::Normal,
        after_failure: AfterFailure::KeepGoing,
        substitute: Substitute::Yes,
        build: BuildSettings::default(),
        client: None,
    }
}

fn out(derivation: &drover_derivation::Derivation) -> StorePath {
    derivation.basic.outputs.values().next().and_then(Output::path).expect("a path").clone()
}

const HELLO: &str = "echo a line; printf hello > $out";

#[tokio::test(flavor = "multi_thread")]
async fn each_build_has_its_end() {
    let site = Site::new();
    let store = Arc::new(site.store());
    let realiser = store.realiser();
    let good = site.derivation("good", HELLO);
    let bad = site.derivation("bad", "echo alas; exit 3");
    let good_drv = site.add(store.as_ref(), &good).await;
    let bad_drv = site.add(store.as_ref(), &bad).await;
    let (absent, _) = flat_file("absent", b"", &[]);
    let session = Arc::clone(&store).session().await.expect("a session");

    let wanted = vec![
        Wanted::AllOutputs(bad_drv.clone()),
        Wanted::Outputs(good_drv.clone(), ["out".to_owned()].into()),
        Wanted::Path(absent.path.clone()),
        Wanted::Path(good_drv.clone()),
    ];
    let missing = realiser
        .missing(Arc::clone(&session), wanted.clone(), Substitute::Yes)
        .await
        .expect("an answer");
    assert_eq!(
        missing,
        MissingPaths {
            build: [good_drv.clone(), bad_drv.clone()].into(),
            unknown: [absent.path].into(),
            ..MissingPaths::default()
        }
    );
    let seen = Arc::new(Seen::default());
    let ends =
        realiser.realise(Arc::clone(&session), wanted.clone(), settings(), Arc::clone(&seen) as _);
    let ends = soon(ends).await.expect("answers");
    let statuses: Vec<RealiseStatus> = ends.iter().map(|end| end.status).collect();
    assert_eq!(
        statuses,
        [
            // a fixed output may have failed for want of a network
            RealiseStatus::Failed(FailureCause::Passing),
            RealiseStatus::Built,
            RealiseStatus::Failed(FailureCause::NoSubstituters),
            RealiseStatus::AlreadyValid
        ],
        "{ends:#?}"
    );
    assert!(ends[0].message.contains("exit code 3"), "{:?}", ends[0].message);
    assert_eq!(ends[1].outputs, BTreeMap::from([("out".to_owned(), out(&good))]));

    let events = seen.0.lock().expect("a lock").clone();
    for (derivation, line) in [(&good_drv, "a line"), (&bad_drv, "alas")] {
        let derivation = derivation.clone();
        let of = |event: &&RealiseEvent| match event {
            RealiseEvent::Started { derivation: of, .. }
            | RealiseEvent::Line { derivation: of, .. }
            | RealiseEvent::Ended { derivation: of } => *of == derivation,
            _ => false,
        };
        let of_it: Vec<RealiseEvent> = events.iter().filter(of).cloned().collect();
        assert_eq!(
            of_it,
            [
                RealiseEvent::Started { derivation: derivation.clone(), machine: String::new() },
                RealiseEvent::Line { derivation: derivation.clone(), line: line.to_owned() },
                RealiseEvent::Ended { derivation },
            ]
        );
    }
    // the connection that was built on is gone; the session keeps what was built
    let list = || {
        store.collect(Collection {
            action: CollectAction::ListDead,
            liveness: Liveness::Respect,
            paths: BTreeSet::new(),
            max_freed: None,
        })
    };
    let dead = soon(undisturbed(list)).await.expect("a list").names;
    assert!(!dead.contains(&out(&good).base_name().to_owned()), "{dead:?}");

    let again = realiser.realise(session, vec![wanted[1].clone()], settings(), seen).await;
    assert_eq!(again.expect("answers")[0].status, RealiseStatus::AlreadyValid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_derivation_is_built_that_the_store_has_not() {
    let site = Site::new();
    let store = Arc::new(site.store());
    let realiser = store.realiser();
    let good = site.derivation("good", HELLO);
    let path = good.derivation_path(&site.store_dir).expect("a path");
    let seen = Arc::new(Seen::default());
    let basic = (path, good.basic.clone());
    let built = soon(realiser.build_derivation(store, basic, settings(), seen)).await;
    let built = built.expect("an end");
    assert_eq!(built.status, RealiseStatus::Built, "{built:?}");
    assert_eq!(built.outputs, BTreeMap::from([("out".to_owned(), out(&good))]));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_reach_the_server() {
    let site = Site::new();
    let store = Arc::new(site.store());
    let slow = site.derivation("slow", "exec /bin/sleep 1000");
    let drv = site.add(store.as_ref(), &slow).await;
    let build = BuildSettings { timeout: Some(Duration::from_secs(1)), ..BuildSettings::default() };
    let settings = RealiseSettings { build, ..settings() };
    let seen = Arc::new(Seen::default());
    let realiser = store.realiser();
    let ends = soon(realiser.realise(store, vec![Wanted::AllOutputs(drv)], settings, seen)).await;
    assert_eq!(ends.expect("answers")[0].status, RealiseStatus::Failed(FailureCause::TimedOut));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_up_ends_the_build() {
    let site = Site::new();
    let (store, _daemon) = site.socket().await;
    let store = Arc::new(store);
    let started = site.folder.path().join("started");
    let file = started.display();
    let script = format!("echo $$ > {file}.new; /bin/mv {file}.new {file}; exec /bin/sleep 1000");
    let slow = site.derivation("slow", &script);
    let drv = site.add(store.as_ref(), &slow).await;
    let seen = Arc::new(Seen::default());
    let realiser = store.realiser();
    let build = realiser.realise(store, vec![Wanted::AllOutputs(drv)], settings(), seen);
    let begun = async {
        while !started.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = build => panic!("{ended:?}"),
        () = soon(begun) => {}
    }
    let builder = std::fs::read_to_string(&started).expect("a file");
    let process = std::path::Path::new("/proc").join(builder.trim());
    let gone = async {
        while process.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(gone).await;
}

/// Before 1.34 a server tells only whether all went well.
#[tokio::test(flavor = "multi_thread")]
async fn ends_are_found_out_where_a_server_tells_none() {
    let (good, _) = flat_file("good", b"", &[]);
    let (bad, _) = flat_file("bad", b"", &[]);
    let answered = [good.path.clone(), bad.path.clone()];
    let fake = Fake::new(move |_, mut client| {
        let [good, bad] = answered.clone();
        async move {
            let Some(dialect) = client.greet(33).await else { return };
            let mut built = false;
            while let Some(request) = client.request(&dialect).await {
                match request {
                    Request::SetOptions(options) => {
                        assert!(options.keep_going && options.use_substitutes);
                        client.answer(&dialect, &Response::Nothing).await;
                    }
                    Request::QueryValidPaths(paths, _) => {
                        let valid = paths.into_iter().filter(|path| built && *path == good);
                        client.answer(&dialect, &Response::Paths(valid.collect())).await;
                    }
                    Request::BuildPaths(paths, BuildMode::Normal) => {
                        let wanted = [good.clone(), bad.clone()].map(DerivedPath::Opaque);
                        assert_eq!(paths, wanted);
                        built = true;
                        let message =
                            "build of '/nix/store/bad' failed with exit code 1".to_owned();
                        let traces = Vec::new();
                        client
                            .say(LogMessage::Error(RemoteError {
                                level: 0,
                                message,
                                status: 1,
                                traces,
                            }))
                            .await;
                    }
                    Request::AddTempRoot(_) => client.answer(&dialect, &Response::Done).await,
                    other => panic!("{other:?}"),
                }
            }
        }
    });
    let store = Arc::new(fake.store());
    let wanted = vec![Wanted::Path(good.path), Wanted::Path(bad.path)];
    let realiser = store.realiser();
    let seen = Arc::new(Seen::default());
    let ends = soon(realiser.realise(store, wanted, settings(), seen)).await.expect("answers");
    let statuses: Vec<RealiseStatus> = ends.iter().map(|end| end.status).collect();
    assert_eq!(statuses, [RealiseStatus::Built, RealiseStatus::Failed(FailureCause::Build)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_serve_protocol_builds_for_no_daemon() {
    let site = Site::new();
    let store = Arc::new(site.served());
    let realiser = store.realiser();
    let seen = Arc::new(Seen::default());
    let ended = realiser.realise(store, Vec::new(), settings(), seen).await;
    assert!(matches!(ended, Err(StoreError::Unsupported { .. })), "{ended:?}");
}
