//! The token that a service sends to the services that it calls.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use reqwest::{RequestBuilder, header};

use super::{AuthArgs, AuthError, verifier::MAX_TOKEN_BYTES};
use crate::private;

/// The token in a file, read again when the file changes, as Kubernetes changes its projected tokens. Without a file,
/// requests are sent without a token. Cloning is cheap.
#[derive(Clone, Default)]
pub struct Credentials(Option<Arc<File>>);

struct File {
    path: PathBuf,
    token: Mutex<Token>,
}

#[derive(Clone)]
struct Token {
    header: header::HeaderValue,
    stamp: Stamp,
}

/// What tells one content of a file from another: which file it is, and when it was written. Asking costs a
/// microsecond or two.
type Stamp = (u64, i64, i64);

fn stamp(about: &Metadata) -> Stamp {
    (about.ino(), about.mtime(), about.mtime_nsec())
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Credentials").field(&self.0.as_ref().map(|file| &file.path)).finish()
    }
}

impl Credentials {
    /// As the settings say.
    ///
    /// # Errors
    /// See [`in_file`](Self::in_file).
    pub fn of(args: &AuthArgs) -> Result<Self, AuthError> {
        args.auth_token_file.as_deref().map_or(Ok(Self::default()), Self::in_file)
    }

    /// The token in this file, which must be readable now.
    ///
    /// # Errors
    /// If it is not, or contains no token.
    pub fn in_file(path: &Path) -> Result<Self, AuthError> {
        let token = read(path).map_err(|source| AuthError::File {
            variable: "AUTH_TOKEN_FILE",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self(Some(Arc::new(File { path: path.to_owned(), token: Mutex::new(token) }))))
    }

    /// The request with the token.
    pub fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.0 {
            Some(file) => request.header(header::AUTHORIZATION, file.header()),
            None => request,
        }
    }
}

impl File {
    fn header(&self) -> header::HeaderValue {
        let mut token = self.token.lock();
        let now = fs::metadata(&self.path).map(|about| stamp(&about));
        if now.is_ok_and(|now| now != token.stamp) {
            match read(&self.path) {
                Ok(new) => *token = new,
                // It may be about to be replaced. The old one is good until it expires.
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "the token file cannot be read");
                }
            }
        }
        token.header.clone()
    }
}

fn read(path: &Path) -> std::io::Result<Token> {
    let stamp = stamp(&fs::metadata(path)?);
    let text = private::read_secret(path, MAX_TOKEN_BYTES as u64)?;
    let none = || std::io::Error::other("contains no token");
    let token = Some(text.trim()).filter(|token| !token.is_empty()).ok_or_else(none)?;
    let header = header::HeaderValue::try_from(format!("Bearer {token}"));
    let mut header = header.map_err(|_| none())?;
    header.set_sensitive(true);
    Ok(Token { header, stamp })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_token_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        for (text, said) in [("", "empty"), ("\n", "empty"), ("a\0b", "no token")] {
            fs::write(&path, text).unwrap();
            let refused = crate::problem::chain(&Credentials::in_file(&path).unwrap_err());
            assert!(refused.contains(said) && refused.contains("AUTH_TOKEN_FILE"), "{refused}");
        }
        assert!(Credentials::in_file(&directory.path().join("none")).is_err());
    }

    #[test]
    fn what_it_says_is_not_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "hunter2\n").unwrap();
        let credentials = Credentials::in_file(file.path()).unwrap();
        let request =
            credentials.sign(reqwest::Client::new().get("http://127.0.0.1")).build().unwrap();
        assert_eq!(request.headers()[header::AUTHORIZATION], "Bearer hunter2");
        assert!(!format!("{credentials:?} {request:?}").contains("hunter2"));
    }
}
