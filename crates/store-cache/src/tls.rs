//! Who vouches for servers: the authorities of one file, as in Nix.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Where Nix looks when nobody says (`src/libstore/globals.cc`).
const USUAL: [&str; 2] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/nix/var/nix/profiles/default/etc/ssl/certs/ca-bundle.crt",
];

/// Returns the file of authorities that Nix would take: `NIX_SSL_CERT_FILE`, `SSL_CERT_FILE`, or
/// the first usual one that is there.
pub fn find_ca_file() -> Option<PathBuf> {
    let named = ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"]
        .into_iter()
        .filter_map(std::env::var_os)
        .find(|name| !name.is_empty());
    named
        .map(PathBuf::from)
        .or_else(|| USUAL.into_iter().map(PathBuf::from).find(|path| path.exists()))
}

/// Returns the settings of connections. Without a file nobody is trusted, and `http://` still works.
///
/// # Errors
///
/// What is wrong with the file.
pub(crate) fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        let shown = path.display();
        let pem = fs_err::read(path).map_err(|error| {
            format!("the certificates of authorities can't be read: {error} (ssl-cert-file)")
        })?;
        let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
        let (added, _) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(format!("{shown} has no certificate of an authority (ssl-cert-file)"));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    // HTTP/2 where the server has it, as Nix.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
