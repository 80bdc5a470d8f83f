//! `nudge store import`: a file of JSON lines, streamed to the owner.

use std::{pin::Pin, sync::atomic::Ordering::Relaxed};

use clap::Args;
use futures_util::TryStreamExt;
use reqwest::{Body, Method, header};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::{
    client::{Api, Service},
    failure::Failure,
    output,
};

mod progress;

use progress::Progress;

/// How much of the file is read at a time, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;
/// Most rejected lines that are shown. All of them are in `--json`.
const MAX_SHOWN_REJECTIONS: usize = 20;

/// Arguments of `nudge store import`.
#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// The file, a JSON object with an id on each line ('-' reads standard input)
    file: String,
}

/// What the owner made of the file.
#[derive(Debug, Deserialize, Serialize)]
struct Report {
    created: u64,
    updated: u64,
    unchanged: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rejected_total: Option<u64>,
    rejected: Vec<Rejected>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Rejected {
    line: u64,
    error: String,
}

/// Runs `nudge store import`.
pub(crate) async fn run(api: &Api, args: ImportArgs, json: bool) -> Result<(), Failure> {
    let (reader, size) = open(&args.file).await?;
    let progress = Progress::start(api, size).await;
    let counts = progress.counts.clone();
    let chunks = ReaderStream::with_capacity(reader, CHUNK_BYTES).inspect_ok(move |chunk| {
        counts.sent_bytes.fetch_add(chunk.len() as u64, Relaxed);
        let lines = chunk.iter().filter(|byte| **byte == b'\n').count();
        counts.sent_lines.fetch_add(lines as u64, Relaxed);
    });
    let request = api
        .long_request(Method::POST, Service::StoreInfo, "/stores/import")
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .body(Body::wrap_stream(chunks));
    let result = api.json::<Report>(Service::StoreInfo, request).await;
    progress.end();
    let report = result?;
    if json {
        output::json(&report)?;
    } else {
        tell(&report)?;
    }
    let rejected = report.rejected_total.unwrap_or(report.rejected.len() as u64);
    match rejected {
        0 => Ok(()),
        n => Err(Failure::failed(format!("{} rejected", output::count(n, "line")))),
    }
}

fn tell(report: &Report) -> Result<(), Failure> {
    let rejected = report.rejected_total.unwrap_or(report.rejected.len() as u64);
    output::line(format!(
        "created {} · updated {} · unchanged {} · rejected {rejected}",
        report.created, report.updated, report.unchanged
    ))?;
    let shown = report.rejected.len().min(MAX_SHOWN_REJECTIONS);
    for line in &report.rejected[..shown] {
        output::line(format!("  line {}: {}", line.line, line.error))?;
    }
    match rejected.saturating_sub(shown as u64) {
        0 => Ok(()),
        more => output::line(format!("  and {more} more")),
    }
}

/// What is read, and how long it is where that is known.
async fn open(file: &str) -> Result<(Pin<Box<dyn AsyncRead + Send>>, Option<u64>), Failure> {
    if file == "-" {
        return Ok((Box::pin(tokio::io::stdin()), None));
    }
    let unreadable = |error| Failure::failed(format!("cannot read {file}: {error}"));
    let opened = tokio::fs::File::open(file).await.map_err(unreadable)?;
    let metadata = opened.metadata().await.map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(Failure::failed(format!("cannot read {file}: it is a directory")));
    }
    Ok((Box::pin(opened), metadata.is_file().then_some(metadata.len())))
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Bytes, http::HeaderMap, routing::post};

    use super::*;
    use crate::stub::{self, Stubs};

    async fn owner(report: &'static str) -> Stubs {
        let handler = async move |headers: HeaderMap, body: Bytes| {
            assert_eq!(headers["content-type"], "application/x-ndjson");
            assert_eq!(body, "{\"id\":\"1\"}\n");
            report
        };
        let router = Router::new().route("/stores/import", post(handler));
        stub::start([(Service::StoreInfo, router)]).await
    }

    async fn import(report: &'static str, json: bool) -> Result<(), Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"id\":\"1\"}\n").unwrap();
        let args = ImportArgs { file: file.path().to_str().unwrap().to_owned() };
        run(&owner(report).await.api, args, json).await
    }

    #[tokio::test]
    async fn a_file_that_is_taken_whole_is_a_success() {
        let report = r#"{"created":1,"updated":0,"unchanged":0,"rejected":[]}"#;
        assert_eq!(import(report, false).await, Ok(()));
    }

    #[tokio::test]
    async fn a_rejected_line_is_a_failure() {
        let report =
            r#"{"created":0,"updated":0,"unchanged":0,"rejected":[{"line":1,"error":"name"}]}"#;
        assert_eq!(import(report, true).await, Err(Failure::failed("1 line rejected")));
        let many = r#"{"created":0,"updated":0,"unchanged":0,"rejected_total":5000,"rejected":[]}"#;
        assert_eq!(import(many, false).await, Err(Failure::failed("5000 lines rejected")));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_named() {
        let args = ImportArgs { file: "/nowhere.ndjson".into() };
        let failure = run(&stub::nobody().await, args, false).await.unwrap_err();
        assert!(failure.to_string().starts_with("cannot read /nowhere.ndjson: "), "{failure}");
    }
}
