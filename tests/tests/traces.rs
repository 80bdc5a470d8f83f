//! Traces: from a write to each copy, with a collector in this process.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use nudge_protocol::subject;
use nudge_runtime::traces::{Context, FLUSH_DEADLINE, TRACEPARENT, within};
use nudge_tests::{
    Collector, Mood, Nats, Owner, ReadModel, Services, collector::Seen, eventually, id,
    services::token,
};
use serde_json::{Value, json};

/// What a service may take to stop besides: its requests, its runs and its database.
const STOPPING: Duration = Duration::from_secs(8);

fn store(name: &str) -> Value {
    json!({"name": name, "region": "마포구", "open": true})
}

/// Replaces a store as a client that traces its requests does. Returns the token of the write.
async fn put(services: &Services, id: &str, traceparent: &str) -> String {
    let request = services.http.put(services.store_info(&format!("/stores/{id}")));
    let request = request.header(TRACEPARENT, traceparent).json(&store(traceparent));
    let response = request.send().await.unwrap();
    assert!(response.status().is_success(), "{response:?}");
    token(&response)
}

/// The headers of the notification that stands in the stream for an entity.
async fn headers(nats: &Nats, stream: &str, subject: &str) -> HeaderMap {
    let jetstream = nats.jetstream().await;
    let stream = jetstream.get_stream(stream).await.unwrap();
    stream.get_last_raw_message_by_subject(subject).await.unwrap().headers
}

/// The spans of a trace, once there are `count` of this name.
async fn spans_of(collector: &Collector, trace: [u8; 16], name: &str, count: usize) -> Vec<Seen> {
    eventually("the spans arrive", || async {
        let spans = collector.of_trace(trace);
        (spans.iter().filter(|span| span.name == name).count() >= count).then_some(spans)
    })
    .await
}

fn named<'a>(spans: &'a [Seen], service: &str, name: &str) -> &'a Seen {
    let of_name = |span: &&Seen| span.name == name && span.service == service;
    spans.iter().find(of_name).unwrap_or_else(|| panic!("no {name} of {service} in {spans:#?}"))
}

#[tokio::test]
async fn one_trace_goes_from_the_write_to_each_copy() {
    let (nats, collector) = (Nats::start().await, Collector::start(Mood::Takes).await);
    let services = Services::start_traced(&nats, &collector.url()).await;
    let client = Context::root();
    let token = put(&services, "42", &client.to_string()).await;
    let version = token.rsplit('@').next().unwrap();
    let spans = spans_of(&collector, client.trace, "apply store", 2).await;
    let written = named(&spans, "store-info", "PUT /stores/{id}");
    assert_eq!(written.parent, Some(client.span));
    assert_eq!(written.attributes["http.response.status_code"], "201");
    let published = named(&spans, "store-info", "publish store");
    assert!(published.is_child_of(written));
    let carried = headers(&nats, "CHANGES_store", "changes.store.42").await;
    assert_eq!(carried.get(TRACEPARENT).unwrap().as_str(), published.context.to_string());
    for service in ["search", "review"] {
        let process = named(&spans, service, "process store");
        assert!(process.is_child_of(published));
        for (name, value) in
            [("nudge.id", "42"), ("nudge.version", version), ("nudge.outcome", "applied")]
        {
            assert_eq!(process.attributes[name], value, "{service}");
        }
        let parts =
            ["wait store", "fetch store", "apply store"].map(|name| named(&spans, service, name));
        assert!(parts.iter().all(|part| part.is_child_of(process)), "{parts:#?}");
        assert!(parts.windows(2).all(|pair| pair[0].time.1 == pair[1].time.0), "{parts:#?}");
        assert_eq!((parts[0].time.0, parts[2].time.1), process.time, "nothing is left out");
        // The callback is for many changes, so it is a trace of its own.
        assert_eq!(parts[1].links, parts[2].links);
        let callback = parts[1].links[0];
        let callbacks =
            spans_of(&collector, callback.trace, "POST /sync/v1/store/batch-get", 1).await;
        let own = named(&callbacks, service, "callback for store");
        assert_eq!((own.context, &own.links[..]), (callback, &[published.context][..]));
        let callbacks = spans_of(&collector, callback.trace, "apply batch of store", 1).await;
        assert!(named(&callbacks, service, "apply batch of store").is_child_of(own));
        let answered = named(&callbacks, "store-info", "POST /sync/v1/store/batch-get");
        assert!(answered.is_child_of(own));
    }
    // Of a service that is scraped, nothing but what somebody asked for.
    let scraped = services.http.get(services.search("/metrics")).send().await.unwrap();
    let metrics = scraped.text().await.unwrap();
    assert!(metrics.contains("nudge_spans_total{outcome=\"exported\"}"), "{metrics}");
    services.stop().await;
    let noise = |span: &Seen| span.name.contains("/metrics") || span.name.contains("/nudge/");
    assert!(!collector.spans().iter().any(noise));
}

#[tokio::test]
async fn what_is_not_sampled_travels_nowhere() {
    let (nats, collector) = (Nats::start().await, Collector::start(Mood::Takes).await);
    let services = Services::start_traced(&nats, &collector.url()).await;
    let unsampled = Context::root().to_string().replace("-01", "-00");
    let token = put(&services, "42", &unsampled).await;
    services.found(&[("q", "00")], &token).await;
    let carried = headers(&nats, "CHANGES_store", "changes.store.42").await;
    assert!(carried.get(TRACEPARENT).is_none(), "{carried:?}");
    services.stop().await;
    let of_changes =
        |span: &Seen| !span.name.starts_with("GET ") && !span.name.starts_with("POST ");
    let spans: Vec<_> = collector.spans().into_iter().filter(of_changes).collect();
    assert!(spans.is_empty(), "{spans:#?}");
}

#[tokio::test]
async fn without_a_collector_no_context_travels() {
    let nats = Nats::start().await;
    let services = Services::start(&nats).await;
    let token = put(&services, "42", &Context::root().to_string()).await;
    services.found(&[("q", "00")], &token).await;
    let carried = headers(&nats, "CHANGES_store", "changes.store.42").await;
    assert!(carried.get(TRACEPARENT).is_none(), "{carried:?}");
}

#[tokio::test]
async fn edits_that_become_one_notification_are_found_from_each_of_their_traces() {
    let (nats, collector) = (Nats::start().await, Collector::start(Mood::Takes).await);
    let (things, copies) = (collector.traces("things"), collector.traces("copies"));
    let owner = Owner::start_silent().await.traces(&things);
    let edits = [(); 3].map(|()| Context::root());
    for (n, edit) in edits.iter().enumerate() {
        within(Some(*edit), owner.put("42", json!({"n": n}))).await;
    }
    owner.second_relay(&nats.broker("things").await);
    let model = ReadModel::new().await.traces(copies.clone());
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    let newest = spans_of(&collector, edits[2].trace, "apply thing", 1).await;
    let carried = named(&newest, "things", "publish thing");
    assert!(carried.links.is_empty());
    assert!(named(&newest, "copies", "process thing").is_child_of(carried));
    for earlier in &edits[..2] {
        let spans = spans_of(&collector, earlier.trace, "publish thing", 1).await;
        let published = named(&spans, "things", "publish thing");
        assert_eq!(published.parent, Some(earlier.span));
        assert_eq!(published.links, [carried.context]);
        assert_ne!(published.attributes["nudge.version"], carried.attributes["nudge.version"]);
    }
    assert_eq!(copy.body("42").await, Some(json!({"n": 2})));
}

#[tokio::test]
async fn a_callback_for_many_changes_is_linked_to_each() {
    /// Fewer than a callback is linked to at most.
    const CHANGES: usize = 100;
    let (nats, collector) = (Nats::start().await, Collector::start(Mood::Takes).await);
    let (things, copies) = (collector.traces("things"), collector.traces("copies"));
    let owner = Owner::start_silent().await.traces(&things);
    let mut edits = Vec::new();
    for n in 0..CHANGES {
        let edit = Context::root();
        within(Some(edit), owner.put(&format!("thing-{n}"), json!({"n": n}))).await;
        edits.push(edit);
    }
    owner.second_relay(&nats.broker("things").await);
    let model = ReadModel::new().await.traces(copies);
    let _copy = model.start(&nats.broker("copies").await, &owner).await;
    let mut callbacks = Vec::new();
    for edit in edits {
        let spans = spans_of(&collector, edit.trace, "fetch thing", 1).await;
        let published = named(&spans, "things", "publish thing").context;
        let [callback] = named(&spans, "copies", "fetch thing").links[..] else {
            panic!("no link in {spans:#?}")
        };
        let of_callback = spans_of(&collector, callback.trace, "callback for thing", 1).await;
        let span = named(&of_callback, "copies", "callback for thing");
        assert!(span.links.contains(&published), "each links to the other");
        callbacks.push((callback, span.links.len()));
    }
    callbacks.sort_by_key(|(callback, _)| callback.span);
    callbacks.dedup();
    assert!(callbacks.len() < CHANGES, "none was for several");
    assert_eq!(callbacks.iter().map(|(_, links)| links).sum::<usize>(), CHANGES);
}

#[tokio::test]
async fn a_malformed_or_forged_traceparent_decides_nothing() {
    let (nats, collector) = (Nats::start().await, Collector::start(Mood::Takes).await);
    let broker = nats.broker("things").await;
    let owner = Owner::start(&broker).await;
    let traces = collector.traces("copies");
    let model = ReadModel::new().await.traces(traces.clone());
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    copy.quiet().await;
    let (forged, shouted) = (Context::root(), Context::root().to_string().to_uppercase());
    // As much as the stream takes.
    let huge = format!("{forged}-{}", "0".repeat(3_500));
    for (n, value) in
        ["", "00", &shouted, &huge, "00-가-가-01", &forged.to_string()].iter().enumerate()
    {
        let name = format!("thing-{n}");
        // In the stream first, from the owner itself; then what somebody says who is not the owner.
        let token = owner.put(&name, json!({"n": n})).await;
        copy.wait(&token).await;
        let mut map = HeaderMap::new();
        map.insert(TRACEPARENT, *value);
        map.insert("Nudge-Version", token.version.to_string());
        let subject = subject::subject(owner.publisher.entity(), &id(&name));
        let body = json!({"id": name, "change": "updated"}).to_string().into();
        let sent = broker.jetstream.publish_with_headers(subject, map, body).await;
        sent.unwrap().await.unwrap();
    }
    let spans = spans_of(&collector, forged.trace, "apply thing", 1).await;
    assert_eq!(named(&spans, "copies", "process thing").attributes["nudge.id"], "thing-5");
    copy.quiet().await;
    traces.flush().await;
    let processed = collector.spans().into_iter().filter(|span| span.name == "process thing");
    assert_eq!(processed.count(), 1, "only what can be read is believed");
    assert_eq!(copy.metric("nudge_malformed_total").await, 0);
}

async fn converges_and_stops(collector: &str) -> Instant {
    let nats = Nats::start().await;
    let services = Services::start_traced(&nats, collector).await;
    for n in 0..20 {
        let name = format!("store-{n}");
        let token = services.put_store(&name, store(&name)).await;
        assert_eq!(services.found(&[("q", &name)], &token).await.len(), 1);
    }
    let stopping = Instant::now();
    services.stop().await;
    stopping
}

#[tokio::test]
async fn a_collector_that_is_away_disturbs_nothing() {
    let address = {
        let collector = Collector::start(Mood::Takes).await;
        collector.url()
    };
    let stopping = converges_and_stops(&address).await;
    assert!(stopping.elapsed() < FLUSH_DEADLINE + STOPPING, "{:?}", stopping.elapsed());
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_up_a_stop_no_longer_than_its_bound() {
    let collector = Collector::start(Mood::Hangs).await;
    let stopping = converges_and_stops(&collector.url()).await;
    // Three services, one after another.
    assert!(stopping.elapsed() < 3 * FLUSH_DEADLINE + STOPPING, "{:?}", stopping.elapsed());
    assert!(collector.requests() > 0 && collector.spans().is_empty());
}

#[tokio::test]
async fn what_a_collector_refuses_is_counted_and_what_it_takes_later_arrives() {
    let collector = Collector::start(Mood::Fails).await;
    let (nats, traces) = (Nats::start().await, collector.traces("copies"));
    let owner = Owner::start_silent().await.traces(&collector.traces("things"));
    owner.second_relay(&nats.broker("things").await);
    let model = ReadModel::new().await.traces(traces.clone());
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    let (lost, found) = (Context::root(), Context::root());
    let token = within(Some(lost), owner.put("1", json!({"n": 1}))).await;
    copy.wait(&token).await;
    eventually("the refused spans are counted", || async {
        let metrics = copy.metrics().await;
        let refused = "nudge_spans_total{outcome=\"refused\"} ";
        let refused = metrics.lines().find_map(|line| line.strip_prefix(refused));
        (refused.expect("it is counted") != "0").then_some(())
    })
    .await;
    collector.now(Mood::Takes);
    within(Some(found), owner.put("2", json!({"n": 2}))).await;
    spans_of(&collector, found.trace, "apply thing", 1).await;
    let of_copies = |span: &Seen| span.service == "copies";
    assert!(!collector.of_trace(lost.trace).iter().any(of_copies), "what is lost is not repeated");
}
