//! An owner and a subscriber that share no line of code with this project: `examples/python`.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use async_nats::{HeaderMap, jetstream::Context};
use nudge_protocol::{EntityName, Version, notification::VERSION_HEADER, subject};
use nudge_tests::{
    Fault, Nats, Owner, Random, Services, TestDatabase, eventually, id,
    python::{PythonOwner, PythonSubscriber},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

fn store() -> EntityName {
    EntityName::new("store").unwrap()
}

/// Our own search service, which follows the Python owner.
struct Search {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    _database: TestDatabase,
}

impl Search {
    async fn start(nats: &Nats, owner: &PythonOwner) -> Self {
        let (database, stop) = (TestDatabase::new().await, CancellationToken::new());
        let words = [
            "search",
            "--bind=127.0.0.1:0",
            &format!("--nats-url={}", nats.url()),
            &format!("--database-url={}", database.url()),
            &format!("--store-owner-url={}", owner.url()),
        ]
        .map(str::to_owned);
        let started = search::service().start(words, stop.clone()).await.expect("search starts");
        Self { address: started.address, stop, _database: database }
    }

    /// The IDs that it finds, once the write that `token` names is applied.
    async fn finds(&self, text: &str, token: &str) -> Vec<String> {
        let found = eventually("search answers", || async {
            let url = format!("http://{}/stores", self.address);
            let request = reqwest::Client::new().get(url).query(&[("q", text)]);
            let answer = request.header("Nudge-Token", token).send().await.ok()?;
            // 504: it is not applied yet.
            (answer.status() == 200).then_some(answer)?.json::<Value>().await.ok()
        })
        .await;
        serde_json::from_value(found["ids"].clone()).expect("a list of IDs")
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What stands in the stream for a store: the version that its message names.
async fn standing(jetstream: &Context, store_id: &str) -> Option<String> {
    let stream = jetstream.get_stream(subject::stream_name(&store())).await.ok()?;
    let subject = subject::subject(&store(), &id(store_id));
    let message = stream.get_last_raw_message_by_subject(&subject);
    Some(message.await.ok()?.headers.get(VERSION_HEADER)?.to_string())
}

/// The version in a token.
fn version(token: &str) -> &str {
    token.rsplit('@').next().expect("a version")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_in_python_feeds_search() {
    let mut nats = Nats::start().await;
    let mut owner = PythonOwner::start(&nats).await;
    let search = Search::start(&nats, &owner).await;
    let written = owner.put("강남 1/2", json!({"name": "달빛국수", "region": "마포구"})).await;
    assert_eq!(search.finds("빛국", &written).await, ["강남 1/2"]);
    let written = owner.put("강남 1/2", json!({"name": "별빛우동"})).await;
    assert_eq!(search.finds("별빛", &written).await, ["강남 1/2"]);
    assert!(search.finds("달빛", &written).await.is_empty());
    let deleted = owner.delete("강남 1/2").await;
    assert!(search.finds("별빛", &deleted).await.is_empty());
    // Versions rise through delete and re-creation.
    let written = owner.put("강남 1/2", json!({"name": "별빛우동"})).await;
    assert!(version(&written) > version(&deleted));
    assert_eq!(search.finds("별빛", &written).await, ["강남 1/2"]);

    // What it commits while there is no broker is published by its next process.
    nats.kill();
    let written = owner.put("43", json!({"name": "새벽빵집"})).await;
    owner.restart().await;
    nats.restart().await;
    assert_eq!(search.finds("새벽", &written).await, ["43"]);
    // And so does one that goes on while the broker goes away and comes back.
    nats.restart().await;
    let written = owner.put("43", json!({"name": "아침빵집"})).await;
    assert_eq!(search.finds("아침", &written).await, ["43"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_in_python_publishes_again_what_the_broker_lost() {
    let mut nats = Nats::start().await;
    let owner = PythonOwner::start(&nats).await;
    let first = owner.put("42", json!({"name": "First"})).await;
    let stands = async |nats: &Nats, token: &str| {
        let jetstream = nats.jetstream().await;
        eventually("it stands in the stream", || async {
            (standing(&jetstream, "42").await.as_deref() == Some(version(token))).then_some(())
        })
        .await;
    };
    stands(&nats, &first).await;
    nats.stop().await;
    let copy = nats.back_up();
    nats.restart().await;
    let second = owner.put("42", json!({"name": "Second"})).await;
    stands(&nats, &second).await;
    nats.stop().await;
    nats.put_back(copy);
    nats.restart().await;
    stands(&nats, &second).await;

    // Nor does a message of somebody else hide the newest version for good.
    let jetstream = nats.jetstream().await;
    let subject = subject::subject(&store(), &id("42"));
    jetstream.publish(subject, "garbage".into()).await.unwrap().await.unwrap();
    stands(&nats, &second).await;
    jetstream.delete_stream(subject::stream_name(&store())).await.unwrap();
    stands(&nats, &second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_comes_back_to_what_a_restored_owner_in_python_says() {
    let nats = Nats::start().await;
    let mut owner = PythonOwner::start(&nats).await;
    let search = Search::start(&nats, &owner).await;
    let kept = owner.put("42", json!({"name": "Kept"})).await;
    assert_eq!(search.finds("Kept", &kept).await, ["42"]);
    owner.python.kill();
    let copy = owner.python.back_up();
    owner.restart().await;
    let lost = owner.put("42", json!({"name": "Lost"})).await;
    let made = owner.put("43", json!({"name": "Made"})).await;
    assert_eq!(search.finds("Lost", &lost).await, ["42"]);
    assert_eq!(search.finds("Made", &made).await, ["43"]);
    owner.python.kill();
    owner.python.put_back(&copy);
    owner.restart().await;
    eventually("search has what the owner has", || async {
        let (kept, made) = (search.finds("Kept", &kept).await, search.finds("Made", &kept).await);
        (kept == ["42"] && made.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_in_python_converges_whatever_messages_do() {
    let nats = Nats::start().await;
    let services = Services::start(&nats).await;
    let mut subscriber = PythonSubscriber::start(&nats, &services.store_info(""), "store");
    let (jetstream, mut random) = (nats.jetstream().await, Random::new(7));
    let mut said: Vec<(String, String)> = Vec::new();
    for round in 0..4 {
        for _ in 0..30 {
            let store = format!("store {}.*", random.below(12));
            let deletes = random.below(4) == 0 && said.iter().any(|(known, _)| *known == store);
            let token = if deletes {
                let path = format!("/stores/{}", subject::encode_token(&id(&store)));
                let answer = services.http.delete(services.store_info(&path)).send().await;
                let answer = answer.unwrap();
                if answer.status() != 204 {
                    continue;
                }
                nudge_tests::services::token(&answer)
            } else {
                let name = format!("name {}", random.below(1_000_000));
                services.put_store(&store, json!({"name": name})).await
            };
            said.push((store, version(&token).to_owned()));
        }
        // Everything ever published is published again, in any order, some of it without a version, and garbage.
        random.shuffle(&mut said);
        for (store, version) in &said {
            let mut headers = HeaderMap::new();
            if random.below(3) > 0 {
                headers.insert(VERSION_HEADER, version.as_str());
            }
            let subject = subject::subject(&self::store(), &id(store));
            let sent = jetstream.publish_with_headers(subject, headers, "{}".into()).await;
            sent.unwrap().await.unwrap();
        }
        jetstream.publish("changes.store.nobody", "".into()).await.unwrap().await.unwrap();
        jetstream.publish("changes.store.%FF", "".into()).await.unwrap().await.unwrap();
        if round == 1 {
            subscriber.python.start();
        }
    }
    eventually("both have the same", || async {
        let url = services.store_info("/sync/v1/store/items");
        let page: Value =
            services.http.post(url).json(&json!({})).send().await.ok()?.json().await.ok()?;
        let ids: Vec<_> = page["items"].as_array()?.iter().map(|item| item["id"].clone()).collect();
        let url = services.store_info("/sync/v1/store/batch-get");
        let states = services.http.post(url).json(&json!({"ids": ids})).send().await.ok()?;
        let states: Value = states.json().await.ok()?;
        let row = |item: &Value| {
            let name = item["state"]["name"].as_str().map(str::to_owned);
            Some((item["id"].as_str()?.to_owned(), item["version"].as_i64()?, name))
        };
        let mut owned: Vec<_> =
            states["items"].as_array()?.iter().map(row).collect::<Option<_>>()?;
        owned.sort();
        (owned == subscriber.rows().await).then_some(())
    })
    .await;
}

/// Of two replicas, the one whose answer is older is late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_answers_a_subscriber_in_python_keeps_the_newer() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let subscriber = PythonSubscriber::start(&nats, &owner.url(), "thing");
    let has = async |id: &str, version: Version| {
        eventually("it is applied", || async {
            let rows = subscriber.rows().await;
            rows.iter().any(|row| row.0 == id && row.1 == version.to_i64()).then_some(())
        })
        .await;
    };
    has("1", owner.put("1", json!({"name": "one"})).await.version).await;

    let (gate, held) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
    let (until, taken) = (gate.clone(), held.clone());
    owner.misbehave(move |ids| {
        let holds = ids.iter().any(|id| id == "42") && !taken.swap(true, Relaxed);
        holds.then(|| Fault::Until(until.clone()))
    });
    owner.put("42", json!({"name": "old"})).await;
    eventually("an answer is held back", || async { held.load(Relaxed).then_some(()) }).await;
    let replica = subscriber.replica();
    let new = owner.put("42", json!({"name": "new"})).await.version;
    has("42", new).await;
    drop(replica);
    gate.cancel();
    // It takes the next message once it is done with the old answer.
    has("1", owner.put("1", json!({"name": "two"})).await.version).await;
    let rows = subscriber.rows().await;
    let row = rows.iter().find(|row| row.0 == "42");
    assert_eq!(row, Some(&("42".to_owned(), new.to_i64(), Some("new".to_owned()))));
}
