//! Makes tokens: for `nudge token`, for the demo, and for tests. In production, an issuer such as Keycloak makes them.

use std::{fs, io, path::Path, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde::Serialize;
use serde_json::json;

use super::{crypto, policy::Scope};
use crate::{clock, private};

/// A key that signs tokens (Ed25519).
pub struct SigningKey {
    id: String,
    pkcs8: Vec<u8>,
    public: Vec<u8>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a token shall say.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    /// Who has it.
    pub subject: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// The paths that it may change, such as `stores/42`; `None`: all.
    pub only: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    scope: String,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nudge_only: Option<&'a [String]>,
}

impl SigningKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// If the system gives no random numbers.
    pub fn generate() -> io::Result<Self> {
        let random = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let document =
            random.map_err(|_| io::Error::other("the system gives no random numbers"))?;
        Self::from_pkcs8(document.as_ref().to_vec())
    }

    /// Reads the key in `file`, or makes one there that nobody else can read.
    ///
    /// # Errors
    /// If the file cannot be read or written, or contains something else.
    pub fn at(file: &Path) -> io::Result<Self> {
        match fs::read(file) {
            Ok(pkcs8) => Self::from_pkcs8(pkcs8),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate()?;
                let mut options = private::open_options();
                let mut file = options.write(true).create_new(true).open(file)?;
                io::Write::write_all(&mut file, &key.pkcs8)?;
                Ok(key)
            }
            Err(error) => Err(error),
        }
    }

    fn from_pkcs8(pkcs8: Vec<u8>) -> io::Result<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8);
        let pair = pair.map_err(|_| io::Error::other("contains no Ed25519 key"))?;
        let public = pair.public_key().as_ref().to_vec();
        // Another key has another ID.
        let id = public.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { id, pkcs8, public })
    }

    /// The signature of a text, for tokens that no issuer makes.
    #[cfg(test)]
    pub(super) fn sign(&self, text: &[u8]) -> Vec<u8> {
        let pair = Ed25519KeyPair::from_pkcs8(&self.pkcs8).expect("a key");
        pair.sign(text).as_ref().to_vec()
    }

    /// The key set (JWKS) with which the tokens can be checked: only what is public.
    pub fn jwks(&self) -> serde_json::Value {
        let x = URL_SAFE_NO_PAD.encode(&self.public);
        json!({ "keys": [{
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.id, "x": x,
        }] })
    }

    /// A token that is good for `life` from now.
    ///
    /// # Panics
    /// Never: a key that could be read can sign.
    pub fn token(&self, issuer: &str, audience: &str, grant: &Grant, life: Duration) -> String {
        crypto::install();
        let now = clock::now().unix_micros() / 1_000_000;
        let scopes: Vec<_> = grant.scopes.iter().map(|scope| scope.name()).collect();
        let claims = Claims {
            iss: issuer,
            aud: audience,
            sub: &grant.subject,
            scope: scopes.join(" "),
            iat: now,
            exp: now.saturating_add_unsigned(life.as_secs()),
            nudge_only: grant.only.as_deref(),
        };
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::EdDSA) };
        let key = EncodingKey::from_ed_der(&self.pkcs8);
        encode(&header, &claims, &key).expect("a key that was read can sign")
    }
}
