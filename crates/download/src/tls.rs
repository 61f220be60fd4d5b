//! Whom servers have to be vouched for by.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::named::verifier;

/// The certificates that servers are checked against, as the text of a PEM file. What else is in such a
/// file is passed over.
#[derive(Clone, Debug, Default)]
pub struct Certificates(pub Vec<u8>);

impl Certificates {
    /// Returns what TLS needs; with `None` no server is trusted at all, which is for URLs without TLS.
    ///
    /// # Errors
    ///
    /// What to say where there is no certificate among them.
    pub(crate) fn config(these: Option<&Certificates>) -> Result<ClientConfig, &'static str> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|_| "there is no version of TLS that could be used")?;
        let Some(Certificates(text)) = these else {
            let config = config.with_root_certificates(RootCertStore::empty());
            return Ok(config.with_no_client_auth());
        };
        if text.is_empty() {
            return Err("there are no certificates to check the server against; name a file with \
                 some by 'ssl-cert-file' or NIX_SSL_CERT_FILE");
        }
        let verifier = verifier(text, provider).ok_or(
            "the file named by 'ssl-cert-file' or NIX_SSL_CERT_FILE has no certificate in it that \
             could be used",
        )?;
        let config = config.dangerous().with_custom_certificate_verifier(verifier);
        Ok(config.with_no_client_auth())
    }
}
