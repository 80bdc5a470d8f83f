//! The caller's side: whom to trust, and which certificate to show.
//!
//! Clients are made once and used for long, so what they ask is looked up at each handshake.

use std::{
    io,
    path::Path,
    sync::{Arc, LazyLock},
};

use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};

use super::{TlsError, authorities, certificates, private_key, provider};
use crate::reread::{Reread, named};

/// A client for HTTP that trusts the authorities that the system trusts, and shows no certificate.
pub fn http() -> reqwest::ClientBuilder {
    Outgoing::default().http()
}

/// Whom to trust, and what to show to servers that ask. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub(super) struct Outgoing {
    trust: Trust,
    own: Option<Arc<Own>>,
}

impl Outgoing {
    pub(super) fn new(own: Option<(&Path, &Path)>, ca: Option<&Path>) -> Result<Self, TlsError> {
        let of = |variable| move |source| TlsError { variable, source };
        let own = own.map(|(cert, key)| {
            let (cert, key) = (cert.to_owned(), key.to_owned());
            Reread::new(vec![cert.clone(), key.clone()], move || certified(&cert, &key))
        });
        let own = own.transpose().map_err(of("TLS_CERT_FILE"))?;
        let trust = ca.map(|ca| {
            let ca = ca.to_owned();
            Reread::new(vec![ca.clone()], move || {
                verifier(authorities(&ca)?).map_err(|error| named(&ca, &error))
            })
        });
        let trust = match trust.transpose().map_err(of("TLS_CA_FILE"))? {
            Some(files) => Trust::Files(Arc::new(files)),
            None => Trust::System,
        };
        Ok(Self { trust, own: own.map(|own| Arc::new(Own(own))) })
    }

    pub(super) fn http(&self) -> reqwest::ClientBuilder {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has a cipher suite for each version")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.trust.clone()));
        let config = match &self.own {
            Some(own) => config.with_client_cert_resolver(own.clone()),
            None => config.with_no_client_auth(),
        };
        reqwest::Client::builder().tls_backend_preconfigured(config)
    }
}

fn certified(cert: &Path, key: &Path) -> io::Result<Arc<CertifiedKey>> {
    let certified = CertifiedKey::from_der(certificates(cert)?, private_key(key)?, &provider());
    certified.map(Arc::new).map_err(|error| named(cert, &error))
}

fn verifier(roots: Arc<RootCertStore>) -> io::Result<Arc<WebPkiServerVerifier>> {
    WebPkiServerVerifier::builder_with_provider(roots, provider()).build().map_err(io::Error::other)
}

/// The certificate of this program.
#[derive(Debug)]
struct Own(Reread<Arc<CertifiedKey>>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let own = self.0.get();
        own.key.choose_scheme(schemes).is_some().then_some(own)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The authorities whose certificates are good. Certificates are checked by rustls; only which authorities there are
/// may change here.
#[derive(Clone, Debug, Default)]
enum Trust {
    /// Those of the system, as they are when they are first needed.
    #[default]
    System,
    Files(Arc<Reread<Arc<WebPkiServerVerifier>>>),
}

impl Trust {
    fn verifier(&self) -> Result<Arc<WebPkiServerVerifier>, Error> {
        static SYSTEM: LazyLock<Result<Arc<WebPkiServerVerifier>, String>> = LazyLock::new(|| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            verifier(Arc::new(roots)).map_err(|_| {
                "this system trusts no authority: TLS_CA_FILE must name some".to_owned()
            })
        });
        match self {
            Self::System => SYSTEM.clone().map_err(Error::General),
            Self::Files(files) => Ok(files.get()),
        }
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier = self.verifier()?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
