//! The issuer's public keys (JWKS): from a file, or from the issuer, remembered and asked for again.
//!
//! Issuers change their keys without notice. So a key ID that is not known makes us ask again, at most every
//! [`MIN_REFRESH`]: anybody can send a token with an ID of his own making. Whatever is known stays good while the issuer
//! cannot be asked, and a key that it has withdrawn is forgotten [`MAX_AGE`] later at most.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse},
};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{sync::Semaphore, time::Instant};

use super::{AuthArgs, AuthError};
use crate::{BoxError, problem::chain, reread::named, tls::Tls};

/// Shortest time between two requests for the keys.
pub(super) const MIN_REFRESH: Duration = Duration::from_secs(10);
/// Longest time for which keys are used without asking for them again, if their issuer answers.
const MAX_AGE: Duration = Duration::from_secs(300);
/// The same for a file, which costs less to look at.
const MAX_FILE_AGE: Duration = Duration::from_secs(2);
/// Longest wait for the issuer's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer, or file, that is read.
const MAX_JWKS_BYTES: usize = 1024 * 1024;
/// Most requests that wait for its answer at a time. Each holds its connection meanwhile.
pub(super) const MAX_WAITING: usize = 64;
/// Most keys of an issuer that are used.
const MAX_KEYS: usize = 100;

#[derive(Debug)]
enum Source {
    File(PathBuf),
    Url(String),
    /// The OpenID configuration, which says where the keys are.
    Discovery(String),
}

/// One key, for one algorithm: a token cannot choose another.
#[derive(Clone, Debug)]
pub(super) struct Key {
    id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

#[derive(Debug, Default)]
struct Known {
    keys: Vec<Key>,
    /// Rises whenever the keys are others.
    generation: u64,
    at: Option<Instant>,
    /// The file's, when it was read.
    modified: Option<SystemTime>,
    text: Vec<u8>,
}

/// Why no key was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The issuer does not have it.
    Unknown,
    /// The issuer could not be asked yet, or too many wait for its answer.
    Unavailable,
}

#[derive(Debug)]
pub(super) struct Keys {
    source: Source,
    /// Not for files.
    http: Option<reqwest::Client>,
    known: RwLock<Known>,
    tried: Mutex<Option<Instant>>,
    waiting: Semaphore,
    /// One request at a time.
    asking: tokio::sync::Mutex<()>,
}

impl Keys {
    pub(super) fn new(args: &AuthArgs, issuer: &str, tls: &Tls) -> Result<Self, AuthError> {
        let source = source(args, issuer)?;
        let http = match source {
            Source::File(_) => None,
            Source::Url(_) | Source::Discovery(_) => Some(
                tls.http()
                    .no_proxy()
                    .timeout(ANSWER_TIMEOUT)
                    .redirect(reqwest::redirect::Policy::none())
                    .build()?,
            ),
        };
        let keys = Self {
            source,
            http,
            known: RwLock::default(),
            tried: Mutex::new(None),
            waiting: Semaphore::new(MAX_WAITING),
            asking: tokio::sync::Mutex::default(),
        };
        if let Source::File(path) = &keys.source {
            // A file that cannot be used stops the start; an issuer that does not answer yet does not.
            let refused = |source| AuthError::File { variable: "AUTH_JWKS", source };
            keys.read_file(path).map_err(|error| refused(named(path, &error)))?;
        }
        Ok(keys)
    }

    /// Which keys are known: another number means other keys.
    pub(super) fn generation(&self) -> u64 {
        self.known.read().generation
    }

    /// The keys that may have signed a token with this header. A token without a key ID may be of any.
    pub(super) async fn find(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<Key>, NoKey> {
        if let Some(found) = self.look(id, algorithm) {
            return Ok(found);
        }
        let Ok(_place) = self.waiting.try_acquire() else { return Err(NoKey::Unavailable) };
        let _asking = self.asking.lock().await;
        // Another request may have asked for it meanwhile.
        if self.look(id, algorithm).is_none() && self.may_try() {
            self.refresh().await;
        }
        let none = match self.known.read().at {
            Some(_) => NoKey::Unknown,
            None => NoKey::Unavailable,
        };
        self.look(id, algorithm).ok_or(none)
    }

    fn look(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Vec<Key>> {
        let known = self.known.read();
        let fits = |key: &&Key| {
            key.algorithm == algorithm
                && (id.is_none() || key.id.is_none() || key.id.as_deref() == id)
        };
        let found: Vec<_> = known.keys.iter().filter(fits).cloned().collect();
        Some(found).filter(|found| !found.is_empty())
    }

    /// Asks for them again in the background if they are old, so that no request waits for that.
    pub(super) fn keep_fresh(self: &Arc<Self>) {
        let max_age = match self.source {
            Source::File(_) => MAX_FILE_AGE,
            _ => MAX_AGE,
        };
        let old = self.known.read().at.is_some_and(|at| at.elapsed() > max_age);
        if old && self.may_try() {
            let keys = self.clone();
            tokio::spawn(async move { keys.refresh().await });
        }
    }

    fn may_try(&self) -> bool {
        let pause = match self.source {
            Source::File(_) => MAX_FILE_AGE,
            _ => MIN_REFRESH,
        };
        let mut tried = self.tried.lock();
        let may = tried.is_none_or(|at| at.elapsed() >= pause);
        if may {
            *tried = Some(Instant::now());
        }
        may
    }

    async fn refresh(&self) {
        let refreshed = match &self.source {
            Source::File(path) => self.read_file(path),
            Source::Url(url) => self.ask(url).await,
            Source::Discovery(url) => self.discover(url).await,
        };
        if let Err(error) = refreshed {
            tracing::warn!(error = %chain(&*error), "the issuer's keys cannot be read; those that are known stay in use");
        }
    }

    fn read_file(&self, path: &PathBuf) -> Result<(), BoxError> {
        let about = fs::metadata(path)?;
        let modified = about.modified().ok();
        if modified.is_some() && self.known.read().modified == modified {
            self.known.write().at = Some(Instant::now());
            return Ok(());
        }
        if about.len() > MAX_JWKS_BYTES as u64 {
            return Err(format!("must be at most {MAX_JWKS_BYTES} bytes").into());
        }
        self.keep(fs::read(path)?, modified)
    }

    async fn ask(&self, url: &str) -> Result<(), BoxError> {
        self.keep(self.get(url).await?, None)
    }

    async fn discover(&self, url: &str) -> Result<(), BoxError> {
        #[derive(Deserialize)]
        struct Configuration {
            jwks_uri: String,
        }
        let Configuration { jwks_uri } = parsed(&self.get(url).await?)?;
        if url.starts_with("https://") && !jwks_uri.starts_with("https://") {
            return Err(format!("{url} names keys that would come without TLS: {jwks_uri}").into());
        }
        self.ask(&jwks_uri).await
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, BoxError> {
        let http = self.http.as_ref().ok_or("a file is not asked")?;
        let mut answer = http.get(url).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > MAX_JWKS_BYTES {
                return Err(format!("{url} answers with more than {MAX_JWKS_BYTES} bytes").into());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Uses these keys from now on.
    fn keep(&self, text: Vec<u8>, modified: Option<SystemTime>) -> Result<(), BoxError> {
        let set: JwkSet = parsed(&text)?;
        let keys: Vec<_> = set.keys.iter().filter_map(key).take(MAX_KEYS).collect();
        if keys.is_empty() {
            return Err("no key in it can verify RS256, ES256 or EdDSA".into());
        }
        let mut known = self.known.write();
        let generation = known.generation + u64::from(known.text != text);
        *known = Known { keys, generation, at: Some(Instant::now()), modified, text };
        Ok(())
    }
}

fn parsed<T: DeserializeOwned>(text: &[u8]) -> Result<T, BoxError> {
    serde_json::from_slice(text)
        .map_err(|error| format!("is not what was expected: {error}").into())
}

/// A key that can verify tokens. Others, such as those for encryption, are passed over.
fn key(jwk: &Jwk) -> Option<Key> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        _ => return None,
    };
    let of = |said: jsonwebtoken::jwk::KeyAlgorithm| said.to_string() == format!("{algorithm:?}");
    let signs = jwk.common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
    let meant = jwk.common.key_algorithm.is_none_or(of);
    let decoding = DecodingKey::from_jwk(jwk).ok().filter(|_| signs && meant)?;
    Some(Key { id: jwk.common.key_id.clone(), algorithm, decoding })
}

fn source(args: &AuthArgs, issuer: &str) -> Result<Source, AuthError> {
    let asked = |variable, url: &str| -> Result<(), AuthError> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(AuthError::Scheme { variable, url: url.to_owned() });
        }
        Ok(args.refuse_plain_text(variable, url)?)
    };
    match args.auth_jwks.as_deref() {
        Some(url) if url.contains("://") => {
            asked("AUTH_JWKS", url).map(|()| Source::Url(url.to_owned()))
        }
        Some(path) => Ok(Source::File(path.into())),
        None if issuer.contains("://") => {
            asked("AUTH_ISSUER", issuer)?;
            let base = issuer.trim_end_matches('/');
            Ok(Source::Discovery(format!("{base}/.well-known/openid-configuration")))
        }
        None => Err(AuthError::NoKeys(issuer.to_owned())),
    }
}
