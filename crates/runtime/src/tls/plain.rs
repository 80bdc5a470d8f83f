//! Which addresses may be talked to without TLS.

use std::net::IpAddr;

use axum::http::uri::Authority;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// A setting sends data, and perhaps a password or a token, over a network without TLS.
#[derive(Debug, thiserror::Error)]
#[error(
    "{setting}: {host} is not this machine, so it must be reached with TLS ({with}), or by a proxy that does TLS (BEHIND_PROXY)"
)]
pub struct PlainText {
    setting: String,
    host: String,
    with: &'static str,
}

/// Refuses the URL of another machine (`http://`, `nats://`, `postgres://`) that would be reached without TLS. URLs that
/// are none are for others to refuse.
///
/// # Errors
/// If it would.
pub(crate) fn refuse_plain_text(setting: &str, url: &str) -> Result<(), PlainText> {
    // Schemes are the same in either case.
    let lower = |scheme: &str| format!("{}:", scheme.to_ascii_lowercase());
    let url = url.split_once(':').map_or(url.to_owned(), |(scheme, rest)| lower(scheme) + rest);
    let url = url.as_str();
    let refused =
        |host: &str, with| PlainText { setting: setting.to_owned(), host: host.to_owned(), with };
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let Ok(options) = url.parse::<PgConnectOptions>() else { return Ok(()) };
        let encrypted = matches!(
            options.get_ssl_mode(),
            PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull
        );
        let host = options.get_host();
        let is_here = host.starts_with('/') || options.get_socket().is_some() || is_loopback(host);
        return match encrypted || is_here {
            true => Ok(()),
            false => Err(refused(host, "sslmode=verify-full")),
        };
    }
    if url.starts_with("sqlite:") {
        return Ok(());
    }
    let with = match url.split_once("://") {
        Some(("http", _)) => "https://",
        Some(("nats", _)) | None => "tls://",
        Some(_) => return Ok(()),
    };
    let uri = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority: Option<Authority> =
        uri.split(['/', '?', '#']).next().and_then(|authority| authority.parse().ok());
    match authority {
        Some(authority) if !is_loopback(authority.host()) => Err(refused(authority.host(), with)),
        _ => Ok(()),
    }
}

/// Whether this names the machine itself.
fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = bare.to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || bare.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_machine_is_reached_with_tls_only() {
        for (url, expected) in [
            ("http://127.0.0.1:7101", None),
            ("http://[::1]:7101/x", None),
            ("http://localhost", None),
            ("https://store-info:7101", None),
            ("http://store-info:7101", Some("store-info")),
            ("HTTP://store-info:7101", Some("store-info")),
            ("Nats://nats:4222", Some("nats")),
            ("http://localhost.example", Some("localhost.example")),
            ("http://127.0.0.1.example/", Some("127.0.0.1.example")),
            ("http://10.0.0.1?x", Some("10.0.0.1")),
            ("nats://127.0.0.1:4222", None),
            ("nats://me:hunter2@nats:4222", Some("nats")),
            ("nats:4222", Some("nats")),
            ("tls://nats:4222", None),
            ("sqlite:stores.db", None),
            ("postgres:///stores?host=/run/postgresql", None),
            ("postgres://me:hunter2@127.0.0.1/stores", None),
            ("postgres://me:hunter2@db/stores", Some("db")),
            ("postgresql://db/stores?sslmode=prefer", Some("db")),
            ("postgres://db/stores?sslmode=require", None),
            ("postgres://db/stores?sslmode=verify-full&sslrootcert=ca.pem", None),
        ] {
            let refused = refuse_plain_text("URL", url).err().map(|error| error.host);
            assert_eq!(refused.as_deref(), expected, "{url}");
        }
        let said = refuse_plain_text("NATS_URL", "nats://me:hunter2@nats").unwrap_err().to_string();
        assert!(
            said.starts_with("NATS_URL: nats is not this machine") && !said.contains("hunter2")
        );
    }
}
