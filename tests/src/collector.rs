//! A small collector of traces: OTLP over HTTP.

use std::{collections::BTreeMap, future::pending, net::SocketAddr, sync::Arc};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use nudge_runtime::{
    serve,
    traces::{Context, TraceArgs, Traces},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::Span,
};
use parking_lot::Mutex;
use prost::Message;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What a collector does with what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// It takes it.
    Takes,
    /// It answers 500.
    Fails,
    /// It never answers.
    Hangs,
}

/// A span as the collector got it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The service that recorded it.
    pub service: String,
    /// What it is called.
    pub name: String,
    /// Its place.
    pub context: Context,
    /// The span that it is part of.
    pub parent: Option<[u8; 8]>,
    /// What it is linked to.
    pub links: Vec<Context>,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// When it began and ended, in nanoseconds.
    pub time: (u64, u64),
    /// Why it failed.
    pub error: Option<String>,
}

impl Seen {
    /// Whether it is part of `other`.
    pub fn is_child_of(&self, other: &Self) -> bool {
        self.context.trace == other.context.trace && self.parent == Some(other.context.span)
    }
}

/// See the module documentation. Stopped when dropped.
pub struct Collector {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    _stop: DropGuard,
}

struct Shared {
    mood: Mood,
    requests: usize,
    spans: Vec<Seen>,
}

impl Collector {
    /// Starts one on a free port.
    pub async fn start(mood: Mood) -> Self {
        nudge_otlp::link();
        let shared = Arc::new(Mutex::new(Shared { mood, requests: 0, spans: Vec::new() }));
        let router = Router::new().route("/v1/traces", post(take)).with_state(shared.clone());
        let local = "127.0.0.1:0".parse().expect("an address");
        let (listener, address) = serve::listen(local).await.expect("a port");
        let stop = CancellationToken::new();
        tokio::spawn(serve::serve(listener, router, stop.clone()));
        Self { address, shared, _stop: stop.drop_guard() }
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` has to be.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The way to it, for a service of this name.
    pub fn traces(&self, service: &str) -> Traces {
        let args = TraceArgs { otlp_endpoint: Some(self.url()), ..TraceArgs::default() };
        Traces::start(&args, service).expect("traces start")
    }

    /// How many requests it got.
    pub fn requests(&self) -> usize {
        self.shared.lock().requests
    }

    /// What it does from now on.
    pub fn now(&self, mood: Mood) {
        self.shared.lock().mood = mood;
    }

    /// The spans that it took.
    pub fn spans(&self) -> Vec<Seen> {
        self.shared.lock().spans.clone()
    }

    /// Those of one trace.
    pub fn of_trace(&self, trace: [u8; 16]) -> Vec<Seen> {
        let spans = self.spans().into_iter();
        spans.filter(|span| span.context.trace == trace).collect()
    }
}

async fn take(State(shared): State<Arc<Mutex<Shared>>>, body: Bytes) -> StatusCode {
    let mood = {
        let mut shared = shared.lock();
        shared.requests += 1;
        shared.mood
    };
    match mood {
        Mood::Fails => return StatusCode::INTERNAL_SERVER_ERROR,
        Mood::Hangs => pending::<()>().await,
        Mood::Takes => {}
    }
    let request = ExportTraceServiceRequest::decode(body).expect("a request of OTLP");
    let mut spans = Vec::new();
    for of_resource in request.resource_spans {
        let resource = of_resource.resource.expect("a resource");
        let service = text(&resource.attributes).remove("service.name").expect("a service");
        let of_it = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.extend(of_it.map(|span| seen(&service, span)));
    }
    shared.lock().spans.extend(spans);
    StatusCode::OK
}

fn seen(service: &str, span: Span) -> Seen {
    let context = |trace: &[u8], span: &[u8]| Context {
        trace: trace.try_into().expect("16 bytes"),
        span: span.try_into().expect("8 bytes"),
    };
    let links = span.links.iter().map(|link| context(&link.trace_id, &link.span_id)).collect();
    Seen {
        service: service.to_owned(),
        context: context(&span.trace_id, &span.span_id),
        parent: span.parent_span_id.as_slice().try_into().ok(),
        links,
        attributes: text(&span.attributes),
        time: (span.start_time_unix_nano, span.end_time_unix_nano),
        error: span.status.filter(|status| status.code == 2).map(|status| status.message),
        name: span.name,
    }
}

fn text(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let value = |value: &AnyValue| match &value.value {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pair =
        |pair: &KeyValue| (pair.key.clone(), pair.value.as_ref().map(value).unwrap_or_default());
    attributes.iter().map(pair).collect()
}
