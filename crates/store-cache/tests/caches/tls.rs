//! Servers behind TLS, and who vouches for them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use drover_store::{Store as _, StoreError};
use drover_store_cache::CacheSettings;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::{open, quick};

/// Returns what a server for `name` says of itself, and its certificate.
pub fn identity(name: &str) -> (ServerConfig, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    (config, cert.pem())
}

/// Starts a server for `name` that answers all with a `nix-cache-info`; returns its address and its
/// certificate. It ends with the test.
pub fn serve(name: &str) -> (SocketAddr, String) {
    let (config, pem) = identity(name);
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok_and(|count| count > 0) {
                let body = "StoreDir: /nix/store\nPriority: 12\n";
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", body.len());
                let answer = format!("{head}Connection: close\r\n\r\n{body}");
                drop(stream.write_all(answer.as_bytes()));
                drop(stream.flush());
            }
        }
    });
    (address, pem)
}

pub fn with_authority(folder: &tempfile::TempDir, pem: &str) -> CacheSettings {
    let file = folder.path().join("ca.crt");
    std::fs::write(&file, pem).unwrap();
    CacheSettings { ca_file: Some(file), ..quick() }
}

#[tokio::test]
async fn who_is_vouched_for_is_spoken_with() {
    let folder = tempfile::tempdir().unwrap();
    let (address, pem) = serve("127.0.0.1");
    let store = open(&format!("https://{address}"), with_authority(&folder, &pem));
    assert_eq!(store.priority().await.unwrap(), 12);
}

#[tokio::test]
async fn nobody_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let (address, _) = serve("127.0.0.1");
    let (other, other_pem) = serve("elsewhere.example.org");
    let settings = with_authority(&folder, &other_pem);
    // Signed by nobody who is known; and for another name.
    for address in [address, other] {
        let store = open(&format!("https://{address}"), settings.clone());
        let error = store.connect().await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("certificate is not accepted"), "{text}");
        assert!(text.contains("ca.crt (ssl-cert-file, NIX_SSL_CERT_FILE)"), "{text}");
    }
}

#[tokio::test]
async fn a_bad_file_of_authorities_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let settings = with_authority(&folder, "nothing of use\n");
    let error = open("https://127.0.0.1:1", settings).connect().await.unwrap_err().to_string();
    assert!(error.contains("ca.crt has no certificate of an authority"), "{error}");
    let settings = CacheSettings { ca_file: Some(folder.path().join("none")), ..quick() };
    let error = open("https://127.0.0.1:1", settings).connect().await.unwrap_err().to_string();
    assert!(error.contains("/none") && error.contains("ssl-cert-file"), "{error}");
}
