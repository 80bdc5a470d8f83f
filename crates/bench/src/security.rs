//! Tokens and certificates, for what they cost.

use std::{fs, path::PathBuf, time::Duration};

use nudge_runtime::{
    BoxError,
    auth::{
        Scope,
        sign::{Grant, SigningKey},
    },
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// The issuer and the audience of the tokens.
const NAME: &str = "bench";
/// How long a token is good, which is longer than any run.
const LIFE: Duration = Duration::from_secs(86_400);

/// What an owner asks of those who call back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Open,
    Tokens,
    TokensAndTls,
}

/// The files that services are started with.
pub(crate) struct Security {
    directory: TempDir,
}

impl Security {
    pub(crate) fn new() -> Result<Self, BoxError> {
        let security = Self { directory: tempfile::tempdir()? };
        let key = SigningKey::generate()?;
        fs::write(security.path("jwks"), key.jwks().to_string())?;
        let grant = Grant { subject: NAME.to_owned(), scopes: Scope::ALL.into(), only: None };
        fs::write(security.path("token"), key.token(NAME, NAME, &grant, LIFE))?;
        security.certify()?;
        Ok(security)
    }

    /// Writes a certificate for this machine, and that of its authority.
    fn certify(&self) -> Result<(), BoxError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, NAME);
        let key = KeyPair::generate()?;
        fs::write(self.path("ca"), params.self_signed(&key)?.pem())?;
        let authority = Issuer::new(params, key);
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(["localhost".to_owned()])?;
        fs::write(self.path("cert"), params.signed_by(&key, &authority)?.pem())?;
        fs::write(self.path("key"), key.serialize_pem())?;
        Ok(())
    }

    /// The arguments of a service.
    pub(crate) fn words(&self, access: Access) -> Vec<String> {
        let mut words = Vec::new();
        if access != Access::Open {
            words.push(format!("--auth-issuer={NAME}"));
            words.push(format!("--auth-audience={NAME}"));
            words.push(format!("--auth-jwks={}", self.path("jwks").display()));
            words.push(format!("--auth-token-file={}", self.path("token").display()));
        }
        if access == Access::TokensAndTls {
            for (word, file) in [("cert", "cert"), ("key", "key"), ("ca", "ca")] {
                words.push(format!("--tls-{word}-file={}", self.path(file).display()));
            }
        }
        words
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// The base URL of a service that listens on this port.
pub(crate) fn url(access: Access, port: u16) -> String {
    match access {
        Access::TokensAndTls => format!("https://localhost:{port}"),
        Access::Open | Access::Tokens => format!("http://127.0.0.1:{port}"),
    }
}
