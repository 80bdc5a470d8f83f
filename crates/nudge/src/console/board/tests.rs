use nudge_protocol::Timestamp;
use serde_json::Value;

use super::*;
use crate::peers::Peer;

fn event(kind: EventKind, id: &str, version: u64, at: i64) -> Event {
    let (entity, id) = (EntityName::new("store").unwrap(), EntityId::new(id).unwrap());
    let mut event = Event::new(kind, &entity, &id, Timestamp::from_unix_micros(at));
    event.version = Version::new(version).ok();
    event
}

fn frame(board: &mut Board) -> Value {
    serde_json::from_str(&board.frame(7).expect("something is new")).unwrap()
}

#[test]
fn a_run_is_told_with_its_times_and_the_next_one_begins_anew() {
    let mut board = Board::default();
    for (kind, at) in [
        (EventKind::Received, 10),
        (EventKind::Received, 11),
        (EventKind::Fetched, 20),
        (EventKind::Applied, 30),
    ] {
        let mut event = event(kind, "42", 5, at);
        event.lag_seconds = (kind == EventKind::Applied).then_some(0.0125);
        board.event("search", event);
    }
    let told = frame(&mut board);
    let step = &told["keys"][0]["by"]["search"];
    assert_eq!(
        (&step["received_us"], &step["fetched_us"], &step["ended_us"]),
        (&10.into(), &20.into(), &30.into())
    );
    assert_eq!(
        (&step["version"], &step["lag_ms"], &step["received"]),
        (&5.into(), &12.5.into(), &2.into())
    );
    // {"id":"42","change":"updated"}, twice.
    assert_eq!(told["counts"]["search"]["store"]["wire_bytes"], 60);
    board.event("search", event(EventKind::Received, "42", 6, 40));
    let step = frame(&mut board)["keys"][0]["by"]["search"].take();
    assert_eq!(
        (&step["received_us"], &step["ended_us"], &step["version"]),
        (&40.into(), &Value::Null, &5.into())
    );
}

#[test]
fn a_frame_holds_what_is_new_and_a_snapshot_everything() {
    let mut board = Board::default();
    assert!(board.frame(1).is_none(), "nothing is new");
    board.event("search", event(EventKind::Applied, "a", 1, 1));
    frame(&mut board);
    assert!(board.frame(1).is_none());
    board.event("ads", event(EventKind::Applied, "b", 1, 1));
    let told = frame(&mut board);
    assert_eq!(told["keys"].as_array().unwrap().len(), 1);
    assert_eq!((&told["keys"][0]["id"], told["counts"].get("search")), (&"b".into(), None));
    let all: Value = serde_json::from_str(&board.snapshot(1)).unwrap();
    let ids: Vec<_> = all["keys"].as_array().unwrap().iter().map(|key| &key["id"]).collect();
    assert_eq!(ids, ["a", "b"]);
}

#[test]
fn links_and_views_are_told_when_they_change() {
    let mut board = Board::default();
    board.link("search", true);
    assert_eq!(frame(&mut board)["links"]["search"], true);
    board.link("search", true);
    assert!(board.frame(1).is_none(), "it is up as before");
    board.view(View::default());
    assert!(frame(&mut board).get("links").is_none());
    assert!(board.frame(1).is_none());
}

/// Whatever they tell, and however fast.
#[test]
fn a_frame_is_bounded_and_says_what_it_leaves_out() {
    const MAX_FRAME_BYTES: usize = 128 * 1024;
    let subscribers: Vec<_> = (0..6)
        .map(|n| Peer::new(format!("{n}-{}", "x".repeat(20)), "http://127.0.0.1:1").name())
        .collect();
    let mut board = Board::default();
    for number in 0..10_000_u32 {
        for subscriber in &subscribers {
            let id = format!("{number:0>200}");
            let mut event = event(EventKind::Retried, &id, 1 << 52, 1 << 52);
            event.detail = Some("a long reason ".repeat(100));
            board.event(subscriber, event);
        }
    }
    let text = board.frame(1).unwrap();
    assert!(text.len() < MAX_FRAME_BYTES, "{} bytes", text.len());
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["keys"].as_array().unwrap().len(), MAX_KEYS);
    assert_eq!(told["more_keys"], 10_000 - MAX_KEYS as u64);
    assert_eq!(told["counts"][subscribers[0]]["store"]["retried"], 10_000);
    // What was told is not missing from the next frame.
    board.event(subscribers[0], event(EventKind::Received, "new", 1, 1));
    assert_eq!(frame(&mut board)["more_keys"], 0);
}

#[test]
fn a_failure_keeps_its_reason_until_the_state_is_there() {
    let mut board = Board::default();
    let mut failed = event(EventKind::Retried, "42", 5, 1);
    failed.detail = Some("no".to_owned());
    board.event("search", failed.clone());
    board.event("search", failed);
    board.event("search", event(EventKind::Received, "42", 6, 2));
    let step = frame(&mut board)["keys"][0]["by"]["search"].take();
    assert_eq!((&step["detail"], &step["retries"]), (&"no".into(), &2.into()));
    board.event("search", event(EventKind::Ignored, "42", 6, 3));
    let step = frame(&mut board)["keys"][0]["by"]["search"].take();
    assert_eq!((&step["detail"], &step["retries"]), (&Value::Null, &0.into()));
}

#[test]
fn a_retry_is_a_run_for_which_nothing_was_received() {
    let mut board = Board::default();
    for (kind, at) in [
        (EventKind::Received, 10),
        (EventKind::Fetched, 20),
        (EventKind::Retried, 30),
        (EventKind::Fetched, 1_020),
        (EventKind::DeadLettered, 1_030),
    ] {
        board.event("search", event(kind, "42", 5, at));
    }
    let step = frame(&mut board)["keys"][0]["by"]["search"].take();
    let times = ["received_us", "fetched_us", "ended_us"].map(|time| step[time].as_i64());
    assert_eq!(times, [None, Some(1_020), Some(1_030)]);
}
