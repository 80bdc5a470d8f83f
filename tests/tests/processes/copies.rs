//! A copy of a read model takes over the consumer of the original, which is frozen and then continues.

use async_nats::jetstream::{
    consumer::{Info, pull},
    stream::Stream,
};
use nudge_protocol::subject::MAX_READ_MODELS;
use nudge_subscriber_kit::Settings;
use nudge_tests::{
    Service, eventually,
    processes::{Further, World},
};
use reqwest::Client;
use serde_json::json;

use crate::processes::PROGRAM;

async fn consumer(stream: &Stream, name: &str) -> Option<Info> {
    stream.consumer_info(name).await.ok()
}

/// Whose it is.
fn read_model(info: &Info) -> String {
    info.config.metadata["nudge-read-model"].clone()
}

/// Edits a store at the owner. Returns the token of that write.
async fn edit(world: &World, id: &str, name: &str) -> String {
    let url = format!("{}/stores/{id}", world.place("store-info").url);
    let put =
        Client::new().put(url).json(&json!({ "name": name })).send().await.expect("an answer");
    put.headers()["nudge-token"].to_str().expect("a token").to_owned()
}

async fn has(world: &World, name: &str, token: &str) {
    let url = format!("{}/nudge/v1/wait?token={token}&timeout_ms=10000", world.place(name).url);
    eventually(&format!("{name} has {token}"), || async {
        (reqwest::get(&url).await.ok()?.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_original_that_was_frozen_while_a_copy_took_its_name_finds_its_place_again() {
    let mut world = World::new(PROGRAM).await;
    world.add("store-info", Service::StoreInfo, Further::default()).await;
    world.add("original", Service::Search, Further::default()).await;
    has(&world, "original", &edit(&world, "42", "처음").await).await;
    world.stop("original").await;
    let copied = world.database(Service::Search).duplicate().await;
    world.start(&["original"]).await;
    has(&world, "original", &edit(&world, "42", "둘째").await).await;
    let jetstream = world.nats().jetstream().await;
    let stream = jetstream.get_stream("CHANGES_store").await.expect("a stream");
    let first = read_model(&consumer(&stream, "search-store").await.expect("a consumer"));

    world.freeze("original");
    let unused_after = Settings::default().unused_after;
    eventually("nobody uses the original's consumer", || async {
        let info = consumer(&stream, "search-store").await?;
        let last = info.delivered.last_active?.unix_timestamp() + unused_after.as_secs() as i64 + 1;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
        (info.num_waiting == 0 && now.as_secs() as i64 > last).then_some(())
    })
    .await;
    // With another name free, the copy would leave this one to the original.
    for n in 2..=MAX_READ_MODELS {
        let config = pull::Config {
            durable_name: Some(format!("search-store-{n}")),
            metadata: [("nudge-read-model".to_owned(), format!("another-{n}"))].into(),
            ..pull::Config::default()
        };
        stream.create_consumer(config).await.expect("a consumer");
    }
    let database_url = Some(copied.url().to_owned());
    world.add("copy", Service::Search, Further { database_url, ..Further::default() }).await;
    has(&world, "copy", &edit(&world, "43", "원본이 멈춘 동안").await).await;
    let taken = read_model(&consumer(&stream, "search-store").await.expect("a consumer"));
    assert_ne!(taken, first, "the copy has taken it over");

    world.thaw("original");
    for n in 0..20 {
        let token = edit(&world, &format!("{}", n % 7), &format!("가게 {n}")).await;
        has(&world, "original", &token).await;
        has(&world, "copy", &token).await;
    }
    let found = consumer(&stream, "search-store").await.expect("a consumer");
    assert_eq!(read_model(&found), taken, "the original has taken nothing back");
    let found = consumer(&stream, "search-store-2").await.expect("a consumer");
    assert_eq!(read_model(&found), first);
}
