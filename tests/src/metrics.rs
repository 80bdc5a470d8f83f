//! What `/metrics` of an owner and of a subscriber offers from their start, and `docs/metrics.md`, which is made of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::SocketAddr,
};

use clap::Parser;
use nudge_runtime::metrics::BAD;
use tokio_util::sync::CancellationToken;

use crate::free_port;

/// A metric, as its text says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metric {
    /// As rules use it, without the suffixes of its series.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// What it means.
    pub meaning: String,
    /// What a bad value means, if one does.
    pub bad: String,
    /// The names of its series.
    pub series: BTreeSet<String>,
    /// Its labels, with the values that there are. `le` of histograms is left out.
    pub labels: BTreeMap<String, BTreeSet<String>>,
    /// The values of its series.
    pub values: Vec<f64>,
}

/// The metrics of a text, in its order.
///
/// # Panics
/// If it is no OpenMetrics text, or describes a name twice.
pub fn metrics(text: &str) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = Vec::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a text");
            assert!(metrics.iter().all(|one| one.name != name), "{name} is described twice");
            let help = help.trim_end_matches('.');
            let (meaning, bad) = help.split_once(BAD).unwrap_or((help, ""));
            let [name, meaning, bad] = [name, meaning, bad].map(str::to_owned);
            metrics.push(Metric { name, meaning, bad, ..Metric::default() });
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let metric = metrics.last_mut().expect("a description");
            metric.kind = kind.split_once(' ').expect("a type").1.to_owned();
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let metric = metrics.last_mut().expect("a description");
            assert!(
                name.starts_with(&metric.name),
                "{name} is among the series of {}",
                metric.name
            );
            metric.series.insert(name.to_owned());
            metric.values.push(value.parse().expect("a number"));
            for label in labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()) {
                let (label, value) = label.split_once('=').expect("a label");
                if label != "le" {
                    let values = metric.labels.entry(label.to_owned()).or_default();
                    values.insert(value.trim_matches('"').to_owned());
                }
            }
        }
    }
    metrics
}

/// What `/metrics` at this address says.
pub async fn scrape(address: SocketAddr) -> String {
    let answer = reqwest::get(format!("http://{address}/metrics")).await.expect("an answer");
    answer.text().await.expect("a text")
}

/// What an owner of stores, and a subscriber of stores, say right after their start, when nothing has happened yet: there is
/// no broker.
pub async fn from_the_start() -> (String, String) {
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let directory = tempfile::tempdir().expect("a directory");
    let url = |name| format!("sqlite:{}", directory.path().join(name).display());
    let nats = format!("nats://127.0.0.1:{}", free_port());
    let words = |program: &str, database: String| {
        let words =
            [program, "--bind", "127.0.0.1:0", "--nats-url", &nats, "--database-url", &database];
        words.map(str::to_owned)
    };
    let args = store_info::Args::parse_from(words("store-info", url("owner.db")));
    let owner = store_info::start(&args, stop.clone()).await.expect("store-info starts");
    // Nobody is there, either.
    let owner_url = ["--store-owner-url".to_owned(), format!("http://127.0.0.1:{}", free_port())];
    let words = words("search", url("subscriber.db")).into_iter().chain(owner_url);
    let subscriber = search::service().start(words, stop.clone()).await.expect("search starts");
    let texts = (scrape(owner.address()).await, scrape(subscriber.address).await);
    stop.cancel();
    owner.stopped().await;
    subscriber.stopped().await;
    texts
}

/// The page.
pub async fn page() -> String {
    let (owner, subscriber) = from_the_start().await;
    let (owner, subscriber) = (metrics(&owner), metrics(&subscriber));
    let is = |prefix: &'static str| move |one: &&Metric| one.name.starts_with(prefix);
    let is_both = |one: &&Metric| is("nudge_alerts")(one) || is("nudge_http")(one);
    let both: Vec<_> = owner.iter().filter(is_both).collect();
    let relay = |one: &&Metric| is("nudge_")(one) && !is_both(one);
    let mut page = HEAD.to_owned();
    table(&mut page, "Every subscriber", subscriber.iter().filter(relay));
    table(&mut page, "Every owner", owner.iter().filter(relay));
    table(&mut page, "Both", both.into_iter());
    table(&mut page, "store-info", owner.iter().filter(is("store_info_")));
    page
}

const HEAD: &str = "\
# Metrics

`GET /metrics` of every service answers in the OpenMetrics text format, for Prometheus. This page is made from what an owner
and a subscriber say right after their start: `cargo run -q -p nudge-tests --example metrics > docs/metrics.md`.

Every series is there from the start, at 0, except those of single subscribers at an owner. No label is an ID. A moment is in seconds since 1970. An age is computed when it
is asked for, so it goes on rising even if the task that it is about stands still.
[The alerts](../deploy/prometheus/alerts.yml) and [the dashboard](../deploy/grafana/nudge.json) use these names;
[operations.md](operations.md) says what to do.
";

fn table<'a>(page: &mut String, title: &str, metrics: impl Iterator<Item = &'a Metric>) {
    let line =
        "| name | type | labels | unit | meaning | what is bad |\n|---|---|---|---|---|---|\n";
    write!(page, "\n## {title}\n\n{line}").expect("a String takes everything");
    for Metric { name, kind, meaning, bad, labels, .. } in metrics {
        let suffix = if kind == "counter" { "_total" } else { "" };
        let label = |(label, values): (&String, &BTreeSet<String>)| match &**label {
            "entity" => "`entity`".to_owned(),
            _ => format!("`{label}`: {}", values.iter().cloned().collect::<Vec<_>>().join(", ")),
        };
        let labels = labels.iter().map(label).collect::<Vec<_>>().join("; ");
        let (unit, bad) = (unit(name, meaning), if bad.is_empty() { "–" } else { bad });
        writeln!(page, "| `{name}{suffix}` | {kind} | {labels} | {unit} | {meaning} | {bad} |")
            .expect("a String takes everything");
    }
}

fn unit(name: &str, meaning: &str) -> &'static str {
    match name {
        _ if name.ends_with("_timestamp_seconds") => "Unix time, seconds",
        _ if name.ends_with("_seconds") => "seconds",
        _ if name.ends_with("_bytes") => "bytes",
        _ if meaning.starts_with("1 while") => "0 or 1",
        _ => "number",
    }
}
