//! Who vouches for servers: the authorities of one file, as in Nix; and who we are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
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

/// What one shows to servers that want to know who asks: a certificate with the key of it, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// Its key; nothing means that it is in the same file.
    pub key: Option<PathBuf>,
}

impl Identity {
    /// Returns where the key is.
    pub(crate) fn key_file(&self) -> &Path {
        self.key.as_deref().unwrap_or(&self.certificate)
    }

    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
        let pem = fs_err::read(&self.certificate)
            .map_err(|error| format!("our certificate can't be read: {error} (tls-certificate)"))?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
        if chain.is_empty() {
            let shown = self.certificate.display();
            return Err(format!("{shown} has no certificate in it (tls-certificate)"));
        }
        let key = fs_err::read(self.key_file())
            .map_err(|error| format!("our key can't be read: {error} (tls-private-key)"))?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| {
            format!("{} has no key in it: {error} (tls-private-key)", self.key_file().display())
        })?;
        Ok((chain, key))
    }
}

/// Returns the settings of connections. Without a file nobody is trusted, and `http://` still works.
///
/// # Errors
///
/// What is wrong with the files.
pub(crate) fn client_config(
    ca_file: Option<&Path>,
    identity: Option<&Identity>,
) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = match ca_file {
        None => config.with_root_certificates(RootCertStore::empty()),
        Some(path) => {
            let pem = fs_err::read(path).map_err(|error| {
                format!("the certificates of authorities can't be read: {error} (ssl-cert-file)")
            })?;
            let verifier = drover_download::verifier(&pem, provider).ok_or_else(|| {
                let shown = path.display();
                format!("{shown} has no certificate of an authority (ssl-cert-file)")
            })?;
            config.dangerous().with_custom_certificate_verifier(verifier)
        }
    };
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = identity.read()?;
            config.with_client_auth_cert(chain, key).map_err(|error| {
                let shown = identity.certificate.display();
                format!("{shown} and its key can't be used: {error} (tls-certificate)")
            })?
        }
    };
    // HTTP/2 where the server has it, as Nix.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
