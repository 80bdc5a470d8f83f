//! The files of the page. They are part of this program, and everything that the page loads.

use std::{collections::HashMap, io::Write, sync::LazyLock};

use axum::{
    extract::Path,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use nudge_runtime::problem;

/// The page loads everything from here, and talks to nobody else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
     connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

macro_rules! files {
    ($($kind:literal: $($name:literal),+;)+) => {
        /// Name, media type and text of each file.
        pub(super) const FILES: &[(&str, &str, &str)] =
            &[$($(($name, $kind, include_str!(concat!("page/", $name)))),+),+];
    };
}

files! {
    "text/html": "index.html";
    "text/css": "base.css", "panels.css";
    "text/javascript": "app.js", "cells.js", "chaos.js", "common.js", "dead_letters.js", "edit.js", "entity.js", "grid.js",
        "hammer.js", "picture.js", "services.js", "session.js", "stream.js", "timeline.js";
}

/// Each file as it goes to a browser, compressed once.
static COMPRESSED: LazyLock<HashMap<&str, Bytes>> =
    LazyLock::new(|| FILES.iter().map(|(name, _, text)| (*name, compressed(text))).collect());

fn compressed(text: &str) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let written = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
    written.expect("memory takes all that is written to it").into()
}

/// The page.
pub(super) async fn index(headers: HeaderMap) -> Response {
    file(Path("index.html".to_owned()), headers).await
}

/// A file of it.
pub(super) async fn file(Path(wanted): Path<String>, headers: HeaderMap) -> Response {
    let Some((name, kind, text)) = FILES.iter().find(|(name, ..)| *name == wanted) else {
        return problem::not_found().await.into_response();
    };
    let kind = format!("{kind}; charset=utf-8");
    let about = [
        (header::CONTENT_TYPE, kind.as_str()),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // The page belongs to this build; the next one may be started any moment.
        (header::CACHE_CONTROL, "no-cache"),
        (header::VARY, "accept-encoding"),
    ];
    if !takes_gzip(&headers) {
        return (about, *text).into_response();
    }
    let encoding = [(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
    (about, encoding, COMPRESSED[name].clone()).into_response()
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let mut codings = accepted.unwrap_or_default().split(',');
    codings.any(|coding| coding.trim() == "gzip")
}
