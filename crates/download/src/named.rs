//! Who is believed to be a server: whom the authorities of a file vouch for, and whoever is in it
//! himself.
//!
//! Certificates that sign themselves mostly say that they are authorities, which no server may be by
//! the rules (`CaUsedAsEndEntity`). Where such a one is named as an authority byte for byte, it's
//! known all the same, and OpenSSL, with it curl and Nix, take it. Dates and names count as for any.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

/// Returns what checks servers against the certificates in the text of a PEM file; `None` where none of
/// them can be used. What else is in the text is passed over.
pub fn verifier(pem: &[u8], provider: Arc<CryptoProvider>) -> Option<Arc<dyn ServerCertVerifier>> {
    let named: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(named.iter().cloned());
    // it fails where there are no roots, and for lists of what was revoked, which there are none of
    let rules =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
    Some(Arc::new(Named { rules, named }))
}

/// The usual rules, and certificates that are known themselves.
#[derive(Debug)]
struct Named {
    rules: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let checked = self.rules.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match checked {
            Err(error) if is_authority(&error) && self.named.contains(end_entity) => {
                // its dates have been looked at by then, its name has not
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            checked => checked,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.rules.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.rules.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.rules.supported_verify_schemes()
    }
}

/// Whether all that is wrong so far is that a server's certificate is that of an authority.
fn is_authority(error: &Error) -> bool {
    match error {
        // the library below has no other way to tell it
        Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => {
            why.to_string() == "CaUsedAsEndEntity"
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
    use rstest::rstest;

    use super::*;

    /// Returns a certificate that signs itself, as it's sent and as it's in files.
    fn certificate(is_ca: IsCa) -> (CertificateDer<'static>, String) {
        let mut parameters = CertificateParams::new(vec!["cache.example.org".to_owned()]).unwrap();
        parameters.is_ca = is_ca;
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(2030, 1, 1);
        let made = parameters.self_signed(&KeyPair::generate().unwrap()).unwrap();
        (made.der().clone(), made.pem())
    }

    fn authority() -> IsCa {
        IsCa::Ca(BasicConstraints::Unconstrained)
    }

    const IN_2025: u64 = 1_750_000_000;
    const IN_2035: u64 = 2_060_000_000;
    const IN_2010: u64 = 1_270_000_000;

    fn check(
        pem: &str,
        shown: &CertificateDer<'_>,
        name: &'static str,
        now: u64,
    ) -> Result<(), Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = verifier(pem.as_bytes(), provider).unwrap();
        let name = ServerName::try_from(name).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        verifier.verify_server_cert(shown, &[], &name, &[], now).map(drop)
    }

    #[rstest]
    #[case::authority(authority())]
    #[case::server(IsCa::NoCa)]
    #[case::says_not(IsCa::ExplicitNoCa)]
    fn who_is_in_the_file_is_known_with_dates_and_names(#[case] is_ca: IsCa) {
        let (shown, pem) = certificate(is_ca);
        assert_eq!(check(&pem, &shown, "cache.example.org", IN_2025), Ok(()));
        for (name, now) in [
            ("other.example.org", IN_2025),
            ("cache.example.org", IN_2035),
            ("cache.example.org", IN_2010),
        ] {
            let error = check(&pem, &shown, name, now).unwrap_err();
            let Error::InvalidCertificate(error) = error else { panic!("{error:?}") };
            let is_date = matches!(
                error,
                CertificateError::ExpiredContext { .. }
                    | CertificateError::NotValidYetContext { .. }
            );
            let is_name = matches!(error, CertificateError::NotValidForNameContext { .. });
            assert!(if now == IN_2025 { is_name } else { is_date }, "{error:?}");
        }
    }

    /// Nor is one that has all of its words, and another key.
    #[test]
    fn an_authority_that_is_not_in_the_file_is_no_server() {
        let (_, pem) = certificate(authority());
        let (shown, _) = certificate(authority());
        let error = check(&pem, &shown, "cache.example.org", IN_2025).unwrap_err();
        assert!(is_authority(&error), "{error:?}");
    }
}
