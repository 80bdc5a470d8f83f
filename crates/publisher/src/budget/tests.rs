use axum::http::Request;

use super::*;

fn asker(name: &str, lane: Lane) -> Asker {
    Asker { name: name.to_owned(), lane }
}

async fn read(headers: &[(&str, &[u8])], subject: Option<Caller>) -> Result<Asker, Problem> {
    let mut request = Request::new(());
    for (name, value) in headers {
        let name: header::HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, HeaderValue::from_bytes(value).unwrap());
    }
    if let Some(caller) = subject {
        request.extensions_mut().insert(Arc::new(caller));
    }
    Asker::from_request_parts(&mut request.into_parts().0, &()).await
}

#[tokio::test]
async fn who_asks_is_named_by_a_header_that_must_be_plain() {
    let asks = async |headers: &[(&str, &[u8])]| read(headers, None).await;
    assert_eq!(asks(&[]).await.unwrap(), asker(UNNAMED, Lane::Backlog));
    let named = asks(&[("nudge-subscriber", b"my%20search"), ("nudge-lane", b"fresh")]).await;
    assert_eq!(named.unwrap(), asker("my%20search", Lane::Fresh));
    let long = vec![b'a'; 100_000];
    for bad in [&b""[..], b"a b", b"(others)", b"\xff\xfe", "가".as_bytes(), &long] {
        let problem = asks(&[("nudge-subscriber", bad)]).await.unwrap_err();
        assert_eq!(problem.status, StatusCode::BAD_REQUEST);
        assert_eq!(problem.errors[0].field, "Nudge-Subscriber");
    }
    // A newer subscriber may know more lanes.
    for word in [&b"urgent"[..], b"", b"FRESH", b"\xff", &long] {
        assert_eq!(asks(&[("nudge-lane", word)]).await.unwrap().lane, Lane::Backlog);
    }
}

/// Asks until it has to wait.
async fn use_up(budget: &Budget, who: &Asker) {
    while let Ok(Ok(_)) = tokio::time::timeout(Duration::ZERO, budget.turn(who, 512)).await {}
}

#[tokio::test(start_paused = true)]
async fn a_callback_waits_for_its_turn_and_is_refused_when_that_takes_too_long() {
    let budget = Budget::default();
    budget.limit(NonZeroU32::new(100));
    let (a, b) = (asker("a", Lane::Backlog), asker("b", Lane::Fresh));
    use_up(&budget, &a).await;
    let began = Instant::now();
    let turn = budget.turn(&b, 3).await.unwrap();
    assert!(began.elapsed() > Duration::ZERO && began.elapsed() < MAX_WAIT);
    assert_eq!((turn.granted, turn.waited), (3, began.elapsed()));
    // 5 entities each at 100 a second: so many that most of them would wait for longer than is allowed.
    let waiting = (0..MAX_WAITING).map(|_| budget.turn(&a, 512));
    let ended = futures_util::future::join_all(waiting).await;
    let (turns, refused): (Vec<_>, Vec<_>) = ended.into_iter().partition(Result::is_ok);
    assert!((35..=40).contains(&turns.len()), "those that wait have their turn: {}", turns.len());
    let refused: Vec<_> = refused.into_iter().filter_map(Result::err).collect();
    for problem in refused {
        assert_eq!(problem.status, StatusCode::TOO_MANY_REQUESTS);
        let (name, seconds) = &problem.headers[0];
        let seconds: u64 = seconds.to_str().unwrap().parse().unwrap();
        assert!(*name == header::RETRY_AFTER && (1..=10).contains(&seconds));
        let (name, waited) = &problem.headers[1];
        assert!(*name == WAITED_HEADER, "its others keep their turns");
        assert!(nudge_protocol::sync_api::waited(waited.to_str().unwrap()).is_some());
    }
    assert!(began.elapsed() <= MAX_WAIT * 2);
    tokio::time::sleep(MAX_WAIT).await;
    assert!(!budget.0.lock().is_driven, "nobody waits, so no task runs");
}

/// Without it, a subscriber would take the wait for the owner's work.
#[tokio::test(start_paused = true)]
async fn an_answer_says_how_long_it_waited_for_its_turn() {
    let budget = Budget::default();
    budget.limit(NonZeroU32::new(10));
    let a = asker("a", Lane::Backlog);
    let said = |turn: Turn| {
        let answer = axum::response::IntoResponse::into_response((turn, "answer"));
        let value = answer.headers().get(WAITED_HEADER)?.to_str().ok()?.to_owned();
        nudge_protocol::sync_api::waited(&value)
    };
    assert_eq!(said(budget.turn(&a, 1).await.unwrap()), None);
    use_up(&budget, &a).await;
    let began = Instant::now();
    let turn = budget.whole_turn(&a, 512).await.unwrap();
    assert_eq!(said(turn), Some(began.elapsed()), "rounded to a tenth of a millisecond");
    assert!(turn.waited > Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn replicas_share_it_and_the_survivor_gets_all_of_it() {
    let budget = Budget::default();
    budget.limit(NonZeroU32::new(1_000));
    let part = || budget.0.lock().turns.per_second();
    assert_eq!(part(), Some(1_000.0));
    budget.shared_by(4);
    assert_eq!(part(), Some(250.0));
    budget.shared_by(1);
    assert_eq!(part(), Some(1_000.0));
}

#[test]
fn what_each_takes_is_in_the_metrics_from_the_start() {
    let (budget, mut registry) = (Budget::default(), Registry::default());
    budget.register(&mut registry);
    budget.charge(&asker("search", Lane::Fresh), 7);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "nudge_owner_budget 0.0",
        "nudge_owner_asked_total{subscriber=\"search\",lane=\"fresh\"} 7",
        "nudge_owner_refused_total{subscriber=\"(others)\",lane=\"backlog\"} 0",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}
