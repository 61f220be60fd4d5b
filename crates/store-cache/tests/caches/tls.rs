//! Servers behind TLS, and who vouches for them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use drover_store::{Store as _, StoreError};
use drover_store_cache::CacheSettings;
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::server::Server;
use crate::{open, quick};

/// Returns a certificate for `name` that signs itself, and its key.
fn certified(name: &str, is_ca: IsCa) -> (Certificate, KeyPair) {
    let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
    parameters.is_ca = is_ca;
    let key = KeyPair::generate().unwrap();
    (parameters.self_signed(&key).unwrap(), key)
}

/// Returns what a server for `name` says of itself, and its certificate.
pub fn identity(name: &str) -> (ServerConfig, String) {
    identity_of(name, IsCa::NoCa, None)
}

/// The same, which asks its clients for a certificate that one of `clients` vouches for.
fn identity_of(name: &str, is_ca: IsCa, clients: Option<&Certificate>) -> (ServerConfig, String) {
    let (cert, key) = certified(name, is_ca);
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            config.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    (config.with_single_cert(vec![cert.der().clone()], key).unwrap(), cert.pem())
}

/// Starts a server for `name` that answers all with a `nix-cache-info`; returns its address and its
/// certificate. It ends with the test.
pub fn serve(name: &str) -> (SocketAddr, String) {
    let (config, pem) = identity(name);
    (serve_as(config), pem)
}

fn serve_as(config: ServerConfig) -> SocketAddr {
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
    address
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

/// As `openssl req -x509` makes them: each is an authority of its own.
#[tokio::test]
async fn an_authority_that_is_a_server_itself_is_spoken_with() {
    let folder = tempfile::tempdir().unwrap();
    let authority = || IsCa::Ca(BasicConstraints::Unconstrained);
    let (config, pem) = identity_of("127.0.0.1", authority(), None);
    let address = serve_as(config);
    let store = open(&format!("https://{address}"), with_authority(&folder, &pem));
    assert_eq!(store.priority().await.unwrap(), 12);
    // one that is for another name, or isn't named, isn't
    let (config, other) = identity_of("elsewhere.example.org", authority(), None);
    for (config, pem) in [(config, other), (identity_of("127.0.0.1", authority(), None).0, pem)] {
        let address = serve_as(config);
        let store = open(&format!("https://{address}"), with_authority(&folder, &pem));
        let error = store.connect().await.unwrap_err().to_string();
        assert!(error.contains("certificate is not accepted"), "{error}");
    }
}

#[tokio::test]
async fn servers_are_shown_who_asks() {
    let folder = tempfile::tempdir().unwrap();
    let (client, key) = certified("client", IsCa::NoCa);
    let (config, pem) = identity_of("127.0.0.1", IsCa::NoCa, Some(&client));
    let address = serve_as(config);
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let certificate = write("client.crt", &client.pem());
    let key = write("client.key", &key.serialize_pem());
    let settings = with_authority(&folder, &pem);
    let shown = format!("https://{address}?tls-certificate={certificate}&tls-private-key={key}");
    assert_eq!(open(&shown, settings.clone()).priority().await.unwrap(), 12);
    let both =
        write("both.pem", &format!("{}{}", client.pem(), std::fs::read_to_string(key).unwrap()));
    let shown = format!("https://{address}?tls-certificate={both}");
    assert_eq!(open(&shown, settings.clone()).priority().await.unwrap(), 12);
    assert!(open(&format!("https://{address}"), settings.clone()).connect().await.is_err());
    let bad = format!("https://{address}?tls-certificate={certificate}");
    let error = open(&bad, settings).connect().await.unwrap_err().to_string();
    assert!(error.contains("has no key in it") && error.contains("tls-private-key"), "{error}");
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
    // without TLS nobody needs it
    let server = Server::start(folder.path().to_owned()).await;
    std::fs::write(folder.path().join("nix-cache-info"), "StoreDir: /nix/store\nPriority: 9\n")
        .unwrap();
    assert_eq!(open(&server.url(), settings.clone()).priority().await.unwrap(), 9);
    let error = open("https://127.0.0.1:1", settings).connect().await.unwrap_err().to_string();
    assert!(error.contains("/none") && error.contains("ssl-cert-file"), "{error}");
}
