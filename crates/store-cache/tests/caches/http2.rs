//! A server that speaks HTTP/2, where all files come over one connection.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use drover_store::Store as _;
use drover_store::contract::flat_file;
use drover_store_cache::CacheSettings;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::tls::{identity, with_authority};
use crate::{fill, infos, names, noise, open, rest};

/// Serves a folder; ends with the tasks. Returns the address and the certificate.
async fn serve(folder: PathBuf, tasks: &mut JoinSet<()>) -> (SocketAddr, String) {
    let (mut config, pem) = identity("127.0.0.1");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(speak(acceptor.clone(), stream, folder.clone()));
        }
    });
    (address, pem)
}

async fn speak(acceptor: TlsAcceptor, stream: TcpStream, folder: PathBuf) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let file = std::fs::read(folder.join(&request.uri().path()[1..]));
        let status = if file.is_ok() { 200 } else { 404 };
        let response = http::Response::builder().status(status).body(()).unwrap();
        let Ok(mut body) = respond.send_response(response, false) else { continue };
        drop(body.send_data(Bytes::from(file.unwrap_or_default()), true));
    }
}

fn settings(folder: &tempfile::TempDir, pem: &str) -> CacheSettings {
    CacheSettings {
        stalled_download_timeout: Duration::from_secs(10),
        download_attempts: 1,
        ..with_authority(folder, pem)
    }
}

async fn make(folder: &Path) -> crate::Paths {
    let paths: crate::Paths = (0..14)
        .map(|number| flat_file(&format!("n{number}"), &noise(number, 5_000_000), &[]))
        .collect();
    fill(folder, "compression=none", &paths).await;
    paths
}

/// Files that are fetched ahead fill their windows and wait; the one that is awaited comes all the
/// same.
#[tokio::test]
async fn what_is_awaited_comes_past_what_is_fetched_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let paths = make(folder.path()).await;
    let mut tasks = JoinSet::new();
    let (address, pem) = serve(folder.path().to_owned(), &mut tasks).await;
    let store = open(&format!("https://{address}"), settings(&folder, &pem));
    let found = store.path_infos(&names(&paths)).await.unwrap();
    assert!(found.iter().all(Option::is_some));
    let mut stream = store.export_to_checker(infos(&paths)).await.unwrap();
    for (_, nar) in &paths {
        stream.next_path().await.unwrap();
        assert!(rest(&mut *stream).await.unwrap() == *nar);
    }
}
