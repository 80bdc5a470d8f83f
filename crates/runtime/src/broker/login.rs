//! How a program connects and authenticates to NATS.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use async_nats::{Auth, AuthError, ConnectOptions, ServerAddr};
use clap::{Args, FromArgMatches};
use nkeys::KeyPair;
use percent_encoding::percent_decode_str;

use super::BrokerError;
use crate::{private, problem::chain, secret::MAX_SECRET_BYTES};

/// The environment variables of [`NatsArgs`], except the URL's.
pub const LOGIN_VARIABLES: [&str; 8] = [
    "NATS_USER",
    "NATS_PASSWORD_FILE",
    "NATS_TOKEN_FILE",
    "NATS_CREDENTIALS_FILE",
    "NATS_NKEY_FILE",
    "NATS_CA_FILE",
    "NATS_CERT_FILE",
    "NATS_KEY_FILE",
];

/// The address of NATS, and credentials for it. Secrets come from files or from the URL, never from
/// flags, which anybody on the machine could read. The files are read again for each connection, so
/// that a replaced secret is used for the next one.
#[derive(Args, Clone, Default)]
pub struct NatsArgs {
    /// NATS server, `nats://` or `tls://`. May contain `USER:PASSWORD@` or `TOKEN@`, percent-encoded
    #[arg(long, env = "NATS_URL", hide_env_values = true, value_name = "URL", default_value = "nats://127.0.0.1:7122", value_parser = nats_url)]
    pub nats_url: String,
    /// NATS user
    #[arg(long, env = "NATS_USER", value_name = "NAME", requires = "nats_password_file")]
    pub nats_user: Option<String>,
    /// File with that user's password
    #[arg(long, env = "NATS_PASSWORD_FILE", value_name = "PATH", requires = "nats_user")]
    pub nats_password_file: Option<PathBuf>,
    /// File with a NATS token
    #[arg(long, env = "NATS_TOKEN_FILE", value_name = "PATH")]
    pub nats_token_file: Option<PathBuf>,
    /// NATS credentials file, as `nsc` writes it
    #[arg(long, env = "NATS_CREDENTIALS_FILE", value_name = "PATH")]
    pub nats_credentials_file: Option<PathBuf>,
    /// File with a NATS NKey seed
    #[arg(long, env = "NATS_NKEY_FILE", value_name = "PATH")]
    pub nats_nkey_file: Option<PathBuf>,
    /// File with the certificates (PEM) of the authorities that sign the NATS server's certificate. Makes TLS mandatory
    #[arg(long, env = "NATS_CA_FILE", value_name = "PATH")]
    pub nats_ca_file: Option<PathBuf>,
    /// File with the client certificate (PEM) for NATS. Makes TLS mandatory
    #[arg(long, env = "NATS_CERT_FILE", value_name = "PATH", requires = "nats_key_file")]
    pub nats_cert_file: Option<PathBuf>,
    /// File with that certificate's private key (PEM)
    #[arg(long, env = "NATS_KEY_FILE", value_name = "PATH", requires = "nats_cert_file")]
    pub nats_key_file: Option<PathBuf>,
}

impl fmt::Debug for NatsArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsArgs").finish_non_exhaustive()
    }
}

/// The credentials for the server.
#[derive(Clone)]
enum Login {
    Nobody,
    Password { user: String, password: String },
    PasswordFile { user: String, file: PathBuf },
    Token(String),
    TokenFile(PathBuf),
    Credentials(PathBuf),
    NKey(PathBuf),
}

/// A server and its credentials.
pub(super) struct Way {
    /// Without credentials, so it may be shown.
    pub(super) url: String,
    login: Login,
    ca: Option<PathBuf>,
    own: Option<(PathBuf, PathBuf)>,
}

/// For `value_parser`.
fn nats_url(text: &str) -> Result<String, String> {
    server(text).map(|_| text.to_owned())
}

fn server(text: &str) -> Result<ServerAddr, String> {
    let server: ServerAddr = text.parse().map_err(|error: io::Error| error.to_string())?;
    match server.is_websocket() {
        true => Err("must begin with nats:// or tls://".into()),
        false => Ok(server),
    }
}

impl NatsArgs {
    /// Whether certificates make TLS mandatory.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.nats_ca_file.is_some() || self.nats_cert_file.is_some()
    }

    /// The server at `url`, with the credentials in it.
    pub fn at(url: &str) -> Self {
        Self { nats_url: url.to_owned(), ..Self::default() }
    }

    /// The server at `url`, with the credentials that the environment names, for a program that takes the URL by itself.
    ///
    /// # Errors
    /// If a variable needs another one, as `NATS_USER` needs `NATS_PASSWORD_FILE`.
    pub fn of_environment(url: &str) -> Result<Self, BrokerError> {
        let command = Self::augment_args(clap::Command::new("nats"));
        let read = command
            .try_get_matches_from(["nats", "--nats-url", url])
            .and_then(|found| Self::from_arg_matches(&found));
        read.map_err(|error| {
            // Its first line says what is wrong; the others are about flags.
            let line = error.to_string().lines().next().unwrap_or_default().to_owned();
            BrokerError::Settings(line.trim_start_matches("error: ").to_owned())
        })
    }

    /// Reads every file once, so that a missing one stops the start.
    pub(super) fn way(&self) -> Result<Way, BrokerError> {
        let server = server(&self.nats_url).map_err(BrokerError::Url)?;
        let host = match server.host() {
            host if host.contains(':') => format!("[{host}]"),
            host => host.to_owned(),
        };
        let url = format!("{}://{host}:{}", server.scheme(), server.port());
        let own = self.nats_cert_file.clone().zip(self.nats_key_file.clone());
        let way = Way { url, login: self.login(&server)?, ca: self.nats_ca_file.clone(), own };
        way.login.auth(b"")?;
        let pems = way.ca.iter().map(|ca| ("NATS_CA_FILE", ca)).chain(
            way.own
                .iter()
                .flat_map(|(cert, key)| [("NATS_CERT_FILE", cert), ("NATS_KEY_FILE", key)]),
        );
        for (variable, path) in pems {
            let pem = secret(variable, path)?;
            if !pem.contains("-----BEGIN ") {
                return Err(bad(variable, path, "contains no PEM"));
            }
        }
        Ok(way)
    }

    fn login(&self, server: &ServerAddr) -> Result<Login, BrokerError> {
        let mut logins = Vec::new();
        let decoded = |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
            decoded.map_err(|_| BrokerError::Url("the user or password is not UTF-8".into()))
        };
        match (server.username(), server.password()) {
            (Some(user), Some(password)) => {
                let (user, password) = (decoded(user)?, decoded(password)?);
                logins.push(Login::Password { user, password });
            }
            (Some(token), None) => logins.push(Login::Token(decoded(token)?)),
            (None, Some(_)) => {
                return Err(BrokerError::Url("it has a password but no user".into()));
            }
            (None, None) => {}
        }
        if let (Some(user), Some(file)) = (&self.nats_user, &self.nats_password_file) {
            logins.push(Login::PasswordFile { user: user.clone(), file: file.clone() });
        }
        logins.extend(self.nats_token_file.clone().map(Login::TokenFile));
        logins.extend(self.nats_credentials_file.clone().map(Login::Credentials));
        logins.extend(self.nats_nkey_file.clone().map(Login::NKey));
        match logins.len() {
            0 => Ok(Login::Nobody),
            1 => Ok(logins.remove(0)),
            _ => Err(BrokerError::Ambiguous),
        }
    }
}

impl Way {
    /// Whether nothing says who connects.
    pub(super) fn is_anonymous(&self) -> bool {
        matches!(self.login, Login::Nobody) && self.own.is_none()
    }

    /// Options of a connection, with the credentials and certificates in them.
    pub(super) fn options(&self) -> ConnectOptions {
        let login = self.login.clone();
        let mut options = match login {
            Login::Nobody => ConnectOptions::new(),
            login => ConnectOptions::with_auth_callback(move |nonce| {
                let auth = login.auth(&nonce).map_err(|error| AuthError::new(chain(&error)));
                std::future::ready(auth)
            }),
        };
        if let Some(ca) = &self.ca {
            options = options.add_root_certificates(ca.clone());
        }
        if let Some((cert, key)) = &self.own {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        match self.is_encrypted() {
            // With each server: those of which the first one tells, too.
            true => options.require_tls(true),
            // They may be on other machines, which get no password in the clear. A host's name may stand for several servers.
            false => options.ignore_discovered_servers(),
        }
    }

    /// Whether it is never in the clear. Given certificates, a server must have one whatever the URL says.
    fn is_encrypted(&self) -> bool {
        self.url.starts_with("tls://") || self.ca.is_some() || self.own.is_some()
    }
}

impl Login {
    /// The credentials for a server that sent this nonce.
    fn auth(&self, nonce: &[u8]) -> Result<Auth, BrokerError> {
        let mut auth = Auth::new();
        match self {
            Self::Nobody => {}
            Self::Password { user, password } => {
                (auth.username, auth.password) = (Some(user.clone()), Some(password.clone()));
            }
            Self::PasswordFile { user, file } => {
                auth.username = Some(user.clone());
                auth.password = Some(secret("NATS_PASSWORD_FILE", file)?);
            }
            Self::Token(token) => auth.token = Some(token.clone()),
            Self::TokenFile(file) => auth.token = Some(secret("NATS_TOKEN_FILE", file)?),
            Self::Credentials(file) => {
                let variable = "NATS_CREDENTIALS_FILE";
                let text = secret(variable, file)?;
                let part = |name| {
                    section(&text, name)
                        .ok_or_else(|| bad(variable, file, "contains no credentials"))
                };
                let pair = key_pair(variable, file, part("USER NKEY SEED")?)?;
                auth.jwt = Some(part("NATS USER JWT")?.to_owned());
                auth.signature = Some(sign(variable, file, &pair, nonce)?);
            }
            Self::NKey(file) => {
                let variable = "NATS_NKEY_FILE";
                let pair = key_pair(variable, file, &secret(variable, file)?)?;
                auth.nkey = Some(pair.public_key());
                auth.signature = Some(sign(variable, file, &pair, nonce)?);
            }
        }
        Ok(auth)
    }
}

/// The text between the markers of a credentials file.
fn section<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = text.split_once(&format!("BEGIN {name}"))?;
    let (_, after) = after.split_once('\n')?;
    let (inside, _) = after.split_once("---")?;
    Some(inside.trim()).filter(|inside| !inside.is_empty())
}

fn key_pair(variable: &'static str, file: &Path, seed: &str) -> Result<KeyPair, BrokerError> {
    KeyPair::from_seed(seed.trim()).map_err(|_| bad(variable, file, "contains no NKey seed"))
}

fn sign(
    variable: &'static str,
    file: &Path,
    pair: &KeyPair,
    nonce: &[u8],
) -> Result<Vec<u8>, BrokerError> {
    pair.sign(nonce).map_err(|_| bad(variable, file, "contains no NKey seed"))
}

/// The text of a file, without the trailing line break that editors add.
fn secret(variable: &'static str, path: &Path) -> Result<String, BrokerError> {
    let failed = |source| BrokerError::File { variable, path: path.to_owned(), source };
    private::read_secret(path, MAX_SECRET_BYTES).map_err(failed)
}

fn bad(variable: &'static str, path: &Path, what: &str) -> BrokerError {
    BrokerError::File { variable, path: path.to_owned(), source: io::Error::other(what.to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::Broker;

    fn refused(args: &NatsArgs) -> String {
        chain(&args.way().err().expect("it is refused"))
    }

    fn auth(args: &NatsArgs) -> Auth {
        args.way().expect("a way").login.auth(b"nonce").expect("credentials")
    }

    #[test]
    fn what_stands_in_the_url_is_decoded_and_not_shown() {
        for (url, user, password, token) in [
            ("nats://me:hunter2@host:1", Some("me"), Some("hunter2"), None),
            ("nats://m%40e:p%3A%2F%40%25@host", Some("m@e"), Some("p:/@%"), None),
            ("me:%ED%95%9C@host", Some("me"), Some("한"), None),
            ("tls://t%2Fok%3Den@host", None, None, Some("t/ok=en")),
            ("nats://host", None, None, None),
        ] {
            let args = NatsArgs::at(url);
            let sent = auth(&args);
            assert_eq!(
                (sent.username.as_deref(), sent.password.as_deref(), sent.token.as_deref()),
                (user, password, token),
                "{url}"
            );
            let shown = args.way().expect("a way").url;
            assert!(!shown.contains('@') && shown.contains("://host:"), "{shown}");
            assert!(!format!("{args:?}").contains("host"), "{args:?}");
        }
        assert_eq!(NatsArgs::at("nats://me:x@[::1]:7").way().expect("a way").url, "nats://[::1]:7");
    }

    #[test]
    fn what_cannot_be_used_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            Some(path)
        };
        let none = NatsArgs::at("nats://host");
        for (args, said) in [
            (NatsArgs::at("ws://host"), "nats:// or tls://"),
            (NatsArgs::at("http://host"), "scheme"),
            (NatsArgs::at("nats://:hunter2@host"), "no user"),
            (
                NatsArgs { nats_token_file: Some("/nowhere".into()), ..none.clone() },
                "NATS_TOKEN_FILE",
            ),
            (NatsArgs { nats_token_file: file("empty", "\n"), ..none.clone() }, "is empty"),
            (
                NatsArgs { nats_nkey_file: file("nkey", "SUnonsense"), ..none.clone() },
                "no NKey seed",
            ),
            (
                NatsArgs { nats_credentials_file: file("creds", "x"), ..none.clone() },
                "no credentials",
            ),
            (NatsArgs { nats_ca_file: file("ca", "x"), ..none.clone() }, "NATS_CA_FILE"),
            (
                NatsArgs {
                    nats_token_file: file("token", "x"),
                    ..NatsArgs::at("nats://a:hunter2@host")
                },
                "more than one",
            ),
        ] {
            let refused = refused(&args);
            assert!(refused.contains(said) && !refused.contains("hunter2"), "{refused}");
        }
    }

    #[test]
    fn every_variable_is_listed() {
        let command = <NatsArgs as Args>::augment_args(clap::Command::new("program"));
        let named = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str());
        let named: Vec<_> = named.filter(|name| *name != "NATS_URL").collect();
        assert_eq!(named, LOGIN_VARIABLES);
    }

    /// What a server tells of others has no scheme.
    #[test]
    fn a_server_at_a_tls_url_leads_to_none_without() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "-----BEGIN CERTIFICATE-----").unwrap();
        let nats_ca_file = Some(file.path().into());
        for (args, expected) in [
            (NatsArgs::at("tls://host"), true),
            (NatsArgs { nats_ca_file, ..NatsArgs::at("nats://host") }, true),
            (NatsArgs::at("nats://host"), false),
        ] {
            let options = format!("{:?}", args.way().expect("a way").options());
            assert!(options.contains(&format!("\"tls_required\": {expected}")), "{options}");
        }
    }

    /// It may be on another machine, which would get the password in the clear.
    #[tokio::test]
    async fn a_server_without_tls_leads_to_no_other() {
        let listen = || TcpListener::bind("127.0.0.1:0");
        let (named, told) = (listen().await.unwrap(), listen().await.unwrap());
        let url = format!("nats://me:hunter2@{}", named.local_addr().unwrap());
        let info = serde_json::json!({
            "server_id": "one", "server_name": "one", "host": "127.0.0.1", "version": "2.10.0", "go": "go1",
            "port": named.local_addr().unwrap().port(), "proto": 1, "headers": true, "max_payload": 1024,
            "connect_urls": [told.local_addr().unwrap().to_string()],
        });
        let _broker = Broker::connect(&url, "test").await.unwrap();
        // Each time it breaks off once it has been connected to.
        let comes_back = async {
            for _ in 0..5 {
                let (mut stream, _) = named.accept().await.unwrap();
                stream.write_all(format!("INFO {info}\r\n").as_bytes()).await.unwrap();
                let mut said = String::new();
                while !said.ends_with("PING\r\n") {
                    let mut some = [0; 1024];
                    let read = stream.read(&mut some).await.unwrap();
                    said += std::str::from_utf8(&some[..read]).unwrap();
                }
                stream.write_all(b"PONG\r\n").await.unwrap();
            }
        };
        tokio::select! {
            () = comes_back => {}
            _ = told.accept() => panic!("it was connected to"),
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("it does not come back"),
        }
    }

    #[test]
    fn a_secret_is_read_again_each_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "one\n").unwrap();
        let args = NatsArgs { nats_token_file: Some(file.path().into()), ..NatsArgs::at("host") };
        let way = args.way().expect("a way");
        for token in ["one", "two words"] {
            fs::write(file.path(), format!("{token}\r\n")).unwrap();
            assert_eq!(way.login.auth(b"").unwrap().token.as_deref(), Some(token));
        }
    }
}
