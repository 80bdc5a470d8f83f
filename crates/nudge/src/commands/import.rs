//! `nudge store import`: a file of JSON lines, streamed to the owner in parts.

use std::sync::Arc;

use clap::Args;
use reqwest::{Body, Method, header};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::{
    client::{Api, Service},
    failure::Failure,
    output,
};

mod parts;
mod progress;

use parts::Parts;
use progress::{Counts, Progress};

/// Size of one request, in bytes, up to the end of its last line. Requests are limited so that progress is
/// known if one fails, and since owners may limit what they accept.
const PART_BYTES: u64 = 64 * 1024 * 1024;
/// Most rejected lines that are shown.
const MAX_SHOWN_REJECTIONS: usize = 20;
/// Most rejected lines that are listed in `--json`; all are counted.
const MAX_REJECTED_LISTED: usize = 1_000;

/// Arguments of `nudge store import`.
#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// The file, with a JSON object with an ID on each line ('-' reads standard input)
    file: String,
}

/// What the owner did with the file.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Report {
    created: u64,
    updated: u64,
    unchanged: u64,
    #[serde(default)]
    rejected_total: u64,
    rejected: Vec<Rejected>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Rejected {
    /// In the whole file, from 1.
    line: u64,
    error: String,
}

impl Report {
    /// Adds the result of a part that began after `lines_before` lines of the file.
    fn add(&mut self, part: Self, lines_before: u64) {
        self.created += part.created;
        self.updated += part.updated;
        self.unchanged += part.unchanged;
        self.rejected_total += part.rejected_total.max(part.rejected.len() as u64);
        let left = MAX_REJECTED_LISTED.saturating_sub(self.rejected.len());
        let of_file = |one: Rejected| Rejected { line: one.line + lines_before, ..one };
        self.rejected.extend(part.rejected.into_iter().take(left).map(of_file));
    }

    fn counts(&self) -> String {
        let Self { created, updated, unchanged, rejected_total, .. } = self;
        format!(
            "created {created} · updated {updated} · unchanged {unchanged} · rejected {rejected_total}"
        )
    }
}

/// Runs `nudge store import`.
pub(crate) async fn run(api: &Api, args: ImportArgs, json: bool) -> Result<(), Failure> {
    run_in_parts(api, args, json, PART_BYTES).await
}

async fn run_in_parts(
    api: &Api,
    args: ImportArgs,
    json: bool,
    part_bytes: u64,
) -> Result<(), Failure> {
    let (reader, size) = parts::open(&args.file).await?;
    let progress = Progress::start(api, size).await;
    let parts = Parts::new(reader, part_bytes, progress.counts.clone());
    let report = send(api, parts, &progress.counts).await;
    progress.end();
    let report = report?;
    if json {
        output::json(&report)?;
    } else {
        tell(&report)?;
    }
    match report.rejected_total {
        0 => Ok(()),
        n => Err(Failure::failed(format!("{} rejected", output::count(n, "line")))),
    }
}

/// Sends one part after the other.
async fn send(api: &Api, parts: Parts, counts: &Counts) -> Result<Report, Failure> {
    let parts = Arc::new(Mutex::new(parts));
    let mut report = Report::default();
    loop {
        let lines_before = counts.lines();
        let request = api
            .long_request(Method::POST, api.of(Service::StoreInfo), "/stores/import")
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .body(Body::wrap_stream(parts::next(parts.clone())));
        match api.json::<Report>(api.of(Service::StoreInfo), request).await {
            Ok(part) => report.add(part, lines_before),
            Err(failure) if lines_before == 0 => return Err(failure),
            Err(failure) => {
                let done = format!("done before line {}: {}", lines_before + 1, report.counts());
                let again = "you can import the file again: lines that are done change nothing";
                return Err(Failure::failed(format!("{failure}; {done}; {again}")));
            }
        }
        if parts.lock().await.at_end().await {
            return Ok(report);
        }
    }
}

fn tell(report: &Report) -> Result<(), Failure> {
    output::line(report.counts())?;
    let shown = report.rejected.len().min(MAX_SHOWN_REJECTIONS);
    for line in &report.rejected[..shown] {
        output::line(format!("  line {}: {}", line.line, line.error))?;
    }
    match report.rejected_total.saturating_sub(shown as u64) {
        0 => Ok(()),
        more => output::line(format!("  and {more} more")),
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Bytes, http::HeaderMap, routing::post};
    use serde_json::json;

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

    /// An owner that takes each line for wrong, and what it was sent in each request.
    async fn owner_that_rejects(sent: Arc<Mutex<Vec<String>>>) -> Stubs {
        let handler = async move |body: String| {
            let lines = body.lines().count() as u64;
            sent.lock().await.push(body);
            let first = (1..=lines.min(1_000)).map(|line| json!({"line": line, "error": "no"}));
            let rejected: Vec<_> = first.collect();
            axum::Json(json!({
                "created": 0, "updated": 0, "unchanged": 0,
                "rejected_total": lines, "rejected": rejected,
            }))
        };
        let router = Router::new().route("/stores/import", post(handler));
        stub::start([(Service::StoreInfo, router)]).await
    }

    #[tokio::test]
    async fn a_large_file_is_sent_in_parts_that_end_with_a_line() {
        let text: String = (0..3_000).map(|n| format!("line {n}\n")).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text.trim_end()).unwrap();
        let sent = Arc::<Mutex<Vec<String>>>::default();
        let stubs = owner_that_rejects(sent.clone()).await;
        let (reader, _) = parts::open(file.path().to_str().unwrap()).await.unwrap();
        let counts = Arc::<Counts>::default();
        let parts = Parts::new(reader, 10_000, counts.clone());
        let report = send(&stubs.api, parts, &counts).await.unwrap();
        let sent = sent.lock().await;
        assert_eq!(sent.len(), 3);
        assert_eq!(sent.concat(), text.trim_end());
        assert!(sent[..2].iter().all(|part| part.ends_with('\n') && part.len() < 10_010));
        // The first thousand are listed, as lines of the file, and all are counted.
        assert_eq!(report.rejected_total, 3_000);
        let lines: Vec<_> = report.rejected.iter().map(|one| one.line).collect();
        assert_eq!(lines, (1..=1_000).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_part_that_fails_says_what_is_done() {
        let handler = async |body: String| match body.starts_with('c') {
            false => Ok(r#"{"created":2,"updated":0,"unchanged":0,"rejected":[]}"#),
            true => Err(axum::http::StatusCode::SERVICE_UNAVAILABLE),
        };
        let router = Router::new().route("/stores/import", post(handler));
        let stubs = stub::start([(Service::StoreInfo, router)]).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a\nb\nc\nd\n").unwrap();
        let args = ImportArgs { file: file.path().to_str().unwrap().to_owned() };
        let failure = run_in_parts(&stubs.api, args, false, 4).await.unwrap_err().to_string();
        assert!(failure.contains("done before line 3: created 2 ·"), "{failure}");
    }
}
