//! What a service shows to the services that it calls: its token, and its certificate.

use std::{io, path::Path, sync::Arc};

use reqwest::{
    RequestBuilder,
    header::{self, HeaderValue},
};

use super::{AuthArgs, AuthError, verifier::MAX_TOKEN_BYTES};
use crate::{
    private,
    reread::{Reread, named},
    tls::{Tls, TlsArgs},
};

/// The token in a file, and the certificates of the program: all are read again when the files change, as Kubernetes
/// changes its projected tokens; or a token that a caller has given. Without either, requests are sent without a token.
/// Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    token: Token,
    tls: Tls,
}

#[derive(Clone, Debug, Default)]
enum Token {
    #[default]
    None,
    File(Arc<Reread<HeaderValue>>),
    /// Marked as sensitive, so it is not shown.
    Given(HeaderValue),
}

impl Credentials {
    /// As the settings say.
    ///
    /// # Errors
    /// See [`in_files`](Self::in_files).
    pub fn of(args: &AuthArgs) -> Result<Self, AuthError> {
        Self::in_files(args.auth_token_file.as_deref(), &args.tls)
    }

    /// The token in this file, and the certificates in others. All must be readable now.
    ///
    /// # Errors
    /// If one is not, or contains no token or certificate.
    pub fn in_files(token: Option<&Path>, certificates: &TlsArgs) -> Result<Self, AuthError> {
        let token = token.map(|path| {
            let file = path.to_owned();
            let read = move || read(&file).map_err(|error| named(&file, &error));
            Reread::new(vec![path.to_owned()], read)
                .map_err(|source| AuthError::File { variable: "AUTH_TOKEN_FILE", source })
        });
        let token = token.transpose()?.map(Arc::new).map_or(Token::None, Token::File);
        Ok(Self { token, tls: Tls::of(certificates)? })
    }

    /// The same with this token; `None` if a header cannot hold it.
    pub fn with_token(&self, token: &str) -> Option<Self> {
        Some(Self { token: Token::Given(header_of(token)?), tls: self.tls.clone() })
    }

    /// The request with the token.
    pub fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Token::File(file) => request.header(header::AUTHORIZATION, file.get()),
            Token::Given(token) => request.header(header::AUTHORIZATION, token.clone()),
            Token::None => request,
        }
    }

    /// A client for requests that are to be [signed](Self::sign).
    pub fn http(&self) -> reqwest::ClientBuilder {
        self.tls.http()
    }
}

fn read(path: &Path) -> io::Result<HeaderValue> {
    let text = private::read_secret(path, MAX_TOKEN_BYTES as u64)?;
    let none = || io::Error::other("contains no token");
    let token = Some(text.trim()).filter(|token| !token.is_empty()).ok_or_else(none)?;
    header_of(token).ok_or_else(none)
}

fn header_of(token: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn in_file(path: &Path) -> Result<Credentials, AuthError> {
        Credentials::in_files(Some(path), &TlsArgs::default())
    }

    #[test]
    fn a_file_without_a_token_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        for (text, said) in [("", "empty"), ("\n", "empty"), ("a\0b", "no token")] {
            fs::write(&path, text).unwrap();
            let refused = crate::problem::chain(&in_file(&path).unwrap_err());
            assert!(refused.contains(said) && refused.contains("AUTH_TOKEN_FILE"), "{refused}");
        }
        assert!(in_file(&directory.path().join("none")).is_err());
    }

    #[test]
    fn what_it_says_is_not_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "hunter2\n").unwrap();
        let credentials = in_file(file.path()).unwrap();
        let request = credentials
            .sign(credentials.http().build().unwrap().get("http://127.0.0.1"))
            .build()
            .unwrap();
        assert_eq!(request.headers()[header::AUTHORIZATION], "Bearer hunter2");
        assert!(!format!("{credentials:?} {request:?}").contains("hunter2"));
    }
}
