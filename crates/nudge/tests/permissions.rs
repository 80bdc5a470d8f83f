//! Permissions at NATS: who may do what, on a real server, and that all of it is enough.

mod permitted;

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt};

use async_nats::jetstream::{
    self,
    consumer::{PullConsumer, pull},
    stream,
};
use futures_util::{StreamExt, TryStreamExt};
use nudge_protocol::{
    EntityName,
    subject::{all_subjects, former_consumer_name, stream_name},
};
use nudge_subscriber_kit::{
    CloudEvents, Settings,
    source::{Durable, Source},
};
use nudge_testbed::{Nats, QUIET, eventually};
use reqwest::{Client, Method};
use serde_json::json;
use tokio::{process::Command, sync::Mutex};

use crate::dev::{
    demo::{Demo, NUDGE},
    real::is_ready,
};
use permitted::{Permitted, refused};

const USERS: [&str; 6] = ["store-info", "search", "review", "storefront", "nudge", "guest"];

/// What each user must be refused.
fn forbidden() -> Vec<(&'static [&'static str], String)> {
    // `$1` is a stream, `$2` a consumer of another service.
    let of_others = |stream: &str, consumer: &str| {
        [
            "$JS.API.CONSUMER.CREATE.$1.$2",
            "$JS.API.CONSUMER.CREATE.$1.$2.changes.store.42",
            "$JS.API.CONSUMER.CREATE.$1",
            "$JS.API.CONSUMER.DURABLE.CREATE.$1.$2",
            "$JS.API.CONSUMER.DELETE.$1.$2",
            "$JS.API.CONSUMER.MSG.NEXT.$1.$2",
            "$JS.API.CONSUMER.PAUSE.$1.$2",
            "$JS.API.CONSUMER.RESET.$1.$2",
            "$JS.API.CONSUMER.UNPIN.$1.$2",
            "$JS.API.CONSUMER.LEADER.STEPDOWN.$1.$2",
            "$JS.ACK.$1.$2.1.1.1.1.0",
            "$JS.ACK._.hash.$1.$2.1.1.1.1.0.x",
        ]
        .map(|subject| subject.replace("$1", stream).replace("$2", consumer))
    };
    let alters = |stream: &str| {
        [
            "$JS.API.STREAM.DELETE.$1",
            "$JS.API.STREAM.PURGE.$1",
            "$JS.API.STREAM.MSG.DELETE.$1",
            "$JS.API.STREAM.SNAPSHOT.$1",
            "$JS.API.STREAM.RESTORE.$1",
            "$JS.API.STREAM.PEER.REMOVE.$1",
            "$JS.API.STREAM.LEADER.STEPDOWN.$1",
        ]
        .map(|subject| subject.replace("$1", stream))
    };
    let writes = ["$JS.API.STREAM.CREATE.CHANGES_store", "$JS.API.STREAM.UPDATE.CHANGES_store"];
    let writes = writes.map(str::to_owned).into_iter();
    let mut all: Vec<(&[&str], String)> = Vec::new();
    let mut deny = |users: &'static [&'static str], subjects: Vec<String>| {
        all.extend(subjects.into_iter().map(|subject| (users, subject)));
    };
    deny(&["search", "review", "storefront", "guest"], vec!["changes.store.42".to_owned()]);
    deny(&["search", "review", "storefront", "guest"], writes.collect());
    deny(&["search", "store-info", "storefront", "guest"], vec!["changes.review.1".to_owned()]);
    deny(
        &["store-info", "search", "review", "storefront", "guest"],
        alters("CHANGES_store").into(),
    );
    deny(
        &["store-info", "review", "storefront", "guest"],
        of_others("CHANGES_store", "search-store").into(),
    );
    deny(
        &["store-info", "review", "storefront", "guest"],
        of_others("CHANGES_store", "search-store-reading-1").into(),
    );
    deny(&["search"], of_others("CHANGES_store", "review-store-2").into());
    deny(&["search"], of_others("CHANGES_review", "storefront-review").into());
    deny(&["search"], of_others("CHANGES_store", "relay-reading-1").into());
    // Its own names where a server of the other kind expects a domain and an account.
    let disguised = "$JS.ACK.CHANGES_review.storefront-review.CHANGES_store.search-store.1.1.1";
    deny(&["search"], vec![disguised.to_owned()]);
    let every = ["_INBOX_review.a.b", "$SYS.REQ.SERVER.PING"].map(str::to_owned);
    deny(&["store-info", "search", "storefront", "nudge", "guest"], every.into());
    deny(
        &["store-info", "search", "storefront"],
        [
            "$JS.API.STREAM.NAMES",
            "$JS.API.META.LEADER.STEPDOWN",
            "$JS.FC.CHANGES_store.x.y",
            "elsewhere",
        ]
        .map(str::to_owned)
        .into(),
    );
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_may_take_acknowledge_publish_or_alter_what_is_anothers() {
    let permitted = Permitted::start(true).await;
    let mut brokers = BTreeMap::new();
    for user in USERS {
        brokers.insert(user, permitted.broker(user).await);
    }
    let forbidden = forbidden();
    assert!(forbidden.len() > 70);
    for (users, subject) in forbidden {
        for user in users {
            let broker = &brokers[user];
            broker.client.publish(subject.clone(), "".into()).await.unwrap();
            refused(broker, user, &format!("Publish to \"{subject}\"")).await;
        }
    }
    for user in USERS.into_iter().filter(|user| *user != "review") {
        for subject in ["_INBOX_review.>", "$SYS.>"] {
            let _subscriber = brokers[user].client.subscribe(subject).await.unwrap();
            refused(&brokers[user], user, &format!("Subscription to \"{subject}\"")).await;
        }
    }
}

/// The whole of what the services do, with nothing but their permissions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_need_no_more_than_they_may_do() {
    let mut permitted = Permitted::start(false).await;
    permitted.start_services().await;
    permitted.edit("42", "처음").await;
    // Pause and resume.
    permitted.post("search", "pause").await;
    permitted.edit_unseen("43", "쉬는 동안").await;
    permitted.post("search", "resume").await;
    permitted.seen("43").await;
    permitted.resync("search").await;
    // An operator pauses a consumer, and deletes another, and then the whole stream.
    let operator = permitted.broker("nudge").await;
    let stream = operator.jetstream.get_stream("CHANGES_store").await.unwrap();
    let names: Vec<String> = stream.consumer_names().try_collect().await.unwrap();
    for name in ["search-store", "review-store"] {
        assert!(names.iter().any(|one| one == name), "{names:?}");
    }
    let later = (std::time::SystemTime::now() + std::time::Duration::from_secs(3_600)).into();
    stream.pause_consumer("search-store", later).await.unwrap();
    permitted.edit("44", "정지된 소비자").await;
    stream.delete_consumer("review-store").await.unwrap();
    permitted.edit("45", "지워진 소비자").await;
    operator.jetstream.delete_stream("CHANGES_store").await.unwrap();
    permitted.edit("46", "새 스트림").await;
    permitted.restart_services().await;
    permitted.edit("47", "다시 시작").await;
    permitted.is_without_errors().await;
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_that_is_missing_is_told_in_the_status() {
    let mut permitted = Permitted::start(false).await;
    let subject = "$JS.API.CONSUMER.MSG.NEXT.CHANGES_store.search-store";
    permitted.revoke(subject).await;
    permitted.start_services().await;
    permitted.edit_unseen("42", "가게").await;
    eventually("it names what it may not do", || async {
        let status = permitted.status("search").await;
        let error = status["entities"][0]["last_error"].as_str()?.to_owned();
        (error.contains("Permissions Violation") && error.contains(subject)).then_some(())
    })
    .await;
}

/// Somebody else's stream, of which it may follow the subjects that it has named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_of_cloud_events_may_follow_the_stream_that_it_names() {
    let permitted = Permitted::start(true).await;
    let (guest, board) = (permitted.broker("guest").await, permitted.broker("board").await);
    let subjects = vec!["shop.>".to_owned()];
    let config = stream::Config { name: "ORDERS".into(), subjects, ..Default::default() };
    guest.jetstream.create_stream(config).await.unwrap();
    let publish = async |subject: &'static str| {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("ce-specversion", "1.0");
        headers.insert("ce-subject", "42");
        let sent = guest.jetstream.publish_with_headers(subject, headers, "".into()).await;
        sent.unwrap().await.unwrap();
    };
    publish("shop.bills.1").await;
    publish("shop.orders.1").await;
    let (entity, settings) = (EntityName::new("order").unwrap(), Settings::default());
    let events = CloudEvents::on("ORDERS", "shop.orders.*");
    let (service, read_model, events) = ("board", "a", Some(&events));
    let durable = Durable { service, entity: &entity, read_model, settings: &settings, events };
    let consumer = board.open(durable).await.unwrap();
    let mut fresh = consumer.fresh().await.unwrap();
    let mut deliveries = consumer.deliveries().await.unwrap();
    let first = deliveries.next().await.unwrap().unwrap();
    assert_eq!((first.subject.as_str(), first.sequence), ("changes.order.42", 2));
    first.ack.unwrap().ack().await;
    eventually("it is acknowledged", || async {
        (consumer.state().await.unwrap().ack_pending == 0).then_some(())
    })
    .await;
    Source::flush(&board).await.unwrap();
    publish("shop.orders.2").await;
    assert_eq!(fresh.next().await.unwrap().unwrap().subject, "changes.order.42");
    let mut again = consumer.again_from(1).await.unwrap();
    assert!(again.next().await.unwrap().is_ok());
    assert_eq!(board.last_error(), None);
    board.client.publish("shop.orders.3", "".into()).await.unwrap();
    refused(&board, "board", "shop.orders.3").await;
}

/// It may not even look at it. Each session would try again, for as long as the broker keeps the consumer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_removed_is_not_tried_again_and_again() {
    let permitted = Permitted::start(false).await;
    let (operator, search) = (permitted.broker("nudge").await, permitted.broker("search").await);
    let (entity, settings) = (EntityName::new("store").unwrap(), Settings::default());
    let subjects = vec![all_subjects(&entity)];
    let config = stream::Config { name: stream_name(&entity), subjects, ..Default::default() };
    let stream = operator.jetstream.create_stream(config).await.unwrap();
    let (service, read_model) = ("search", "0123456789abcdef");
    let former = former_consumer_name(service, &entity, read_model);
    let config = pull::Config { durable_name: Some(former.clone()), ..Default::default() };
    stream.create_consumer(config).await.unwrap();
    let refusals = || permitted.nats.log().lines().filter(|line| line.contains(&former)).count();
    let durable =
        Durable { service, entity: &entity, read_model, settings: &settings, events: None };
    let sessions = Mutex::new(vec![search.open(durable).await.unwrap()]);
    eventually("it is refused", || async { (refusals() > 0).then_some(()) }).await;
    eventually("a further session does not try", || async {
        let before = refusals();
        sessions.lock().await.push(search.open(durable).await.unwrap());
        tokio::time::sleep(QUIET).await;
        (refusals() == before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn keys_stay_when_a_service_is_added_and_bad_names_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join("nats").join(name);
    let config = async |words: &[&str]| {
        let mut command = Command::new(NUDGE);
        command.arg("nats-config").arg("--dir").arg(directory.path().join("nats")).args(words);
        command.output().await.unwrap()
    };
    let first = config(&["--owner", "store-info=store", "--subscriber", "search=store"]).await;
    assert!(first.status.success(), "{first:?}");
    let seeds = ["store-info", "search", "nudge"].map(|user| path(&format!("{user}.nkey")));
    let before: Vec<_> = seeds.iter().map(|seed| std::fs::read(seed).unwrap()).collect();
    for file in seeds.iter().chain([&path("nats.conf"), &path("services.json")]) {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    let second = config(&["--subscriber", "review=store", "--owner", "review=review"]).await;
    assert!(second.status.success(), "{second:?}");
    let after: Vec<_> = seeds.iter().map(|seed| std::fs::read(seed).unwrap()).collect();
    assert_eq!(before, after);
    let text = std::fs::read_to_string(path("nats.conf")).unwrap();
    assert!(text.contains("# search\n") && text.contains("# review\n"), "{text}");
    for secret in &before {
        assert!(!text.contains(String::from_utf8_lossy(secret).trim()));
    }
    // Guests stay until they are sent away.
    for (words, guests) in [
        (&["--guests"][..], true),
        (&["--subscriber", "ads=store"][..], true),
        (&["--no-guests"][..], false),
        (&["--cloud-events", "board=order=ORDERS=shop.orders.*"][..], false),
    ] {
        let again = config(words).await;
        assert!(again.status.success(), "{again:?}");
        let text = std::fs::read_to_string(path("nats.conf")).unwrap();
        assert_eq!(text.contains("no_auth_user"), guests, "{words:?}");
    }
    let text = std::fs::read_to_string(path("nats.conf")).unwrap();
    for (words, said) in [
        (["--cloud-events", "board=order=OR.DERS=shop.orders.*"], "OR.DERS"),
        (["--cloud-events", "board=order=ORDERS=shop..orders"], "shop..orders"),
        (["--cloud-events", "board=order=ORDERS=a\"b"], "subjects of a stream"),
        (["--cloud-events", "board=order"], "NAME=ENTITY=STREAM=SUBJECTS"),
        (["--subscriber", "my.search=store"], "my.search"),
        (["--subscriber", "a b=store"], "a b"),
        (["--subscriber", "*=store"], "must be 1 to 64"),
        (["--subscriber", "=store"], "must be 1 to 64"),
        (["--subscriber", "search=st>re"], "st>re"),
        (["--subscriber", "search"], "NAME=ENTITY"),
        (["--owner", "search=store"], "cannot both own store"),
        (["--owner", "nudge=store"], "no service"),
    ] {
        let refused = config(&words).await;
        let stderr = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{words:?} {stderr}");
        assert!(stderr.contains(said), "{words:?} {stderr}");
    }
    assert_eq!(std::fs::read_to_string(path("nats.conf")).unwrap(), text);
}

/// What every process of this machine could do before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_beside_the_demo_cannot_take_what_a_subscriber_is_sent() {
    let demo = Demo::of_real_services();
    let running = demo.start().await;
    is_ready(&demo).await;
    let nats = format!("nats://127.0.0.1:{}", demo.port_base + 22);
    let stranger = jetstream::new(async_nats::connect(&nats).await.unwrap());
    let stream = stranger.get_stream("CHANGES_store").await.unwrap();
    assert!(stream.cached_info().state.messages > 0, "a stranger may look");
    let mut names: Vec<_> = stream.consumer_names().map(Result::unwrap).collect().await;
    names.retain(|name| name == "search-store");
    assert_eq!(names, ["search-store"]);
    // The client library asks about a consumer first; the attack does not.
    let next = "$JS.API.CONSUMER.MSG.NEXT.CHANGES_store.search-store";
    let inbox = stranger.client().new_inbox();
    let mut taken = stranger.client().subscribe(inbox.clone()).await.unwrap();
    let (http, url) = (Client::new(), format!("http://127.0.0.1:{}", demo.port_base + 1));
    let mut tokens = Vec::new();
    for n in 0..40 {
        let request = json!({"batch": 100, "expires": 5_000_000_000u64}).to_string();
        let client = stranger.client();
        client.publish_with_reply(next, inbox.clone(), request.into()).await.unwrap();
        let ack = format!("$JS.ACK.CHANGES_store.search-store.1.{n}.{n}.1.0");
        client.publish(ack, "+ACK".into()).await.unwrap();
        let store = json!({ "name": format!("가게 {n}") });
        let put = http.request(Method::PUT, format!("{url}/stores/attack-{n}")).json(&store);
        let answer = put.send().await.unwrap();
        tokens.push(answer.headers()["nudge-token"].to_str().unwrap().to_owned());
    }
    for token in tokens {
        let wait = format!(
            "http://127.0.0.1:{}/nudge/v1/wait?token={token}&timeout_ms=30000",
            demo.port_base + 2
        );
        assert_eq!(http.get(wait).send().await.unwrap().status(), 200, "{token}");
    }
    // All of that was refused: nothing was sent here.
    stranger.query_account().await.unwrap();
    let nothing = tokio::time::timeout(nudge_testbed::QUIET, taken.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    demo.stop(running).await;
}

/// The data of a release whose consumers had other names, and whose server let everybody in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_of_an_earlier_release_goes_on_and_its_consumers_are_removed() {
    let demo = Demo::of_real_services();
    let running = demo.start().await;
    is_ready(&demo).await;
    demo.stop(running).await;
    let (former, foreign) = (format!("search-store-{}", "a".repeat(32)), "python-store-1");
    let nats = Nats::on(&demo.path("data/nats")).await;
    let stream = nats.jetstream().await.get_stream("CHANGES_store").await.unwrap();
    for name in [former.as_str(), foreign] {
        let config = jetstream::consumer::pull::Config {
            durable_name: Some(name.to_owned()),
            ..Default::default()
        };
        let _: PullConsumer = stream.create_consumer(config).await.unwrap();
    }
    drop((stream, nats));
    std::fs::remove_file(demo.path("data/nats/server.log")).unwrap();
    std::fs::remove_dir_all(demo.path("data/nats-keys")).unwrap();

    let running = demo.start().await;
    is_ready(&demo).await;
    let url = format!("nats://127.0.0.1:{}", demo.port_base + 22);
    let guest = jetstream::new(async_nats::connect(url).await.unwrap());
    let stream = guest.get_stream("CHANGES_store").await.unwrap();
    let names: Vec<_> = stream.consumer_names().map(Result::unwrap).collect().await;
    assert!(!names.contains(&former) && names.iter().any(|name| name == foreign), "{names:?}");
    let http = Client::new();
    let url = format!("http://127.0.0.1:{}/stores/store-001", demo.port_base + 1);
    let edited = http.patch(url).json(&json!({"name": "새 이름"})).send().await.unwrap();
    let token = edited.headers()["nudge-token"].to_str().unwrap();
    let wait = format!(
        "http://127.0.0.1:{}/nudge/v1/wait?token={token}&timeout_ms=30000",
        demo.port_base + 2
    );
    assert_eq!(http.get(wait).send().await.unwrap().status(), 200);
    demo.stop(running).await;
}
