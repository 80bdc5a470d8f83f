//! An owner edits a store; search and review follow.

use async_nats::HeaderMap;
use nudge_protocol::{Change, EntityName, Notification, notification::VERSION_HEADER, subject};
use nudge_tests::{Nats, Services, eventually, id, services::token};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_store_is_found_under_its_new_name_and_no_longer_under_the_old() {
    let nats = Nats::start().await;
    let services = Services::start(&nats).await;
    let written =
        services.put_store("42", json!({"name": "달빛국수 망원점", "region": "마포구"})).await;
    for query in ["달빛국수", "빛국", "망원", "마포"] {
        assert_eq!(services.found(&[("q", query)], &written).await, ["42"], "{query}");
    }
    let written =
        services.put_store("42", json!({"name": "별빛우동 합정점", "region": "마포구"})).await;
    assert_eq!(services.found(&[("q", "별빛")], &written).await, ["42"]);
    assert!(services.found(&[("q", "달빛")], &written).await.is_empty());
    let delete = services.http.delete(services.store_info("/stores/42")).send().await.unwrap();
    assert_eq!(delete.status(), 204);
    assert!(services.found(&[("q", "별빛")], &token(&delete)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn review_refuses_what_it_knows_to_be_closed_or_deleted_and_accepts_a_reopened_store() {
    let nats = Nats::start().await;
    let services = Services::start(&nats).await;
    let review = |token: String| {
        let post = services.http.post(services.review("/stores/42/reviews"));
        let body = json!({"rating": 5, "text": "맛있어요", "author": "지은"});
        async move {
            let answer = post.header("Nudge-Token", token).json(&body).send().await.unwrap();
            answer.status().as_u16()
        }
    };
    let unknown = services.http.post(services.review("/stores/none/reviews"));
    let body = json!({"rating": 5, "text": "a", "author": "b"});
    assert_eq!(unknown.json(&body).send().await.unwrap().status(), 404);
    let open = services.put_store("42", json!({"name": "가게"})).await;
    assert_eq!(review(open).await, 201);
    let closed = services.put_store("42", json!({"name": "가게", "open": false})).await;
    assert_eq!(review(closed).await, 409);
    let delete = services.http.delete(services.store_info("/stores/42")).send().await.unwrap();
    assert_eq!(review(token(&delete)).await, 410);
    let again = services.put_store("42", json!({"name": "새 가게"})).await;
    assert_eq!(review(again).await, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_is_followed_and_importing_it_again_publishes_nothing() {
    let nats = Nats::start().await;
    let services = Services::start(&nats).await;
    let import = || async {
        let post = services.http.post(services.store_info("/stores/import"));
        let body = include_str!("../../services/store-info/sample/stores.ndjson");
        let answer = post.header("Content-Type", "application/x-ndjson").body(body).send().await;
        answer.unwrap().json::<Value>().await.unwrap()
    };
    let first = import().await;
    let count = first["created"].as_u64().unwrap();
    assert!(count >= 60 && first["rejected"] == json!([]), "{first}");
    let state = || async {
        let mut stream = nats.jetstream().await.get_stream("CHANGES_store").await.ok()?;
        let state = stream.info().await.ok()?.state.clone();
        (state.messages == count).then_some(state)
    };
    let published = nudge_tests::eventually("every store is published", state).await;
    let second = import().await;
    assert_eq!(second["unchanged"].as_u64(), Some(count), "{second}");
    // A later change is published after everything that the import would have published.
    let written = services.put_store("after", json!({"name": "나중"})).await;
    assert_eq!(services.found(&[("q", "나중")], &written).await, ["after"]);
    let mut stream = nats.jetstream().await.get_stream("CHANGES_store").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.last_sequence, published.last_sequence + 1);

    for subscriber in [services.search("/nudge/v1/status"), services.review("/nudge/v1/status")] {
        nudge_tests::eventually("every store is known", || async {
            let status: Value = reqwest::get(&subscriber).await.ok()?.json().await.ok()?;
            (status["entities"][0]["applied"].as_u64()? == count + 1).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_review_is_published_by_the_service_that_also_follows_stores() {
    let nats = Nats::start().await;
    let services = Services::start(&nats).await;
    let written = services.put_store("42", json!({"name": "가게"})).await;
    let post =
        services.http.post(services.review("/stores/42/reviews")).header("Nudge-Token", written);
    let body = json!({"rating": 4, "text": "또 올게요", "author": "민수"});
    let answer = post.json(&body).send().await.unwrap();
    let token: nudge_protocol::WriteToken = token(&answer).parse().unwrap();
    let subject = nudge_protocol::subject::subject(&token.entity, &token.id);
    let message = nudge_tests::eventually("the review is published", || async {
        let stream = nats.jetstream().await.get_stream("CHANGES_review").await.ok()?;
        stream.get_last_raw_message_by_subject(&subject).await.ok()
    })
    .await;
    let expected = format!(r#"{{"id":"{}","change":"created"}}"#, token.id);
    assert_eq!(String::from_utf8_lossy(&message.payload), expected);
}

/// Someone with permission to publish announces a version of a store that never existed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_somebody_made_up_was_never_there_until_it_is() {
    let nats = Nats::start().await;
    let services = Services::start(&nats).await;
    services.put_store("42", json!({"name": "가게"})).await;
    let ask = async |method: reqwest::Method, path: &str, body: Value| {
        let request = services.http.request(method, services.store_info(path)).json(&body);
        request.send().await.unwrap()
    };
    let status =
        async |path: &str| ask(reqwest::Method::GET, path, Value::Null).await.status().as_u16();
    let (store, tomb) = (EntityName::new("store").unwrap(), id("tomb-5"));
    let made_up = nudge_runtime::clock::now().unix_micros();
    let mut headers = HeaderMap::new();
    headers.insert(VERSION_HEADER, made_up.to_string());
    let body = Notification { id: tomb.clone(), change: Change::Updated }.to_json();
    let sent = nats.jetstream().await;
    let sent = sent.publish_with_headers(subject::subject(&store, &tomb), headers, body.into());
    sent.await.unwrap().await.unwrap();
    eventually("subscribers are told of a tombstone", || async {
        (status("/sync/v1/store/tomb-5").await == 410).then_some(())
    })
    .await;
    assert_eq!(status("/stores/tomb-5").await, 404);
    for method in [reqwest::Method::PATCH, reqwest::Method::DELETE] {
        assert_eq!(ask(method, "/stores/tomb-5", json!({})).await.status(), 404);
    }
    let put = ask(reqwest::Method::PUT, "/stores/tomb-5", json!({"name": "새 가게"})).await;
    assert_eq!(put.status(), 201);
    let version: i64 = put.headers()["etag"].to_str().unwrap().trim_matches('"').parse().unwrap();
    assert!(version > made_up, "{version}, {made_up}");
    assert_eq!(services.found(&[("q", "새 가게")], &token(&put)).await, ["tomb-5"]);
    let delete = ask(reqwest::Method::DELETE, "/stores/tomb-5", Value::Null).await;
    assert_eq!((delete.status().as_u16(), status("/stores/tomb-5").await), (204, 410));
    // Only an operator can know that it was a mistake.
    let path = "/nudge/v1/tombstones/store/never-existed";
    let flagged = ask(reqwest::Method::POST, path, json!({"ids": ["tomb-5"]})).await;
    assert_eq!(flagged.json::<Value>().await.unwrap()["flagged"], json!(["tomb-5"]));
    assert_eq!(status("/stores/tomb-5").await, 404);
    assert!(services.found(&[("q", "새 가게")], &token(&delete)).await.is_empty());
}

/// Rows that cannot be read exist only on SQLite.
mod once {
    use nudge_runtime::{
        Database,
        database::{Durability, Kind},
    };

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_row_that_cannot_be_read_becomes_a_dead_letter_alone() {
        let nats = Nats::start().await;
        let services = Services::start_on(&nats, Kind::Sqlite).await;
        for n in 0..20 {
            services.put_store(&format!("store-{n}"), json!({"name": "가게"})).await;
        }
        let written = services.put_store("bad", json!({"name": "가게"})).await;
        assert_eq!(services.found(&[("q", "가게"), ("limit", "50")], &written).await.len(), 21);
        // In one transaction, so that one callback asks for all of them.
        let url = services.store_info_database().url();
        let db = Database::open(url, Durability::Full).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        for sql in [
            "DROP TRIGGER store_has_its_types",
            "UPDATE store SET name = '우동', open = CASE id WHEN 'bad' THEN 'yes' ELSE 1 END",
        ] {
            sqlx::query(sql).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        db.close().await;
        let search = async |path: String| {
            reqwest::get(services.search(&path)).await.ok()?.json::<Value>().await.ok()
        };
        eventually("all others are followed", || async {
            let found = search("/stores?q=%EC%9A%B0%EB%8F%99&limit=50".to_owned()).await?;
            (found["ids"].as_array()?.len() == 20).then_some(())
        })
        .await;
        let letters = eventually("the bad one is a dead letter", || async {
            let page = search("/nudge/v1/dead-letters".to_owned()).await?;
            (!page["items"].as_array()?.is_empty()).then_some(page["items"].clone())
        })
        .await;
        assert_eq!((letters.as_array().unwrap().len(), &letters[0]["id"]), (1, &json!("bad")));
        let error = letters[0]["error"].as_str().unwrap();
        assert!(error.contains("500"), "{error}");
    }
}
