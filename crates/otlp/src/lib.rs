//! Sends spans to an OpenTelemetry collector: OTLP over HTTP, as protobuf.
//!
//! A program that is built with traces calls [`link`] first in its `main`. Everything else, sampling and queueing too, is in
//! [`nudge_runtime::traces`]: so only the programs are built differently with and without this crate, and no library.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nudge_protocol::Timestamp;
use nudge_runtime::{
    BoxError,
    traces::{self, Context, Exporter, Exporting, Headers, Kind, Span, Value},
};
use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanExporter as _, SpanLinks},
};

/// Longest time for one request. The queue waits no longer than this, either.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Makes traces available to this program: `OTEL_EXPORTER_OTLP_ENDPOINT` is then accepted.
pub fn link() {
    traces::link(build);
}

fn build(endpoint: &str, service: &str, headers: Headers) -> Result<Box<dyn Exporter>, BoxError> {
    let http = nudge_runtime::tls::http()
        .timeout(TIMEOUT)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(http)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{endpoint}/v1/traces"))
        .with_headers(headers)
        .with_timeout(TIMEOUT)
        // While it repeats one request, further spans are lost.
        .with_retry_policy(RetryPolicy::disabled())
        .build()?;
    exporter.set_resource(&Resource::builder().with_service_name(service.to_owned()).build());
    Ok(Box::new(Otlp {
        exporter: Arc::new(exporter),
        scope: InstrumentationScope::builder("nudge").build(),
    }))
}

struct Otlp {
    exporter: Arc<SpanExporter>,
    scope: InstrumentationScope,
}

impl Exporter for Otlp {
    fn export(&self, spans: Vec<Span>) -> Exporting<'_> {
        let spans = spans.into_iter().map(|span| self.data(span)).collect();
        Box::pin(async move { Ok(self.exporter.export(spans).await?) })
    }
}

impl Otlp {
    fn data(&self, span: Span) -> SpanData {
        let mut links = SpanLinks::default();
        links.links =
            span.links.into_iter().map(|link| Link::with_context(context(link))).collect();
        SpanData {
            span_context: context(span.context),
            parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
            parent_span_is_remote: matches!(span.kind, Kind::Server | Kind::Consumer),
            span_kind: kind(span.kind),
            name: span.name,
            start_time: time(span.start),
            end_time: time(span.end),
            attributes: span.attributes.into_iter().map(attribute).collect(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links,
            status: span.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        }
    }
}

fn context(Context { trace, span }: Context) -> SpanContext {
    let (trace, span) = (TraceId::from_bytes(trace), SpanId::from_bytes(span));
    SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::NONE)
}

fn kind(kind: Kind) -> SpanKind {
    match kind {
        Kind::Internal => SpanKind::Internal,
        Kind::Server => SpanKind::Server,
        Kind::Client => SpanKind::Client,
        Kind::Producer => SpanKind::Producer,
        Kind::Consumer => SpanKind::Consumer,
    }
}

fn time(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(at.unix_micros().unsigned_abs())
}

fn attribute((name, value): (&'static str, Value)) -> KeyValue {
    match value {
        Value::Text(text) => KeyValue::new(name, text),
        Value::Number(number) => KeyValue::new(name, number),
    }
}
