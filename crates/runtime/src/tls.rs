//! TLS on every HTTP connection: of those who call a program, and to those whom it calls.
//!
//! A program has one certificate. It shows it to its callers, and to the servers that ask for one. All files are read
//! again when they change, so that short-lived certificates need no restart: each new connection uses what they say then.
//!
//! | module | what it does |
//! |---|---|
//! | `server` | the listener's side |
//! | `client` | the caller's side |
//!
//! NATS and PostgreSQL have settings of their own: see [`NatsArgs`](crate::broker::NatsArgs), and `sslmode` in a
//! `postgres://` URL.

mod client;
mod plain;
mod server;

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use clap::Args;
use tokio_rustls::rustls::{
    RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

pub use client::http;
pub use plain::PlainText;
pub(crate) use plain::refuse_plain_text;
pub(crate) use server::Acceptor;

use crate::reread::named;
use client::Outgoing;

/// Largest file of certificates, in bytes.
const MAX_PEM_BYTES: u64 = 1024 * 1024;

/// The environment variables of [`TlsArgs`].
pub const VARIABLES: [&str; 4] =
    ["TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE", "TLS_CA_FILE"];

/// The settings for TLS.
#[derive(Args, Clone, Debug, Default)]
pub struct TlsArgs {
    /// File with this program's certificate (PEM), followed by those between it and its authority. With it, the
    /// program listens with TLS only
    #[arg(long, env = "TLS_CERT_FILE", value_name = "PATH", requires = "tls_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// File with that certificate's private key (PEM)
    #[arg(long, env = "TLS_KEY_FILE", value_name = "PATH", requires = "tls_cert_file")]
    pub tls_key_file: Option<PathBuf>,
    /// File with the certificates (PEM) of authorities: whoever connects must have a certificate that one of them has
    /// signed
    #[arg(long, env = "TLS_CLIENT_CA_FILE", value_name = "PATH", requires = "tls_cert_file")]
    pub tls_client_ca_file: Option<PathBuf>,
    /// File with the certificates (PEM) of the authorities that sign those of the services that this one calls, instead
    /// of the authorities that the system trusts
    #[arg(long, env = "TLS_CA_FILE", value_name = "PATH")]
    pub tls_ca_file: Option<PathBuf>,
}

impl TlsArgs {
    /// Reads every file once, so that an error names the setting.
    fn check(&self) -> Result<(), TlsError> {
        let files = [
            (VARIABLES[0], &self.tls_cert_file),
            (VARIABLES[2], &self.tls_client_ca_file),
            (VARIABLES[3], &self.tls_ca_file),
        ];
        let of = |variable| move |source| TlsError { variable, source };
        for (variable, file) in files {
            file.as_deref().map(certificates).transpose().map_err(of(variable))?;
        }
        let key = self.tls_key_file.as_deref().map(private_key);
        key.transpose().map(drop).map_err(of(VARIABLES[1]))
    }
}

/// The certificates of a program. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    acceptor: Option<Acceptor>,
    outgoing: Outgoing,
}

/// A file of certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{variable}")]
pub struct TlsError {
    /// The setting that names the file.
    variable: &'static str,
    /// The cause, which names the file.
    #[source]
    source: io::Error,
}

impl Tls {
    /// As the settings say.
    ///
    /// # Errors
    /// If a file is missing or cannot be used.
    pub fn of(args: &TlsArgs) -> Result<Self, TlsError> {
        args.check()?;
        let own = args.tls_cert_file.as_deref().zip(args.tls_key_file.as_deref());
        let acceptor = own.map(|own| Acceptor::new(own, args.tls_client_ca_file.as_deref()));
        let outgoing = Outgoing::new(own, args.tls_ca_file.as_deref())?;
        Ok(Self { acceptor: acceptor.transpose()?, outgoing })
    }

    /// A client for HTTP that shows the program's certificate, and trusts whom the settings say.
    pub fn http(&self) -> reqwest::ClientBuilder {
        self.outgoing.http()
    }

    /// The listener's side, if it is to speak TLS.
    pub(crate) fn acceptor(&self) -> Option<&Acceptor> {
        self.acceptor.as_ref()
    }
}

/// Makes other uses of TLS in this process, such as clients of other crates, work with the cryptography that is here.
/// Called by each program at its start; harmless if one is set already.
pub fn install() {
    let _already = CryptoProvider::install_default((*provider()).clone());
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(ring::default_provider()));
    PROVIDER.clone()
}

/// The certificates in a file, at least one.
fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let pem = pem(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(some) if !some.is_empty() => Ok(some),
        _ => Err(named(path, &"contains no certificate (PEM)")),
    }
}

fn private_key(path: &Path) -> io::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&pem(path)?)
        .map_err(|_| named(path, &"contains no private key (PEM)"))
}

/// The authorities in a file.
fn authorities(path: &Path) -> io::Result<Arc<RootCertStore>> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| named(path, &error))?;
    }
    Ok(Arc::new(store))
}

fn pem(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(|error| named(path, &error))?;
    file.take(MAX_PEM_BYTES + 1).read_to_end(&mut text).map_err(|error| named(path, &error))?;
    match text.len() as u64 > MAX_PEM_BYTES {
        true => Err(named(path, &format!("must be at most {MAX_PEM_BYTES} bytes"))),
        false => Ok(text),
    }
}

#[cfg(test)]
mod authority;
#[cfg(test)]
mod tests;
