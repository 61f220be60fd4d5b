//! Servers that lead elsewhere.

use drover_store::Store as _;
use rstest::rstest;

use crate::server::{Mischief, Server};
use crate::{fetch, fill, infos, names, nar_of, narinfo_of, open, quick, three};

fn lead(to: &str) -> Mischief {
    Mischief::Status(302, "", vec![("Location", to.to_owned())])
}

#[tokio::test]
async fn files_may_be_elsewhere_but_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three();
    fill(folder.path(), "", &paths).await;
    let storage = Server::start(folder.path().to_owned()).await;
    let front = Server::start(folder.path().join("nowhere")).await;
    front.misbehave("/nix-cache-info", lead(&format!("{}/nix-cache-info", storage.url())), 1);
    for info in infos(&paths) {
        for path in [narinfo_of(&info), nar_of(folder.path(), &info)] {
            front.misbehave(&path, lead(&format!("{}{path}", storage.url())), usize::MAX);
        }
    }
    let reference = format!("http://me:secret@{}", front.address());
    let store = open(&reference, quick());
    crate::read_back(&store, &paths).await;
    // The password is for who is meant.
    let tells = |server: &Server| {
        server
            .requests()
            .iter()
            .any(|request| request.headers.iter().any(|header| header.starts_with("authorization")))
    };
    assert!(tells(&front) && !tells(&storage));
    // What lies there is checked like all else.
    let nar = nar_of(folder.path(), &paths[0].0);
    storage.misbehave(&nar, Mischief::Body(vec![0; 100]), usize::MAX);
    assert!(fetch(&store, &paths[0].0).await.is_err());
}

#[rstest]
#[case::round_and_round("/x.narinfo", "the sixth time in a row")]
#[case::other_scheme("ftp://127.0.0.1/x", "which is neither http nor https")]
#[case::file("file:///etc/shadow", "the server answers 302")]
#[tokio::test]
async fn some_ways_are_not_gone(#[case] to: &str, #[case] says: &str) {
    let folder = tempfile::tempdir().unwrap();
    let paths = three();
    fill(folder.path(), "", &paths).await;
    let server = Server::start(folder.path().to_owned()).await;
    let narinfo = narinfo_of(&paths[0].0);
    server.misbehave(&narinfo, lead(to), usize::MAX);
    server.misbehave("/x.narinfo", lead("/x.narinfo"), usize::MAX);
    let store = open(&server.url(), quick());
    let error = store.path_infos(&names(&paths)).await.unwrap_err().to_string();
    assert!(error.contains(says) && error.contains(&narinfo), "{error}");
    assert_eq!(server.count(&narinfo), 1, "it was tried again");
}
