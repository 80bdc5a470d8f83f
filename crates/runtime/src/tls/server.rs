//! The listener's side.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, server::WebPkiClientVerifier},
    server::TlsStream,
};

use super::{TlsError, authorities, certificates, private_key, provider};
use crate::reread::{Reread, named};

/// The first byte of whoever begins with TLS.
const HANDSHAKE: u8 = 0x16;

/// Encrypts the connections of a listener. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Acceptor(Arc<Reread<Arc<ServerConfig>>>);

impl Acceptor {
    /// With a certificate and its key. Clients need certificates of these authorities, if there are any.
    pub(super) fn new(
        (cert, key): (&Path, &Path),
        client_ca: Option<&Path>,
    ) -> Result<Self, TlsError> {
        let files: Vec<_> = [Some(cert), Some(key), client_ca].into_iter().flatten().collect();
        let files = files.into_iter().map(Path::to_owned).collect();
        let (cert, key, client_ca) =
            (cert.to_owned(), key.to_owned(), client_ca.map(Path::to_owned));
        let read = move || config(&cert, &key, client_ca.as_ref());
        let config = Reread::new(files, read)
            .map_err(|source| TlsError { variable: "TLS_CERT_FILE", source })?;
        Ok(Self(Arc::new(config)))
    }

    /// Whether this peer begins with a handshake. Waits for its first byte.
    pub(crate) async fn is_spoken_by(stream: &TcpStream) -> io::Result<bool> {
        let mut first = [0];
        Ok(stream.peek(&mut first).await? == 0 || first[0] == HANDSHAKE)
    }

    /// The encrypted connection, once both sides have shown what they must.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.0.get()).accept(stream).await
    }
}

fn config(cert: &Path, key: &Path, client_ca: Option<&PathBuf>) -> io::Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match client_ca {
        Some(path) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(authorities(path)?, provider());
            builder
                .with_client_cert_verifier(verifier.build().map_err(|error| named(path, &error))?)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(certificates(cert)?, private_key(key)?)
        .map_err(|error| named(cert, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
