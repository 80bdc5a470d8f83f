//! Who may do what: a bearer token (JWT) with each request, and the token that a service sends to others.
//!
//! | module | what it does |
//! |---|---|
//! | [`policy`] | which scope a route needs |
//! | [`caller`] | what a token says: who, which scopes, which entities |
//! | [`verifier`] | checks a token's signature, issuer, audience and times |
//! | [`admission`] | the check before every request, and the answers 401 and 403 |
//! | [`credentials`] | the service's own token, from a file that is read again |
//! | `strangers` | bounds what tokens that are not good cost |
//! | [`sign`] | makes tokens, for demos and tests |
//!
//! Without `AUTH_ISSUER` nobody is asked for a token, and a service listens on loopback addresses only. Tokens travel in
//! [TLS](crate::tls).

pub mod admission;
pub mod caller;
pub mod credentials;
mod crypto;
mod keys;
pub mod policy;
pub mod sign;
mod strangers;
pub mod verifier;

use std::{num::NonZeroU32, path::PathBuf};

use clap::Args;

pub use admission::Admission;
pub use caller::Caller;
pub use credentials::Credentials;
pub use policy::Scope;

use crate::{
    args::at_most,
    tls::{PlainText, TlsArgs, TlsError, refuse_plain_text},
};

/// Largest difference between two machines' clocks that may be configured, in seconds.
pub const MAX_CLOCK_SKEW_SECONDS: u64 = 300;

const DEFAULT_AUDIENCE: &str = "nudge";
const DEFAULT_CLOCK_SKEW_SECONDS: u64 = 60;

/// The environment variables of [`AuthArgs`].
pub const VARIABLES: [&str; 7] = [
    "AUTH_ISSUER",
    "AUTH_AUDIENCE",
    "AUTH_JWKS",
    "AUTH_CLOCK_SKEW",
    "AUTH_TOKEN_FILE",
    "BEHIND_PROXY",
    "CLIENT_RATE",
];

/// The settings for tokens.
#[derive(Args, Clone, Debug)]
pub struct AuthArgs {
    /// Answer only requests with a token (JWT) of this issuer: its `iss`, exactly
    #[arg(long, env = "AUTH_ISSUER", value_name = "URL", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub auth_issuer: Option<String>,
    /// What a token's `aud` must name
    #[arg(long, env = "AUTH_AUDIENCE", value_name = "NAME", default_value = DEFAULT_AUDIENCE, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub auth_audience: String,
    /// The issuer's keys (JWKS): a file, which is read again when it changes, or an `https://` or `http://` URL. Without it, the
    /// issuer's OpenID configuration says where they are
    #[arg(long, env = "AUTH_JWKS", value_name = "PATH|URL", requires = "auth_issuer")]
    pub auth_jwks: Option<String>,
    /// How far the issuer's clock may be from ours, in seconds
    #[arg(long, env = "AUTH_CLOCK_SKEW", value_name = "SECONDS", default_value_t = DEFAULT_CLOCK_SKEW_SECONDS, value_parser = clap::value_parser!(u64).range(..=MAX_CLOCK_SKEW_SECONDS))]
    pub auth_clock_skew: u64,
    /// File with the token to send to other services. It is read again when it changes
    #[arg(long, env = "AUTH_TOKEN_FILE", value_name = "PATH")]
    pub auth_token_file: Option<PathBuf>,
    /// A proxy in front, or a service mesh, does TLS: other machines may be reached without it, and BIND may be any address
    /// if tokens are asked for (AUTH_ISSUER)
    #[arg(long, env = "BEHIND_PROXY", value_parser = clap::builder::BoolishValueParser::new())]
    pub behind_proxy: bool,
    /// How many requests a second each client (a token's `sub`) may send, callbacks and operators' requests aside
    /// [default: no limit]
    #[arg(long, env = "CLIENT_RATE", value_name = "REQUESTS", requires = "auth_issuer", value_parser = at_most(MAX_CLIENT_RATE, "requests a second"))]
    pub client_rate: Option<NonZeroU32>,
    /// The program's certificate, and whose it trusts
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// Largest rate of a client that may be set, in requests a second.
pub const MAX_CLIENT_RATE: u32 = 1_000_000;

impl Default for AuthArgs {
    /// Nobody is asked, and nothing is encrypted.
    fn default() -> Self {
        Self {
            auth_issuer: None,
            auth_audience: DEFAULT_AUDIENCE.to_owned(),
            auth_jwks: None,
            auth_clock_skew: DEFAULT_CLOCK_SKEW_SECONDS,
            auth_token_file: None,
            behind_proxy: false,
            client_rate: None,
            tls: TlsArgs::default(),
        }
    }
}

impl AuthArgs {
    /// Refuses the URL of another machine that would be reached without TLS, unless a proxy does it.
    ///
    /// # Errors
    /// If it would.
    pub fn refuse_plain_text(&self, setting: &str, url: &str) -> Result<(), PlainText> {
        match self.behind_proxy {
            true => Ok(()),
            false => refuse_plain_text(setting, url),
        }
    }
}

/// Why the settings for tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Keys cannot be read from such a place.
    #[error("{variable}: {url} is neither an https:// or http:// URL nor a file")]
    Scheme {
        /// The setting.
        variable: &'static str,
        /// Its value.
        url: String,
    },
    /// The keys would come from another machine without TLS.
    #[error(transparent)]
    PlainText(#[from] PlainText),
    /// A certificate or key of the program cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The issuer is no URL, so it cannot be asked for its keys.
    #[error("AUTH_ISSUER: {0} is not a URL, so AUTH_JWKS must say where its keys are")]
    NoKeys(String),
    /// A file cannot be used.
    #[error("{variable}")]
    File {
        /// The setting that names the file.
        variable: &'static str,
        /// The cause, which names the file.
        #[source]
        source: std::io::Error,
    },
    /// No HTTP client can be made.
    #[error("cannot ask the issuer for its keys")]
    Client(#[from] reqwest::Error),
}

#[cfg(test)]
mod tests;
