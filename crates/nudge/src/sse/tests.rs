use std::convert::Infallible;

use axum::{Router, body::Body, routing::get};
use futures_util::stream;
use proptest::prelude::*;

use super::*;
use crate::{client::Service, stub};

fn parse(text: &str) -> Vec<(String, String)> {
    let mut parser = Parser::default();
    parser.push(text.as_bytes());
    std::iter::from_fn(|| parser.next_event()).map(|event| (event.event, event.data)).collect()
}

fn data(values: &[&str]) -> Vec<(String, String)> {
    values.iter().map(|value| (String::new(), (*value).to_owned())).collect()
}

#[test]
fn events_end_at_an_empty_line() {
    assert_eq!(parse("data: one\n\ndata:two\n\ndata: three"), data(&["one", "two"]));
}

#[test]
fn every_line_ending_counts() {
    assert_eq!(parse("data: a\r\n\r\ndata: b\r\rdata: c\n\n"), data(&["a", "b", "c"]));
}

#[test]
fn data_lines_are_joined_and_only_one_space_is_taken_off() {
    assert_eq!(parse("data:  two spaces\ndata\ndata: end\n\n"), data(&[" two spaces\n\nend"]));
}

#[test]
fn comments_ids_and_events_without_data_say_nothing() {
    assert_eq!(parse(": keep-alive\n\nid: 7\nretry: 10\n\nevent: gap\n\n"), data(&[]));
}

#[test]
fn the_event_name_is_kept_and_does_not_leak_into_the_next() {
    let events = parse("event: gap\ndata: 5\n\ndata: x\n\n");
    assert_eq!(events, [("gap".into(), "5".into()), (String::new(), "x".into())]);
}

#[test]
fn an_endless_line_is_cut_and_the_stream_goes_on() {
    let text = format!("data: {}\n\ndata: after\n\n", "x".repeat(MAX_LINE_BYTES * 2));
    let events = parse(&text);
    assert_eq!(events.len(), 2);
    assert!(events[0].1.len() <= MAX_LINE_BYTES);
    assert_eq!(events[1].1, "after");
}

proptest! {
    #[test]
    fn where_the_stream_is_cut_makes_no_difference(
        text in "(data: ?[a-z가]{0,3}|event: e|: c|\r\n|\n|\r){0,20}",
        cuts in prop::collection::vec(0usize..200, 0..6),
    ) {
        let whole = parse(&text);
        let mut parser = Parser::default();
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        for pair in cuts.windows(2) {
            parser.push(&text.as_bytes()[pair[0]..pair[1]]);
        }
        let pieces: Vec<_> =
            std::iter::from_fn(|| parser.next_event()).map(|e| (e.event, e.data)).collect();
        prop_assert_eq!(whole, pieces);
    }
}

#[tokio::test]
async fn a_stream_that_ends_is_connected_again() {
    let router = Router::new().route(
        EVENTS_PATH,
        get(async || {
            let chunks = ["data: 1\n", "\n"].map(Ok::<_, Infallible>);
            Body::from_stream(stream::iter(chunks))
        }),
    );
    let stub = stub::start([(Service::Search, router)]).await;
    let (sender, mut receiver) = mpsc::channel(8);
    let search = stub.api.of(Service::Search);
    let task = tokio::spawn(follow(stub.api.clone(), search, sender));
    for _ in 0..2 {
        assert_eq!(receiver.recv().await, Some(Signal::Up(search)));
        match receiver.recv().await {
            Some(Signal::Event(from, event)) if from == search => assert_eq!(event.data, "1"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(receiver.recv().await, Some(Signal::Down(from, _)) if from == search));
    }
    drop(receiver);
    // Nobody listens any more, so the follower ends by itself.
    task.await.unwrap();
}

#[tokio::test]
async fn an_outage_is_told_once() {
    let api = stub::nobody().await;
    let (sender, mut receiver) = mpsc::channel(8);
    let review = api.of(Service::Review);
    tokio::spawn(follow(api, review, sender));
    let Some(Signal::Down(_, reason)) = receiver.recv().await else {
        panic!("the first signal should be the outage");
    };
    assert!(reason.contains("nothing answers"), "{reason}");
    let more = tokio::time::timeout(MIN_RECONNECT_DELAY * 3, receiver.recv()).await;
    assert!(more.is_err(), "{more:?}");
}
