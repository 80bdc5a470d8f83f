use nudge_testbed::QUIET;
use serde_json::Value;

use super::*;

fn idle() -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(std::future::pending()))
}

fn link(feed: &Feed, up: bool) {
    feed.change(|board| board.link("search", up));
    feed.send();
}

async fn next(look: &mut Look) -> (String, Value) {
    let frame = look.next().await.unwrap();
    (frame.id.clone(), serde_json::from_str(&frame.text).unwrap())
}

#[tokio::test]
async fn who_comes_back_gets_what_it_has_not_seen() {
    let feed = Feed::new();
    let mut first = feed.look(None, idle);
    assert_eq!(next(&mut first).await.1["snapshot"], true);
    link(&feed, true);
    let (seen, _) = next(&mut first).await;
    link(&feed, false);
    link(&feed, true);
    let mut again = feed.look(Some(&seen), idle);
    for up in [false, true] {
        let (_, frame) = next(&mut again).await;
        assert_eq!((&frame["snapshot"], &frame["links"]["search"]), (&false.into(), &up.into()));
    }
    for unknown in ["1-1", "", "x"] {
        let (_, frame) = next(&mut feed.look(Some(unknown), idle)).await;
        assert_eq!(frame["snapshot"], true, "{unknown}");
    }
}

/// Nobody else waits for it, and it misses nothing.
#[tokio::test]
async fn who_is_too_slow_gets_everything_again() {
    let feed = Feed::new();
    let mut slow = feed.look(None, idle);
    next(&mut slow).await;
    for up in 0..=MAX_WAITING_FRAMES {
        link(&feed, up % 2 == 0);
    }
    let (id, frame) = next(&mut slow).await;
    assert_eq!((&frame["snapshot"], &frame["links"]["search"]), (&true.into(), &true.into()));
    link(&feed, false);
    let (later, frame) = next(&mut slow).await;
    assert_eq!((id == later, &frame["snapshot"]), (false, &false.into()));
}

#[tokio::test]
async fn it_is_collected_once_for_all_and_only_while_somebody_looks() {
    let feed = Feed::new();
    let running = Arc::new(());
    let start = || {
        let held = running.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let _held = held;
            std::future::pending().await
        }))
    };
    let first = feed.look(None, start);
    let second = feed.look(None, || panic!("it runs already"));
    drop(first);
    assert_eq!(Arc::strong_count(&running), 2, "the second looks on");
    link(&feed, true);
    let last = feed.inner.lock().kept.back().unwrap().id.clone();
    drop(second);
    let ended = async {
        while Arc::strong_count(&running) > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(60 * QUIET, ended).await.expect("it ends");
    // What happened meanwhile is in no frame.
    let mut again = feed.look(Some(&last), start);
    assert_eq!(next(&mut again).await.1["snapshot"], true);
}
